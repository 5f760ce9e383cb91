"""What the processes of rewards do, and how each kind of work is asked for and ends, as its parent sees it.

`Rewards` is the child's side: `rewards.nursery` hands it the requests. A `Work` is the parent's side of one request:
`rewards.dispatch` sends it to a child, hands it the replies, and asks it when the child is to be ended.
"""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from rewards.calls import Caller, Outcome, reason
from rewards.config import SandboxConfig
from rewards.errors import UserError
from rewards.many import Call, Many
from rewards.marks import Marks
from rewards.nursery import Nursery, Part
from rewards.nursery import serve as serve_in_nursery
from rewards.parameters import Item
from rewards.plugin import Reward, RewardSource, build
from rewards.result import Score

STUCK_S = 10.0  # beyond its longest deadline, after which a loop that does not answer is held by something
BOX_LIMIT_S = 150.0  # for a box to be there; the pool says before that why there is none
BEGUN = b"{}"  # a reply: the box of a plain reward is there
MAX_DEATHS = 2  # of a process, whoever ended it, that a call in it may see

Tell = Callable[[int, int, Outcome], None]  # the place of an item, the place of a reward, and what came of it


@dataclass(frozen=True)
class One:
    """Asks for plain rewards of one item, in order, up to the first that fails; a reply for each."""

    rewards: Sequence[int]
    item: Item


@dataclass(frozen=True)
class Batch:
    """Asks for one reward of many items in a single call; one reply."""

    reward: int
    items: Sequence[Item]


@dataclass(frozen=True)
class Calls:
    """Asks for many calls at once, with the descriptor of `Marks`; a reply for each, with its number."""

    calls: Sequence[Call]


def nursery_of(sources: Sequence[RewardSource], sandbox: SandboxConfig) -> Nursery:
    """A nursery of these rewards."""
    return Nursery("rewards.work", [Part(f"reward {source.use!r}: {source.module}", (source, sandbox)) for source in sources])


def serve(channel: int, life: int) -> None:
    """What its process runs."""
    serve_in_nursery(Rewards(), channel, life)


class Rewards:
    """The child's side: the functions loaded so far, and what they need."""

    def __init__(self) -> None:
        self.loaded: list[Reward] = []
        self.sandbox = SandboxConfig()
        self.caller: Caller | None = None
        self._undying = set[asyncio.Task[list[Outcome]]]()  # see `Many`

    def load(self, what: tuple[RewardSource, SandboxConfig]) -> dict[str, Any] | str:
        """What the reward asks for, or why it does not load."""
        source, self.sandbox = what
        try:
            self.loaded.append(build(source))
        except UserError as error:
            return str(error)
        except BaseException as error:  # noqa: BLE001 - a KeyboardInterrupt of its own making: no terminal's comes here
            return f"reward {source.use!r}: {source.module} {reason(error)}"
        signature = self.loaded[-1].signature
        uses_boxes = not {"box", "boxes"}.isdisjoint(signature.known)
        return {
            "is_async": signature.is_async,
            "takes_batch": signature.takes_batch,
            "columns": signature.columns,
            "uses_boxes": uses_boxes,
        }

    def answer(self, asked: object, fds: Sequence[int], send: Callable[[bytes], None]) -> None:
        """Does what is asked and sends the replies."""
        if self.caller is None:
            self.caller = Caller(self.sandbox, catch=(BaseException,))
        if isinstance(asked, One):
            for i in asked.rewards:
                (outcome,) = self.caller.call(self.loaded[i], [asked.item], lambda: send(BEGUN))
                send(_written([outcome]))
                if isinstance(outcome, str):
                    return
        elif isinstance(asked, Batch):
            send(_written(self.caller.call(self.loaded[asked.reward], asked.items)))
        elif isinstance(asked, Calls):
            self._many(self.caller, asked.calls, fds[0], send)
        else:
            raise TypeError(f"no request: {asked!r:.200}")

    def _many(self, caller: Caller, calls: Sequence[Call], fd: int, send: Callable[[bytes], None]) -> None:
        marks = Marks(fd, len(calls))
        os.close(fd)

        async def begin() -> Many:
            return Many(caller, self.loaded, calls, marks, self.sandbox.num_boxes, self._undying)

        many = caller.runner.run(begin())
        for _ in calls:
            number, outcomes = caller.runner.run(many.next())
            send(_written([number, *outcomes]))
        caller.runner.run(many.leave())


class Work(ABC):
    """The parent's side of one request."""

    holds_process = True  # it counts among the calls that may run at a time

    @abstractmethod
    def request(self) -> tuple[bytes, Sequence[int]]:
        """The request and its descriptors; from now on deadlines run."""

    @abstractmethod
    def take(self, reply: bytes) -> bool:
        """Note a reply; True when it was the last. Raises ValueError where it is none."""

    @property
    @abstractmethod
    def look_at(self) -> float:
        """When `overdue` is to be asked next, a time of `time.monotonic()`."""

    @abstractmethod
    def overdue(self, now: float) -> bool:
        """Whether the child is to be ended."""

    @abstractmethod
    def end(self, why: str | None) -> list[Work]:
        """The child is gone: `why` says how, None where it was overdue. Notes who has failed; returns what is left to do."""


class OneWork(Work):
    """Plain rewards of one item; each has its own deadline, from when it has its box on."""

    def __init__(
        self, place: int, item: Item, rewards: Sequence[int], timeouts: Sequence[float], boxed: Collection[int], tell: Tell
    ) -> None:
        """`boxed`: those of all rewards that get a box."""
        self._place, self._item, self._rewards, self._timeouts, self._tell = place, item, list(rewards), timeouts, tell
        self._boxed = boxed
        self._current = 0
        self._deadline = 0.0

    def request(self) -> tuple[bytes, Sequence[int]]:
        self._begin()
        return pickle.dumps(One(self._rewards, self._item), pickle.HIGHEST_PROTOCOL), ()

    def take(self, reply: bytes) -> bool:
        if reply == BEGUN:
            self._deadline = time.monotonic() + self._timeout_s
            return False
        (outcome,) = _read(reply, 1)
        self._tell(self._place, self._rewards[self._current], outcome)
        self._current += 1
        if isinstance(outcome, str) or self._current == len(self._rewards):
            return True
        self._begin()
        return False

    def _begin(self) -> None:
        waits_s = BOX_LIMIT_S if self._rewards[self._current] in self._boxed else 0.0
        self._deadline = time.monotonic() + waits_s + self._timeout_s

    @property
    def look_at(self) -> float:
        return self._deadline

    def overdue(self, now: float) -> bool:
        return now >= self._deadline

    def end(self, why: str | None) -> list[Work]:
        self._tell(self._place, self._rewards[self._current], why or f"took longer than {self._timeout_s:g} s")
        return []

    @property
    def _timeout_s(self) -> float:
        return self._timeouts[self._rewards[self._current]]


class BatchWork(Work):
    """One reward of a group in one call, which has one deadline and one fate."""

    def __init__(self, places: Sequence[int], items: Sequence[Item], reward: int, timeout_s: float, tell: Tell) -> None:
        self._places, self._items, self._reward, self._timeout_s, self._tell = places, items, reward, timeout_s, tell
        self._deadline = 0.0

    def request(self) -> tuple[bytes, Sequence[int]]:
        self._deadline = time.monotonic() + self._timeout_s
        return pickle.dumps(Batch(self._reward, self._items), pickle.HIGHEST_PROTOCOL), ()

    def take(self, reply: bytes) -> bool:
        for place, outcome in zip(self._places, _read(reply, len(self._places)), strict=True):
            self._tell(place, self._reward, outcome)
        return True

    @property
    def look_at(self) -> float:
        return self._deadline

    def overdue(self, now: float) -> bool:
        return now >= self._deadline

    def end(self, why: str | None) -> list[Work]:
        for place in self._places:
            self._tell(place, self._reward, why or f"took longer than {self._timeout_s:g} s")
        return []


class CallsWork(Work):
    """Calls of async rewards in one process. One that does not give the loop back, or ends the process, fails alone."""

    holds_process = False

    def __init__(
        self, calls: Sequence[Call], places: Sequence[Sequence[int]], timeouts: Sequence[float], tell: Tell,
        deaths: list[int] | None = None,
    ) -> None:  # fmt: skip
        self._calls, self._places, self._timeouts, self._tell = calls, places, timeouts, tell
        self._deaths = deaths or [0] * len(calls)
        self._open = set(range(len(calls)))
        self._longest_s = max(timeouts[call.reward] for call in calls)
        self._marks: Marks | None = None
        self._culprit: int | None = None

    def request(self) -> tuple[bytes, Sequence[int]]:
        self._marks, fd = Marks.make(len(self._calls))
        return pickle.dumps(Calls(self._calls), pickle.HIGHEST_PROTOCOL), (fd,)

    def take(self, reply: bytes) -> bool:
        found = json.loads(reply)
        number = found[0] if isinstance(found, list) and found else None
        if not isinstance(number, int) or number not in self._open:
            raise ValueError("no outcome")
        self._fill(number, _checked(found[1:], len(self._places[number])))
        return not self._open

    @property
    def look_at(self) -> float:
        return time.monotonic() + min(0.1, self._longest_s / 4)

    def overdue(self, now: float) -> bool:
        assert self._marks is not None
        running = self._marks.running
        if running is not None and now - running[1] > self._timeouts[self._calls[running[0]].reward]:
            self._culprit = running[0]
            return True
        return now - self._marks.last_beat > self._longest_s + STUCK_S

    def end(self, why: str | None) -> list[Work]:
        assert self._marks is not None
        marks, running = self._marks, self._marks.running
        begun = [number for number in sorted(self._open) if marks.has_begun(number)]
        marks.close()
        culprit = self._culprit if self._culprit is not None else running[0] if running is not None else None
        if culprit is not None and culprit in self._open:
            blocked = f"held the event loop for longer than {self._timeouts[self._calls[culprit].reward]:g} s without an await"
            self._fill(culprit, [why or blocked] * len(self._places[culprit]))
        else:  # it was none of their steps
            for number in begun or sorted(self._open):
                self._deaths[number] += 1
                if self._deaths[number] >= MAX_DEATHS or not begun:
                    reason = why or "was held up, with all that ran beside it, by something that it or another had left running"
                    self._fill(number, [reason] * len(self._places[number]))
        left = sorted(self._open)
        if not left:
            return []
        calls, places = [self._calls[i] for i in left], [self._places[i] for i in left]
        return [CallsWork(calls, places, self._timeouts, self._tell, [self._deaths[i] for i in left])]

    def _fill(self, number: int, outcomes: Sequence[Outcome]) -> None:
        self._open.discard(number)
        for place, outcome in zip(self._places[number], outcomes, strict=True):
            self._tell(place, self._calls[number].reward, outcome)


def _written(outcomes: Sequence[Outcome | int]) -> bytes:
    return json.dumps([[one.value, dict(one.parts), one.note] if isinstance(one, Score) else one for one in outcomes]).encode()


def _read(reply: bytes, count: int) -> list[Outcome]:
    return _checked(json.loads(reply), count)


def _checked(found: object, count: int) -> list[Outcome]:
    """The outcomes in a reply. Nothing that user code makes is unpickled here; what is no reply is a ValueError."""
    if not isinstance(found, list) or len(found) != count:
        raise ValueError("no outcome")
    return [_outcome(one) for one in found]


def _outcome(found: object) -> Outcome:
    if isinstance(found, str):
        return found
    if not isinstance(found, list) or len(found) != 3:
        raise ValueError("no outcome")
    value, parts, note = found
    numbers = [value, *(parts.values() if isinstance(parts, dict) else [parts])]
    if not all(number is None or isinstance(number, float) for number in numbers) or not isinstance(note, str):
        raise ValueError("no outcome")
    return Score(value, parts, note)
