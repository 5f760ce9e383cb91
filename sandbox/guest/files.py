"""Files of the box for the host: read and write. Paths are resolved here, inside, where no link leads to the host.

Nor may one lead to the agent: of /proc/self, where a link may point, it would read and write its own memory and settings.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import stat
from typing import Any

from sandbox.guest.frames import MAX_PAYLOAD_BYTES

LISTED, LISTED_BYTES = 1000, 32 << 10  # entries of one answer, and what their names may have
_IPC_RMID = 0


def read(order: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """A piece of a regular file, and its whole size; a device or a pipe is refused, since reading it may never end."""
    fd = os.open(order["path"], os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(21, "Is a directory", order["path"])
        if not stat.S_ISREG(status.st_mode):
            raise OSError(22, "Not a regular file", order["path"])
        _check_not_own(fd, order["path"])
        data = os.pread(fd, min(MAX_PAYLOAD_BYTES, int(order["size"])), int(order["offset"]))
        return {"size": status.st_size, "mode": stat.S_IMODE(status.st_mode)}, data
    finally:
        os.close(fd)


def write(order: dict[str, Any], payload: bytes) -> None:
    """A piece of a file; the first one, at offset 0, makes the folders above it and empties what was there."""
    path, offset = order["path"], int(order["offset"])
    flags = os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    if not offset:
        folder = os.path.dirname(path)
        if folder:
            os.makedirs(folder, exist_ok=True)
    fd = os.open(path, flags, 0o666)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(22, "Not a regular file", path)
        _check_not_own(fd, path)
        if not offset:
            os.ftruncate(fd, 0)
        left = memoryview(payload)
        while left:
            count = os.pwrite(fd, left, offset)
            left, offset = left[count:], offset + count
        if order.get("mode") is not None:
            os.fchmod(fd, int(order["mode"]) & 0o7777)
    finally:
        os.close(fd)


def entries(folder: str, after: int) -> list[list[Any]]:
    """The next LISTED of all that is below a folder, after so many: path in it, "file", "folder" or "other", and size."""
    os.scandir(folder).close()  # os.walk says nothing of a folder that is not there
    found: list[list[Any]] = []
    number = num_bytes = 0
    for path, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted([*folders, *names]):
            number += 1
            if number <= after:
                continue
            status = os.lstat(os.path.join(path, name))
            kind = "folder" if stat.S_ISDIR(status.st_mode) else "file" if stat.S_ISREG(status.st_mode) else "other"
            inner = os.path.relpath(os.path.join(path, name), folder)
            found.append([inner, kind, status.st_size])
            num_bytes += len(inner)
            if len(found) == LISTED or num_bytes > LISTED_BYTES:
                return found
    return found


def user(name: str) -> list[int]:
    """Number and group of a user of the box, by name or number."""
    try:
        entry = pwd.getpwuid(int(name)) if name.isdigit() else pwd.getpwnam(name)
    except KeyError:
        raise ValueError(f"user: got {name!r}, which this box does not have") from None
    return [entry.pw_uid, entry.pw_gid]


def _check_not_own(fd: int, path: str) -> None:
    if os.readlink(f"/proc/self/fd/{fd}").startswith(f"/proc/{os.getpid()}/"):
        raise PermissionError(13, "Permission denied", path)


def empty(folder: str) -> None:
    """Removes all that is in this folder, however deep and whatever its permissions; used between calls of a stateless box.

    A folder in a folder is moved up before it is looked into, so no path grows and nothing recurses.
    """
    number = 0
    os.chmod(folder, 0o755)  # which may have been shut
    for name in os.listxattr(folder):
        os.removexattr(folder, name)
    while True:
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
                inner = os.path.join(path, entry)
                if os.path.isdir(inner) and not os.path.islink(inner):
                    os.chmod(inner, 0o700)  # else it could not be moved
                os.rename(inner, os.path.join(folder, f".{os.getpid()}.{number}"))
            os.rmdir(path)


def forget_ipc() -> None:
    """Removes what is kept by a key and not by a process: shared memory, semaphores and message queues of System V."""
    libc = ctypes.CDLL(None)
    for kind in ("shm", "sem", "msg"):
        with open(f"/proc/sysvipc/{kind}") as file:
            numbers = [int(line.split()[1]) for line in file.readlines()[1:]]
        for number in numbers:
            if kind == "sem":
                libc.semctl(number, 0, _IPC_RMID)
            else:
                getattr(libc, f"{kind}ctl")(number, _IPC_RMID, None)
