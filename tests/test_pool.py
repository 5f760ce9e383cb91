"""A pool of workers that are lost in the middle of a call and come back, or do not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import pytest

from rl.pool import Pool
from rl.workers import WorkerDiedError, WorkerLostError


@dataclass
class Doubler:
    """Doubles numbers; `fate` is what happens at its next calls, then nothing does."""

    name: str
    fate: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    absence: asyncio.Task[None] | None = None
    shares: list[Sequence[int]] = field(default_factory=list)

    async def double(self, items: Sequence[int]) -> list[int]:
        assert self.absence is None, "nobody asks a worker that is away"
        await asyncio.sleep(0)
        if self.fate:
            self.absence = asyncio.create_task(self._away(self.fate.pop(0)))
            raise WorkerLostError(self.name)
        self.shares.append(items)
        return [2 * item for item in items]

    async def _away(self, until: Callable[[], Awaitable[None]]) -> None:
        await until()
        self.absence = None


async def at_once() -> None:
    """It is back at the next turn."""


async def for_good() -> None:
    await asyncio.Event().wait()


async def given_up() -> None:
    raise WorkerDiedError("died more than 3 times")


def double(workers: Sequence[Doubler], count: int, *, times: int = 1, timeout_s: float = 30.0) -> list[int]:
    async def run() -> list[int]:
        pool, found = Pool("test", workers, timeout_s), list[int]()
        for _ in range(times):
            found = await pool.each_share(
                range(count), lambda first, share: pool.run(first, lambda worker: worker.double(share))
            )
        for worker in workers:
            if worker.absence is not None:
                worker.absence.cancel()
        return found

    return asyncio.run(asyncio.wait_for(run(), 60))


@pytest.mark.parametrize("num_workers", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [0, 1, 4, 9])
def test_shares_are_dealt_in_a_fixed_order(num_workers: int, count: int) -> None:
    workers = [Doubler(str(i)) for i in range(num_workers)]
    assert double(workers, count, times=2) == [2 * i for i in range(count)]
    for i, worker in enumerate(workers):
        assert [list(share) for share in worker.shares] == [list(range(i, count, num_workers))] * 2 * (i < count)


def test_a_lost_share_is_done_whole_by_another_and_the_next_work_is_dealt_to_those_that_are_left() -> None:
    workers = [Doubler("a"), Doubler("b", [for_good]), Doubler("c")]
    assert double(workers, 9, times=2) == [2 * i for i in range(9)]
    done = [list(share) for worker in (workers[0], workers[2]) for share in worker.shares]
    assert sorted(done) == sorted([[0, 3, 6], [1, 4, 7], [2, 5, 8], [0, 2, 4, 6, 8], [1, 3, 5, 7]])
    assert not workers[1].shares


def test_the_only_worker_does_its_share_when_it_is_back() -> None:
    workers = [Doubler("a", [at_once, at_once])]
    assert double(workers, 3) == [0, 2, 4]
    assert [list(share) for share in workers[0].shares] == [[0, 1, 2]]


def test_one_call_a_worker_at_a_time() -> None:
    busy, most = 0, 0

    @dataclass
    class Counting(Doubler):
        async def double(self, items: Sequence[int]) -> list[int]:
            nonlocal busy, most
            busy, most = busy + 1, max(most, busy + 1)
            await asyncio.sleep(0.001)
            busy -= 1
            return await super().double(items)

    async def run() -> None:
        workers = [Counting("a"), Counting("b")]
        pool = Pool("test", workers, 30.0)
        found = await asyncio.gather(*(pool.run(0, lambda worker, i=i: worker.double([i])) for i in range(10)))
        assert found == [[2 * i] for i in range(10)]
        assert {len(worker.shares) for worker in workers} == {5}

    asyncio.run(asyncio.wait_for(run(), 60))
    assert most == 2


def test_when_nobody_is_left_in_time_it_says_so() -> None:
    with pytest.raises(WorkerDiedError, match=r"no test worker is left, .* within 0 s .* can be resumed"):
        double([Doubler("a", [for_good]), Doubler("b", [for_good])], 4, timeout_s=0.05)


def test_what_ended_an_absence_for_good_is_raised_where_work_waits() -> None:
    with pytest.raises(WorkerDiedError, match="died more than 3 times"):
        double([Doubler("a", [given_up]), Doubler("b")], 4, times=3)


def test_an_error_of_the_work_itself_is_nobodys_loss() -> None:
    async def run() -> None:
        pool = Pool("test", [Doubler("a"), Doubler("b")], 30.0)

        async def fail(worker: Doubler) -> None:
            raise ValueError(worker.name)

        for place in (0, 1, 0):
            with pytest.raises(ValueError, match="ab"[place]):
                await pool.run(place, fail)

    asyncio.run(asyncio.wait_for(run(), 60))
