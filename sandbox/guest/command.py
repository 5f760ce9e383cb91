"""Starts one command with its streams, and what runs between the fork and the program: limits, user, folder, descriptors.

With a terminal it has one stream, the terminal's, which is also where its input is written.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import resource
import select
import signal
import struct
import sys
import termios
import time
from typing import TYPE_CHECKING, Any, NoReturn

from sandbox.guest import watch
from sandbox.guest.capture import Capture, read_some

if TYPE_CHECKING:
    from sandbox.guest.ahead import Spare

VALUE_BYTES = 8 << 20  # of JSON that a called function may return
_CHANGED_SIGNALS = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
MAX_WAIT_S = 3600.0
LATE_S = 1.0  # after which a supervisor that has not ended its command, since that has stopped it, is ended too
call_filter = b""  # of commands, where nobody outside the box has set one (`guest/machine.py`)
COULD_NOT_START = 125  # the exit code of a command that never began; its reason is on stderr


class Command:
    """A running command: its streams by descriptor, and the socket to its supervisor.

    `streams` holds what was captured: 1 and 2 are stdout and stderr. The
    supervisor tells its end on `told_fd`, takes orders as long as anything that the command started is left, and
    then closes it.
    """

    def __init__(self, number: int, order: dict[str, Any], stdin: int | None, spare: Spare | None) -> None:
        """`spare`: in a stateless box, the process that becomes the command."""
        self.number = number
        self.live = bool(order.get("live"))
        self.output_bytes = int(order.get("output_bytes", 1 << 40))
        keep = max(0, int(order.get("keep_bytes", 1 << 16)))
        self.streams = {1: Capture(keep)} if order.get("tty") else {1: Capture(keep), 2: Capture(keep)}
        self.facts: dict[str, Any] | None = None
        self.refused_before = (0, 0)  # of a machine's own counters, when it began
        self.readers: dict[int, int] = {}  # descriptor -> stream
        self.terminal: int | None = None  # the descriptor of ours, while it is in `readers`
        self.told_fd = self.orders_fd = -1
        self.value: int | None = None  # the file that a called function's value is written to
        self.returned = b""  # what is there in the end
        self.awaited: list[int] = []  # orders that are answered when nothing of it is left
        self.watch: watch.Watch | None = None  # of a stateless box
        self.start = time.monotonic()
        self.cause: str | None = None  # why it was ordered to end
        wall_s = order.get("wall_s")
        self.deadline = math.inf if wall_s is None else self.start + wall_s + LATE_S
        if spare is None:
            self._fork(order, stdin)
        else:
            self._take(spare, order, stdin)
        for fd in {*self.readers, self.told_fd}:
            os.set_blocking(fd, False)

    def _fork(self, order: dict[str, Any], stdin: int | None) -> None:
        theirs = self._open_streams(order, stdin)
        self.told_fd, tells = os.pipe()
        orders, self.orders_fd = os.pipe()
        try:
            self.pid = os.fork()
        except OSError:  # the box has as many processes as it may
            for fd in {*self.readers, *theirs.values(), tells, self.told_fd, orders, self.orders_fd}:
                os.close(fd)
            raise
        if self.pid == 0:
            in_child(lambda: _supervise(order, theirs, orders, tells))
        for fd in {*theirs.values(), orders, tells} - {self.value}:
            os.close(fd)
        os.set_blocking(self.orders_fd, False)

    def _take(self, spare: Spare, order: dict[str, Any], stdin: int | None) -> None:
        if stdin is not None:
            size = os.lseek(stdin, 0, os.SEEK_END)
            while os.lseek(spare.stdin, 0, os.SEEK_CUR) < size:
                os.sendfile(spare.stdin, stdin, os.lseek(spare.stdin, 0, os.SEEK_CUR), size)
            os.close(stdin)
        os.lseek(spare.stdin, 0, os.SEEK_SET)
        seal(spare.stdin)
        os.close(spare.stdin)
        self.pid, self.told_fd, self.readers, self.value = spare.pid, spare.pidfd, spare.readers, spare.value
        self.watch = watch.Watch(spare.pid, order, stateless=True)
        spare.take(order)

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
        for stream in self.streams:
            ours, given[stream] = os.pipe()
            self.readers[ours] = stream
        if order["op"] == "call":
            self.value = given[3] = value_file()
        return given

    def take_value(self) -> bytes:
        """What a called function has returned, as JSON, and at most VALUE_BYTES of it; nothing where it has not."""
        if self.value is None:
            return b""
        size = int.from_bytes(os.pread(self.value, 8, 0), "little")
        value = os.pread(self.value, min(size, VALUE_BYTES), 8)
        os.close(self.value)
        self.value = None
        return value

    @property
    def num_bytes(self) -> int:
        return sum(capture.num_bytes for capture in self.streams.values())

    def end(self, cause: str) -> None:
        """Kills it and all that it started, or what is left of that; its facts follow. The first cause counts."""
        if self.watch is not None:
            self.watch.end(cause)
        else:
            self._order("end", cause)
            if self.facts is None and self.cause is None:
                self.cause, self.deadline = cause, min(self.deadline, time.monotonic() + LATE_S)

    def signal(self, number: int) -> None:
        """To its main process alone."""
        if self.watch is not None:
            os.kill(self.pid, number)
        else:
            self._order("signal", number)

    def _order(self, *words: Any) -> None:
        with contextlib.suppress(OSError):  # nothing of it is left, or it has its orders already
            os.write(self.orders_fd, json.dumps(words).encode() + b"\n")

    def close(self) -> None:
        """When nothing of it is left."""
        os.close(self.told_fd)
        if self.orders_fd >= 0:
            os.close(self.orders_fd)
        self.told_fd = self.orders_fd = -1

    def resize(self, rows: int, columns: int) -> None:
        """Of its terminal."""
        if self.terminal is not None:
            fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    @property
    def wait_s(self) -> float:
        """Until somebody must look after it."""
        return self.watch.wait_s if self.watch is not None else max(0.0, min(MAX_WAIT_S, self.deadline - time.monotonic()))

    def overrun(self) -> None:
        """Ends it without its supervisor, which has not done so in time."""
        if self.cause is None:
            self.cause = "wall_timeout"
        self.deadline = time.monotonic() + LATE_S
        for pid in [*watch.descendants(self.pid), self.pid]:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)

    def facts_of_lost(self) -> dict[str, Any]:
        """What is known of a command whose supervisor was killed."""
        wall_s = time.monotonic() - self.start
        return {"status": signal.SIGKILL, "cause": self.cause or "", "wall_s": wall_s, "cpu_s": 0.0, "max_rss_bytes": 0}


def value_file() -> int:
    """A file in memory that holds a value and its length, and cannot grow beyond that."""
    fd = os.memfd_create("value", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 8 + VALUE_BYTES)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return fd


def seal(fd: int) -> None:
    """Nobody writes to this file in memory any more."""
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)


def in_child(run: Any) -> NoReturn:
    """Runs it in a forked process, which never comes back to the agent's code."""
    signal.set_wakeup_fd(-1)
    try:
        run()
    except BaseException as error:  # noqa: BLE001 - this is the end of the process
        with contextlib.suppress(OSError):
            os.write(2, (f"{type(error).__name__}: {error}\n").encode())
    finally:
        os._exit(COULD_NOT_START)


def _supervise(order: dict[str, Any], theirs: dict[int, int], orders: int, tells: int) -> NoReturn:
    """Between agent and program: everything that the program starts stays below this process, which ends it in time."""
    group = None if watch.become_subreaper() else watch.join_group(int(order["id"]))
    watch.die_with_parent()
    pid = os.fork()
    if pid == 0:
        in_child(lambda: _become(order, theirs))
    for number, fd in enumerate([fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (orders, tells)]):
        os.dup2(fd, number)
    orders, tells = 0, 1
    _close_from(2)
    woken, _ = watch.child_ends()
    seen = watch.Watch(pid, order, stateless=False, group=group)
    poll = select.poll()
    poll.register(woken, select.POLLIN)
    poll.register(orders, select.POLLIN)
    seen.tick()
    while seen.status is None:
        if any(fd == orders for fd, _ in poll.poll(seen.wait_s * 1000)):
            _obey(seen, orders)
        read_some(woken)
        seen.tick()
    if seen.cause:
        seen.end(seen.cause)  # what it had forked meanwhile
    os.write(tells, json.dumps(seen.facts()).encode())
    with contextlib.suppress(ChildProcessError):
        while True:  # what it left behind on purpose, such as a server, still needs someone to wait for it
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
            if any(fd == orders for fd, _ in poll.poll()):
                _obey(seen, orders)
            read_some(woken)
    os._exit(0)


def _obey(seen: watch.Watch, orders: int) -> None:
    """What the agent orders; without one nobody would know what becomes of the command."""
    text = os.read(orders, select.PIPE_BUF)
    if not text:
        seen.end("")
        os._exit(0)
    for what, value in map(json.loads, text.splitlines()):
        if what == "end":
            seen.end(value)
        elif seen.status is None:
            os.kill(seen.pid, value)


def _become(order: dict[str, Any], theirs: dict[int, int]) -> None:
    """This process turns into the program, or into the called function."""
    prepare(theirs, order.get("user"), tty=bool(order.get("tty")))
    go(order)


def prepare(theirs: dict[int, int], user: list[int] | None, *, tty: bool) -> None:
    """All that can be done before the order is known. `theirs`: what becomes of descriptors, numbered from 0."""
    os.setsid()
    placed = {number: fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for number, fd in theirs.items()}
    for number, fd in placed.items():
        os.dup2(fd, number)
    _close_from(len(theirs))
    if tty:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    for number in _CHANGED_SIGNALS:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
    with contextlib.suppress(OSError):  # where memory runs out, this is to be ended, and not what watches it
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY)  # its user may not
        os.write(fd, b"1000")
        os.close(fd)
    if user:
        uid, gid = user
        with contextlib.suppress(OSError):  # gVisor has no owners of pipes
            for number in (1, 2):
                os.fchown(number, uid, gid)  # so that it may open /dev/stdout
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    watch.die_with_parent()  # here, since a change of user takes it back
    watch.allow_no_new_privileges()
    if call_filter:
        watch.filter_calls(call_filter)


def go(order: dict[str, Any]) -> None:
    """What is left to be done once it is."""
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


def rehearse() -> None:
    """A call of nothing: what a forked process touches first is copied for it, and that takes longer than a small function."""
    order = {"source": "def f(x):\n    return [x, {}]", "function": "f", "arguments": [1]}
    _value(json.loads(json.dumps(order)))


def _value(order: dict[str, Any]) -> bytes:
    names: dict[str, Any] = {"__name__": "__call__"}
    exec(compile(order["source"], "<call>", "exec"), names)
    return json.dumps(names[order["function"]](*order["arguments"])).encode()


def _call(order: dict[str, Any]) -> None:
    """Defines the source and calls the function in it; its value goes to descriptor 3 as JSON."""
    sys.stdout = open(1, "w", closefd=False, errors="backslashreplace")  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False, errors="backslashreplace")  # noqa: SIM115
    status = 1
    try:
        value = _value(order)
        if len(value) > VALUE_BYTES:
            raise ValueError(f"the value has {len(value)} bytes of JSON; at most {VALUE_BYTES}")
        os.pwrite(3, len(value).to_bytes(8, "little") + value, 0)
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1 if error.code else 0
    except MemoryError:
        os.write(2, b"MemoryError\n")
    except BaseException:  # noqa: BLE001 - whatever the function did
        import traceback  # late: few need it, and every box would load it

        traceback.print_exc()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status & 0xFF)


def _close_from(first: int) -> None:
    os.closerange(first, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
