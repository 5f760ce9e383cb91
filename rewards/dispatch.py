"""Deals work out to the processes of rewards: as many at once as there are cores, and more where calls wait or hang.

A call that lasts and does not compute makes room for another. One that computes and has lasted far longer than calls do makes
room as well, at the lowest priority from then on: so a share of calls that hang costs their deadlines and little of the
others' time. Every call that runs has a process of its own. Called by `rewards.isolation`.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rewards.child import how_it_ended
from rewards.link import ChildDiedError, Link
from rewards.nursery import DYING_S, Nursery
from rewards.work import Work

MAX_CHILDREN = 64  # processes at once, those that wait or hang included
LOOK_S = 0.1  # between two looks at a call that lasts, and whether its process lives
WAITS_AFTER, WAITS_S = 3, 0.25  # times the usual duration, and at most so long, until a call that does not compute makes room
FAR = 6  # times the usual duration, after which one that computes does
LEAST_S = 0.005  # in place of the usual duration where that is less
FIRST_S = 0.3  # and while too few calls have ended to know it
NUM_USUAL = 8  # that have to have ended for that


@dataclass
class Running:
    """A piece of work in its process."""

    child: Link
    work: Work
    began: float
    look_at: float
    is_counted: bool
    computed: bool = True  # when it was looked at last
    is_slowed: bool = False
    is_sent: bool = True


class Dispatcher:
    """Holds the processes between calls of `run`; one thread at a time, `kill` from any."""

    def __init__(self, nursery: Nursery, num_processes: int, max_children: int = MAX_CHILDREN) -> None:
        self._nursery, self._num_processes, self._max_children = nursery, min(num_processes, max_children), max_children
        self._idle: list[Link] = []
        self._all: set[Link] = set()
        self._lock = threading.Lock()
        self._durations: deque[float] = deque(maxlen=256)
        self._killed = threading.Event()

    def run(self, works: Iterable[Work]) -> None:
        """Have all of it done.

        Raises:
            UserError: a process had to be started again, and the rewards did not load there.
            ChildDiedError: `kill` was called.
        """
        waiting, running, poll = deque(works), dict[int, Running](), select.poll()
        try:
            while waiting or running:
                self._start(waiting, running, poll)
                now = time.monotonic()
                for one in [one for one in running.values() if now >= one.look_at]:
                    self._look(one, now, waiting, running, poll)
                next_look = min((one.look_at for one in running.values()), default=now)
                for fd, event in poll.poll(max(0.0, next_look - time.monotonic()) * 1000):
                    if fd in running:
                        self._hear(running[fd], event, waiting, running, poll)
                if self._killed.is_set():
                    raise ChildDiedError
        except BaseException:
            for one in running.values():
                self._end(one.child)
            raise
        while len(self._idle) > self._num_processes:
            self._drop(self._idle.pop(0))

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
            look_at = min(now + self._waits_s, work.look_at)
            one = Running(child, work, now, look_at, work.holds_process)
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
            self._drop(one.child)
        else:
            self._idle.append(one.child)

    def _gone(
        self, one: Running, waiting: deque[Work], running: dict[int, Running], poll: select.poll, why: str | None
    ) -> None:
        """The child died (`why` None) or is to be ended."""
        self._remove(one, running, poll)
        if why is None:
            why = how_it_ended(self._end(one.child, grace_s=DYING_S))
        else:
            self._drop(one.child)
        if self._killed.is_set():
            raise ChildDiedError
        waiting.extendleft(reversed(one.work.end(why)))

    def _look(self, one: Running, now: float, waiting: deque[Work], running: dict[int, Running], poll: select.poll) -> None:
        """Ends what is over its time or dead, and finds out whether a call that lasts makes room."""
        if one.child.has_data():
            return  # heard first: it may be this process that is late, after the end of another call that took long to die
        if one.work.overdue(now):
            self._remove(one, running, poll)
            self._drop(one.child)
            waiting.extendleft(reversed(one.work.end(None)))
            return
        if one.child.ended:
            self._gone(one, waiting, running, poll, None)
            return
        next_s = LOOK_S  # what makes room already is looked at seldom: a look costs some tenths of a millisecond
        if waiting and one.work.holds_process and not one.is_slowed:
            self._weigh(one, now - one.began)
            if one.is_counted:
                next_s = min(LOOK_S, max(LEAST_S, self._usual_s))
        one.look_at = min(now + next_s, one.work.look_at)

    def _weigh(self, one: Running, lasted_s: float) -> None:
        """Whether a call that lasts still counts among those that may run: found to wait twice, or slowed, it does not."""
        pids = _family(one.child.pid)
        computes = any(map(_computes, pids))
        if computes and lasted_s > FAR * self._usual_s:
            one.is_slowed = True
            for pid in pids:
                _slow(pid)
        one.is_counted = (computes or one.computed) and not one.is_slowed
        one.computed = computes

    @property
    def _waits_s(self) -> float:
        """How long a call has lasted when it is looked at first."""
        return min(WAITS_AFTER * self._usual_s, WAITS_S)

    @property
    def _usual_s(self) -> float:
        """How long a call lasts that does not hang."""
        if len(self._durations) < NUM_USUAL:
            return FIRST_S
        return max(LEAST_S, sum(self._durations) / len(self._durations))

    def _remove(self, one: Running, running: dict[int, Running], poll: select.poll) -> None:
        with contextlib.suppress(KeyError):
            poll.unregister(one.child)
        del running[one.child.fileno()]

    def _drop(self, child: Link) -> None:
        child.drop()
        with self._lock:
            self._all.discard(child)

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
        for words in _of_threads(pids.popleft(), "children"):
            below = [int(word) for word in words.split()]
            found += below
            pids += below
    return found


def _computes(pid: int) -> bool:
    """Whether a thread of the process runs, or would if it had a core."""
    return any(words.rpartition(")")[2].split()[0] == "R" for words in _of_threads(pid, "stat"))


def _of_threads(pid: int, name: str) -> Iterator[str]:
    """What the kernel says in this file of each thread; of a process that has ended, nothing."""
    folder = f"/proc/{pid}/task"
    with contextlib.suppress(OSError):
        for thread in os.listdir(folder):
            with contextlib.suppress(OSError), open(f"{folder}/{thread}/{name}") as file:
                yield file.read()


def _slow(pid: int) -> None:
    """Next to nothing while others compute; in its session and, where the kernel schedules these as groups, among them."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text("19")
