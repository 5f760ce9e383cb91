"""The one thread that a process does its tensor work in.

OpenMP keeps a pool of threads for every thread that computes. Once the pools of a process hold more threads than the machine
has cores, libgomp's threads sleep between operations where they would spin, and a step takes 1.4 to 2 times as long. So an
engine and a trainer that live in one process take turns here.
"""

from __future__ import annotations

import functools
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")

_waiting: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
_starting = threading.Lock()


def submit(function: Callable[[], T]) -> Future[T]:
    """Runs `function` in the compute thread, after what was submitted before; cancelling the future in time prevents it."""
    future: Future[T] = Future()
    _waiting.put(lambda: run_into(future, function))
    with _starting:
        _start()
    return future


def run_into(future: Future[T], function: Callable[[], T]) -> None:
    """Runs `function` here, unless `future` was cancelled, and gives the future its result or its error."""
    if not future.set_running_or_notify_cancel():
        return  # whoever asked has stopped waiting
    try:
        future.set_result(function())
    except BaseException as error:  # noqa: BLE001 - whoever awaits the future gets it
        future.set_exception(error)


@functools.cache
def _start() -> None:
    threading.Thread(target=_work, name="compute", daemon=True).start()


def _work() -> None:
    while True:
        _waiting.get()()
