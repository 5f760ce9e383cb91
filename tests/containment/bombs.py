"""Programs that take all they can get: each must meet a limit, and the box, or the next one, works afterwards.

Their controls show that the program takes more than the limit where there is none.
"""

from __future__ import annotations

from tests.containment.probe import Probe

MEMORY_MIB, NUM_PIDS, DISK_MIB, NUM_FILES = 96, 32, 8, 256  # of the boxes that these run in
CHILDREN = """
def children(count, act):
    pids = []
    try:
        for i in range(count):
            pid = os.fork()
            if not pid:
                act()
                os._exit(0)
            pids.append(pid)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return f"{count} processes at once"
"""
FILL = """
def fill(path, mib):
    try:
        with open(path, "wb", 0) as file:
            for _ in range(mib):
                file.write(bytes(1 << 20))
        return f"wrote {mib} MiB to {path}"
    finally:
        os.unlink(path)
folder = HOST["folder"] if HOST["control"] else "/tmp"
"""

PROBES = [
    Probe("memory", f"return len(bytearray({2 * MEMORY_MIB} << 20)) and 'has it'", may_be_killed=True),
    Probe(
        "memory of many processes",
        CHILDREN
        + """
r, w = os.pipe()
def act():
    data = bytearray(b"x" * (8 << 20))
    os.write(w, b"x")
    time.sleep(20)
pids = [os.fork() or act() or os._exit(0) for _ in range(24)]
deadline, got = time.monotonic() + 1.5, 0
os.set_blocking(r, False)
while got < 24 and time.monotonic() < deadline:
    try:
        got += len(os.read(r, 100))
    except BlockingIOError:
        time.sleep(0.01)
for pid in pids:
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGKILL)
return got == 24 and "24 processes with 8 MiB each"
""",
        may_be_killed=True,
    ),
    Probe(
        "shared memory of System V",
        f"""
got = []
LIBC.shmat.restype = ctypes.c_void_p
try:
    for i in range({2 * MEMORY_MIB // 16}):
        number = LIBC.shmget(0, 16 << 20, 0o1600)
        if number < 0:
            raise OSError(ctypes.get_errno(), "shmget")
        got.append(number)
        ctypes.memset(LIBC.shmat(number, None, 0), 1, 16 << 20)
    return f"{{len(got) * 16}} MiB"
finally:
    for number in got:
        LIBC.shmctl(number, 0, None)
""",
        may_be_killed=True,
        own_box=True,
    ),
    Probe(
        "files in memory",
        f"""
files = [os.memfd_create("x") for _ in range(4)]
for fd in files:
    for _ in range({MEMORY_MIB // 2}):
        os.write(fd, bytes(1 << 20))
return "{2 * MEMORY_MIB} MiB"
""",
        may_be_killed=True,
        own_box=True,
    ),
    Probe(
        "memory in pipes",
        """
pipes = []
import fcntl
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
total = 0
for _ in range(120):
    r, w = os.pipe()
    with contextlib.suppress(OSError):
        fcntl.fcntl(w, 1031, 1 << 20)
    os.set_blocking(w, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            total += os.write(w, bytes(1 << 16))
    pipes.append((r, w))
return total > 96 << 20 and f"{total >> 20} MiB in pipes"
""",
        may_be_killed=True,
        own_box=True,
    ),
    Probe("a full disk", FILL + f"return fill(folder + '/big', {2 * DISK_MIB})"),
    Probe("a full /dev/shm", FILL + f"return fill('/dev/shm/big-' + HOST['token'], {2 * DISK_MIB})"),
    Probe(
        "folders that are not for writing",
        FILL
        + "tops = ['/', '/dev', '/run', '/var/tmp', '/var', '/etc', '/home', '/root', '/.polymath']\n"
        + f"return first([lambda t=t: fill(t + '/big', {4 * DISK_MIB}) for t in ([folder] if HOST['control'] else tops)])",
    ),
    Probe(
        "a small archive of a large file",
        f"""
import io, zlib
small = zlib.compress(bytes({4 * DISK_MIB} << 20), 9)
folder = HOST["folder"] if HOST["control"] else "/tmp"
unpack, done = zlib.decompressobj(), 0
try:
    with open(folder + "/unpacked", "wb", 0) as file:
        data = unpack.decompress(small, 1 << 20)
        while data:
            done += file.write(data)
            data = unpack.decompress(unpack.unconsumed_tail, 1 << 20)
finally:
    os.unlink(folder + "/unpacked")
return done >= {4 * DISK_MIB} << 20 and f"{{len(small)}} bytes became {{done}}"
""",
    ),
    Probe(
        "very many files",
        """
folder = (HOST["folder"] if HOST["control"] else "/tmp") + "/many"
os.mkdir(folder)
for i in range(200000):
    os.close(os.open(f"{folder}/{i}", os.O_CREAT))
import shutil
shutil.rmtree(folder)
return "200,000 files"
""",
        may_be_killed=True,
        own_box=True,
    ),
    Probe("processes", CHILDREN + f"return children({2 * NUM_PIDS}, lambda: time.sleep(20))"),
    Probe(
        "threads",
        f"""
stop = threading.Event()
try:
    for _ in range({2 * NUM_PIDS}):
        threading.Thread(target=stop.wait, daemon=True).start()
except RuntimeError as error:
    raise OSError(errno.EAGAIN, str(error))
return "{2 * NUM_PIDS} threads at once"
""",
    ),
    Probe(
        "descriptors",
        f"""
with contextlib.suppress(OSError, ValueError):
    resource.setrlimit(resource.RLIMIT_NOFILE, ({4 * NUM_FILES}, {4 * NUM_FILES}))
fds = [os.dup(0) for _ in range({2 * NUM_FILES})]
return f"{{len(fds)}} descriptors"
""",
    ),
    Probe(
        "core dumps",
        """
try:
    resource.setrlimit(resource.RLIMIT_CORE, (1 << 20, 1 << 20))
except ValueError as error:
    raise OSError(errno.EPERM, str(error))
return "may dump"
""",
    ),
    Probe(
        "file watches that all boxes share",
        """
got = []
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
limit = int(open("/proc/sys/fs/inotify/max_user_instances").read())
while len(got) < min(limit, 200) - 2:
    fd = LIBC.inotify_init()
    if fd < 0:
        raise OSError(ctypes.get_errno(), "inotify_init")
    got.append(fd)
return HOST["shares_user"] and f"{len(got)} of {limit} that its user may have on this machine"
""",
    ),
    Probe(
        "processor time",
        """
# more threads of work than the quota of one core: what it gets is bounded
def spin():
    end = time.monotonic() + 0.6
    while time.monotonic() < end:
        pass
before = os.times()
pids = []
for _ in range(4):
    pid = os.fork()
    if not pid:
        spin()
        os._exit(0)
    pids.append(pid)
start = time.monotonic()
for pid in pids:
    os.waitpid(pid, 0)
used = os.times().children_user - before.children_user
return used > 1.25 * (time.monotonic() - start) and f"{used:.1f} s in {time.monotonic() - start:.1f} s"
""",
        control="this machine may be busy with other work",
    ),
]
