"""Starts QEMU as nobody in namespaces of its own, and speaks QMP with it over a socket that it was started with.

It is started for one box: an unprivileged user that no other box has, no capabilities, no network, no files but the system's
programs, QEMU's own system call filter and ours. All else that it needs are open descriptors. What it says is not trusted.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import shutil
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sandbox import bwrap, seccomp
from sandbox.cgroups import Cgroup
from sandbox.errors import BoxLostError, BoxUnavailableError, UnsupportedError
from sandbox.spec import Limits

PROGRAM = "qemu-system-x86_64"
NEEDS = "apt-get install qemu-system-x86 qemu-utils seabios bubblewrap"
OVERHEAD_BYTES = 128 << 20  # of the emulator beside the machine's memory; 64 MiB of that are translated code
NUM_THREADS = 96  # it reads disks with up to 64
MAX_LINE_BYTES = 1 << 20
ANSWER_LIMIT_S = 20.0
STOP_LIMIT_S = 5.0
POLL_S = 0.002
FILES = ("/etc/ld.so.cache", "/etc/alternatives")  # that it sees beside the system's folders


def program() -> str:
    """Where QEMU is.

    Raises:
        UnsupportedError: it, or what confines it, is missing; says how to install it.
    """
    found = shutil.which(PROGRAM)
    if found is None or shutil.which("bwrap") is None or shutil.which("setpriv") is None:
        raise UnsupportedError(f"machines need QEMU and bubblewrap: {NEEDS}")
    return found


class Descriptors:
    """Open files that a machine is started with; `close` when it has been."""

    def __init__(self) -> None:
        self.all = list[int]()

    def open(self, path: Path, flags: int = os.O_RDONLY) -> int:
        return self.take(os.open(path, flags | os.O_CLOEXEC))

    def take(self, fd: int) -> int:
        self.all.append(fd)
        return fd

    def close(self) -> None:
        for fd in self.all:
            os.close(fd)
        self.all.clear()


def file_words(given: Descriptors, path: Path, name: str, *, writable: bool = False) -> list[str]:
    """Words for a file as a node of QEMU's disks; it is opened here."""
    fd = given.open(path, os.O_RDWR if writable else os.O_RDONLY)
    only, flushed = ("off", ",cache.no-flush=on") if writable else ("on", "")  # nothing of a box outlives its machine
    node = f"driver=file,filename=/dev/fdset/{fd},read-only={only},locking=off,node-name={name}{flushed}"
    return ["-add-fd", f"fd={fd},set={fd}", "-blockdev", node]


class Qmp:
    """QEMU's own protocol: one order at a time, and its answer; events are left unread, but for those that are waited for."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        stream.setblocking(False)
        self._buffer = bytearray()
        self._lock = asyncio.Lock()

    async def greet(self) -> None:
        await self._line()
        await self.tell("qmp_capabilities")

    async def tell(self, order: str, words: Mapping[str, Any] | None = None, *, fd: int | None = None) -> Any:
        """What it answers; `fd` goes with the order.

        Raises:
            BoxUnavailableError: it says that it cannot. BoxLostError: it does not answer.
        """
        text = json.dumps({"execute": order, "arguments": dict(words or {})}).encode() + b"\n"
        try:
            async with self._lock, asyncio.timeout(ANSWER_LIMIT_S):
                if fd is not None:
                    socket.send_fds(self._stream, [text], [fd])  # so little always fits
                else:
                    await asyncio.get_running_loop().sock_sendall(self._stream, text)
                while True:
                    said = await self._line()
                    if "error" in said:
                        raise BoxUnavailableError(f"QEMU, {order}: {str(said['error'])[:500]}")
                    if "return" in said:
                        return said["return"]
        except (TimeoutError, OSError, ValueError) as error:
            raise BoxLostError(f"QEMU does not answer `{order}`: {error}") from error

    async def _line(self) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            data = await asyncio.get_running_loop().sock_recv(self._stream, 1 << 16)
            if not data or len(self._buffer) > MAX_LINE_BYTES:
                raise ConnectionResetError("its end" if not data else "a line without end")
            self._buffer += data
        line, _, rest = bytes(self._buffer).partition(b"\n")
        self._buffer = bytearray(rest)
        said = json.loads(line)
        return said if isinstance(said, dict) else {}

    async def until(self, order: str, field: str, wanted: str, failed: Sequence[str]) -> None:
        """Asks again and again until a field of the answer is as wanted.

        Raises:
            BoxUnavailableError: it is one of `failed`.
        """
        while True:
            said = await self.tell(order)
            state = said.get(field) if isinstance(said, dict) else None
            if state == wanted:
                return
            if state in failed:
                raise BoxUnavailableError(f"QEMU, {order}: {str(said)[:500]}")
            await asyncio.sleep(POLL_S)

    def close(self) -> None:
        self._stream.close()


@dataclass(frozen=True)
class Emulator:
    """A started QEMU."""

    process: asyncio.subprocess.Process
    qmp: Qmp
    cgroup: Cgroup

    async def stop(self) -> None:
        await self.qmp.tell("stop")

    async def go_on(self) -> None:
        await self.qmp.tell("cont")

    async def save(self, path: Path, *, without_memory: bool) -> None:
        """Writes the stopped machine's state; memory that is shared is in its file already, and is left out if so asked."""
        await self._leave_memory_out(without_memory)
        with path.open("wb") as file:
            await self.qmp.tell("getfd", {"fdname": "state"}, fd=file.fileno())
            await self.qmp.tell("migrate", {"uri": "fd:state"})
            await self.qmp.until("query-migrate", "status", "completed", ("failed", "cancelled"))

    async def load(self, path: Path, *, without_memory: bool) -> None:
        """Gives a machine that was started to wait for it its state; it runs then."""
        await self._leave_memory_out(without_memory)
        with path.open("rb") as file:
            await self.qmp.tell("getfd", {"fdname": "state"}, fd=file.fileno())
            await self.qmp.tell("migrate-incoming", {"uri": "fd:state"})
            await self.qmp.until("query-migrate", "status", "completed", ("failed", "cancelled"))
        await self.go_on()  # it was saved while it stood still

    async def _leave_memory_out(self, left_out: bool) -> None:
        wanted = [{"capability": "x-ignore-shared", "state": left_out}]
        await self.qmp.tell("migrate-set-capabilities", {"capabilities": wanted})
        await self.qmp.tell("migrate-set-parameters", {"max-bandwidth": 1 << 40})

    async def end(self) -> None:
        """Ends it; returns when it is gone."""
        self.qmp.close()
        await asyncio.to_thread(self.cgroup.kill)
        try:
            async with asyncio.timeout(STOP_LIMIT_S):
                await self.process.wait()
        except TimeoutError:
            raise BoxUnavailableError(f"QEMU, process {self.process.pid}, could not be ended") from None
        await asyncio.to_thread(self.cgroup.destroy)


async def start(
    words: Sequence[str],
    descriptors: Sequence[int],
    *,
    number: int,
    cgroup: Cgroup,
    limits: Limits,
    said: Path,
    file_bytes: int,
) -> Emulator:
    """Starts QEMU with these words, which may name the descriptors, for the box of this number.

    Args:
        limits: of the machine; the group gets these and the emulator's own need. said: the file that takes what it prints.
        file_bytes: the largest file that it may write.
    """
    cgroup.create(replace(limits, memory_bytes=limits.memory_bytes + OVERHEAD_BYTES, num_pids=NUM_THREADS))
    ours, its = socket.socketpair()
    rules = bwrap.in_memory(seccomp.program())
    all_words = [
        program(), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        "-chardev", f"socket,id=qmp,fd={its.fileno()}", "-mon", "chardev=qmp,mode=control", *words,
    ]  # fmt: skip
    try:
        with said.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *_confined(number, rules), *all_words, stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output,
                pass_fds=(its.fileno(), rules, *descriptors), env={}, preexec_fn=_before(cgroup, file_bytes),
            )  # fmt: skip
    finally:
        its.close()
        os.close(rules)
    emulator = Emulator(process, Qmp(ours), cgroup)
    try:
        async with asyncio.timeout(ANSWER_LIMIT_S):
            await emulator.qmp.greet()
    except BaseException as error:
        with contextlib.suppress(BoxUnavailableError):
            await emulator.end()
        if isinstance(error, BoxLostError | OSError | ValueError):  # a TimeoutError is an OSError
            text = said.read_text(errors="replace").strip()[-500:]
            raise BoxUnavailableError(f"QEMU did not start: {text or error}") from error
        raise
    return emulator


def _confined(number: int, rules: int) -> list[str]:
    words = [*bwrap.as_user_of(number), "bwrap", *bwrap.ALONE, *bwrap.shown((*bwrap.FOLDERS, *FILES))]
    words += ["--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev", "--remount-ro", "/"]
    return [*words, "--cap-drop", "ALL", "--hostname", "box", "--seccomp", str(rules), "--clearenv", "--chdir", "/", "--"]


def _before(cgroup: Cgroup, file_bytes: int) -> Callable[[], None]:
    """Runs in the forked process, before all else."""

    def enter() -> None:
        cgroup.add(os.getpid())
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    return enter
