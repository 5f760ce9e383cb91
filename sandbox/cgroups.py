"""Control groups for boxes, version 1 or 2, whichever this machine has and lets us write; none is an answer too.

A box's processes are in one group for each controller: limits on memory, processes and processor time, counters of what was
refused, and a kill that nothing in the group can outrun.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sandbox.spec import Limits

ROOT = Path("/sys/fs/cgroup")
PERIOD_US = 100_000
KILL_LIMIT_S = 5.0
FREEZE_LIMIT_S = 5.0
FREEZE_AGAIN_S = 0.05
_V1 = ("memory", "pids", "cpu", "freezer")


@dataclass(frozen=True)
class Counters:
    """What the kernel has refused or ended in a group since it was made."""

    num_oom_kills: int = 0
    num_refused_forks: int = 0


def version() -> int:
    """2 or 1, or 0 where this process may not make groups."""
    if (ROOT / "cgroup.controllers").exists():
        names = (ROOT / "cgroup.controllers").read_text().split()
        return 2 if {"memory", "pids"} <= set(names) and os.access(ROOT, os.W_OK) else 0
    return 1 if all(os.access(ROOT / name, os.W_OK) and (ROOT / name / "tasks").exists() for name in ("memory", "pids")) else 0


def groups_of(pool: str) -> list[str]:
    """The names of the groups that boxes of this pool have on this machine."""
    return sorted({path.name for path in ROOT.glob(f"*/polymath/{pool}-*")} | {p.name for p in ROOT.glob(f"polymath/{pool}-*")})


class Cgroup:
    """One box's groups, named `polymath/<name>` below every controller; or with a path from / where an engine has made them."""

    def __init__(self, name: str) -> None:
        self.name, self.version = name, version()
        controllers = _V1 if self.version == 1 else ("",) if self.version == 2 else ()
        below = name[1:] if name.startswith("/") else f"polymath/{name}"
        self.folders = {c: ROOT / c / below for c in controllers if (ROOT / c).is_dir()}

    def create(self, limits: Limits) -> None:
        """Make the groups and set the limits; what a kernel does not offer (swap accounting, for one) is left out."""
        for controller, folder in self.folders.items():
            folder.mkdir(parents=True, exist_ok=True)
            if controller == "":
                for parent in (ROOT, folder.parent):
                    with contextlib.suppress(OSError):
                        (parent / "cgroup.subtree_control").write_text("+memory +pids +cpu")
        quota = int(limits.cpus * PERIOD_US)
        if self.version == 1:
            self._set("memory", "memory.limit_in_bytes", limits.memory_bytes)
            self._set("memory", "memory.memsw.limit_in_bytes", limits.memory_bytes)
            self._set("pids", "pids.max", limits.num_pids)
            self._set("cpu", "cpu.cfs_period_us", PERIOD_US)
            self._set("cpu", "cpu.cfs_quota_us", quota)
        elif self.version == 2:
            self._set("", "memory.max", limits.memory_bytes)
            self._set("", "memory.swap.max", 0)
            self._set("", "pids.max", limits.num_pids)
            self._set("", "cpu.max", f"{quota} {PERIOD_US}")

    def add(self, pid: int) -> None:
        for folder in self.folders.values():
            (folder / "cgroup.procs").write_text(str(pid))

    def counters(self) -> Counters:
        if self.version == 1:
            oom, pids = self._fields("memory", "memory.oom_control"), self._fields("pids", "pids.events")
        else:
            oom, pids = self._fields("", "memory.events"), self._fields("", "pids.events")
        return Counters(oom.get("oom_kill", 0), pids.get("max", 0))

    def memory_bytes(self) -> int:
        """In use now, page cache included."""
        name = "memory.usage_in_bytes" if self.version == 1 else "memory.current"
        return next((int((f / name).read_text()) for f in self.folders.values() if (f / name).exists()), 0)

    def freeze(self, frozen: bool) -> None:
        """Stops everything in the group, or lets it go on; returns when that is so.

        Raises:
            TimeoutError: it is not, after seconds: something in it is in the kernel's hands.
        """
        deadline = time.monotonic() + FREEZE_LIMIT_S
        again = time.monotonic() + FREEZE_AGAIN_S
        if self.version == 1:
            state = "FROZEN" if frozen else "THAWED"
            self._set("freezer", "freezer.state", state)
            file, reached = self.folders["freezer"] / "freezer.state", f"{state}\n"
        else:
            self._set("", "cgroup.freeze", int(frozen))
            file, reached = self.folders[""] / "cgroup.events", f"frozen {int(frozen)}\n"
        while reached not in file.read_text():
            if time.monotonic() > deadline:
                raise TimeoutError(f"box {self.name} does not {'stop' if frozen else 'go on'} within {FREEZE_LIMIT_S:.0f} s")
            if frozen and self.version == 1 and time.monotonic() > again:
                self._set("freezer", "freezer.state", "THAWED")  # one that was traced just then is stopped at another try
                self._set("freezer", "freezer.state", "FROZEN")
                again += FREEZE_AGAIN_S
            time.sleep(0.001)

    def processes(self) -> Iterator[int]:
        for folder in self.folders.values():
            with contextlib.suppress(OSError):
                yield from (int(line) for line in (folder / "cgroup.procs").read_text().split())

    def kill(self) -> None:
        """Ends all that is in the groups."""
        with contextlib.suppress(OSError):
            self.freeze(True)  # what is stopped does not fork while the others are killed
        deadline = time.monotonic() + KILL_LIMIT_S
        while (pids := set(self.processes())) and time.monotonic() < deadline:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(OSError):
                self.freeze(False)
            time.sleep(0.002)

    def destroy(self) -> None:
        """Ends all that is in the groups, and removes them."""
        self.kill()
        for folder in self.folders.values():
            with contextlib.suppress(OSError):
                for inner in sorted((p for p in folder.rglob("*") if p.is_dir()), reverse=True):
                    inner.rmdir()
                folder.rmdir()

    def _set(self, controller: str, name: str, value: int | str) -> None:
        folder = self.folders.get(controller)
        if folder is not None:
            with contextlib.suppress(FileNotFoundError, PermissionError):
                (folder / name).write_text(str(value))

    def _fields(self, controller: str, name: str) -> dict[str, int]:
        folder = self.folders.get(controller)
        if folder is None:
            return {}
        with contextlib.suppress(OSError):
            lines = (line.split() for line in (folder / name).read_text().splitlines())
            return {line[0]: int(line[1]) for line in lines if len(line) == 2 and line[1].isdigit()}
        return {}
