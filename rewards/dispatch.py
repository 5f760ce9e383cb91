"""Deals work out to the processes of rewards: as many at once as there are cores, and more where calls wait or hang.

A call that lasts and does not compute makes room for another. One that computes and has lasted far longer than calls do makes
room as well, at the lowest priority from then on: so a share of calls that hang costs their deadlines and little of the
others' time. Every call that runs has a process of its own. Called by `rewards.isolation`.
"""

from __future__ import annotations

import contextlib
import os
import select
import statistics
import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rewards.child import how_it_ended
from rewards.link import ChildDiedError, Link
from rewards.nursery import DYING_S, Nursery
from rewards.work import Work

MAX_CHILDREN = 64  # processes at once, those that wait or hang included
LOOK_S = 0.1  # between two looks at calls that last
LONG_S = 0.25  # a call that has lasted so long is looked at
FAR = 20  # times the usual duration, after which a call that computes makes room
FIRST_LONG_S = 2.0  # in place of that while too few have ended to know what is usual
KNOWN = 8  # that have to have ended for that
BUSY_SHARE = 0.3  # of a core, from which on a call computes
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass
class Running:
    """A piece of work in its process."""

    child: Link
    work: Work
    began: float
    looked: float
    is_counted: bool
    busy_s: float | None = None  # that its processes had been at it, or wanted to be, at the last look
    is_slowed: bool = False
    is_sent: bool = True


class Dispatcher:
    """Holds the processes between calls of `run`; one thread at a time, `kill` from any."""

    def __init__(self, nursery: Nursery, num_processes: int, max_children: int = MAX_CHILDREN) -> None:
        self._nursery, self._num_processes, self._max_children = nursery, min(num_processes, max_children), max_children
        self._idle: list[Link] = []
        self._all: set[Link] = set()
        self._lock = threading.Lock()
        self._durations: deque[float] = deque(maxlen=64)
        self._killed = threading.Event()

    def run(self, works: Iterable[Work]) -> None:
        """Have all of it done.

        Raises:
            UserError: a process had to be started again, and the rewards did not load there.
            ChildDiedError: `kill` was called.
        """
        waiting, running, poll = deque(works), dict[int, Running](), select.poll()
        look_at = 0.0
        try:
            while waiting or running:
                self._start(waiting, running, poll)
                now = time.monotonic()
                if now >= look_at:
                    self._look(now, waiting, running, poll)
                    look_at = min([now + LOOK_S, *(one.work.look_at for one in running.values())])
                for fd, event in poll.poll(max(0.0, look_at - time.monotonic()) * 1000):
                    if fd in running:
                        self._hear(running[fd], event, waiting, running, poll)
                if self._killed.is_set():
                    raise ChildDiedError
        except BaseException:
            for one in running.values():
                self._end(one.child)
            raise
        while len(self._idle) > self._num_processes:
            self._end(self._idle.pop(0))

    def kill(self) -> None:
        """From any thread: `run` raises, and no further one works."""
        self._killed.set()
        with self._lock:
            children = list(self._all)
        for child in children:
            child.kill()

    def close(self) -> None:
        for child in list(self._all):
            self._end(child)
        self._idle.clear()

    def _start(self, waiting: deque[Work], running: dict[int, Running], poll: select.poll) -> None:
        """As much of what waits as there is room for."""
        while waiting and self._has_room(waiting[0], running.values()):
            work = waiting.popleft()
            child = self._child()
            now = time.monotonic()
            message, fds = work.request()
            one = Running(child, work, now, now, work.holds_process)
            running[child.fileno()] = one
            try:
                one.is_sent = child.post(message, fds)
            except ChildDiedError:
                self._gone(one, waiting, running, poll, None)
                continue
            finally:
                for fd in fds:
                    os.close(fd)
            poll.register(child, select.POLLIN if one.is_sent else select.POLLIN | select.POLLOUT)

    def _has_room(self, work: Work, running: Iterable[Running]) -> bool:
        all_of_them = list(running)
        if self._nursery.alone_because is not None:
            return not all_of_them
        if len(all_of_them) >= self._max_children:
            return False
        return not work.holds_process or sum(one.is_counted for one in all_of_them) < self._num_processes

    def _hear(self, one: Running, event: int, waiting: deque[Work], running: dict[int, Running], poll: select.poll) -> None:
        try:
            if event & select.POLLOUT and not one.is_sent and one.child.flush():
                one.is_sent = True
                poll.modify(one.child, select.POLLIN)
            if event & ~select.POLLOUT:
                for reply in one.child.fetch():
                    if one.work.take(reply):
                        self._finish(one, running, poll)
                        return
        except ChildDiedError:
            self._gone(one, waiting, running, poll, None)
        except ValueError:
            self._gone(one, waiting, running, poll, "wrote to the connection that its result goes over")

    def _finish(self, one: Running, running: dict[int, Running], poll: select.poll) -> None:
        poll.unregister(one.child)
        del running[one.child.fileno()]
        if one.work.holds_process:
            self._durations.append(time.monotonic() - one.began)
        if one.is_slowed:  # it cannot be given its priority back
            self._end(one.child)
        else:
            self._idle.append(one.child)

    def _gone(
        self, one: Running, waiting: deque[Work], running: dict[int, Running], poll: select.poll, why: str | None
    ) -> None:
        """The child died (`why` None) or is to be ended."""
        with contextlib.suppress(KeyError):
            poll.unregister(one.child)
        del running[one.child.fileno()]
        status = self._end(one.child, grace_s=0.0 if why else DYING_S)
        if self._killed.is_set():
            raise ChildDiedError
        waiting.extendleft(reversed(one.work.end(why or how_it_ended(status))))

    def _look(self, now: float, waiting: deque[Work], running: dict[int, Running], poll: select.poll) -> None:
        """Ends what is over its time, notes what has died, and finds out which calls make room."""
        for one in list(running.values()):
            if one.work.overdue(now):
                poll.unregister(one.child)
                del running[one.child.fileno()]
                self._end(one.child)
                waiting.extendleft(reversed(one.work.end(None)))
            elif one.child.ended:  # what it wrote before stays readable
                if not one.child.has_data():
                    self._gone(one, waiting, running, poll, None)
            elif waiting and one.work.holds_process and now - one.began > LONG_S and now - one.looked >= LOOK_S:
                self._weigh(one, now)

    def _weigh(self, one: Running, now: float) -> None:
        """Whether a call that lasts still counts among those that may run."""
        pids = _family(one.child.pid)
        busy_s = sum(map(_busy_s, pids))
        if one.busy_s is not None and not one.is_slowed:
            computes = busy_s - one.busy_s > BUSY_SHARE * (now - one.looked)
            usual_s = statistics.median(self._durations) if len(self._durations) >= KNOWN else FIRST_LONG_S / FAR
            if computes and now - one.began > max(LONG_S, FAR * usual_s):
                one.is_slowed = True
                for pid in pids:
                    _slow(pid)
            one.is_counted = computes and not one.is_slowed
        one.busy_s, one.looked = busy_s, now

    def _child(self) -> Link:
        while self._idle:
            child = self._idle.pop()
            if not child.ended:
                return child
            self._end(child)
        if self._killed.is_set():
            raise ChildDiedError
        child = self._nursery.child()
        with self._lock:
            self._all.add(child)
        if self._killed.is_set():  # by another thread, just before it could see this child
            self._end(child)
            raise ChildDiedError
        return child

    def _end(self, child: Link, *, grace_s: float = 0.0) -> int | None:
        status = child.close(grace_s=grace_s)
        with self._lock:
            self._all.discard(child)
        return status


def _family(pid: int) -> list[int]:
    """A process and what it has started."""
    found, pids = [pid], deque([pid])
    while pids:
        for tasks in Path(f"/proc/{pids.popleft()}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                below = [int(word) for word in tasks.read_text().split()]
                found += below
                pids += below
    return found


def _busy_s(pid: int) -> float:
    """How long a process's threads have run or waited for a core, and those processes that it has waited for."""
    total = 0.0
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += sum(map(int, words[13:15])) * TICK_S
    for thread in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):
            ran, waited, _ = map(int, thread.read_text().split())
            total += (ran + waited) / 1e9
    return total


def _slow(pid: int) -> None:
    """The lowest priority, inside its session and, where the kernel schedules sessions as groups, among them."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, 19)
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text("19")
