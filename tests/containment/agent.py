"""The box's own agent: its socket, descriptors, code and pipes; forged answers; commands that would outlive or outwit it."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from sandbox.cgroups import Cgroup
from sandbox.errors import BoxLostError, UnsupportedError
from sandbox.guest.frames import encode
from sandbox.result import Verdict
from tests.containment.probe import Outcome, Probe
from tests.containment.scene import Scene

NO_CONTROL = "an agent is only inside"


def verdict_of(scene: Scene, command: str, wanted: tuple[Verdict, ...], wall_s: float = 1.0) -> Outcome:
    """A command that works against its agent still comes to this verdict, and the next one runs."""
    try:
        result = scene.box.exec(command, wall_s=wall_s)
        after = scene.box.exec("echo fine")
    except BoxLostError as error:
        return Outcome("escaped", f"a command made its box look lost: {error}")
    good = result.verdict in wanted and (after.stdout.text == "fine\n" or after.verdict is Verdict.OUT_OF_MEMORY)
    return Outcome("contained" if good else "escaped", f"{result.verdict}; then {after.verdict} {after.stdout.text!r}")


def kill_agent(scene: Scene) -> Outcome:
    return verdict_of(scene, "kill -9 1; kill -9 -1; kill -STOP 1; kill -SEGV 1; exit 3", (Verdict.NONZERO, Verdict.SIGNAL))


def stop_supervisor(scene: Scene) -> Outcome:
    return verdict_of(scene, "kill -STOP 1 $PPID; sleep 30", (Verdict.WALL_TIMEOUT,))


def stop_everybody(scene: Scene) -> Outcome:
    everybody = "for p in /proc/[0-9]*; do p=${p#/proc/}; [ $p = $$ ] || kill -STOP $p; done; sleep 30"
    return verdict_of(scene, everybody, (Verdict.WALL_TIMEOUT,))


def kill_supervisor(scene: Scene) -> Outcome:
    wanted = (Verdict.SIGNAL, Verdict.WALL_TIMEOUT)
    return verdict_of(scene, "setsid sleep 100 & setsid setsid sleep 100 & kill -9 $PPID; sleep 30", wanted)


def starve_agent(scene: Scene) -> Outcome:
    """All the descriptors, memory and time that the agent needs, by the limits of a process of the same user."""
    code = (
        "import os, resource, sys\n"
        "for p in (1, int(sys.argv[1])):\n"
        "    for r in (resource.RLIMIT_NOFILE, resource.RLIMIT_CPU, resource.RLIMIT_AS, resource.RLIMIT_FSIZE):\n"
        "        try: resource.prlimit(p, r, (1, 1))\n"
        "        except (OSError, ValueError): pass\n"
    )
    return verdict_of(scene, f"python3 -c '{code}' $PPID; sleep 30", (Verdict.WALL_TIMEOUT,))


def outlive_memory(scene: Scene) -> Outcome:
    """Processes as small as the agent that make themselves no better victims than it."""
    code = (
        "import os, time\n"
        "open('/proc/self/oom_score_adj', 'w').write('0')\n"
        "for _ in range(26):\n"
        "    if not os.fork():\n"
        "        kept = []\n"
        "        while True:\n"
        "            kept.append(bytes(1 << 16)); time.sleep(0.001)\n"
        "time.sleep(30)\n"
    )
    wanted = (Verdict.OUT_OF_MEMORY, Verdict.WALL_TIMEOUT)
    return verdict_of(scene, f'exec python3 -c "{code}"', wanted, wall_s=6.0)


def signals_without_end(scene: Scene) -> Outcome:
    code = (
        "import os, signal\n"
        "for _ in range(60000):\n"
        "    os.kill(1, signal.SIGCHLD) if os.getuid() == 65534 else os.fork() or os._exit(0)\n"
        "    try: os.waitpid(-1, os.WNOHANG)\n"
        "    except OSError: pass\n"
    )
    return verdict_of(scene, f"timeout 2 python3 -c '{code}'; exit 3", (Verdict.NONZERO, Verdict.PIDS_LIMIT), wall_s=10)


def forged_frames(scene: Scene) -> Outcome:
    frame = encode(
        {"id": 1, "type": "done", "status": 0, "cause": "", "num_bytes": {"1": 1}, "wall_s": 0, "cpu_s": 0, "max_rss_bytes": 0}
    )
    result = scene.box.exec("cat; cat <&0 >&2; exit 3", stdin=frame * 100)
    good = result.exit_code == 3 and result.stdout.num_bytes == 100 * len(frame)
    return Outcome("contained" if good else "escaped", "frames on a command's streams are its output")


def forged_value(scene: Scene) -> Outcome:
    """A command writes where another's value is told."""
    pid = scene.background("while :; do for p in /proc/[0-9]*; do (echo '[\"forged\"]' > $p/fd/3) 2> /dev/null; done; done")
    called = [scene.box.python("f", source="import time\ndef f():\n time.sleep(0.2)\n return 1") for _ in range(3)]
    scene.end(pid)
    good = all(one.value == 1 for one in called)
    return Outcome("contained" if good else "escaped", f"{[one.value for one in called]}")


def forged_output(scene: Scene) -> Outcome:
    """A process that an earlier command has left writes into a later one's output."""
    pid = scene.background(
        "while :; do for p in /proc/[0-9]*; do [ $p = /proc/$$ ] || (echo forged > $p/fd/1) 2> /dev/null; done; done"
    )
    text = "".join(scene.box.exec("sleep 0.2; echo mine").stdout.text for _ in range(2))
    scene.end(pid)
    return Outcome("escaped" if "forged" in text else "contained", f"the later commands' output: {text[:40]!r}")


def forged_value_from_inside(scene: Scene) -> Outcome:
    """Code that runs within a called function, as a test of a model's code may have it, answers in its place."""
    source = (
        "import os\n"
        "def solution():\n"
        "    os.pwrite(3, (8).to_bytes(8, 'little') + b'\"forged\"', 0)\n"
        "    os._exit(0)\n"
        "def f():\n"
        "    return ['judged', solution()]\n"
    )
    value = scene.box.python("f", source=source).value
    return Outcome("escaped" if value == "forged" else "contained", f"value: {value!r}")


def planted_modules(scene: Scene) -> Outcome:
    """Modules that the agent might import, put where it runs."""
    names = (
        "json",
        "traceback",
        "os",
        "select",
        "signal",
        "contextlib",
        "linecache",
        "tokenize",
        "encodings",
        "ast",
        "sitecustomize",
    )
    for name in names:
        text = b"import os\nopen('/tmp/planted', 'a').write(str(os.getpid()) + ' ')\nraise ImportError\n"
        scene.box.write_file(f"/tmp/{name}.py", text)
        scene.box.write_file(f"/tmp/{name}/__init__.py", text)
    scene.box.python("f", source="def f(): raise ValueError")
    scene.box.python("f", source="import json, ast\ndef f(): return 1")
    scene.box.exec(["/no/such"])
    found = scene.box.exec("cat /tmp/planted 2>/dev/null; rm -rf /tmp/*").stdout.text
    return Outcome("escaped" if found else "contained", found or "none was imported")


def agents_descriptors(scene: Scene) -> Outcome:
    """Seen from the host: what the agent itself holds open. Nothing of it may lead to the host's files."""
    group, found = Cgroup(scene.box.box.box_id), list[str]()
    for pid in group.processes():
        status = Path(f"/proc/{pid}/status").read_text()
        if status.partition("NSpid:")[2].split("\n")[0].split()[-1] != "1":
            continue
        for fd in os.listdir(f"/proc/{pid}/fd"):
            found.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
    if not found:
        return Outcome("contained", "the agent is no process of the host")
    outside = [
        f for f in found if f.startswith("/") and not f.startswith(("/dev/null", "/memfd:")) and not f.endswith("/stderr")
    ]
    return Outcome("escaped" if outside else "contained", f"{outside or len(found)} descriptors")


def pipes_kept_full(scene: Scene) -> Outcome:
    result = scene.box.exec("(setsid yes > /dev/null 2>&1 &) ; setsid yes & sleep 0.2; exit 3", wall_s=10)
    scene.box.exec("pkill yes")
    ended = result.exit_code == 3 or result.verdict is Verdict.OUTPUT_LIMIT
    good = ended and scene.box.exec("echo fine").stdout.text == "fine\n"
    return Outcome("contained" if good else "escaped", str(result.verdict))


def many_sleepers(scene: Scene) -> Outcome:
    """All the commands that an agent keeps, of a client that leaves what each started."""
    for _ in range(8):
        scene.box.exec("sleep 100 > /dev/null 2>&1 &")
    return verdict_of(scene, "pkill sleep; exit 3", (Verdict.NONZERO, Verdict.PIDS_LIMIT))


def deep_folders(scene: Scene) -> Outcome:
    """Folders within folders, deeper than Python's recursion, and then than any path is long."""
    deep = "import os\ndef f(n, d):\n os.chdir('/tmp')\n for i in range(n): os.mkdir(d); os.chdir(d)\n open('x', 'w')"
    start = time.monotonic()
    try:
        for depth, name in ((1100, "d"), (250, "d" * 20)):
            if not scene.box.python("f", depth, name, source=deep).result.ok:
                return Outcome("broken", "the folders were not made")
            for act in (scene.box.diff, scene.box.snapshot, lambda: scene.box.fork(1), lambda: scene.box.commit("deep")):
                with contextlib.suppress(OSError, ValueError):
                    act()
    except UnsupportedError:
        return Outcome("contained", "this layer has no snapshots")
    if time.monotonic() - start > 60:
        return Outcome("escaped", "the keeper did not answer")
    return Outcome("contained", "refused, or taken, and removed with the box")


def stateless_leaks(scene: Scene) -> Outcome:
    """What one call of a stateless box leaves for the next: files, names, shared memory, attributes, a folder that is shut."""
    try:
        box = scene.stateless()
    except UnsupportedError:
        return Outcome("contained", "this layer has no stateless boxes")
    leave = """
import ctypes, os
def f():
    libc = ctypes.CDLL(None, use_errno=True)
    shm = libc.shmget(4711, 4096, 0o1666)
    sem, queue = libc.semget(4711, 1, 0o1666), libc.msgget(4711, 0o1666)
    mq = libc.mq_open(b"/left", 0o102, 0o666, None)
    try: os.setxattr("/tmp", "user.left", b"x")
    except OSError: pass
    open("/tmp/left", "w"); open("/dev/shm/left", "w")
    os.symlink("/etc", "/tmp/link")
    return [shm, sem, queue, mq]
"""
    look = """
import ctypes, os
def f():
    libc, found = ctypes.CDLL(None, use_errno=True), []
    if libc.shmget(4711, 0, 0) >= 0: found.append("shared memory")
    if libc.semget(4711, 0, 0) >= 0: found.append("semaphores")
    if libc.msgget(4711, 0) >= 0: found.append("message queue of System V")
    if libc.mq_open(b"/left", 2) >= 0: found.append("message queue")
    try: found += os.listxattr("/tmp")
    except OSError: pass
    found += os.listdir("/tmp") + os.listdir("/dev/shm")
    return found
"""
    box.python("f", source=leave)
    found = box.python("f", source=look).value
    return Outcome("escaped" if found or found is None else "contained", f"left: {found}")


def stateless_sabotage(scene: Scene) -> Outcome:
    """A call that shuts the scratch folder, or fills it with what is hard to remove, spoils nothing for the next."""
    try:
        box = scene.stateless()
    except UnsupportedError:
        return Outcome("contained", "this layer has no stateless boxes")
    for spoil in (
        "os.chmod('/tmp', 0)",
        "os.chmod('/dev/shm', 0)",
        "[os.mkdir('/tmp/a'), os.mkdir('/tmp/a/b'), open('/tmp/a/b/c', 'w'), os.chmod('/tmp/a/b', 0), os.chmod('/tmp/a', 0)]",
        "[os.mkfifo('/tmp/p'), os.mknod('/tmp/s', 0o140666), os.symlink('/tmp', '/tmp/loop')]",
        "open(b'/tmp/' + bytes(range(128, 255)), 'w')",
    ):
        called = box.python("f", source=f"import os\ndef f():\n {spoil}")
        try:
            ok = called.result.ok and box.exec("ls -A /tmp; touch /tmp/x").stdout.head == b""
        except BoxLostError:
            ok = False
        if not ok:
            return Outcome("escaped", f"after {spoil} the next call fails")
    return Outcome("contained", "the next call works")


PROBES = [
    Probe("agent: killed", drive=kill_agent, control=NO_CONTROL),
    Probe("agent: its supervisor stopped", drive=stop_supervisor, control=NO_CONTROL, own_box=True),
    Probe("agent: everybody stopped", drive=stop_everybody, control=NO_CONTROL, own_box=True),
    Probe("agent: its supervisor killed", drive=kill_supervisor, control=NO_CONTROL),
    Probe("agent: starved by limits", drive=starve_agent, control=NO_CONTROL, own_box=True),
    Probe("agent: ended for want of memory", drive=outlive_memory, control=NO_CONTROL, own_box=True, may_be_killed=True),
    Probe("agent: signals without end", drive=signals_without_end, control=NO_CONTROL),
    Probe("agent: forged frames", drive=forged_frames, control=NO_CONTROL),
    Probe("agent: a value forged by another command", drive=forged_value, control=NO_CONTROL),
    Probe("agent: output forged by an earlier command", drive=forged_output, control=NO_CONTROL),
    Probe("agent: a value forged from inside the function", drive=forged_value_from_inside, control=NO_CONTROL),
    Probe("agent: modules planted where it runs", drive=planted_modules, control=NO_CONTROL),
    Probe("agent: descriptors that lead outside", drive=agents_descriptors, control=NO_CONTROL),
    Probe("agent: pipes that stay full", drive=pipes_kept_full, control=NO_CONTROL),
    Probe("agent: processes that are left", drive=many_sleepers, control=NO_CONTROL),
    Probe("keeper: folders without end", drive=deep_folders, control=NO_CONTROL, own_box=True),
    Probe("stateless: what a call leaves", drive=stateless_leaks, control=NO_CONTROL),
    Probe("stateless: a call that spoils the next", drive=stateless_sabotage, control=NO_CONTROL),
]
