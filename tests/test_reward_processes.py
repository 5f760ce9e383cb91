"""Who shares a process with whom: async calls side by side, batches by group, calls that wait or hang beside others."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from rewards import dispatch, work
from rewards.calls import MAX_REASON_CHARS
from rewards.config import SandboxConfig
from rewards.errors import UserError
from rewards.isolation import check_rewards
from rewards.marks import Marks
from rewards.plugin import RewardSource
from rewards.result import RewardResult, ScoreStatus
from rewards.score import Scorer
from rewards.task import Message, Role, Task
from rewards.transcript import Transcript
from rl.scoring import RewardWorker

TASK = Task("t/1", "math", (Message(Role.USER, "What is 6*7?"),), answer="42", data={"level": 3})
ROOT = Path(__file__).resolve().parents[1]
LONG_S = 60.0  # a deadline that nothing here comes near to, on any machine


def said(*completions: str, group: str = "") -> list[tuple[Task, Transcript]]:
    return [(TASK, Transcript.of(completion, group=group)) for completion in completions]


def source(text: str, timeout_s: float = LONG_S, *, name: str = "f") -> RewardSource:
    imports = "import asyncio, ctypes, os, re, signal, subprocess, threading, time\nfrom pathlib import Path\n"
    return RewardSource(f"{name}.py:{name}", 1.0, imports + text, name, timeout_s)


@contextlib.contextmanager
def worker_of(*sources: RewardSource, num_processes: int = 1, num_boxes: int = 4) -> Iterator[RewardWorker]:
    worker = RewardWorker(sources, SandboxConfig(num_boxes=num_boxes), num_processes)
    try:
        yield worker
    finally:
        worker.close()


def scores(results: Sequence[RewardResult]) -> list[float | None]:
    return [result.score for result in results]


# ---- async calls

TOGETHER = """
meeting = asyncio.Barrier(8)
async def f(completion):
    await meeting.wait()  # nobody passes before all are here
    return len(completion)
"""


def test_async_calls_run_side_by_side_in_one_process() -> None:
    with worker_of(source(TOGETHER)) as worker:
        assert scores(worker.score(said(*("x" * n for n in range(8))))) == list(range(8))
        assert scores(worker.score(said(*("x" * n for n in range(8))))) == list(range(8))
        assert len(worker._scorer._dispatcher._all) == 1


BAD = {
    "await asyncio.sleep(1000)": "took longer than 1 s",
    "while True:\n        try: await asyncio.sleep(1000)\n        except asyncio.CancelledError: pass": "took longer than 1 s",
    "await asyncio.gather(*(asyncio.sleep(1000) for _ in range(3)))": "took longer than 1 s",
    "time.sleep(1000)": "held the event loop for longer than 1 s without an await",
    "while True: pass": "held the event loop for longer than 1 s",
    "re.match('(a+)+$', 'a' * 60 + 'b')": "held the event loop for longer than 1 s",  # in C, holding the interpreter
    "await asyncio.gather(asyncio.sleep(0), asyncio.to_thread(int), hang())": "held the event loop for longer than 1 s",
    "os._exit(3)": "ended the process with exit status 3",
    "await asyncio.sleep(0.05)\n    ctypes.string_at(0)": "was killed by signal 11 (SIGSEGV)",
    "raise KeyError('x')": "KeyError: 'x'",
    "raise KeyboardInterrupt": "KeyboardInterrupt",
    "asyncio.current_task().cancel()\n    await asyncio.sleep(0)": "CancelledError",
    "return 'x'": "returned 'x' of type str",
}


@pytest.mark.parametrize("body", BAD, ids=range(len(BAD)))
def test_an_async_call_that_goes_wrong_fails_alone(body: str) -> None:
    """Others that have begun and are waiting come out as ever, though their process may have had to be replaced."""
    text = f"""
async def hang():
    time.sleep(1000)
async def bad(completion):
    {body}
async def f(completion):
    if completion == "bad":
        return await bad(completion)
    await asyncio.sleep(0.01)
    return len(completion) / 2
"""
    length = source("def g(completion): return len(completion)", name="g")
    with worker_of(source(text, 1.0), length) as worker:
        results = worker.score(said("x", "bad", "xxx", "xxxx"))
    assert scores(results) == [0.75, None, 2.25, 3.0]
    assert BAD[body] in str(results[1].error)
    assert results[1].parts == {"g": 3.0}


def test_what_nobody_can_be_blamed_for_is_tried_again_once(tmp_path: Path) -> None:
    """A callback ends the process once, then in every process."""
    text = f"""
once = Path({str(tmp_path / "once")!r})
def end(always):
    if always or not once.exists():
        once.touch()
        os._exit(7)
async def f(completion):
    asyncio.get_running_loop().call_soon(end, completion == "always")
    await asyncio.sleep(0.2)
    return 1.0
"""
    with worker_of(source(text)) as worker:
        assert scores(worker.score(said("once", "once"))) == [1.0, 1.0]
        results = worker.score(said("always", "once"))
    assert scores(results) == [None, None]
    assert "ended the process with exit status 7" in str(results[0].error)


def test_a_call_that_does_not_end_and_keeps_its_box_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "STUCK_S", 0.5)
    text = """
from rewards import many
many.LEAVE_S = 0.1
async def f(completion, boxes):
    async with boxes.box() as box:
        while completion == "bad":
            try: await asyncio.sleep(1000)
            except asyncio.CancelledError: pass
        return 1.0
"""
    with worker_of(source(text, 2.0), num_boxes=1) as worker:
        results = worker.score(said("bad", "x", "xx"))
        assert scores(results) == [None, 1.0, 1.0]
        assert "took longer than 2 s" in str(results[0].error)


STEPS = """
import os, sys
from rewards.marks import Marks
marks = Marks(int(sys.argv[1]), 300)
print(flush=True)
while os.getppid() == int(sys.argv[2]):
    for number in range(300):
        marks.enter(number)
        marks.leave()
"""


def test_marks_are_whole_whenever_they_are_read() -> None:
    marks, fd = Marks.make(300)
    began, seen = time.monotonic(), 0
    words = [sys.executable, "-c", STEPS, str(fd), str(os.getpid())]
    with subprocess.Popen(words, pass_fds=[fd], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            process.stdout.readline()
            while seen < 30_000:
                if (running := marks.running) is not None:
                    assert running[1] >= began
                    seen += 1
        finally:
            process.kill()
    os.close(fd)


# ---- batches

SIZE = "def f(completions, level):\n    if 'bad' in completions: {}\n    return [len(completions) + x for x in level]\n"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("raise ValueError('no')", "ValueError: no"),
        ("return [1.0]", "returned 1 values for 2 completions"),
        ("time.sleep(1000)", "took longer than 1 s"),
        ("os._exit(3)", "ended the process with exit status 3"),
    ],
)
def test_a_batch_is_a_group_and_fails_as_one(body: str, reason: str) -> None:
    items = said("a", "b", "c", group="1") + said("a", "bad", group="2") + said("a", group="3")
    with worker_of(source(SIZE.format(body), 1.0)) as worker:
        results = worker.score(items)
    assert scores(results) == [6.0, 6.0, 6.0, None, None, 4.0]
    assert all(reason in str(results[i].error) for i in (3, 4))


def test_one_of_a_batch_fails_alone() -> None:
    text = (
        "def f(completions):\n    return [float('nan') if c == 'bad' else None if c == 'none' else 1.0 for c in completions]\n"
    )
    with worker_of(source(text), source("async def g(completions): return [1] * len(completions)", name="g")) as worker:
        results = worker.score(said("a", "bad", "none"))
    assert [(r.status, dict(r.parts)) for r in results] == [
        (ScoreStatus.OK, {"f": 1.0, "g": 1.0}),
        (ScoreStatus.FAILED, {"g": 1.0}),
        (ScoreStatus.OK, {"g": 1.0}),
    ]


def test_all_kinds_together_give_what_one_process_gives() -> None:
    kinds = [
        source("def f(completion, level): return len(completion) / level"),
        source("async def g(completion): return len(completion)", name="g"),
        source("def h(completions): return [len(c) for c in completions]", name="h"),
        source("async def i(completions): return [None if len(c) > 2 else 1 for c in completions]", name="i"),
    ]
    plain = Scorer(kinds)
    items = said(*("x" * n for n in range(6)))
    expected = [plain.score(task, transcript) for task, transcript in items]
    plain.close()
    with worker_of(*kinds, num_processes=2) as worker:
        assert worker.score(items) == expected


# ---- calls that last

SIGNAL = """
sign = Path({sign!r})
def f(completion):
    while completion == "wait" and not sign.exists():
        time.sleep(0.02)
    while completion == "spin" and not sign.exists():
        pass
    if completion == "go":
        sign.touch()
    return len(completion)
"""


@pytest.mark.parametrize("kind", ["wait", "spin"])
def test_a_call_that_lasts_makes_room(kind: str, tmp_path: Path) -> None:
    """One process at a time: a later call ends what an earlier one waits for, or computes for far longer than others do."""
    text = SIGNAL.format(sign=str(tmp_path / "sign"))
    with worker_of(source(text)) as worker:
        worker.score(said(*["x"] * dispatch.NUM_USUAL))
        assert scores(worker.score(said(kind, kind, "x", "go"))) == [4.0, 4.0, 1.0, 2.0]


def test_calls_that_compute_as_long_as_others_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "FIRST_S", LONG_S)
    text = f"""
mine = Path({str(tmp_path / "mine")!r})
def f():
    mine.touch(exist_ok=False)  # raises where another is at it
    end = time.process_time() + 0.4
    while time.process_time() < end: pass
    mine.unlink()
    return 1.0
"""
    with worker_of(source(text)) as worker:
        assert scores(worker.score(said("a", "b", "c"))) == [1.0] * 3


def test_calls_with_a_box_never_use_more_than_there_may_be() -> None:
    text = "def f(box):\n    time.sleep(0.5)\n    return len(box.exec('echo 42').stdout.text)"
    with worker_of(source(text), num_processes=4, num_boxes=2) as worker:
        assert scores(worker.score(said(*"abcd"))) == [3.0] * 4
        assert len(worker._scorer._dispatcher._all) <= 2


def test_a_reply_that_this_process_reads_late_is_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another call closes its connection and lives on: its process is waited for beyond the deadline of this one."""
    monkeypatch.setattr(dispatch, "DYING_S", 3.0)
    text = """
def f(completion):
    if completion == "bad":
        os.closerange(3, 4096)
        time.sleep(1000)
    time.sleep(0.2)
    return 1.0
"""
    with worker_of(source(text, 2.0), num_processes=2) as worker:
        assert scores(worker.score(said("bad", "x"))) == [None, 1.0]


def test_a_note_without_end_is_shortened() -> None:
    text = "from rewards.result import Score\ndef f(completion): return Score(1.0, note='\\udc80' * len(completion))"
    with worker_of(source(text)) as worker:
        results = worker.score(said("x", "x" * 10_000_000, "xxx"))
    assert scores(results) == [1.0, 1.0, 1.0]
    assert [len(r.notes["f"]) < 2 * MAX_REASON_CHARS for r in results] == [True] * 3
    assert "9980000 characters left out" in results[1].notes["f"]


# ---- where nothing can be forked

THREAD = "threading.Thread(target=time.sleep, args=(1000,), daemon=True, name='mine').start()\n"


def test_what_starts_a_thread_as_it_loads_has_one_process() -> None:
    text = THREAD + "async def f(completion):\n    if completion == 'bad': os._exit(2)\n    return os.getpid()"
    plain = source("def g(completion):\n    if completion == 'hang': time.sleep(1000)\n    return os.getpid()", 1.0, name="g")
    with worker_of(source(text), plain, num_processes=2) as worker:
        assert worker._scorer.alone_because == "its loading started the thread mine"
        results = worker.score(said("a", "bad", "b", "hang", "c"))
        again = worker.score(said("a"))[0]
    assert [r.status is ScoreStatus.OK for r in results] == [True, False, True, False, True]
    assert "ended the process with exit status 2" in str(results[1].error)
    assert "took longer than 1 s" in str(results[3].error)
    assert again.parts["f"] == again.parts["g"]


# ---- boxes

BOXED = """
from rewards.result import Score
async def f(completion, boxes, box):
    async with boxes.box() as other:
        await other.write_file("/tmp/mine", completion.encode())
        seen = await box.exec("cat /tmp/mine")
        done = await other.exec(["python3", "-c", completion])
        return Score(float(done.stdout.text == "42\\n"), {"leaks": len(seen.stdout.text)}, note=str(done.verdict))
"""


def keepers() -> set[int]:
    """The keepers of pools that rewards hold."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if b"sandbox.keeper" in words and words[words.index(b"--lease-s") + 1] == b"2.0":
                found.add(int(entry.name))
    return found


def wait_for(condition: object, what: str) -> None:
    deadline = time.monotonic() + LONG_S
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def test_boxes() -> None:
    before = keepers()
    with worker_of(source(BOXED), num_boxes=4) as worker:
        results = worker.score(said("print(6*7)", "print(41)", "1/0", "import os; os._exit(42)"))
        mine = keepers() - before
        assert scores(results) == [1.0, 0.0, 0.0, 0.0]
        assert [r.notes["f"] for r in results] == ["ok", "ok", "nonzero", "nonzero"]
        assert all(r.parts["f/leaks"] == 0.0 for r in results)
    assert mine
    wait_for(lambda: not keepers() & mine, "boxes outlive the rewards")


@pytest.mark.parametrize(
    "text",
    [
        """
async def f(completion, boxes, box):
    if completion == "bad":
        os.kill(boxes._pool._process.pid, signal.SIGKILL)
    return len((await box.exec("echo 42")).stdout.text)
""",
        """
def f(completion, box):
    if completion == "bad":
        os.kill(box.pool.pool._process.pid, signal.SIGKILL)
        box.exec("sleep 1000")
    return len(box.exec("echo 42").stdout.text)
""",
    ],
    ids=["async", "plain"],
)
def test_a_box_that_is_lost_fails_the_score(text: str) -> None:
    """The end of a box is no wrong answer, and others are to be had afterwards."""
    before = keepers()
    with worker_of(source(text), num_boxes=1) as worker:
        results = worker.score(said("x", "bad", "x"))
        assert scores(results) == [3.0, None, 3.0]
        assert "sandbox.errors.BoxLostError" in str(results[1].error)
        mine = keepers() - before
        for child in worker._scorer._dispatcher._all:
            child.kill()
        wait_for(lambda: not keepers() & mine, "boxes outlive the process that holds them")


def test_boxes_that_cannot_be_had_are_said_before_a_run(tmp_path: Path) -> None:
    async_, plain = source(BOXED), source("def g(completion, level): return 1.0", name="g")
    nowhere = SandboxConfig(layer="container", image="no-such-image")
    check_rewards([plain], nowhere, [TASK], try_box=True)
    check_rewards([async_, plain], nowhere, [TASK], try_box=False)
    with pytest.raises(UserError, match=r"layer container, and no box of it can be had here, which reward 'f.py:f' needs: im"):
        check_rewards([async_, plain], nowhere, [TASK], try_box=True)
    with pytest.raises(UserError, match=r"reward 'g.py:g': asks for 'level', which is no column"):
        check_rewards([plain], nowhere, [Task("t", "math", ())], try_box=True)
