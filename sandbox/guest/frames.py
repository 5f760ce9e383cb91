"""The frames between host and box: a header of two lengths, a JSON object, raw bytes. Both lengths are bounded.

Either side takes the other for hostile: what is not a frame raises FrameError, after which the connection is closed.
"""

from __future__ import annotations

import json
import os
import struct
from collections import deque
from collections.abc import Iterator
from typing import Any

MAX_HEADER_BYTES = 256 << 10  # of JSON: a command's arguments and environment are in it
MAX_PAYLOAD_BYTES = 1 << 20  # files and output are sent in pieces
MAX_ORDER_BYTES = 16 << 20  # of JSON: a longer header than one frame takes is sent in pieces too
_LENGTHS = struct.Struct("<II")
CUT = _LENGTHS.pack(0, 0)  # no frame: over a stream, the agent asks the relay (sandbox/relay.py) to cut its client off


class FrameError(ValueError):
    """The other side sent what is no frame."""


class HeaderError(FrameError):
    """A frame of the right lengths whose header is no JSON object: the frames after it can still be told apart."""


def encode(header: dict[str, Any], payload: bytes = b"") -> bytes:
    """The bytes of one frame.

    Raises:
        FrameError: it is larger than the other side takes.

    >>> list(Decoder().feed(encode({"op": "ping"}, b"x")))
    [({'op': 'ping'}, b'x')]
    """
    text = json.dumps(header, separators=(",", ":")).encode()
    if len(text) > MAX_HEADER_BYTES or len(payload) > MAX_PAYLOAD_BYTES:
        raise FrameError(f"a frame of {len(text)} + {len(payload)} bytes; at most {MAX_HEADER_BYTES} + {MAX_PAYLOAD_BYTES}")
    return _LENGTHS.pack(len(text), len(payload)) + text + payload


class Splitter:
    """Bytes in, whole frames out, unread. Holds at most one unfinished frame and what was fed last."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[bytes, int]]:
        """Every frame that these bytes complete, and where in it the payload begins.

        Raises:
            FrameError: its lengths are out of bounds; the splitter is good for nothing more.
        """
        self._buffer += data
        while len(self._buffer) >= _LENGTHS.size:
            header_bytes, payload_bytes = _LENGTHS.unpack_from(self._buffer)
            if header_bytes > MAX_HEADER_BYTES or payload_bytes > MAX_PAYLOAD_BYTES:
                raise FrameError(f"a frame that says {header_bytes} + {payload_bytes} bytes")
            middle = _LENGTHS.size + header_bytes
            end = middle + payload_bytes
            if len(self._buffer) < end:
                return
            frame = bytes(memoryview(self._buffer)[:end])
            del self._buffer[:end]
            yield frame, middle


class Decoder:
    """Bytes in, frames out. Holds at most one unfinished frame and what was fed last."""

    def __init__(self) -> None:
        self._splitter = Splitter()

    def feed(self, data: bytes) -> Iterator[tuple[dict[str, Any], bytes]]:
        """Every frame that these bytes complete.

        Raises:
            FrameError: they are no frames; after any but a HeaderError the decoder is good for nothing more.
        """
        for frame, middle in self._splitter.feed(data):
            yield _object(frame[_LENGTHS.size : middle]), frame[middle:]


class Outbox:
    """Frames that wait to be written: as bytes, and where each of them ends."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._lengths = deque[int]()
        self._begun = 0  # bytes of the first that are written

    def __len__(self) -> int:
        return len(self._bytes)

    def add(self, frame: bytes) -> None:
        self._bytes += frame
        self._lengths.append(len(frame))

    def write_to(self, fd: int) -> None:
        """All that it takes.

        Raises:
            BlockingIOError: it takes no more for now. OSError: nor later.
        """
        while self._bytes:
            count = os.write(fd, self._bytes[:MAX_PAYLOAD_BYTES])
            del self._bytes[:count]
            self._begun += count
            while self._lengths and self._begun >= self._lengths[0]:
                self._begun -= self._lengths.popleft()

    def drop(self) -> None:
        """Forgets every frame, but for the rest of one whose beginning is written."""
        while len(self._lengths) > (1 if self._begun else 0):
            self._lengths.pop()
        del self._bytes[sum(self._lengths) - self._begun :]


def _object(text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:  # a UnicodeDecodeError is a ValueError
        raise HeaderError("a frame whose header is no JSON") from error
    if not isinstance(value, dict):
        raise HeaderError("a frame whose header is no JSON object")
    return value
