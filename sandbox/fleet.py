"""Nodes that boxes may be on: what a fleet and its hosts are to a client, and one node as the client holds it.

`sandbox/actor.py` has Ray's fleet and its hosts. Which node gets a box, and what is done when one is lost, is the matter of
`sandbox/cluster.py`, which uses this.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from typing import Any, Protocol

from sandbox.agent import Agent
from sandbox.cgroups import Counters
from sandbox.errors import BoxLostError, BoxUnavailableError
from sandbox.host import HostSettings
from sandbox.placement import Report

OPEN_LIMIT_S = 60.0  # for a host to start, try its layers, and report


class NodeLostError(BoxUnavailableError):
    """The node's host does not answer, and will not: it or its node has ended."""


class HostHandle(Protocol):
    """A host on some node, as the client holds it. Every call raises NodeLostError once it is gone."""

    async def open(self) -> tuple[Report, tuple[str, int], list[str]]: ...

    async def tell(self, op: str, words: Mapping[str, Any]) -> dict[str, Any]: ...

    async def report(self) -> Report: ...

    async def close(self) -> None: ...

    def kill(self) -> None:
        """Ends the host, not its boxes: their keeper does, unless another host comes for them within the lease."""


class Fleet(Protocol):
    """The nodes that boxes may be on."""

    async def nodes(self) -> dict[str, str]:
        """The living nodes' names by their ids."""

    def start(self, node: str, name: str, settings: HostSettings) -> HostHandle: ...


class Node:
    """A node that is in use, from its host's first report to `end` or `lose`."""

    def __init__(self, node: str, name: str, host: HostHandle, gate: tuple[str, int], token: str) -> None:
        """`node` is the fleet's id of it, `name` for people, `gate` where its boxes are reached with the token."""
        self.node, self.name, self.host, self.gate = node, name, host, gate
        self.listening: asyncio.Task[None] | None = None  # for its reports
        self._token = token
        self._why_lost: str | None = None
        self._counting: Agent | None = None  # to the gate, for counters
        self._connecting = asyncio.Lock()
        self._numbers = itertools.count(2)  # of what is asked there

    async def connect(self, box_id: str) -> Agent:
        """A connection to the agent of a box.

        Raises:
            BoxLostError: the box, or the node, is gone. BoxUnavailableError: the node is out of reach.
        """
        whose = f"box {box_id} on node {self.name}"
        try:
            agent, _ = await Agent.connect_to(self.gate, self._token, "reach", box_id, whose)
        except (OSError, TimeoutError) as error:
            raise BoxUnavailableError(f"{whose} did not take a connection: {error}") from error
        return agent

    async def counters(self, box_id: str) -> Counters:
        """Of a box's group. By a connection of their own, one for all boxes: they are asked for twice in each command.

        Raises:
            BoxLostError: the box, or the node, is gone or out of reach.
        """
        async with self._connecting:
            if self._counting is None or self._counting.broken is not None:
                self._check_not_lost(box_id)
                whose = f"node {self.name}"
                connected = Agent.connect_to(self.gate, self._token, "counters", box_id, whose)
                try:
                    self._counting, answer = await connected
                except (OSError, TimeoutError) as error:
                    raise BoxLostError(f"box {box_id} is out of reach: {whose} did not take a connection: {error}") from error
                return Counters(**answer["counters"])
        try:
            answer, _ = await self._counting.ask({"op": "counters", "id": next(self._numbers), "box": box_id})
        except ValueError as error:
            raise BoxLostError(str(error)) from None
        except BoxLostError:
            self._check_not_lost(box_id)
            raise
        return Counters(**answer["counters"])

    def close_connection(self) -> None:
        """The one for counters; the node stays as it is."""
        if self._counting is not None:
            self._counting.close()

    async def end(self) -> None:
        """Ends its host and every box there. NodeLostError: they were gone."""
        self.close_connection()
        try:
            await self.host.close()
        finally:
            self.host.kill()

    def lose(self, why: str) -> None:
        """It is gone, and whoever asks for a box there is told why."""
        self._why_lost = why
        self.close_connection()
        self.host.kill()

    def _check_not_lost(self, box_id: str) -> None:
        if self._why_lost is not None:
            raise BoxLostError(f"box {box_id} was lost with node {self.name} ({self._why_lost})") from None
