"""A pool over several nodes, with the same surface: it is `Pool`, told where a box's keeper is and how its agent is reached.

It starts a host on every node of a fleet (`sandbox/actor.py` has Ray's), hears reports, places new boxes by them
(`sandbox/placement.py`), and tells the rest to the node that a box is on. A box, and so its forks, stays where it is. A node
that is lost takes its boxes with it; the pool goes on with the others, and takes up nodes that join.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sandbox.calls import Reach
from sandbox.errors import BoxLostError, BoxUnavailableError, SandboxError, UnsupportedError
from sandbox.fair import label_of
from sandbox.fleet import OPEN_LIMIT_S, Fleet, HostHandle, Node, NodeLostError
from sandbox.host import HostSettings
from sandbox.keeper import spec_of
from sandbox.placement import Amount, RefusedError, Request, Scheduler
from sandbox.pool import HOME, Pool
from sandbox.spec import BoxSpec, LayerName

SILENT_HEARTBEATS = 4  # without a report, after which a node gets no new box
MAX_FAILURES = 3  # nodes on which a box may fail to come up before its client is told
OF_THE_END = ("destroy", "release")
LAST_DELAY_S = 30.0  # between two tries of a node whose host does not start


class ClusterPool(Pool):
    """`async with ClusterPool(RayFleet()) as pool`, and from then on as `Pool`. `folder` is the same path on every node."""

    def __init__(
        self,
        fleet: Fleet,
        *,
        folder: Path = HOME,
        name: str | None = None,
        log: bool = True,
        lease_s: float = 30.0,
        num_starting: int = 8,
        room: Amount | None = None,
        layers: Sequence[LayerName] = (LayerName.FUNCTION, LayerName.CONTAINER),
        k: int = 2,
        seed: int = 0,
        heartbeat_s: float = 1.0,
        wait_s: float = 60.0,
    ) -> None:
        """Args beyond those of `Pool`, of which `lease_s` and `num_starting` are each node's:

        room: what each node lends to this pool. layers: those that each node tries when it is taken up, for half a minute at
        most; others cannot be had. k, seed: of the placement. wait_s: how long a request may wait for room.
        """
        super().__init__(folder=folder, name=name, log=log, lease_s=lease_s, num_starting=num_starting)
        self._fleet, self._heartbeat_s, self._wait_s = fleet, heartbeat_s, wait_s
        token = secrets.token_hex(16)
        self._settings = HostSettings(self.name, folder.expanduser(), token, lease_s, num_starting, room, tuple(layers))
        self._rng = random.Random(seed)
        self._scheduler = Scheduler(self._rng, k, SILENT_HEARTBEATS * heartbeat_s)
        self._turns = dict[Request, asyncio.Future[str]]()
        self._nodes = dict[str, Node]()
        self._failed = dict[str, str]()  # nodes whose host did not start, and why
        self._where = dict[str, tuple[str, BoxSpec | None]]()  # boxes; the spec is known of those that were made by this pool
        self._lost = dict[str, str]()
        self._ready = dict[BoxSpec, int]()  # boxes to be kept ready, over all nodes
        self._watching: asyncio.Task[None] | None = None
        self._tasks = set[asyncio.Task[None]]()

    def lost(self) -> dict[str, str]:
        """The boxes that were lost with their nodes since the pool was opened, and the names of those."""
        return dict(self._lost)

    def nodes(self) -> list[str]:
        """The names of the nodes in use."""
        return sorted(node.name for node in self._nodes.values())

    async def _open_keeper(self) -> None:
        """Returns when every node that is there now has a host, or has failed to.

        Raises:
            BoxUnavailableError: none has; says why of each.
        """
        found = await self._fleet.nodes()
        await asyncio.gather(*(self._take_up(node, name) for node, name in found.items()))
        if not self._nodes:
            why = (
                "; ".join(f"{found[node]}: {why}" for node, why in self._failed.items()) or "the cluster has no node for boxes"
            )
            raise BoxUnavailableError(f"no node could be had for boxes: {why}")
        self._watching = asyncio.create_task(self._watch())

    async def _close_keeper(self) -> None:
        tasks = [*self._tasks, *(n.listening for n in self._nodes.values() if n.listening is not None)]
        tasks += [] if self._watching is None else [self._watching]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for turn in self._turns.values():
            turn.cancel()
        nodes, self._nodes = list(self._nodes.values()), {}
        ended = await asyncio.gather(*(node.end() for node in nodes), return_exceptions=True)
        for error in ended:
            if isinstance(error, BaseException) and not isinstance(error, NodeLostError):
                raise error

    # nodes come and go

    async def _watch(self) -> None:
        """Takes up nodes that join, and notices those that have gone."""
        retry_at, delay_s = dict[str, float](), dict[str, float]()
        while True:
            await asyncio.sleep(self._heartbeat_s)
            found = await self._fleet.nodes()
            for node in self._nodes.keys() - found.keys():
                self._lose(node, "the cluster has lost it")
            now = time.monotonic()
            fresh = [n for n in found if n not in self._nodes and retry_at.get(n, 0.0) <= now]
            await asyncio.gather(*(self._take_up(node, found[node]) for node in fresh))
            for node in self._failed.keys() & set(fresh):
                delay_s[node] = min(2 * delay_s.get(node, self._heartbeat_s), LAST_DELAY_S)
                retry_at[node] = now + delay_s[node]

    async def _take_up(self, node: str, name: str) -> None:
        host = self._fleet.start(node, name, self._settings)
        asked = time.monotonic()
        try:
            async with asyncio.timeout(OPEN_LIMIT_S):
                report, gate, boxes = await host.open()
        except (SandboxError, OSError, TimeoutError) as error:
            self._failed[node] = str(error) or f"no answer within {OPEN_LIMIT_S:.0f} s"
            host.kill()
            return
        self._failed.pop(node, None)
        made = self._nodes[node] = Node(node, name, host, gate, self._settings.token)
        for box_id in boxes:
            if box_id in self._lost:  # nobody holds it any more
                self._spawn(self._end_box(made, box_id))
            else:
                self._where[box_id] = (node, None)
        self._scheduler.report(report, asked)
        made.listening = asyncio.create_task(self._listen(node, host))
        self._rewarm()
        self._serve()

    async def _listen(self, node: str, host: HostHandle) -> None:
        """A node's reports. Each client asks at moments of its own, so that their requests do not come in waves."""
        while True:
            await asyncio.sleep(self._heartbeat_s * self._rng.uniform(0.5, 1.5))
            asked = time.monotonic()
            try:
                self._scheduler.report(await host.report(), asked)
            except NodeLostError as error:
                return self._lose(node, str(error))
            except BoxLostError:  # a new host has a new one
                return self._lose(node, "its boxes' keeper has ended")
            except BoxUnavailableError:  # it is slow, and gets no new box
                continue
            self._serve()

    def _lose(self, node: str, why: str) -> None:
        gone = self._nodes.pop(node, None)
        if gone is None:
            return
        self._scheduler.forget(node)
        for box_id in [box_id for box_id, (where, _) in self._where.items() if where == node]:
            del self._where[box_id]
            self._lost[box_id] = f"{gone.name} ({why})"
            if (box := self._boxes.pop(box_id, None)) is not None:
                box.close_connection()
        gone.lose(why)
        self._rewarm()
        if gone.listening is not None and gone.listening is not asyncio.current_task():
            gone.listening.cancel()

    # boxes

    async def tell(self, op: str, **words: Any) -> dict[str, Any]:
        """As `Pool.tell`, of the keeper on the box's node.

        Raises:
            BoxLostError: the box was lost with its node; says which.
        """
        if op == "warm":
            self._ready[spec_of(words["spec"])] = words["count"]
            await asyncio.gather(*(self._warm(node) for node in self._nodes.values()))
            return {}
        box_id = words["box"]
        if op == "create":
            return await self._create(box_id, words)
        where, spec = self._where.get(box_id, (None, None))
        if where is None:
            if op == "facts":
                return {"box": None}
            if op in OF_THE_END:
                return {}
            if box_id in self._lost:
                raise BoxLostError(f"box {box_id} was lost with node {self._lost[box_id]}")
            raise BoxLostError(f"box {box_id} is gone")
        node = self._nodes[where]
        try:
            said = await node.host.tell(op, words)
        except NodeLostError as error:
            self._lose(where, str(error))
            if op in OF_THE_END:
                return {}
            raise BoxLostError(f"box {box_id} was lost with node {node.name} ({error})") from error
        if op in OF_THE_END and self._where.pop(box_id, None) is not None and spec is not None:
            self._scheduler.ended(spec, where, time.monotonic())
            self._serve()
        if op == "fork":
            self._where |= dict.fromkeys(words["names"], (where, None))
        return said

    def _rewarm(self) -> None:
        async def quietly(node: Node) -> None:
            with contextlib.suppress(SandboxError):  # a box that does not come up is told to whoever asks for one
                await self._warm(node)

        for node in self._nodes.values() if self._ready else ():
            self._spawn(quietly(node))

    async def _warm(self, node: Node) -> None:
        """Has a node keep its share ready, where it can; with every node that joins or goes the shares change."""
        for spec, count in self._ready.items():
            able = [name for name in self._nodes if self._scheduler.able(name, spec)]
            if node.node in able:
                share = count // len(able) + (able.index(node.node) < count % len(able))
                with contextlib.suppress(NodeLostError):  # whoever listens to it sees to that
                    await node.host.tell("warm", {"spec": asdict(spec), "count": share})

    async def _create(self, box_id: str, words: Mapping[str, Any]) -> dict[str, Any]:
        """On the node that is the best of those looked at; elsewhere if that refuses, dies, or cannot bring it up."""
        spec, num_failures = spec_of(words["spec"]), 0
        request = Request(spec, label_of(words["labels"]))
        try:
            async with asyncio.timeout(self._wait_s) as limit:
                while True:
                    where = await self._turn(request)
                    limit.reschedule(None)  # it has found room; that it starts in time is the keeper's matter
                    try:
                        said = await self._create_on(where, request, box_id, words)
                    except BoxUnavailableError as error:
                        num_failures += not isinstance(error, RefusedError | NodeLostError)
                        if num_failures == MAX_FAILURES:
                            raise
                        limit.reschedule(asyncio.get_running_loop().time() + self._wait_s)
                        continue
                    self._where[box_id] = (where, spec)
                    return said
        except TimeoutError:
            state = self._scheduler.state(time.monotonic())
            raise BoxUnavailableError(
                f"no room for a box of {spec.limits.memory_bytes >> 20} MiB within {self._wait_s:g} s ({state}); raise wait_s, "
                "ask for less, or start more nodes"
            ) from None

    async def _create_on(self, where: str, request: Request, box_id: str, words: Mapping[str, Any]) -> dict[str, Any]:
        node = self._nodes[where]
        try:
            said = await node.host.tell("create", words)
        except RefusedError:
            self._scheduler.refused(request, where, time.monotonic())
            raise
        except NodeLostError as error:
            self._lose(where, str(error))
            raise
        except BaseException as error:
            self._scheduler.failed(request, where, time.monotonic())
            request.tried.add(where)
            if isinstance(error, asyncio.CancelledError):  # it may come up all the same
                self._spawn(self._end_box(node, box_id))
            raise
        self._scheduler.started(where, time.monotonic())
        return said

    async def _turn(self, request: Request) -> str:
        """The node that the request is to be tried on, once there is one and its turn has come.

        Raises:
            UnsupportedError: no node could ever have such a box.
        """
        if self._scheduler.impossible(request.spec):
            why = "; ".join(f"{name}: {why}" for name, why in self._scheduler.objections(request.spec).items())
            raise UnsupportedError(f"no node can have such a box: {why}")
        if len(request.tried) >= len(self._nodes):
            request.tried.clear()
        turn = self._turns[request] = asyncio.get_running_loop().create_future()
        self._scheduler.submit(request)
        self._serve()
        try:
            where: str = await turn
            return where
        except asyncio.CancelledError:
            self._scheduler.withdraw(request)
            if turn.done() and not turn.cancelled():
                self._scheduler.failed(request, turn.result(), time.monotonic())
            self._serve()
            raise
        finally:
            self._turns.pop(request, None)

    def _serve(self) -> None:
        """Gives everybody who can be placed now their node."""
        now = time.monotonic()
        for request, where in self._scheduler.placements(now):
            turn = self._turns[request]
            if turn.done():  # cancelled a moment ago
                self._scheduler.failed(request, where, now)
            else:
                turn.set_result(where)

    async def _reach(self, facts: dict[str, Any]) -> Reach:
        box_id = facts.get("id", "")
        where, _ = self._where.get(box_id, (None, None))
        if where is None:
            raise BoxLostError(f"box {box_id} is gone")
        node = self._nodes[where]
        return Reach(await node.connect(box_id), lambda: node.counters(box_id), facts["user"])

    async def _end_box(self, node: Node, box_id: str) -> None:
        with contextlib.suppress(SandboxError):
            await node.host.tell("destroy", {"box": box_id})

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
