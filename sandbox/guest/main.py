"""The agent's start and its loop: it takes orders in frames, has commands run, and answers.

It outlives its connections: a command goes on while nobody is connected. Who is connected is `sandbox/guest/peer.py`'s matter,
what runs `sandbox/guest/roster.py`'s; started by `sandbox/layers/base.py` and `sandbox/guest/machine.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import gc
import os
import selectors
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, ClassVar

from sandbox.guest import files, watch
from sandbox.guest.peer import Peer
from sandbox.guest.pending import Pending
from sandbox.guest.roster import Roster
from sandbox.guest.tunnel import Tunnel

ABSENT_S = 0.01  # between two looks whether somebody has opened the other side of a stream that is a device


def main() -> None:
    parser = argparse.ArgumentParser()
    ways = parser.add_mutually_exclusive_group(required=True)
    ways.add_argument("--listen", type=int, help="descriptor of a listening socket")
    ways.add_argument("--stream", help="in its place: two descriptors `IN,OUT`, or one, or the path of a device")
    parser.add_argument("--stateless", action="store_true")
    parser.add_argument(
        "--scratch", action="append", default=[], help="folder to empty between a stateless box's commands, and for `scrub`"
    )
    parser.add_argument("--group", help="control group of the commands, where the host has no counters of its own")
    parser.add_argument("--bystander", type=int, help="a process that is no command's, to be left alone")
    parser.add_argument("--life", type=int, help="descriptor whose end says that whoever keeps the box is gone")
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
        agent.peer.listen(arguments.listen)
    else:
        agent.peer.attach(*_descriptors(arguments.stream))
    if arguments.life is not None:
        os.set_inheritable(arguments.life, False)
        agent.selector.register(arguments.life, selectors.EVENT_READ, sys.exit)
    agent.roster.group, agent.roster.bystander = arguments.group, arguments.bystander
    if arguments.renewal is not None:
        agent.renew_on_signal(arguments.renewal)
    gc.freeze()  # what is there by now is never collected, so the processes that are forked go on sharing it
    if arguments.stateless:
        agent.roster.fork_ahead()
    agent.run()


class Agent:
    """All state of a box's agent: one selector, and what is told by it."""

    def __init__(self, stateless: bool, scratch: list[str]) -> None:
        self.selector = selectors.DefaultSelector()
        self.pending = Pending()
        self.renewal: str | None = None  # the file whose content is to be said first to a new host
        self.peer = Peer(self.selector, self.obey, self.forget_client)
        self.roster = Roster(self.selector, self.peer, stateless, scratch)
        self.tunnel = Tunnel(self.selector, self.peer)

    def run(self) -> None:
        while True:
            if self.renewal is not None:
                self.renew(self.renewal)
            waits = list(self.roster.waits_s())
            if self.peer.is_absent():
                waits.append(ABSENT_S)
            self.roster.release()
            for key, _ in self.selector.select(min(waits, default=None)):
                now = self.selector.get_map().get(key.fd)
                if now is not None and now.data is key.data:  # else one that was handled before it has closed it
                    key.data()
            self.roster.look_after()
            self.peer.flush()

    def forget_client(self) -> None:
        """Nobody is there, or somebody else: what was sent ahead, or goes through the tunnel, is nobody's."""
        self.tunnel.drop()
        self.pending.clear()

    def renew_on_signal(self, path: str) -> None:
        def note(*_: Any) -> None:
            self.renewal = path

        signal.signal(signal.SIGUSR1, note)

    def renew(self, path: str) -> None:
        """This machine is a copy now: nothing on the stream was meant for it, and no command was begun for its host."""
        with open(path, "rb") as file:
            mark = file.read()
        self.renewal = None
        self.roster.disown()
        self.peer.begin_anew(mark)

    # orders

    def obey(self, order: dict[str, Any], payload: bytes) -> None:
        """Carry out one order; whatever is wrong with it is answered as an error, and the agent goes on."""
        number = order.get("id")
        try:
            self.ORDERS[order["op"]](self, order, payload)
        except OSError as error:
            self.peer.send({"id": number, "type": "error", "errno": error.errno, "message": error.strerror or str(error)})
        except Exception as error:  # noqa: BLE001 - whatever is wrong with an order, the commands that run are kept
            self.peer.send({"id": number, "type": "error", "errno": None, "message": f"{type(error).__name__}: {error}"})

    def start(self, order: dict[str, Any], payload: bytes) -> None:
        number = int(order["id"])
        if payload:
            self.pending.add_stdin(number, payload)
        if order["op"] == "ordered":
            order = self.pending.take_order(number)
        self.roster.make_room(number, order.get("forget", ()))
        if isinstance(order.get("user"), str):
            order["user"] = files.user(order["user"])
        self.roster.begin(number, order, self.pending)

    def keep_stdin(self, order: dict[str, Any], payload: bytes) -> None:
        self.pending.add_stdin(int(order["id"]), payload)
        self.peer.send({"id": order["id"], "type": "done"})

    def keep_order(self, order: dict[str, Any], payload: bytes) -> None:
        self.pending.add_order(int(order["id"]), payload)
        self.peer.send({"id": order["id"], "type": "done"})

    def recall(self, order: dict[str, Any], payload: bytes) -> None:
        """What became of a command: its end again if it has ended, later if it runs, `unknown` if it never began here."""
        number = int(order["id"])
        running = self.roster.get(number)
        if running is None:
            self.peer.send({"id": number, "type": "unknown"})
        elif running.facts is not None:
            self.roster.report(running)
        else:
            self.peer.send({"id": number, "type": "running"})

    def end(self, order: dict[str, Any], payload: bytes) -> None:
        """Ends a command, or what it has left running (answered when that is gone); or sends its main process a signal."""
        running = self.roster.get(int(order["command"]))
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
                self.roster.sweep_group(running.number)  # where a supervisor is no subreaper it does not know what is left
        self.peer.send({"id": order["id"], "type": "done"})

    def end_all(self, order: dict[str, Any], payload: bytes) -> None:
        """Ends all that commands run and have left running. It starts nothing for that: there may be no room for it."""
        self.roster.end_all()
        self.peer.send({"id": order["id"], "type": "done"})

    def scrub(self, order: dict[str, Any], payload: bytes) -> None:
        """Makes the box as new for another user."""
        self.forget_client()
        self.roster.scrub()
        self.peer.send({"id": order["id"], "type": "done"})

    def type_in(self, order: dict[str, Any], payload: bytes) -> None:
        """Into a command's terminal; answers how many bytes it has taken."""
        running = self.roster.get(int(order["command"]))
        taken = len(payload)  # of one that has ended: it would read them no more
        if running is not None and running.terminal in running.readers:
            assert running.terminal is not None
            with contextlib.suppress(BlockingIOError):
                taken = 0
                taken = os.write(running.terminal, payload)
        self.peer.send({"id": order["id"], "type": "done", "taken": taken})

    def resize(self, order: dict[str, Any], payload: bytes) -> None:
        running = self.roster.get(int(order["command"]))
        if running is not None and running.terminal in running.readers:
            running.resize(int(order["rows"]), int(order["columns"]))
        self.peer.send({"id": order["id"], "type": "done"})

    def net(self, order: dict[str, Any], payload: bytes) -> None:
        """Of the box's tunnel to the host: that it be there, or what comes over it."""
        if order["what"] == "listen":
            self.tunnel.listen()
            self.peer.send({"id": order["id"], "type": "done"})
        else:
            self.tunnel.take(order, payload)

    def hello(self, order: dict[str, Any], payload: bytes) -> None:
        """Over a stream: a client has come, for which nothing is meant of what is unsent."""
        self.peer.attend(True)
        self.peer.send({"id": order["id"], "type": "hello"})

    def bye(self, order: dict[str, Any], payload: bytes) -> None:
        """Over a stream: nobody is there any more."""
        self.peer.attend(False)

    def ping(self, order: dict[str, Any], payload: bytes) -> None:
        self.peer.send({"id": order.get("id"), "type": "done", "pid": os.getpid()})

    def read_file(self, order: dict[str, Any], payload: bytes) -> None:
        with watch.acting_as(order.get("user")):
            facts, data = files.read(order)
        self.peer.send({"id": order["id"], "type": "done", **facts}, data)

    def write_file(self, order: dict[str, Any], payload: bytes) -> None:
        began = time.time()
        with watch.acting_as(order.get("user")):
            files.write(order, payload)
        self.peer.send({"id": order["id"], "type": "done", "span": [began, time.time()]})

    def stat_file(self, order: dict[str, Any], payload: bytes) -> None:
        with watch.acting_as(order.get("user")):
            changed = os.lstat(order["path"]).st_ctime
        self.peer.send({"id": order["id"], "type": "done", "changed": changed})

    def list_files(self, order: dict[str, Any], payload: bytes) -> None:
        with watch.acting_as(order.get("user")):
            entries = files.entries(order["path"], int(order["after"]))
        self.peer.send({"id": order["id"], "type": "done", "entries": entries})

    ORDERS: ClassVar[dict[str, Callable[[Agent, dict[str, Any], bytes], None]]] = {
        "exec": start,
        "call": start,
        "ordered": start,
        "stdin": keep_stdin,
        "order": keep_order,
        "recall": recall,
        "end": end,
        "end_all": end_all,
        "scrub": scrub,
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
