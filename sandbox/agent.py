"""The host's end of a connection to a box's agent: orders out, frames in, each frame to the command that it belongs to.

Nothing that comes in is trusted: sizes are bounded, fields are checked for their types, and what is no answer is a lost box.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

from sandbox.errors import BoxLostError
from sandbox.guest.frames import Decoder, FrameError, encode

Handler = Callable[[dict[str, Any], bytes], None]
CONNECT_LIMIT_S = 10.0


@contextlib.contextmanager
def short_path(path: Path) -> Iterator[str]:
    """Another path to the same socket: that of a socket has to be short, and a folder's may be long."""
    folder = os.open(path.parent, os.O_PATH)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


class Agent(asyncio.Protocol):
    """A connection. Once it is broken, every request that waits gets the error, and so does every later one."""

    def __init__(self, whose: str = "the box") -> None:
        """`whose`: the box in words, for errors."""
        self._whose = whose
        self._decoder = Decoder()
        self._handlers: dict[int, Handler] = {}
        self._ended: dict[int, asyncio.Future[Any]] = {}
        self._transport: asyncio.Transport | None = None
        self._room = asyncio.Event()
        self._room.set()
        self.broken: BoxLostError | None = None
        self.on_net: Handler | None = None  # takes the frames of the box's tunnel

    @classmethod
    async def connect(cls, path: Path) -> Agent:
        """A connection to the socket of an agent.

        Raises:
            OSError: nobody listens there. TimeoutError: it did not take the connection.
        """
        with short_path(path) as short:
            async with asyncio.timeout(CONNECT_LIMIT_S):
                _, agent = await asyncio.get_running_loop().create_unix_connection(cls, short)
        return agent

    @classmethod
    async def connect_to(
        cls, gate: tuple[str, int], token: str, op: str, box_id: str, whose: str
    ) -> tuple[Agent, dict[str, Any]]:
        """A connection to the gate of another node (`sandbox/host.py`), and its answer to a first order.

        Raises:
            BoxLostError: the box, or the gate, is gone. OSError, TimeoutError: the gate is out of reach.
        """
        async with asyncio.timeout(CONNECT_LIMIT_S):
            loop = asyncio.get_running_loop()
            _, agent = await loop.create_connection(lambda: cls(whose), *gate)
            try:
                answer, _ = await agent.ask({"op": op, "id": 1, "token": token, "box": box_id})
            except BaseException as error:
                agent.close()
                if isinstance(error, ValueError):  # what the gate says of the box
                    raise BoxLostError(str(error)) from None
                raise
        return agent, answer

    async def ask(self, order: dict[str, Any], payload: bytes = b"", on: Handler | None = None) -> tuple[dict[str, Any], bytes]:
        """The last frame that answers this order; `on` gets those before it.

        Raises:
            BoxLostError: the connection broke first. OSError: the agent could not do it, with the box's reason.
            ValueError: the agent does not take such an order.
        """
        number = order["id"]
        assert number not in self._ended, "a number is used once at a time"
        ended: asyncio.Future[tuple[dict[str, Any], bytes]] = asyncio.get_running_loop().create_future()
        self._ended[number] = ended
        if on is not None:
            self._handlers[number] = on
        try:
            await self.send(order, payload)
            header, data = await ended
        finally:
            del self._ended[number]
            self._handlers.pop(number, None)
        if header["type"] == "error":
            message, errno = str(header.get("message")), header.get("errno")
            if isinstance(errno, int):
                raise OSError(errno, message)
            raise ValueError(message)
        return header, data

    async def send(self, order: dict[str, Any], payload: bytes = b"") -> None:
        """Write one frame, once there is room for it."""
        await self._room.wait()
        if self.broken is not None:
            raise self.broken
        assert self._transport is not None
        self._transport.write(encode(order, payload))

    def tell(self, order: dict[str, Any], payload: bytes = b"") -> None:
        """Writes a frame whose answer nobody waits for."""
        if self.broken is None and self._transport is not None:
            self._transport.write(encode(order, payload))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # asyncio calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # another event loop's is one in all but its class

    def data_received(self, data: bytes) -> None:
        try:
            for header, payload in self._decoder.feed(data):
                self._hand_on(header, payload)
        except FrameError as error:
            self._break(f"the agent of {self._whose} sent what is no answer: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        self._break(f"the connection to {self._whose} ended")

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    def _hand_on(self, header: dict[str, Any], payload: bytes) -> None:
        number, kind = header.get("id"), header.get("type")
        if kind == "net" and self.on_net is not None:
            try:
                self.on_net(header, payload)
            except BoxLostError as error:
                self._break(str(error))
            return
        ended = self._ended.get(number) if isinstance(number, int) else None
        if ended is None or ended.done():
            return  # it answers nothing that was asked
        assert isinstance(number, int)
        if kind in ("done", "error", "unknown"):
            ended.set_result((header, payload))
        elif (handler := self._handlers.get(number)) is not None:
            try:
                handler(header, payload)
            except BoxLostError as error:
                self._break(str(error))

    def _break(self, reason: str) -> None:
        if self.broken is None:
            self.broken = BoxLostError(reason)
        self._room.set()
        if self._transport is not None:
            self._transport.abort()
        for ended in self._ended.values():
            if not ended.done():
                ended.set_exception(BoxLostError(reason))
