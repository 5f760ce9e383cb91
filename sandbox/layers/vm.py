"""The vm layer: a full machine with systemd, its root on a disk that it may write to, cloned from one that was booted once.

It is the microvm layer (`sandbox/layers/microvm.py`) but for its disks and what it boots, and protects against no more and no
less. Its disk is a chain that QEMU is told and does not find: the image as one ext4 file, what the boot wrote, what the box has
written (qcow2). The last is the box's own file on this machine, and cannot grow beyond `disk_bytes` and its tables.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from sandbox import qemu, roots
from sandbox.errors import BoxUnavailableError, UnsupportedError
from sandbox.images import Images
from sandbox.layers.microvm import MicrovmBox, MicrovmLayer
from sandbox.qemu import Descriptors
from sandbox.spec import BoxSpec

DISK = "disk.qcow2"
GUEST_BYTES = 160 << 20  # of the machine's memory that its kernel and its services take


class VmLayer(MicrovmLayer):
    """Boots, saves and clones full machines."""

    name, first_program, memory_bytes = "vm", "init-vm.sh", GUEST_BYTES

    def __init__(self, folder: Path, images: Images) -> None:
        super().__init__(folder, images)
        if shutil.which("qemu-img") is None:
            raise UnsupportedError(f"the vm layer needs qemu-img: {qemu.NEEDS}")

    async def prepare(self, box: MicrovmBox, saved: Path | None) -> None:
        disk, root = box.place.folder / DISK, await self._root(box)
        if saved is not None:
            await asyncio.to_thread(_copy, saved / DISK, disk)
            return
        command = ["qemu-img", "create", "-q", "-f", "qcow2", str(disk), str(root.stat().st_size)]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BoxUnavailableError(f"qemu-img: {done.stderr.strip()[-300:]}")

    async def keep(self, box: MicrovmBox, folder: Path) -> None:
        await asyncio.to_thread(_copy, box.place.folder / DISK, folder / DISK)

    async def _root(self, box: MicrovmBox) -> Path:
        disk_bytes = box.spec.limits.disk_bytes
        return await asyncio.to_thread(roots.get, self.cache, self.images, box.layers, disk_bytes)

    def disks(self, box: MicrovmBox, given: Descriptors, template: Path | None) -> list[str]:
        root = roots.get(self.cache, self.images, box.layers, box.spec.limits.disk_bytes)
        words = qemu.file_words(given, root, "file0")
        words += ["-blockdev", "driver=raw,file=file0,read-only=on,node-name=disk0"]
        chain = [box.place.folder / DISK] if template is None else [template / DISK, box.place.folder / DISK]
        for number, path in enumerate(chain, 1):
            last = number == len(chain)
            words += qemu.file_words(given, path, f"file{number}", writable=last)
            node = f"driver=qcow2,file=file{number},backing=disk{number - 1},node-name=disk{number}"
            words += ["-blockdev", f"{node},read-only={'off' if last else 'on'}"]
        return [*words, "-device", f"virtio-blk-pci,drive=disk{len(chain)}"]

    def command_line(self, spec: BoxSpec, layers: Sequence[str]) -> str:
        return f"{super().command_line(spec, layers[:1])} systemd.unit=multi-user.target"


def _copy(source: Path, target: Path) -> None:
    done = subprocess.run(["cp", "--sparse=always", str(source), str(target)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"copying {source.name}: {done.stderr.strip()[-300:]}")
