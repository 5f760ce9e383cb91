"""The same pool and boxes for code that is not asynchronous: each call waits for its answer, and is documented there.

with BlockingPool(Pool()) as pool:
    print(pool.create("function").exec("echo hello").stdout.text)
"""

from __future__ import annotations

import asyncio
import functools
import signal
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar

from sandbox.box import Box
from sandbox.errors import BoxUnavailableError
from sandbox.pool import Pool
from sandbox.process import Process, Terminal
from sandbox.result import Result

P = ParamSpec("P")
T = TypeVar("T")
Call = Callable[Concatenate[Box, P], Coroutine[Any, Any, T]]


def _of_box(call: Call[P, T]) -> Callable[Concatenate[BlockingBox, P], T]:
    @functools.wraps(call)
    def blocking(self: BlockingBox, /, *arguments: P.args, **named: P.kwargs) -> T:
        return self.pool.wait(call(self.box, *arguments, **named))

    return blocking


def _creating(
    call: Callable[Concatenate[Pool, P], Coroutine[Any, Any, Box]],
) -> Callable[Concatenate[BlockingPool, P], BlockingBox]:
    @functools.wraps(call)
    def blocking(self: BlockingPool, /, *arguments: P.args, **named: P.kwargs) -> BlockingBox:
        return BlockingBox(self, self.wait(call(self.pool, *arguments, **named)))

    return blocking


class BlockingPool:
    """A pool whose event loop runs in a thread of its own; from any thread."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="sandbox", daemon=True)

    def __enter__(self) -> BlockingPool:
        self._thread.start()
        try:
            self.wait(self.pool.open())
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.wait(self.pool.close())
        finally:
            self._stop()

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        if not self._thread.is_alive():  # nobody would ever answer
            coroutine.close()
            raise BoxUnavailableError("the pool is not open; write `with BlockingPool(Pool()) as pool:`")
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    create = _creating(Pool.create)

    @functools.wraps(Pool.warm)
    def warm(self, *arguments: Any, **named: Any) -> None:
        self.wait(self.pool.warm(*arguments, **named))

    def release(self, box: BlockingBox) -> None:
        self.wait(self.pool.release(box.box))

    def destroy(self, box: BlockingBox) -> None:
        self.wait(self.pool.destroy(box.box))

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class BlockingBox:
    """A box of a blocking pool."""

    def __init__(self, pool: BlockingPool, box: Box) -> None:
        self.pool, self.box = pool, box

    exec = _of_box(Box.exec)
    python = _of_box(Box.python)
    read_file = _of_box(Box.read_file)
    write_file = _of_box(Box.write_file)
    written_by = _of_box(Box.written_by)
    list_files = _of_box(Box.list_files)
    upload = _of_box(Box.upload)
    download = _of_box(Box.download)
    end_commands = _of_box(Box.end_commands)
    set_network = _of_box(Box.set_network)
    pause = _of_box(Box.pause)
    resume = _of_box(Box.resume)
    snapshot = _of_box(Box.snapshot)
    rollback = _of_box(Box.rollback)
    reset = _of_box(Box.reset)
    diff = _of_box(Box.diff)
    commit = _of_box(Box.commit)

    @functools.wraps(Box.start)
    def start(self, *arguments: Any, **named: Any) -> BlockingProcess:
        return BlockingProcess(self.pool, self.pool.wait(self.box.start(*arguments, **named)))

    @functools.wraps(Box.terminal)
    def terminal(self, *arguments: Any, **named: Any) -> BlockingTerminal:
        return BlockingTerminal(self.pool, self.pool.wait(self.box.terminal(*arguments, **named)))

    def fork(self, count: int) -> list[BlockingBox]:
        return [BlockingBox(self.pool, box) for box in self.pool.wait(self.box.fork(count))]


class BlockingProcess:
    """A command in the background of a blocking box."""

    def __init__(self, pool: BlockingPool, process: Process) -> None:
        self.pool, self.process = pool, process

    @property
    def running(self) -> bool:
        return self.process.running

    def wait(self) -> Result:
        return self.pool.wait(self.process.wait())

    def kill(self, number: int = signal.SIGKILL) -> None:
        self.pool.wait(self.process.kill(number))


class BlockingTerminal(BlockingProcess):
    def __init__(self, pool: BlockingPool, terminal: Terminal) -> None:
        super().__init__(pool, terminal)
        self.terminal = terminal

    def write(self, data: bytes) -> None:
        self.pool.wait(self.terminal.write(data))

    def read(self) -> bytes:
        return self.pool.wait(self.terminal.read())

    def resize(self, rows: int, columns: int) -> None:
        self.pool.wait(self.terminal.resize(rows, columns))
