"""What every engine inside this process has in common: streams and commands around a core that makes one step after another.

The core runs in the process's compute thread. Callers live in asyncio and never block decoding. Commands (abort, extend, new
weights) take effect between two steps, so they are answered within one step's time, or one training step's where a trainer
shares the process.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from typing import Any, Generic, Protocol, TypeVar

import torch

from rl.compute import result_of, run_into, submit
from rl.engine.capabilities import Capabilities
from rl.engine.protocol import GenerateRequest, SavedKV, TokenChunk, Weights

T = TypeVar("T")


class EngineStoppedError(RuntimeError):
    """The engine was closed, or a step of it failed; the cause is chained."""


class Core(Protocol):
    """The decoding itself, without threads: commands, then one step, then commands again."""

    policy_version: int

    @property
    def has_work(self) -> bool: ...

    def add(self, request: GenerateRequest) -> None: ...

    def extend(self, request_id: str, forced_ids: Sequence[int], max_tokens: int | None = None) -> None: ...

    def release(self, request_id: str) -> list[int]: ...

    def abort(self, request_id: str) -> list[tuple[str, TokenChunk]]:
        """Removes a request wherever it is; its last chunk says ABORTED. Unknown ids give nothing."""
        ...

    def step(self) -> list[tuple[str, TokenChunk]]:
        """At most one more token for every request; the chunks that are due."""
        ...

    def save_kv(self, request_id: str) -> SavedKV: ...

    def restore_kv(self, saved: SavedKV) -> None: ...

    def load_weights(self, weights: Weights) -> None: ...


C = TypeVar("C", bound=Core)


class SteppedEngine(Generic[C]):
    """See rl/engine/protocol.py for what each method promises.

    `timeout_s` bounds how long a stream may wait without the engine making any step.
    """

    def __init__(self, core: C, capabilities: Capabilities, *, timeout_s: float = 600.0) -> None:
        self._core, self._capabilities, self._timeout_s = core, capabilities, timeout_s
        self._streams: dict[str, tuple[asyncio.AbstractEventLoop, asyncio.Queue[TokenChunk | BaseException]]] = {}
        self._commands: list[tuple[Callable[[], Any], Future[Any]]] = []
        self._lock = threading.Lock()  # of the commands, and of whether a turn is due
        self._turn_is_due = self._paused = False
        self._failure: BaseException | None = None  # closed, or broken: for good
        self._last_step = time.monotonic()
        self.busy_s = 0.0  # spent in steps since the start

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def policy_version(self) -> int:
        return self._core.policy_version

    def generate(self, request: GenerateRequest) -> AsyncIterator[TokenChunk]:
        """Submits at once (not at the first `anext`), so that requests made together enter the batch together."""
        return self._stream(request.request_id, self._submit(request.request_id, lambda: self._core.add(request)))

    def extend(self, request_id: str, forced_ids: Sequence[int], max_tokens: int | None = None) -> AsyncIterator[TokenChunk]:
        queue = self._submit(request_id, lambda: self._core.extend(request_id, forced_ids, max_tokens))
        return self._stream(request_id, queue)

    async def release(self, request_id: str) -> list[int]:
        return await self._command("release a request", lambda: self._core.release(request_id))

    async def abort(self, request_id: str) -> None:
        def command() -> None:
            for name, chunk in self._core.abort(request_id):
                self._deliver(name, chunk)

        await self._command("abort a request", command)

    async def pause(self) -> None:
        def command() -> None:
            self._paused = True

        await self._command("pause", command)

    async def resume(self) -> None:
        def command() -> None:
            self._paused = False
            self._last_step = time.monotonic()

        await self._command("resume", command)

    async def save_kv(self, request_id: str) -> SavedKV:
        return await self._command("save a cache", lambda: self._core.save_kv(request_id))

    async def restore_kv(self, saved: SavedKV) -> None:
        await self._command("restore a cache", lambda: self._core.restore_kv(saved))

    async def load_weights(self, weights: Weights) -> None:
        await self._command("take new weights", lambda: self._core.load_weights(weights))

    def close(self) -> None:
        """Ends decoding; a step that is running is not waited for. Open streams end with EngineStoppedError."""
        self._fail(EngineStoppedError("the engine was closed"))

    # ---- caller's side

    def _submit(self, request_id: str, command: Callable[[], None]) -> asyncio.Queue[TokenChunk | BaseException]:
        if request_id in self._streams:
            raise ValueError(f"request {request_id} is already running")
        queue: asyncio.Queue[TokenChunk | BaseException] = asyncio.Queue()
        self._streams[request_id] = (asyncio.get_running_loop(), queue)
        self._post(command).add_done_callback(lambda done: self._refused(request_id, done))
        return queue

    def _refused(self, request_id: str, done: Future[Any]) -> None:
        error = done.exception()
        if error is not None:
            self._deliver(request_id, error)

    async def _stream(self, request_id: str, queue: asyncio.Queue[TokenChunk | BaseException]) -> AsyncIterator[TokenChunk]:
        finished = False
        try:
            while not finished:
                item = await self._next(request_id, queue)
                if isinstance(item, BaseException):
                    finished = True
                    raise item
                finished = item.finish_reason is not None
                if finished:
                    self._streams.pop(request_id, None)
                yield item
        finally:
            if (mine := self._streams.get(request_id)) is not None and mine[1] is queue:  # else it is the next turn's
                del self._streams[request_id]
            if not finished:  # the reader went away: stop decoding for nobody
                self._post(lambda: self._core.abort(request_id))

    async def _next(self, request_id: str, queue: asyncio.Queue[TokenChunk | BaseException]) -> TokenChunk | BaseException:
        while True:
            try:
                async with asyncio.timeout(self._timeout_s):  # wait_for may swallow a cancellation on Python 3.11
                    return await queue.get()
            except TimeoutError:
                idle = time.monotonic() - self._last_step
                if not self._paused and idle >= self._timeout_s:
                    raise TimeoutError(f"request {request_id}: the engine made no step for {idle:.0f} s") from None

    async def _command(self, what: str, command: Callable[[], T]) -> T:
        return await result_of(self._post(command), self._timeout_s, f"an engine to {what}")

    def _post(self, command: Callable[[], T]) -> Future[T]:
        """Queues a command for the engine's next turn; it runs before the next step."""
        future: Future[T] = Future()
        with self._lock:
            if self._failure is not None:
                future.set_exception(EngineStoppedError(f"the engine is not running: {self._failure}"))
            else:
                self._commands.append((command, future))
                if not self._turn_is_due:
                    self._turn_is_due = True
                    submit(self._turn)
        return future

    # ---- compute thread

    @torch.inference_mode()  # the cache's tensors are made and changed in it
    def _turn(self) -> None:
        """The commands that wait, then one step; asks for another turn where there is more to do."""
        try:
            with self._lock:
                if self._failure is not None:
                    return
                commands, self._commands = self._commands, []
            for command, future in commands:
                run_into(future, command)
            if not self._paused and self._core.has_work:
                began = time.monotonic()
                for request_id, chunk in self._core.step():
                    self._deliver(request_id, chunk)
                self._last_step = time.monotonic()
                self.busy_s += self._last_step - began
            with self._lock:
                self._turn_is_due = bool(self._commands) or (not self._paused and self._core.has_work)
                if self._turn_is_due:
                    submit(self._turn)
        except BaseException as error:  # noqa: BLE001 - handed to every open stream, which raises it
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            self._failure = self._failure or error
            commands, self._commands = self._commands, []
        for _, future in commands:
            if future.set_running_or_notify_cancel():  # else nobody waits for it any more
                future.set_exception(EngineStoppedError(str(error)))
        for request_id in list(self._streams):
            stopped = EngineStoppedError(f"the engine stopped while request {request_id} was running: {error!r}")
            stopped.__cause__ = error
            self._deliver(request_id, stopped)

    def _deliver(self, request_id: str, item: TokenChunk | BaseException) -> None:
        stream = self._streams.get(request_id)
        if stream is not None and not stream[0].is_closed():
            stream[0].call_soon_threadsafe(stream[1].put_nowait, item)
