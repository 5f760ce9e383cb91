"""Scoring in child processes, so that a reward that hangs, crashes or eats all memory costs its deadline and no more.

User code runs in the children alone, from its loading on. `rl/scoring.py` holds an `IsolatedScorer`; the functions' calls are
in `rewards.calls`, the weighted mean in `rewards.score`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from rewards.boxes import why_not, without_boxes
from rewards.calls import Outcome
from rewards.config import SandboxConfig
from rewards.dispatch import MAX_CHILDREN, Dispatcher
from rewards.errors import UserError
from rewards.link import ChildDiedError
from rewards.many import Call
from rewards.marks import MAX_CALLS
from rewards.parameters import Item, missing_column
from rewards.plugin import RewardSource
from rewards.result import RewardResult
from rewards.score import part_weights, weigh
from rewards.task import Task
from rewards.work import BatchWork, CallsWork, OneWork, Work, nursery_of


def check_rewards(sources: Sequence[RewardSource], sandbox: SandboxConfig, tasks: Sequence[Task], *, try_box: bool) -> None:
    """Loads the rewards in a process that ends at once, and looks whether these tasks have what they ask for.

    `try_box`: have a program run in a box where a reward uses one; for rewards that will run on this machine.

    Raises:
        UserError: a reward does not load, asks for a column that is not there, or for boxes that cannot be had.
    """
    if not sources:
        return
    nursery = nursery_of(sources, sandbox)
    try:
        loaded = nursery.open()
    finally:
        nursery.close()
    for source, facts in zip(sources, loaded, strict=True):
        if problem := missing_column(source.use, facts["columns"], tasks):
            raise UserError(problem)
    users = [source.use for source, facts in zip(sources, loaded, strict=True) if facts["uses_boxes"]]
    if users and try_box and (why := why_not(sandbox)):
        raise without_boxes(sandbox, f"reward {users[0]!r}", why)


class IsolatedScorer:
    """Scores like `rewards.score.Scorer`, in processes that are replaced when a reward hangs or ends them.

    Safe in threads; one call of `score` at a time. Replies come as JSON: nothing that user code makes is unpickled here.
    """

    def __init__(
        self, sources: Sequence[RewardSource], sandbox: SandboxConfig | None = None, num_processes: int | None = None
    ) -> None:
        """Load every reward. `num_processes`: calls that compute at a time; None: one more than there are cores.

        Raises:
            UserError: as `Scorer`; also a reward whose loading ends the process or takes too long.
        """
        self.weights = part_weights(sources)
        self._sources = tuple(sources)
        sandbox = sandbox or SandboxConfig()
        self._lock = threading.Lock()
        self._is_closed = threading.Event()
        self._nursery = nursery_of(sources, sandbox)
        self._facts = self._nursery.open()
        many = any(facts["uses_boxes"] and not facts["is_async"] for facts in self._facts)
        cores = len(os.sched_getaffinity(0))
        self._dispatcher = Dispatcher(
            self._nursery,
            num_processes or (min(cores, sandbox.num_boxes) if many else cores + 1),  # one more: until a call is known to hang
            sandbox.num_boxes if many else MAX_CHILDREN,
        )

    @property
    def alone_because(self) -> str | None:
        """Why there is one process for all calls; None: there are as many as it takes."""
        return self._nursery.alone_because

    def score(self, items: Sequence[Item]) -> list[RewardResult]:
        """A result for each item; whatever a reward does makes a FAILED result at worst, after its `timeout_s` at the latest.

        Items of one group stand side by side: rewards that take batches are given a group at a time.

        Raises:
            UserError: a process had to be replaced, and the rewards did not load again.
            RuntimeError: `close` was called.
        """
        found: list[dict[int, Outcome]] = [{} for _ in items]

        def tell(place: int, reward: int, outcome: Outcome) -> None:
            found[place][reward] = outcome

        with self._lock, self._unless_closed():
            self._dispatcher.run(self._works(items, tell))
        return [weigh(self.weights, of_item, task) for of_item, (task, _) in zip(found, items, strict=True)]

    def close(self) -> None:
        """End the children and all they started, in the middle of a completion too; twice is once."""
        self._is_closed.set()
        self._dispatcher.kill()  # a thread that waits for a reply gives up at once, and with it the lock
        with self._lock:
            self._dispatcher.close()
            self._nursery.close()

    def _works(self, items: Sequence[Item], tell: Any) -> list[Work]:
        timeouts = [source.timeout_s for source in self._sources]
        plain, batches, calls = list[int](), list[int](), list[int]()
        for i, facts in enumerate(self._facts):
            (calls if facts["is_async"] else batches if facts["takes_batch"] else plain).append(i)
        groups = list(_groups(items))
        works = list[Work]()
        asked = [
            (Call(i, [items[place] for place in places]), places)
            for i in calls
            for places in (groups if self._facts[i]["takes_batch"] else [[place] for place in range(len(items))])
        ]
        for start in range(0, len(asked), MAX_CALLS):
            some = asked[start : start + MAX_CALLS]
            works.append(CallsWork([call for call, _ in some], [places for _, places in some], timeouts, tell))
        works += [BatchWork(p, [items[place] for place in p], i, timeouts[i], tell) for i in batches for p in groups]
        if plain:
            boxed = [i for i in plain if self._facts[i]["uses_boxes"]]
            works += [OneWork(place, item, plain, timeouts, boxed, tell) for place, item in enumerate(items)]
        return works

    @contextlib.contextmanager
    def _unless_closed(self) -> Iterator[None]:
        try:
            if self._is_closed.is_set():
                raise ChildDiedError
            yield
        except ChildDiedError:
            if self._is_closed.is_set():
                raise RuntimeError("the rewards are closed") from None
            raise RuntimeError("the processes that rewards run in end as soon as they are started") from None


def _groups(items: Sequence[Item]) -> Iterator[list[int]]:
    """The places of each group: neighbours of one task that were sampled together."""

    def group_of(place: int) -> tuple[str, str]:
        task, transcript = items[place]
        return task.content_hash, transcript.group

    for _, places in itertools.groupby(range(len(items)), group_of):
        yield list(places)
