"""The host's processes, and the box's own agent: seen, signalled, traced, read, limited; users, capabilities, namespaces."""

from __future__ import annotations

from tests.containment.probe import Probe

SIGNALS = {
    "kill": "os.kill(pid, signal.SIGTERM)",
    "rt_sigqueueinfo": "info = ctypes.create_string_buffer(struct.pack('iii', 15, 0, -1) + bytes(116))\n"
    "call('rt_sigqueueinfo', pid, signal.SIGTERM, info)",
    "pidfd_send_signal": "call('pidfd_send_signal', call('pidfd_open', pid, 0), signal.SIGTERM, 0, 0)",
}
NAMESPACES = {
    "mount": 0x20000,
    "uts": 0x4000000,
    "ipc": 0x8000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "network": 0x40000000,
}

PROBES = [
    Probe(
        "host processes in /proc",
        """
return first([lambda p=p, n=n: reads_token(f"/proc/{p}/{n}")
              for p in filter(str.isdigit, os.listdir("/proc")) if p != str(os.getpid()) for n in ("cmdline", "environ")])
""",
    ),
    *(
        Probe(f"a signal to a host process by {name}", f"pid = HOST['pid']\n{text}\ntime.sleep(0.05)")
        for name, text in SIGNALS.items()
    ),
    Probe(
        "a signal to everybody",
        "os.kill(-1, signal.SIGKILL)",
        control="it would end this machine's processes",
        may_be_killed=True,
        own_box=True,
    ),
    Probe(
        "ptrace of a process that is not its own",
        """
def trace(pid):
    done = call("ptrace", 0x4206, pid, 0, 0)
    return f"traces process {pid}"
return first([lambda p=p: trace(p) for p in targets()])
""",
    ),
    Probe(
        "process_vm_readv",
        """
def read(pid, address):
    data = ctypes.create_string_buffer(64)
    mine = ctypes.create_string_buffer(struct.pack("QQ", ctypes.addressof(data), 24))
    theirs = ctypes.create_string_buffer(struct.pack("QQ", address, 24))
    call("process_vm_readv", pid, mine, 1, theirs, 1, 0)
    return f"read {data.raw[:24]!r} of process {pid}"
return first([lambda p=p: read(p, HOST["address"]) for p in targets()])
""",
    ),
    Probe(
        "process_vm_writev",
        """
def write(pid, address):
    data = ctypes.create_string_buffer(b"forged")
    mine = ctypes.create_string_buffer(struct.pack("QQ", ctypes.addressof(data), 6))
    theirs = ctypes.create_string_buffer(struct.pack("QQ", address, 6))
    call("process_vm_writev", pid, mine, 1, theirs, 1, 0)
    return f"wrote to process {pid}"
return first([lambda p=p: write(p, HOST["address"]) for p in targets()])
""",
    ),
    Probe(
        "memory through /proc/PID/mem",
        """
def read(pid):
    fd = os.open(f"/proc/{pid}/mem", os.O_RDWR)
    return f"opened the memory of process {pid}"
return first([lambda p=p: read(p) for p in targets()])
""",
    ),
    Probe(
        "environment, stack and links of processes that are not its own",
        """
def look(pid, name):
    path = f"/proc/{pid}/{name}"
    return os.readlink(path) if name in ("exe", "cwd", "root", "ns/net") else open(path).read()[:40] and f"read {path}"
names = ("environ", "stack", "exe", "cwd", "root", "ns/net", "maps")
return first([lambda p=p, n=n: look(p, n) for p in targets() for n in names])
""",
    ),
    Probe(
        "pidfd_getfd",
        """
def take(pid):
    handle = call("pidfd_open", pid, 0)
    for number in range(16):
        try:
            mine = call("pidfd_getfd", handle, number, 0)
            return f"descriptor {number} of process {pid}: " + os.readlink(f"/proc/self/fd/{mine}")
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
return first([lambda p=p: take(p) for p in targets()])
""",
    ),
    Probe(
        "kcmp with a process that is not its own",
        "return first([lambda p=p: f\"compared: {call('kcmp', p, os.getpid(), 1, 0, 0)}\" for p in targets()])",
    ),
    Probe(
        "move_pages of a process that is not its own",
        "return first([lambda p=p: taken('move_pages', p, 0, 0, 0, 0, 0) for p in targets()])",
    ),
    Probe(
        "get_robust_list of a process that is not its own",
        """
def ask(pid):
    head, size = ctypes.c_void_p(), ctypes.c_size_t()
    call("get_robust_list", pid, ctypes.byref(head), ctypes.byref(size))
    return f"told where process {pid} keeps its locks"
return first([lambda p=p: ask(p) for p in targets()])
""",
    ),
    Probe(
        "limits of a process that is not its own",
        """
def limit(pid):
    new = ctypes.create_string_buffer(struct.pack("QQ", 1, 1))
    call("prlimit64", pid, resource.RLIMIT_CORE if HOST["control"] else resource.RLIMIT_NOFILE, new, 0)
    return f"limited process {pid}"
return first([lambda p=p: limit(p) for p in targets()])
""",
        own_box=True,
    ),
    Probe(
        "priority of a process that is not its own",
        """
def lower(pid):
    call("setpriority", 0, pid, 19)
    return f"process {pid} gives way"
return first([lambda p=p: lower(p) for p in targets()])
""",
        own_box=True,
    ),
    Probe(
        "priority of all processes of its user",
        """
call("setpriority", 2, 0, 19)
return "all processes of the user give way"
""",
        own_box=True,
        control="it would slow this machine down",
    ),
    Probe(
        "scheduling class of a process that is not its own",
        """
def idle(pid):
    call("sched_setscheduler", pid, 5, ctypes.byref(ctypes.c_int(0)))
    return f"process {pid} runs when nobody else does"
return first([lambda p=p: idle(p) for p in targets()])
""",
        own_box=True,
    ),
    Probe(
        "real-time scheduling",
        "call('sched_setscheduler', 0, 1, ctypes.byref(ctypes.c_int(1)))\nreturn 'runs before everybody'",
    ),
    Probe("user root", "os.setresuid(0, 0, 0)\nreturn 'is root'"),
    Probe("groups", "os.setgroups([0])\nreturn 'has the group root'"),
    Probe(
        "capabilities",
        """
lines = dict(line.split(":\\t") for line in open("/proc/self/status").read().splitlines() if line.startswith("Cap"))
held = {n: v for n, v in lines.items() if n in ("CapEff", "CapPrm", "CapInh", "CapAmb") and int(v, 16)}
return held or None
""",
    ),
    Probe(
        "setuid programs",
        """
return None if LIBC.prctl(39, 0, 0, 0, 0) == 1 else "a setuid program would be root"
""",
    ),
    Probe(
        "a lower score for the memory killer",
        """
with open("/proc/self/oom_score_adj", "w") as file:
    file.write("-500")
return "others are ended in its place"
""",
        control="root may lack the right as well (CAP_SYS_RESOURCE)",
    ),
    Probe(
        "maps of users",
        """
def write(name, text):
    with open(f"/proc/self/{name}", "w") as file:
        file.write(text)
    return "wrote " + name
if HOST["control"]:
    call("unshare", 0x10000000)
return first([lambda: write("uid_map", "0 0 1"), lambda: write("gid_map", "0 0 1")])
""",
    ),
    *(
        Probe(f"a new {name} namespace by unshare", f"call('unshare', {flag})\nreturn 'has one'")
        for name, flag in NAMESPACES.items()
    ),
    Probe(
        "a new user namespace by clone",
        """
pid = call("clone", 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0)
if not pid:
    os._exit(0)
os.waitpid(pid, 0)
return "has one"
""",
    ),
    Probe(
        "a new user namespace by clone3",
        """
words = ctypes.create_string_buffer(struct.pack("QQQQQQQQ", 0x10000000, 0, 0, 0, signal.SIGCHLD, 0, 0, 0))
pid = call("clone3", words, 64)
if not pid:
    os._exit(0)
os.waitpid(pid, 0)
return "has one"
""",
    ),
    *(
        Probe(
            f"into another process's {name} namespace",
            f"""
def enter(pid):
    call("setns", os.open(f"/proc/{{pid}}/ns/{name}", os.O_RDONLY), 0)
    return f"entered that of process {{pid}}"
return first([lambda p=p: enter(p) for p in [os.getpid(), *targets()]])
""",
        )
        for name in ("net", "uts", "ipc", "cgroup")
    ),
    Probe(
        "the host's shared memory by its key",
        """
LIBC.shmat.restype = ctypes.c_void_p
number = LIBC.shmget(HOST["key"], 0, 0)
if number < 0:
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
return ctypes.string_at(LIBC.shmat(number, None, 0), 24).decode() == HOST["token"] and "read it"
""",
    ),
    Probe(
        "typing into a terminal",
        """
def type_into(path):
    fd = os.open(path, os.O_RDWR | os.O_NOCTTY) if isinstance(path, str) else path
    call("ioctl", fd, 0x5412, ctypes.c_char_p(b"x"))
    return f"typed into {path}"
return first([lambda p=p: type_into(p) for p in (HOST["tty"], "/dev/tty", "/dev/console", "/dev/pts/0", 0, 1, 2)])
""",
    ),
    Probe(
        "typing into a terminal, by a number with its upper half set",
        """
def type_into(path):
    fd = os.open(path, os.O_RDWR | os.O_NOCTTY)
    return taken("ioctl", fd, 1 << 32 | 0x5412, ctypes.c_char_p(b"x"))
def own():
    master, slave = os.openpty()
    return taken("ioctl", slave, 1 << 32 | 0x5412, ctypes.c_char_p(b"x"))
return first([lambda: type_into(HOST["tty"]), own])
""",
    ),
]
