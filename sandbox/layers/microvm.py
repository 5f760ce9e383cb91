"""The microVM layer: a machine of its own for each box, with Debian's cloud kernel and the image's layers as its disks.

It does not protect against: holes in QEMU, which the guest talks to with its few virtual devices (then it stands as nobody in
empty namespaces, `sandbox/qemu.py`); holes in the host's kernel that QEMU's own system calls reach; side channels. Inside, an
image's programs may become root of their own machine through a hole in its kernel: limits on processes and verdicts are the
machine's word then, and those on memory, processor and disk still hold.

The first box of a kind is booted, and saved as a template; every other one is a clone of it, whose memory is shared until it is
written. Clones differ: each gets its own entropy, clock and name before anybody may use it. Snapshot, rollback and fork are of
the whole machine: what runs goes on. Machines are emulated. KVM and Firecracker are not used: `ACCELERATOR` is where KVM goes.
"""

from __future__ import annotations

import asyncio
import math
import os
import secrets
import shutil
import socket
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sandbox import kernel, qemu
from sandbox.agent import Agent
from sandbox.cgroups import Cgroup
from sandbox.errors import BoxLostError, BoxUnavailableError, UnsupportedError
from sandbox.guest.frames import Decoder, encode
from sandbox.images import Images
from sandbox.layers.base import Place
from sandbox.layers.container import USER
from sandbox.qemu import Descriptors, Emulator
from sandbox.relay import Relay
from sandbox.spec import BoxSpec, Limits
from sandbox.templates import STATE, Template, Templates

MACHINE = "q35,usb=off,vmport=off"
ACCELERATOR = "tcg,tb-size=64"  # MiB of translated code: with 32 Python takes three times as long to start
PROCESSOR = "Nehalem"  # x86-64-v2: what is built for later ones is slower where it is emulated
MAX_LAYERS = 20  # one virtual disk each, and a bus has 32 places
GUEST_BYTES = 80 << 20  # of the machine's memory that its kernel, the agent and the image's first pages take
BOOT_LIMIT_S = 90.0
CAN = frozenset({"pause", "resume", "snapshot", "rollback", "fork"})
MAX_STALE_BYTES = 64 << 20  # that a clone may have on its way from before


class MicrovmLayer:
    """Boots, saves and clones machines; `folder` is the pool's."""

    name, first_program, memory_bytes = "microvm", "init.sh", GUEST_BYTES

    def __init__(self, folder: Path, images: Images) -> None:
        if os.geteuid() != 0:
            raise UnsupportedError(f"the {self.name} layer needs root, so that each machine is run by a user of its own")
        self.version = os.stat(qemu.program())
        self.folder, self.images = folder, images
        self.cache = images.folder.parent / "cache"
        self._kernel = kernel.get(self.cache)
        self._templates = Templates(self.cache)
        self._first = os.memfd_create("initramfs", os.MFD_CLOEXEC)
        init = Path(kernel.__file__).with_name("guest") / self.first_program
        self._archive = kernel.initramfs(self._kernel, init.read_text())
        os.write(self._first, self._archive)
        self._users = Counter[Path]()  # forks to come by the file that they begin with

    async def start(self, spec: BoxSpec, place: Place, below: Sequence[Path] = ()) -> MicrovmBox:
        if spec.image is None:
            raise UnsupportedError(f"image: got None; the {self.name} layer needs one: `polymath sandbox image list`")
        if spec.stateless:
            raise UnsupportedError(f"stateless: a box of the {self.name} layer keeps its files; use the function layer")
        layers = self.images.get(spec.image).layers
        if len(layers) > MAX_LAYERS:
            raise UnsupportedError(f"image: {spec.image} has {len(layers)} layers; machines take {MAX_LAYERS} at most")
        box = MicrovmBox(self, spec, place, layers, Cgroup(place.box_id))
        try:
            await box.launch(below[0] if below else None)
        except BaseException:
            await box.destroy()
            raise
        finally:
            self._leave(below)
        return box

    def _leave(self, below: Sequence[Path]) -> None:
        for folder in below:
            self._users[folder] -= 1
            if not self._users[folder]:
                shutil.rmtree(folder, ignore_errors=True)

    def will_fork(self, count: int) -> Path:
        """A folder for a saved machine of which so many boxes begin; it goes with the last."""
        folder = self.folder / f"fork-{secrets.token_hex(4)}"
        self._users[folder] = count
        return folder

    def key(self, spec: BoxSpec, layers: Sequence[str]) -> str:
        """The name of the template that such a box is a clone of: a digest of all that makes it what it is."""
        kind = (self.name, self._kernel.name, self._archive, self.version.st_size, self.version.st_mtime_ns)
        machine = (MACHINE, ACCELERATOR, PROCESSOR, self.ram_bytes(spec.limits), math.ceil(spec.limits.cpus))
        return kernel.digest(kind, machine, self.command_line(spec, layers), tuple(layers))

    async def template(self, box: MicrovmBox) -> Template:
        """What boxes of this kind are cloned from; booted and saved where there is none."""

        async def make(folder: Path, memory: int) -> None:
            place = replace(box.place, folder=folder)
            booted = MicrovmBox(self, box.spec, place, box.layers, Cgroup(f"{box.place.box_id}.boot"))
            try:
                await self.prepare(booted, None)
                await booted.boot(memory)
                assert booted.emulator is not None
                await booted.emulator.stop()
                await booted.emulator.save(folder / STATE, without_memory=True)
            finally:
                await booted.destroy()
            for path in (place.said, place.socket):
                path.unlink(missing_ok=True)

        num_bytes = self.ram_bytes(box.spec.limits)
        about = {"layer": self.name, "image": box.spec.image, "layers": box.layers, "memory_bytes": num_bytes}
        return await self._templates.get(self.key(box.spec, box.layers), about, make, num_bytes)

    def ram_bytes(self, limits: Limits) -> int:
        """What a machine has, so that its commands have what they may use; in whole MiB."""
        return (self.memory_bytes + limits.memory_bytes * 33 // 32 + (1 << 20) - 1) >> 20 << 20

    def disks(self, box: MicrovmBox, given: Descriptors, template: Path | None) -> list[str]:
        """Words for the machine's disks: here those of its image; `template` is what it is a clone of, if it is not booted."""
        words = list[str]()
        for number, digest in enumerate(box.layers):
            words += qemu.file_words(given, self.images.layer(digest), f"disk{number}")
            words += ["-device", f"virtio-blk-pci,drive=disk{number}"]
        return words

    def command_line(self, spec: BoxSpec, layers: Sequence[str]) -> str:
        """The kernel's; `guest/` has the program that reads it."""
        limits = spec.limits
        disks = ",".join(f"vd{chr(ord('a') + i)}" for i in range(len(layers)))
        own = {
            "disks": disks,
            "disk_bytes": limits.disk_bytes,
            "memory_bytes": limits.memory_bytes,
            "num_pids": limits.num_pids,
            "num_files": limits.num_files,
        }
        return " ".join(["console=ttyS0", "quiet", "panic=-1", *(f"polymath.{name}={value}" for name, value in own.items())])

    async def prepare(self, box: MicrovmBox, saved: Path | None) -> None:
        """Makes what the box writes to on this machine, as it was saved or empty: nothing, its writes are in its memory."""

    async def keep(self, box: MicrovmBox, folder: Path) -> None:
        """Saves that, while the machine stands still."""

    async def emulator(self, box: MicrovmBox, memory: str, given: Descriptors, template: Path | None) -> tuple[Emulator, Ends]:
        """Starts QEMU for a box whose memory is this object; it boots, or waits for its state."""
        limits, ends = box.spec.limits, Ends()
        words = ["-M", f"{MACHINE},memory-backend=ram", "-accel", ACCELERATOR, "-cpu", PROCESSOR, "-rtc", "base=utc"]
        words += ["-m", f"{self.ram_bytes(limits) >> 20}", "-smp", str(math.ceil(limits.cpus)), "-object", memory]
        words += ["-chardev", "ringbuf,id=console,size=16k", "-serial", "chardev:console", "-device", "virtio-serial-pci"]
        for number, end in enumerate((ends.agent[1], ends.keeper[1]), 1):
            words += ["-chardev", f"socket,id=port{number},fd={end.fileno()}"]
            words += ["-device", f"virtserialport,chardev=port{number},nr={number}"]
        words += self.disks(box, given, template)
        if template is None:
            words += ["-kernel", f"/proc/self/fd/{given.open(self._kernel.image)}"]
            words += ["-initrd", f"/proc/self/fd/{given.take(os.dup(self._first))}"]
            words += ["-no-shutdown", "-append", self.command_line(box.spec, box.layers)]
        else:
            words += ["-incoming", "defer"]
        try:
            emulator = await qemu.start(
                words, [*given.all, *ends.its], number=box.place.number, cgroup=box.cgroup,
                limits=replace(limits, memory_bytes=self.ram_bytes(limits)), said=box.place.said,
                file_bytes=self.ram_bytes(limits) + limits.disk_bytes + (64 << 20),
            )  # fmt: skip
        except BaseException:
            ends.close()
            raise
        for _, end in (ends.agent, ends.keeper):
            end.close()
        return emulator, ends


class Ends:
    """Two sockets: the agent's, and the keeper's own; each as ours and the machine's."""

    def __init__(self) -> None:
        self.agent, self.keeper = socket.socketpair(), socket.socketpair()

    @property
    def its(self) -> list[int]:
        return [self.agent[1].fileno(), self.keeper[1].fileno()]

    def close(self) -> None:
        for end in (*self.agent, *self.keeper):
            end.close()


@dataclass
class MicrovmBox:
    """A box, its machine while it runs, and what was saved of it."""

    layer: MicrovmLayer
    spec: BoxSpec
    place: Place
    layers: Sequence[str]  # of the image
    cgroup: Cgroup
    user: tuple[int, int] = USER
    can: frozenset[str] = CAN
    shares_fate: bool = False
    emulator: Emulator | None = None
    relay: Relay | None = None
    port: Port | None = None
    paused: bool = False

    async def boot(self, memory: int) -> None:
        """From nothing, with memory that is shared, until the agent answers; nobody is connected then."""
        given = Descriptors()
        try:
            shared = f"memory-backend-file,id=ram,size={self.layer.ram_bytes(self.spec.limits)},share=on"
            shared += f",mem-path=/proc/self/fd/{given.take(os.dup(memory))}"
            self.emulator, its = await self.layer.emulator(self, shared, given, None)
        finally:
            given.close()
        self.port = Port(its.keeper[0])
        self.relay = await Relay.over_socket(self.place.socket, its.agent[0])
        trying = asyncio.create_task(self._try_out())
        ends = asyncio.create_task(self.emulator.qmp.until("query-status", "status", "shutdown", ()))
        try:
            done, _ = await asyncio.wait((trying, ends), timeout=BOOT_LIMIT_S, return_when=asyncio.FIRST_COMPLETED)
            if trying not in done or trying.exception() is not None:
                raise BoxUnavailableError(f"a machine did not boot: {await self.console() or 'its console is empty'}")
        finally:
            for task in (trying, ends):
                task.cancel()
            await asyncio.gather(trying, ends, return_exceptions=True)

    async def _try_out(self) -> None:
        """Has the agent run something, so that clones have in memory what that takes."""
        agent = await Agent.connect(self.place.socket)
        order = {"op": "exec", "argv": ["/bin/sh", "-c", "python3 -c 0"], "wall_s": BOOT_LIMIT_S, "user": self.user}
        await agent.ask({**order, "id": 1})
        agent.close()

    async def console(self) -> str:
        """The last of what the machine has printed."""
        if self.emulator is None:
            return ""
        try:
            said = await self.emulator.qmp.tell("ringbuf-read", {"device": "console", "size": 16384})
        except (BoxLostError, BoxUnavailableError) as error:
            return str(error)
        return str(said).partition("Kernel panic")[0].strip()[-800:]

    async def launch(self, saved: Path | None) -> None:
        """As a clone of its template, or, with the folder where a machine was saved, as that one."""
        given, num_bytes = Descriptors(), self.layer.ram_bytes(self.spec.limits)
        template = await self.layer.template(self)
        await self.layer.prepare(self, saved)
        try:
            if saved is None:
                memory = f"memory-backend-file,id=ram,size={num_bytes},share=off"
                memory += f",mem-path=/proc/self/fd/{given.take(os.dup(template.memory))}"
            else:
                memory = f"memory-backend-ram,id=ram,size={num_bytes}"
            self.emulator, ends = await self.layer.emulator(self, memory, given, template.folder)
            await self.emulator.load((saved or template.folder) / STATE, without_memory=saved is None)
        finally:
            given.close()
        self.port = Port(ends.keeper[0])
        marker = secrets.token_bytes(32)
        await self.port.ask({"op": "wake", "time": time.time(), "name": "box"}, secrets.token_bytes(64) + marker)
        await _discard_until(ends.agent[0], marker)
        self.relay = await Relay.over_socket(self.place.socket, ends.agent[0])

    async def halt(self) -> None:
        if self.relay is not None:
            self.relay.close()
        if self.port is not None:
            self.port.close()
        if self.emulator is not None:
            await self.emulator.end()
        else:
            await asyncio.to_thread(self.cgroup.destroy)

    async def wait(self) -> None:
        emulator = None
        while emulator is not self.emulator:  # a rollback starts another
            emulator = self.emulator
            assert emulator is not None
            await emulator.process.wait()

    async def destroy(self) -> None:
        await self.halt()

    async def act(self, op: str, words: Mapping[str, Any]) -> dict[str, Any]:
        assert self.emulator is not None
        if op == "pause":
            await self.emulator.stop()
            self.paused = True
        elif op == "resume":
            await self.emulator.go_on()
            self.paused = False
            assert self.port is not None
            await self.port.ask({"op": "wake", "time": time.time(), "name": ""})  # its clock stood still
        elif op == "snapshot":
            await self._save(self.place.snapshot(words["snapshot"]))
        elif op == "rollback":
            snapshot = self.place.taken(words["snapshot"])
            await self.halt()
            await self.launch(snapshot)
        elif op == "fork":
            folder = self.layer.will_fork(len(words["names"]))
            await self._save(folder)
            return {"below": [folder]}
        return {}

    async def _save(self, folder: Path) -> None:
        assert self.emulator is not None
        half = folder.with_suffix(".half")
        half.mkdir(parents=True, mode=0o700)
        await self.emulator.stop()
        try:
            await self.emulator.save(half / STATE, without_memory=False)
            await self.layer.keep(self, half)
            os.rename(half, folder)
        finally:
            shutil.rmtree(half, ignore_errors=True)
            if not self.paused:
                await self.emulator.go_on()


class Port:
    """The keeper's own stream to a machine: one order, one answer."""

    def __init__(self, stream: socket.socket) -> None:
        stream.setblocking(False)
        self._stream, self._decoder = stream, Decoder()
        self._lock = asyncio.Lock()

    async def ask(self, order: dict[str, Any], payload: bytes = b"") -> dict[str, Any]:
        """The answer.

        Raises:
            BoxLostError: there is none, or it says that it could not.
        """
        loop = asyncio.get_running_loop()
        try:
            async with self._lock, asyncio.timeout(qemu.ANSWER_LIMIT_S):
                number = secrets.token_hex(8)
                await loop.sock_sendall(self._stream, encode({**order, "id": number}, payload))
                while True:
                    data = await loop.sock_recv(self._stream, 1 << 16)
                    if not data:
                        raise BoxLostError("the machine ended")
                    for said, _ in self._decoder.feed(data):
                        if said.get("id") != number:
                            continue  # of an order that it had before it was cloned
                        if said.get("type") != "done":
                            raise BoxLostError(f"the machine could not {order['op']}: {str(said.get('message'))[:300]}")
                        return said
        except (TimeoutError, OSError, ValueError) as error:
            raise BoxLostError(f"the machine does not answer its keeper: {error}") from error

    def close(self) -> None:
        self._stream.close()


async def _discard_until(stream: socket.socket, marker: bytes) -> None:
    """Reads what was on its way when a machine was saved, up to the mark that its clone writes first."""
    stream.setblocking(False)
    loop = asyncio.get_running_loop()
    left, num_read = b"", 0
    try:
        async with asyncio.timeout(qemu.ANSWER_LIMIT_S):
            while not left.endswith(marker):
                data = await loop.sock_recv(stream, 1 << 16)
                num_read += len(data)
                if not data or num_read > MAX_STALE_BYTES:
                    raise BoxLostError("a cloned machine's agent says too much, or ends")
                left = (left + data)[-len(marker) :]
    except (TimeoutError, OSError) as error:
        raise BoxLostError(f"a cloned machine's agent does not answer: {error}") from error
