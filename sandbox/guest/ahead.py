"""A process that was forked before its command is known, so that no call of a stateless box waits for a fork."""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any

from sandbox.guest import command


class Spare:
    """It waits for one order, with its streams open; `take` gives it one."""

    def __init__(self) -> None:
        self.stdin = os.memfd_create("stdin", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self.value = command.value_file()
        self.readers: dict[int, int] = {}  # descriptor -> stream
        theirs = {0: self.stdin, 3: self.value}
        for stream in (1, 2):
            ours, theirs[stream] = os.pipe()
            self.readers[ours] = stream
        orders, self.orders = os.pipe()
        self.pid = -1
        try:
            self.pid = os.fork()
        except OSError:  # the box has as many processes as it may
            self._close()
            raise
        finally:
            for fd in (theirs[1], theirs[2], orders) if self.pid else ():
                os.close(fd)
        if self.pid == 0:
            command.in_child(lambda: _wait(theirs, orders))
        self.pidfd = os.pidfd_open(self.pid)

    def waits(self) -> bool:
        """Whether it does so still; one that was killed for its memory does not, and its descriptors are closed then."""
        if os.waitpid(self.pid, os.WNOHANG)[0] == 0:
            return True
        self._close()
        os.close(self.pidfd)
        return False

    def _close(self) -> None:
        for fd in (*self.readers, self.stdin, self.value, self.orders):
            os.close(fd)

    def take(self, order: dict[str, Any]) -> None:
        """Has it become what is ordered."""
        with contextlib.suppress(BrokenPipeError), open(self.orders, "wb") as pipe:
            pipe.write(json.dumps(order).encode())


def _wait(theirs: dict[int, int], orders: int) -> None:
    command.prepare({**theirs, 4: orders}, None, tty=False)
    command.rehearse()
    with open(4, "rb") as pipe:
        text = pipe.read()
    if text:  # else the agent is gone
        command.go(json.loads(text))
