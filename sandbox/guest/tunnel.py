"""The box's way out: a port on its own loopback, whose connections are handed to the host in frames. The host decides on each.

A box has no network; what programs send to this port (they find it in `http_proxy`) is all that leaves it, and it ends with the
client. Either side sends at most WINDOW_BYTES of a connection that the other has not passed on.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import selectors
import socket
import struct
from typing import Any

from sandbox.guest.peer import Peer

PORT = 3128
WINDOW_BYTES = 256 << 10
READ_BYTES = 64 << 10
MAX_CONNECTIONS = 64
_GET_FLAGS, _SET_FLAGS = 0x8913, 0x8914  # of a network interface


class Connection:
    """Of a program in the box."""

    def __init__(self, number: int, program: socket.socket) -> None:
        self.number, self.program = number, program
        self.window = WINDOW_BYTES  # that may still be sent to the host
        self.pending = bytearray()  # for the program
        self.host_ended = self.program_ended = False


class Tunnel:
    def __init__(self, selector: selectors.BaseSelector, peer: Peer) -> None:
        self._selector, self._peer = selector, peer
        self._listener: socket.socket | None = None
        self._connections: dict[int, Connection] = {}
        self._numbers = itertools.count(1)

    def listen(self) -> None:
        """Takes connections from now on. OSError: the box has no loopback, or a program has the port."""
        if self._listener is None:
            _raise_loopback()
            listener = socket.create_server(("127.0.0.1", PORT), backlog=64)
            listener.setblocking(False)
            self._selector.register(listener, selectors.EVENT_READ, self._accept)
            self._listener = listener

    def drop(self) -> None:
        """Ends all connections: nobody is there who would carry them."""
        for connection in list(self._connections.values()):
            self._close(connection)

    def take(self, order: dict[str, Any], payload: bytes) -> None:
        """What the host says of a connection."""
        connection = self._connections.get(int(order["connection"]))
        if connection is None:
            return  # the program has closed it meanwhile
        what = order["what"]
        if what == "data":
            connection.pending += payload
        elif what == "passed":
            connection.window += int(order["size"])
        elif what == "end":
            connection.host_ended = True
        else:
            self._close(connection)
            return
        self._write(connection)

    def _accept(self) -> None:
        assert self._listener is not None
        with contextlib.suppress(OSError):
            program, _ = self._listener.accept()
            if len(self._connections) >= MAX_CONNECTIONS or not self._peer.attended:
                program.close()
                return
            program.setblocking(False)
            connection = Connection(next(self._numbers), program)
            self._connections[connection.number] = connection
            self._tell(connection, "open")
            self._wait(connection)

    def _exchange(self, connection: Connection) -> None:
        self._write(connection)
        if connection.number in self._connections and connection.window > 0 and not connection.program_ended:
            self._read(connection)

    def _read(self, connection: Connection) -> None:
        try:
            data = connection.program.recv(min(READ_BYTES, connection.window))
        except BlockingIOError:
            return
        except OSError:
            self._lose(connection)
            return
        if data:
            connection.window -= len(data)
            self._tell(connection, "data", data)
        else:
            connection.program_ended = True
            self._tell(connection, "end")
        self._write(connection)  # which also ends it, where both sides have

    def _write(self, connection: Connection) -> None:
        """What there is for the program, as far as it takes it."""
        if connection.pending:
            try:
                count = connection.program.send(connection.pending)
            except BlockingIOError:
                count = 0
            except OSError:
                self._lose(connection)
                return
            if count:
                del connection.pending[:count]
                self._tell(connection, "passed", size=count)
        if connection.host_ended and not connection.pending:
            if connection.program_ended:
                self._close(connection)
                return
            with contextlib.suppress(OSError):
                connection.program.shutdown(socket.SHUT_WR)
        self._wait(connection)

    def _wait(self, connection: Connection) -> None:
        """Has the selector tell of what can be done next; nothing where that is up to the host."""
        reads = connection.window > 0 and not connection.program_ended
        events = (selectors.EVENT_READ if reads else 0) | (selectors.EVENT_WRITE if connection.pending else 0)
        selector, fd = self._selector, connection.program.fileno()
        known = selector.get_map().get(fd)
        if known is None and events:
            selector.register(fd, events, lambda: self._exchange(connection))
        elif known is not None and not events:
            selector.unregister(fd)
        elif known is not None and known.events != events:
            selector.modify(fd, events, known.data)

    def _lose(self, connection: Connection) -> None:
        self._tell(connection, "close")
        self._close(connection)

    def _close(self, connection: Connection) -> None:
        if connection.program.fileno() in self._selector.get_map():
            self._selector.unregister(connection.program.fileno())
        connection.program.close()
        self._connections.pop(connection.number, None)

    def _tell(self, connection: Connection, what: str, data: bytes = b"", size: int = 0) -> None:
        self._peer.send({"type": "net", "connection": connection.number, "what": what, "size": size}, data)


def _raise_loopback() -> None:
    """Of a machine, where nobody else has; a container's agent may not, and need not."""
    with socket.socket() as any_socket, contextlib.suppress(OSError):
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack_from("16sh", fcntl.ioctl(any_socket, _GET_FLAGS, request))[1]
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sh14x", b"lo", flags | 1))
