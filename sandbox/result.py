"""What a command in a box came to: a closed set of verdicts, its output with head, tail and true size, and what it used.

A box that could not be had, or was lost, is an exception (`sandbox/errors.py`) and never a verdict.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How a command ended. Where two hold, such as a command killed for its memory, the cause is named and not the signal."""

    OK = "ok"
    NONZERO = "nonzero"
    SIGNAL = "signal"
    WALL_TIMEOUT = "wall_timeout"
    CPU_TIMEOUT = "cpu_timeout"
    OUT_OF_MEMORY = "out_of_memory"
    PIDS_LIMIT = "pids_limit"
    DISK_FULL = "disk_full"
    OUTPUT_LIMIT = "output_limit"


@dataclass(frozen=True)
class Output:
    """One stream of a command: all of it while that is at most the limit, else its beginning and its end.

    >>> Output(b"ab", b"yz", 26).text
    'ab\\n[22 bytes left out]\\nyz'
    """

    head: bytes
    tail: bytes = b""
    num_bytes: int = 0  # that were written in all

    @property
    def cut(self) -> bool:
        return self.num_bytes > len(self.head) + len(self.tail)

    @property
    def text(self) -> str:
        """For people and models: UTF-8 with what is not valid replaced, and a line that says how much is missing."""
        head, tail = (part.decode(errors="replace") for part in (self.head, self.tail))
        missing = self.num_bytes - len(self.head) - len(self.tail)
        return f"{head}\n[{missing} bytes left out]\n{tail}" if missing > 0 else head + tail


@dataclass(frozen=True)
class Result:
    """A finished command.

    >>> Result(Verdict.OK, exit_code=0, stdout=Output(b"hi", num_bytes=2)).ok
    True
    """

    verdict: Verdict
    exit_code: int | None = None  # None where a signal ended it
    signal: int | None = None
    stdout: Output = Output(b"")
    stderr: Output = Output(b"")
    wall_s: float = 0.0
    cpu_s: float = 0.0  # user and system time of everything it started
    max_rss_bytes: int = 0  # of its largest process
    waited_s: float | None = None  # for a processor, of what ran when its wall time was over; None where nobody can tell

    @property
    def ok(self) -> bool:
        return self.verdict is Verdict.OK
