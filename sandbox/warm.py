"""Boxes that are started before anyone asks for them, by what they are: so that the next one is only handed over."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Generic, Protocol, TypeVar

from sandbox.errors import SandboxError
from sandbox.spec import BoxSpec


class Startable(Protocol):
    @property
    def lives(self) -> bool: ...


T = TypeVar("T", bound=Startable)


@dataclass
class _Kind(Generic[T]):
    count: int = 0  # that are to be ready
    ready: deque[T] = field(default_factory=deque)
    starting: set[asyncio.Task[None]] = field(default_factory=set)


class Shelf(Generic[T]):
    """As many boxes of each kind as were asked for, or on their way; lifetimes count from when a box is taken."""

    def __init__(self, start: Callable[[BoxSpec], Awaitable[T]]) -> None:
        self._start = start
        self._kinds: dict[BoxSpec, _Kind[T]] = {}

    async def keep(self, spec: BoxSpec, count: int) -> list[T]:
        """From now on this many are ready; returns once they are, with what is too many by then.

        Raises:
            SandboxError: one did not come up.
        """
        kind = self._kinds.setdefault(_key(spec), _Kind())
        kind.count = count
        if not count:
            del self._kinds[_key(spec)]
        surplus = [kind.ready.pop() for _ in range(len(kind.ready) - count)]
        self._refill(spec)
        await asyncio.gather(*kind.starting)
        return surplus

    def take(self, spec: BoxSpec) -> T | None:
        """One that is ready and lives; another is started in its place."""
        kind = self._kinds.get(_key(spec))
        if kind is None:
            return None
        found = None
        while kind.ready and found is None:
            found = kind.ready.popleft()
            found = found if found.lives else None
        self._refill(spec)
        return found

    def wants(self, spec: BoxSpec) -> bool:
        """Whether one that has been used and reset would be of use."""
        kind = self._kinds.get(_key(spec))
        return kind is not None and len(kind.ready) < kind.count

    def put(self, spec: BoxSpec, box: T) -> None:
        """One that is as new."""
        self._kinds[_key(spec)].ready.append(box)

    def ready(self) -> list[T]:
        return [box for kind in self._kinds.values() for box in kind.ready]

    async def close(self) -> list[T]:
        """Starts no more; those that are ready, to be ended."""
        kinds, self._kinds = list(self._kinds.values()), {}
        for kind in kinds:
            kind.count = 0
        await asyncio.gather(*(task for kind in kinds for task in kind.starting), return_exceptions=True)
        return [box for kind in kinds for box in kind.ready]

    def _refill(self, spec: BoxSpec) -> None:
        kind = self._kinds.get(_key(spec))
        if kind is None:
            return
        for _ in range(kind.count - len(kind.ready) - len(kind.starting)):
            task = asyncio.create_task(self._add(spec, kind))
            kind.starting.add(task)
            task.add_done_callback(lambda done: self._started(kind, done))

    async def _add(self, spec: BoxSpec, kind: _Kind[T]) -> None:
        kind.ready.append(await self._start(spec))

    def _started(self, kind: _Kind[T], task: asyncio.Task[None]) -> None:
        kind.starting.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, SandboxError):  # whoever asks for such a box next is told
            print(f"a box that was to be ready: {error}", file=sys.stderr)


def _key(spec: BoxSpec) -> BoxSpec:
    """What two boxes share that are the same until they are used."""
    return replace(spec, ttl_s=1.0, network=())
