"""What bubblewrap is told, for function boxes and for emulators alike: whose rights are dropped, and the system's files."""

from __future__ import annotations

import os
from collections.abc import Sequence

FIRST_UID = 200_000  # of boxes that root starts: one user each, which owns nothing on the host
FOLDERS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")  # links on most systems
ALONE = ("--unshare-user", "--unshare-all", "--as-pid-1", "--die-with-parent", "--new-session")


def as_user_of(number: int) -> list[str]:
    """Words to put before a command, so that it is run by the user of the box of this number, with no rights but that one's."""
    user = str(FIRST_UID + number)
    return ["setpriv", "--reuid", user, "--regid", user, "--clear-groups", "--no-new-privs", "--bounding-set=-all", "--"]


def shown(paths: Sequence[str]) -> list[str]:
    """Words that show these paths of the host, as far as there are such, read-only and where they are."""
    words = list[str]()
    for path in paths:
        if os.path.islink(path):
            words += ["--symlink", os.readlink(path), path]
        elif os.path.exists(path):
            words += ["--ro-bind", path, path]
    return words


def in_memory(data: bytes) -> int:
    """A descriptor to read this from, which the caller closes; at most 2 GiB."""
    fd = os.memfd_create("box")
    os.write(fd, data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
