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

from sandbox import proof
from sandbox.agent import short_path
from sandbox.cgroups import Cgroup
from sandbox.errors import BoxLostError, SandboxError
from sandbox.guest.frames import Decoder, FrameError, encode
from sandbox.images import Images
from sandbox.keeper import spec_of
from sandbox.placement import NOTHING, STARTED, Amount, Ledger, RefusedError, Report, need_of
from sandbox.pool import Pool
from sandbox.spec import LayerName

HELLO_LIMIT_S = 10.0
TRY_LIMIT_S = 30.0  # for a box that shows whether a layer can be had
LEAST_FREE = 0.05  # of the machine's memory: with less no box is begun, whatever the limits of those there add up to
OF_BOXES = frozenset(
    {"destroy", "release", "reset", "network", "facts", "pause", "resume", "snapshot", "rollback", "fork", "diff", "commit"}
)


@dataclass(frozen=True)
class HostSettings:
    """What every node of a pool is told; `room` None: all of the machine's memory; `layers`: those to try there."""

    pool: str
    folder: Path
    token: str  # of whoever comes to the gate
    lease_s: float
    num_starting: int
    room: Amount | None
    layers: tuple[LayerName, ...]


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
        self._beside = dict[str, Amount]()  # of boxes that start or end, which the keeper does not count
        self._groups = dict[str, Cgroup | None]()  # of boxes whose counters were asked for
        self._kinds = frozenset[str]()
        self._why_not = dict[str, str]()
        self._gate: asyncio.Server | None = None

    async def open(self) -> tuple[Report, tuple[str, int], list[str]]:
        """Its first report, the gate's address, and the boxes that an earlier client of this pool has left here."""
        await self.pool.open()
        specs = list(proof.kinds(self._settings.layers))
        images = [image.name for image in Images(self._settings.folder.expanduser() / "images").all()]
        tried = await asyncio.gather(*(proof.why_not(self.pool, spec, images, TRY_LIMIT_S) for spec in specs))
        self._why_not = {spec.kind: why for spec, why in zip(specs, tried, strict=True) if why is not None}
        self._kinds = frozenset(spec.kind for spec in specs) - self._why_not.keys()
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
        used = Amount(told["memory_bytes"], told["num_pids"], told["num_boxes"])
        for need in self._beside.values():
            used = used.plus(need)
        self._ledger.used = used
        images = await asyncio.to_thread(Images(self._settings.folder.expanduser() / "images").all)
        return Report(
            self.node, self.name, self._kinds, self._ledger.room, used, frozenset(image.name for image in images),
            frozenset(told["images"]), self._why_not,
        )  # fmt: skip

    async def tell(self, op: str, words: Mapping[str, Any]) -> dict[str, Any]:
        """What a client wants of a box, as `Pool.tell` has it.

        Raises:
            RefusedError: there is no room. Else what the keeper says.
        """
        if op == "warm":  # what is ready counts as taken, from the next report on
            return await self.pool.tell("warm", **words)
        box_id = self._here(words["box"])
        if op == "create":
            return await self._create(box_id, words)
        if op not in OF_BOXES:
            raise ValueError(f"op: got {op!r}; a node takes create, warm and {', '.join(sorted(OF_BOXES))}")
        if op in ("destroy", "release"):
            return await self._give_back(op, box_id)
        if op == "fork":
            return await self._fork(box_id, words)
        said = await self.pool.tell(op, **{**words, "box": box_id})
        return self._shown(said) if op == "facts" else said

    async def _create(self, box_id: str, words: Mapping[str, Any]) -> dict[str, Any]:
        need = need_of(spec_of(words["spec"]))
        self._check_memory()
        self._ledger.take(need)
        self._beside[box_id] = need

        async def begin() -> dict[str, Any]:
            """The books are kept in the very step in which the keeper's answer comes: `report` relies on that."""
            try:
                said = await self.pool.tell("create", box=box_id, spec=words["spec"], labels=words["labels"])
            except BaseException:
                self._ledger.give(need)
                raise
            finally:
                self._starting.pop(box_id, None)
                self._beside.pop(box_id, None)
            self._needs[box_id] = need.plus(STARTED, -1)
            self._ledger.give(STARTED)
            return said

        begun = self._starting[box_id] = asyncio.create_task(begin())
        return self._shown(await begun)

    async def _give_back(self, op: str, box_id: str) -> dict[str, Any]:
        """Ends a box, or releases it, after which it may stay ready: the next report knows."""
        begun = self._starting.get(box_id)
        if begun is not None:  # its client has given it up
            await asyncio.wait([begun])
        self._groups.pop(box_id, None)
        need = self._beside[box_id] = self._needs.pop(box_id, NOTHING)
        try:
            if (await self.pool.tell(op, box=box_id)).get("was_there"):  # else a report has found out already
                self._ledger.give(need)
        finally:
            del self._beside[box_id]
        return {}

    async def _fork(self, box_id: str, words: Mapping[str, Any]) -> dict[str, Any]:
        """Boxes that begin with what this one has, here; the keeper makes them."""
        facts = await self._facts(box_id)
        need = NOTHING.plus(Amount(facts["memory_bytes"], facts["num_pids"], 1), words["count"])
        self._check_memory()
        self._ledger.take(need)
        fork = f"{box_id} {words['names'][:1]}"
        self._beside[fork] = need
        try:
            names = [self._here(name) for name in words["names"]]
            return await self.pool.tell("fork", **{**words, "box": box_id, "names": names})
        except BaseException:
            self._ledger.give(need)
            raise
        finally:
            del self._beside[fork]

    async def _facts(self, box_id: str) -> dict[str, Any]:
        facts: dict[str, Any] | None = (await self.pool.tell("facts", box=box_id))["box"]
        if facts is None:
            raise BoxLostError(f"box {self._there(box_id)} is gone")
        return facts

    def _check_memory(self) -> None:
        memory = psutil.virtual_memory()
        if memory.available < LEAST_FREE * memory.total:
            raise RefusedError(f"no room: the machine has {memory.available >> 20} MiB of memory left, whoever has the rest")

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
