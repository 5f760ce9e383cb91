"""Workers of one kind that may go and come back: a share of work is done whole by one of them, by another if that is lost.

A share is the unit of acknowledgement: it is there whole or it is done again. Since that happens whole, on a worker that does
nothing else, the second result equals the first in every bit. Used by `rl/collect.py`; a lost worker sees to its return itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from rl.workers import Member, WorkerDiedError, WorkerLostError

W = TypeVar("W", bound=Member)
A = TypeVar("A")
R = TypeVar("R")


class Pool(Generic[W]):
    """Hands out workers, one call a worker at a time.

    Its calls raise WorkerDiedError when no worker has been there for `timeout_s`, and whatever ended an absence for good.
    """

    def __init__(self, kind: str, workers: Sequence[W], timeout_s: float) -> None:
        self.kind, self.workers, self.timeout_s = kind, workers, timeout_s
        self._busy = set[int]()  # places in `workers`
        self._given_back = asyncio.Event()

    async def each_share(self, items: Sequence[A], do: Callable[[int, Sequence[A]], Awaitable[Sequence[R]]]) -> list[R]:
        """Deals the items in a fixed order to the workers that are there; the results in the items' order.

        `do(first, share)` gives a share's results; `first` is the worker that it is meant for, which `do` hands on to `run`.
        """
        firsts = [i for i, worker in enumerate(self.workers) if worker.absence is None][: len(items)] or [0]
        count = len(firsts)
        answers = await asyncio.gather(*(do(first, items[i::count]) for i, first in enumerate(firsts))) if items else []
        return [answers[i % count][i // count] for i in range(len(items))]

    async def run(self, first: int, call: Callable[[W], Awaitable[R]]) -> R:
        """The answer to a call of worker `first` if it is free, else of any that is; asked again of another if it is lost."""
        while True:
            place = await self._take(first)
            try:
                return await call(self.workers[place])
            except WorkerLostError:
                continue
            finally:
                self._busy.remove(place)
                self._given_back.set()

    async def _take(self, first: int) -> int:
        """A free worker's place in `workers`, once there is one."""
        while True:
            absences = [worker.absence for worker in self.workers if worker.absence is not None]
            for absence in absences:
                if absence.done():
                    absence.result()  # raises: it will not be back
            there = {place for place, worker in enumerate(self.workers) if worker.absence is None} - self._busy
            if there:
                place = first if first in there else min(there)
                self._busy.add(place)
                return place
            self._given_back.clear()  # nothing was free just now, and nobody else runs until the wait below
            given_back = asyncio.create_task(self._given_back.wait())
            limit = self.timeout_s if len(absences) == len(self.workers) else None  # a worker at work has a limit of its own
            try:
                done, _ = await asyncio.wait([given_back, *absences], timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            finally:
                given_back.cancel()
            if not done:
                raise WorkerDiedError(
                    f"no {self.kind} worker is left, and none could be started again within {self.timeout_s:.0f} s "
                    "(runtime.timeout_s); the run can be resumed once there is room for one"
                )
