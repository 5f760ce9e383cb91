"""Whether two mathematical expressions are equal, by math-verify in child processes of this one.

sympy cannot be interrupted from a thread and has inputs on which it never ends or eats all memory, so a child has a
limit on CPU time and on memory that the kernel enforces; children are started on demand, again after they died, and end
with their parent. This bounds accidents and cheap tricks, it is no sandbox. Called by `rewards.equality.compare`.
"""

from __future__ import annotations

import json
import logging
import os
import re
import resource
import signal
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Any

from rewards import child
from rewards.child import Child, ChildDiedError, how_it_ended

MAX_CHARS = 1_000  # longer expressions are unequal to everything; the longest gold answers of MATH have about 200
MAX_PROCESSES = 2  # at a time; a further question waits
MAX_VERDICTS = 20_000  # remembered, of both kinds
CPU_LIMIT_S = 2.0  # for one comparison; usual ones take 2 to 50 ms
WALL_LIMIT_S = 60.0  # reached only where the machine is starved: an error, not a verdict
START_LIMIT_S = 60.0  # for a child to start and import sympy, which takes a second
MEMORY_LIMIT_BYTES = 2 << 30
WORN_BYTES = 600 << 20  # a child that holds more ends after its answer, so that no later expression pays for earlier ones
_DEATHS_BY_INPUT = (-signal.SIGPROF, -signal.SIGABRT, -signal.SIGSEGV)  # over the limit, out of memory, too deep

# Towers of numbers, exponents of five digits and large factorials are refused unseen: each would cost the whole limit.
_BOMB = re.compile(r"(?:\^|\*\*)[\s{(]*[-.0-9]+[\s})]*(?:\^|\*\*)|(?:\^|\*\*)[\s{(]*-?[0-9]{5}|[0-9]{4}\s*!|!\s*[)}]*\s*!")


class Verdict(StrEnum):
    EQUAL = "equal"
    UNEQUAL = "unequal"  # or not understood
    TOO_COSTLY = "too costly"  # too long, or it used up its time or memory


def compare(gold: str, candidate: str) -> Verdict:
    """Whether two LaTeX expressions (without delimiters) are equal in math-verify's sense.

    Variables may be taken as positive, decimals are compared to 6 places, units are not known. Safe in threads and after a
    fork; pairs are remembered, and a pair that several threads ask for at once is compared once.

    Raises:
        ChildProcessError: a child could not work for a reason that does not lie in the expressions.

    >>> str(compare("2^{10}", "1024")), str(compare("2^{10}", "9^{9^{9^9}}"))
    ('equal', 'too costly')
    """
    if any(len(text) > MAX_CHARS or _BOMB.search(text) for text in (gold, candidate)):
        return Verdict.TOO_COSTLY
    return _verdicts.of(gold, candidate)


def children() -> list[int]:
    """The process ids of the children that run now."""
    return _verdicts.pool.pids()


class _Verdicts:
    """What was found out about pairs, the most recently used of them; a pair on its way is waited for."""

    def __init__(self) -> None:
        self.pool = _Pool()
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, str], Future[Verdict]] = OrderedDict()

    def of(self, gold: str, candidate: str) -> Verdict:
        pair = (gold, candidate)
        with self._lock:
            found = self._known.get(pair)
            if found is None:
                mine = self._known[pair] = Future()
            else:
                self._known.move_to_end(pair)
        if found is not None:
            return found.result()
        try:
            verdict = self.pool.ask(gold, candidate)
        except BaseException as error:  # an interrupt too: whoever waits for this pair must not wait for ever
            with self._lock:
                del self._known[pair]
            reason = error if isinstance(error, ChildProcessError) else ChildProcessError("the comparison was interrupted")
            mine.set_exception(reason)
            raise
        mine.set_result(verdict)
        with self._lock:
            while len(self._known) > MAX_VERDICTS and next(iter(self._known.values())).done():
                self._known.popitem(last=False)
        return verdict


class _Pool:
    """Up to `MAX_PROCESSES` children, each started by a question that finds none free; one question at a time each."""

    def __init__(self) -> None:
        self._free: list[Child] = []  # the last one was used last, so that few questions need few children
        self._busy: set[Child] = set()
        self._places = threading.Semaphore(MAX_PROCESSES)

    def ask(self, gold: str, candidate: str) -> Verdict:
        deadline = time.monotonic() + START_LIMIT_S + WALL_LIMIT_S
        if not self._places.acquire(timeout=START_LIMIT_S + WALL_LIMIT_S):
            raise ChildProcessError("the processes that compare expressions were busy for too long")
        try:
            return self._ask(json.dumps([gold, candidate, CPU_LIMIT_S, WORN_BYTES]).encode(), deadline)
        finally:
            self._places.release()

    def pids(self) -> list[int]:
        return [running.pid for running in [*self._free, *self._busy]]

    def _ask(self, question: bytes, deadline: float) -> Verdict:
        status: int | None = 0
        while status == 0:  # worn: it ended by itself before it saw the question
            running = self._take()
            try:
                running.send(question, deadline)
                verdict = Verdict(running.receive(deadline).decode())
            except ChildDiedError:
                status = self._end(running, grace_s=WALL_LIMIT_S)
            except TimeoutError:
                self._end(running)
                raise ChildProcessError("the process that compares expressions did not answer") from None
            except BaseException:  # an interrupt between question and reply would shift every later reply
                self._end(running)
                raise
            else:
                self._busy.discard(running)
                self._free.append(running)
                return verdict
        if status in _DEATHS_BY_INPUT:
            return Verdict.TOO_COSTLY
        raise ChildProcessError(f"the process that compares expressions {how_it_ended(status)}")

    def _take(self) -> Child:
        while self._free:
            running = self._free.pop()
            if not running.ended:
                break
            running.close()  # worn, or killed from outside while nobody asked
        else:
            running = Child("rewards.symbolic")
        self._busy.add(running)
        return running

    def _end(self, running: Child, *, grace_s: float = 0.0) -> int | None:
        self._busy.discard(running)
        return running.close(grace_s=grace_s)


_verdicts = _Verdicts()


def _after_fork() -> None:
    """A forked process may have been copied while a thread held a lock or a child; it starts children of its own."""
    global _verdicts  # noqa: PLW0603
    _verdicts = _Verdicts()


os.register_at_fork(after_in_child=_after_fork)


def serve(channel: int, life: int) -> None:
    """The child: a request is a pair and its limits as JSON, the reply a verdict, until its parent closes."""
    import math_verify  # late, so that only the child pays for sympy
    import sympy
    from latex2sympy2_extended import NormalizationConfig

    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    # Its list of units would strip the "c" of 3x + 2 c.
    normal = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="all")
    config = (math_verify.LatexExtractionConfig(boxed_match_priority=0, normalization_config=normal),)

    def parse(text: str) -> list[Any]:
        boxed = f"\\boxed{{{text}}}"
        parsed: list[Any] = math_verify.parse(boxed, config, fallback_mode="no_fallback", parsing_timeout=None)
        return parsed

    def same(gold: list[Any], candidate: list[Any]) -> bool:
        return bool(math_verify.verify(gold, candidate, timeout_seconds=None))

    def positive(parsed: list[Any]) -> list[Any]:
        """With positive variables, for which sqrt(x) sqrt(y) is sqrt(xy), and with i as the imaginary unit."""
        return [
            each.xreplace({s: sympy.I if s.name == "i" else sympy.Symbol(s.name, positive=True) for s in each.free_symbols})
            if isinstance(each, sympy.Expr)
            else each
            for each in parsed
        ]

    parse_gold = lru_cache(maxsize=256)(parse)  # a group's answers share their task

    def answer(request: bytes) -> Iterator[bytes]:
        gold, candidate, cpu_limit_s, worn_bytes = json.loads(request)
        # Both timers end the process where they run out: the default action of their signals, even inside C code.
        signal.setitimer(signal.ITIMER_PROF, cpu_limit_s)
        signal.setitimer(signal.ITIMER_REAL, WALL_LIMIT_S)
        pair = parse_gold(gold), parse(candidate)
        is_equal = same(*pair) or same(positive(pair[0]), positive(pair[1]))
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        yield (Verdict.EQUAL if is_equal else Verdict.UNEQUAL).encode()
        if _resident_bytes() > worn_bytes:
            sys.exit()

    child.serve(answer, channel, life)


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
