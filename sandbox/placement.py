"""Which node gets a box: the least loaded of `k` that are drawn among those able (the power of `k` choices).

Pure: no I/O, no clock but the `now` that is handed in, no chance but the generator's. A client has a `Scheduler`, which knows
what nodes have reported and what itself has done since; reports are stale, so each node's `Ledger` has the last word. Used by
`sandbox/cluster.py`, and at 300,000 boxes by `tests/sim/placement.py`.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from sandbox.errors import BoxUnavailableError
from sandbox.fair import FairQueue
from sandbox.spec import BoxSpec

STEP = 0.02  # loads that differ by less are a tie, which the image decides
MIB = 1 << 20


class RefusedError(BoxUnavailableError):
    """The node has no room after all; another one may."""


class Amount(NamedTuple):
    """What boxes take of a node, or what it has for them: the sums of their limits, their number, and those that start."""

    memory_bytes: int = 0
    num_pids: int = 0
    num_boxes: int = 0
    num_starting: int = 0  # or wait for their turn to

    def plus(self, other: Amount, times: int = 1) -> Amount:
        """
        >>> Amount(1, 2).plus(Amount(10, 10, 1), -1)
        Amount(memory_bytes=-9, num_pids=-8, num_boxes=-1, num_starting=0)
        """
        return Amount(
            self.memory_bytes + times * other.memory_bytes,
            self.num_pids + times * other.num_pids,
            self.num_boxes + times * other.num_boxes,
            self.num_starting + times * other.num_starting,
        )

    def share_of(self, room: Amount) -> float:
        """The share of what there is least of.

        >>> Amount(1, 5, 1).share_of(Amount(10, 10, 10, 10))
        0.5
        """
        return max(
            self.memory_bytes / room.memory_bytes,
            self.num_pids / room.num_pids,
            self.num_boxes / room.num_boxes,
            self.num_starting / room.num_starting,
        )


NOTHING, STARTED = Amount(), Amount(num_starting=1)


def need_of(spec: BoxSpec) -> Amount:
    """What a box takes while it starts; less STARTED from then on."""
    return Amount(spec.limits.memory_bytes, spec.limits.num_pids, 1, 1)


class Ledger:
    """What a node has lent, on the node itself.

    >>> ledger = Ledger(Amount(100 << 20, 1000, 10, 10))
    >>> ledger.take(Amount(60 << 20, 128, 1, 1))
    >>> ledger.take(Amount(60 << 20, 128, 1, 1))
    Traceback (most recent call last):
    sandbox.placement.RefusedError: no room: 60 of 100 memory_bytes (MiB) are taken, 60 more are asked for
    """

    def __init__(self, room: Amount) -> None:
        self.room, self.used = room, Amount()

    def take(self, need: Amount) -> None:
        """Lends what is asked for, all or nothing.

        Raises:
            RefusedError: there is not so much.
        """
        after = self.used.plus(need)
        for name, taken, asked, total in zip(Amount._fields, self.used, need, self.room, strict=True):
            if asked and taken + asked > total:
                unit, shown = (MIB, " (MiB)") if name == "memory_bytes" else (1, "")
                raise RefusedError(
                    f"no room: {taken // unit} of {total // unit} {name}{shown} are taken, {asked // unit} more are asked for"
                )
        self.used = after

    def give(self, need: Amount) -> None:
        self.used = self.used.plus(need, -1)


@dataclass(frozen=True)
class Report:
    """What a node says of itself: `name` is for people; `kinds` of boxes are in it that were made there."""

    node: str
    name: str
    kinds: frozenset[str]
    room: Amount
    used: Amount = NOTHING
    images: frozenset[str] = frozenset()  # in its store
    warm: frozenset[str] = frozenset()  # of these boxes live there now: layers mounted, pages in memory
    why_not: Mapping[str, str] = field(default_factory=dict)  # kinds that could not be had there

    def objection(self, spec: BoxSpec) -> str | None:
        """Why such a box could never be here; None if it could.

        >>> report = Report("1", "a", frozenset({"function"}), Amount(64 << 20, 1000, 10, 10))
        >>> from sandbox.spec import LayerName
        >>> report.objection(BoxSpec(LayerName.FUNCTION))
        'it has 64 MiB for boxes, and 512 are asked for'
        """
        if spec.kind not in self.kinds:
            return f"no {spec.kind} there: {self.why_not.get(spec.kind, 'it was not tried; name its layer in `layers`')}"
        if spec.image is not None and spec.image not in self.images:
            return f"no image {spec.image} there; it has: {', '.join(sorted(self.images)) or 'none'}"
        if spec.limits.memory_bytes > self.room.memory_bytes:
            return f"it has {self.room.memory_bytes // MIB} MiB for boxes, and {spec.limits.memory_bytes // MIB} are asked for"
        if spec.limits.num_pids > self.room.num_pids:
            return f"it has {self.room.num_pids} processes for boxes, and {spec.limits.num_pids} are asked for"
        return None


@dataclass(eq=False)
class Request:
    """Somebody who wants a box; `tried`: nodes that need not be asked."""

    spec: BoxSpec
    label: str = ""
    tried: set[str] = field(default_factory=set)
    num_placed: int = 0
    need: Amount = field(init=False)

    def __post_init__(self) -> None:
        self.need = need_of(self.spec)


class _Seen:
    """A node as this client knows it: its last report, and what the client itself has changed there since."""

    def __init__(self, report: Report, at: float) -> None:
        self.report, self.at, self.used, self.refuses = report, at, report.used, False
        self._changes = deque[tuple[float, Amount, int]]()

    def renew(self, report: Report, at: float) -> None:
        while self._changes and self._changes[0][0] <= at:
            self._changes.popleft()
        self.report, self.at, self.refuses, self.used = report, at, False, report.used
        for _, need, times in self._changes:
            self.used = self.used.plus(need, times)

    def change(self, now: float, need: Amount, times: int) -> None:
        self._changes.append((now, need, times))
        self.used = self.used.plus(need, times)

    def takes(self, spec: BoxSpec, need: Amount) -> bool:
        (memory, pids, boxes, starting), used, room = need, self.used, self.report.room
        return (
            used[0] + memory <= room[0]
            and used[1] + pids <= room[1]
            and used[2] + boxes <= room[2]
            and used[3] + starting <= room[3]
            and not self.refuses
            and self.report.objection(spec) is None
        )


class Scheduler:
    """Places requests, each in its label's turn. Whoever cannot be placed waits, and holds up its own label alone.

    >>> from sandbox.spec import LayerName
    >>> scheduler = Scheduler(random.Random(0), k=2, max_age_s=5.0)
    >>> for node, taken in ("a", 3), ("b", 1):
    ...     used = Amount(taken << 30, taken, taken)
    ...     scheduler.report(Report(node, node, frozenset({"function"}), Amount(4 << 30, 1000, 10, 10), used), now=0.0)
    >>> scheduler.submit(Request(BoxSpec(LayerName.FUNCTION)))
    >>> [node for _, node in scheduler.placements(now=0.1)]
    ['b']
    """

    def __init__(self, rng: random.Random, k: int | None, max_age_s: float) -> None:
        """`k`: how many nodes to compare, None for all. `max_age_s`: a node that is silent for longer gets nothing."""
        if k is not None and k < 1:
            raise ValueError(f"k: got {k}; at least 1")
        self.k, self.max_age_s, self._rng = k, max_age_s, rng
        self._seen = dict[str, _Seen]()
        self._order = list[_Seen]()
        self.waiting = FairQueue[Request]()
        self._stuck = set[str]()  # labels whose first request found no node since anything changed

    def report(self, report: Report, now: float) -> None:
        """`now`: when the node was asked; what this client did there later is not in the report."""
        seen = self._seen.get(report.node)
        if seen is None:
            seen = self._seen[report.node] = _Seen(report, now)
            self._order.append(seen)
        else:
            seen.renew(report, now)
        self._stuck.clear()

    def forget(self, node: str) -> None:
        """The node is gone."""
        seen = self._seen.pop(node, None)
        if seen is not None:
            self._order.remove(seen)

    def able(self, node: str, spec: BoxSpec) -> bool:
        """Whether the node could ever have such a box."""
        return node in self._seen and self._seen[node].report.objection(spec) is None

    def objections(self, spec: BoxSpec) -> dict[str, str]:
        """By the names of the nodes that could never have such a box: why."""
        found = {seen.report.name: seen.report.objection(spec) for seen in self._order}
        return {name: why for name, why in found.items() if why is not None}

    def impossible(self, spec: BoxSpec) -> bool:
        """Whether there are nodes, and none could ever have such a box."""
        return bool(self._order) and all(seen.report.objection(spec) is not None for seen in self._order)

    def submit(self, request: Request) -> None:
        """One that was placed, and refused there, is the next."""
        if request.num_placed:
            self.waiting.put_back(request.label, request)
            self._stuck.discard(request.label)
        else:
            self.waiting.add(request.label, request)

    def withdraw(self, request: Request) -> None:
        """It waits no longer."""
        self.waiting.remove(request.label, request)
        self._stuck.discard(request.label)

    def placements(self, now: float) -> Iterator[tuple[Request, str]]:
        """Everybody who can be placed now, and where; that much of the node counts as taken from then on."""
        moved = True
        while moved:
            moved = False
            for label in self.waiting.labels():
                if label in self._stuck:
                    continue
                seen = self._choose(self.waiting.first(label), now)
                if seen is None:
                    self._stuck.add(label)
                    continue
                request = self.waiting.take(label)
                seen.change(now, request.need, 1)
                request.num_placed += 1
                moved = True
                yield request, seen.report.node

    def refused(self, request: Request, node: str, now: float) -> None:
        """The node did not take it; nothing is asked of it before its next report."""
        seen = self._seen.get(node)
        if seen is not None:
            seen.change(now, request.need, -1)
            seen.refuses = True

    def started(self, node: str, now: float) -> None:
        self._change(node, now, STARTED)

    def ended(self, spec: BoxSpec, node: str, now: float) -> None:
        """A box that had started is gone."""
        self._change(node, now, need_of(spec)._replace(num_starting=0))

    def failed(self, request: Request, node: str, now: float) -> None:
        """A box that was placed there never came up."""
        self._change(node, now, request.need)

    def state(self, now: float) -> str:
        """What is known of room, for an error's text."""
        silent = sum(now - seen.at > self.max_age_s for seen in self._order)
        loads = ", ".join(f"{seen.report.name} {seen.used.share_of(seen.report.room):.0%}" for seen in self._order[:8])
        return f"{len(self._order)} nodes, {silent} silent; taken: {loads or 'nothing'}; waiting: {self.waiting.counts()}"

    def _change(self, node: str, now: float, need: Amount) -> None:
        seen = self._seen.get(node)
        if seen is not None:
            seen.change(now, need, -1)
            self._stuck.clear()

    def _choose(self, request: Request, now: float) -> _Seen | None:
        """The least loaded of `k` able nodes; among equals one that has the image warm."""
        best, best_key, num_found = None, (0, False, 0.0), 0
        image, tried, oldest = request.spec.image, request.tried, now - self.max_age_s
        for seen in _shuffled(self._order, self._rng):
            if seen.at < oldest or seen.report.node in tried or not seen.takes(request.spec, request.need):
                continue
            load = seen.used.share_of(seen.report.room)
            key = (int(load / STEP), image is not None and image not in seen.report.warm, load)
            if best is None or key < best_key:
                best, best_key = seen, key
            num_found += 1
            if num_found == self.k:
                break
        return best


def _shuffled(nodes: list[_Seen], rng: random.Random) -> Iterator[_Seen]:
    """In an order by chance; only as much of it is made as is asked for. The list keeps it, which changes no odds."""
    for i in range(len(nodes)):
        j = i + int(rng.random() * (len(nodes) - i))
        nodes[i], nodes[j] = nodes[j], nodes[i]
        yield nodes[i]
