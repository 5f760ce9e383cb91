"""Commands that run in the background, and terminals. What one comes to is recorded as any command's; what is typed is not."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from sandbox.guest.frames import MAX_PAYLOAD_BYTES
from sandbox.result import Result

FULL_S = 0.02  # before a terminal that takes no more is tried again


class Ask(Protocol):
    """Asks the agent for something beside the box's calls."""

    def __call__(self, order: dict[str, Any], payload: bytes = b"") -> Coroutine[Any, Any, dict[str, Any]]: ...


class Process:
    """A command in the background: it goes on until it ends, `kill` is called, its time is up, or its box ends."""

    def __init__(self, number: int, ended: asyncio.Task[Result], ask: Ask) -> None:
        self.number = number  # of the call
        self._ended, self._ask = ended, ask
        ended.add_done_callback(lambda task: task.cancelled() or task.exception())  # told to whoever waits, if anyone

    @property
    def running(self) -> bool:
        return not self._ended.done()

    async def wait(self) -> Result:
        """What it came to, once it has ended.

        Raises:
            BoxLostError: the box ended meanwhile.
        """
        return await asyncio.shield(self._ended)

    async def kill(self, number: int = signal.SIGKILL) -> None:
        """Sends its main process a signal; SIGKILL ends all that it has started as well, even after its own end."""
        words = {} if number == signal.SIGKILL else {"signal": int(number)}
        await self._ask({"op": "end", "command": self.number, **words})


class Terminal(Process):
    """A command at a terminal of its own: what it shows is read here, what is written here is typed into it."""

    def __init__(self, number: int, ended: asyncio.Task[Result], ask: Ask, screen: Screen) -> None:
        super().__init__(number, ended, ask)
        self._screen = screen
        ended.add_done_callback(lambda _: screen.close())

    async def write(self, data: bytes) -> None:
        """Types it in; waits while the command does not read."""
        while data:
            answer = await self._ask({"op": "type", "command": self.number}, data[:MAX_PAYLOAD_BYTES])
            taken = answer.get("taken")
            if not isinstance(taken, int) or not 0 < taken <= len(data):
                await asyncio.sleep(FULL_S)
                continue
            data = data[taken:]

    async def read(self) -> bytes:
        """What it has shown since the last call, or shows next; nothing once it has ended."""
        return await self._screen.read()

    async def resize(self, rows: int, columns: int) -> None:
        await self._ask({"op": "resize", "command": self.number, "rows": rows, "columns": columns})


class Screen:
    """What a terminal has shown and nobody has read: the last `keep_bytes` of it."""

    def __init__(self, keep_bytes: int) -> None:
        self._keep_bytes, self._shown, self._closed = keep_bytes, bytearray(), False
        self._changed = asyncio.Event()

    def show(self, stream: str, data: bytes) -> None:
        self._shown += data
        del self._shown[: -self._keep_bytes]
        self._changed.set()

    def close(self) -> None:
        self._closed = True
        self._changed.set()

    async def read(self) -> bytes:
        while not self._shown and not self._closed:
            self._changed.clear()
            await self._changed.wait()
        data, self._shown = bytes(self._shown), bytearray()
        return data


OnOutput = Callable[[str, bytes], None]  # gets "stdout" or "stderr" and each piece as it comes
