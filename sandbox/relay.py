"""Gives an agent that has one byte stream (a container's attachment, a machine's serial port) the socket that every agent has.

It runs in the keeper's event loop. The newest client counts. It passes whole frames, whose lengths it checks and whose contents
it does not read. When a client comes, the agent is ordered to drop what it had for another and to answer; until that answer
what comes is thrown away, so no client gets half a frame, or what was meant for another. It holds a frame and a read each way.
It does not protect a client from what the agent says: that is checked where it is read (sandbox/agent.py).
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
from collections.abc import Callable
from pathlib import Path

from sandbox.guest.frames import CUT, FrameError, Splitter, encode
from sandbox.layers.base import listen

HELLO_BYTES = 200  # more than an agent's answer to `hello` has
SKIPPED_BYTES = 16 << 20  # that an agent may send before that answer: what it had sent, and what lies in buffers on the way


class Relay:
    """From `over_socket` or `over_pipes` to `close`; `ended` is done when the stream is: why, or None where it was closed."""

    def __init__(self, unwrap: Callable[[bytes], bytes] = bytes) -> None:
        """`unwrap` gives the agent's bytes of what comes over the stream; a FrameError of it breaks the stream."""
        self.ended: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._unwrap = unwrap
        self._splitter = Splitter()
        self._server: asyncio.Server | None = None
        self._reads: asyncio.ReadTransport | None = None
        self._writes: asyncio.WriteTransport | None = None
        self._client: _Client | None = None
        self._nonce: str | None = None  # of the hello that is not answered
        self._used = False  # something was sent for a client since that hello
        self._num_skipped = 0  # bytes since then
        self._is_full = False  # the stream takes no more for now

    @classmethod
    async def over_socket(cls, path: Path, stream: socket.socket, unwrap: Callable[[bytes], bytes] = bytes) -> Relay:
        """Listens at `path` for clients of the agent at the other end of `stream`, which is the relay's from now on."""
        relay = cls(unwrap)
        transport, _ = await asyncio.get_running_loop().create_connection(lambda: _Stream(relay), sock=stream)
        relay._reads = relay._writes = transport
        await relay._serve(path)
        return relay

    @classmethod
    async def over_pipes(cls, path: Path, reads: int, writes: int) -> Relay:
        """The same over two pipes; their descriptors are the relay's from now on."""
        relay, loop = cls(), asyncio.get_running_loop()
        relay._reads, _ = await loop.connect_read_pipe(lambda: _Stream(relay), os.fdopen(reads, "rb", 0))
        relay._writes, _ = await loop.connect_write_pipe(lambda: _Stream(relay), os.fdopen(writes, "wb", 0))
        await relay._serve(path)
        return relay

    async def _serve(self, path: Path) -> None:
        assert self._reads is not None
        self._reads.pause_reading()
        path.unlink(missing_ok=True)
        self._server = await asyncio.get_running_loop().create_unix_server(lambda: _Client(self), sock=listen(path))

    def close(self, reason: str | None = None) -> None:
        """Ends the stream and its client."""
        if self.ended.done():
            return
        self.ended.set_result(reason)
        if self._server is not None:
            self._server.close()
        if self._client is not None:
            self._client.transport.abort()
        if self._reads is not None:
            self._reads.close()
        if self._writes is not None and not self._writes.is_closing():
            self._writes.abort()

    # the client's side

    def meet(self, client: _Client) -> None:
        if self._client is not None:
            self._client.transport.abort()
        self._client = client
        if self.ended.done():
            client.transport.abort()
            return
        if self._nonce is None or self._used:  # else one that was on its way for another client serves this one
            self._nonce, self._used, self._num_skipped = secrets.token_hex(8), False, 0
            self._tell({"op": "hello", "id": self._nonce})
        self.set_flow()

    def take(self, client: _Client, data: bytes) -> None:
        if client is not self._client or self._writes is None:
            return
        try:
            frames = [frame for frame, _ in client.splitter.feed(data)]
        except FrameError:
            self._cut()
            return
        if frames:
            self._used = True
            self._writes.write(b"".join(frames))

    def leave(self, client: _Client) -> None:
        if client is self._client:
            self._client = None
            self._say_bye()
            self.set_flow()

    def _cut(self) -> None:
        if self._client is not None:
            self._client.transport.abort()
            self.leave(self._client)

    # the agent's side

    def receive(self, data: bytes) -> None:
        frames = list[bytes]()
        try:
            for frame, middle in self._splitter.feed(self._unwrap(data)):
                if self._nonce is not None:
                    self._skip(frame, middle)
                elif frame == CUT:
                    self._cut()
                elif self._client is not None:
                    frames.append(frame)
        except FrameError as error:
            self.close(f"the agent sent what is no answer: {error}")
        if frames and self._client is not None:
            self._client.transport.write(b"".join(frames))

    def _skip(self, frame: bytes, middle: int) -> None:
        self._num_skipped += len(frame)
        if self._num_skipped > SKIPPED_BYTES:
            raise FrameError(f"more than {SKIPPED_BYTES} bytes, and no answer to `hello`")
        if len(frame) <= HELLO_BYTES and _is_hello(frame[8:middle], self._nonce):
            self._nonce = None
            self._say_bye()
            self.set_flow()

    def _say_bye(self) -> None:
        """Where nobody is there, once the agent has answered that somebody was: so that it keeps no output back for one."""
        if self._client is None and self._nonce is None:
            self._tell({"op": "bye", "id": None})

    def _tell(self, order: dict[str, object]) -> None:
        if self._writes is not None and not self.ended.done():
            self._writes.write(encode(order))

    # how much is on its way

    def set_full(self, is_full: bool) -> None:
        self._is_full = is_full
        self.set_flow()

    def set_flow(self) -> None:
        """Reads what the other side has room for: of the agent nothing at all where nobody is there."""
        if self.ended.done() or self._reads is None:
            return
        client = self._client
        wanted = self._nonce is not None or (client is not None and not client.is_full)
        (self._reads.resume_reading if wanted else self._reads.pause_reading)()
        if client is not None:
            (client.transport.pause_reading if self._is_full else client.transport.resume_reading)()


class _Stream(asyncio.Protocol):
    """The agent's end, as asyncio calls it: of a socket, or of one of two pipes."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    def data_received(self, data: bytes) -> None:
        self._relay.receive(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._relay.close("the stream to the agent ended")

    def pause_writing(self) -> None:
        self._relay.set_full(True)

    def resume_writing(self) -> None:
        self._relay.set_full(False)


class _Client(asyncio.Protocol):
    transport: asyncio.Transport

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self.splitter = Splitter()
        self.is_full = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._relay.meet(self)

    def data_received(self, data: bytes) -> None:
        self._relay.take(self, data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._relay.leave(self)

    def pause_writing(self) -> None:
        self.is_full = True
        self._relay.set_flow()

    def resume_writing(self) -> None:
        self.is_full = False
        self._relay.set_flow()


def _is_hello(text: bytes, nonce: str | None) -> bool:
    try:
        words = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(words, dict) and words.get("type") == "hello" and words.get("id") == nonce
