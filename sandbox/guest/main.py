"""The agent's loop: takes orders in frames, runs commands, and answers. Its newest connection counts, or the one stream it has.

It outlives its connections: a command goes on while nobody is connected, and what a finished one came to is kept until it is
forgotten by order, so that a host which comes back learns of it. In a stateless box one command runs at a time, and after it
every process is ended and the scratch folders are emptied.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import gc
import json
import os
import select
import selectors
import signal
import socket
import stat
import sys
import termios
import time
from collections.abc import Callable
from typing import Any, ClassVar

from sandbox.guest import command, files, machine, watch
from sandbox.guest.ahead import Spare
from sandbox.guest.capture import read_some
from sandbox.guest.frames import CUT, MAX_PAYLOAD_BYTES, Decoder, FrameError, HeaderError, Outbox, encode
from sandbox.guest.pending import Pending
from sandbox.guest.tunnel import Tunnel

HIGH_WATER_BYTES = 4 << 20  # of unsent answers: then no command's live output is read until some are taken
KEPT = 256  # commands that run, or have finished and were not ordered to be forgotten
ABSENT_S = 0.01  # between two looks whether somebody has opened the other side of a stream that is a device


def main() -> None:
    parser = argparse.ArgumentParser()
    ways = parser.add_mutually_exclusive_group(required=True)
    ways.add_argument("--listen", type=int, help="descriptor of a listening socket")
    ways.add_argument("--stream", help="in its place: two descriptors `IN,OUT`, or one, or the path of a device")
    parser.add_argument("--stateless", action="store_true")
    parser.add_argument(
        "--scratch", action="append", default=[], help="folder to empty between the commands of a stateless box"
    )
    parser.add_argument("--group", help="control group of the commands, where the host has no counters of its own")
    parser.add_argument("--bystander", type=int, help="a process that is no command's, to be left alone")
    parser.add_argument("--renewal", help="file with what to say first, when SIGUSR1 says that this is a copy of a machine now")
    arguments = parser.parse_args()
    watch.hide_from_peers()
    watch.become_subreaper()
    if arguments.listen is not None:
        watch.die_with_parent()  # whoever keeps the box on the host; where there is a stream, its end says so
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    agent = Agent(arguments.stateless, arguments.scratch)
    if arguments.listen is not None:
        agent.listen(arguments.listen)
    else:
        agent.attach(*_descriptors(arguments.stream))
    agent.group, agent.bystander = arguments.group, arguments.bystander
    if arguments.renewal is not None:
        agent.renew_on_signal(arguments.renewal)
    gc.freeze()  # what is there by now is never collected, so the processes that are forked go on sharing it
    if arguments.stateless:
        agent.fork_ahead()
    agent.run()


class Agent:
    """All state of a box's agent: one selector, at most one connection, the commands by their numbers."""

    def __init__(self, stateless: bool, scratch: list[str]) -> None:
        self.stateless, self.scratch = stateless, scratch
        self.selector = selectors.DefaultSelector()
        self.commands: dict[int, command.Command] = {}
        self.pending = Pending()
        self.peer: int | None = None  # what is read: the connection's socket, or the stream
        self.sink = -1  # what is written: the same one, but for a stream of two pipes
        self.is_stream = self.attended = False  # a stream's other side says when it has a client and when not
        self.absent: int | None = None  # a stream that nobody has opened on its other side
        self.bystander: int | None = None
        self.group: str | None = None  # a machine's, where nobody else can say what was refused
        self.renewal: str | None = None  # the file whose content is to be said first to a new host
        self.num_orphans = 0
        self.decoder = Decoder()
        self.unsent = Outbox()
        self.held: dict[int, command.Command] = {}  # descriptors that are not read until the peer has taken some answers
        self.spare: Spare | None = None  # of a stateless box
        self.supervisors = set[int]()  # that live, of commands that are forgotten as well
        self.tunnel = Tunnel(self)
        self.watch_children()

    def watch_children(self) -> None:
        """Wakes the selector when a process ends, so that none waits for its reaper."""
        woken, _ = watch.child_ends()
        self.selector.register(woken, selectors.EVENT_READ, lambda: read_some(woken))

    def listen(self, fd: int) -> None:
        listener = socket.socket(fileno=fd)
        listener.setblocking(False)
        os.set_inheritable(fd, False)

        def accept() -> None:
            with contextlib.suppress(BlockingIOError):
                self.connect(listener.accept()[0].detach())

        self.selector.register(listener, selectors.EVENT_READ, accept)

    def connect(self, peer: int) -> None:
        """The newest connection is the one that counts."""
        self.disconnect()
        self.attended = True
        self.take(peer, peer)

    def attach(self, reads: int, writes: int) -> None:
        """The one stream that it has as long as it lives, whoever is at its other end; nobody is until `hello`."""
        self.is_stream = True
        self.take(reads, writes)

    def take(self, peer: int, sink: int) -> None:
        self.peer, self.sink = peer, sink
        self.decoder, self.unsent = Decoder(), Outbox()
        for fd in (peer, sink):
            os.set_blocking(fd, False)
        self.selector.register(peer, selectors.EVENT_READ, self.exchange)

    def disconnect(self) -> None:
        if self.peer is None:
            return
        if self.is_stream and not stat.S_ISCHR(os.fstat(self.peer).st_mode):
            sys.exit()  # the other side is gone for ever, and the box with it
        for fd in {self.peer, self.sink} & set(self.selector.get_map()):
            self.selector.unregister(fd)
        if self.is_stream:
            self.absent = self.peer
        else:
            os.close(self.peer)
        self.tunnel.drop()
        self.pending.clear()
        self.peer, self.attended, self.unsent = None, False, Outbox()
        self.release()  # nobody is there to be overtaken

    def look_for_peer(self) -> None:
        """A device tells of nobody at its other end as it tells of an end, again and again; so it is asked now and then."""
        assert self.absent is not None
        poll = select.poll()
        poll.register(self.absent, select.POLLIN)
        if not any(events & select.POLLHUP for _, events in poll.poll(0)):
            self.take(self.absent, self.absent)
            self.absent = None

    def renew_on_signal(self, path: str) -> None:
        def note(*_: Any) -> None:
            self.renewal = path

        signal.signal(signal.SIGUSR1, note)

    def renew(self) -> None:
        """This machine is a copy now: nothing on the stream was meant for it, and no command was begun for its host."""
        assert self.peer is not None
        assert self.renewal is not None
        with open(self.renewal, "rb") as file:
            mark = file.read()
        self.renewal = None
        while read_some(self.peer):
            pass
        self.decoder, self.unsent, self.attended = Decoder(), Outbox(), False
        self.pending.clear()
        for number, running in list(self.commands.items()):
            if running.told_fd < 0:
                del self.commands[number]
            elif number >= 0:  # it goes on, or what it has left does, and nobody learns what it comes to
                self.num_orphans += 1
                running.number, running.live, running.awaited = -self.num_orphans, False, []
                self.commands[running.number] = self.commands.pop(number)
        self.post(mark)
        self.flush()
        self.release()

    def run(self) -> None:
        while True:
            waits = [c.wait_s for c in self.commands.values() if c.facts is None]
            if self.renewal is not None:
                self.renew()
            if self.absent is not None:
                self.look_for_peer()
            if self.absent is not None:
                waits.append(ABSENT_S)
            for key, _ in self.selector.select(min(waits, default=None)):
                now = self.selector.get_map().get(key.fd)
                if now is not None and now.data is key.data:  # else one that was handled before it has closed it
                    key.data()
            for running in list(self.commands.values()):
                if running.watch is not None and running.facts is None:
                    self.tick(running)
                elif running.facts is None and not running.wait_s:
                    running.overrun()
            if not self.stateless:
                self.reap()
            if self.unsent:
                self.flush()

    def reap(self) -> None:
        """The supervisors; and where this is the first process of the box, whoever has lost its parent."""
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass

    # frames

    def receive(self) -> None:
        assert self.peer is not None
        data = read_some(self.peer)
        if data is None:
            return
        if not data:
            self.disconnect()
            return
        while True:
            try:
                for header, payload in self.decoder.feed(data):
                    self.obey(header, payload)
                return
            except HeaderError:
                if not self.is_stream:
                    self.disconnect()
                    return
                self.post(CUT)  # one client's fault; the stream goes on with its next frame
                data = b""
            except FrameError:
                self.disconnect()
                return

    def send(self, header: dict[str, Any], payload: bytes = b"") -> None:
        if self.attended:
            self.post(encode(header, payload))

    def post(self, frame: bytes) -> None:
        self.unsent.add(frame)  # written once all that has come is seen to, so that the other side wakes up once

    def flush(self) -> None:
        if self.peer is None:
            return
        try:
            self.unsent.write_to(self.sink)
        except BlockingIOError:
            pass
        except OSError:
            self.disconnect()
            return
        self.wake_for_room()
        if len(self.unsent) < HIGH_WATER_BYTES:
            self.release()

    def wake_for_room(self) -> None:
        """Has the selector tell when the other side takes more, while there is more."""
        assert self.peer is not None
        if self.sink == self.peer:
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self.unsent else 0)
            if self.selector.get_key(self.peer).events != events:
                self.selector.modify(self.peer, events, self.exchange)
        elif (self.sink in self.selector.get_map()) != bool(self.unsent):
            if self.unsent:
                self.selector.register(self.sink, selectors.EVENT_WRITE, self.flush)
            else:
                self.selector.unregister(self.sink)

    def release(self) -> None:
        for fd, running in self.held.items():
            if fd in running.readers:
                self.register_reader(running, fd)
        self.held.clear()

    def register_reader(self, running: command.Command, fd: int) -> None:
        self.selector.register(fd, selectors.EVENT_READ, lambda: self.drain(running, fd))

    def exchange(self) -> None:
        if self.unsent:
            self.flush()
        if self.peer is not None:
            self.receive()

    # orders

    def obey(self, order: dict[str, Any], payload: bytes) -> None:
        """Carry out one order; whatever is wrong with it is answered as an error, and the agent goes on."""
        number = order.get("id")
        try:
            self.ORDERS[order["op"]](self, order, payload)
        except OSError as error:
            self.send({"id": number, "type": "error", "errno": error.errno, "message": error.strerror or str(error)})
        except Exception as error:  # noqa: BLE001 - whatever is wrong with an order, the commands that run are kept
            self.send({"id": number, "type": "error", "errno": None, "message": f"{type(error).__name__}: {error}"})

    def start(self, order: dict[str, Any], payload: bytes) -> None:
        number = int(order["id"])
        if payload:
            self.pending.add_stdin(number, payload)
        if order["op"] == "ordered":
            order = self.pending.take_order(number)
        if number in self.commands:
            raise ValueError(f"command {number} is there already")
        if self.stateless and any(c.facts is None for c in self.commands.values()):
            raise ValueError("this box runs one command at a time")
        for other in order.get("forget", ()):
            if other in self.commands and self.commands[other].facts is not None:
                del self.commands[other]
        if len(self.commands) >= KEPT:
            raise ValueError(f"{KEPT} commands run, or have ended and nobody has taken note of it")
        if isinstance(order.get("user"), str):
            order["user"] = files.user(order["user"])
        if self.stateless and (self.spare is None or not self.spare.waits()):
            self.spare = Spare()
        refused = machine.refused(self.group)
        running = command.Command(number, order, self.pending.take_stdin(number), self.spare)
        if running.watch is None:
            self.supervisors.add(running.pid)
        self.spare, running.refused_before = None, refused
        self.commands[number] = running
        for fd in running.readers:
            self.register_reader(running, fd)
        self.selector.register(running.told_fd, selectors.EVENT_READ, lambda: self.ended(running))

    def keep_stdin(self, order: dict[str, Any], payload: bytes) -> None:
        self.pending.add_stdin(int(order["id"]), payload)
        self.send({"id": order["id"], "type": "done"})

    def keep_order(self, order: dict[str, Any], payload: bytes) -> None:
        self.pending.add_order(int(order["id"]), payload)
        self.send({"id": order["id"], "type": "done"})

    def recall(self, order: dict[str, Any], payload: bytes) -> None:
        """What became of a command: its end again if it has ended, later if it runs, `unknown` if it never began here."""
        number = int(order["id"])
        running = self.commands.get(number)
        if running is None:
            self.send({"id": number, "type": "unknown"})
        elif running.facts is not None:
            self.report(running)
        else:
            self.send({"id": number, "type": "running"})

    def end(self, order: dict[str, Any], payload: bytes) -> None:
        """Ends a command, or what it has left running (answered when that is gone); or sends its main process a signal."""
        running = self.commands.get(int(order["command"]))
        if running is None:
            self.pending.drop(int(order["command"]))
        if running is not None and order.get("signal") is not None:
            running.signal(int(order["signal"]))
        elif running is not None:
            running.end("")
            if running.facts is not None and running.told_fd >= 0:
                running.awaited.append(order["id"])
                return
            if running.facts is not None:
                self.sweep_group(running.number)  # where a supervisor is no subreaper it does not know what is left
        self.send({"id": order["id"], "type": "done"})

    def type_in(self, order: dict[str, Any], payload: bytes) -> None:
        """Into a command's terminal; answers how many bytes it has taken."""
        running = self.commands.get(int(order["command"]))
        taken = len(payload)  # of one that has ended: it would read them no more
        if running is not None and running.terminal in running.readers:
            assert running.terminal is not None
            with contextlib.suppress(BlockingIOError):
                taken = 0
                taken = os.write(running.terminal, payload)
        self.send({"id": order["id"], "type": "done", "taken": taken})

    def resize(self, order: dict[str, Any], payload: bytes) -> None:
        running = self.commands.get(int(order["command"]))
        if running is not None and running.terminal in running.readers:
            running.resize(int(order["rows"]), int(order["columns"]))
        self.send({"id": order["id"], "type": "done"})

    def net(self, order: dict[str, Any], payload: bytes) -> None:
        """Of the box's tunnel to the host: that it be there, or what comes over it."""
        if order["what"] == "listen":
            self.tunnel.listen()
            self.send({"id": order["id"], "type": "done"})
        else:
            self.tunnel.take(order, payload)

    def hello(self, order: dict[str, Any], payload: bytes) -> None:
        """Over a stream: a client has come, for which nothing is meant of what is unsent."""
        self.attend(True)
        self.send({"id": order["id"], "type": "hello"})

    def bye(self, order: dict[str, Any], payload: bytes) -> None:
        """Over a stream: nobody is there any more."""
        self.attend(False)

    def attend(self, attended: bool) -> None:
        self.attended = attended
        self.tunnel.drop()
        self.pending.clear()
        self.unsent.drop()
        self.flush()

    def ping(self, order: dict[str, Any], payload: bytes) -> None:
        self.send({"id": order.get("id"), "type": "done", "pid": os.getpid()})

    def read_file(self, order: dict[str, Any], payload: bytes) -> None:
        with watch.acting_as(order.get("user")):
            facts, data = files.read(order)
        self.send({"id": order["id"], "type": "done", **facts}, data)

    def write_file(self, order: dict[str, Any], payload: bytes) -> None:
        began = time.time()
        with watch.acting_as(order.get("user")):
            files.write(order, payload)
        self.send({"id": order["id"], "type": "done", "span": [began, time.time()]})

    def stat_file(self, order: dict[str, Any], payload: bytes) -> None:
        with watch.acting_as(order.get("user")):
            changed = os.lstat(order["path"]).st_ctime
        self.send({"id": order["id"], "type": "done", "changed": changed})

    def list_files(self, order: dict[str, Any], payload: bytes) -> None:
        with watch.acting_as(order.get("user")):
            entries = files.entries(order["path"], int(order["after"]))
        self.send({"id": order["id"], "type": "done", "entries": entries})

    ORDERS: ClassVar[dict[str, Callable[[Agent, dict[str, Any], bytes], None]]] = {
        "exec": start,
        "call": start,
        "ordered": start,
        "stdin": keep_stdin,
        "order": keep_order,
        "recall": recall,
        "end": end,
        "type": type_in,
        "resize": resize,
        "net": net,
        "hello": hello,
        "bye": bye,
        "ping": ping,
        "read": read_file,
        "write": write_file,
        "list": list_files,
        "stat": stat_file,
    }

    # commands

    def drain(self, running: command.Command, fd: int) -> None:
        if running.live and running.facts is None and len(self.unsent) > HIGH_WATER_BYTES and fd not in self.held:
            self.held[fd] = running
            self.selector.unregister(fd)
            return
        data = read_some(fd)
        if data is None:
            return
        if not data:
            self.close_reader(running, fd)
            return
        if running.facts is not None:
            return  # what a process that was left behind still writes
        self.note(running, running.readers[fd], data)

    def note(self, running: command.Command, stream: int, data: bytes) -> None:
        """Keeps a piece of output, and hands it on where somebody watches."""
        running.streams[stream].add(data)
        if running.live:
            self.send({"id": running.number, "type": "output", "stream": stream}, data)
        if running.num_bytes > running.output_bytes:
            running.end("output_limit")

    def close_reader(self, running: command.Command, fd: int) -> None:
        if self.held.pop(fd, None) is None:
            self.selector.unregister(fd)
        del running.readers[fd]
        os.close(fd)

    def fork_ahead(self) -> None:
        with contextlib.suppress(OSError):
            self.spare = Spare()

    def tick(self, running: command.Command) -> None:
        """Of a stateless box, where the agent itself watches."""
        seen = running.watch
        assert seen is not None
        seen.tick()
        if seen.status is not None:
            self.ended(running)

    def ended(self, running: command.Command) -> None:
        seen = running.watch
        if seen is not None:
            seen.reap()
            if seen.status is None or running.facts is not None:
                return
            seen.end("")
            self.finish(running, seen.facts())
            self.close_command(running)
            for folder in self.scratch:
                files.empty(folder)
            files.forget_ipc()
            self.commands.pop(running.number)
            self.flush()  # its answer, before the next process is made ready
            self.fork_ahead()
        else:
            text = os.read(running.told_fd, 4096)
            if running.facts is None:
                if not text:  # its supervisor was killed, by the command or for its memory
                    with contextlib.suppress(ChildProcessError):
                        os.waitpid(running.pid, 0)  # then what it leaves has become this one's
                    self.supervisors.discard(running.pid)
                    self.sweep(running.number)
                self.finish(running, json.loads(text) if text else running.facts_of_lost())
            if not text:
                self.close_command(running)

    def sweep(self, number: int) -> None:
        """Ends what has lost its supervisor: it has become this one's child, or is in a group by itself."""
        self.sweep_group(number)
        others = {self.bystander, *self.supervisors}
        while orphans := [pid for pid in watch.children(os.getpid()) if pid not in others]:
            for orphan in orphans:
                for pid in [orphan, *watch.descendants(orphan)]:
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.kill(pid, signal.SIGKILL)
            self.reap()

    def sweep_group(self, number: int) -> None:
        while alone := watch.members(watch.group_of(number)):
            for pid in alone:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.reap()

    def finish(self, running: command.Command, facts: dict[str, Any]) -> None:
        for fd in list(running.readers):  # what is there by now; a process that was left behind may write for ever
            left = fcntl.ioctl(fd, termios.FIONREAD, bytes(4))
            if data := _read_all(fd, int.from_bytes(left, sys.byteorder)):
                self.note(running, running.readers[fd], data)
        if facts["cause"] in ("", "disk_full"):
            facts["cause"] = machine.cause(running.refused_before, machine.refused(self.group)) or facts["cause"]
        running.facts, running.returned = facts, running.take_value()
        with contextlib.suppress(OSError):  # there is none, or something is left in it on purpose
            os.rmdir(watch.group_of(running.number))
        if running.number >= 0:
            self.report(running)

    def close_command(self, running: command.Command) -> None:
        """Nothing of it is left."""
        self.selector.unregister(running.told_fd)
        running.close()
        self.supervisors.discard(running.pid)
        if running.number < 0:
            del self.commands[running.number]
        for number in running.awaited:
            self.send({"id": number, "type": "done"})

    def report(self, running: command.Command) -> None:
        assert running.facts is not None
        sizes = {}
        for stream, capture in running.streams.items():
            sizes[str(stream)] = capture.num_bytes
            self.report_part(running, stream, "head", capture.head)
            self.report_part(running, stream, "tail", capture.tail)
        self.report_part(running, 3, "head", running.returned)
        self.send({"id": running.number, "type": "done", "num_bytes": sizes, **running.facts})

    def report_part(self, running: command.Command, stream: int, part: str, data: bytes) -> None:
        for start in range(0, len(data), MAX_PAYLOAD_BYTES):
            piece = data[start : start + MAX_PAYLOAD_BYTES]
            self.send({"id": running.number, "type": "kept", "stream": stream, "part": part}, piece)


def _read_all(fd: int, size: int) -> bytes:
    """So many bytes, which are there to be read."""
    data = b""
    while len(data) < size:
        data += os.read(fd, size - len(data))
    return data


def _descriptors(stream: str) -> tuple[int, int]:
    """What a stream is read from and written to, out of the way of the numbers that programs use."""
    if "/" in stream:
        fd = os.open(stream, os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        return fd, fd
    given = [int(number) for number in stream.split(",")]
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in given]
    null = os.open(os.devnull, os.O_RDWR)
    for fd in given:
        os.dup2(null, fd)
    return moved[0], moved[-1]
