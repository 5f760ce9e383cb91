"""The processes that ask math-verify: limits, deaths, threads, forks, and verdicts that are remembered."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from rewards import symbolic
from rewards.symbolic import Verdict

ROOT = Path(__file__).resolve().parents[1]


def equal(gold: str, candidate: str) -> bool:
    return symbolic.compare(gold, candidate) is Verdict.EQUAL


def test_equal_in_threads_and_after_a_costly_expression(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symbolic, "CPU_LIMIT_S", 0.5)
    monkeypatch.setattr(symbolic, "_BOMB", re.compile("(?!)"))
    assert symbolic.compare("5", "9^{9^{9^{9}}}") is Verdict.TOO_COSTLY
    assert symbolic.compare("5", "(((x^2+3)^{999}+7)^{999}+y)^{999}") is Verdict.TOO_COSTLY
    results: list[bool] = []
    threads = [threading.Thread(target=lambda: results.append(equal("2^{10}", "1024"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == [True] * 4


def test_equal_survives_the_death_of_its_child() -> None:
    assert equal("x+1", "1+x")
    assert symbolic.children()
    for pid in symbolic.children():
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert equal("x+2", "2+x")
    assert equal("x+1", "1+x")


def test_a_worn_child_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    assert equal("x+3", "3+x")
    worn = symbolic.children()
    monkeypatch.setattr(symbolic, "WORN_BYTES", 0)
    for number in range(4, 4 + len(worn)):
        assert equal(f"x+{number}", f"{number}+x")
    monkeypatch.undo()
    for pid in worn:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert equal("x+9", "9+x")
    assert not set(worn) & set(symbolic.children())


def test_a_bomb_costs_one_process_and_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight threads ask for one bomb; others are answered meanwhile; it is tried once, and remembered."""
    monkeypatch.setattr(symbolic, "_BOMB", re.compile("(?!)"))
    monkeypatch.setattr(symbolic, "CPU_LIMIT_S", 1000.0)
    found: list[Verdict] = []
    bombs = [threading.Thread(target=lambda: found.append(symbolic.compare("5", "8^{8^{8^{8}}}"))) for _ in range(8)]
    for thread in bombs:
        thread.start()
    while not symbolic.children():
        time.sleep(0.01)
    for i in range(10, 15):
        assert equal(f"x+{i}", f"{i}+x")
    assert all(thread.is_alive() for thread in bombs)
    (busy,) = symbolic._verdicts.pool._busy
    os.kill(busy.pid, signal.SIGPROF)  # what the timer of its CPU limit does
    for thread in bombs:
        thread.join(120)
    assert found == [Verdict.TOO_COSTLY] * 8
    assert symbolic.compare("5", "8^{8^{8^{8}}}") is Verdict.TOO_COSTLY
    assert equal("2^{10}", "1024")


def test_equal_in_a_forked_process() -> None:
    assert equal("x+6", "6+x")
    pid = os.fork()
    if pid == 0:
        verdict = equal("x+6", "6+x") and not equal("x+6", "7+x")
        for child in symbolic.children():
            os.kill(child, signal.SIGKILL)
        os._exit(0 if verdict else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert equal("x+7", "7+x")


def test_the_child_ends_with_its_parent() -> None:
    script = "from rewards import symbolic; symbolic.compare('x+1', '1+x'); print(symbolic.children()[0])"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
    assert done.stderr == ""
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)


@pytest.mark.parametrize(
    ("gold", "candidate", "is_equal"),
    [
        (r"\sin^2 x", r"1 - \cos^2 x", True),
        (r"\sqrt{x} \sqrt{y}", r"\sqrt{xy}", True),  # variables as positive numbers
        (r"-1", r"e^{i \cdot \pi}", True),
        (r"3x + 2 c", r"3x + 2", False),  # c is no unit here
        (r"\frac{", "1", False),
        ("", "", False),
    ],
)
def test_compare(gold: str, candidate: str, is_equal: bool) -> None:
    assert equal(gold, candidate) is is_equal


def test_what_is_too_long_is_not_tried() -> None:
    assert symbolic.compare("5", "x" * (symbolic.MAX_CHARS + 1)) is Verdict.TOO_COSTLY


ON_RAY = """
import asyncio, os, ray
from rewards import symbolic

@ray.remote(num_cpus=0)
class Actor:
    async def ask(self, pairs):
        found = await asyncio.gather(*(asyncio.to_thread(symbolic.compare, *pair) for pair in pairs))
        return [str(verdict) for verdict in found], symbolic.children()

ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
actor = Actor.remote()
pairs = [("x+1", "1+x"), ("2^{10}", "1024"), ("x", "y"), ("x+1", "1+x")]
verdicts, pids = ray.get(actor.ask.remote(pairs), timeout=800)
ray.kill(actor)
print(*verdicts, *pids)
"""


@pytest.mark.slow
def test_in_threads_of_a_ray_actor_and_gone_with_it() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", ON_RAY]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=800, check=True)
    words = done.stdout.split()
    assert words[:4] == ["equal", "equal", "unequal", "equal"]
    pids = [int(word) for word in words[4:]]
    assert len(pids) in (1, 2)
    deadline = time.monotonic() + 400
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, "a child outlived its actor"
        time.sleep(0.05)
