"""Rewards that hang, crash or leak: the completion fails with the reason, the child is replaced, all else scores as ever."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rewards import nursery
from rewards.calls import MAX_REASON_CHARS
from rewards.errors import UserError
from rewards.isolation import IsolatedScorer
from rewards.plugin import RewardSource
from rewards.result import RewardResult, ScoreStatus
from rewards.score import Scorer
from rewards.task import Message, Role, Task
from rewards.transcript import Transcript
from rl.scoring import RewardWorker

ROOT = Path(__file__).resolve().parents[1]
TASK = Task("add/1", "math", (Message(Role.USER, "What is 6*7?"),), answer="42")
VERIFY = RewardSource("rewards.math:verify", 1.0, None, "verify")
LENGTH = RewardSource("n.py:length", 0.5, "def length(completion):\n    return len(completion) / 7\n", "length")


def bad(body: str, *, timeout_s: float = 20.0) -> RewardSource:
    """A reward that does `body` for the completion "bad" and is one third of the length for any other."""
    lines = "\n".join(f"        {line}" for line in body.splitlines())
    text = (
        "import ctypes, os, re, signal, subprocess, sys, threading, time\nfrom pathlib import Path\n"
        f"def f(completion):\n    if completion == 'bad':\n{lines}\n    return len(completion) / 3\n"
    )
    return RewardSource("mine.py:f", 2.0, text, "f", timeout_s)


def said(*completions: str) -> list[tuple[Task, Transcript]]:
    return [(TASK, Transcript.of(completion)) for completion in completions]


@contextlib.contextmanager
def worker_of(*sources: RewardSource) -> Iterator[RewardWorker]:
    worker = RewardWorker(sources)
    try:
        yield worker
    finally:
        worker.close()


def pid_of(worker: RewardWorker) -> int:
    """Of the process that scores next."""
    idle = worker._scorer._dispatcher._idle
    return idle[-1].pid


def pids_of(worker: RewardWorker) -> list[int]:
    """Of all its processes."""
    nursery = worker._scorer._nursery.pid
    assert nursery is not None
    return [nursery, *(child.pid for child in worker._scorer._dispatcher._all)]


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie, whose new parent has not reaped it yet, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for_end(pid: int) -> None:
    deadline = time.monotonic() + 120
    while is_alive(pid):
        assert time.monotonic() < deadline, f"process {pid} still lives"
        time.sleep(0.01)


HANG = {
    "python": "while True: pass",
    "swallows": "while True:\n    try: time.sleep(1)\n    except BaseException: pass",
    "signals": "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\ntime.sleep(1000)",
    "in C, holding the interpreter": "re.match('(a+)+$', 'a' * 60 + 'b')",
    "stopped": "os.kill(os.getpid(), signal.SIGSTOP)",
    "with a fork of itself": "os.fork()\ntime.sleep(1000)",
}
CRASH = {
    "os._exit(0)": "ended the process with exit status 0",
    "os._exit(3)": "ended the process with exit status 3",
    "ctypes.string_at(0)": "was killed by signal 11 (SIGSEGV)",
    "os.kill(os.getpid(), signal.SIGKILL)": "was killed by signal 9 (SIGKILL), as a machine that is out of memory does",
    "signal.raise_signal(40)": "was killed by signal 40",
    "os.fork() or time.sleep(1000)\nos._exit(4)": "ended the process with exit status 4",
    "ctypes.CDLL(None).fork() or time.sleep(1000)\nos._exit(4)": "exit status 4",  # the fork keeps the socket
    "os.closerange(3, 4096)": "ended the process with exit status 1",
    "raise SystemExit(3)": "SystemExit: 3",
    "raise KeyboardInterrupt": "KeyboardInterrupt",
    "raise GeneratorExit": "GeneratorExit",
    "return object()": "of type object",
    "return lambda: 1": "of type function",
    "import resource\nresource.setrlimit(resource.RLIMIT_AS, (2 << 30, -1))\nreturn len(bytearray(1 << 40))": "MemoryError",
    "raise ValueError('\\udc80' + 'x' * 10**7)": "characters left out",
    "for fd in range(3, 4096):\n    try: os.write(fd, b'\\xff' * 64)\n    except OSError: pass": "wrote to the connection",
}
HARMLESS = {
    "prints": "print('x' * 5_000_000); sys.stderr.write('y' * 5_000_000)",
    "writes to descriptors": "os.write(1, b'\\0' * 1000); os.write(2, b'equal')",
    "reads": "assert sys.stdin.read() == ''",
    "changes its folder": "os.chdir('/')",
    "starts a thread": "threading.Thread(target=time.sleep, args=(1000,)).start()",
    "starts a program": "subprocess.Popen(['sleep', '1000'])",
    "forks": "os.fork() or time.sleep(1000)",
    "forks and both return": "os.fork()",
    "closes its output": "sys.stdout.close(); os.closerange(0, 3)",
}
ITEMS = said("42", "bad", "It is 42.", "41", "bad", "x" * 300_000, "\\boxed{42} \udc80")


def check(source: RewardSource, failure: str | None) -> None:
    """Scores good completions between bad ones: the good ones exactly as in one process, the bad ones with `failure`."""
    sources = [VERIFY, source, LENGTH]
    plain = Scorer(sources)
    with worker_of(*sources) as worker:
        results = worker.score(ITEMS)
        pids = pids_of(worker)
    assert len(results) == len(ITEMS)
    for (task, transcript), result in zip(ITEMS, results, strict=True):
        completion = transcript.completion
        if completion == "bad" and failure is not None:
            assert (result.status, result.score) == (ScoreStatus.FAILED, None)
            assert result.error is not None
            assert failure in result.error
            assert "reward 'f' failed on task 'add/1': it " in result.error
            assert "rewards/calls.py" not in result.error  # the user's own frames
            assert len(result.error) < MAX_REASON_CHARS + 1_000
        elif completion == "bad":
            parts = {"verify": 0.0, "f": 1.0, "length": 3 / 7}
            assert result == RewardResult(ScoreStatus.OK, (2.0 + 0.5 * 3 / 7) / 3.5, parts)
        else:
            assert result == plain.score(task, transcript)
            assert result.status is ScoreStatus.OK
    assert not any(map(is_alive, pids))


@pytest.mark.parametrize("body", HANG.values(), ids=HANG)
def test_a_hang_costs_its_deadline(body: str) -> None:
    check(bad(body, timeout_s=0.3), "took longer than 0.3 s")


@pytest.mark.parametrize(("body", "failure"), CRASH.items(), ids=range(len(CRASH)))
def test_a_crash_fails_its_completion_alone(body: str, failure: str) -> None:
    check(bad(body), failure)


@pytest.mark.parametrize("body", HARMLESS.values(), ids=HARMLESS)
def test_what_disturbs_nothing(body: str, capfd: pytest.CaptureFixture[str]) -> None:
    check(bad(body), None)
    assert capfd.readouterr() == ("", "")


def test_each_reward_has_its_own_deadline() -> None:
    slow = "import time\ndef g():\n    time.sleep(0.6)\n    return 1.0\n"
    first, second = (RewardSource(f"{name}.py:g", 1.0, slow, "g", 1.0) for name in "ab")
    with worker_of(first, second) as worker:  # together longer than either may take
        assert [r.score for r in worker.score(said("x"))] == [1.0]
    with worker_of(LENGTH, RewardSource("c.py:g", 1.0, slow, "g", 0.1)) as worker:
        (result,) = worker.score(said("x"))
        assert result.error == "reward 'g' failed on task 'add/1': it took longer than 0.1 s"


def test_a_request_that_the_child_does_not_read_costs_the_deadline_too() -> None:
    """A thread of an earlier completion holds the interpreter: nobody reads what does not fit into the socket."""
    body = "threading.Timer(0.1, lambda: re.match('(a+)+$', 'a' * 60 + 'b')).start()"
    source = bad(body, timeout_s=1.0)
    with worker_of(source) as worker:
        worker.score(said("bad"))
        time.sleep(0.3)
        results = worker.score(said("x" * 3_000_000, "xyz"))
        assert results[0].error == "reward 'f' failed on task 'add/1': it took longer than 1 s"
        assert results[1].score == 1.0


def test_what_the_rewards_forked_ends_with_them(tmp_path: Path) -> None:
    file = tmp_path / "pids"
    body = f"with open({str(file)!r}, 'a') as out: print(subprocess.Popen(['sleep', '1000']).pid, file=out)\nwhile True: pass"
    with worker_of(bad(body, timeout_s=0.5), VERIFY) as worker:
        worker.score(said("bad", "bad", "\\boxed{\\sqrt{1764}}"))
        pids = [int(line) for line in file.read_text().split()]
        assert len(pids) == 2
        for pid in pids:
            wait_for_end(pid)


SCRIPT = """
import os, sys, threading
from pathlib import Path
from rewards.plugin import RewardSource
from rewards.task import Task
from rewards.transcript import Transcript
from rl.scoring import RewardWorker
text = '''
import os, re, signal, subprocess
from pathlib import Path
def f(task):
    from rewards import symbolic
    symbolic.compare("x+1", "1+x")
    pids = [os.getpid(), symbolic.children()[0], subprocess.Popen(["sleep", "1000"]).pid]
    Path("pids.new").write_text(" ".join(map(str, pids)))
    os.rename("pids.new", "pids")
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    re.match("(a+)+$", "a" * 60 + "b")
'''
worker = RewardWorker([RewardSource("m.py:f", 1.0, text, "f", 600.0)])
threading.Thread(target=worker.score, args=([(Task("1", "math", ()), Transcript.of(""))],), daemon=True).start()
if sys.stdin.readline():  # the test sends a line once the reward hangs
    sys.exit()
"""


@pytest.mark.parametrize("end", ["kill", "exit"])
def test_the_children_end_with_the_run(tmp_path: Path, end: str) -> None:
    """A reward that hangs in C with signals blocked, the process for sympy below it, and a program that it started."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SCRIPT]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        try:
            deadline = time.monotonic() + 400
            while not (tmp_path / "pids").exists():
                assert run.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
            assert all(is_alive(pid) for pid in pids)
        finally:
            if end == "kill":
                run.kill()
            _, err = run.communicate(b"end\n", timeout=300)
    assert err == b""
    for pid in pids:
        wait_for_end(pid)


def test_a_child_outlives_the_thread_that_started_it() -> None:
    with worker_of(bad("os._exit(1)")) as worker:
        thread = threading.Thread(target=worker.score, args=(said("bad", "x"),))
        thread.start()
        thread.join(60)
        pid = pid_of(worker)
        assert [r.score for r in worker.score(said("xxx"))] == [1.0]
        assert pid_of(worker) == pid


def test_threads_share_a_worker() -> None:
    found: dict[int, list[float | None]] = {}
    with worker_of(bad("os._exit(1)")) as worker:

        def score(n: int) -> None:
            found[n] = [r.score for r in worker.score(said("x" * n, "bad", "x" * (n + 1)) * 3)]

        threads = [threading.Thread(target=score, args=(n,)) for n in range(10, 16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert found == {n: [n / 3, None, (n + 1) / 3] * 3 for n in range(10, 16)}


def test_an_interrupt_shifts_no_reply() -> None:
    """Ctrl-C while the main thread waits for a reply that comes afterwards."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started ignoring it
    with worker_of(bad("time.sleep(1)")) as worker:
        main = threading.main_thread().ident
        timer = threading.Timer(0.3, signal.pthread_kill, [main, signal.SIGINT])  # as the kernel does: to the main thread
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            worker.score(said("bad"))
        timer.join()
        assert [r.score for r in worker.score(said("xxx", "x" * 6))] == [1.0, 2.0]
    signal.signal(signal.SIGINT, before)


def test_close_ends_a_score_in_another_thread() -> None:
    raised: list[BaseException] = []
    worker = RewardWorker([bad("time.sleep(1000)", timeout_s=600.0)])

    def score() -> None:
        try:
            worker.score(said("bad", "x"))
        except RuntimeError as error:
            raised.append(error)

    thread = threading.Thread(target=score)
    thread.start()
    while len(pids := pids_of(worker)) < 2:
        time.sleep(0.01)
    time.sleep(0.1)
    worker.close()
    thread.join(20)
    assert [str(error) for error in raised] == ["the rewards are closed"]
    assert not any(map(is_alive, pids))
    worker.close()
    with pytest.raises(RuntimeError, match="closed"):
        worker.score(said("x"))


def test_a_child_that_dies_idle_is_replaced() -> None:
    with worker_of(LENGTH) as worker:
        worker.score(said("x"))
        for pid in pids_of(worker):  # the one that scored, and the one that it was forked from
            os.kill(pid, signal.SIGKILL)
            wait_for_end(pid)
        assert [r.score for r in worker.score(said("x" * 7))] == [1.0]


def test_a_forked_process_leaves_its_parents_child_alone() -> None:
    with worker_of(LENGTH) as worker:
        pid = os.fork()
        if pid == 0:
            ok = False
            with contextlib.suppress(BaseException):
                ok = [r.score for r in worker.score(said("x" * 7))] == [1.0]
                worker.close()
            os._exit(0 if ok else 1)
        assert os.waitpid(pid, 0)[1] == 0
        assert [r.score for r in worker.score(said("x" * 14))] == [2.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import os\nos._exit(5)\n", "ended the process with exit status 5 while it loaded"),
        ("import ctypes\nctypes.string_at(0)\n", "was killed by signal 11 (SIGSEGV) while it loaded"),
        ("raise KeyboardInterrupt\n", "KeyboardInterrupt"),
        ("1/0\n", "mine.py does not load"),
        ("def g(): return 0.0\n", "no function 'f'"),
        ("while True: pass\n", "took longer than 2 s to load"),
    ],
)
def test_a_reward_that_does_not_load_is_named_when_the_worker_is_built(
    text: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nursery, "LOAD_LIMIT_S", 2.0 if "while" in text else 60.0)
    with pytest.raises(UserError) as caught:
        IsolatedScorer([LENGTH, RewardSource("mine.py:f", 1.0, text, "f")])
    assert message in str(caught.value)
    assert "mine.py" in str(caught.value)


def test_the_child_imports_no_torch() -> None:
    text = (
        "import sys\ndef f():\n    return float(len({'torch', 'ray', 'transformers', 'sympy', 'numpy'} & set(sys.modules)))\n"
    )
    with worker_of(VERIFY, RewardSource("m.py:f", 1.0, text, "f")) as worker:
        (result,) = worker.score(said("41"))
        assert result.parts == {"verify": 0.0, "f": 0.0}
