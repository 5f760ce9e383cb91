"""The host's files: by path, by links, by descriptors, by races against what the host reads and writes in a box."""

from __future__ import annotations

import contextlib

from tests.containment.probe import Outcome, Probe
from tests.containment.scene import Scene

AGENT_CODE = "/.polymath/sandbox/guest/main.py"


def read_through_link(scene: Scene) -> Outcome:
    scene.box.exec(["ln", "-sfn", scene.canaries.facts()["file"], "/tmp/link"])
    with contextlib.suppress(OSError):
        if scene.canaries.token.encode() in scene.box.read_file("/tmp/link"):
            return Outcome("escaped", "read_file gave the host's file")
    return Outcome("contained", "the link leads to the box's own files")


def read_race(scene: Scene) -> Outcome:
    """A program turns a file into a link to the host's, and back, while the host reads it."""
    flip = "while :; do ln -sfn {} /tmp/l; mv -T /tmp/l /tmp/race; echo mine > /tmp/m; mv -T /tmp/m /tmp/race; done"
    pid = scene.background(flip.format(scene.canaries.facts()["file"]))
    found = set[bytes]()
    for _ in range(150):
        with contextlib.suppress(OSError):
            found.add(scene.box.read_file("/tmp/race"))
    scene.end(pid)
    seen = any(scene.canaries.token.encode() in data for data in found)
    return Outcome("escaped" if seen else "contained", f"150 reads gave {len(found)} contents")


def write_through_links(scene: Scene) -> Outcome:
    facts = scene.canaries.facts()
    for target in (facts["file"], f"{facts['folder']}/made"):
        scene.box.exec(["ln", "-sfn", target, "/tmp/out"])
        with contextlib.suppress(OSError):
            scene.box.write_file("/tmp/out", b"overwritten")
    return Outcome("contained", "written inside, or not at all")


def write_race(scene: Scene) -> Outcome:
    """The folder above the file turns into a link to the host's while the host writes."""
    flip = "cd /tmp; while :; do rm -rf d; ln -sfn {} d; rm -f d; mkdir d; done"
    pid = scene.background(flip.format(scene.canaries.facts()["folder"]))
    for i in range(150):
        with contextlib.suppress(OSError):
            scene.box.write_file(f"/tmp/d/{i}", b"x")
    scene.end(pid)
    return Outcome("contained", "150 writes")


def write_as_agent(scene: Scene) -> Outcome:
    """The agent may be more than the command's user: what the host writes must still be that user's."""
    for target in ("/etc/passwd", "/etc/shadow", AGENT_CODE, "/usr/bin/env", "/proc/sys/kernel/core_pattern"):
        scene.box.exec(["ln", "-sfn", target, "/tmp/out"])
        try:
            scene.box.write_file("/tmp/out", b"overwritten")
        except OSError:
            continue
        if scene.box.exec(["grep", "-q", "overwritten", target]).ok and target != "/etc/passwd":
            return Outcome("escaped", f"{target} was written with the agent's rights")
    scene.box.exec(["ln", "-sfn", "/etc/shadow", "/tmp/out"])
    with contextlib.suppress(OSError):
        return Outcome("escaped", f"{scene.box.read_file('/tmp/out')[:20]!r} of /etc/shadow")
    return Outcome("contained", "refused")


def read_agent(scene: Scene) -> Outcome:
    """A link to /proc/self leads the agent to itself when the host reads."""
    for name in ("mem", "environ", "maps", "stat"):
        for process in ("self", "1", "thread-self"):
            scene.box.exec(["ln", "-sfn", f"/proc/{process}/{name}", "/tmp/link"])
            with contextlib.suppress(OSError):
                data = scene.box.read_file("/tmp/link")
                if process != "1" or name not in ("stat", "maps"):  # which every process may read of that one
                    return Outcome("escaped", f"the agent read {len(data)} bytes of its own {name}")
    return Outcome("contained", "refused")


def write_agent(scene: Scene) -> Outcome:
    for name in ("oom_score_adj", "coredump_filter", "comm", "timerslack_ns", "mem"):
        scene.box.exec(["ln", "-sfn", f"/proc/self/{name}", "/tmp/link"])
        with contextlib.suppress(OSError):
            scene.box.write_file("/tmp/link", b"7")
            return Outcome("escaped", f"the agent wrote its own {name}")
    return Outcome("contained", "refused")


PROBES = [
    Probe("a host file by its path", "return reads_token(HOST['file'])"),
    Probe("a host file by .. from the root", "return reads_token('/' + '../' * 64 + HOST['file'][1:])"),
    Probe(
        "a host file through /proc/PID/root and cwd",
        """
return first([lambda p=p, w=w: reads_token(f"/proc/{p}/{w}{HOST['file']}")
              for p in ["self", *filter(str.isdigit, os.listdir("/proc"))] for w in ("root", "cwd", "cwd/..")])
""",
    ),
    Probe(
        "descriptors of other processes",
        """
mine = {"self", "thread-self", str(os.getpid())} | ({str(os.getppid())} - {str(HOST["supervisor"])})
def tries():
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if pid in mine:
            continue
        with contextlib.suppress(OSError):
            for fd in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    os.close(os.open(f"/proc/{pid}/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK))
                    return f"opened descriptor {fd} of process {pid}"
return tries()
""",
    ),
    Probe(
        "descriptors that were left open",
        """
for name in os.listdir("/proc/self/fd"):
    if int(name) > 2:
        with contextlib.suppress(OSError):
            return "descriptor " + name + " leads to " + os.readlink("/proc/self/fd/" + name)
if HOST["control"]:
    return "descriptor listing works"
""",
    ),
    Probe(
        "out of a changed root",
        """
os.makedirs("/tmp/jail-" + HOST["token"], exist_ok=True)
top = os.open("/", os.O_RDONLY)
call("chroot", b"/tmp/jail-" + HOST["token"].encode())
os.fchdir(top)
call("chroot", b".")
return reads_token(HOST["file"]) or "chroot is allowed"
""",
    ),
    Probe("a new file on the host", "open(HOST['folder'] + '/made', 'w').write('x')"),
    Probe("a changed file on the host", "open(HOST['file'], 'r+').write('x')"),
    Probe("a host file in /dev/shm", "return reads_token(HOST['shared'])"),
    Probe("the host's password hashes", "return '$' in open('/etc/shadow').read() and 'hashes' or 'read /etc/shadow'"),
    Probe(
        "hard links to what is not its own",
        """
def link(path):
    at = ("/tmp" if not HOST["control"] else HOST["folder"]) + "/hard"
    os.link(path, at)
    return "linked " + path
inside = ["/etc/shadow", "/etc/passwd", "/.polymath/sandbox/guest/main.py", "/proc/1/environ"]
paths = [HOST["file"]] if HOST["control"] else inside
return first([lambda p=p: link(p) for p in paths])
""",
    ),
    Probe(
        "device nodes of its own making",
        """
import stat
folder = HOST["folder"] if HOST["control"] else "/tmp"
def make(kind, major, minor):
    path = f"{folder}/node-{major}-{minor}"
    os.mknod(path, 0o666 | kind, os.makedev(major, minor))
    os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    return f"opened a device {major}:{minor} of its own"
kinds = [(stat.S_IFCHR, 1, 3), (stat.S_IFCHR, 1, 1), (stat.S_IFBLK, 8, 0), (stat.S_IFBLK, 254, 0)]
return first([lambda a=a: make(*a) for a in kinds])
""",
    ),
    Probe(
        "devices that are there",
        """
import stat
usual = {"null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "stdin", "stdout", "stderr", "fd", "console"}
def opened(path):
    if stat.S_ISCHR(os.stat(path).st_mode) or stat.S_ISBLK(os.stat(path).st_mode):
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
        return "opened " + path
more = ["mem", "kmem", "port", "kvm", "fuse", "net/tun", "loop-control", "userfaultfd", "vhost-vsock", "kmsg", "mapper/control"]
return first([lambda n=n: opened("/dev/" + n) for n in [*more, *os.listdir("/dev")] if n not in usual])
""",
    ),
    Probe(
        "a file by its handle",
        """
handle = ctypes.create_string_buffer(struct.pack("Ii", 128, 0) + bytes(128))
mount = ctypes.c_int()
call("name_to_handle_at", -100, b"/", handle, ctypes.byref(mount), 0)
root = os.open("/", os.O_RDONLY)
return taken("open_by_handle_at", root, handle, os.O_RDONLY)
""",
    ),
    Probe(
        "a guessed file handle",
        """
handle = ctypes.create_string_buffer(struct.pack("IiQ", 8, 1, 2))
return taken("open_by_handle_at", os.open("/", os.O_RDONLY), handle, os.O_RDONLY)
""",
    ),
    Probe(
        "the code of box and interpreter",
        """
places = [HOST["file"]] if HOST["control"] else [
    "/.polymath/sandbox/guest/main.py", "/.polymath/sandbox/guest/new.py", "/.polymath/new",
    "/new", "/etc/new", "/etc/ld.so.preload",
    os.__file__, os.path.dirname(os.__file__) + "/sitecustomize.py", sys.executable, "/usr/bin/new", "/usr/local/bin/new"]
def writes(path):
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT))
    return "opened " + path + " for writing"
return first([lambda p=p: writes(p) for p in places])
""",
    ),
    Probe(
        "the host's paths in its mounts",
        "return HOST['pool'] in open('/proc/self/mountinfo').read() and 'names of folders of the host' or None",
        control="nothing is mounted there outside",
    ),
    Probe("read_file through a link", drive=read_through_link, control="see: a host file by its path"),
    Probe("read_file while the file turns into a link", drive=read_race, control="see: a host file by its path"),
    Probe("write_file through links", drive=write_through_links, control="see: a changed file on the host"),
    Probe("write_file while the folder turns into a link", drive=write_race, control="see: a new file on the host"),
    Probe("write_file and read_file with the agent's rights", drive=write_as_agent, control="the agent is of another user"),
    Probe("read_file of the agent's own memory", drive=read_agent, control="the agent may read itself"),
    Probe("write_file to the agent's own settings", drive=write_agent, control="the agent may write them"),
]
