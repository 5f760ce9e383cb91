"""Runs a program in its box: a process for each test, watched from beside it, and tells what came of each as data.

Its source is sent into the box with `rewards.code.program`: standard library alone, Python 3.10 or newer. Nothing here
knows what is expected, and nothing that it says is trusted: a program can at most have other values taken for its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
import types
from typing import Any

from rewards.code.program import begin, failed, shown

LOOK_S = 0.1  # between two looks at what a test uses
MAX_REPLY_BYTES = 4 << 20  # after which the tests that are left wait for another call
KILL_LIMIT_S = 5.0
SCRATCH = ("/tmp", "/dev/shm")
PACKAGES = ("/usr/local/lib/{}/dist-packages", "/usr/lib/python3/dist-packages")


def run(order: dict[str, Any]) -> list[dict[str, Any]]:
    """Runs the items of an order, in turn, each in a process of its own; what came of them, as far as it went.

    An order has `kind`: "call" (items: arguments and named arguments), "session" (one item: operations in one process) or
    "stdin" (items: texts); `prelude` and `program`, run in turn; `entry_point`; the limits `cpu_s`, `idle_s`, `memory_bytes`
    and `output_bytes` of one item (of one operation of a session); `until_s` for all; `stop`:
    at the first whose status is not in `good`.
    """
    if "sandbox.guest.roster" not in sys.modules:  # it ends every process that it can
        raise RuntimeError("this is not the agent of a box")
    try:
        parts = [(name, order[name]) for name in ("prelude", "program") if order[name]]
        codes = [compile(text, f"<{name}>", "exec", dont_inherit=True) for name, text in parts]
    except (SyntaxError, ValueError, MemoryError, RecursionError, OverflowError) as error:
        return [failed("compile_error", shown(error))]
    beside = _Beside(order)
    told: list[dict[str, Any]] = []
    end, size = time.monotonic() + order["until_s"], 0
    for item in order["items"]:
        found = beside.run(codes, item)
        told += found
        size += sum(len(o.get("value") or "") + len(o.get("output") or "") for o in found)
        if order["stop"] and told[-1]["status"] not in order["good"]:
            break
        if size > MAX_REPLY_BYTES or time.monotonic() > end:
            break
    return told


class _Beside:
    """Starts the process of an item, watches it, ends all that it has started, and removes the files that it has left."""

    def __init__(self, order: dict[str, Any]) -> None:
        self._order = order
        self._known = _pids()
        self._woken, wakes = os.pipe()
        for fd in (self._woken, wakes):
            os.set_blocking(fd, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
        sys.path[0] = "/tmp"
        version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        for folder in (f"{sys.prefix}/lib/{version}/site-packages", *(form.format(version) for form in PACKAGES)):
            if os.path.isdir(folder) and folder not in sys.path:  # as at an interpreter's start; the box's agent has none
                sys.path.append(folder)

    def run(self, codes: list[types.CodeType], item: Any) -> list[dict[str, Any]]:
        is_text = self._order["kind"] == "stdin"
        stdin = os.memfd_create("stdin") if is_text else os.open(os.devnull, os.O_RDONLY)
        stdout = os.memfd_create("stdout") if is_text else os.open(os.devnull, os.O_WRONLY)
        if is_text:
            data = memoryview(item.encode("utf-8", "surrogateescape"))
            while data:
                data = data[os.write(stdin, data) :]
            os.lseek(stdin, 0, os.SEEK_SET)
        told, tells = os.pipe()
        pid = os.fork()
        if pid == 0:
            begin(self._order, codes, item, stdin, stdout, tells)
        for fd in (stdin, tells):
            os.close(fd)
        try:
            watch = _Watch(self._order, self._known, pid, told, self._woken)
            watch.to_the_end()
            self._sweep()
            return (
                [_output(self._order, watch, stdout)]
                if is_text
                else _told(watch, 1 if self._order["kind"] == "call" else len(item))
            )
        finally:
            os.close(stdout)
            os.close(told)

    def _sweep(self) -> None:
        """All processes that are left, and all files."""
        deadline = time.monotonic() + KILL_LIMIT_S
        while time.monotonic() < deadline:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(-1, signal.SIGKILL)  # all but this one, the box's first, and other users'
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            if not any(_lives(pid) for pid in _pids() - self._known):
                break
            time.sleep(0.001)
        for folder in SCRATCH:
            _empty(folder)


class _Watch:
    """One process and all that it starts: what it tells, and its end when it has used more than it may."""

    def __init__(self, order: dict[str, Any], known: set[int], pid: int, told: int, woken: int) -> None:
        self._order, self._known, self._pid, self._told, self._woken = order, known, pid, told, woken
        self.text = bytearray()
        self.cause = self.reason = ""
        self.status = 0
        self.cpu_s, self.max_rss_bytes = 0.0, 0
        self._since = (time.monotonic(), 0.0, 0.0)  # when the step began: wall, processor, waiting for one
        self._is_new = False  # the step has begun since the last look

    def to_the_end(self) -> None:
        poll = select.poll()
        poll.register(self._told, select.POLLIN)
        poll.register(self._woken, select.POLLIN)
        os.set_blocking(self._told, False)
        seen = time.monotonic()
        while not self.cause:
            for fd, _ in poll.poll(LOOK_S * 1000):
                if fd == self._told and not self._take():
                    poll.unregister(self._told)
                elif fd == self._woken:
                    os.read(self._woken, 4096)
            if self._has_ended():
                return
            if time.monotonic() - seen > LOOK_S:
                self._look()
                seen = time.monotonic()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        self._has_ended(0)

    def _take(self) -> bool:
        """Reads what there is; whether there may be more."""
        try:
            data = os.read(self._told, 1 << 16)
        except BlockingIOError:
            return True
        self._is_new = self._is_new or b"\n" in data
        self.text += data
        if len(self.text) > 4 * (self._order["output_bytes"] + MAX_REPLY_BYTES):
            self._stop("output_limit", "it gave more than it may")
        return bool(data)

    def _has_ended(self, flags: int = os.WNOHANG) -> bool:
        pid, self.status, used = os.wait4(self._pid, flags)
        if not pid:
            return False
        self.cpu_s, self.max_rss_bytes = used.ru_utime + used.ru_stime, used.ru_maxrss * 1024
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._told, 1 << 16):
                self.text += data
        return True

    def _look(self) -> None:
        cpu_s, delay_s = _used(_pids() - self._known)
        if self._is_new:
            self._since, self._is_new = (time.monotonic(), cpu_s, delay_s or 0.0), False
        began, cpu_before, delay_before = self._since
        cpu_s = cpu_s - cpu_before
        idle_s = 0.0 if delay_s is None else time.monotonic() - began - cpu_s - (delay_s - delay_before)
        if cpu_s > self._order["cpu_s"]:
            self._stop("timeout", f"it took more than {self._order['cpu_s']:g} s of processor time")
        elif idle_s > self._order["idle_s"]:
            self._stop("timeout", f"it waited for more than {self._order['idle_s']:g} s")

    def _stop(self, cause: str, reason: str) -> None:
        self.cause, self.reason = cause, reason

    def how_it_ended(self) -> dict[str, Any]:
        """Of a process that has not told it."""
        order = self._order
        if self.cause:
            return failed(self.cause, self.reason)
        if not os.WIFSIGNALED(self.status):
            return failed("runtime_error", f"it ended its process with exit code {os.WEXITSTATUS(self.status)}")
        number = os.WTERMSIG(self.status)
        if number == signal.SIGXCPU or (number == signal.SIGKILL and self.cpu_s >= order["cpu_s"]):
            return failed("timeout", f"it took more than {order['cpu_s']:g} s of processor time")
        if number == signal.SIGXFSZ:
            return failed("output_limit", "it wrote more than it may")
        if number in (signal.SIGKILL, signal.SIGSEGV) and self.max_rss_bytes > 0.5 * order["memory_bytes"]:
            return failed("out_of_memory", f"it was ended by signal {number} with {self.max_rss_bytes} bytes of memory")
        return failed("runtime_error", f"it was ended by signal {number}")


def _told(watch: _Watch, count: int) -> list[dict[str, Any]]:
    """What the process has told, at most so many; and how it ended, where that is less."""
    found = []
    for line in bytes(watch.text).split(b"\n")[:-1][:count]:
        try:
            outcome = json.loads(line)
        except (ValueError, RecursionError):
            outcome = None
        found.append(
            outcome if isinstance(outcome, dict) and "status" in outcome else failed("runtime_error", "it told nonsense")
        )
    if len(found) < count and not (found and found[-1].get("last")):
        found.append(watch.how_it_ended())
    return found


def _output(order: dict[str, Any], watch: _Watch, stdout: int) -> dict[str, Any]:
    size = os.fstat(stdout).st_size
    if size > order["output_bytes"]:
        return failed("output_limit", f"it wrote more than {order['output_bytes']} bytes")
    if watch.cause or watch.status:
        return _told(watch, 1)[0]
    return {"status": "output", "output": os.pread(stdout, size, 0).decode("utf-8", "replace")}


def _empty(folder: str) -> None:
    """Deletes all that is in a folder, as far as it can be."""
    for path, folders, files in os.walk(folder, topdown=False):
        for name in files:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(path, name))
        for name in folders:
            with contextlib.suppress(OSError):
                inner = os.path.join(path, name)
                os.unlink(inner) if os.path.islink(inner) else os.rmdir(inner)


def _pids() -> set[int]:
    return {int(name) for name in os.listdir("/proc") if name.isdigit()} - {os.getpid()}


def _lives(pid: int) -> bool:
    fields = _stat(pid)
    return bool(fields) and fields[0] not in ("Z", "X")


def _stat(pid: int) -> list[str]:
    """What /proc says after the name: state, parent, ...; nothing of a process that is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            text = file.read()
    except OSError:
        return []
    return text[text.rindex(")") + 2 :].split()


def _used(pids: set[int]) -> tuple[float, float | None]:
    """Seconds of processor time, and of waiting for a processor, which is no fault of theirs: None where nobody can tell."""
    ran = waited = ticks = 0
    is_told = True
    for pid in pids:
        fields = _stat(pid)
        ticks += sum(map(int, fields[13:15]))  # of children that have ended
        try:
            for task in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{task}/schedstat") as file:
                    mine = file.read().split()
                ran, waited = ran + int(mine[0]), waited + int(mine[1])
        except OSError:  # it has just ended, or this kernel has no such file
            if _lives(pid):
                is_told, ticks = False, ticks + sum(map(int, fields[11:13]))
    return ran / 1e9 + ticks / os.sysconf("SC_CLK_TCK"), waited / 1e9 if is_told else None
