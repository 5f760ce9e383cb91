"""Messages between this process and a child over a socket: requests with file descriptors, replies, deadlines.

`Link` is the parent's side; what lives at its other end is said by `rewards.child.Child` and `rewards.nursery.Forked`.
`requests` and `reply` are the child's side.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple

MAX_REPLY_BYTES = 64 << 20  # a group's notes and reasons are far below
MAX_FDS = 4  # that travel with a request
LOOK_S = 0.05  # between two looks whether a silent child still lives, where a process it started keeps its socket open
_HEADER = struct.Struct("<QQ")  # number of the request, length in bytes


class ChildDiedError(Exception):
    """The child process ended, or closed its socket, while a message was on its way."""


class Link(ABC):
    """One request at a time, each with any number of replies.

    After any other exception of a method than TimeoutError the child is good for nothing but `close`.
    """

    pid: int

    def __init__(self, channel: socket.socket) -> None:
        channel.setblocking(False)
        self._channel = channel
        self._request = 0
        self._unsent, self._fds = memoryview(b""), list[int]()
        self._buffer = bytearray()

    @property
    @abstractmethod
    def ended(self) -> bool:
        """Whether the process is dead or was closed."""

    @abstractmethod
    def kill(self) -> None:
        """End the process and what it forked; from any thread. A thread in `receive` gets a ChildDiedError."""

    @abstractmethod
    def close(self, *, grace_s: float = 0.0) -> int | None:
        """Kill, reap, and return the exit status: negative for a signal, None where it cannot be known.

        A process that is just ending gets `grace_s` to do it by itself, so that the status is its own.
        """

    def drop(self) -> None:
        """Kill without waiting for the end, where nobody asks how it was."""
        self.close()

    @abstractmethod
    def forget(self) -> None:
        """In a forked process: the child is the parent's, and the parent's death must be seen by it."""

    def fileno(self) -> int:
        return self._channel.fileno()

    # without waiting

    def post(self, message: bytes, fds: Sequence[int] = ()) -> bool:
        """Begin a request; True when all of it is written, else `flush` goes on when the socket takes more.

        The descriptors stay the caller's.
        """
        self._request += 1
        self._unsent, self._fds = memoryview(_HEADER.pack(self._request, len(message)) + message), [os.dup(fd) for fd in fds]
        return self.flush()

    def flush(self) -> bool:
        """Write what the socket takes; True when nothing is left.

        Raises:
            ChildDiedError: it will never take the rest.
        """
        while self._unsent:
            try:
                if self._fds:
                    count = socket.send_fds(self._channel, [self._unsent], self._fds)
                    self._drop_fds()
                else:
                    count = self._channel.send(self._unsent)
            except BlockingIOError:
                return False
            except OSError as error:
                raise ChildDiedError from error
            self._unsent = self._unsent[count:]
        return True

    def fetch(self) -> Iterator[bytes]:
        """The replies to the last request that are there by now.

        Raises:
            ChildDiedError: there is none, and none will come. ValueError: what is there is no reply; somebody else wrote it.
        """
        ended = False
        try:
            data = self._channel.recv(1 << 18)
            ended = not data
            self._buffer += data
        except BlockingIOError:
            pass
        except OSError:
            ended = True
        while (reply := self._take()) is not None:
            yield reply
        if ended:
            raise ChildDiedError

    # with a deadline, a time of `time.monotonic()`

    def send(self, message: bytes, deadline: float, fds: Sequence[int] = ()) -> None:
        """Write a request.

        Raises:
            TimeoutError: the child did not take it in time. ChildDiedError: it never will.
        """
        self.post(message, fds)
        while not self.flush():
            self._wait(select.POLLOUT, deadline)

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

    def _drop_fds(self) -> None:
        while self._fds:
            os.close(self._fds.pop())

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

    def has_data(self) -> bool:
        """Whether `fetch` would find something, or the end."""
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        return bool(poll.poll(0))

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


class Request(NamedTuple):
    number: int
    message: bytes
    fds: list[int]  # the receiver's to close


def requests(channel: socket.socket) -> Iterator[Request]:
    """The child's side: one request after another, until the parent closes the socket."""
    while True:
        header, fds = b"", list[int]()
        while len(header) < _HEADER.size:
            piece, found, _, _ = socket.recv_fds(channel, _HEADER.size - len(header), MAX_FDS)
            fds += found
            if not piece:
                return
            header += piece
        number, length = _HEADER.unpack(header)
        message = bytearray(length)
        left = memoryview(message)
        while left:
            count = channel.recv_into(left)
            if not count:
                return
            left = left[count:]
        for fd in fds:
            os.set_inheritable(fd, False)
        yield Request(number, bytes(message), fds)


def reply(channel: socket.socket, number: int, message: bytes) -> None:
    """The child's side: a reply to the request of this number."""
    channel.sendall(_HEADER.pack(number, len(message)) + message)
