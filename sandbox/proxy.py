"""What leaves a box: an HTTP proxy on the host that knows a list of hosts and ports, and lets nothing else through.

It speaks to programs over the box's tunnel (`sandbox/guest/tunnel.py`): CONNECT for anything, and plain requests for `http:`.
Names are looked up here, never in the box; a name on the list that leads to an address of this machine or of its own network is
refused, unless the list names that address. It does not look into what is sent to a host that is on the list.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sandbox.errors import BoxLostError
from sandbox.guest.tunnel import MAX_CONNECTIONS, READ_BYTES, WINDOW_BYTES

HEAD_BYTES = 64 << 10  # of a request
CONNECT_LIMIT_S = 20.0
Tell = Callable[[dict[str, Any], bytes], None]
_RULE = re.compile(r"(?P<host>\*|(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\]):(?P<port>\*|[0-9]{1,5})")


@dataclass(frozen=True)
class Rule:
    """One entry of a list: a host, all hosts below a name, or all; and a port, or all.

    >>> Rule.of("*.example.org:443").allows("files.example.org", 443), Rule.of("*.example.org:443").allows("example.org", 443)
    (True, False)
    """

    host: str
    port: int | None

    @classmethod
    def of(cls, text: str) -> Rule:
        """ValueError: it is none."""
        found = _RULE.fullmatch(text.lower())
        if found is None or (found["port"] != "*" and not 0 < int(found["port"]) < 1 << 16):
            raise ValueError(f"network: got {text!r}; write host:port, with * for any (`pypi.org:443`, `*.example.org:*`)")
        return cls(found["host"].strip("[]"), None if found["port"] == "*" else int(found["port"]))

    def allows(self, host: str, port: int) -> bool:
        if self.port not in (None, port):
            return False
        return self.host in ("*", host) or (self.host.startswith("*.") and host.endswith(self.host[1:]))


def rules_of(network: Sequence[str]) -> list[Rule]:
    """ValueError: one is none. TypeError: a string, whose letters would be taken for entries."""
    if isinstance(network, str):
        raise TypeError(f"network: got {network!r}; write a list of host:port, as in ['pypi.org:443']")
    return [Rule.of(text) for text in network]


class RefusedError(Exception):
    """A request that is not carried; with the status and the reason that the program is told."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class _Connection:
    """Of a program in the box, as the host has it."""

    def __init__(self, number: int, tell: Tell) -> None:
        self.number, self._tell = number, tell
        self.incoming = asyncio.StreamReader(limit=HEAD_BYTES)
        self.to: tuple[str, int] | None = None  # the host and port that it leads to
        self.unread = 0  # bytes that have come and were not passed on
        self._window = WINDOW_BYTES
        self._room = asyncio.Event()
        self._room.set()

    def say(self, what: str, data: bytes = b"", size: int = 0) -> None:
        self._tell({"op": "net", "id": None, "connection": self.number, "what": what, "size": size}, data)

    def passed(self, size: int) -> None:
        """By the box, to its program."""
        self._window += size
        self._room.set()

    async def send(self, data: bytes) -> None:
        for start in range(0, len(data), READ_BYTES):
            piece = data[start : start + READ_BYTES]
            while self._window < len(piece):
                self._room.clear()
                await self._room.wait()
            self._window -= len(piece)
            self.say("data", piece)

    async def receive(self) -> bytes:
        data = await self.incoming.read(READ_BYTES)
        self.note_read(len(data))
        return data

    def note_read(self, size: int) -> None:
        self.unread -= size
        if size:
            self.say("passed", size=size)


class Proxy:
    """One box's, as long as one client holds it."""

    def __init__(self, tell: Tell, rules: Sequence[Rule]) -> None:
        self._tell, self._rules = tell, tuple(rules)
        self._open: dict[int, tuple[_Connection, asyncio.Task[None]]] = {}

    def allow(self, rules: Sequence[Rule]) -> None:
        """From now on these alone: what is open to others is cut."""
        self._rules = tuple(rules)
        for connection, task in list(self._open.values()):
            if connection.to is not None and not self._allows(*connection.to):
                task.cancel()

    def close(self) -> None:
        for _, task in self._open.values():
            task.cancel()

    def take(self, header: dict[str, Any], payload: bytes) -> None:
        """A frame of the tunnel.

        Raises:
            BoxLostError: the agent sends what cannot be.
        """
        number, what, size = header.get("connection"), header.get("what"), header.get("size")
        if not isinstance(number, int) or not isinstance(size, int) or not 0 <= size <= WINDOW_BYTES:
            raise BoxLostError("the box's agent sent what is no frame of a connection")
        if what == "open":
            if number in self._open or len(self._open) >= 2 * MAX_CONNECTIONS:
                raise BoxLostError("the box's agent opens connections that cannot be")
            connection = _Connection(number, self._tell)
            self._open[number] = (connection, asyncio.get_running_loop().create_task(self._serve(connection)))
            return
        if number not in self._open:
            return  # it has ended here already
        connection, task = self._open[number]
        if what == "data":
            connection.unread += len(payload)
            if connection.unread > WINDOW_BYTES:
                raise BoxLostError("the box's agent sent more than it may")
            connection.incoming.feed_data(payload)
        elif what == "passed":
            connection.passed(size)
        elif what == "end":
            connection.incoming.feed_eof()
        else:
            task.cancel()

    async def _serve(self, connection: _Connection) -> None:
        try:
            await self._carry(connection)
            connection.say("end")
        except RefusedError as error:
            text = f"{error}\n".encode()
            await connection.send(
                f"HTTP/1.1 {error.status}\r\nContent-Type: text/plain\r\nContent-Length: {len(text)}\r\n"
                "Connection: close\r\n\r\n".encode()
                + text
            )
            connection.say("end")
        except (OSError, asyncio.IncompleteReadError):
            connection.say("close")
        except asyncio.CancelledError:
            connection.say("close")
        finally:
            self._open.pop(connection.number, None)

    async def _carry(self, connection: _Connection) -> None:
        host, port, first = await self._request(connection)
        if not self._allows(host, port):
            known = ", ".join(f"{rule.host}:{rule.port or '*'}" for rule in self._rules) or "nothing"
            raise RefusedError("403 Forbidden", f"{host}:{port} is not among what this box may reach: {known}")
        connection.to = host, port
        reads, writes = await self._connect(host, port)
        try:
            if first:
                writes.write(first)
            else:
                await connection.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
            up = asyncio.create_task(_send_up(connection, writes))
            try:
                while data := await reads.read(READ_BYTES):
                    await connection.send(data)
            finally:
                up.cancel()
                await asyncio.gather(up, return_exceptions=True)
        finally:
            writes.close()

    async def _request(self, connection: _Connection) -> tuple[str, int, bytes]:
        """Host, port, and what is to be sent there first: nothing where the program asks for a tunnel."""
        try:
            head = await connection.incoming.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            raise RefusedError("431 Request Header Fields Too Large", f"more than {HEAD_BYTES} bytes of headers") from None
        connection.note_read(len(head))
        line, *headers = head.decode("latin-1").split("\r\n")[:-2]
        method, _, rest = line.partition(" ")
        target, _, version = rest.rpartition(" ")
        if method == "CONNECT":
            return (*_split(target, None), b"")
        found = re.fullmatch(r"http://([^/?#]+)(.*)", target, re.IGNORECASE)
        if found is None:
            raise RefusedError("400 Bad Request", f"got {line[:200]!r}; this is a proxy for http: and CONNECT")
        host, port = _split(found[1], 80)
        kept = [
            h for h in headers if h.partition(":")[0].strip().lower() not in ("connection", "proxy-connection", "keep-alive")
        ]
        path = found[2] if found[2].startswith("/") else f"/{found[2]}"
        lines = [f"{method} {path} {version}", *kept, "Connection: close", "", ""]  # so that the next one is looked at as well
        return host, port, "\r\n".join(lines).encode("latin-1")

    def _allows(self, host: str, port: int) -> bool:
        return any(rule.allows(host, port) for rule in self._rules)

    async def _connect(self, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """To an address that the host's name has, if it may be reached under that name."""
        try:
            async with asyncio.timeout(CONNECT_LIMIT_S):
                found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
                addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
                named = any(rule.host == host and rule.allows(host, port) for rule in self._rules)
                good = [a for a in addresses if _is_public(a) or (named and host in (a, "localhost"))]
                if not good:
                    raise RefusedError("403 Forbidden", f"{host} leads to {', '.join(addresses)}, which is no public address")
                for address in good[:-1]:
                    with contextlib.suppress(OSError):
                        return await asyncio.open_connection(address, port)
                return await asyncio.open_connection(good[-1], port)
        except TimeoutError:
            raise RefusedError("504 Gateway Timeout", f"{host}:{port} does not answer") from None
        except OSError as error:
            raise RefusedError("502 Bad Gateway", f"{host}:{port}: {error}") from None


async def _send_up(connection: _Connection, writes: asyncio.StreamWriter) -> None:
    while data := await connection.receive():
        writes.write(data)
        await writes.drain()
    if writes.can_write_eof():
        writes.write_eof()


def _split(text: str, usual: int | None) -> tuple[str, int]:
    """Host and port of what a program asks for."""
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(?::([0-9]{1,5}))?", text)
    port = int(found[2]) if found is not None and found[2] else usual
    if found is None or port is None or not 0 < port < 1 << 16:
        raise RefusedError("400 Bad Request", f"got {text[:200]!r}, which is no host and port")
    return found[1].strip("[]").lower().rstrip("."), port


def _is_public(address: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(address.partition("%")[0]).is_global
    return False
