"""Starts one command with its streams, and what runs between the fork and the program: limits, user, folder, descriptors.

With a terminal it has one stream, the terminal's, which is also where its input is written.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import struct
import sys
import termios
import traceback
from typing import Any, NoReturn

from sandbox.guest import watch
from sandbox.guest.capture import Capture

VALUE_BYTES = 8 << 20  # of JSON that a called function may return
COULD_NOT_START = 125  # the exit code of a command that never began; its reason is on stderr


class Command:
    """A running command: its streams by descriptor, and the socket to its supervisor.

    `streams` holds what was captured: 1 and 2 are stdout and stderr, 3 is the value that a called function returned. The
    supervisor tells its end on `control_fd`, takes orders there as long as anything that the command started is left, and
    then closes it.
    """

    def __init__(self, number: int, order: dict[str, Any], stdin: int | None, stateless: bool) -> None:
        self.number = number
        self.live = bool(order.get("live"))
        self.output_bytes = int(order.get("output_bytes", 1 << 40))
        keep = int(order.get("keep_bytes", 1 << 16))
        self.streams = {1: Capture(keep), 2: Capture(keep)}
        self.facts: dict[str, Any] | None = None
        self.readers: dict[int, int] = {}  # descriptor -> stream
        self.terminal: int | None = None  # the descriptor of ours, while it is in `readers`
        self.awaited: list[int] = []  # orders that are answered when nothing of it is left
        self.watch: watch.Watch | None = None  # of a stateless box
        theirs = self._open_streams(order, stdin)
        pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control_fd, control = (end.detach() for end in pair)
        try:
            pid = os.fork()
        except OSError:  # the box has as many processes as it may
            for fd in {*self.readers, *theirs.values(), control, self.control_fd}:
                os.close(fd)
            raise
        if pid == 0:
            _in_child(lambda: _supervise(order, theirs, control) if not stateless else _become(order, theirs))
        for fd in {*theirs.values(), control}:
            os.close(fd)
        self.pid = pid
        if stateless:
            self.watch = watch.Watch(pid, order, stateless=True)
            os.close(self.control_fd)
            self.control_fd = os.pidfd_open(pid)
        for fd in {*self.readers, self.control_fd}:
            os.set_blocking(fd, False)

    def _open_streams(self, order: dict[str, Any], stdin: int | None) -> dict[int, int]:
        """The descriptors that the program gets, by number; ours go to `readers`."""
        if order.get("tty"):
            self.terminal, theirs = os.openpty()
            self.readers[self.terminal] = 1
            self.resize(*order["tty"])
            if order.get("user"):
                os.fchown(theirs, order["user"][0], -1)
            return dict.fromkeys(range(3), theirs)
        given = {0: os.open(os.devnull, os.O_RDONLY) if stdin is None else stdin}
        if order["op"] == "call":
            self.streams[3] = Capture(2 * VALUE_BYTES)  # so that its head holds a whole value
        for stream in self.streams:
            ours, given[stream] = os.pipe()
            self.readers[ours] = stream
        return given

    @property
    def num_bytes(self) -> int:
        return sum(capture.num_bytes for capture in self.streams.values())

    def end(self, cause: str) -> None:
        """Kill it and all that it started, or what is left of that; the facts follow on `control_fd`. The first cause counts."""
        if self.watch is not None:
            self.watch.end(cause)
        else:
            self._order("end", cause)

    def signal(self, number: int) -> None:
        """To its main process alone."""
        if self.watch is not None:
            os.kill(self.pid, number)
        else:
            self._order("signal", number)

    def _order(self, *words: Any) -> None:
        with contextlib.suppress(OSError):  # nothing of it is left, or it has its orders already
            os.write(self.control_fd, json.dumps(words).encode())

    def told(self) -> bytes:
        """What its supervisor tells; nothing where that is gone."""
        try:
            return os.read(self.control_fd, 4096)
        except ConnectionResetError:  # it went with an order that it had not read; what it told before is there still
            return os.read(self.control_fd, 4096)

    def resize(self, rows: int, columns: int) -> None:
        """Of its terminal."""
        if self.terminal is not None:
            fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def _in_child(run: Any) -> NoReturn:
    """Runs it in a forked process, which never comes back to the agent's code."""
    signal.set_wakeup_fd(-1)
    try:
        run()
    except BaseException as error:  # noqa: BLE001 - this is the end of the process
        with contextlib.suppress(OSError):
            os.write(2, (f"{type(error).__name__}: {error}\n").encode())
    finally:
        os._exit(COULD_NOT_START)


def _supervise(order: dict[str, Any], theirs: dict[int, int], control: int) -> NoReturn:
    """Between agent and program: everything that the program starts stays below this process, which ends it in time."""
    watch.become_subreaper()
    watch.die_with_parent()
    pid = os.fork()
    if pid == 0:
        _in_child(lambda: _become(order, theirs))
    _close_all_but({control})
    seen = watch.Watch(pid, order, stateless=False)
    main = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(main, select.POLLIN)
    poll.register(control, select.POLLIN)
    while seen.status is None:
        if any(fd == control for fd, _ in poll.poll(seen.wait_s * 1000)):
            _obey(seen, control)
        seen.tick()
    if seen.cause:
        seen.end(seen.cause)  # what it had forked meanwhile
    os.write(control, json.dumps(seen.facts()).encode())
    poll.unregister(main)
    with contextlib.suppress(ChildProcessError):
        while True:  # what it left behind on purpose, such as a server, still needs someone to wait for it
            while poll.poll(0):
                _obey(seen, control)
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if not pid:
                poll.poll(1000 * watch.TICK_S)
    os._exit(0)


def _obey(seen: watch.Watch, control: int) -> None:
    """One order of the agent, without which nobody would know what becomes of the command."""
    text = os.read(control, 256)
    if not text:
        seen.end("")
        os._exit(0)
    what, value = json.loads(text)
    if what == "end":
        seen.end(value)
    elif seen.status is None:
        os.kill(seen.pid, value)


def _become(order: dict[str, Any], theirs: dict[int, int]) -> None:
    """This process turns into the program, or into the called function."""
    os.setsid()
    placed = {number: fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for number, fd in theirs.items()}
    for number, fd in placed.items():
        os.dup2(fd, number)
    _close_all_but(set(theirs))
    if order.get("tty"):
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    for number in range(1, signal.NSIG):
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
    if order.get("user"):
        uid, gid = order["user"]
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    watch.die_with_parent()  # here, since a change of user takes it back
    watch.allow_no_new_privileges()
    with contextlib.suppress(OSError):  # where memory runs out, this is to be ended, and not what watches it
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
    os.chdir(order.get("cwd") or "/")
    if order["op"] == "call":
        _call(order)
    else:
        _exec(order["argv"], order.get("env") or {})


def _exec(argv: list[str], env: dict[str, str]) -> None:
    try:
        os.execvpe(argv[0], argv, env)
    except OSError as error:
        os.write(2, (f"{argv[0]}: {error.strerror}\n").encode(errors="replace"))
        os._exit(127 if isinstance(error, FileNotFoundError) else 126)  # as a shell says it


def _call(order: dict[str, Any]) -> None:
    """Defines the source and calls the function in it; its value goes to descriptor 3 as JSON."""
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", closefd=False, errors="backslashreplace")  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False, errors="backslashreplace")  # noqa: SIM115
    sys.setrecursionlimit(1000)
    status = 1
    try:
        names: dict[str, Any] = {"__name__": "__call__"}
        exec(compile(order["source"], "<call>", "exec"), names)
        value = json.dumps(names[order["function"]](*order["arguments"])).encode()
        if len(value) > VALUE_BYTES:
            raise ValueError(f"the value has {len(value)} bytes of JSON; at most {VALUE_BYTES}")
        with open(3, "wb", closefd=False) as out:
            out.write(value)
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1 if error.code else 0
    except MemoryError:
        os.write(2, b"MemoryError\n")
    except BaseException:  # noqa: BLE001 - whatever the function did
        traceback.print_exc()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status & 0xFF)


def _close_all_but(keep: set[int]) -> None:
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in keep:
            with contextlib.suppress(OSError):
                os.close(int(name))
