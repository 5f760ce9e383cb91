"""Shared memory in which a process that runs many calls at once says which of them has begun, and which one has the floor.

Written around every step that a call takes on the event loop, so that the parent can tell which call does not give it back,
or ended the process: even when C code holds the interpreter. Used by `rewards.work` (the parent) and `rewards.many`.
"""

from __future__ import annotations

import mmap
import os
import time

_CALLS = 24  # place of which calls have begun; before it the call that runs, since when, and when the loop turned last
MAX_CALLS = 1 << 16


class Marks:
    """The memory of one request with up to `MAX_CALLS` calls; both sides make one from the same descriptor."""

    def __init__(self, fd: int, count: int) -> None:
        assert count <= MAX_CALLS, "the parent splits what is more"
        self._map = mmap.mmap(fd, _CALLS + count)
        self._count = count
        # Views store and load a value at one go; `struct.pack_into` writes zeros first, which the other side may see.
        self._words = memoryview(self._map)[:_CALLS]
        self._numbers, self._times = (
            self._words.cast("q"),
            self._words.cast("d"),
        )  # [0]: the call, -1 for none; [1], [2]: since, beat

    @classmethod
    def make(cls, count: int) -> tuple[Marks, int]:
        """New memory, and its descriptor, for the child."""
        fd = os.memfd_create("marks", os.MFD_CLOEXEC)
        os.truncate(fd, _CALLS + count)
        marks = cls(fd, count)
        marks.leave()
        marks.beat()
        return marks, fd

    def enter(self, number: int) -> None:
        # The other side may look in between: the time comes first, so that a call never has that of one long before it.
        self._times[1] = time.monotonic()
        self._numbers[0] = number

    def leave(self) -> None:
        self._numbers[0] = -1

    def beat(self) -> None:
        self._times[2] = time.monotonic()

    @property
    def last_beat(self) -> float:
        return self._times[2]

    def begin(self, number: int) -> None:
        self._map[_CALLS + number] = 1

    @property
    def running(self) -> tuple[int, float] | None:
        """The call that has the loop, and since when, by `time.monotonic()`; None while the loop waits."""
        number = self._numbers[0]
        since = self._times[1]  # after the number: it may be newer, never older
        return (number, since) if 0 <= number < self._count else None

    def has_begun(self, number: int) -> bool:
        return self._map[_CALLS + number] != 0

    def close(self) -> None:
        self._numbers.release()
        self._times.release()
        self._words.release()
        self._map.close()
