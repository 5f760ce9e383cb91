"""Verifiers of mathematics side by side, each in a process of its own that is killed when an answer takes too long.

Run as a module it is that process: lines of JSON in, [gold, completion] for one answer or a list of them for a batch, and
[reward, CPU seconds] or [CPU seconds, wall seconds] out.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import resource
import select
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

CPU_LIMIT_S = 15.0  # for an answer, where it does not wait; peers' own limits are 5 s for parsing, 5 s for comparing
WALL_LIMIT_S = 90.0  # for an answer, on a machine that does other things
MEMORY_LIMIT_BYTES = 4 << 30
START_LIMIT_S = 300.0
BATCH_LIMIT_S = 3600.0
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_ROOT = Path(__file__).parents[2]


class Contender(StrEnum):
    OURS = "polymath"
    MATH_VERIFY = "math-verify"
    MATH_VERIFY_THREAD = "math-verify, in a thread"
    TRL = "TRL accuracy_reward"
    TRL_THREAD = "TRL accuracy_reward, in a thread"


class Ending(StrEnum):
    OK = "ok"
    HANGS = "hangs"
    DIES = "dies"
    RAISES = "raises"


@dataclass(frozen=True)
class Outcome:
    """What an answer came to; `reward` is None where it has none."""

    ending: Ending
    reward: float | None
    cpu_s: float  # of the process and, for ours, of its children


class Runner:
    """A contender's process, started again after each answer that ended it."""

    def __init__(self, contender: Contender) -> None:
        self.contender = contender
        self._process: subprocess.Popen[str] | None = None

    def score(self, gold: str, completion: str) -> Outcome:
        process = self._ready()
        assert process.stdin is not None
        process.stdin.write(json.dumps([gold, completion]) + "\n")
        process.stdin.flush()
        before, end = _cpu_s(process.pid), time.monotonic() + WALL_LIMIT_S
        while (line := self._line(process, 0.1)) is None:
            used = _cpu_s(process.pid) - before
            if process.poll() is None and used < CPU_LIMIT_S and time.monotonic() < end:
                continue
            ended = process.poll() is not None
            self.close()
            return Outcome(Ending.DIES if ended else Ending.HANGS, None, used)
        if line == "":
            self.close()
            return Outcome(Ending.DIES, None, 0.0)
        reward, cpu_s = json.loads(line)
        return Outcome(
            Ending.RAISES if isinstance(reward, str) else Ending.OK, None if isinstance(reward, str) else reward, cpu_s
        )

    def batch(self, answers: Sequence[tuple[str, str]]) -> tuple[float, float]:
        """(CPU seconds, wall seconds) of scoring all answers one after the other."""
        process = self._ready()
        assert process.stdin is not None
        process.stdin.write(json.dumps(answers) + "\n")
        process.stdin.flush()
        line = self._line(process, BATCH_LIMIT_S)
        assert line, f"{self.contender} did not come to an end"
        cpu_s, wall_s = json.loads(line)
        return cpu_s, wall_s

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _ready(self) -> subprocess.Popen[str]:
        if self._process is None:
            command = [sys.executable, "-m", "tests.bench.math_contenders", self.contender]
            self._process = subprocess.Popen(
                command,
                cwd=_ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                bufsize=1,
            )
            assert self._line(self._process, START_LIMIT_S) == "ready\n", f"{self.contender} did not start"
        return self._process

    def _line(self, process: subprocess.Popen[str], wait_s: float) -> str | None:
        """The next line, "" where the process ended, None where none came in time. One line is on its way at most."""
        assert process.stdout is not None
        return process.stdout.readline() if select.select([process.stdout], [], [], wait_s)[0] else None


def _cpu_s(pid: int) -> float:
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * _TICK_S
    return 0.0


# ---- in the contender's process ----


def scorer(contender: Contender) -> Callable[[str, str], float | None]:
    """(gold, completion) -> reward, as a user would call it; peers get the gold answer as LaTeX between dollars."""
    if contender is Contender.OURS:
        from rewards.math import verify
        from rewards.task import Task

        return lambda gold, completion: verify(Task("1", "math", (), answer=gold), completion)
    in_thread = contender in (Contender.MATH_VERIFY_THREAD, Contender.TRL_THREAD)
    if contender in (Contender.TRL, Contender.TRL_THREAD):
        from trl.rewards import accuracy_reward

        def trl(gold: str, completion: str) -> float | None:
            reward: float | None = accuracy_reward([[{"role": "assistant", "content": completion}]], [f"${gold}$"])[0]
            return reward

        return _threaded(trl) if in_thread else trl
    import math_verify

    limits = {"parsing_timeout": None} if in_thread else {}
    limit = {"timeout_seconds": None} if in_thread else {}

    def plain(gold: str, completion: str) -> float:
        parsed = math_verify.parse(f"${gold}$", **limits), math_verify.parse(completion, **limits)
        return float(math_verify.verify(*parsed, **limit))

    return _threaded(plain) if in_thread else plain


def _threaded(score: Callable[[str, str], float | None]) -> Callable[[str, str], float | None]:
    """The same in a thread that is not the main one, where its timeouts by signals cannot be."""

    def scored(gold: str, completion: str) -> float | None:
        found: list[float | None] = []
        thread = threading.Thread(target=lambda: found.append(score(gold, completion)))
        thread.start()
        thread.join()
        if not found:
            raise RuntimeError("the thread raised")
        return found[0]

    return scored


def cpu_s() -> float:
    """CPU seconds of this process, of what it waited for, and of the children that compare expressions."""
    used = time.process_time() + sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    if "rewards.symbolic" in sys.modules:
        from rewards import symbolic

        used += sum(_cpu_s(pid) for pid in symbolic.children())
    return used


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    score = scorer(Contender(sys.argv[1]))
    score("1", "$\\boxed{1}$")  # what is loaded late is loaded now
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        before, start = cpu_s(), time.perf_counter()
        if isinstance(request[0], list):
            for gold, completion in request:
                score(gold, completion)
            print(json.dumps([cpu_s() - before, time.perf_counter() - start]), flush=True)
            continue
        reward: float | str | None
        try:
            reward = score(*request)
        except Exception as error:  # noqa: BLE001 - what a reward raises is what is measured
            reward = type(error).__name__
        print(json.dumps([reward, cpu_s() - before]), flush=True)


if __name__ == "__main__":
    main()
