"""A fleet whose hosts are in this process, behind the interface that Ray's actors are behind."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from sandbox.fleet import NodeLostError
from sandbox.host import Host, HostSettings
from sandbox.placement import Report


@dataclass
class HereFleet:
    """`ended` names nodes that have died."""

    names: set[str]
    ended: set[str] = field(default_factory=set)
    hosts: list[HereHost] = field(default_factory=list)

    async def nodes(self) -> dict[str, str]:
        return {name: name for name in sorted(self.names - self.ended)}

    def start(self, node: str, name: str, settings: HostSettings) -> HereHost:
        self.hosts.append(HereHost(self, node, Host(node, name, "127.0.0.1", settings)))
        return self.hosts[-1]

    async def clean(self) -> None:
        """What raylets and the lease do."""
        await asyncio.gather(*(host.host.close() for host in self.hosts if host.node in self.ended))


@dataclass
class HereHost:
    fleet: HereFleet
    node: str
    host: Host
    told: Counter[str] = field(default_factory=Counter)

    async def _ask(self, what: str, work: Coroutine[Any, Any, Any]) -> Any:
        self.told[what] += 1
        if self.node in self.fleet.ended:
            work.close()
            raise NodeLostError("it was ended")
        return await asyncio.shield(asyncio.ensure_future(work))  # an actor's call goes on if its client does not wait

    async def open(self) -> tuple[Report, tuple[str, int], list[str]]:
        return await self._ask("open", self.host.open())

    async def tell(self, op: str, words: Mapping[str, Any]) -> dict[str, Any]:
        return await self._ask(op, self.host.tell(op, words))

    async def report(self) -> Report:
        return await self._ask("report", self.host.report())

    async def close(self) -> None:
        await self._ask("close", self.host.close())

    def kill(self) -> None:
        pass
