"""What boxes have written, on the host's side: copied, removed and compared, however deep it is and wherever its links lead."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path


def copy(source: Path, target: Path) -> None:
    """A tree with all that a file system knows of it; overlay's own marks are devices and attributes.

    Raises:
        ValueError: folders are nested deeper than paths are long. OSError: it could not be copied.
    """
    remove(target)
    done = subprocess.run(["cp", "-a", str(source), str(target)], capture_output=True, text=True, check=False)
    if done.returncode:
        remove(target)
        if "File name too long" in done.stderr:
            raise ValueError("copying a box's files: folders are nested deeper than paths are long")
        raise OSError(f"copying {source}: {done.stderr.strip()[-300:]}")


def remove(folder: Path) -> None:
    """As far as it can be; it need not be there."""
    if not folder.is_dir() or folder.is_symlink():
        folder.unlink(missing_ok=True)
        return
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except RecursionError:  # a box may nest folders deeper than Python's recursion and than any path
        subprocess.run(["rm", "-rf", "--", str(folder)], capture_output=True, check=False)


def changes(upper: Path, lower: Sequence[Path]) -> list[list[str]]:
    """What a box has written: pairs of "added", "changed" or "deleted" and a path, by path; no folders that were there.

    Raises:
        ValueError: folders are nested deeper than paths are long.
    """
    found, waiting = list[list[str]](), [upper]
    while waiting:
        folder = waiting.pop()
        try:
            paths = [Path(entry.path) for entry in os.scandir(folder)]
            statuses = [path.lstat() for path in paths]
        except OSError as error:
            raise ValueError(f"diff: {str(folder.relative_to(upper))[:100]}...: {error.strerror}") from None
        for path, status in zip(paths, statuses, strict=True):
            inner = path.relative_to(upper)
            below = any(_has(layer, inner) for layer in lower)
            if stat.S_ISDIR(status.st_mode):
                waiting.append(path)
            if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
                found.append(["deleted", f"/{inner}"])
            elif not stat.S_ISDIR(status.st_mode) or not below:
                found.append(["changed" if below else "added", f"/{inner}"])
    return sorted(found, key=lambda change: change[1])


def _has(layer: Path, inner: Path) -> bool:
    """Whether a layer has this path; no link on the way is followed, since a box may have made it lead to the host's files."""
    for part in inner.parts[:-1]:
        layer = layer / part
        if not layer.is_dir() or layer.is_symlink():
            return False
    return os.path.lexists(layer / inner.name)
