"""The kernel that machines boot, Debian's for clouds, and the first root it sees: modules, busybox and the agent in an archive.

Both are taken from Debian's packages into the cache of the sandbox's home; nothing is installed on this machine.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import stat
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import sandbox
from sandbox import seccomp
from sandbox.errors import UnsupportedError

META = "linux-image-cloud-amd64"  # depends on the newest
MODULES = ("virtio_pci", "virtio_blk", "virtio_console", "erofs", "overlay", "ext4")
_LZ4, _BLOCK_BYTES = b"\x02\x21\x4c\x18", 8 << 20
_PACKAGE = re.compile(r"Depends: (linux-image-[0-9][a-z0-9.+-]*)")
_DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")


@dataclass(frozen=True)
class Kernel:
    """A kernel, unpacked, the modules that machines need in the order in which they are loaded, and a static busybox."""

    name: str
    image: Path
    modules: tuple[Path, ...]
    busybox: Path


def get(cache: Path) -> Kernel:
    """The kernel in this cache; fetched first where there is none.

    Raises:
        UnsupportedError: it cannot be fetched; says with what.
    """
    folder = cache / "kernel"
    if not folder.is_dir():
        _fetch(folder)
    modules = {path.stem: path for path in sorted(folder.glob("lib/modules/*/kernel/**/*.ko"))}
    ordered = tuple(modules[name] for name in _in_order(MODULES, modules))
    return Kernel(next(folder.glob("boot/vmlinuz-*")).name, folder / "boot/vmlinux", ordered, folder / "bin/busybox")


def _fetch(folder: Path) -> None:
    for tool in ("apt-get", "apt-cache", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise UnsupportedError(f"machines need Debian's packages for their kernel, and {tool} is missing here")
    found = _PACKAGE.search(_run(["apt-cache", "depends", META], folder.parent))
    if found is None:
        raise UnsupportedError(f"machines need the package {META}, which this machine's package lists lack: apt-get update")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        names = [found[1], "busybox-static"]
        _run(["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", *names], Path(temporary))
        made = Path(temporary, "made")
        for archive in Path(temporary).glob("*.deb"):
            _run(["dpkg-deb", "-x", str(archive), str(made)], Path(temporary))
        [packed] = made.glob("boot/vmlinuz-*")
        (made / "boot/vmlinux").write_bytes(_unpacked(packed.read_bytes()))
        try:
            os.rename(made, folder)
        except OSError:
            if not folder.is_dir():  # else another process was first
                raise


def _unpacked(packed: bytes) -> bytes:
    """The kernel in a bzImage (Documentation/arch/x86/boot.rst): an emulated machine would take seconds to unpack it.

    Debian's is in LZ4's old format, blocks of 8 MiB; its library is there wherever apt is, which depends on it.
    """
    num_sectors, (offset, length) = packed[0x1F1] or 4, struct.unpack_from("<II", packed, 0x248)
    start = (num_sectors + 1) * 512 + offset
    if packed[start : start + 4] != _LZ4:
        raise UnsupportedError(f"{META}: its kernel is packed in another way than LZ4")
    library, whole = ctypes.CDLL("liblz4.so.1"), bytearray()
    block = ctypes.create_string_buffer(_BLOCK_BYTES)
    end, start = start + length - 4, start + 4  # four bytes at the end say how long it is
    while start < end:
        [size] = struct.unpack_from("<I", packed, start)
        num_bytes = library.LZ4_decompress_safe(packed[start + 4 : start + 4 + size], block, size, _BLOCK_BYTES)
        if num_bytes < 0:
            raise UnsupportedError(f"{META}: its kernel cannot be unpacked")
        whole += block.raw[:num_bytes]
        start += 4 + size
    return bytes(whole)


def _in_order(wanted: tuple[str, ...], modules: Mapping[str, Path]) -> list[str]:
    """Modules and what they depend on, which comes first."""
    found = list[str]()

    def add(name: str) -> None:
        name = name.replace("-", "_")
        if name in found or name not in {key.replace("-", "_") for key in modules}:
            return  # a part of the kernel itself
        path = next(modules[key] for key in modules if key.replace("-", "_") == name)
        depends = _DEPENDS.search(path.read_bytes())
        for below in depends[1].decode().split(",") if depends else []:
            add(below)
        found.append(path.stem)

    for name in ("crc32c_generic", *wanted):  # which nothing names
        add(name)
    return found


def initramfs(kernel: Kernel, init: str) -> bytes:
    """The archive: `init` as /init, /modules (a list) and the modules, busybox, and below /agent its package and its filter."""
    files: dict[str, tuple[int, bytes]] = {
        "init": (0o755, init.encode()),
        "bin/busybox": (0o755, kernel.busybox.read_bytes()),
        "modules": (0o644, "".join(f"/{path.name}\n" for path in kernel.modules).encode()),
    }
    files |= {path.name: (0o644, path.read_bytes()) for path in kernel.modules}
    files |= {f"agent/{name}": (0o644, data) for name, data in agent_files()}
    files["agent/filter"] = (0o600, seccomp.program())
    folders = {str(parent) for name in files for parent in Path(name).parents if str(parent) != "."}
    entries = [(name, stat.S_IFDIR | 0o755, b"") for name in sorted(folders)]
    entries += [(name, stat.S_IFREG | mode, data) for name, (mode, data) in files.items()]
    return b"".join(_entry(*entry) for entry in [*entries, ("TRAILER!!!", 0, b"")])


def agent_files() -> Iterator[tuple[str, bytes]]:
    """What the agent imports, by its path."""
    package = Path(sandbox.__file__).resolve().parent
    for path in [package / "__init__.py", *sorted((package / "guest").glob("*.py"))]:
        yield f"sandbox/{path.relative_to(package)}", path.read_bytes()


def digest(*parts: object) -> str:
    """Of all that makes two machines the same."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _entry(name: str, mode: int, data: bytes) -> bytes:
    """One entry of a cpio archive in the `newc` format."""
    fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + "".join(f"{field:08X}" for field in fields).encode() + name.encode() + b"\0"
    return _padded(head) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _run(command: list[str], folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UnsupportedError(f"{' '.join(command[:3])} ... failed: {done.stderr.strip()[-500:]}")
    return done.stdout
