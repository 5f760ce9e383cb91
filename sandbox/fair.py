"""Who is next: round-robin between labels, in order of arrival within one, so that one run's burst does not starve another.

`FairQueue` is the order alone; `Turns` has coroutines wait in it. The keeper and `sandbox/placement.py` use them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Hashable, Mapping
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


def label_of(labels: Mapping[str, str]) -> str:
    """The label that takes turns with others: the run's.

    >>> label_of({"run": "maths-3", "task": "17"})
    'maths-3'
    """
    return labels.get("run", "")


class FairQueue(Generic[T]):
    """Items wait under labels. Everything but `counts` takes constant time.

    >>> queue = FairQueue[str]()
    >>> for label, item in ("a", "a1"), ("a", "a2"), ("a", "a3"), ("b", "b1"):
    ...     queue.add(label, item)
    >>> [queue.take() for _ in range(4)]
    ['a1', 'b1', 'a2', 'a3']
    """

    def __init__(self) -> None:
        self._waiting = OrderedDict[str, OrderedDict[T, None]]()  # the label whose turn it is comes first
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def add(self, label: str, item: T) -> None:
        """Puts an item, which must not be there already, behind those of its label."""
        self._waiting.setdefault(label, OrderedDict())[item] = None
        self._length += 1

    def put_back(self, label: str, item: T) -> None:
        """Puts an item that was taken, and could not be served after all, before all others: its turn has not been had."""
        self.add(label, item)
        self._waiting[label].move_to_end(item, last=False)
        self._waiting.move_to_end(label, last=False)

    def remove(self, label: str, item: T) -> bool:
        """Takes out an item that waits no longer; whether it was there."""
        if item not in self._waiting.get(label, ()):
            return False
        del self._waiting[label][item]
        self._length -= 1
        if not self._waiting[label]:
            del self._waiting[label]
        return True

    def labels(self) -> list[str]:
        """The labels that anything waits under, in the order of their turns."""
        return list(self._waiting)

    def first(self, label: str) -> T:
        return next(iter(self._waiting[label]))

    def take(self, label: str | None = None) -> T:
        """Takes the first item of this label, else of the one whose turn it is; the label goes behind the others."""
        label = next(iter(self._waiting)) if label is None else label
        item = self.first(label)
        self._waiting.move_to_end(label)
        self.remove(label, item)
        return item

    def counts(self) -> dict[str, int]:
        """How many wait under each label."""
        return {label: len(items) for label, items in self._waiting.items()}


class Turns:
    """A semaphore whose waiting coroutines take turns by label.

    async with turns.of("run a"):
        at most `count` are here at once
    """

    def __init__(self, count: int) -> None:
        if count < 1:
            raise ValueError(f"num_starting: got {count}; it must be at least 1")
        self._free = count
        self._queue = FairQueue[asyncio.Future[None]]()

    @contextlib.asynccontextmanager
    async def of(self, label: str) -> AsyncIterator[None]:
        await self._begin(label)
        try:
            yield
        finally:
            self._end()

    async def _begin(self, label: str) -> None:
        if self._free:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.add(label, turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not self._queue.remove(label, turn) and not turn.cancelled():
                self._end()  # its turn had come
            raise

    def _end(self) -> None:
        while len(self._queue):
            turn = self._queue.take()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
