"""A cluster of boxes simulated event by event, placed by the code that places real ones (`sandbox/placement.py`, `fair.py`).

`python -m tests.sim.placement --write` writes docs/results/placement.md: 160 nodes, 300,000 boxes, 5,000 creates a second.
Simulated are arrivals, reports, refusals, starting, lifetimes, a node's death and one that joins; not what boxes do.
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from sandbox.errors import BoxUnavailableError
from sandbox.fair import FairQueue
from sandbox.placement import STARTED, Amount, Ledger, Report, Request, Scheduler
from sandbox.spec import BoxSpec, LayerName, Limits
from tests.bench.common import table, write

IMAGES = frozenset({"image"})
SPECS = [BoxSpec(LayerName.CONTAINER, "image", limits=Limits(memory_bytes=mib << 20)) for mib in (256, 512, 2048)]
KINDS = frozenset(spec.kind for spec in SPECS)
WEIGHTS = (0.50, 0.35, 0.15)  # of the specs
SIZES = (1.0, 1.5, 2.0)  # of nodes, relative
SPREAD = 1.5  # of a lifetime's logarithm: the mean is three times the median, one in a hundred is 33 times it
START_S, START_SPREAD = 0.062, 0.3  # median, and of its logarithm: a container until its agent answers
SLOTS, MAX_STARTING = 8, 64  # of a node: starting at once, and waiting for that as well
ONE_WAY_S = 0.001
RUNS = {"large": 0.8, "b": 0.05, "c": 0.05, "d": 0.05, "e": 0.05}  # labels, and their shares of what is asked for


@dataclass(frozen=True)
class Setup:
    """A simulation; lifetimes follow from how many boxes live and how many are made a second."""

    k: int | None
    num_nodes: int = 160
    num_alive: int = 300_000
    creates_per_s: float = 5_000.0
    fill: float = 0.85  # what the boxes alive take of the memory that there is; above 1 not everybody finds room
    heartbeat_s: float = 1.0
    num_clients: int = 16
    seconds: float = 30.0
    death_s: float = 6.0  # when a node of middle size dies
    detect_s: float = 10.0  # until the cluster says so
    join_s: float = 20.0  # when an empty one comes
    seed: int = 0

    @property
    def life_s(self) -> float:
        return self.num_alive / self.creates_per_s


@dataclass(eq=False)
class Box:
    request: Request
    client: Client
    asked: float
    life_s: float
    again: bool = False  # in place of one that was lost
    node: Node | None = None


@dataclass(eq=False)
class Node:
    name: str
    ledger: Ledger
    died: float = math.inf
    num_busy: int = 0
    waiting: FairQueue[Box] = field(default_factory=FairQueue[Box])
    boxes: set[Box] = field(default_factory=set)  # that wait, start or live here

    def report(self) -> Report:
        return Report(self.name, self.name, KINDS, self.ledger.room, self.ledger.used, IMAGES, IMAGES)

    @property
    def load(self) -> float:
        return self.ledger.used.memory_bytes / self.ledger.room.memory_bytes


@dataclass(eq=False)
class Client:
    scheduler: Scheduler
    boxes: dict[Request, Box] = field(default_factory=dict)  # that it waits for


@dataclass
class Outcome:
    """What is counted. Latencies are of requests, in seconds, until the client has its box."""

    latency_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    num_asked: int = 0
    num_created: int = 0
    num_refused: int = 0
    num_failed: int = 0  # sent to, or starting on, a node that was dead or died
    num_waiting: int = 0  # at the end, wherever
    imbalance: list[float] = field(default_factory=list)  # the fullest node's load to the mean, each second
    loads: list[float] = field(default_factory=list)  # at the end
    lost: int = 0  # boxes that lived on the dead node
    remade_s: float = 0.0  # from its death until the last of them was there again
    joined_load: float = 0.0
    place_s: float = 0.0  # of processor time, one placement

    def percentile(self, q: float, label: str | None = None) -> float:
        chosen = [v for name, values in self.latency_s.items() if label in (None, name) for v in values]
        return float(np.percentile(chosen, q))


class Simulation:
    def __init__(self, setup: Setup) -> None:
        self.setup, self.rng, self.out = setup, random.Random(setup.seed), Outcome()
        sizes = [SIZES[i % len(SIZES)] for i in range(setup.num_nodes)]
        mean_bytes = sum(w * spec.limits.memory_bytes for w, spec in zip(WEIGHTS, SPECS, strict=True))
        self._unit = setup.num_alive * mean_bytes / setup.fill / sum(sizes)
        self.nodes = {f"n{i}": self._node(f"n{i}", size) for i, size in enumerate(sizes)}
        self.clients = [Client(self._scheduler(i)) for i in range(setup.num_clients)]
        self.to_remake = set[Box]()
        self._events = list[tuple[float, int, Callable[..., None], tuple[Any, ...]]]()
        self._count = 0
        self._placing_s, self._num_placed = 0.0, 0

    def _node(self, name: str, size: float) -> Node:
        return Node(name, Ledger(Amount(int(size * self._unit), 1 << 40, 1 << 40, MAX_STARTING)))

    def _scheduler(self, number: int) -> Scheduler:
        rng = random.Random(self.setup.seed * 1000 + number)
        return Scheduler(rng, self.setup.k, 4 * self.setup.heartbeat_s)

    def at(self, when: float, what: Callable[..., None], *words: Any) -> None:
        self._count += 1
        heapq.heappush(self._events, (when, self._count, what, words))

    def run(self) -> Outcome:
        setup = self.setup
        self._fill()
        for node in self.nodes.values():
            self.at(self.rng.random() * setup.heartbeat_s, self._heartbeat, node)
            self._tell_all(node, 0.0)
        self.at(0.0, self._arrive)
        self.at(setup.death_s, self._die, self.nodes["n1"])
        self.at(setup.join_s, self._join)
        for second in range(1, int(setup.seconds)):
            self.at(float(second), self._look)
        while self._events[0][0] < setup.seconds:
            now, _, what, words = heapq.heappop(self._events)
            what(now, *words)
        out = self.out
        out.num_waiting = sum(len(client.boxes) for client in self.clients)
        out.loads = [node.load for node in self.nodes.values() if node.died == math.inf]
        out.joined_load = self.nodes["joined"].load / float(np.mean(out.loads)) if "joined" in self.nodes else 0.0
        out.place_s = self._placing_s / max(1, self._num_placed)
        return out

    def _spec(self) -> BoxSpec:
        return self.rng.choices(SPECS, WEIGHTS)[0]

    def _life_s(self, shift: float = 0.0) -> float:
        return self.rng.lognormvariate(math.log(self.setup.life_s) - SPREAD**2 / 2 + shift, SPREAD)

    def _fill(self) -> None:
        """The boxes that live at the beginning, placed by the same rule; what is left of a life is that of one met by chance.

        Where every node is looked at, they are placed by two, which is as even and takes a tenth of the time.
        """
        client = Client(self._scheduler(999))
        client.scheduler.k = self.setup.k or 2
        every = max(1, int(self.setup.creates_per_s * self.setup.heartbeat_s / 4))
        for i in range(int(self.setup.num_alive * min(1.0, 0.98 / self.setup.fill))):
            if i % every == 0:
                for node in self.nodes.values():
                    client.scheduler.report(node.report(), 0.0)
            request = Request(self._spec(), self.rng.choices(list(RUNS), list(RUNS.values()))[0])
            box = Box(request, self.rng.choice(self.clients), 0.0, self.rng.random() * self._life_s(SPREAD**2))
            client.scheduler.submit(request)
            for _, name in client.scheduler.placements(0.0):
                box.node = node = self.nodes[name]
                node.ledger.take(request.need._replace(num_starting=0))
                client.scheduler.started(name, 0.0)
                node.boxes.add(box)
                self.at(box.life_s, self._end, box)
            client.scheduler.withdraw(request)

    # what clients do

    def _arrive(self, now: float) -> None:
        request = Request(self._spec(), self.rng.choices(list(RUNS), list(RUNS.values()))[0])
        self._ask(now, Box(request, self.rng.choice(self.clients), now, self._life_s()))
        self.at(now + self.rng.expovariate(self.setup.creates_per_s), self._arrive)

    def _ask(self, now: float, box: Box) -> None:
        self.out.num_asked += not box.request.num_placed
        box.client.boxes[box.request] = box
        box.client.scheduler.submit(box.request)
        self._serve(now, box.client)

    def _serve(self, now: float, client: Client) -> None:
        start = time.perf_counter()
        placed = list(client.scheduler.placements(now))
        self._placing_s += time.perf_counter() - start
        self._num_placed += len(placed)
        for request, name in placed:
            self.at(now + ONE_WAY_S, self._come, client.boxes[request], self.nodes[name])

    def _refused(self, now: float, box: Box, name: str) -> None:
        self.out.num_refused += 1
        box.client.scheduler.refused(box.request, name, now)
        self._ask(now, box)

    def _failed(self, now: float, box: Box, name: str) -> None:
        self.out.num_failed += 1
        box.client.scheduler.failed(box.request, name, now)
        self._ask(now, box)

    def _created(self, now: float, box: Box) -> None:
        assert box.node is not None
        del box.client.boxes[box.request]
        box.client.scheduler.started(box.node.name, now)
        self.out.num_created += 1
        self.to_remake.discard(box)
        if box.again:
            self.out.remade_s = now - self.setup.death_s
        else:
            self.out.latency_s[box.request.label].append(now - box.asked)

    # what nodes do

    def _come(self, now: float, box: Box, node: Node) -> None:
        if node.died <= now:  # nobody answers, until the cluster says that nobody will
            self.at(node.died + self.setup.detect_s, self._failed, box, node.name)
            return
        try:
            node.ledger.take(box.request.need)
        except BoxUnavailableError:
            self.at(now + ONE_WAY_S, self._refused, box, node.name)
            return
        assert all(used <= room for used, room in zip(node.ledger.used, node.ledger.room, strict=True))
        box.node = node
        node.boxes.add(box)
        node.waiting.add(box.request.label, box)
        self._begin(now, node)

    def _begin(self, now: float, node: Node) -> None:
        while node.num_busy < SLOTS and len(node.waiting):
            node.num_busy += 1
            self.at(now + self.rng.lognormvariate(math.log(START_S), START_SPREAD), self._started, node.waiting.take(), node)

    def _started(self, now: float, box: Box, node: Node) -> None:
        if node.died <= now:
            return
        node.num_busy -= 1
        node.ledger.give(STARTED)
        self.at(now + ONE_WAY_S, self._created, box)
        self.at(now + box.life_s, self._end, box)
        self._begin(now, node)

    def _end(self, now: float, box: Box) -> None:
        node = box.node
        assert node is not None
        if box not in node.boxes:  # it was lost
            return
        node.boxes.remove(box)
        node.ledger.give(box.request.need._replace(num_starting=0))
        box.client.scheduler.ended(box.request.spec, node.name, now)
        if len(box.client.scheduler.waiting):
            self._serve(now, box.client)

    def _heartbeat(self, now: float, node: Node) -> None:
        if node.died <= now:
            return
        self._tell_all(node, now)
        self.at(now + self.setup.heartbeat_s * self.rng.uniform(0.5, 1.5), self._heartbeat, node)

    def _tell_all(self, node: Node, now: float) -> None:
        report = node.report()
        for client in self.clients:
            client.scheduler.report(report, now - ONE_WAY_S)
            if len(client.scheduler.waiting):
                self._serve(now, client)

    def _die(self, now: float, node: Node) -> None:
        node.died = now
        self.at(now + self.setup.detect_s, self._mourn, node)

    def _mourn(self, now: float, node: Node) -> None:
        """Every client learns that the node is gone: what waited there is asked for again, what lived there as well."""
        for client in self.clients:
            client.scheduler.forget(node.name)
        for box in sorted(node.boxes, key=lambda box: (box.asked, box.life_s)):
            if box.request in box.client.boxes:
                self._failed(now, box, node.name)
                continue
            self.out.lost += 1
            again = Box(Request(box.request.spec, box.request.label), box.client, now, self._life_s(), again=True)
            self.to_remake.add(again)
            self._ask(now, again)
        node.boxes.clear()

    def _join(self, now: float) -> None:
        self.nodes["joined"] = self._node("joined", SIZES[1])
        self._heartbeat(now, self.nodes["joined"])

    def _look(self, now: float) -> None:
        loads = [node.load for node in self.nodes.values() if node.died > now and node.name != "joined"]
        self.out.imbalance.append(max(loads) / float(np.mean(loads)))


def _rows(setups: list[Setup]) -> list[list[str]]:
    rows = []
    for setup in setups:
        start = time.process_time()
        out = Simulation(setup).run()
        print(setup, f"{time.process_time() - start:.0f} s", flush=True)
        remade = f"{out.remade_s:.1f}" if out.remade_s else "-"
        rows.append([
            "all" if setup.k is None else str(setup.k), f"{setup.heartbeat_s:g}", str(setup.seed),
            *(f"{1000 * out.percentile(q):.0f}" for q in (50, 99, 99.9)),
            f"{out.num_refused / out.num_created:.4f}", f"{np.mean(out.imbalance):.3f}", f"{max(out.imbalance):.3f}",
            f"{out.lost} / {remade}", f"{out.joined_load:.2f}", f"{1e6 * out.place_s:.0f}",
        ])  # fmt: skip
    return rows


HEADER = [
    "k", "reports every s", "seed", "create p50 ms", "p99", "p99.9", "refusals a create", "max / mean load", "worst second",
    "lost boxes / s until remade", "joined node's load to the mean", "µs a placement",
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--write", action="store_true", help="docs/results/placement.md")
    write_it = parser.parse_args().write
    base = Setup(k=2)
    sweep = [replace(base, k=k, seed=seed) for seed in (0, 1) for k in (1, 2, 3, None)]
    stale = [replace(base, k=k, heartbeat_s=5.0) for k in (1, 2, 3, None)]
    body = table(HEADER, _rows([*sweep, *stale]))
    full = replace(base, fill=1.05, num_nodes=16, num_alive=30_000, creates_per_s=500.0, num_clients=1, death_s=1e9, join_s=1e9)
    shares = []
    for seed in (0, 1):
        out = Simulation(replace(full, seed=seed)).run()
        counts = Counter({label: len(values) for label, values in out.latency_s.items()})
        for label in RUNS:
            row = [f"{1000 * out.percentile(q, label):.0f}" for q in (50, 99)] if counts[label] else ["-", "-"]
            shares.append([str(seed), label, f"{RUNS[label]:.0%}", str(counts[label]), *row])
    fairness = table(["seed", "run", "of what is asked for", "boxes made", "p50 ms", "p99 ms"], shares)
    text = PAGE.format(base=base, body=body, fairness=fairness, full=full, deaths=0.01 * base.num_nodes)
    print(text)
    if write_it:
        write("placement.md", text)


PAGE = """# Placement, simulated

Written by `python -m tests.sim.placement --write`, which runs the code that places real boxes. {base.num_nodes} nodes of
three sizes (1, 1.5 and 2), {base.num_alive:,} boxes alive that take {base.fill:.0%} of the memory,
{base.creates_per_s:,.0f} creates a second from {base.num_clients} clients that do not know of each other. A box asks for
256, 512 or 2048 MiB (50, 35 and 15 %); its life is lognormal with mean {base.life_s:.0f} s and a median of a third of
that. A node starts 8 boxes at a time, 62 ms each (what a container took on a real machine; lognormal, spread 0.3), and
refuses what is over its memory, or over 64 that start or wait to; a message takes 1 ms each way. Reports come every so
many seconds, each node at moments of its own.

Scaled: of the hour {base.seconds:.0f} s are run, beginning with all boxes alive, placed by the same rule (by k = 2 for
"all"). Once in that time, after {base.death_s:.0f} s, a node dies, which the cluster knows {base.detect_s:.0f} s later;
at 1 % of the nodes an hour that is due {deaths:.1f} times an hour, so a row shows more deaths than are due. At
{base.join_s:.0f} s an empty node joins. Latencies are of all creates but those that replace lost boxes, and so of those
too that were sent to the dead node before it was known to be dead. "All" looks at every node.

{body}
## More is asked for than there is

{full.num_nodes} nodes and one client, {full.creates_per_s:.0f} creates a second for {full.seconds:.0f} s, which would
take {full.fill:.0%} of the memory. Five runs take turns: the one that asks for four fifths waits, the others do not.

{fairness}"""


if __name__ == "__main__":
    main()
