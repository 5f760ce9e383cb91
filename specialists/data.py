"""A recipe's data as tasks and demonstrations, split into training and held-out sides that never share a task."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count as count_up
from itertools import islice

import numpy as np

from rewards.errors import UserError
from rewards.task import Demonstration, Effort, EffortLevel, Task, is_held_out
from rl.formats.thinking import without_reasoning
from rl.rng import key_of
from specialists.config import DataConfig, SourceConfig
from specialists.example import Example
from specialists.generators import stream

GENERATED = 4000  # training tasks from generators where the recipe does not say
PATIENCE = 200  # draws in a row that bring no new task before a generator counts as exhausted


@dataclass(frozen=True)
class Data:
    """Both sides of a recipe's data; no content hash is on both."""

    train: Sequence[Example]
    held_out: Sequence[Task]
    judging: Sequence[Example] = ()  # labels for the judge to learn from, as tasks; see specialists/judging.py
    judging_held_out: Sequence[Task] = ()

    @property
    def demonstrations(self) -> list[Demonstration]:
        return [d for example in (*self.train, *self.judging) for d in example.demonstrations]

    @property
    def hash(self) -> str:
        """One hash of all that training, scoring and evaluation read; the order does not matter."""
        examples, held_out = (*self.train, *self.judging), (*self.held_out, *self.judging_held_out)
        rows = [[_fields(e.task), [[d.style, *map(asdict, d.messages)] for d in e.demonstrations]] for e in examples]
        rows += [[_fields(t), "held out"] for t in held_out]
        lines = sorted(json.dumps(row, default=str) for row in rows)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]


def _fields(task: Task) -> list[object]:
    return [task.content_hash, task.answer, task.kind, dict(task.data)]


def load_data(config: DataConfig, *, domain: str, seed: int, levels: Sequence[EffortLevel] = ()) -> Data:
    """Reads or generates every source, mixed by weight, without duplicates, split by content hash.

    Held-out tasks depend on the recipe's data alone, so that runs with different seeds are measured on the same ones. With
    `levels` every task is there once for each effort, all on the same side; held out, those of one task stand together.
    """
    train, held_out = dict[str, Example](), dict[str, Task]()  # by content hash; a task of two sources is the first one's
    totals = {side: sum(s.weight for s in config.sources if s.only in (None, side)) for side in ("train", "held_out")}
    for source in config.sources:
        share, held_out_share = (source.weight / (totals[side] or 1.0) for side in ("train", "held_out"))
        want_held_out = 0 if source.only == "train" else max(1, round(config.num_eval * held_out_share))
        want_train = None if config.num_train is None else max(1, round(config.num_train * share))
        if source.only == "held_out":
            want_train = 0
        if source.generator is not None:
            fixed = _generated(source, config.held_out_share, want_train=0, want_held_out=want_held_out, seed=0)[1]
            fresh = _generated(
                source,
                config.held_out_share,
                want_train=round(GENERATED * share) if want_train is None else want_train,
                want_held_out=0,
                seed=seed + 1,
            )[0]
        else:
            from specialists.datasets import load_dataset_examples  # late: half a second of imports

            fresh, fixed = load_dataset_examples(source, config.held_out_share, domain=domain)
            fresh = _shuffled(fresh, seed)[:want_train]
            fixed = [e.task for e in _shuffled([Example(t) for t in fixed], 0)][:want_held_out]
        for example in fresh:
            train.setdefault(example.task.content_hash, example)
        for task in fixed:
            held_out.setdefault(task.content_hash, task)
    _check(train, held_out, config)
    mixed = [e.task for e in _shuffled([Example(t) for t in held_out.values()], 0)]  # evaluations take the first of them
    examples = _shuffled(list(train.values()), seed)
    if not levels:
        return Data(examples, mixed)
    return Data(
        [at_effort(example, level) for example in examples for level in levels],
        [replace(task, effort=level) for task in mixed for level in levels],
    )


def at_effort(example: Example, level: EffortLevel) -> Example:
    """The example at an effort: with the demonstrations that are of this effort, or where none is, with the task's own.

    Those of effort none think of nothing: their thinking is left out.

    >>> from rewards.task import Effort, Message, Role
    >>> task = Task("2+3", "math", (Message(Role.USER, "2+3"),))
    >>> shown = Example(task, (Demonstration(task, Message(Role.ASSISTANT, "5", "2+3=5")),))
    >>> at_effort(shown, Effort.NONE).demonstrations[0].response.reasoning is None
    True
    """
    own = [d for d in example.demonstrations if d.task.effort == level]
    if not own:
        own = [d for d in example.demonstrations if d.task.effort == example.task.effort]
    if level is Effort.NONE:
        own = [d.saying(without_reasoning(d.messages)) for d in own]
    task = replace(example.task, effort=level)
    return Example(task, tuple(replace(d, task=task) for d in own))


def _generated(
    source: SourceConfig, held_out_share: float, *, want_train: int, want_held_out: int, seed: int
) -> tuple[list[Example], list[Task]]:
    """Distinct examples of a generator until both wishes are met; a generator that runs dry gives what it has."""
    train, held_out, seen, stale = list[Example](), list[Task](), set[str](), 0
    patience = PATIENCE + 20 / max(min(held_out_share, 1 - held_out_share), 1e-3)  # the rarer side comes seldom
    for example in stream(source, seed):
        stale += 1
        task = example.task
        if task.content_hash not in seen:
            if is_held_out(task, held_out_share) and len(held_out) < want_held_out:
                held_out.append(task)
                stale = 0
            elif not is_held_out(task, held_out_share) and len(train) < want_train:
                train.append(example)
                stale = 0
            seen.add(task.content_hash)
        if (len(train) >= want_train and len(held_out) >= want_held_out) or stale > patience:
            break
    return train, held_out


def _check(train: Mapping[str, Example], held_out: Mapping[str, Task], config: DataConfig) -> None:
    overlap = train.keys() & held_out.keys()
    if overlap:
        raise UserError(
            f"data.sources: {len(overlap)} held-out tasks are among the training tasks too; remove eval_split to split by "
            "content hash, or take them out of one of the splits"
        )
    if not train or not held_out:
        side = "training" if not train else "held-out"
        raise UserError(
            f"data.sources: no {side} task; got {len(train)} training and {len(held_out)} held-out tasks with "
            f"data.held_out_share {config.held_out_share}; give more data or another share"
        )


def _shuffled(examples: Sequence[Example], seed: int) -> list[Example]:
    """A fixed order for each seed, whatever order the examples came in."""
    return sorted(examples, key=lambda e: key_of(seed, "order", e.task.content_hash))


@dataclass
class TaskSampler:
    """Endless passes over the training tasks, each pass in an order of its own; `cursor` is all of its state."""

    tasks: Sequence[Task]
    seed: str  # of the stage, so that each stage has orders of its own
    cursor: int = 0

    def next(self, count: int) -> list[tuple[int, Task]]:
        """The next (epoch, task) pairs."""
        return list(islice(self._from_cursor(), count))

    def _from_cursor(self) -> Iterator[tuple[int, Task]]:
        while True:
            epoch, place = divmod(self.cursor, len(self.tasks))
            order = np.random.default_rng(key_of(self.seed, "epoch", epoch)).permutation(len(self.tasks))
            for index in order[place:]:
                self.cursor += 1
                yield epoch, self.tasks[index]


def pick_demonstrations(
    train: Sequence[Example], mixture: Mapping[str, float], count: int, seed: str
) -> Iterable[Demonstration]:
    """`count` demonstrations in training order: tasks in passes, each with one style drawn from `mixture`.

    An empty mixture takes every demonstration of every task as it is.
    """
    if mixture:
        styles = {d.style for e in train for d in e.demonstrations}
        missing = sorted(set(mixture) - styles)
        if missing:
            raise UserError(f"mixture: got style {missing[0]!r}; allowed: {', '.join(sorted(styles))}")
    choices = [e.demonstrations for e in train if e.demonstrations]
    if not choices:
        raise UserError("an SFT stage needs demonstrations, and the data has none; map `data.sources.columns.response`")
    if not mixture:
        choices = [(d,) for options in choices for d in options]
    rng = random.Random(f"{seed}/styles")
    picked = 0
    for epoch in count_up():
        for index in np.random.default_rng(key_of(seed, epoch)).permutation(len(choices)):
            options = choices[index]
            if mixture:
                style = rng.choices(list(mixture), list(mixture.values()))[0]
                options = tuple(d for d in options if d.style == style)
            if options and picked < count:
                yield options[0]
                picked += 1
        if picked == count:
            return
