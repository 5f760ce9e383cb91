"""The one thread that a process does its tensor work in.

OpenMP keeps a pool of threads for every thread that computes. Once the pools of a process hold more threads than the machine
has cores, libgomp's threads sleep between operations where they would spin, and a step takes 1.4 to 2 times as long. So an
engine and a trainer that live in one process take turns here.

Work that runs in the thread must not wait for other work of the thread: it would wait for itself.
"""

from __future__ import annotations

import asyncio
import atexit
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")

END_S = 2.0  # for what the thread is at when the process ends


class _Thread:
    """Started with its first work. A process that ends waits a moment for what it is at, or torch would abort amid it."""

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self.thread: threading.Thread | None = None

    def put(self, work: Callable[[], None]) -> None:
        self._waiting.put(work)
        with self._lock:
            if self.thread is None:
                self.thread = threading.Thread(target=self._run, name="compute", daemon=True)
                self.thread.start()
                atexit.register(self._end)

    def _run(self) -> None:
        while (work := self._waiting.get()) is not None:
            work()

    def _end(self) -> None:
        assert self.thread is not None, "registered when it started"
        self._waiting.put(None)
        self.thread.join(END_S)


_thread = _Thread()


def submit(function: Callable[[], T]) -> Future[T]:
    """Runs `function` in the compute thread, after what was submitted before; cancelling the future in time prevents it."""
    future: Future[T] = Future()
    _thread.put(lambda: run_into(future, function))
    return future


def in_compute_thread() -> bool:
    return threading.current_thread() is _thread.thread


def run_into(future: Future[T], function: Callable[[], T]) -> None:
    """Runs `function` here, unless `future` was cancelled, and gives the future its result or its error."""
    if not future.set_running_or_notify_cancel():
        return  # whoever asked has stopped waiting
    try:
        future.set_result(function())
    except BaseException as error:  # noqa: BLE001 - whoever awaits the future gets it
        future.set_exception(error)


async def result_of(future: Future[T], timeout_s: float | None, what: str) -> T:
    """The future's result, for the event loop to wait for; time in a queue counts.

    Raises:
        TimeoutError: it took longer than `timeout_s` (None: no limit). What was started is left to itself.
    """
    limit = asyncio.timeout(timeout_s)
    try:
        async with limit:
            return await asyncio.wrap_future(future)
    except TimeoutError:
        if not limit.expired():  # the function's own
            raise
        raise TimeoutError(f"waited {timeout_s or 0:.0f} s for {what}; raise runtime.timeout_s if it needs longer") from None


def set_num_threads(count: int) -> None:
    """Threads of one tensor operation, in this thread and in the compute thread: torch keeps the number by thread."""
    import torch  # late: reward workers have no use for it

    torch.set_num_threads(count)
    submit(lambda: torch.set_num_threads(count)).result()
