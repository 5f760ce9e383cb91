"""Files of the box for the host: read and write. Paths are resolved here, inside, where no link leads to the host."""

from __future__ import annotations

import contextlib
import os
import stat
from typing import Any

READ_BYTES = 1 << 20


def read(order: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """A piece of a regular file, and its whole size; a device or a pipe is refused, since reading it may never end."""
    fd = os.open(order["path"], os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(21, "Is a directory", order["path"])
        if not stat.S_ISREG(status.st_mode):
            raise OSError(22, "Not a regular file", order["path"])
        data = os.pread(fd, min(READ_BYTES, int(order["size"])), int(order["offset"]))
        return {"size": status.st_size, "mode": stat.S_IMODE(status.st_mode)}, data
    finally:
        os.close(fd)


def write(order: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
    """A piece of a file; the first one, at offset 0, makes the folders above it and empties what was there."""
    path, offset = order["path"], int(order["offset"])
    flags = os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    if not offset:
        flags |= os.O_TRUNC
        folder = os.path.dirname(path)
        if folder:
            os.makedirs(folder, exist_ok=True)
    fd = os.open(path, flags, 0o666)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(22, "Not a regular file", path)
        left = memoryview(payload)
        while left:
            count = os.pwrite(fd, left, offset)
            left, offset = left[count:], offset + count
        if order.get("mode") is not None:
            os.fchmod(fd, int(order["mode"]) & 0o7777)
    finally:
        os.close(fd)
    return {}, b""


def empty(folder: str) -> None:
    """Removes all that is in this folder, however deep and whatever its permissions; used between calls of a stateless box.

    A folder in a folder is moved up before it is looked into, so no path grows and nothing recurses.
    """
    number = 0
    while True:
        with contextlib.suppress(OSError):
            names = os.listdir(folder)
        if not names:
            return
        for name in names:
            path = os.path.join(folder, name)
            if not os.path.isdir(path) or os.path.islink(path):
                os.unlink(path)
                continue
            os.chmod(path, 0o700)
            for entry in os.listdir(path):
                number += 1
                os.rename(os.path.join(path, entry), os.path.join(folder, f".{os.getpid()}.{number}"))
            os.rmdir(path)
