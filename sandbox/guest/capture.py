"""One stream of a command: always read to its end, kept at its beginning and its end, counted whole."""

from __future__ import annotations

import os
from collections import deque

READ_BYTES = 1 << 16


class Capture:
    """The first and the last half of `keep_bytes` of what was written, and how much that was.

    >>> capture = Capture(4)
    >>> capture.add(b"abc"); capture.add(b"defg")
    >>> capture.head, capture.tail, capture.num_bytes
    (b'ab', b'fg', 7)
    """

    def __init__(self, keep_bytes: int) -> None:
        self.num_bytes = 0
        self._keep_tail = keep_bytes // 2
        self._keep_head = keep_bytes - self._keep_tail
        self._head = bytearray()
        self._tail: deque[bytes] = deque()
        self._tail_bytes = 0

    @property
    def head(self) -> bytes:
        return bytes(self._head)

    @property
    def tail(self) -> bytes:
        return b"".join(self._tail)[-self._keep_tail :] if self._keep_tail else b""

    def add(self, data: bytes) -> None:
        self.num_bytes += len(data)
        room = self._keep_head - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        if data and self._keep_tail:
            self._tail.append(data)
            self._tail_bytes += len(data)
            while self._tail_bytes - len(self._tail[0]) >= self._keep_tail:
                self._tail_bytes -= len(self._tail.popleft())


def read_some(fd: int) -> bytes | None:
    """What is there to read: nothing at the end of the stream, None where nothing is there yet."""
    try:
        return os.read(fd, READ_BYTES)
    except BlockingIOError:
        return None
    except OSError:  # a terminal whose other side has been closed
        return b""
