"""The first process of a machine, once its root is there: groups for what commands use, a port for its keeper, then the agent.

The keeper's port is served by a process of its own, in no group, which commands cannot reach: it makes a cloned machine
another one (entropy, clock, name), and lists and packs what the box has written. Its orders come from the host alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import resource
import select
import signal
import struct
import sys
import time
from typing import Any

from sandbox.guest import command
from sandbox.guest.frames import Decoder, encode

ENTROPY_BYTES = 64
_RNDADDENTROPY, _RNDRESEEDCRNG = 0x40085203, 0x5207
_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Arguments: a folder of its own, limits on memory (bytes), processes and open files, the keeper's port; the agent's own.

    Where the folder has a `filter`, its commands make no other system calls than it lets through.
    """
    folder, memory_bytes, num_pids, num_files, port = sys.argv[1:6]
    del sys.argv[1:6]
    os.umask(0o022)
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(num_files), int(num_files)))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(FileNotFoundError), open(folder + "/filter", "rb") as file:
        command.call_filter = file.read()
    group = _limit(folder + "/group", memory_bytes, num_pids)
    bystander = os.fork()
    if bystander == 0:
        _serve(port, folder + "/renewal")
    _write(group + "/cgroup.procs", str(os.getpid()))
    sys.argv += ["--bystander", str(bystander), "--group", group, "--renewal", folder + "/renewal"]
    from sandbox.guest.main import main as agent

    agent()


def _limit(groups: str, memory_bytes: str, num_pids: str) -> str:
    """The group for the agent and its commands."""
    os.makedirs(groups, mode=0o700, exist_ok=True)
    if _libc.mount(b"group", groups.encode(), b"cgroup2", 14, None):  # nosuid, nodev, noexec
        raise OSError(ctypes.get_errno(), "mount cgroup2")
    _write(groups + "/cgroup.subtree_control", "+memory +pids")
    group = groups + "/box"
    os.mkdir(group)
    _write(group + "/memory.max", memory_bytes)
    _write(group + "/pids.max", num_pids)
    return group


def refused(group: str | None) -> tuple[int, int]:
    """How many processes the machine's kernel has ended for their memory, and how many it has not let begin."""
    if group is None:
        return 0, 0
    return _count(group + "/memory.events", "oom_kill"), _count(group + "/pids.events", "max")


def cause(before: tuple[int, int], after: tuple[int, int]) -> str:
    """Which limit a command ran into."""
    return "out_of_memory" if after[0] > before[0] else "pids_limit" if after[1] > before[1] else ""


def _count(path: str, name: str) -> int:
    with open(path) as file:
        return next((int(line.split()[1]) for line in file if line.split()[0] == name), 0)


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def _serve(port: str, renewal: str) -> None:
    _write("/proc/self/oom_score_adj", "-1000")
    fd = os.open(port, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    decoder = Decoder()
    while True:
        if any(events & select.POLLHUP for _, events in poll.poll()):
            time.sleep(0.01)  # nobody is there
            continue
        with contextlib.suppress(BlockingIOError):
            for order, payload in decoder.feed(os.read(fd, 1 << 16)):
                os.set_blocking(fd, True)
                _answer(fd, order, payload, renewal)
                os.set_blocking(fd, False)


def _answer(fd: int, order: dict[str, Any], payload: bytes, renewal: str) -> None:
    try:
        if order["op"] == "wake":
            wake(payload[:ENTROPY_BYTES], float(order["time"]), str(order["name"]))
            if len(payload) > ENTROPY_BYTES:
                _renew(renewal, payload[ENTROPY_BYTES:])
        _send(fd, {"type": "done", "id": order.get("id")})
    except (OSError, KeyError, ValueError) as error:
        _send(fd, {"type": "error", "id": order.get("id"), "message": f"{type(error).__name__}: {error}"})


def _send(fd: int, header: dict[str, Any], payload: bytes = b"") -> None:
    left = memoryview(encode(header, payload))
    while left:
        left = left[os.write(fd, left) :]


def wake(entropy: bytes, now: float, name: str) -> None:
    """Takes this machine apart from those that were copied from the same one: its randomness, its clock, its name."""
    pool = os.open("/dev/urandom", os.O_WRONLY | os.O_CLOEXEC)
    try:
        if entropy:
            fcntl.ioctl(pool, _RNDADDENTROPY, struct.pack("ii", 8 * len(entropy), len(entropy)) + entropy)
            fcntl.ioctl(pool, _RNDRESEEDCRNG)
    finally:
        os.close(pool)
    time.clock_settime(time.CLOCK_REALTIME, now)
    if name:
        encoded = name.encode()
        _libc.sethostname(encoded, len(encoded))


def _renew(path: str, mark: bytes) -> None:
    """Has the agent begin anew, with this mark on its stream: what comes before it was for another host."""
    with open(path, "wb") as file:
        file.write(mark)
    os.kill(os.getppid(), signal.SIGUSR1)
