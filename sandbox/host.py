"""A node's side of a pool over several: a local pool, what it may lend, and the gate by which clients reach its boxes' agents.

No Ray here: `sandbox/actor.py` runs it in an actor, tests in their own process. A client names a box by its own pool's id; here
it has that of the node's pool, so that `gc` on the node finds all that is its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from sandbox.agent import short_path
from sandbox.cgroups import Cgroup
from sandbox.errors import BoxLostError, SandboxError
from sandbox.guest.frames import Decoder, FrameError, encode
from sandbox.images import Images
from sandbox.keeper import spec_of
from sandbox.placement import STARTED, Amount, Ledger, RefusedError, Report, need_of
from sandbox.pool import Pool
from sandbox.spec import LayerName, Limits

HELLO_LIMIT_S = 10.0
TRY_LIMIT_S = 30.0  # for a box that shows whether a layer can be had
LEAST_FREE = 0.05  # of the machine's memory: with less no box is begun, whatever the limits of those there add up to
TRIED = Limits(memory_bytes=64 << 20, wall_s=10.0)
OF_BOXES = frozenset({"destroy", "facts", "pause", "resume", "snapshot", "rollback", "fork", "diff", "commit"})


@dataclass(frozen=True)
class HostSettings:
    """What every node of a pool is told; `room` None: all of the machine's memory, counted by the boxes' limits."""

    pool: str
    folder: Path
    token: str  # of whoever comes to the gate
    lease_s: float
    num_starting: int
    room: Amount | None


def whole_machine() -> Amount:
    """The room that a machine has for boxes if nothing is said."""
    memory = psutil.virtual_memory().total
    return Amount(memory, int(Path("/proc/sys/kernel/pid_max").read_text()) // 2, num_boxes=2000, num_starting=64)


class Host:
    """Lends boxes of its node: what is over its room it refuses, whatever the client believed."""

    def __init__(self, node: str, name: str, address: str, settings: HostSettings) -> None:
        """`node` is Ray's id of it, `name` for people, `address` where its gate listens."""
        self.node, self.name, self._address, self._settings = node, name, address, settings
        self.pool = Pool(
            folder=settings.folder, name=f"{settings.pool}.{node[:8]}", log=False, lease_s=settings.lease_s,
            num_starting=settings.num_starting,
        )  # fmt: skip
        self._ledger = Ledger(settings.room or whole_machine())
        self._needs = dict[str, Amount]()  # of boxes that were made through here, by their ids here
        self._starting = dict[str, asyncio.Task[dict[str, Any]]]()
        self._groups = dict[str, Cgroup | None]()  # of boxes whose counters were asked for
        self._layers = frozenset[LayerName]()
        self._why_not = dict[LayerName, str]()
        self._gate: asyncio.Server | None = None

    async def open(self) -> tuple[Report, tuple[str, int], list[str]]:
        """Its first report, the gate's address, and the boxes that an earlier client of this pool has left here."""
        await self.pool.open()
        tried = await asyncio.gather(*(self._try(layer) for layer in LayerName))
        self._why_not = {layer: why for layer, why in zip(LayerName, tried, strict=True) if why is not None}
        self._layers = frozenset(LayerName) - self._why_not.keys()
        self._gate = await asyncio.start_server(self._meet, self._address, 0)
        port: int = self._gate.sockets[0].getsockname()[1]
        names = (await self.pool.tell("names"))["names"]
        return await self.report(), (self._address, port), [self._there(name) for name in names]

    async def close(self) -> None:
        """Ends every box here."""
        if self._gate is not None:
            self._gate.close()
        await self.pool.close()

    async def report(self) -> Report:
        """What there is now. Boxes that have ended by themselves are found out here."""
        told = await self.pool.tell("totals")
        starting = [self._needs[box_id] for box_id in self._starting]
        used = Amount(told["memory_bytes"], told["num_pids"], told["num_boxes"])
        for need in starting:
            used = used.plus(need)
        self._ledger.used = used
        images = await asyncio.to_thread(Images(self._settings.folder.expanduser() / "images").all)
        return Report(
            self.node, self.name, self._layers, self._ledger.room, used, frozenset(image.name for image in images),
            frozenset(told["images"]), self._why_not,
        )  # fmt: skip

    async def tell(self, op: str, words: Mapping[str, Any]) -> dict[str, Any]:
        """What a client wants of a box, as `Pool.tell` has it.

        Raises:
            RefusedError: there is no room. Else what the keeper says.
        """
        box_id = self._here(words["box"])
        if op == "create":
            return await self._create(box_id, words)
        if op not in OF_BOXES:
            raise ValueError(f"op: got {op!r}; a node takes create and {', '.join(sorted(OF_BOXES))}")
        if op == "destroy":
            return await self._destroy(box_id)
        if op == "fork":
            return await self._fork(box_id, words)
        said = await self.pool.tell(op, **{**words, "box": box_id})
        return self._shown(said) if op == "facts" else said

    async def _create(self, box_id: str, words: Mapping[str, Any]) -> dict[str, Any]:
        need = need_of(spec_of(words["spec"]))
        self._check_memory()
        self._ledger.take(need)
        self._needs[box_id] = need

        async def begin() -> dict[str, Any]:
            """The books are kept in the very step in which the keeper's answer comes: `report` relies on that."""
            try:
                said = await self.pool.tell("create", box=box_id, spec=words["spec"], labels=words["labels"])
            except BaseException:
                self._ledger.give(self._needs.pop(box_id))
                raise
            finally:
                del self._starting[box_id]
            self._needs[box_id] = need.plus(STARTED, -1)
            self._ledger.give(STARTED)
            return said

        begun = self._starting[box_id] = asyncio.create_task(begin())
        return self._shown(await begun)

    async def _destroy(self, box_id: str) -> dict[str, Any]:
        begun = self._starting.get(box_id)
        if begun is not None:  # its client has given it up
            await asyncio.wait([begun])
        await self.pool.tell("destroy", box=box_id)
        self._groups.pop(box_id, None)
        if (need := self._needs.pop(box_id, None)) is not None:
            self._ledger.give(need)
        return {}

    async def _fork(self, box_id: str, words: Mapping[str, Any]) -> dict[str, Any]:
        """The boxes are counted by the next report."""
        facts = await self._facts(box_id)
        need, count = Amount(facts["memory_bytes"], facts["num_pids"], 1), words["count"]
        self._check_memory()
        self._ledger.take(Amount().plus(need, count))
        try:
            names = [self._here(name) for name in words["names"]]
            return await self.pool.tell("fork", **{**words, "box": box_id, "names": names})
        except BaseException:
            self._ledger.give(Amount().plus(need, count))
            raise

    async def _facts(self, box_id: str) -> dict[str, Any]:
        facts: dict[str, Any] | None = (await self.pool.tell("facts", box=box_id))["box"]
        if facts is None:
            raise BoxLostError(f"box {self._there(box_id)} is gone")
        return facts

    def _check_memory(self) -> None:
        memory = psutil.virtual_memory()
        if memory.available < LEAST_FREE * memory.total:
            raise RefusedError(f"no room: the machine has {memory.available >> 20} MiB of memory left, whoever has the rest")

    async def _try(self, layer: LayerName) -> str | None:
        """Why a layer cannot be had on this machine; None if a box of it ran a command."""
        images = [image.name for image in Images(self._settings.folder.expanduser() / "images").all()]
        if layer is not LayerName.FUNCTION and not images:
            return "its store has no image to try it with"
        why = ""
        for image in [None] if layer is LayerName.FUNCTION else images[:3]:
            try:
                async with asyncio.timeout(TRY_LIMIT_S):
                    box = await self.pool.create(layer, image=image, limits=TRIED, ttl_s=2 * TRY_LIMIT_S)
                    done = await box.exec("true")
                    await self.pool.destroy(box)
            except (SandboxError, OSError, TimeoutError) as error:
                why = str(error) or f"no answer within {TRY_LIMIT_S:.0f} s"
                continue
            if done.ok:
                return None
            why = f"`true` came to {done.verdict}"
        return why

    # ids and facts, as the client has them

    def _here(self, box_id: str) -> str:
        return f"{self.pool.name}-{box_id.removeprefix(f'{self._settings.pool}-')}"

    def _there(self, box_id: str) -> str:
        return f"{self._settings.pool}-{box_id.removeprefix(f'{self.pool.name}-')}"

    def _shown(self, said: Mapping[str, Any]) -> dict[str, Any]:
        facts = said["box"]
        return {"box": None if facts is None else {**facts, "id": self._there(facts["id"])}}

    # the gate

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers whoever knows the token: with boxes' counters, as often as it asks, until it asks to reach a box's agent.

        From then on bytes are passed on as they are.
        """
        orders = _orders(reader)
        with contextlib.closing(writer):
            try:
                async with asyncio.timeout(HELLO_LIMIT_S):
                    order = await anext(orders)
                if not hmac.compare_digest(str(order.get("token")).encode(), self._settings.token.encode()):
                    return
                while order.get("op") == "counters":
                    writer.write(encode({"id": order.get("id"), **await self._counters(self._here(str(order.get("box"))))}))
                    order = await anext(orders)
                inner = await self._agent(self._here(str(order.get("box"))))
            except (FrameError, OSError, TimeoutError, StopAsyncIteration):  # somebody else's words, or none
                return
            except SandboxError as error:
                writer.write(encode({"id": order.get("id"), "type": "error", "message": str(error)[:2000]}))
                return
            with contextlib.closing(inner[1]):
                writer.write(encode({"id": order.get("id"), "type": "done"}))
                ways = [asyncio.create_task(_pass_on(*way)) for way in ((reader, inner[1]), (inner[0], writer))]
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                for way in ways:
                    way.cancel()

    async def _counters(self, box_id: str) -> dict[str, Any]:
        """A reply: the counters of a box, or that it is gone."""
        try:
            if box_id not in self._groups:
                name = (await self._facts(box_id))["cgroup"]
                self._groups[box_id] = None if name is None else Cgroup(name)
        except SandboxError as error:
            return {"type": "error", "message": str(error)[:2000]}
        group = self._groups[box_id]
        return {"type": "done", "counters": {} if group is None else vars(group.counters())}

    async def _agent(self, box_id: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        path = Path((await self._facts(box_id))["socket"])
        try:
            with short_path(path) as short:
                return await asyncio.open_unix_connection(short)
        except OSError as error:
            raise BoxLostError(f"box {self._there(box_id)} did not take a connection: {error}") from error


async def _orders(reader: asyncio.StreamReader) -> AsyncIterator[dict[str, Any]]:
    """The frames that come, as long as the sender waits for the answer to one that changes what the bytes are."""
    decoder = Decoder()
    while data := await reader.read(1 << 12):
        for header, _ in decoder.feed(data):
            yield header


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
