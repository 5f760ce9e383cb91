"""Shared memory in which a process that runs many calls at once says which of them has begun, and which one has the floor.

Written around every step that a call takes on the event loop, so that the parent can tell which call does not give it back,
or ended the process: even when C code holds the interpreter. Used by `rewards.work` (the parent) and `rewards.many`.
"""

from __future__ import annotations

import mmap
import os
import struct
import time

_NUMBER = struct.Struct("@q")  # of the call that runs, -1 for none; native, so that it is written and read at one go
_TIME = struct.Struct("@d")  # a time of `time.monotonic()`
_SINCE, _BEAT, _CALLS = 8, 16, 24  # places of: since when the call runs, when the loop turned last, which calls have begun
MAX_CALLS = 1 << 16


class Marks:
    """The memory of one request with up to `MAX_CALLS` calls; both sides make one from the same descriptor."""

    def __init__(self, fd: int, count: int) -> None:
        assert count <= MAX_CALLS, "the parent splits what is more"
        self._map = mmap.mmap(fd, _CALLS + count)
        self._count = count

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
        _TIME.pack_into(self._map, _SINCE, time.monotonic())
        _NUMBER.pack_into(self._map, 0, number)

    def leave(self) -> None:
        _NUMBER.pack_into(self._map, 0, -1)

    def beat(self) -> None:
        _TIME.pack_into(self._map, _BEAT, time.monotonic())

    @property
    def last_beat(self) -> float:
        return float(_TIME.unpack_from(self._map, _BEAT)[0])

    def begin(self, number: int) -> None:
        self._map[_CALLS + number] = 1

    @property
    def running(self) -> tuple[int, float] | None:
        """The call that has the loop, and since when, by `time.monotonic()`; None while the loop waits."""
        (number,) = _NUMBER.unpack_from(self._map, 0)
        (since,) = _TIME.unpack_from(self._map, _SINCE)  # after the number: it may be newer, never older
        return (number, since) if 0 <= number < self._count else None

    def has_begun(self, number: int) -> bool:
        return self._map[_CALLS + number] != 0

    def close(self) -> None:
        self._map.close()
