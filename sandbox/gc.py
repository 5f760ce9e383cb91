"""Takes away what pools left whose keeper was killed: processes, control groups, folders; and templates that are of no use.

Opening a pool does so too.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from sandbox import templates, trees
from sandbox.cgroups import Cgroup, groups_of
from sandbox.keeper import LOCK_NAME
from sandbox.layers import docker

BEGUN_LIMIT_S = 60.0


def collect(home: Path) -> list[str]:
    """Cleans up after every pool below this folder whose keeper is gone; their names."""
    templates.collect(home)
    return [pool.name for pool in _dead(home / "pools") if _clean(pool)]


def _dead(pools: Path) -> Iterator[Path]:
    """A keeper holds its lock as long as it lives, however it ends; where there is none after a while, it never began."""
    for pool in sorted(pools.glob("*/")):
        with contextlib.suppress(OSError):
            if not (pool / LOCK_NAME).exists() and time.time() - pool.stat().st_mtime > BEGUN_LIMIT_S:
                yield pool
                continue
            lock = os.open(pool / LOCK_NAME, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                yield pool
            finally:
                os.close(lock)


def _clean(pool: Path) -> bool:
    if not docker.collect(pool):
        return False  # its engine does not answer: another time
    others = tuple(f"{other.name}-" for other in pool.parent.glob(f"{pool.name}-*/"))  # whose groups begin as this one's do
    for name in groups_of(pool.name):
        if not name.startswith(others):
            Cgroup(name).destroy()
    trees.remove(pool)
    return not pool.exists()
