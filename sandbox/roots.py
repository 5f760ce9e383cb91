"""Disks that full machines boot from: an image's layers put together in one ext4 file, read-only, in the home's cache."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from sandbox import kernel, mounts
from sandbox.errors import UnsupportedError
from sandbox.images import Images

ROOT, ABOUT = "root.raw", "about.json"
LEAST_FREE_BYTES = 1 << 30
SPARE = 1.15  # of what the files take: the file system's own tables, and rounding up to blocks


def get(cache: Path, images: Images, layers: Sequence[str], disk_bytes: int) -> Path:
    """The disk with these layers and at least so much room; made where there is none. Needs a mount namespace of its own.

    Raises:
        UnsupportedError: the image cannot be a full machine's, or a tool is missing.
    """
    free = max(LEAST_FREE_BYTES, 1 << (disk_bytes - 1).bit_length())
    folder = cache / "roots" / kernel.digest(tuple(layers), free)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            half = folder.with_suffix(".half")
            shutil.rmtree(half, ignore_errors=True)
            half.mkdir()
            _make(half / ROOT, [images.layer(digest) for digest in layers], free)
            (half / ABOUT).write_text(json.dumps({"layers": list(layers)}))
            os.rename(half, folder)
        os.utime(folder)
    return folder / ROOT


def _make(path: Path, layers: Sequence[Path], free: int) -> None:
    with tempfile.TemporaryDirectory(dir=mounts.STAGE) as temporary, contextlib.ExitStack() as mounted:
        folders = list[Path]()
        for number, layer in enumerate(layers):
            folder = Path(temporary, str(number))
            folder.mkdir()
            mounts.mount_image(layer, folder)
            mounted.callback(mounts.unmount, folder)
            folders.append(folder)
        root = folders[0]
        if len(folders) > 1:
            root = Path(temporary, "root")
            root.mkdir()
            mounts.mount("overlay", root, "overlay", data=f"lowerdir={':'.join(map(str, reversed(folders)))}")
            mounted.callback(mounts.unmount, root)
        if not (root / "lib/systemd/systemd").exists():
            raise UnsupportedError("image: it has no systemd; build one with `polymath sandbox image build NAME debian-vm`")
        used = int(_run(["du", "-sxB1", str(root)]).split()[0])
        with path.open("wb") as file:
            file.truncate(int(used * SPARE) + free)
        options = "lazy_itable_init=1,nodiscard,root_owner=0:0"
        _run(["mkfs.ext4", "-q", "-F", "-m0", "-O", "^has_journal", "-E", options, "-d", str(root), str(path)])


def _run(command: Sequence[str]) -> str:
    if shutil.which(command[0]) is None:
        raise UnsupportedError(f"{command[0]} is missing: apt-get install e2fsprogs")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UnsupportedError(f"{' '.join(command[:3])} ... failed: {done.stderr.strip()[-500:]}")
    return done.stdout
