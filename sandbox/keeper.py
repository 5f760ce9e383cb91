"""The process that owns a pool's boxes: it starts them, lends them to its pool's owner, and takes all of them down.

The pool starts it by itself, in a session of its own, so it outlives an owner that is killed: then it waits `lease_s` for one
that comes back, ends every box, removes their processes, mounts, groups and folders, and itself. If the keeper is killed, the
kernel ends its boxes with it; the groups and folders that are left go with the next `gc` (sandbox/gc.py).
"""

from __future__ import annotations

import argparse
import asyncio
import compileall
import contextlib
import fcntl
import math
import os
import shutil
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sandbox import guest, mounts, trees
from sandbox.agent import Agent
from sandbox.errors import BoxLostError, BoxUnavailableError, SandboxError, UnsupportedError
from sandbox.fair import Turns, label_of
from sandbox.guest.frames import Decoder, FrameError, encode
from sandbox.images import Images
from sandbox.layers import docker
from sandbox.layers.base import Layer, Place, Running, listen
from sandbox.spec import BoxSpec, LayerName, Limits, Runtime
from sandbox.warm import Shelf

SOCKET_NAME, LOCK_NAME = "keeper", "lock"
KEPT_ALREADY = 75  # exit code of a keeper whose pool has one
START_LIMIT_S = 30.0  # for a box's agent to answer
PAGE = 64  # boxes in one answer: a frame is bounded
READY_LABELS = {"run": ".ready"}  # they wait for their turn as everyone does
LOOK_S = 0.2  # between two looks at leases and lifetimes


@dataclass
class Kept:
    """A living box: what it was asked to be, what runs, and until when."""

    box_id: str
    spec: BoxSpec
    labels: Mapping[str, str]
    place: Place
    running: Running
    until: float  # of time.monotonic()
    ended: asyncio.Task[None] = field(repr=False)

    @property
    def lives(self) -> bool:
        return not self.ended.done()


class Keeper:
    def __init__(self, folder: Path, lease_s: float, num_starting: int) -> None:
        self.folder, self.lease_s = folder, lease_s
        self.boxes: dict[str, Kept] = {}
        self._making: dict[str, asyncio.Event] = {}  # boxes that are on their way
        self.layers: dict[tuple[LayerName, Runtime], Layer] = {}
        self.owners: set[asyncio.StreamWriter] = set()
        self.alone_since = time.monotonic()
        self.shelf = Shelf(self._start_ahead)
        self._starting = Turns(num_starting)  # so that a burst of requests does not starve those that are nearly up
        self._numbers = iter(range(1, 1 << 30))
        self._closing = asyncio.Event()
        self._jobs = set[asyncio.Task[None]]()  # orders that are being carried out

    async def serve(self) -> None:
        """Until its owner says so, or has been away for the lease."""
        listener = listen(self.folder / SOCKET_NAME)
        server = await asyncio.start_unix_server(self._meet, sock=listener)
        try:
            while not self._closing.is_set() and not self._forsaken:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):
                        await self._closing.wait()
                now = time.monotonic()
                for box_id in [b for b, kept in self.boxes.items() if now >= kept.until]:
                    await self.destroy(box_id)
        finally:
            server.close()
            self._closing.set()
            if self._jobs:  # boxes that are being made, or ended, are somebody's until that is done
                await asyncio.wait(self._jobs, timeout=START_LIMIT_S)
            endings = [self._end(kept) for kept in await self.shelf.close()]
            endings += [self.destroy(box_id) for box_id in list(self.boxes)]
            for error in await asyncio.gather(*endings, return_exceptions=True):
                if error is not None:
                    print(f"a box could not be ended: {error}", file=sys.stderr)

    @property
    def _forsaken(self) -> bool:
        return not self.owners and time.monotonic() - self.alone_since > self.lease_s

    def _layer(self, spec: BoxSpec) -> Layer:
        kind = spec.layer, spec.runtime
        if kind not in self.layers:
            self.layers[kind] = _open_layer(*kind, self.folder)
        return self.layers[kind]

    async def create(self, box_id: str, spec: BoxSpec, labels: Mapping[str, str], below: Sequence[Path] = ()) -> Kept:
        """A box: one that is ready, or a new one. `below`: what it begins with where it is a fork."""
        await self._no_longer_made(box_id)
        if box_id in self.boxes:
            raise ValueError(f"box {box_id} is there already")
        made = self._making[box_id] = asyncio.Event()
        try:
            kept = None if below else self.shelf.take(spec)
            if kept is None:
                kept = await self._start(box_id, next(self._numbers), spec, labels, below)
            kept.box_id, kept.spec, kept.labels, kept.until = box_id, spec, labels, time.monotonic() + spec.ttl_s
            self.boxes[box_id] = kept
        finally:
            del self._making[box_id]
            made.set()
        return kept

    async def _no_longer_made(self, box_id: str) -> None:
        """Waits for a box that somebody has asked for and who may be dead by now: who comes back is to have that one."""
        while box_id in self._making:
            await self._making[box_id].wait()

    async def _start_ahead(self, spec: BoxSpec) -> Kept:
        number = next(self._numbers)
        return await self._start(f"{self.folder.name}-ready{number}", number, spec, READY_LABELS, ())

    async def _start(self, box_id: str, number: int, spec: BoxSpec, labels: Mapping[str, str], below: Sequence[Path]) -> Kept:
        place = Place(box_id, number, self.folder / "boxes" / str(number))
        place.folder.mkdir(parents=True, mode=0o711)
        try:
            layer = self._layer(spec)
            async with self._starting.of(label_of(labels)):
                if self._closing.is_set():
                    raise BoxUnavailableError("the pool is being closed")
                running = await layer.start(spec, place, below)
                await _answers(running, place)
        except BaseException:
            shutil.rmtree(place.folder, ignore_errors=True)
            raise
        return Kept(box_id, spec, labels, place, running, math.inf, asyncio.create_task(running.wait()))

    async def destroy(self, box_id: str) -> None:
        kept = self.boxes.pop(box_id, None)
        if kept is not None:
            await self._end(kept)

    async def release(self, box_id: str) -> None:
        """Gives a box back: it is made as new for the next one who wants such a box, or ended."""
        kept = self.boxes.pop(box_id, None)
        if kept is None:
            return
        if "reset" in kept.running.can and kept.lives and self.shelf.wants(kept.spec):
            try:
                await kept.running.act("reset", {})
                await _answers(kept.running, kept.place)
            except (SandboxError, OSError) as error:
                print(f"box {box_id} could not be made as new: {error}", file=sys.stderr)
            else:
                kept.until = math.inf
                self.shelf.put(kept.spec, kept)
                return
        await self._end(kept)

    async def _end(self, kept: Kept) -> None:
        await kept.running.destroy()
        kept.ended.cancel()
        await asyncio.to_thread(trees.remove, kept.place.folder)

    # the owner's connection

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        decoder = Decoder()
        try:
            while data := await reader.read(1 << 16):
                for order, _ in decoder.feed(data):
                    if order.get("op") == "own":
                        self.owners.add(writer)
                    job = asyncio.create_task(self._answer(order, writer))
                    self._jobs.add(job)
                    job.add_done_callback(self._jobs.discard)
        except (FrameError, ConnectionError) as error:
            print(f"the owner's connection: {error}", file=sys.stderr)
        finally:
            if writer in self.owners:  # else it only looked
                self.owners.remove(writer)
                self.alone_since = time.monotonic()
            writer.close()

    async def _answer(self, order: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        number = order.get("id")
        try:
            reply = encode({"id": number, "type": "done", **await self._obey(order)})
        except (SandboxError, OSError, ValueError) as error:  # an answer that is too long is a ValueError as well
            reply = encode({"id": number, "type": "done", "error": str(error)[:2000], "kind": type(error).__name__})
        except Exception as error:  # noqa: BLE001 - whoever asked must not wait for an answer that never comes
            traceback.print_exc()
            reply = encode({"id": number, "type": "done", "error": f"the keeper failed: {error!r:.2000}", "kind": ""})
        if not writer.is_closing():
            writer.write(reply)

    async def _obey(self, order: dict[str, Any]) -> dict[str, Any]:
        op: str = order["op"]
        if op == "create":
            kept = await self.create(order["box"], spec_of(order["spec"]), order["labels"])
            return {"box": self._facts(kept)}
        if op == "destroy":
            was_there = order["box"] in self.boxes
            await self.destroy(order["box"])
            return {"was_there": was_there}
        if op == "release":
            await self.release(order["box"])
            return {}
        if op == "warm":
            surplus = await self.shelf.keep(spec_of(order["spec"]), order["count"])
            await asyncio.gather(*(self._end(kept) for kept in surplus))
            return {}
        if op == "own":
            return {}
        if op == "facts":
            await self._no_longer_made(order["box"])
            found = self.boxes.get(order["box"])
            return {"box": None if found is None else self._facts(found)}
        if op == "names":
            return {"names": list(self.boxes)}
        if op == "totals":
            return self._totals()
        if op == "list":
            later = [kept for kept in self.boxes.values() if kept.place.number > order["after"]]
            return {"boxes": [self._facts(kept) for kept in sorted(later, key=lambda kept: kept.place.number)[:PAGE]]}
        if op == "close":
            self._closing.set()
            return {}
        if order["box"] not in self.boxes:
            raise BoxLostError(f"box {order['box']} is gone")
        kept = self.boxes[order["box"]]
        if op == "network":
            kept.spec = replace(kept.spec, network=tuple(order["network"]))
            return {}
        if op not in kept.running.can:
            able = ", ".join(sorted(kept.running.can)) or "none of these"
            raise UnsupportedError(f"{op}: a box of the {kept.spec.layer} layer cannot; it can: {able}")
        said = await kept.running.act(op, order)
        if op == "fork":
            await asyncio.gather(*(self.create(name, kept.spec, kept.labels, said["below"]) for name in order["names"]))
            return {}
        if op in ("rollback", "reset"):
            await _answers(kept.running, kept.place)
        return said

    def _totals(self) -> dict[str, Any]:
        """What the boxes may take, all together, and the images of those that live."""
        limits = [kept.spec.limits for kept in (*self.boxes.values(), *self.shelf.ready())]
        return {
            "num_boxes": len(limits),
            "memory_bytes": sum(of.memory_bytes for of in limits),
            "num_pids": sum(of.num_pids for of in limits),
            "images": sorted({kept.spec.image for kept in self.boxes.values() if kept.spec.image is not None}),
        }

    def _facts(self, kept: Kept) -> dict[str, Any]:
        group = kept.running.cgroup
        return {
            "id": kept.box_id,
            "number": kept.place.number,
            "socket": str(kept.place.socket),
            "cgroup": None if group is None else group.name,
            "user": kept.running.user,
            "shares_fate": kept.running.shares_fate,
            "layer": kept.spec.layer,
            "runtime": kept.spec.runtime if kept.spec.layer is LayerName.CONTAINER else None,
            "image": kept.spec.image,
            "left_s": kept.until - time.monotonic(),
            "alive": kept.lives,
            "labels": dict(kept.labels),
            "network": list(kept.spec.network),
            "memory_bytes": kept.spec.limits.memory_bytes,
            "num_pids": kept.spec.limits.num_pids,
        }


async def _answers(running: Running, place: Place) -> None:
    """Returns once the agent does.

    Raises:
        BoxUnavailableError: it does not; with what the box said. The box is gone then.
    """
    try:
        async with asyncio.timeout(START_LIMIT_S):
            agent = await Agent.connect(place.socket)
            try:
                await agent.ask({"op": "ping", "id": 1})
            finally:
                agent.close()
    except (SandboxError, OSError, TimeoutError) as error:
        await running.destroy()
        said = place.said.read_text(errors="replace").strip()[-500:]
        raise BoxUnavailableError(f"box {place.box_id} did not start: {said or error}") from error


def spec_of(words: dict[str, Any]) -> BoxSpec:
    """The spec that `dataclasses.asdict` and JSON have taken apart."""
    fields = {
        **words,
        "layer": LayerName(words["layer"]),
        "runtime": Runtime(words["runtime"]),
        "limits": Limits(**words["limits"]),
        "network": tuple(words["network"]),
    }
    return BoxSpec(**fields)


def _open_layer(name: LayerName, runtime: Runtime, folder: Path) -> Layer:
    images = Images(folder.parents[1] / "images")
    if name is LayerName.FUNCTION:
        from sandbox.layers.function import FunctionLayer

        return FunctionLayer()
    if name is LayerName.CONTAINER and runtime is Runtime.RUNSC:
        from sandbox.layers.gvisor import GVisorLayer

        return GVisorLayer(folder, images)
    if name is LayerName.CONTAINER and runtime is Runtime.DOCKER:
        return docker.DockerLayer(folder, images)
    if name is LayerName.CONTAINER:
        from sandbox.layers.container import ContainerLayer

        return ContainerLayer(folder, images)
    if name is LayerName.MICROVM:
        from sandbox.layers.microvm import MicrovmLayer

        return MicrovmLayer(folder, images)
    from sandbox.layers.vm import VmLayer

    return VmLayer(folder, images)


def _lock(folder: Path) -> bool:
    """Takes the pool, unless another keeper has it: whoever finds its lock free knows that its keeper is gone.

    The lock is held before it gets its name, so nobody ever finds that of a keeper which is just beginning.
    """
    with contextlib.suppress(FileNotFoundError):
        before = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(before, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    mine = folder / f"{LOCK_NAME}.{os.getpid()}"
    fcntl.flock(os.open(mine, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), fcntl.LOCK_EX)
    os.replace(mine, folder / LOCK_NAME)
    return True


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--lease-s", type=float, required=True)
    parser.add_argument("--num-starting", type=int, required=True)
    arguments = parser.parse_args()
    if not _lock(arguments.folder):
        sys.exit(KEPT_ALREADY)
    (arguments.folder / SOCKET_NAME).unlink(missing_ok=True)
    # Else every box whose Python is of this version would compile the agent anew, which is most of its start.
    compileall.compile_dir(Path(guest.__file__).parent, quiet=2)
    if os.geteuid() == 0:
        mounts.own_namespace()
    asyncio.run(Keeper(arguments.folder, arguments.lease_s, arguments.num_starting).serve())
    for path in arguments.folder.iterdir():
        if path.name != LOCK_NAME:  # as long as something is left, the next pool's `gc` must find it
            trees.remove(path)
    if docker.collect(arguments.folder) and [path.name for path in arguments.folder.iterdir()] == [LOCK_NAME]:
        trees.remove(arguments.folder)


if __name__ == "__main__":
    main()
