"""Templates: machines that were booted once and saved, which boxes are clones of; in the home's cache, by their making.

A template appears under its name only when it is whole and on the disk. A keeper maps its memory from a sealed file that exists
in memory alone: clones share its pages and no clone, whatever becomes of its emulator, can change them.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

UNUSED_S = 7 * 86400.0  # after which a template is removed
MEMORY, STATE, ABOUT = "memory", "state", "about.json"


@dataclass(frozen=True)
class Template:
    """Its folder, which `gc` may remove while clones live, and the sealed file with its memory."""

    folder: Path
    memory: int


class Templates:
    """Of one keeper; the folder is shared by all of a home."""

    def __init__(self, cache: Path) -> None:
        self.folder = cache / "templates"
        self._loaded: dict[str, Template] = {}
        self._locks = defaultdict[str, asyncio.Lock](asyncio.Lock)

    async def get(
        self, name: str, about: dict[str, Any], make: Callable[[Path, int], Awaitable[None]], num_bytes: int
    ) -> Template:
        """The template of this name.

        Args:
            about: what `gc` and people are to know; its "layers" are the files without which it is of no use.
            make: where there is none, boots and saves one: writes STATE to the folder, and the memory to the descriptor.
        """
        async with self._locks[name]:
            if name not in self._loaded:
                self._loaded[name] = await self._load_or_make(name, about, make, num_bytes)
            with contextlib.suppress(FileNotFoundError):
                os.utime(self._loaded[name].folder)
            return self._loaded[name]

    async def _load_or_make(
        self, name: str, about: dict[str, Any], make: Callable[[Path, int], Awaitable[None]], num_bytes: int
    ) -> Template:
        folder = self.folder / name
        self.folder.mkdir(parents=True, exist_ok=True)
        memory = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(memory, num_bytes)
            with (self.folder / f"{name}.lock").open("w") as lock:
                await asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_EX)  # while another keeper makes it
                if folder.is_dir():
                    await asyncio.to_thread(_copy, folder / MEMORY, memory)
                else:
                    made = self.folder / f"{name}.half"
                    shutil.rmtree(made, ignore_errors=True)
                    made.mkdir()
                    start = time.monotonic()
                    await make(made, memory)
                    (made / ABOUT).write_text(json.dumps({**about, "boot_s": time.monotonic() - start}))
                    await asyncio.to_thread(_keep, made, folder, memory)
            fcntl.fcntl(
                memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            )
        except BaseException:
            os.close(memory)
            raise
        return Template(folder, memory)


def _keep(made: Path, folder: Path, memory: int) -> None:
    """Puts a finished template under its name, once all of it is on the disk."""
    with (made / MEMORY).open("wb") as file:
        os.ftruncate(file.fileno(), os.fstat(memory).st_size)
        _copy_data(memory, file.fileno())
    for path in made.iterdir():
        with path.open("rb") as written:
            os.fsync(written.fileno())
    os.rename(made, folder)


def _copy(source: Path, target: int) -> None:
    with source.open("rb") as file:
        _copy_data(file.fileno(), target)


def _copy_data(source: int, target: int) -> None:
    """Without the holes of a sparse file."""
    end, start = os.fstat(source).st_size, 0
    while start < end:
        try:
            start = os.lseek(source, start, os.SEEK_DATA)
        except OSError:  # nothing but a hole is left
            return
        stop = os.lseek(source, start, os.SEEK_HOLE)
        os.lseek(target, start, os.SEEK_SET)
        while start < stop:
            start += os.sendfile(target, source, start, min(stop - start, 1 << 28))


def every(home: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """What is kept of images for machines below this home: templates and disks; folder, and what is known of each."""
    for folder in sorted(home.glob("cache/templates/*/")) + sorted(home.glob("cache/roots/*/")):
        with contextlib.suppress(OSError, ValueError):
            yield folder, json.loads((folder / ABOUT).read_text())


def collect(home: Path) -> list[str]:
    """Removes what was left half-made, what nobody used for long, and what one of whose image's layers is gone; their names."""
    gone = list[str]()
    for lock in home.glob("cache/*/*.lock"):
        with lock.open("w") as file, contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # else somebody is making it
            half = lock.with_suffix(".half")
            if half.is_dir():
                gone.append(half.name)
                shutil.rmtree(half, ignore_errors=True)
    for made, about in every(home):
        of_use = all((home / "images" / "layers" / f"{digest}.erofs").exists() for digest in about["layers"])
        if not of_use or time.time() - made.stat().st_mtime > UNUSED_S:
            gone.append(made.name)
            shutil.rmtree(made, ignore_errors=True)
    return gone
