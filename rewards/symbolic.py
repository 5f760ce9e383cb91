"""Whether two mathematical expressions are equal, by math-verify in a child process of this one.

sympy cannot be interrupted from a thread and has inputs on which it never ends or eats all memory, so the child has a
limit on CPU time and on memory that the kernel enforces; it is started on first use, again after it died, and ends
with its parent. This bounds accidents and cheap tricks, it is no sandbox. Called by `rewards.math`.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import re
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

MAX_CHARS = 1_000  # longer expressions are unequal to everything; the longest gold answers of MATH have about 200
CPU_LIMIT_S = 2.0  # for one comparison; usual ones take 2 to 50 ms
WALL_LIMIT_S = 60.0  # reached only where the machine is starved: an error, not a verdict
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
        self._child: subprocess.Popen[str] | None = None

    def ask(self, gold: str, candidate: str) -> bool:
        with self._lock:
            if self._child is None or self._child.poll() is not None:
                self.close()
                self._child = _start()
            child = self._child
            assert child.stdin is not None, "started with pipes"
            assert child.stdout is not None, "started with pipes"
            try:
                with contextlib.suppress(BrokenPipeError):  # died while idle: seen below as a missing reply
                    child.stdin.write(json.dumps([gold, candidate]) + "\n")
                    child.stdin.flush()
                reply = child.stdout.readline()
            except BaseException:  # an interrupt between question and reply would shift every later reply
                self.close()
                raise
            if reply:
                return reply == "equal\n"
            self.close(kill=False)
            if child.returncode in _DEATHS_BY_INPUT:
                return False
            raise ChildProcessError(f"the process that compares expressions ended with exit status {child.returncode}")

    def close(self, *, kill: bool = True) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        if kill:
            child.kill()
        child.wait(timeout=WALL_LIMIT_S)
        for pipe in (child.stdin, child.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()


_checker = _Checker()


def _after_fork() -> None:
    """A forked process must not share its parent's pipes; it starts a child of its own."""
    global _checker  # noqa: PLW0603
    _checker = _Checker()


def _at_exit() -> None:
    _checker.close()


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)


def _start() -> subprocess.Popen[str]:
    """A session of its own keeps a Ctrl-C at the terminal from killing it in the middle of a comparison."""
    return subprocess.Popen(
        [sys.executable, "-m", "rewards.symbolic"],
        cwd=Path(__file__).resolve().parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _serve() -> None:
    """The child: one JSON pair per line in, "equal" or "unequal" out, until its input closes."""
    import math_verify  # late, so that only the child pays for sympy

    logging.disable(logging.CRITICAL)
    replies, sys.stdout = sys.stdout, sys.stderr  # nothing that a library prints may look like a reply
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    config = (math_verify.LatexExtractionConfig(boxed_match_priority=0),)

    def parse(text: str) -> list[object]:
        boxed = f"\\boxed{{{text}}}"
        parsed: list[object] = math_verify.parse(boxed, config, fallback_mode="no_fallback", parsing_timeout=None)
        return parsed

    for line in sys.stdin:
        gold, candidate = json.loads(line)
        # Both timers end the process where they run out: the default action of their signals, even inside C code.
        signal.setitimer(signal.ITIMER_PROF, CPU_LIMIT_S)
        signal.setitimer(signal.ITIMER_REAL, WALL_LIMIT_S)
        same = math_verify.verify(parse(gold), parse(candidate), timeout_seconds=None)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        replies.write("equal\n" if same else "unequal\n")
        replies.flush()


if __name__ == "__main__":
    _serve()
