"""System calls that no program in a box needs, with arguments that do no harm where they are let in; what the kernel shows."""

from __future__ import annotations

from tests.containment.probe import Probe

TIMEX = "t = ctypes.create_string_buffer(208)\n"
TAKEN = {  # name: what is run; each is refused before its arguments are looked at, or does nothing
    "mount": "return taken('mount', b'none', b'/', b'no-such-system', 0, 0)",
    "umount": "return taken('umount2', b'/etc', 0)",
    "pivot_root": "return taken('pivot_root', b'/etc', b'/etc')",
    "move_mount": "return taken('move_mount', -1, b'', -1, b'', 0)",
    "open_tree": "return taken('open_tree', -100, b'/etc', 1)",
    "fsopen": "return taken('fsopen', b'tmpfs', 0)",
    "fspick": "return taken('fspick', -100, b'/', 0)",
    "fsmount": "return taken('fsmount', -1, 0, 0)",
    "mount_setattr": "return taken('mount_setattr', -100, b'/', 0, ctypes.create_string_buffer(32), 32)",
    "chroot": "return taken('chroot', b'/')",
    "swapon": "return taken('swapon', b'/etc', 0)",
    "swapoff": "return taken('swapoff', b'/etc')",
    "reboot": "return taken('reboot', 0, 0, 0, 0)",
    "kexec_load": "return taken('kexec_load', 0, 0, 0, 0xff00)",
    "kexec_file_load": "return taken('kexec_file_load', -1, -1, 0, 0, 0xff00)",
    "init_module": "return taken('init_module', 0, 0, b'')",
    "finit_module": "return taken('finit_module', -1, b'', 0)",
    "delete_module": "return taken('delete_module', b'no_such_module', 0)",
    "adjtimex": TIMEX + "call('adjtimex', t)\nt[0] = 0x10\nreturn taken('adjtimex', t)",
    "clock_adjtime": TIMEX + "call('clock_adjtime', 0, t)\nt[0] = 0x10\nreturn taken('clock_adjtime', 0, t)",
    "sethostname": "return taken('sethostname', b'x', -1)",
    "setdomainname": "return taken('setdomainname', b'x', -1)",
    "keyctl": "return taken('keyctl', 0, -3, 1)",
    "add_key": "return taken('add_key', b'no-such-type', b'x', b'y', 1, -3)",
    "request_key": "return taken('request_key', b'no-such-type', b'x', 0, -3)",
    "bpf": "return taken('bpf', 0, ctypes.create_string_buffer(struct.pack('IIII', 2, 4, 4, 1) + bytes(56)), 72)",
    "perf_event_open": "a = ctypes.create_string_buffer(struct.pack('IIQ', 1, 64, 0) + bytes(48))\n"
    "return taken('perf_event_open', a, 0, -1, -1, 0)",
    "userfaultfd": "return taken('userfaultfd', 0)",
    "io_uring": "return taken('io_uring_setup', 4, ctypes.create_string_buffer(120))",
    "fanotify": "return taken('fanotify_init', 0x200, 0)",
    "acct": "return taken('acct', b'/no/such/file')",
    "iopl": "return taken('iopl', 3)",
    "ioperm": "return taken('ioperm', 0x80, 1, 1)",
    "the kernel's log": "return taken('syslog', 3, ctypes.create_string_buffer(4096), 4096)",
    "memfd_secret": "return taken('memfd_secret', 0)",
}  # fmt: skip
WRITTEN = {
    "core_pattern": "/proc/sys/kernel/core_pattern", "modprobe": "/proc/sys/kernel/modprobe", "sysrq": "/proc/sys/kernel/sysrq",
    "sysrq-trigger": "/proc/sysrq-trigger", "panic": "/proc/sys/kernel/panic", "hostname": "/proc/sys/kernel/hostname",
    "ns_last_pid": "/proc/sys/kernel/ns_last_pid", "drop_caches": "/proc/sys/vm/drop_caches",
    "address randomization": "/proc/sys/kernel/randomize_va_space", "file-max": "/proc/sys/fs/file-max",
    "ip_forward": "/proc/sys/net/ipv4/ip_forward",
    "binfmt_misc": "/proc/sys/fs/binfmt_misc/register", "uevent_helper": "/sys/kernel/uevent_helper",
    "release_agent": "/sys/fs/cgroup/memory/release_agent", "control groups": "/sys/fs/cgroup/memory/cgroup.procs",
    "power state": "/sys/power/state", "irq affinity": "/proc/irq/default_smp_affinity",
    "the agent's score": "/proc/1/oom_score_adj",
}  # fmt: skip
SHOWN = {
    "kcore": "/proc/kcore", "timer_list": "/proc/timer_list",
    "sched_debug": "/sys/kernel/debug/sched/debug",
    "page maps": "/proc/kpageflags", "slabs": "/proc/slabinfo", "vmallocinfo": "/proc/vmallocinfo",
    "firmware": "/sys/firmware/memmap/0/start", "security keys": "/proc/keys",
}  # fmt: skip

PROBES = [
    *(Probe(f"call: {name}", program) for name, program in TAKEN.items()),
    Probe(
        "call: clock_settime",
        "now = struct.pack('qq', int(time.time()), 0)\nreturn taken('clock_settime', 0, now)",
        control="it would set this machine's clock",
    ),
    Probe(
        "call: settimeofday",
        "now = struct.pack('qq', int(time.time()), 0)\nreturn taken('settimeofday', now, 0)",
        control="it would set this machine's clock",
    ),
    *(
        Probe(
            f"write: {name}",
            f"os.close(os.open({path!r}, os.O_WRONLY))\nreturn 'opened it for writing'",
        )
        for name, path in WRITTEN.items()
    ),
    Probe(
        "write: anything below /proc/sys and /sys",
        """
def opened(path):
    os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
    return "opened " + path
def files():
    for top in ("/proc/sys", "/sys"):
        for folder, _, names in os.walk(top):
            yield from (os.path.join(folder, name) for name in names)
return first(lambda p=p: opened(p) for p in files())
""",
    ),
    Probe(
        "write: entropy",
        "import fcntl\nfcntl.ioctl(os.open('/dev/urandom', os.O_RDWR), 0x5204)\nreturn 'asked as its owner'",
        control="it would clear this machine's entropy",
    ),
    *(
        Probe(
            f"read: {name}",
            f"with open({path!r}, 'rb', 0) as file:\n    return name_of(file)\n".replace(
                "name_of(file)", f"file.read(64) and 'read {path}'"
            ),
        )
        for name, path in SHOWN.items()
        if name != "kmsg"
    ),
    Probe("read: the kernel's messages", "os.close(os.open('/proc/kmsg', os.O_RDONLY | os.O_NONBLOCK))\nreturn 'opened it'"),
    Probe(
        "read: addresses of the kernel",
        "return any(int(line.split()[0], 16) for line in open('/proc/kallsyms').readlines()[:50]) and 'shown'",
    ),
    Probe(
        "read: addresses of memory",
        "return any(int(line.split('-')[0], 16) for line in open('/proc/iomem').readlines()[:50]) and 'shown'",
    ),
    Probe("the control groups' file system", "return [n for n in os.listdir('/sys/fs/cgroup')] and 'it is mounted'"),
]
