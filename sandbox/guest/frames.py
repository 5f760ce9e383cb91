"""The frames between host and box: a header of two lengths, a JSON object, raw bytes. Both lengths are bounded.

Either side takes the other for hostile: what is not a frame raises FrameError, after which the connection is closed.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any

MAX_HEADER_BYTES = 256 << 10  # of JSON: a command's arguments and environment are in it
MAX_PAYLOAD_BYTES = 1 << 20  # files and output are sent in pieces
_LENGTHS = struct.Struct("<II")


class FrameError(ValueError):
    """The other side sent what is no frame."""


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


class Decoder:
    """Bytes in, frames out. Holds at most one unfinished frame and what was fed last."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[dict[str, Any], bytes]]:
        """Every frame that these bytes complete.

        Raises:
            FrameError: they are no frames; the decoder is good for nothing more.
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
            text, payload = bytes(self._buffer[_LENGTHS.size : middle]), bytes(self._buffer[middle:end])
            del self._buffer[:end]
            yield _object(text), payload


def _object(text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:  # a UnicodeDecodeError is a ValueError
        raise FrameError("a frame whose header is no JSON") from error
    if not isinstance(value, dict):
        raise FrameError("a frame whose header is no JSON object")
    return value
