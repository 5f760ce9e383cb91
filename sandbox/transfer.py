"""Files and folders between this machine and a box, one file at a time.

What a box says of its folders is not trusted: a name that would lead out of the target is refused, links and devices are left
out, and the number and size of all files together are bounded. A folder that changes meanwhile gives what it held when asked.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from sandbox.errors import BoxLostError

MAX_FILES = 100_000


class Files(Protocol):
    """What a box can do with one file or folder."""

    async def read_file(self, path: str, *, max_bytes: int) -> bytes: ...

    async def write_file(self, path: str, data: bytes, *, mode: int | None = None) -> None: ...

    async def list_files(self, path: str) -> Sequence[tuple[str, str, int]]: ...


async def upload(box: Files, source: Path, target: str) -> None:
    """A file, or a folder with all that is below it; modes are kept, links are followed only at the top.

    Raises:
        OSError: of either side.
    """
    if not source.is_dir():
        await box.write_file(target, source.read_bytes(), mode=source.stat().st_mode & 0o777)
        return
    for folder, names, files in os.walk(source):
        names.sort()
        for name in sorted(files):
            path = Path(folder, name)
            if path.is_file() and not path.is_symlink():
                inner = PurePosixPath(target, path.relative_to(source).as_posix())
                await box.write_file(str(inner), path.read_bytes(), mode=path.stat().st_mode & 0o777)


async def download(box: Files, source: str, target: Path, max_bytes: int) -> None:
    """A file, or a folder with the files and folders below it, into `target`, which may exist.

    Raises:
        OSError: of either side. ValueError: it has more than `max_bytes` or MAX_FILES. BoxLostError: what it says is wrong.
    """
    try:
        entries = await box.list_files(source)
    except NotADirectoryError:
        data = await box.read_file(source, max_bytes=max_bytes)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        return
    target.mkdir(parents=True, exist_ok=True)
    left = max_bytes
    for name, kind, _ in entries:
        inside = _inside(target, name)
        if kind == "folder":
            inside.mkdir(parents=True, exist_ok=True)
        elif kind == "file":
            data = await box.read_file(str(PurePosixPath(source, name)), max_bytes=left)
            left -= len(data)
            inside.parent.mkdir(parents=True, exist_ok=True)
            inside.write_bytes(data)


def checked(answer: Any) -> list[tuple[str, str, int]]:
    """The entries of an agent's answer.

    Raises:
        BoxLostError: they are none.
    """
    entries = answer if isinstance(answer, list) else [answer]
    if not all(isinstance(entry, list) and [type(part) for part in entry] == [str, str, int] for entry in entries):
        raise BoxLostError("the box's agent sent what is no list of files")
    return [(name, kind, size) for name, kind, size in entries]


def _inside(target: Path, name: str) -> Path:
    """Where a file of that name goes; nothing that lies there already leads elsewhere."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or any(part in ("..", ".") or "\0" in part for part in parts):
        raise BoxLostError(f"the box's agent named a file outside of its folder: {name[:200]!r}")
    path = target
    for part in parts:
        path = path / part
        if path.is_symlink():
            raise OSError(40, "Is a symbolic link, which is not followed", str(path))
    return path
