"""The order of a trajectory's calls on its box: those that change it run alone and in turn, those that read it run together."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from rl.tools.tool import BoxUse


@dataclass(eq=False)
class _Place:
    use: BoxUse
    may_run: asyncio.Event = field(default_factory=asyncio.Event)


class Order:
    """Calls take their places as they begin; what a call finds in the box is then the same however long others take."""

    def __init__(self) -> None:
        self._places = list[_Place]()

    @contextlib.asynccontextmanager
    async def turn(self, use: BoxUse) -> AsyncIterator[None]:
        """The body runs once no earlier call is left that it may not run beside."""
        if use is BoxUse.NONE:
            yield
            return
        place = _Place(use)
        self._places.append(place)
        self._wake()
        try:
            await place.may_run.wait()
            yield
        finally:
            self._places.remove(place)
            self._wake()

    def _wake(self) -> None:
        for i, place in enumerate(self._places):
            if i == 0 or (place.use is BoxUse.READS and all(earlier.use is BoxUse.READS for earlier in self._places[:i])):
                place.may_run.set()
            else:
                return
