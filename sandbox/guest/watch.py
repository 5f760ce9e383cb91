"""Watches one command: its limits on time, what it used, whether the disk was full, and the end of everything that it started.

A command's processes are the descendants of the process that watches it: that one is their subreaper, so whatever they fork,
in sessions of their own or not, stays below it. It does not hold in a stateless box, where the agent itself watches and ends
all processes there are; and where the kernel is gVisor's, which knows no subreapers, they are those of a group in the box.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

TICK_S = 0.1  # between two looks at what a command uses
GROUPS = "/sys/fs/cgroup/memory"  # in a box whose kernel is gVisor
KILL_LIMIT_S = 2.0  # for processes that were killed to be gone
STOP_ROUNDS = 50  # of stopping what forks, before it is killed anyway
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 4, 36, 38
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
_libc = ctypes.CDLL(None, use_errno=True)


def become_subreaper() -> bool:
    """Whether that is so: gVisor's kernel has no such thing, and there a group of the box's own is joined instead."""
    return bool(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


def group_of(number: int) -> str:
    return f"{GROUPS}/{number}"


def join_group(number: int) -> str:
    """A group for this process and all that it starts: unlike parents, groups are not lost. OSError: the box has none."""
    group = group_of(number)
    os.mkdir(group)
    with open(f"{group}/cgroup.procs", "w") as file:
        file.write(str(os.getpid()))
    return group


def members(group: str) -> list[int]:
    """The processes in a group; none where there is no such group."""
    try:
        with open(f"{group}/cgroup.procs") as file:
            return [int(line) for line in file]
    except OSError:
        return []


def child_ends() -> tuple[int, int]:
    """A pipe that has something to read whenever a child of this process ends; both of its descriptors."""
    pipe = os.pipe()
    for fd in pipe:
        os.set_blocking(fd, False)
    signal.set_wakeup_fd(pipe[1], warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return pipe


def hide_from_peers() -> None:
    """No process of the same user may read this one's memory or trace it."""
    _prctl(_PR_SET_DUMPABLE, 0)


def allow_no_new_privileges() -> None:
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def die_with_parent() -> None:
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@contextlib.contextmanager
def acting_as(user: list[int] | None) -> Iterator[None]:
    """Files are opened and made with this user's rights meanwhile, and are this user's."""
    if user is None:
        yield
        return
    uid, gid = os.geteuid(), os.getegid()
    os.setegid(user[1])
    os.seteuid(user[0])  # takes the rights over all files away too, those in /proc as well, which `setfsuid` does not
    try:
        yield
    finally:
        os.seteuid(uid)
        os.setegid(gid)


def filter_calls(program: bytes) -> None:
    """Which system calls this process and what it starts may make: an array of `struct sock_filter`, host's order."""
    code = ctypes.create_string_buffer(program, len(program))
    filters = _Filters(len(program) // 8, ctypes.cast(code, ctypes.c_void_p))
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(filters))


class _Filters(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))


def _prctl(option: int, value: int, pointer: int = 0) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), ctypes.c_void_p(pointer), ctypes.c_ulong(0), ctypes.c_ulong(0)):
        raise OSError(ctypes.get_errno(), f"prctl {option}")


class Watch:
    """One command from its start to its end: `tick` it whenever the main process ends, and every TICK_S."""

    def __init__(self, pid: int, limits: dict[str, Any], stateless: bool, group: str | None = None) -> None:
        self.pid, self.stateless, self._group = pid, stateless, group
        self.cause = ""  # a verdict, where a limit ended it
        self.status: int | None = None
        self.start, self._began = time.monotonic(), time.time()
        self._wall_s, self._cpu_s = limits.get("wall_s"), limits.get("cpu_s")
        self._disk = limits.get("disk")
        self._ended_cpu_s = self._most_cpu_s = 0.0
        self._max_rss_bytes = 0
        self._waited_s: float | None = None
        self._disk_full = False

    @property
    def wait_s(self) -> float:
        """Until the next look."""
        left = TICK_S if self._wall_s is None else self.start + self._wall_s - time.monotonic()
        return max(0.0, min(TICK_S, left))

    def tick(self) -> None:
        """Notes whether the main process has ended, and ends it, and all that it started, where it used too much."""
        self.reap()
        if self.status is None:
            now = time.monotonic()
            if self._wall_s is not None and now - self.start >= self._wall_s:
                self._waited_s = waited_s(self._family())
                self.end("wall_timeout")
            elif self._cpu_s is not None and now - self.start >= self._cpu_s and self.cpu_s() >= self._cpu_s:
                self.end("cpu_timeout")
        self._disk_full = self._disk_full or self._is_disk_full()

    def reap(self) -> None:
        """Collects whatever has ended; the main process's status is kept."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status, used = os.wait4(-1, os.WNOHANG)
                if not pid:
                    return
                self._ended_cpu_s += used.ru_utime + used.ru_stime
                self._max_rss_bytes = max(self._max_rss_bytes, used.ru_maxrss * 1024)
                if pid == self.pid:
                    self.status = status

    def end(self, cause: str) -> None:
        """Kills everything that the command started; a command that had ended by itself keeps its own end."""
        if not self.cause:
            self.cause = cause
        deadline = time.monotonic() + KILL_LIMIT_S
        while self.kill_once() and time.monotonic() < deadline:
            self.reap()
            time.sleep(0.001)
        self.reap()

    def kill_once(self) -> bool:
        """Sends SIGKILL to all of them; whether there were any."""
        if self.stateless:
            try:
                os.kill(-1, signal.SIGKILL)
            except ProcessLookupError:
                return False
            return True
        return stop_and_kill(self._family)

    def _family(self) -> list[int]:
        """All that the command has started."""
        own = os.getpid()
        return descendants(own) if self._group is None else [pid for pid in members(self._group) if pid != own]

    def cpu_s(self) -> float:
        """Processor time of what has ended and of what is running."""
        used = self._ended_cpu_s
        for pid in self._family() if self.status is None else []:
            fields = stat_fields(pid)
            if fields:  # utime, stime, and those of the children that it has waited for
                used += sum(int(field) for field in fields[11:15]) / _CLOCK_TICKS
        self._most_cpu_s = max(self._most_cpu_s, used)  # what has ended as another's child is in it no more
        return self._most_cpu_s

    def facts(self) -> dict[str, Any]:
        """What the host makes a result of."""
        assert self.status is not None, "it has ended"
        return {
            "status": self.status,
            "cause": self.cause or ("disk_full" if self._disk_full or self._is_disk_full() else ""),
            "wall_s": time.monotonic() - self.start,
            "cpu_s": self.cpu_s(),
            "max_rss_bytes": self._max_rss_bytes,
            "waited_s": self._waited_s,
            "span": [self._began, time.time()],
        }

    def _is_disk_full(self) -> bool:
        if not self._disk:
            return False
        try:
            free = os.statvfs(self._disk)
        except OSError:
            return False
        return free.f_bavail == 0 or (free.f_files > 0 and free.f_favail == 0)  # some count no files


def stat_fields(pid: int) -> list[str]:
    """What /proc says after the name of the process: state, parent, ..., nothing where it is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            text = file.read()
    except OSError:
        return []
    return text[text.rindex(")") + 2 :].split()  # a name may hold spaces and brackets


def waited_s(pids: list[int]) -> float | None:
    """How long these processes, which could run, have waited for a processor; None where the kernel does not tell."""
    waited = 0
    for pid in pids:
        try:
            for task in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{task}/schedstat") as file:
                    waited += int(file.read().split()[1])
        except (FileNotFoundError, ProcessLookupError):
            if os.path.exists(f"/proc/{pid}"):
                return None
    return waited / 1e9


def _send(number: int, pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def stop_and_kill(find: Callable[[], list[int]]) -> bool:
    """Sends SIGKILL to the processes that are found, once no new ones are; whether there were any."""
    family, known = find(), list[int]()
    for _ in range(STOP_ROUNDS):  # what is stopped cannot fork, and keeps its place from what would
        if family == known:
            break
        _send(signal.SIGSTOP, family)
        family, known = find(), family
    _send(signal.SIGKILL, family)
    return bool(family)


def children(root: int) -> list[int]:
    """The living children of a process."""
    return _families().get(root, [])


def descendants(root: int, *, zombies: bool = False) -> list[int]:
    """Every process below `root`, parents before their children; `zombies`: those too that nobody has waited for."""
    families = _families(zombies=zombies)
    found, waiting = [], [root]
    while waiting:
        below = families.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def _families(*, zombies: bool = False) -> dict[int, list[int]]:
    families: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        fields = stat_fields(int(name)) if name.isdigit() else []
        if fields and (zombies or fields[0] != "Z"):
            families.setdefault(int(fields[1]), []).append(int(name))
    return families
