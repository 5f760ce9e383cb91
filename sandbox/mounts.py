"""Mounts of the keeper, in a mount namespace that is its own: whatever way it ends, the kernel takes them away with it."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
from pathlib import Path

_CLONE_NEWNS = 0x20000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
_MNT_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)


STAGE = Path("/mnt")  # in the namespace of a keeper: what its boxes need, where every user can come


def own_namespace() -> None:
    """From now on mounts of this process are seen by it and by what it starts alone. Only root may."""
    _check(_libc.unshare(_CLONE_NEWNS), "unshare")
    mount("none", Path("/"), "", _MS_REC | _MS_PRIVATE)
    mount("tmpfs", STAGE, "tmpfs", data="mode=755,size=1m")


def show(source: Path, name: str) -> None:
    """Shows a folder at STAGE under this name, read-only; once, whoever asks again."""
    target = STAGE / name
    if not target.exists():
        target.mkdir()
        mount(str(source), target, "", _MS_BIND)
        mount("none", target, "", _MS_BIND | _MS_REMOUNT | _MS_RDONLY | _MS_NOSUID | _MS_NODEV)


def show_image(image: Path, name: str) -> Path:
    """Where an image's layer is at STAGE, mounted once, whoever asks again; its pages are shared by all boxes."""
    target = STAGE / name
    if not os.path.ismount(target):
        target.mkdir(exist_ok=True)
        mount_image(image, target)
    return target


def mount_image(image: Path, target: Path) -> None:
    """Mounts an EROFS file, read-only; on kernels that want a block device for it, over a loop device."""
    flags = _MS_RDONLY | _MS_NODEV | _MS_NOSUID
    try:
        mount(str(image), target, "erofs", flags)
    except OSError as error:
        if error.errno != errno.ENOTBLK:
            raise
        command = ["mount", "-t", "erofs", "-o", "loop,ro,nodev,nosuid", str(image), str(target)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise OSError(error.errno, f"mount {image}: {done.stderr.strip()}") from error


def leave(target: Path) -> None:
    """Has this namespace do without a mount, if it has it."""
    if os.path.ismount(target):
        unmount(target)


def mount(source: str, target: Path, kind: str, flags: int = 0, data: str = "") -> None:
    done = _libc.mount(source.encode(), os.fsencode(target), kind.encode() or None, flags, data.encode() or None)
    _check(done, f"mount {source} on {target}")


def unmount(target: Path) -> None:
    _check(_libc.umount2(os.fsencode(target), _MNT_DETACH), f"unmount {target}")


def _check(status: int, what: str) -> None:
    if status:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
