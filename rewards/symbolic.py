"""Whether two mathematical expressions are equal, by math-verify in a child process of this one.

sympy cannot be interrupted from a thread and has inputs on which it never ends or eats all memory, so the child has a
limit on CPU time and on memory that the kernel enforces; it is started on first use, again after it died, and ends
with its parent. This bounds accidents and cheap tricks, it is no sandbox. Called by `rewards.math`.
"""

from __future__ import annotations

import json
import logging
import os
import re
import resource
import signal
import threading
import time

from rewards import child
from rewards.child import Child, ChildDiedError, how_it_ended

MAX_CHARS = 1_000  # longer expressions are unequal to everything; the longest gold answers of MATH have about 200
CPU_LIMIT_S = 2.0  # for one comparison; usual ones take 2 to 50 ms
WALL_LIMIT_S = 60.0  # reached only where the machine is starved: an error, not a verdict
START_LIMIT_S = 60.0  # for the child to start and import sympy, which takes a second
MEMORY_LIMIT_BYTES = 2 << 30
_DEATHS_BY_INPUT = (-signal.SIGPROF, -signal.SIGABRT, -signal.SIGSEGV)  # over the limit, out of memory, too deep

# Towers of numbers, exponents of five digits and large factorials are refused unseen: each would cost the whole limit.
_BOMB = re.compile(r"(?:\^|\*\*)[\s{(]*[-.0-9]+[\s})]*(?:\^|\*\*)|(?:\^|\*\*)[\s{(]*-?[0-9]{5}|[0-9]{4}\s*!|!\s*[)}]*\s*!")


def equal(gold: str, candidate: str) -> bool:
    """Whether two LaTeX expressions (without delimiters) are equal in math-verify's sense, decimals to 6 places.

    An expression that is too long, too costly or not understood equals nothing. Safe in threads and after a fork.

    Raises:
        ChildProcessError: the child could not work for a reason that does not lie in the expressions.

    >>> equal("2^{10}", "1024"), equal("2^{10}", "9^{9^{9^9}}")
    (True, False)
    """
    if any(len(text) > MAX_CHARS or _BOMB.search(text) for text in (gold, candidate)):
        return False
    return _checker.ask(gold, candidate)


class _Checker:
    """The child process, held from its first question on; one question at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: Child | None = None

    def ask(self, gold: str, candidate: str) -> bool:
        with self._lock:
            if self._child is not None and self._child.ended:
                self._end()
            if self._child is None:
                self._child = Child("rewards.symbolic")
            deadline = time.monotonic() + START_LIMIT_S + WALL_LIMIT_S
            try:
                self._child.send(json.dumps([gold, candidate]).encode(), deadline)
                return self._child.receive(deadline) == b"equal"
            except ChildDiedError:
                status = self._end(grace_s=WALL_LIMIT_S)
            except TimeoutError:
                self._end()
                raise ChildProcessError("the process that compares expressions did not answer") from None
            except BaseException:  # an interrupt between question and reply would shift every later reply
                self._end()
                raise
        if status in _DEATHS_BY_INPUT:
            return False
        raise ChildProcessError(f"the process that compares expressions {how_it_ended(status)}")

    def _end(self, *, grace_s: float = 0.0) -> int | None:
        ended, self._child = self._child, None
        return ended.close(grace_s=grace_s) if ended is not None else None


_checker = _Checker()


def _after_fork() -> None:
    """A forked process may have been copied while a thread held the lock; it starts a child of its own."""
    global _checker  # noqa: PLW0603
    _checker = _Checker()


os.register_at_fork(after_in_child=_after_fork)


def serve(channel: int, life: int) -> None:
    """The child: one JSON pair a request, "equal" or "unequal" the reply, until its parent closes."""
    import math_verify  # late, so that only the child pays for sympy

    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    config = (math_verify.LatexExtractionConfig(boxed_match_priority=0),)

    def parse(text: str) -> list[object]:
        boxed = f"\\boxed{{{text}}}"
        parsed: list[object] = math_verify.parse(boxed, config, fallback_mode="no_fallback", parsing_timeout=None)
        return parsed

    def answer(request: bytes) -> list[bytes]:
        gold, candidate = json.loads(request)
        # Both timers end the process where they run out: the default action of their signals, even inside C code.
        signal.setitimer(signal.ITIMER_PROF, CPU_LIMIT_S)
        signal.setitimer(signal.ITIMER_REAL, WALL_LIMIT_S)
        same = math_verify.verify(parse(gold), parse(candidate), timeout_seconds=None)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        return [b"equal" if same else b"unequal"]

    child.serve(answer, channel, life)
