"""One body of tests for a box of any layer: commands, output, limits, files, what is left afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from sandbox import calls, gc, templates
from sandbox.blocking import BlockingBox, BlockingPool, BlockingTerminal
from sandbox.cgroups import Cgroup
from sandbox.cluster import ClusterPool
from sandbox.errors import BoxLostError, BoxUnavailableError, UnsupportedError
from sandbox.images import Images
from sandbox.layers import docker
from sandbox.layers.microvm import MicrovmLayer
from sandbox.layers.vm import VmLayer
from sandbox.placement import Report
from sandbox.pool import Pool
from sandbox.result import Verdict
from sandbox.spec import BoxSpec, LayerName, Limits
from tests import boxes
from tests.here_fleet import HereFleet
from tests.soak.kills import ROOT

pytestmark = pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bubblewrap: apt-get install bubblewrap")
LATE_S = 40.0  # less than what a command would take that is not ended, on a busy machine that emulates another too
LIST = "cd /tmp; printf '%s\\n' *"
SMALL = Limits(memory_bytes=96 << 20, num_pids=32, disk_bytes=8 << 20, keep_bytes=4096, cpu_s=20.0)


@pytest.fixture(scope="module")
def home(sandbox_home: Path) -> Path:
    return sandbox_home


@pytest.fixture(scope="module")
def engine() -> Iterator[str | None]:
    with boxes.engine() as url:
        yield url


@pytest.fixture(scope="module")
def pool(home: Path, engine: str | None) -> Iterator[BlockingPool]:
    """Its keeper is told where the engine is."""
    with BlockingPool(Pool(folder=home)) as pool:
        yield pool


@pytest.fixture(scope="module")
def image(home: Path) -> str:
    """A Debian root with Python, and with systemd, which full machines need."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("crun", "mkfs.erofs", "mmdebstrap"))):
        pytest.skip("needs root and: apt-get install crun erofs-utils mmdebstrap")
    return boxes.build_debian(home)


PACKAGES = {"qemu-system-x86_64": "qemu-system-x86 qemu-utils seabios"}  # by program, where the names differ


def need(program: str) -> None:
    if program == "docker":
        if "DOCKER_HOST" not in os.environ and not Path("/var/run/docker.sock").exists():
            pytest.skip("needs a Docker Engine and its SDK: apt-get install docker.io; make env-docker")
    elif shutil.which(program) is None:
        pytest.skip(f"needs: apt-get install {PACKAGES.get(program, program)}")


@pytest.fixture(scope="module", params=["function", "crun", "runsc", "docker", "microvm", "vm"])
def layer(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What `create` is told to get a box of each layer; of the container layer, of each runtime."""
    if request.param == "function":
        return {"layer": "function"}
    if request.param in ("microvm", "vm"):
        need("qemu-system-x86_64")
        return {"layer": request.param, "image": request.getfixturevalue("image")}
    need(request.param)
    return {"layer": "container", "runtime": request.param, "image": request.getfixturevalue("image")}


@pytest.fixture(scope="module", params=["microvm", "vm"])
def machine(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The same of a layer whose boxes are machines."""
    need("qemu-system-x86_64")
    return {"layer": request.param, "image": request.getfixturevalue("image")}


@pytest.fixture(scope="module")
def box(pool: BlockingPool, layer: dict[str, Any]) -> BlockingBox:
    return pool.create(**layer, limits=SMALL)


def still_works(box: BlockingBox) -> None:
    assert box.exec("echo fine").stdout.text == "fine\n"


def test_a_command_gives_its_output_and_its_exit_code(box: BlockingBox) -> None:
    result = box.exec("echo out; echo err >&2; exit 3")
    assert (result.verdict, result.exit_code, result.signal) == (Verdict.NONZERO, 3, None)
    assert (result.stdout.head, result.stderr.head) == (b"out\n", b"err\n")
    assert box.exec(["printf", "%s|", "a b", "$HOME", "*"]).stdout.text == "a b|$HOME|*|"


def test_input_environment_and_folder(box: BlockingBox) -> None:
    assert box.exec("cat", stdin=b"\xff\x00x").stdout.head == b"\xff\x00x"
    assert box.exec("cat").stdout.head == b""
    big = os.urandom(3 << 20)
    assert box.exec("sha256sum", stdin=big).ok
    assert box.exec("wc -c", stdin=big).stdout.text.strip() == str(len(big))
    assert box.exec('echo "$GREETING $PATH"', env={"GREETING": "hé"}).stdout.text.startswith("hé /usr/local/sbin:")
    assert box.exec("pwd", cwd="/usr").stdout.text == "/usr\n"


def test_files_of_an_image_keep_their_times(box: BlockingBox) -> None:
    """Else Python takes all that was compiled for it for stale, and compiles its library at every start."""
    assert box.exec("python3 -v -c 'import json, socket' 2>&1 | grep stale").stdout.text == ""


def test_what_cannot_be_started_is_a_command_that_failed(box: BlockingBox) -> None:
    assert box.exec(["no-such-program"]).exit_code == 127
    assert box.exec(["/etc"]).exit_code == 126
    result = box.exec("true", cwd="/no/such/folder")
    assert result.exit_code == 125
    assert "No such file or directory" in result.stderr.text
    with pytest.raises(ValueError, match="command: got an empty sequence"):
        box.exec([])


def test_a_signal_is_told_from_an_exit_code(box: BlockingBox) -> None:
    result = box.exec("kill -SEGV $$")
    assert (result.verdict, result.exit_code, result.signal) == (Verdict.SIGNAL, None, signal.SIGSEGV)


@pytest.mark.parametrize(
    "command",
    [
        "sleep 100",
        "trap '' TERM INT HUP; sleep 100; sleep 100",
        "setsid sleep 100 & sleep 100",
        "(setsid sh -c 'sleep 100' &) ; while :; do :; done",
        "python3 -c 'import os, time; os.fork() or os.setsid() or os.fork(); time.sleep(100)'",
    ],
)
def test_a_timeout_ends_all_that_the_command_started(box: BlockingBox, command: str) -> None:
    result = box.exec(command, wall_s=0.3)
    assert result.verdict is Verdict.WALL_TIMEOUT
    assert 0.3 <= result.wall_s < 0.3 + LATE_S
    assert "sleep" not in box.exec("cat /proc/[0-9]*/cmdline | tr '\\0' ' '").stdout.text.replace("tr ", "")
    still_works(box)


def test_a_timeout_tells_waiting_for_a_processor_from_waiting(pool: BlockingPool) -> None:
    """On the function layer and this kernel; a machine as busy as it may be makes no difference."""
    box = pool.create(limits=SMALL)
    asleep = box.exec("sleep 100", wall_s=3)
    assert asleep.waited_s is not None
    assert asleep.wall_s - asleep.cpu_s - asleep.waited_s > 0.5
    busy = box.exec("while :; do :; done", wall_s=1)
    assert busy.waited_s is not None
    assert busy.wall_s - busy.cpu_s - busy.waited_s < 0.5
    assert box.exec("true").waited_s is None
    pool.destroy(box)


def test_what_a_command_leaves_running_on_purpose_stays_until_another_ends_it(box: BlockingBox) -> None:
    start = time.monotonic()
    result = box.exec("sleep 60 & echo $!")  # it keeps the pipe open
    assert result.verdict is Verdict.OK
    assert time.monotonic() - start < LATE_S
    pid = int(result.stdout.text)
    assert box.exec(f"kill -0 {pid}").ok
    assert box.exec("sleep 60", wall_s=0.1).verdict is Verdict.WALL_TIMEOUT
    assert box.exec(f"kill -0 {pid}").ok  # another command's timeout is not its own
    assert box.exec(f"kill {pid}").ok


def test_a_child_that_keeps_the_pipe_and_writes_for_ever_holds_nothing_up(pool: BlockingPool, layer: dict[str, Any]) -> None:
    box = pool.create(**layer, limits=replace(SMALL, output_bytes=1 << 40))  # a busy machine may take long to be done
    result = box.exec("yes & echo $! >&2; sleep 0.2", wall_s=100)
    assert result.verdict is Verdict.OK
    assert result.wall_s < LATE_S
    assert result.stdout.head.startswith(b"y\ny\n")
    assert box.exec(f"kill {int(result.stderr.text)}").ok
    pool.destroy(box)


def test_a_box_that_does_not_answer_is_lost_and_no_answer_is_recorded(
    pool: BlockingPool, layer: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "GRACE_S", 0.3)
    limits = Limits(**{**vars(SMALL), "wall_s": 0.2})
    for call in (lambda box: box.exec("true"), lambda box: box.read_file("/etc/passwd")):
        box = pool.create(**layer, limits=limits)
        group_of(pool, box).freeze(True)
        with pytest.raises(BoxLostError, match="did not answer"):
            call(box)
        pool.destroy(box)


def test_processor_time_is_limited_and_counted_over_all_processes(box: BlockingBox) -> None:
    busy = "for i in 1 2; do (while :; do :; done) & done; wait"
    box.box.limits = Limits(**{**vars(SMALL), "cpu_s": 0.4})
    result = box.exec(busy, wall_s=20)
    box.box.limits = SMALL
    assert result.verdict is Verdict.CPU_TIMEOUT
    assert 0.4 <= result.cpu_s < 10.0  # two that went on would come to more
    still_works(box)


def test_output_is_drained_counted_and_kept_at_both_ends(box: BlockingBox, layer: dict[str, Any]) -> None:
    size = 5_000_000 if layer["layer"] in ("microvm", "vm") else 50_000_000  # emulated processors take ten times as long
    result = box.exec(f"echo begin; head -c {size} /dev/zero | tr '\\0' x; echo; echo end", wall_s=200)
    assert result.verdict is Verdict.OK
    assert result.stdout.num_bytes == len(b"begin\n") + size + len(b"\nend\n")
    assert result.stdout.head.startswith(b"begin\nxxx")
    assert result.stdout.tail.endswith(b"xxx\nend\n")
    assert len(result.stdout.head) + len(result.stdout.tail) == 4096
    assert f"[{size - 4085} bytes left out]" in result.stdout.text
    invalid = box.exec("printf 'a\\377b'")
    assert invalid.stdout.head == b"a\xffb"
    assert invalid.stdout.text == "a\N{REPLACEMENT CHARACTER}b"


def test_too_much_output_ends_the_command(box: BlockingBox) -> None:
    box.box.limits = Limits(**{**vars(SMALL), "output_bytes": 1 << 20})
    result = box.exec("yes")
    box.box.limits = SMALL
    assert result.verdict is Verdict.OUTPUT_LIMIT
    assert result.stdout.num_bytes < 64 << 20
    still_works(box)


@pytest.mark.parametrize("keep_bytes", [0, 1])
def test_output_that_nobody_keeps_is_counted(box: BlockingBox, keep_bytes: int) -> None:
    box.box.limits = Limits(**{**vars(SMALL), "keep_bytes": keep_bytes})
    result = box.exec("seq 100")
    box.box.limits = SMALL
    assert (result.verdict, result.stdout.num_bytes, result.stdout.head) == (Verdict.OK, 292, b"1"[:keep_bytes])


def test_a_program_may_open_its_own_output(box: BlockingBox, layer: dict[str, Any]) -> None:
    if layer.get("runtime") == "runsc":
        return  # whose pipes have no owners
    result = box.exec("echo out > /dev/stdout; echo err > /dev/stderr")
    assert (result.stdout.head, result.stderr.head) == (b"out\n", b"err\n")


def test_live_output_comes_in_order_and_in_full(box: BlockingBox) -> None:
    pieces = list[tuple[str, bytes]]()
    box.exec("for i in 1 2 3; do echo $i; sleep 0.05; done; seq 100000; echo err >&2", on_output=lambda *p: pieces.append(p))
    out = b"".join(piece for stream, piece in pieces if stream == "stdout")
    assert out == b"1\n2\n3\n" + b"".join(b"%d\n" % i for i in range(1, 100001))
    assert [piece for stream, piece in pieces if stream == "stderr"] == [b"err\n"]


def test_memory_is_limited_and_said_to_be_the_cause(box: BlockingBox, layer: dict[str, Any]) -> None:
    if layer.get("runtime") == "runsc":
        return  # the next test
    result = box.exec(["python3", "-c", "x = bytearray(500 << 20); print(len(x))"])
    assert not result.ok
    if os.geteuid() == 0:
        assert result.verdict is Verdict.OUT_OF_MEMORY
    still_works(box)


def test_what_takes_a_gvisor_box_with_it_gets_its_verdict(pool: BlockingPool, image: str) -> None:
    need("runsc")
    for command, verdict in (
        (["python3", "-c", "x = bytearray(500 << 20); print(len(x))"], Verdict.OUT_OF_MEMORY),
        ("bomb() { bomb | bomb & }; bomb; sleep 100", Verdict.PIDS_LIMIT),
    ):
        box = pool.create("container", runtime="runsc", image=image, limits=SMALL)
        assert box.exec("echo before").ok
        assert box.exec(command, wall_s=20).verdict is verdict
        pool.destroy(box)


def test_a_fork_bomb_is_contained(box: BlockingBox, layer: dict[str, Any]) -> None:
    if layer.get("runtime") == "runsc":
        return  # the test before

    def num_processes() -> int:
        return len(box.exec("echo /proc/[0-9]*").stdout.text.split())

    before, start = num_processes(), time.monotonic()
    result = box.exec("bomb() { bomb | bomb & }; bomb; sleep 100", wall_s=1.0)
    assert result.verdict in (Verdict.WALL_TIMEOUT, Verdict.PIDS_LIMIT)
    assert time.monotonic() - start < 1.0 + LATE_S
    deadline = time.monotonic() + LATE_S
    while num_processes() > before + 2:  # a machine's kernel has threads that come and go
        assert time.monotonic() < deadline, "the bomb goes on"
    still_works(box)


def test_what_ended_at_the_limit_of_processes_leaves_none(box: BlockingBox, layer: dict[str, Any]) -> None:
    if layer.get("runtime") == "runsc":
        return  # such a box has ended
    result = box.exec("for i in $(seq 60); do sleep 100 & done")
    assert not result.ok
    if os.geteuid() == 0:
        assert result.verdict is Verdict.PIDS_LIMIT
        assert box.exec("pgrep sleep").exit_code == 1


def test_a_box_with_all_the_processes_that_it_may_have_says_so(pool: BlockingPool, layer: dict[str, Any]) -> None:
    box = pool.create(**layer, limits=SMALL)
    fill = "import os, time\ntry:\n while os.fork(): pass\nexcept BlockingIOError: os._exit(0)\ntime.sleep(100)"
    if os.geteuid() == 0 and layer.get("runtime") != "runsc":  # whose processes are more threads than one
        assert box.exec(["python3", "-c", fill]).ok
        result = box.exec("true")
        assert result.verdict is Verdict.PIDS_LIMIT
        box.end_commands()
        still_works(box)
        background = box.start("sleep 1000")
        box.end_commands()
        assert not background.running
    pool.destroy(box)


def test_a_full_disk_is_said_to_be_the_cause(box: BlockingBox) -> None:
    result = box.exec("head -c 20000000 /dev/zero > /tmp/big")
    assert result.verdict is Verdict.DISK_FULL
    assert "No space left" in result.stderr.text
    assert box.exec("rm /tmp/big").ok
    still_works(box)


def test_functions_are_called_with_data(box: BlockingBox) -> None:
    def add(a: int, b: Any) -> dict[str, Any]:
        print("adding")
        return {"sum": a + len(b), "b": b}

    called = box.python(add, 1, ["x", None])
    assert called.value == {"sum": 3, "b": ["x", None]}
    assert called.result.stdout.text == "adding\n"
    failed = box.python("f", source="def f(): raise RuntimeError('why')")
    assert failed.result.verdict is Verdict.NONZERO
    assert "RuntimeError: why" in failed.result.stderr.text
    assert failed.value is None
    assert box.python("f", source="import os\ndef f(): os._exit(0)").result.verdict is Verdict.NONZERO
    assert box.python("f", source="def f(): return f").result.verdict is Verdict.NONZERO  # no JSON
    assert box.python("f", source="def f():\n while True: pass", wall_s=0.2).result.verdict is Verdict.WALL_TIMEOUT
    with pytest.raises(TypeError):
        box.python("f", {1, 2}, source="def f(x): pass")


def test_long_words_and_large_data_arrive(pool: BlockingPool, layer: dict[str, Any]) -> None:
    box = pool.create(**layer, limits=Limits(keep_bytes=2 << 20))
    words = ["%s", *(letter * (100 << 10) for letter in "abc")]
    assert box.exec(["printf", *words]).stdout.head.decode() == "".join(words[1:])
    numbers = list(range(60_000))
    assert box.python("f", numbers, source="def f(x): return sum(x)").value == sum(numbers)
    with pytest.raises(ValueError, match="write them to a file first"):
        box.exec(["true", "x" * (17 << 20)])
    pool.destroy(box)


def test_what_a_client_sent_before_it_died_is_not_the_next_ones(pool: BlockingPool, layer: dict[str, Any]) -> None:
    box = pool.create(**layer, limits=SMALL)

    async def half() -> None:
        reach = await pool.pool.reach(box.box.box_id)
        await reach.agent.ask({"op": "stdin", "id": 900_000}, b"half of it, ")
        reach.agent.close()
        reach = await pool.pool.reach(box.box.box_id)
        order = {"op": "exec", "argv": ["cat"], "env": {}, "cwd": None, "user": reach.user, "id": 900_000}
        kept = list[bytes]()
        await reach.agent.ask(order, b"all of it", lambda _, data: kept.append(data))
        reach.agent.close()
        assert b"".join(kept) == b"all of it"

    pool.wait(half())
    pool.destroy(box)


def test_files_go_in_and_out(box: BlockingBox) -> None:
    data = os.urandom((2 << 20) + 17)
    box.write_file("/tmp/new/folder/data.bin", data, mode=0o640)
    assert box.read_file("/tmp/new/folder/data.bin") == data
    assert box.exec("find /tmp/new/folder/data.bin -printf %m").stdout.text == "640"
    box.write_file("/tmp/new/folder/data.bin", b"")
    assert box.read_file("/tmp/new/folder/data.bin") == b""
    box.write_file("/tmp/ünï \n x", b"y")
    assert box.exec(["cat", "/tmp/ünï \n x"]).stdout.text == "y"
    with pytest.raises(FileNotFoundError):
        box.read_file("/no/such")
    with pytest.raises(IsADirectoryError):
        box.read_file("/tmp")
    with pytest.raises(OSError, match=r"Read-only|Permission"):
        box.write_file("/usr/bin/mine", b"x")
    box.exec("mkfifo /tmp/pipe; ln -s /dev/zero /tmp/zero")
    for path in ("/tmp/pipe", "/tmp/zero", "/dev/zero"):
        with pytest.raises(OSError, match="Not a regular file"):
            box.read_file(path)
    box.write_file("/tmp/new/folder/data.bin", bytes(100))
    with pytest.raises(ValueError, match="raise max_bytes"):
        box.read_file("/tmp/new/folder/data.bin", max_bytes=10)


def test_a_program_that_ends_its_own_supervisor_gains_nothing(box: BlockingBox) -> None:
    start = time.monotonic()
    result = box.exec(
        "setsid sleep 50 & until pgrep sleep; do :; done; "
        "kill -9 $PPID || { pkill sleep; while pgrep sleep; do :; done; exit 7; }; sleep 50",
        wall_s=100,
    )
    assert not result.ok
    assert time.monotonic() - start < LATE_S
    assert box.exec("pgrep sleep").exit_code == 1
    still_works(box)


def test_the_agent_cannot_be_killed_traced_or_read(box: BlockingBox, layer: dict[str, Any]) -> None:
    box.exec("kill -9 1; kill -9 -1 2>/dev/null; true")
    own = ["/proc/1/environ"] if layer.get("runtime") != "runsc" else []  # gVisor shows it; nothing is in it
    for path in ("/proc/1/mem", *own, "/proc/1/fd/3", "/proc/1/root/etc/shadow"):
        assert not box.exec(["cat", path]).ok, path
    still_works(box)


def test_several_commands_at_once(pool: BlockingPool, box: BlockingBox) -> None:
    meet = "touch /tmp/here.{0}; until [ -e /tmp/here.0 -a -e /tmp/here.1 -a -e /tmp/here.2 ]; do sleep 0.01; done; echo {0}"

    async def three() -> list[str]:
        results = await asyncio.gather(*(box.box.exec(meet.format(i)) for i in range(3)))
        return [result.stdout.text for result in results]

    assert pool.wait(three()) == ["0\n", "1\n", "2\n"]


def test_a_stateless_box_forgets_everything_between_calls(pool: BlockingPool) -> None:
    box = pool.create("function", limits=SMALL, stateless=True)
    deep = "import os\ndef f():\n os.chdir('/tmp')\n for i in range(3000): os.mkdir('d'); os.chdir('d')\n open('x', 'w')"
    assert box.python("f", source=deep).result.ok
    assert box.exec("setsid sleep 100 & touch /tmp/mine /dev/shm/mine; echo $!").ok
    assert box.exec("ls -A /tmp /dev/shm; pgrep sleep").stdout.text == "/dev/shm:\n\n/tmp:\n"
    seen = box.python("f", source="import sys\nsys.leak = 1\ndef f(): return 1")
    assert seen.value == 1
    assert box.python("f", source="import sys\ndef f(): return hasattr(sys, 'leak')").value is False


def test_a_box_that_dies_is_lost_and_never_a_result(pool: BlockingPool, layer: dict[str, Any]) -> None:
    box = pool.create(**layer, limits=SMALL)
    assert box.exec("true").ok
    group = group_of(pool, box)

    async def killed() -> None:
        running = asyncio.ensure_future(box.box.exec("sleep 50"))
        await asyncio.sleep(0.2)
        group.kill()
        await running

    with pytest.raises(BoxLostError):
        pool.wait(killed())
    with pytest.raises(BoxLostError):
        box.exec("true")


def group_of(pool: BlockingPool, box: BlockingBox) -> Cgroup:
    """The control group of all that a box is on this machine."""
    return Cgroup(pool.wait(pool.pool.tell("facts", box=box.box.box_id))["box"]["cgroup"])


def test_what_the_function_layer_lacks_is_said_before_anything_runs(pool: BlockingPool) -> None:
    with pytest.raises(UnsupportedError, match="image: got 'py'"):
        pool.create("function", image="py")
    with pytest.raises(ValueError, match=r"network: got 'example.org'; write host:port"):
        pool.create("function", network=("example.org",))
    with pytest.raises(ValueError, match="num_pids: got 1; at least 4"):
        Limits(num_pids=1)
    with pytest.raises(ValueError, match="layer: got 'jail'; allowed: function"):
        pool.create("jail")


def test_who_comes_back_while_a_box_is_made_gets_that_one(home: Path) -> None:
    """As a client that was killed right after it had asked: a second box of the same name would run its commands again."""

    async def come_back() -> list[int]:
        async with Pool(folder=home) as pool:
            first = asyncio.create_task(pool.create("function", name="one"))
            await asyncio.sleep(0.02)
            second = await pool.create("function", name="one")
            assert (await first).box_id == second.box_id
            assert (await second.exec("echo fine")).stdout.text == "fine\n"
            pids = set(Cgroup(second.box_id).processes())
            return [os.stat(f"/proc/{p}/root").st_dev for p in pids if Path(f"/proc/{p}/root/.polymath").exists()]

    if os.geteuid() != 0:
        pytest.skip("needs root, for control groups")
    assert len(set(asyncio.run(come_back()))) == 1


def test_a_box_ends_when_its_lifetime_does(pool: BlockingPool, layer: dict[str, Any]) -> None:
    box = pool.create(**layer, limits=SMALL, ttl_s=0.5)
    with pytest.raises(BoxLostError):
        box.exec("sleep 30")


OWNER = """
import asyncio, sys
from pathlib import Path
from sandbox.pool import Pool
from sandbox.spec import Limits

async def main():
    pool = Pool(folder=Path(sys.argv[1]), lease_s=1.0)
    await pool.open()
    boxes = [await pool.create("function") for _ in range(2)]
    limits = Limits(memory_bytes=96 << 20, num_pids=32, disk_bytes=8 << 20)
    for kind in sys.argv[2:]:
        layer = {"layer": kind} if kind in ("microvm", "vm") else {"layer": "container", "runtime": kind}
        boxes.append(await pool.create(**layer, image="debian", limits=limits))
    print(pool.name, flush=True)
    await asyncio.gather(*(box.exec("setsid sleep 1000 & sleep 1000", wall_s=900) for box in boxes))

asyncio.run(main())
"""


@pytest.mark.parametrize("killed", ["owner", "keeper"])
def test_whoever_is_killed_leaves_nothing(home: Path, image: str, killed: str) -> None:
    for program in ("runsc", "docker", "qemu-system-x86_64"):
        need(program)
    command = [sys.executable, "-c", OWNER, str(home), "crun", "runsc", "docker", "microvm", "vm"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as owner:
        assert owner.stdout is not None
        name = owner.stdout.readline().strip()
        time.sleep(0.5)
        try:
            assert len(left_of(name)) > 10
            [keeper] = [int(line.split()[0]) for line in left_of(name) if "sandbox.keeper" in line]
            os.kill(owner.pid if killed == "owner" else keeper, signal.SIGKILL)
            assert owner.wait(10) != 0  # without its keeper its boxes are lost
        finally:
            owner.kill()
    deadline = time.monotonic() + 120
    while left := [line for line in left_of(name) if line.split()[0].isdigit()]:  # processes go by themselves
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
    while left := left_of(name):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
        if killed == "keeper":
            gc.collect(home)
    assert not (home / "pools" / name).exists()


def test_a_container_that_a_killed_keeper_left_is_collected(engine: str | None, home: Path, image: str) -> None:
    need("docker")
    with BlockingPool(Pool(folder=home)) as pool:
        name = pool.pool.name
        box = pool.create("container", image=image, runtime="docker", limits=SMALL)
        box.pause()  # so it does not notice that nobody is there
        [keeper] = [int(line.split()[0]) for line in left_of(name) if "sandbox.keeper" in line]
        os.kill(keeper, signal.SIGKILL)
        with contextlib.suppress(BoxLostError):
            pool.wait(pool.pool.tell("list"))
    client = docker.connect()
    label = {"label": f"{docker.POOL_LABEL}={home / 'pools' / name}"}
    assert [container.status for container in client.containers.list(all=True, filters=label)] == ["paused"]
    mark = home / "pools" / name / docker.MARK
    where = mark.read_text()
    mark.write_text("unix:///no/such/socket")
    assert gc.collect(home) == []  # it is kept in mind until the engine answers
    mark.write_text(where)
    assert gc.collect(home) == [name]
    assert client.containers.list(all=True, filters=label) == []
    client.close()


def test_docker_that_is_missing_or_cannot_says_so(
    engine: str | None, pool: BlockingPool, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("docker")
    box = pool.create("container", image=image, runtime="docker", limits=SMALL)
    with pytest.raises(UnsupportedError, match="snapshot: a box of the container layer cannot; it can: pause, resume"):
        box.snapshot()
    pool.destroy(box)
    with pytest.raises(ValueError, match="runtime: got docker for the function layer"):
        pool.create("function", runtime="docker")
    monkeypatch.setenv("DOCKER_HOST", "unix:///no/such/socket")
    with pytest.raises(UnsupportedError, match="answers at unix:///no/such/socket: start one"):
        docker.connect()


def left_of(name: str) -> list[str]:
    """Processes, control groups and containers of a pool."""
    found = [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/polymath/{name}-*")]
    if boxes.lacking("docker") is None:
        engine = docker.connect()
        found += [one.name for one in engine.containers.list(all=True, ignore_removed=True) if name in one.name]
        engine.close()
    for process in psutil.process_iter():
        try:
            if name in " ".join(process.cmdline()) or f"polymath/{name}-" in Path(f"/proc/{process.pid}/cgroup").read_text():
                found.append(f"{process.pid} {process.cmdline()[:6]}")
        except (psutil.Error, OSError):
            continue
    return found


def test_a_keeper_that_does_not_start_says_why(tmp_path: Path) -> None:
    async def opened() -> None:
        pool = Pool(folder=tmp_path, lease_s=float("nan"), num_starting=-1)
        await pool.open()

    with pytest.raises(BoxUnavailableError, match="ValueError"):
        asyncio.run(opened())


def test_a_box_is_paused_and_goes_on_where_it_was(pool: BlockingPool, box: BlockingBox, layer: dict[str, Any]) -> None:
    ticker = box.exec("(while sleep 0.02; do echo x >> /tmp/ticks; done) > /dev/null 2>&1 & echo $!").stdout.text.strip()
    box.exec("sleep 0.2")
    box.pause()
    group = group_of(pool, box)
    used = _used_s(group, layer)
    assert any(used.values())
    time.sleep(0.5)
    assert _used_s(group, layer) == used
    before = int(box.exec("wc -l < /tmp/ticks").stdout.text)  # which has it go on
    box.exec("sleep 0.2")
    assert int(box.exec("wc -l < /tmp/ticks").stdout.text) > before
    assert box.exec(f"kill {ticker}; rm /tmp/ticks").ok


def _used_s(group: Cgroup, layer: dict[str, Any]) -> dict[int, float]:
    """Processor time of each thread of a box; of a machine without the one in which its emulator waits for orders."""
    is_machine = layer["layer"] in ("microvm", "vm")
    threads = {t.id: t.user_time + t.system_time for pid in set(group.processes()) for t in psutil.Process(pid).threads()}
    return {tid: used for tid, used in threads.items() if not (is_machine and tid in set(group.processes()))}


@pytest.mark.parametrize("runtime", ["crun", "runsc"])
def test_snapshots_rollback_diff_fork_and_commit(pool: BlockingPool, image: str, home: Path, runtime: str) -> None:
    need(runtime)
    box = pool.create("container", image=image, runtime=runtime, limits=SMALL)
    box.exec("echo one > /tmp/file; echo keep > /tmp/kept; rm /etc/does-not-exist 2>/dev/null; mkdir -p /tmp/folder/inner")
    first = box.snapshot()
    box.exec("echo two > /tmp/file; rm /tmp/kept; echo new > /tmp/new; sleep 100 & echo")
    assert box.diff() == [
        ("added", "/tmp/file"), ("added", "/tmp/folder"), ("added", "/tmp/folder/inner"), ("added", "/tmp/new"),
    ]  # fmt: skip
    children = box.fork(3)
    box.rollback(first)
    assert box.exec(f"cat /tmp/file /tmp/kept; {LIST}; pgrep sleep").stdout.text == "one\nkeep\nfile\nfolder\nkept\n"
    for i, child in enumerate(children):
        assert child.exec("cat /tmp/file /tmp/new; cat /tmp/kept").stdout.text == "two\nnew\n"
        assert child.exec(f"echo child {i} > /tmp/file; rm /tmp/new").ok
    pool.destroy(box)
    assert [child.exec("cat /tmp/file").stdout.text for child in children] == [f"child {i}\n" for i in range(3)]
    assert children[0].diff() == [("changed", "/tmp/file"), ("deleted", "/tmp/new")]
    [grandchild] = children[1].fork(1)
    grandchild.commit("made:1")
    again = pool.create("container", image="made:1", runtime=runtime, limits=SMALL)
    assert again.exec(f"cat /tmp/file; {LIST}").stdout.text == "child 1\nfile\nfolder\n"
    assert len(Images(home / "images").get("made:1").layers) == 4  # the image's, two of the forks below it, its own
    with pytest.raises(ValueError, match="which this box has not taken"):
        again.rollback("s999")
    with pytest.raises(ValueError, match=r"snapshot: got '\.\./x'"):
        again.rollback("../x")
    for child in (*children, grandchild, again):
        pool.destroy(child)
    assert not list((home / "pools" / pool.pool.name).glob("fork-*"))


def test_containers_on_other_nodes_fork_where_they_are(image: str, home: Path) -> None:
    fleet = HereFleet({"a", "b"})
    with BlockingPool(ClusterPool(fleet, folder=home, heartbeat_s=0.2)) as pool:
        box = pool.create("container", image=image, limits=SMALL, labels={"run": "r"})
        box.write_file("/tmp/file", b"one")
        first = box.snapshot()
        box.write_file("/tmp/file", b"two")
        children = box.fork(2)
        box.rollback(first)
        assert [each.read_file("/tmp/file") for each in (box, *children)] == [b"one", b"two", b"two"]
        assert box.diff() == [("added", "/tmp/file")]
        reports = pool.wait(asyncio.wait_for(_reports(fleet), 30))
        assert sorted(report.used.num_boxes for report in reports) == [0, 3]
        assert {image for report in reports for image in report.warm} == {image}
        assert all({"function", "container (crun)"} <= report.kinds for report in reports)
        assert all(report.kinds.isdisjoint(report.why_not) for report in reports)
        pool.destroy(children[0])
        assert children[1].exec("true").ok


async def _reports(fleet: HereFleet) -> list[Report]:
    return [await host.report() for host in fleet.hosts]


def test_a_machine_is_saved_as_a_whole_and_its_copies_are_others(pool: BlockingPool, machine: dict[str, Any]) -> None:
    box = pool.create(**machine, limits=SMALL)
    box.exec("echo one > /tmp/file; (sleep 1000 > /dev/null 2>&1 &) ; true")
    first = box.snapshot()
    assert box.exec("echo two > /tmp/file; pgrep -x sleep").ok
    children = box.fork(2)
    assert box.exec("pkill -x sleep; echo three > /tmp/file").ok
    seen = list[str]()
    for child in children:
        result = child.exec("cat /tmp/file; pgrep -cx sleep; head -c 16 /dev/urandom | od -A n -x; date +%s")
        assert result.stdout.text.startswith("two\n1\n")  # what ran in the box goes on in its copies
        _, _, random, now = result.stdout.text.splitlines()
        assert abs(time.time() - int(now)) < LATE_S
        seen += [random, str(child.python("f", source="import uuid\ndef f(): return str(uuid.uuid4())").value)]
        pool.destroy(child)
    box.rollback(first)
    assert box.exec("cat /tmp/file; pgrep -cx sleep").stdout.text == "one\n1\n"
    seen += box.exec("head -c 16 /dev/urandom | od -A n -x; cat /proc/sys/kernel/random/uuid").stdout.text.splitlines()
    assert len(set(seen)) == len(seen) == 6
    with pytest.raises(ValueError, match="which this box has not taken"):
        box.rollback("s999")
    with pytest.raises(UnsupportedError, match="it can: fork, pause, resume, rollback, snapshot"):
        box.diff()
    still_works(box)
    pool.destroy(box)
    assert not list(pool.pool.folder.glob("fork-*"))


def _first_of(group: Cgroup) -> int:
    """The process that is the first in its own namespace."""
    for pid in group.processes():
        if Path(f"/proc/{pid}/status").read_text().partition("NSpid:")[2].split("\n")[0].split()[-1] == "1":
            return pid
    raise AssertionError("none is")


def test_a_machine_is_run_by_nobody(pool: BlockingPool, machine: dict[str, Any]) -> None:
    box = pool.create(**machine, limits=SMALL)
    folder = Path(f"/proc/{_first_of(group_of(pool, box))}")
    lines = (folder / "status").read_text().splitlines()
    status = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
    assert status["Name"] == ["qemu-system-x86"]
    assert all(int(uid) > 200_000 for uid in status["Uid"] + status["Gid"])
    assert status["Groups"] == []
    assert {int(status[name][0], 16) for name in ("CapPrm", "CapEff", "CapInh", "CapAmb", "CapBnd")} == {0}
    assert (status["NoNewPrivs"], status["Seccomp"]) == (["1"], ["2"])
    assert int(status["Seccomp_filters"][0]) >= 2  # its own and ours
    assert {line.split(":")[0].strip() for line in (folder / "net/dev").read_text().splitlines()[2:]} == {"lo"}
    assert not (folder / "root/etc/passwd").exists()
    pool.destroy(box)


def test_a_template_is_of_all_that_makes_a_machine(pool: BlockingPool, machine: dict[str, Any], home: Path) -> None:
    images = Images(home / "images")
    pool.destroy(pool.create(**machine, limits=SMALL))
    layer = (VmLayer if machine["layer"] == "vm" else MicrovmLayer)(home, images)

    def names() -> set[str]:
        """Of this layer and with as much memory; those of other tests have more."""
        kind = machine["layer"], layer.ram_bytes(SMALL)
        return {
            folder.name for folder, about in templates.every(home) if (about.get("layer"), about.get("memory_bytes")) == kind
        }

    layers = images.get(machine["image"]).layers

    def key(layers: tuple[str, ...] = layers, **changed: Any) -> str:
        limits = Limits(**{**vars(SMALL), **changed})
        return layer.key(BoxSpec(LayerName(machine["layer"]), machine["image"], limits=limits), layers)

    assert names() == {key()}
    assert key(wall_s=1.0, cpu_s=None, keep_bytes=1) == key()  # of commands, and not of the machine
    changed: list[dict[str, Any]] = [{"memory_bytes": 97 << 20}, {"num_pids": 33}, {"disk_bytes": 9 << 20}, {"cpus": 2.0}]
    keys = [key(), *(key(**one) for one in changed), key(layers=(*layers, "0" * 64))]
    layer.version = os.stat(__file__)
    keys.append(key())
    assert len(set(keys)) == 7


HALF = """
import asyncio, os, sys, time
from pathlib import Path
from sandbox.templates import STATE, Templates

async def make(folder, memory):
    os.pwrite(memory, b"half", 8192)
    (folder / STATE).write_bytes(b"half")
    print("made", flush=True)
    time.sleep(100)

asyncio.run(Templates(Path(sys.argv[1]) / "cache").get("t", {"layers": []}, make, 1 << 20))
"""


def test_a_template_that_was_not_finished_is_never_used(tmp_path: Path) -> None:
    made = list[str]()

    async def make(folder: Path, memory: int) -> None:
        made.append(folder.name)
        assert not (folder / templates.STATE).exists()
        os.pwrite(memory, b"whole", 4096)
        (folder / templates.STATE).write_bytes(b"whole")

    def get() -> templates.Template:
        return asyncio.run(templates.Templates(tmp_path / "cache").get("t", {"layers": []}, make, 1 << 20))

    with subprocess.Popen([sys.executable, "-c", HALF, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert templates.collect(tmp_path) == []  # it is being made
        process.kill()
    assert templates.collect(tmp_path) == ["t.half"]
    for _ in range(2):
        template = get()
        assert (template.folder / templates.STATE).read_bytes() == b"whole"
        assert os.pread(template.memory, 16384, 0) == bytes(4096) + b"whole" + bytes(16384 - 4101)
        with pytest.raises(PermissionError):
            os.pwrite(template.memory, b"x", 0)
        os.close(template.memory)
    assert made == ["t.half"]  # once; then it was there
    os.utime(template.folder, (0, 0))
    assert templates.collect(tmp_path) == ["t"]  # nobody has used it for long


def test_a_layer_that_cannot_says_what_it_can(pool: BlockingPool) -> None:
    box = pool.create("function", limits=SMALL)
    with pytest.raises(UnsupportedError, match="snapshot: a box of the function layer cannot; it can: "):
        box.snapshot()
    still_works(box)


def test_a_command_in_the_background_goes_on_is_signalled_and_ended(box: BlockingBox) -> None:
    pieces = list[bytes]()
    server = box.start(
        "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.05; done", on_output=lambda _, p: pieces.append(p)
    )
    assert box.exec("echo beside").stdout.text == "beside\n"
    deadline = time.monotonic() + LATE_S
    while not pieces:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert server.running
    server.kill(signal.SIGTERM)
    result = server.wait()
    assert (result.verdict, result.exit_code, result.stdout.text) == (Verdict.NONZERO, 3, "up\nbye\n")
    server.kill()  # of what has ended
    hard = box.start("trap '' TERM INT; (setsid sleep 100 &); while :; do sleep 1; done")
    hard.kill()
    assert (hard.wait().verdict, hard.wait().signal) == (Verdict.SIGNAL, signal.SIGKILL)
    left = box.start("setsid sleep 100 & echo started")
    assert left.wait().ok
    left.kill()  # what it has left behind
    assert box.exec("pgrep sleep").exit_code == 1


def test_a_call_that_is_cancelled_is_ended(pool: BlockingPool, box: BlockingBox) -> None:
    async def cancelled() -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                await box.box.exec("setsid sleep 100 & sleep 100")

    pool.wait(cancelled())
    deadline = time.monotonic() + LATE_S
    while box.exec("pgrep sleep").ok:
        assert time.monotonic() < deadline


def test_a_kill_does_not_overtake_the_start(pool: BlockingPool, box: BlockingBox) -> None:
    async def both() -> Verdict:
        started = await box.box.start("sleep 20", stdin=bytes(3 << 20))
        await started.kill()
        return (await started.wait()).verdict

    assert pool.wait(both()) is Verdict.SIGNAL


def until(terminal: BlockingTerminal, text: bytes) -> bytes:
    """What a terminal shows up to this text."""
    shown = b""
    while text not in shown:
        piece = terminal.read()
        assert piece, shown
        shown += piece
    return shown


def test_a_terminal_is_one(box: BlockingBox, layer: dict[str, Any]) -> None:
    terminal = box.terminal(["/bin/sh", "-i"], rows=30, columns=100, env={"PS1": "> "})
    until(terminal, b"> ")
    terminal.write(b"stty size; tty; test -t 0 -a -t 1 -a -t 2 && echo th'r'ee\n")
    shown = until(terminal, b"three\r\n")
    assert b"30 100\r\n/dev/pts/" in shown
    terminal.resize(40, 132)
    terminal.write(b"stty size\n")
    until(terminal, b"40 132\r\n")
    if layer.get("runtime") == "runsc":  # whose terminals know no Ctrl-C
        terminal.kill()
        return
    terminal.write(b"sh -c \"echo sl'ee'ps; exec sleep 100\"\n")
    until(terminal, b"sleeps\r\n")  # before that a Ctrl-C may hit a shell that is about to become the command
    terminal.write(b"\x03")
    until(terminal, b"> ")
    terminal.write(b"cat > /dev/null\n" + (b"x" * 1000 + b"\n") * 200 + b"\x04exit 5\n")  # more than it takes at once
    while terminal.read():
        pass
    assert terminal.wait().exit_code == 5
    terminal.write(b"nobody reads this")


def test_a_closed_terminal_takes_its_processes_along(box: BlockingBox) -> None:
    terminal = box.terminal("sleep 100")
    terminal.kill()
    assert terminal.wait().signal == signal.SIGKILL
    assert terminal.read() == b""


def test_a_file_is_traced_to_the_call_that_wrote_it(box: BlockingBox) -> None:
    def apart() -> None:
        time.sleep(0.05)  # what comes right after could have been it

    apart()
    box.exec("echo one > /tmp/traced; echo > /tmp/other")
    apart()
    box.write_file("/tmp/traced.too", b"x")
    apart()
    box.exec("cat /tmp/traced")
    [shown] = box.written_by("/tmp/traced")
    assert shown.endswith("exec /bin/sh -c echo one > /tmp/traced; echo > /tmp/other")
    [shown] = box.written_by("/tmp/traced.too")
    assert shown.endswith("write /tmp/traced.too")
    apart()
    box.exec("touch -d 2001-01-01 /tmp/traced")  # what it says of itself is not what it was
    [shown] = box.written_by("/tmp/traced")
    assert "touch" in shown
    assert box.written_by("/usr/bin/env") == []
    with pytest.raises(FileNotFoundError):
        box.written_by("/no/such")


def test_folders_go_in_and_out(box: BlockingBox, layer: dict[str, Any], tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "deep" / "er").mkdir(parents=True)
    (source / "run.sh").write_text("#!/bin/sh\necho ran\n")
    (source / "run.sh").chmod(0o755)
    (source / "deep" / "er" / "data").write_bytes(bytes(range(256)))
    (source / "link").symlink_to("/etc/passwd")
    box.upload(source, "/tmp/up")
    assert box.exec("/tmp/up/run.sh; cd /tmp/up; printf '%s\\n' [a-k]* r*").stdout.text == "ran\ndeep\nrun.sh\n"
    num_files = 20 if layer.get("runtime") == "runsc" else 200 if layer["layer"] in ("microvm", "vm") else 2000
    odd = f"ln -s /etc/shadow shadow; mkfifo pipe; mkdir empty; (cd deep; seq {num_files} | xargs touch)"
    assert box.exec(f"cd /tmp/up; {odd}").ok
    assert len(box.list_files("/tmp/up")) == num_files + 7
    box.exec("rm /tmp/up/deep/?*[0-9]")
    target = tmp_path / "target"
    box.download("/tmp/up", target)
    found = {str(path.relative_to(target)) for path in target.rglob("*")}
    assert found == {"deep", "deep/er", "deep/er/data", "empty", "run.sh", *(f"deep/{i}" for i in range(1, 10))}
    assert (target / "deep" / "er" / "data").read_bytes() == bytes(range(256))
    box.download("/tmp/up/run.sh", tmp_path / "one.sh")
    assert (tmp_path / "one.sh").read_text().startswith("#!/bin/sh")
    with pytest.raises(ValueError, match="raise max_bytes"):
        box.download("/tmp/up", tmp_path / "small", max_bytes=100)
    with pytest.raises(FileNotFoundError):
        box.download("/no/such", tmp_path / "none")
    (target / "run.sh").unlink()
    (target / "run.sh").symlink_to(tmp_path / "outside")
    with pytest.raises(OSError, match="symbolic link"):
        box.download("/tmp/up", target)
    assert not (tmp_path / "outside").exists()


def test_commands_run_as_the_user_that_is_asked_for(box: BlockingBox, layer: dict[str, Any]) -> None:
    if layer["layer"] == "function":
        with pytest.raises(UnsupportedError, match="user: got 'root'"):
            box.exec("id", user="root")
        return
    assert box.exec("id -u").stdout.text == "1000\n"
    assert box.exec("id -un; id -gn", user="daemon").stdout.text == "daemon\ndaemon\n"
    with pytest.raises(ValueError, match="user: got 'nobody-here'"):
        box.exec("id", user="nobody-here")
    box.write_file("/tmp/mine", b"")
    assert box.exec("chown daemon /tmp/mine && rm -f /tmp/theirs", user="root").ok
    if layer.get("runtime") != "runsc":  # where root may end the first process
        assert not box.exec("kill -9 1; echo x > /proc/1/mem", user="root").ok
    still_works(box)


def test_a_box_takes_more_commands_than_it_may_have_files_open(pool: BlockingPool, layer: dict[str, Any]) -> None:
    if layer["layer"] in ("microvm", "vm") or layer.get("runtime") == "runsc":
        return  # the same agent, and slow
    box = pool.create(**layer, limits=Limits(**{**vars(SMALL), "num_files": 64}))
    assert all(box.exec(["true"]).ok for _ in range(80))
    pool.destroy(box)
