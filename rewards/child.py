"""A child process: started, killed with all that it forked, and nothing left of it once it is closed or its parent dies.

For code that may hang or crash: users' rewards (`rewards.nursery`) and sympy (`rewards.symbolic`). It bounds accidents and
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
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path

from rewards.link import ChildDiedError as ChildDiedError
from rewards.link import Link, reply, requests

END_LIMIT_S = 5.0  # for a killed process to be gone; one that the kernel cannot end is left to itself
_MAIN = "import sys; sys.path[:] = {path!r}; from {module} import serve; serve({channel}, {life})"


class Child(Link):
    """A running `module.serve(channel, life)` in a session of its own."""

    def __init__(self, module: str) -> None:
        channel, theirs = socket.socketpair()
        life, held = os.pipe()  # nothing is ever written: that it closes tells the child's kernel that this process is gone
        # the root comes last: the working folder, where '' points, may have changed since this process found the packages
        path = [*(str(entry) for entry in sys.path), str(Path(__file__).resolve().parents[1])]
        main = _MAIN.format(path=path, module=module, channel=theirs.fileno(), life=life)
        super().__init__(channel)
        self._held = os.fdopen(held, "wb", buffering=0)
        self._lock = threading.Lock()  # no kill may hit a number that was given to another process meanwhile
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
        register(self)

    @property
    def ended(self) -> bool:
        """As `Link.ended`; it is reaped by `close` alone."""
        if self._process is None or self._process.returncode is not None:
            return True
        try:
            return self._peek()
        except ChildProcessError:  # somebody else reaped it
            return True

    def kill(self) -> None:
        with self._lock:
            if self._process is not None and self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError, PermissionError, ChildProcessError):
                    self._peek()  # raises where somebody else reaped it: the number may be another's by now
                    os.killpg(self.pid, signal.SIGKILL)

    def close(self, *, grace_s: float = 0.0) -> int | None:
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
        self._drop_fds()
        self._channel.close()
        self._held.close()

    def forget(self) -> None:
        self._process = None
        self._release()


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
    sock = settle(channel, life)
    for request in requests(sock):
        for message in answer(request.message):
            reply(sock, request.number, message)


def settle(channel: int, life: int) -> socket.socket:
    """Makes this process a child that ends with its parent, and the kernel's first choice when memory runs out."""
    _end_with(life)
    with contextlib.suppress(OSError):  # when memory runs out, the kernel shall take this process and not the parent
        Path("/proc/self/oom_score_adj").write_text("1000")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.set_inheritable(channel, False)
    nothing = os.open(os.devnull, os.O_RDWR)
    # A process forked in here that comes back to the loop over requests finds nothing to read and nowhere to write.
    os.register_at_fork(after_in_child=lambda: os.dup2(nothing, channel, inheritable=False))
    return socket.socket(fileno=channel)


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


_open: weakref.WeakSet[Link] = weakref.WeakSet()


def register(link: Link) -> None:
    """Has it closed when this process ends, and forgotten in what this process forks."""
    _open.add(link)


def _forget_all() -> None:
    for link in list(_open):
        link.forget()
    _open.clear()


def _close_all() -> None:
    for link in list(_open):
        link.close()


os.register_at_fork(after_in_child=_forget_all)
atexit.register(_close_all)
