"""Async rewards in their process: many calls at once on one event loop, each with a deadline of its own.

What a call does between two awaits it does alone; that it is at it stands in `rewards.marks`, for the parent to end the process
where a call does not come back. Used by `rewards.work.Rewards`.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Coroutine, Generator, Sequence
from dataclasses import dataclass
from typing import Any

from rewards.boxes import Clock, clock
from rewards.calls import Caller, Outcome
from rewards.marks import Marks
from rewards.parameters import Item
from rewards.plugin import Reward

MAX_AT_ONCE = 64  # calls of one reward
BEAT_S = 0.25  # between two marks that the loop turns
LEAVE_S = 5.0  # that calls which are over time may take to end what they have begun, such as a command in a box

_number: contextvars.ContextVar[int] = contextvars.ContextVar("number", default=-1)


@dataclass(frozen=True)
class Call:
    """One call of an async reward: which of the rewards, and its items: one, or those of a batch."""

    reward: int
    items: Sequence[Item]


class Many:
    """Runs calls on the caller's loop. `next` gives each call's number and outcomes as they come, in any order."""

    def __init__(
        self,
        caller: Caller,
        rewards: Sequence[Reward],
        calls: Sequence[Call],
        marks: Marks,
        num_boxes: int,
        undying: set[asyncio.Task[list[Outcome]]],
    ) -> None:
        """`undying`: calls of this process, of earlier requests too, that were over time and do not end."""
        self._caller, self._rewards, self._marks, self._undying = caller, rewards, marks, undying
        self._done: asyncio.Queue[tuple[int, list[Outcome]]] = asyncio.Queue()
        self._places = {
            i: asyncio.Semaphore(num_boxes if {"box", "boxes"} & set(reward.signature.known) else MAX_AT_ONCE)
            for i, reward in enumerate(rewards)
        }
        asyncio.get_running_loop().set_task_factory(self._task)
        self._beating = asyncio.create_task(self._beat())
        self._running = {asyncio.create_task(self._run(number, call)) for number, call in enumerate(calls)}

    async def next(self) -> tuple[int, list[Outcome]]:
        return await self._done.get()

    async def leave(self) -> None:
        """Lets go of what calls over time have begun; what still runs after `LEAVE_S` is left to itself."""
        self._beating.cancel()
        left = [task for task in self._running if not task.done()]
        if left:
            await asyncio.wait(left, timeout=LEAVE_S)

    async def _beat(self) -> None:
        while True:
            if not self._undying:  # one may hold a box that others wait for: without a beat the parent ends the process
                self._marks.beat()
            await asyncio.sleep(BEAT_S)

    async def _run(self, number: int, call: Call) -> None:
        reward = self._rewards[call.reward]
        async with self._places[call.reward]:
            _number.set(number)
            own = Clock()
            clock.set(own)
            self._marks.begin(number)
            task, limit_s = asyncio.create_task(self._caller.acall(reward, call.items)), reward.source.timeout_s
            while not task.done() and own.elapsed_s < limit_s:
                await asyncio.wait([task], timeout=limit_s - own.elapsed_s)
            in_time = task.done()
            if in_time:
                outcomes = task.result()
            else:
                task.cancel()
                outcomes = [f"took longer than {limit_s:g} s"] * len(call.items)
            self._done.put_nowait((number, outcomes))
            if not in_time:  # it keeps its place until it has given back what it holds
                for undying in (await asyncio.wait([task], timeout=LEAVE_S))[1]:
                    self._undying.add(undying)
                    undying.add_done_callback(self._undying.discard)

    def _task(self, loop: asyncio.AbstractEventLoop, work: Any, **named: Any) -> asyncio.Task[Any]:
        """Every task that a call starts belongs to that call."""
        number = _number.get()
        return asyncio.Task(_Marked(work, number, self._marks) if number >= 0 else work, loop=loop, **named)


class _Marked(Coroutine[Any, Any, Any]):
    """A coroutine whose steps are marked."""

    def __init__(self, work: Coroutine[Any, Any, Any], number: int, marks: Marks) -> None:
        self._work, self._mark, self._marks = work, number, marks

    def send(self, value: Any) -> Any:
        self._marks.enter(self._mark)
        try:
            return self._work.send(value)
        finally:
            self._marks.leave()

    def throw(self, *error: Any) -> Any:
        self._marks.enter(self._mark)
        try:
            return self._work.throw(*error)
        finally:
            self._marks.leave()

    def close(self) -> None:
        self._work.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._work.__await__()
