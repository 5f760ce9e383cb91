"""What was sent ahead of commands that have not begun: their input, and orders that are too long for one frame."""

from __future__ import annotations

import json
import os
from typing import Any

from sandbox.guest import command
from sandbox.guest.frames import MAX_ORDER_BYTES


class Pending:
    """By the numbers of the commands. Input is in memory files, so that no command waits for the host and the host for none."""

    def __init__(self) -> None:
        self._stdin: dict[int, int] = {}  # descriptors
        self._orders: dict[int, bytearray] = {}

    def add_stdin(self, number: int, piece: bytes) -> None:
        if number not in self._stdin:
            self._stdin[number] = os.memfd_create("stdin", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        left = memoryview(piece)
        while left:
            left = left[os.write(self._stdin[number], left) :]

    def take_stdin(self, number: int) -> int | None:
        """A descriptor at the beginning of all that the command reads; none if there is nothing."""
        fd = self._stdin.pop(number, None)
        if fd is not None:
            os.lseek(fd, 0, os.SEEK_SET)
            command.seal(fd)
        return fd

    def add_order(self, number: int, piece: bytes) -> None:
        """A piece of the order's JSON.

        Raises:
            ValueError: an order is not that long.
        """
        text = self._orders.setdefault(number, bytearray())
        if len(text) + len(piece) > MAX_ORDER_BYTES:
            raise ValueError(f"order {number}: more than {MAX_ORDER_BYTES} bytes")
        text += piece

    def take_order(self, number: int) -> dict[str, Any]:
        """The order that came in pieces."""
        return {**json.loads(self._orders.pop(number)), "id": number}

    def drop(self, number: int) -> None:
        """Of a command that will not begin."""
        self._orders.pop(number, None)
        if number in self._stdin:
            os.close(self._stdin.pop(number))

    def clear(self) -> None:
        """Whoever comes next begins to send anew."""
        for number in {*self._orders, *self._stdin}:
            self.drop(number)
