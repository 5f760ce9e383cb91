"""The commands of a box, by their numbers: begun, drained of their output, ended with all that they started, and reported.

What a finished one came to is kept until it is forgotten by order, so that a host which comes back learns of it. In a stateless
box one command runs at a time, and after it every process is ended and the scratch folders are emptied.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import selectors
import signal
import sys
import termios
import time
from collections.abc import Iterable, Iterator
from typing import Any

from sandbox.guest import command, files, machine, watch
from sandbox.guest.ahead import Spare
from sandbox.guest.capture import read_some
from sandbox.guest.frames import MAX_PAYLOAD_BYTES
from sandbox.guest.peer import Peer
from sandbox.guest.pending import Pending

KEPT = 256  # commands that run, or have finished and were not ordered to be forgotten


class Roster:
    """Their descriptors are in the agent's selector; what they write and come to goes to the peer."""

    def __init__(self, selector: selectors.BaseSelector, peer: Peer, stateless: bool, scratch: list[str]) -> None:
        """`scratch`: folders that are emptied after each command of a stateless box, and when a box is made as new."""
        self.group: str | None = None  # a machine's, where nobody else can say what was refused
        self.bystander: int | None = None  # a process that is no command's, to be left alone
        self._selector, self._peer, self._stateless, self._scratch = selector, peer, stateless, scratch
        self._commands: dict[int, command.Command] = {}
        self._held: dict[int, command.Command] = {}  # descriptors that are not read until the peer has taken some answers
        self._spare: Spare | None = None  # of a stateless box
        self._supervisors = set[int]()  # that live, of commands that are forgotten as well
        self._num_orphans = 0
        self._first_folders = [entry.path for folder in scratch for entry in os.scandir(folder) if entry.is_dir()]
        self._watch_children()

    def get(self, number: int) -> command.Command | None:
        return self._commands.get(number)

    def make_room(self, number: int, forget: Iterable[int]) -> None:
        """For a command of this number, once those that may be forgotten are.

        Raises:
            ValueError: there is no room, or one of this number.
        """
        if number in self._commands:
            raise ValueError(f"command {number} is there already")
        if self._stateless and any(c.facts is None for c in self._commands.values()):
            raise ValueError("this box runs one command at a time")
        for other in forget:
            if other in self._commands and self._commands[other].facts is not None:
                del self._commands[other]
        if len(self._commands) >= KEPT:
            raise ValueError(f"{KEPT} commands run, or have ended and nobody has taken note of it")

    def begin(self, number: int, order: dict[str, Any], pending: Pending) -> None:
        """Runs it, with what `pending` has for it to read. OSError: the box has as many processes as it may."""
        if self._stateless and (self._spare is None or not self._spare.waits()):
            self._spare = Spare()
        refused = machine.refused(self.group)
        running = command.Command(number, order, pending.take_stdin(number), self._spare)
        if running.watch is None:
            self._supervisors.add(running.pid)
        self._spare, running.refused_before = None, refused
        self._commands[number] = running
        for fd in running.readers:
            self._register_reader(running, fd)
        self._selector.register(running.told_fd, selectors.EVENT_READ, lambda: self._ended(running))

    def report(self, running: command.Command) -> None:
        """What a command has come to, and the output that was kept."""
        assert running.facts is not None
        sizes = {}
        for stream, capture in running.streams.items():
            sizes[str(stream)] = capture.num_bytes
            self._report_part(running, stream, "head", capture.head)
            self._report_part(running, stream, "tail", capture.tail)
        self._report_part(running, 3, "head", running.returned)
        self._peer.send({"id": running.number, "type": "done", "num_bytes": sizes, **running.facts})

    def end_all(self) -> None:
        """Ends all that commands run and have left running, those that are forgotten as well; what watches them stays."""
        for running in self._commands.values():
            if running.facts is None:
                running.end("")  # one that is just about to start is not there to be found
        deadline = time.monotonic() + watch.KILL_LIMIT_S
        while watch.stop_and_kill(self._of_commands) and time.monotonic() < deadline:
            self._reap()
            time.sleep(0.001)

    def scrub(self) -> None:
        """Makes the box what it was before its first command: no process, nothing remembered, only the scratch folders' own.

        OSError: a process could not be ended, or a file not removed.
        """
        deadline = time.monotonic() + watch.KILL_LIMIT_S
        while watch.stop_and_kill(self._all_others):
            if time.monotonic() > deadline:
                raise OSError(errno.EBUSY, "a process of the box could not be ended")
            self._reap()
            time.sleep(0.001)
        for running in self._commands.values():
            for fd in list(running.readers):
                self._close_reader(running, fd)
            if running.told_fd >= 0:
                self._selector.unregister(running.told_fd)
                running.close()
        self._commands.clear()
        self._supervisors.clear()
        for folder in self._scratch:
            files.empty(folder)
        for folder in self._first_folders:
            os.mkdir(folder, 0o755)
        files.forget_ipc()

    def _all_others(self) -> list[int]:
        return [pid for pid in watch.descendants(os.getpid(), zombies=True) if pid != self.bystander]

    def _of_commands(self) -> list[int]:
        """With those that have ended and were not waited for: they still count among the box's processes."""
        others = {self.bystander, *self._supervisors}
        return [pid for pid in watch.descendants(os.getpid(), zombies=True) if pid not in others]

    def sweep_group(self, number: int) -> None:
        """Ends what is left in a command's group, in a box whose kernel has those."""
        while alone := watch.members(watch.group_of(number)):
            for pid in alone:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._reap()

    def disown(self) -> None:
        """Of a machine that is a copy now: what runs goes on, and nobody learns what it comes to."""
        for number, running in list(self._commands.items()):
            if running.told_fd < 0:
                del self._commands[number]
            elif number >= 0:
                self._num_orphans += 1
                running.number, running.live, running.awaited = -self._num_orphans, False, []
                self._commands[running.number] = self._commands.pop(number)

    def waits_s(self) -> Iterator[float]:
        """For each command that runs, how long until `look_after` has something to do."""
        return (c.wait_s for c in self._commands.values() if c.facts is None)

    def look_after(self) -> None:
        """Ends what is over its limits, and reaps what has ended."""
        for running in list(self._commands.values()):
            if running.facts is not None:
                continue
            if running.watch is not None:  # of a stateless box, where the agent itself watches
                running.watch.tick()
                if running.watch.status is not None:
                    self._ended(running)
            elif not running.wait_s:
                running.overrun()
        if not self._stateless:
            self._reap()

    def release(self) -> None:
        """Reads again what was held back from a peer that is slow no more, or gone; to be called after every flush."""
        if self._peer.is_slow:
            return
        for fd, running in self._held.items():
            if fd in running.readers:
                self._register_reader(running, fd)
        self._held.clear()

    def fork_ahead(self) -> None:
        """The process of a stateless box's next command."""
        with contextlib.suppress(OSError):
            self._spare = Spare()

    def _watch_children(self) -> None:
        """Wakes the selector when a process ends, so that none waits for its reaper."""
        woken, _ = watch.child_ends()
        self._selector.register(woken, selectors.EVENT_READ, lambda: read_some(woken))

    def _register_reader(self, running: command.Command, fd: int) -> None:
        self._selector.register(fd, selectors.EVENT_READ, lambda: self._drain(running, fd))

    def _drain(self, running: command.Command, fd: int) -> None:
        if running.live and running.facts is None and self._peer.is_slow and fd not in self._held:
            self._held[fd] = running
            self._selector.unregister(fd)
            return
        data = read_some(fd)
        if data is None:
            return
        if not data:
            self._close_reader(running, fd)
            return
        if running.facts is not None:
            return  # what a process that was left behind still writes
        self._note(running, running.readers[fd], data)

    def _note(self, running: command.Command, stream: int, data: bytes) -> None:
        """Keeps a piece of output, and hands it on where somebody watches."""
        running.streams[stream].add(data)
        if running.live:
            self._peer.send({"id": running.number, "type": "output", "stream": stream}, data)
        if running.num_bytes > running.output_bytes:
            running.end("output_limit")

    def _close_reader(self, running: command.Command, fd: int) -> None:
        if self._held.pop(fd, None) is None:
            self._selector.unregister(fd)
        del running.readers[fd]
        os.close(fd)

    def _ended(self, running: command.Command) -> None:
        if running.watch is not None:
            self._ended_alone(running, running.watch)
            return
        text = os.read(running.told_fd, 4096)
        if running.facts is None:
            if not text:  # its supervisor was killed, by the command or for its memory
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(running.pid, 0)  # then what it leaves has become this one's
                self._supervisors.discard(running.pid)
                self._sweep(running.number)
            self._finish(running, json.loads(text) if text else running.facts_of_lost())
        if not text:
            self._close_command(running)

    def _ended_alone(self, running: command.Command, seen: watch.Watch) -> None:
        """Of a stateless box: after it the box is as it was before."""
        seen.reap()
        if seen.status is None or running.facts is not None:
            return
        seen.end("")
        self._finish(running, seen.facts())
        self._close_command(running)
        for folder in self._scratch:
            files.empty(folder)
        files.forget_ipc()
        self._commands.pop(running.number)
        self._peer.flush()  # its answer, before the next process is made ready
        self.fork_ahead()

    def _finish(self, running: command.Command, facts: dict[str, Any]) -> None:
        for fd in list(running.readers):  # what is there by now; a process that was left behind may write for ever
            left = fcntl.ioctl(fd, termios.FIONREAD, bytes(4))
            if data := _read_all(fd, int.from_bytes(left, sys.byteorder)):
                self._note(running, running.readers[fd], data)
        if facts["cause"] in ("", "disk_full"):
            facts["cause"] = machine.cause(running.refused_before, machine.refused(self.group)) or facts["cause"]
        running.facts, running.returned = facts, running.take_value()
        with contextlib.suppress(OSError):  # there is none, or something is left in it on purpose
            os.rmdir(watch.group_of(running.number))
        if running.number >= 0:
            self.report(running)

    def _close_command(self, running: command.Command) -> None:
        """Nothing of it is left."""
        self._selector.unregister(running.told_fd)
        running.close()
        self._supervisors.discard(running.pid)
        if running.number < 0:
            del self._commands[running.number]
        for number in running.awaited:
            self._peer.send({"id": number, "type": "done"})

    def _sweep(self, number: int) -> None:
        """Ends what has lost its supervisor: it has become this one's child, or is in a group by itself."""
        self.sweep_group(number)
        others = {self.bystander, *self._supervisors}
        while orphans := [pid for pid in watch.children(os.getpid()) if pid not in others]:
            for orphan in orphans:
                for pid in [orphan, *watch.descendants(orphan)]:
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.kill(pid, signal.SIGKILL)
            self._reap()

    def _reap(self) -> None:
        """The supervisors; and where this is the first process of the box, whoever has lost its parent."""
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass

    def _report_part(self, running: command.Command, stream: int, part: str, data: bytes) -> None:
        for start in range(0, len(data), MAX_PAYLOAD_BYTES):
            piece = data[start : start + MAX_PAYLOAD_BYTES]
            self._peer.send({"id": running.number, "type": "kept", "stream": stream, "part": part}, piece)


def _read_all(fd: int, size: int) -> bytes:
    """So many bytes, which are there to be read."""
    data = b""
    while len(data) < size:
        data += os.read(fd, size - len(data))
    return data
