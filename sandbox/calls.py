"""The calls of one box, by their numbers, whatever they are: recorded, made, and answered from the record.

Where the box's pool keeps a command log, each call is recorded before it is made, and its answer before it is given. A client
that comes back makes the same calls in the same order: what had finished is answered from the record and not made again.
Used by `sandbox/box.py` and `sandbox/command.py`.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from sandbox.agent import Agent
from sandbox.cgroups import Counters
from sandbox.commandlog import CommandChangedError, CommandLog, Entry, entry_of
from sandbox.errors import BoxLostError
from sandbox.guest.frames import MAX_PAYLOAD_BYTES

T = TypeVar("T")
GRACE_S = 30.0  # beyond a command's limit, after which an agent that does not answer has lost its box


@dataclass(frozen=True)
class Reach:
    """How a living box is reached: its agent, its group's counters, and who its commands run as (None: the agent's user).

    `shares_fate`: a program that takes too much takes the box with it; the counters tell that from a box that was lost.
    """

    agent: Agent
    counters: Callable[[], Awaitable[Counters]]
    user: Sequence[int] | None
    shares_fate: bool = False


Act: TypeAlias = Callable[[Reach, int], Awaitable[tuple[dict[str, Any], bytes]]]  # with the call's number; facts and bytes


class Calls:
    """Makes each call once, over all clients that have the box one after the other."""

    def __init__(
        self, box_id: str, reach: Reach | None, log: CommandLog | None, resume: Callable[[], Awaitable[object]]
    ) -> None:
        """`reach` is None where the box is gone and its record alone is left; `resume` has a paused box go on."""
        self.box_id, self.reach = box_id, reach
        self.is_paused = False
        self.requests = itertools.count(1 << 40)  # numbers of what is asked beside calls
        self.spans = list[tuple[float, float, str]]()  # when calls began and ended, by the box's clock, and what they were
        self._log, self._resume = log, resume
        self.last = 0  # the number of the last call

    @property
    def are_logged(self) -> bool:
        return self._log is not None

    def next_number(self) -> int:
        """The number of a new call."""
        self.last += 1
        return self.last

    async def logged(self, seq: int, order: dict[str, Any], payload: bytes, act: Act) -> tuple[Mapping[str, Any], bytes]:
        """What `act` comes to, or has come to: recorded before it is given. The box's own errors are answers as well."""
        log = self._log
        entry = found = None
        if log is not None:
            entry, found = entry_of(self.box_id, seq, order, payload), log.find(self.box_id, seq)
            if found is None:
                log.intend(entry)
            elif found.digest != entry.digest:
                raise CommandChangedError(
                    f"command {seq} of box {self.box_id}: recorded `{found.shown}`, and now asked `{entry.shown}`"
                )
            elif found.facts is not None:
                self._note_span(entry, found.facts)
                return _answered(found.facts), found.data
        if self.reach is None:
            raise BoxLostError(f"box {self.box_id} is gone; whether its command {seq} ({order['op']}) ran is unknown")
        try:
            if self.is_paused:
                await self._resume()
                self.is_paused = False
            facts, data = await act(self.reach, seq)
        except OSError as error:
            facts, data = {"errno": error.errno, "message": error.strerror, "path": order.get("path")}, b""
        if log is not None and entry is not None:
            await asyncio.wrap_future(log.finish(entry, facts, data))
            self._note_span(entry, facts)
        return _answered(facts), data

    def _note_span(self, entry: Entry, facts: Mapping[str, Any]) -> None:
        if facts.get("span"):
            self.spans.append((*facts["span"], f"{entry.seq} {entry.shown}"))

    async def ask(self, reach: Reach, order: dict[str, Any], payload: bytes, limit_s: float) -> tuple[dict[str, Any], bytes]:
        """The agent's answer to what is no command.

        Raises:
            OSError: with the box's reason. BoxLostError: the box ended, or has not answered GRACE_S after this limit.
        """
        numbered = {**order, "id": next(self.requests), "user": reach.user}
        return await self.in_time(reach, limit_s, reach.agent.ask(numbered, payload))

    async def in_time(self, reach: Reach, limit_s: float, asked: Awaitable[T]) -> T:
        """The agent's answer; an agent that gives none has lost its box, and that is not the box's own error."""
        try:
            async with asyncio.timeout(None if limit_s == math.inf else limit_s + GRACE_S):
                return await asked
        except TimeoutError:
            reach.agent.close()
            raise BoxLostError(f"box {self.box_id} did not answer {GRACE_S:.0f} s after its limit of {limit_s:g} s") from None


def pieces(data: bytes) -> list[bytes]:
    """At least one, each as long as a frame's payload may be.

    >>> pieces(b"")
    [b'']
    """
    return [data[start : start + MAX_PAYLOAD_BYTES] for start in range(0, max(1, len(data)), MAX_PAYLOAD_BYTES)]


def span_of(facts: Mapping[str, Any]) -> list[float]:
    """When a call began and ended, by the box's clock; empty where its supervisor could not say it."""
    span = facts.get("span")
    if isinstance(span, list) and len(span) == 2 and all(isinstance(at, int | float) and math.isfinite(at) for at in span):
        return [float(at) for at in span]
    return []


def _answered(facts: Mapping[str, Any]) -> Mapping[str, Any]:
    """The facts of an answer; an error of the box is raised, at the first time and from the record."""
    if "errno" in facts:
        raise OSError(facts["errno"], facts["message"], facts.get("path"))
    return facts
