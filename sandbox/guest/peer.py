"""Whoever gives the agent its orders: the newest connection, or the client at the other end of the one stream it has.

Frames come in here and go out from here; what the orders mean is `sandbox/guest/main.py`'s matter. Answers wait until all that
has come is seen to, and a peer that is slow to take them is told of by `is_slow`.
"""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import socket
import stat
import sys
from collections.abc import Callable
from typing import Any

from sandbox.guest.capture import read_some
from sandbox.guest.frames import CUT, Decoder, FrameError, HeaderError, Outbox, encode

HIGH_WATER_BYTES = 4 << 20  # of unsent answers: then no command's live output is read until some are taken


class Peer:
    """At most one at a time, read and written whenever the selector says so."""

    def __init__(
        self,
        selector: selectors.BaseSelector,
        obey: Callable[[dict[str, Any], bytes], None],
        on_change: Callable[[], None],
    ) -> None:
        """`obey`: takes an order. `on_change`: another client is there, or none."""
        self.attended = False  # somebody is there to be answered; a stream's other side says when it has a client and when not
        self._selector, self._obey, self._on_change = selector, obey, on_change
        self._source: int | None = None  # what is read: the connection's socket, or the stream
        self._sink = -1  # what is written: the same one, but for a stream of two pipes
        self._is_stream = False
        self._absent: int | None = None  # a stream that nobody has opened on its other side
        self._decoder, self._unsent = Decoder(), Outbox()

    def listen(self, fd: int) -> None:
        """Takes connections from now on."""
        listener = socket.socket(fileno=fd)
        listener.setblocking(False)
        os.set_inheritable(fd, False)

        def accept() -> None:
            with contextlib.suppress(BlockingIOError):
                self._connect(listener.accept()[0].detach())

        self._selector.register(listener, selectors.EVENT_READ, accept)

    def attach(self, source: int, sink: int) -> None:
        """The one stream that it has as long as it lives, whoever is at its other end; nobody is until `hello`."""
        self._is_stream = True
        self._take(source, sink)

    @property
    def is_slow(self) -> bool:
        """Whether it leaves so many answers untaken that it is to get no live output."""
        return len(self._unsent) > HIGH_WATER_BYTES

    def is_absent(self) -> bool:
        """Whether nobody has opened the other side of a stream, so that this is to be asked again; else it is read from now on.

        A device tells of nobody at its other end as it tells of an end, again and again; so it is asked now and then.
        """
        if self._absent is None:
            return False
        poll = select.poll()
        poll.register(self._absent, select.POLLIN)
        if any(events & select.POLLHUP for _, events in poll.poll(0)):
            return True
        self._take(self._absent, self._absent)
        self._absent = None
        return False

    def send(self, header: dict[str, Any], payload: bytes = b"") -> None:
        """A frame for the client, if there is one. FrameError: it is too large."""
        if self.attended:
            self._unsent.add(encode(header, payload))  # written once all that has come is seen to: the other side wakes up once

    def flush(self) -> None:
        """Writes what there is, as far as it is taken."""
        if self._source is None:
            return
        try:
            self._unsent.write_to(self._sink)
        except BlockingIOError:
            pass
        except OSError:
            self._disconnect()
            return
        self._wake_for_room()

    def attend(self, attended: bool) -> None:
        """Over a stream: a client has come, or gone. Nothing that is unsent is meant for whoever is there now."""
        self.attended = attended
        self._on_change()
        self._unsent.drop()
        self.flush()

    def begin_anew(self, mark: bytes) -> None:
        """This machine is a copy now: nothing on the stream was meant for it, and its new host waits for this mark."""
        assert self._source is not None
        while read_some(self._source):
            pass
        self._decoder, self._unsent, self.attended = Decoder(), Outbox(), False
        self._on_change()
        self._unsent.add(mark)
        self.flush()

    def _connect(self, fd: int) -> None:
        """The newest connection is the one that counts."""
        self._disconnect()
        self.attended = True
        self._take(fd, fd)

    def _take(self, source: int, sink: int) -> None:
        self._source, self._sink = source, sink
        self._decoder, self._unsent = Decoder(), Outbox()
        for fd in (source, sink):
            os.set_blocking(fd, False)
        self._selector.register(source, selectors.EVENT_READ, self._exchange)

    def _disconnect(self) -> None:
        if self._source is None:
            return
        if self._is_stream and not stat.S_ISCHR(os.fstat(self._source).st_mode):
            sys.exit()  # the other side is gone for ever, and the box with it
        for fd in {self._source, self._sink} & set(self._selector.get_map()):
            self._selector.unregister(fd)
        if self._is_stream:
            self._absent = self._source
        else:
            os.close(self._source)
        self._source, self.attended, self._unsent = None, False, Outbox()
        self._on_change()

    def _exchange(self) -> None:
        self.flush()
        if self._source is not None:
            self._receive(self._source)

    def _receive(self, source: int) -> None:
        data = read_some(source)
        if data is None:
            return
        if not data:
            self._disconnect()
            return
        while True:
            try:
                for header, payload in self._decoder.feed(data):
                    self._obey(header, payload)
                return
            except HeaderError:
                if not self._is_stream:
                    self._disconnect()
                    return
                self._unsent.add(CUT)  # one client's fault; the stream goes on with its next frame
                data = b""
            except FrameError:
                self._disconnect()
                return

    def _wake_for_room(self) -> None:
        """Has the selector tell when the other side takes more, while there is more."""
        assert self._source is not None
        if self._sink == self._source:
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._unsent else 0)
            if self._selector.get_key(self._source).events != events:
                self._selector.modify(self._source, events, self._exchange)
        elif (self._sink in self._selector.get_map()) != bool(self._unsent):
            if self._unsent:
                self._selector.register(self._sink, selectors.EVENT_WRITE, self.flush)
            else:
                self._selector.unregister(self._sink)
