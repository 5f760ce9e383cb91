"""Shared memory in which a process that runs many calls at once says which of them has begun, and which one has the floor.

Written around every step that a call takes on the event loop, so that the parent can tell which call does not give it back,
or ended the process: even when C code holds the interpreter. Used by `rewards.work` (the parent) and `rewards.many`.
"""

from __future__ import annotations

import mmap
import os
import struct
import time

_HEAD = struct.Struct("<qd")  # number of the call that runs, -1 for none, and since when it does
_BEAT = struct.Struct("<d")  # when the loop turned last
_CALLS = _HEAD.size + _BEAT.size
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
        _HEAD.pack_into(self._map, 0, number, time.monotonic())

    def leave(self) -> None:
        _HEAD.pack_into(self._map, 0, -1, 0.0)

    def beat(self) -> None:
        _BEAT.pack_into(self._map, _HEAD.size, time.monotonic())

    @property
    def last_beat(self) -> float:
        return float(_BEAT.unpack_from(self._map, _HEAD.size)[0])

    def begin(self, number: int) -> None:
        self._map[_CALLS + number] = 1

    @property
    def running(self) -> tuple[int, float] | None:
        """The call that has the loop, and since when, by `time.monotonic()`; None while the loop waits."""
        number, since = _HEAD.unpack_from(self._map, 0)
        return (number, since) if 0 <= number < self._count else None

    def has_begun(self, number: int) -> bool:
        return self._map[_CALLS + number] != 0

    def close(self) -> None:
        self._map.close()
