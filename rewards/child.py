"""A child process held over a socket: messages with deadlines, and nothing left of it once it is closed or its parent dies.

For code that may hang or crash: users' rewards (`rewards.isolation`) and sympy (`rewards.symbolic`). It bounds accidents and
is no sandbox: a process that the child starts in a session of its own outlives it.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path

MAX_REPLY_BYTES = 4 << 20
LOOK_S = 0.05  # between two looks whether a silent child still lives, where a process it started keeps its socket open
END_LIMIT_S = 5.0  # for a killed process to be gone; one that the kernel cannot end is left to itself
_HEADER = struct.Struct("<QQ")  # number of the request, length in bytes
_MAIN = "import sys; sys.path[:] = {path!r}; from {module} import serve; serve({channel}, {life})"


class ChildDiedError(Exception):
    """The child process ended, or closed its socket, while a message was on its way."""


class Child:
    """A running `module.serve(channel, life)` in a session of its own; one request at a time, each with any number of replies.

    After any exception of `send` or `receive` the child is good for nothing but `close`: replies may still be on their way.
    """

    def __init__(self, module: str) -> None:
        channel, theirs = socket.socketpair()
        life, held = os.pipe()  # nothing is ever written: that it closes tells the child's kernel that this process is gone
        # the root comes last: the working folder, where '' points, may have changed since this process found the packages
        path = [*(str(entry) for entry in sys.path), str(Path(__file__).resolve().parents[1])]
        main = _MAIN.format(path=path, module=module, channel=theirs.fileno(), life=life)
        channel.setblocking(False)
        self._channel, self._held = channel, os.fdopen(held, "wb", buffering=0)
        self._lock = threading.Lock()  # no kill may hit a number that was given to another process meanwhile
        self._buffer = bytearray()
        self._request = 0
        try:
            self._process: subprocess.Popen[bytes] | None = subprocess.Popen(
                [sys.executable, "-c", main],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), life),
                start_new_session=True,  # so a Ctrl-C at the terminal does not reach it, and one kill reaches what it forked
            )
        except BaseException:
            channel.close()
            self._held.close()
            raise
        finally:
            theirs.close()
            os.close(life)
        self.pid = self._process.pid
        _open.add(self)

    @property
    def ended(self) -> bool:
        """Whether the process is dead or was closed; it is reaped by `close` alone."""
        if self._process is None or self._process.returncode is not None:
            return True
        try:
            return self._peek()
        except ChildProcessError:  # somebody else reaped it
            return True

    def send(self, message: bytes, deadline: float) -> None:
        """Write a request. `deadline` is a time of `time.monotonic()`.

        Raises:
            TimeoutError: the child did not take it in time. ChildDiedError: it never will.
        """
        self._request += 1
        left = memoryview(_HEADER.pack(self._request, len(message)) + message)
        while left:
            try:
                left = left[self._channel.send(left) :]
            except BlockingIOError:
                self._wait(select.POLLOUT, deadline)
            except OSError as error:
                raise ChildDiedError from error

    def receive(self, deadline: float) -> bytes:
        """The next reply to the last request.

        Raises:
            TimeoutError: none came in time. ChildDiedError: none will come.
            ValueError: what came is no reply; somebody else wrote to the socket.
        """
        while (reply := self._take()) is None:
            self._wait(select.POLLIN, deadline)
            try:
                data = self._channel.recv(1 << 16)
            except OSError as error:
                raise ChildDiedError from error
            if not data:
                raise ChildDiedError
            self._buffer += data
        return reply

    def kill(self) -> None:
        """End the process and what it forked; from any thread. A thread in `receive` gets a ChildDiedError."""
        with self._lock:
            if self._process is not None and self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError, PermissionError, ChildProcessError):
                    self._peek()  # raises where somebody else reaped it: the number may be another's by now
                    os.killpg(self.pid, signal.SIGKILL)

    def close(self, *, grace_s: float = 0.0) -> int | None:
        """Kill, reap, and return the exit status: negative for a signal, None where it cannot be known.

        A process that is just ending gets `grace_s` to do it by itself, so that the status is its own.
        """
        end = time.monotonic() + grace_s
        while not self.ended and time.monotonic() < end:
            time.sleep(0.001)
        self.kill()
        status = None
        with self._lock:
            if self._process is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    status = self._process.wait(END_LIMIT_S)
        self._release()
        return status

    def _peek(self) -> bool:
        """Whether it is dead, without reaping it."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _release(self) -> None:
        _open.discard(self)
        self._channel.close()
        self._held.close()

    def _forget(self) -> None:
        """In a forked process: the child is the parent's, and the parent's death must be seen by it."""
        self._process = None
        self._release()

    def _take(self) -> bytes | None:
        if len(self._buffer) < _HEADER.size:
            return None
        request, length = _HEADER.unpack_from(self._buffer)
        if request != self._request or length > MAX_REPLY_BYTES:
            raise ValueError("the child's socket holds what is no reply")
        end = _HEADER.size + length
        if len(self._buffer) < end:
            return None
        reply = bytes(self._buffer[_HEADER.size : end])
        del self._buffer[:end]
        return reply

    def _wait(self, event: int, deadline: float) -> None:
        poll = select.poll()
        poll.register(self._channel, event)
        while True:
            left = deadline - time.monotonic()
            if poll.poll(max(0.0, min(left, LOOK_S)) * 1000):
                return
            if left <= 0:
                raise TimeoutError
            if self.ended and not poll.poll(0):
                raise ChildDiedError


def how_it_ended(status: int | None) -> str:
    """An exit status in words that follow "the reward": `ended the process with exit status 3`."""
    if status is None:
        return "ended the process in a way that cannot be told"
    if status >= 0:
        return f"ended the process with exit status {status}"
    try:
        name = f" ({signal.Signals(-status).name})"
    except ValueError:
        name = ""
    memory = ", as a machine that is out of memory does" if -status == signal.SIGKILL else ""
    return f"was killed by signal {-status}{name}{memory}"


def serve(answer: Callable[[bytes], Iterable[bytes]], channel: int, life: int) -> None:
    """The child's side: sends the replies of `answer` to each request until the parent closes the socket."""
    _end_with(life)
    with contextlib.suppress(OSError):  # when memory runs out, the kernel shall take this process and not the parent
        Path("/proc/self/oom_score_adj").write_text("1000")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.set_inheritable(channel, False)
    nothing = os.open(os.devnull, os.O_RDWR)
    # A process forked in here that comes back to this loop reads the end of its input and writes nowhere.
    os.register_at_fork(after_in_child=lambda: os.dup2(nothing, channel, inheritable=False))
    requests, replies = os.fdopen(channel, "rb"), os.fdopen(channel, "wb", closefd=False)
    while header := requests.read(_HEADER.size):
        request, length = _HEADER.unpack(header)
        for reply in answer(requests.read(length)):
            replies.write(_HEADER.pack(request, len(reply)) + reply)
            replies.flush()


def _end_with(life: int) -> None:
    """Have the kernel kill this whole process group once the other end of the pipe `life` is closed.

    Unlike a thread or a handler it works while C code holds the interpreter and with every signal blocked; unlike
    PR_SET_PDEATHSIG it does not fire when only the thread ends that started this process.
    """
    os.set_inheritable(life, False)
    fcntl.fcntl(life, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(life, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(life, fcntl.F_SETFL, fcntl.fcntl(life, fcntl.F_GETFL) | os.O_ASYNC)
    poll = select.poll()
    poll.register(life, 0)
    if poll.poll(0):  # closed before the kernel was told
        sys.exit()


_open: weakref.WeakSet[Child] = weakref.WeakSet()


def _forget_all() -> None:
    for child in list(_open):
        child._forget()


def _close_all() -> None:
    for child in list(_open):
        child.close()


os.register_at_fork(after_in_child=_forget_all)
atexit.register(_close_all)
