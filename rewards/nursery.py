"""A process in which users' code is loaded once, and its forks: a substitute for a process that hung costs milliseconds.

Forks are processes of their own, in sessions of their own, which end with the process that asked for them. Where the loading
has left something that does not survive a fork, the nursery is the only process there is. What the processes do with a request
is said by a module that has `serve`: `rewards.work` for rewards, `rl/tools/served.py` for tools.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import pickle
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn, Protocol

from rewards import child
from rewards.child import END_LIMIT_S, Child, how_it_ended, register
from rewards.errors import UserError
from rewards.link import ChildDiedError, Link, Request, reply, requests

LOAD_LIMIT_S = 120.0  # for the process to start and the first part to load, and for each further one
FORK_LIMIT_S = 60.0  # for a fork to answer, on a machine that is overloaded
FORK_TRIES = 3
DYING_S = 1.0  # for a process whose socket is closed already to end, so that its own exit status can be told


@dataclass(frozen=True)
class Part:
    """Something to be loaded: `name` begins what is told of it, "reward 'mine.py:f': mine.py"."""

    name: str
    what: Any  # for `Served.load`


class Served(Protocol):
    """The process's side of what a nursery is for."""

    def load(self, what: Any) -> dict[str, Any] | str:
        """Facts of what was loaded, as JSON; or why it does not load."""

    def answer(self, asked: object, fds: Sequence[int], send: Callable[[bytes], None]) -> None:
        """Does what is asked and sends the replies."""


@dataclass(frozen=True)
class Load:
    what: Any


@dataclass(frozen=True)
class Fork:
    """With two descriptors: the fork's channel, and the pipe by which it ends. `killed`: forks to reap as far as they ended."""

    killed: Sequence[int]


@dataclass(frozen=True)
class Reap:
    """Waits for a fork that was killed, or is ending."""

    pid: int


@dataclass(frozen=True)
class Ready:
    """Asks why this process cannot be forked."""


class Nursery:
    """Holds what was loaded; one thread at a time."""

    def __init__(self, module: str, parts: Sequence[Part]) -> None:
        """`module` has a function `serve` that calls the one below with its `Served`."""
        self._module, self._parts = module, tuple(parts)
        self._child: Child | None = None
        self._facts: list[dict[str, Any]] = []
        self._killed: list[int] = []  # forks that nobody has reaped
        self._lock = threading.RLock()  # a process that ends closes its forks while a thread of it scores
        self.alone_because: str | None = None  # why there is only one process

    @property
    def pid(self) -> int | None:
        return None if self._child is None else self._child.pid

    def open(self) -> list[dict[str, Any]]:
        """Start the process and load every part, where that is not so; what `Served.load` says of each.

        Raises:
            UserError: one does not load, ends the process or takes longer than `LOAD_LIMIT_S`.
        """
        if self._child is not None and self._child.ended:
            self._end()
        if self._child is None:
            self._child = Child(self._module)
            try:
                self._facts = [self._load(self._child, part) for part in self._parts]
                self.alone_because = self._ask(Ready(), LOAD_LIMIT_S)
            except BaseException:
                self._end()
                raise
        return self._facts

    def child(self) -> Link:
        """A new process with all that was loaded; the nursery itself where it cannot be forked.

        Raises:
            UserError: as `open`. ChildDiedError: forks end as soon as they are there.
        """
        for left in reversed(range(FORK_TRIES)):
            self.open()
            assert self._child is not None
            if self.alone_because is not None:
                return self._child
            try:
                return Forked(self)
            except ChildDiedError:
                if not left:
                    raise
        raise AssertionError("the last try returns or raises")

    def fork(self, fds: Sequence[int]) -> int:
        """The number of a new fork; raises as `ask`."""
        killed, self._killed = self._killed, []
        pid, *self._killed = self.ask(Fork(killed), FORK_LIMIT_S, fds)
        return int(pid)

    def reap_later(self, pid: int) -> None:
        self._killed.append(pid)

    def ask(self, asked: object, limit_s: float, fds: Sequence[int] = ()) -> Any:
        """The nursery's answer.

        Raises:
            ChildDiedError: it has ended, or does not answer; the next `open` starts another.
        """
        with self._lock:
            if self._child is None:
                raise ChildDiedError
            try:
                return self._ask(asked, limit_s, fds)
            except (TimeoutError, ChildDiedError, ValueError) as error:
                self._end()
                raise ChildDiedError from error
            except BaseException:
                self._end()
                raise

    def close(self) -> None:
        with contextlib.suppress(ChildDiedError):
            for pid in self._killed:
                self.ask(Reap(pid), END_LIMIT_S)
        self._end()

    def _ask(self, asked: object, limit_s: float, fds: Sequence[int] = ()) -> Any:
        assert self._child is not None
        deadline = time.monotonic() + limit_s
        self._child.send(pickle.dumps(asked), deadline, fds)
        return json.loads(self._child.receive(deadline))

    def _load(self, started: Child, part: Part) -> dict[str, Any]:
        where = part.name
        try:
            found: dict[str, Any] | str = self._ask(Load(part.what), LOAD_LIMIT_S)
        except TimeoutError:
            raise UserError(
                f"{where} took longer than {LOAD_LIMIT_S:g} s to load; do the long work inside the function"
            ) from None
        except ChildDiedError:
            raise UserError(f"{where} {how_it_ended(self._end(grace_s=DYING_S))} while it loaded") from None
        if isinstance(found, str):
            raise UserError(found)
        return found

    def _end(self, *, grace_s: float = 0.0) -> int | None:
        ended, self._child = self._child, None
        self._killed.clear()
        return ended.close(grace_s=grace_s) if ended is not None else None


class Forked(Link):
    """A fork of the nursery, which keeps it as a zombie until it is reaped from here: its number stays its own."""

    def __init__(self, nursery: Nursery) -> None:
        channel, theirs = socket.socketpair()
        life, held = os.pipe()
        super().__init__(channel)
        self._nursery, self._held = nursery, os.fdopen(held, "wb", buffering=0)
        self._lock = threading.RLock()
        self._pidfd: int | None = None
        try:
            self.pid = nursery.fork((theirs.fileno(), life))
            self._pidfd = os.pidfd_open(self.pid)
        except BaseException:
            self.forget()  # closing `held` ends what was forked
            raise
        finally:
            theirs.close()
            os.close(life)
        register(self)

    @property
    def ended(self) -> bool:
        pidfd = self._pidfd
        return pidfd is None or _has_ended(pidfd, 0.0)

    def kill(self) -> None:
        with self._lock:
            if self._pidfd is not None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
                    # it is there, or a zombie: the number is its own; where it is no session yet it has started nothing
                    os.killpg(self.pid, signal.SIGKILL)

    def close(self, *, grace_s: float = 0.0) -> int | None:
        with self._lock:
            if self._pidfd is None:
                return None
            _has_ended(self._pidfd, grace_s)
            self.kill()
            status = None
            if _has_ended(self._pidfd, END_LIMIT_S):
                with contextlib.suppress(ChildDiedError):
                    status = self._nursery.ask(Reap(self.pid), FORK_LIMIT_S)
            self.forget()
        return status

    def drop(self) -> None:
        with self._lock:
            if self._pidfd is not None:
                self.kill()
                self._nursery.reap_later(self.pid)
                self.forget()

    def forget(self) -> None:
        self._drop_fds()
        self._channel.close()
        self._held.close()
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None


def _has_ended(pidfd: int, limit_s: float) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(limit_s * 1000))


def serve(served: Served, channel: int, life: int) -> None:
    """The nursery: loads, forks itself, reaps its forks, and answers as its forks do, until its parent closes."""
    os.dup2(1, 2)  # to nowhere, like its output: the terminal belongs to the run
    _serve(served, channel, life)


def _serve(served: Served, channel: int, life: int) -> None:
    sock = child.settle(channel, life)
    for request in requests(sock):
        _answer(served, request, life, partial(reply, sock, request.number))


def _answer(served: Served, request: Request, life: int, send: Callable[[bytes], None]) -> None:
    asked = pickle.loads(request.message)
    if isinstance(asked, Load):
        send(json.dumps(served.load(asked.what)).encode())
    elif isinstance(asked, Ready):
        gc.collect()
        gc.freeze()  # what is there by now stays shared with the forks
        send(json.dumps(why_alone()).encode())
    elif isinstance(asked, Fork):
        pid = os.fork()
        if pid == 0:
            os.close(life)
            _be_fork(served, *request.fds)
        for fd in request.fds:
            os.close(fd)
        send(json.dumps([pid, *(one for one in asked.killed if not os.waitpid(one, os.WNOHANG)[0])]).encode())
    elif isinstance(asked, Reap):
        send(json.dumps(os.waitstatus_to_exitcode(os.waitpid(asked.pid, 0)[1])).encode())
    else:
        served.answer(asked, request.fds, send)


def _be_fork(served: Served, channel: int, life: int) -> NoReturn:
    try:
        os.setsid()
        _serve(served, channel, life)
        os._exit(0)
    except BaseException:  # noqa: BLE001 - nothing of the nursery's may run on in here
        os._exit(1)


def why_alone() -> str | None:
    """What in this process does not survive a fork; None where nothing is known."""
    others = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    if others:
        return f"its loading started the thread {others[0]}"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return "its loading took a GPU into use"
    if not hasattr(os, "pidfd_open"):
        return "this system has no pidfd_open"
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        return f"pidfd_open: {error.strerror}"
    return None
