"""Ray's part of a pool over several nodes: a host in an actor on each of them. Thin: `sandbox/host.py` is the host.

import ray
ray.init(address="auto")
async with ClusterPool(RayFleet()) as pool: ...

An actor ends with its client; its boxes' keeper is no child that Ray may end, and takes the boxes down after the lease.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sandbox.errors import BoxUnavailableError
from sandbox.fleet import OPEN_LIMIT_S, NodeLostError
from sandbox.host import Host, HostSettings
from sandbox.placement import Report
from sandbox.pool import CLOSE_LIMIT_S, TELL_LIMIT_S

REPORT_LIMIT_S = 10.0
MAX_CALLS = 10_000  # of one host at once: boxes that wait for their turn to start are calls
LEAVE_CHILDREN = {"RAY_kill_child_processes_on_worker_exit": "0"}  # the keeper outlives its owner by design


class HostActor:
    """A host on the node that Ray has put this actor on."""

    def __init__(self, node: str, name: str, settings: HostSettings) -> None:
        self.host = Host(node, name, ray.util.get_node_ip_address(), settings)

    async def open(self) -> tuple[Report, tuple[str, int], list[str]]:
        return await self.host.open()

    async def tell(self, op: str, words: Mapping[str, Any]) -> dict[str, Any]:
        return await self.host.tell(op, words)

    async def report(self) -> Report:
        return await self.host.report()

    async def close(self) -> None:
        await self.host.close()


@dataclass(frozen=True)
class RayFleet:
    """The nodes of the cluster that this process has joined; with a `claim`, those that have it: each host takes so much."""

    claim: Mapping[str, float] = field(default_factory=dict)

    async def nodes(self) -> dict[str, str]:
        return {
            node["NodeID"]: node["NodeName"]
            for node in await asyncio.to_thread(ray.nodes)
            if node["Alive"] and all(node["Resources"].get(name, 0) >= amount for name, amount in self.claim.items())
        }

    def start(self, node: str, name: str, settings: HostSettings) -> RayHost:
        options = {
            "num_cpus": 0,
            "resources": dict(self.claim),
            "max_concurrency": MAX_CALLS,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False),
            "runtime_env": {"env_vars": LEAVE_CHILDREN},
        }
        return RayHost(ray.remote(**options)(HostActor).remote(node, name, settings))


@dataclass(frozen=True)
class RayHost:
    """A host's actor."""

    actor: Any

    async def open(self) -> tuple[Report, tuple[str, int], list[str]]:
        opened: tuple[Report, tuple[str, int], list[str]] = await _answer(self.actor.open.remote(), OPEN_LIMIT_S)
        return opened

    async def tell(self, op: str, words: Mapping[str, Any]) -> dict[str, Any]:
        said: dict[str, Any] = await _answer(self.actor.tell.remote(op, words), TELL_LIMIT_S + REPORT_LIMIT_S)
        return said

    async def report(self) -> Report:
        report: Report = await _answer(self.actor.report.remote(), REPORT_LIMIT_S)
        return report

    async def close(self) -> None:
        await _answer(self.actor.close.remote(), TELL_LIMIT_S + CLOSE_LIMIT_S)

    def kill(self) -> None:
        ray.kill(self.actor)


async def _answer(reference: Any, limit_s: float) -> Any:
    """The actor's answer; an error of the host is raised as itself.

    Raises:
        NodeLostError: the actor is gone. BoxUnavailableError: it has not answered in time.
    """
    try:
        async with asyncio.timeout(limit_s):
            return await reference
    except ray.exceptions.RayTaskError as error:  # before TimeoutError: it may be one as well, the host's own
        raise error.cause from error
    except TimeoutError:
        raise BoxUnavailableError(f"a node has not answered for {limit_s:.0f} s") from None
    except ray.exceptions.RayError as error:
        raise NodeLostError(f"its host died: {str(error).splitlines()[0]}") from error
