"""Labels of a recipe's judge as judging tasks with their demonstrations, training and held-out sides apart. No torch here.

Labels come from a JSONL file or a generator, one mapping a label (see `rewards.labels.label_from`). Among them may be written
judgements for SFT to imitate: `judgements: [{style, reasoning, verdict}]`.
"""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rewards.errors import UserError
from rewards.judge import Rules
from rewards.labels import Label, judging_task, label_from, problem_of, written
from rewards.rubric import DATA_KEY, rubric_from
from rewards.task import Demonstration, Effort, Message, Role, Task, is_held_out
from rl.judge_config import JudgeConfig, JudgeTrainConfig
from rl.rng import key_of
from specialists.data import PATIENCE, Data
from specialists.example import Example

NUM_LOOKED_AT = 50  # labels of a generator, for the styles of their judgements

# Label generators by name: `generate(rng, **options)` gives a mapping like a line of a labels file.
LABELS: Mapping[str, Callable[..., Mapping[str, object]]] = {}


def with_labels(data: Data, config: JudgeConfig, rules: Rules, seed: int) -> Data:
    """The data with the judge's labels; every task's rubric is looked at, so that mistakes show before anything runs.

    Raises:
        UserError: a label or a rubric is wrong, or a task has none.
    """
    for task in (*(e.task for e in data.train), *data.held_out):
        if DATA_KEY in task.data:
            rubric_from(task.data[DATA_KEY], f"task {task.id}")
        elif rules.rubric is None:
            raise UserError(f"task {task.id}: no rubric; write judge.rubric in the recipe, or give each task a {DATA_KEY!r}")
    train = config.train
    if train is None:
        return data
    reader = _Reader(config, train, rules, frozenset(problem_of(task.messages) for task in data.held_out))
    fresh, fixed = reader.generated(seed) if train.labels in LABELS else reader.file(seed)
    if not fixed or (train.num_prompts and not fresh):
        raise UserError(
            f"judge.train: got {len(fresh)} training and {len(fixed)} held-out labels with held_out_share "
            f"{train.held_out_share}; give more labels, of several prompts, or another share"
        )
    return dataclasses.replace(data, judging=fresh, judging_held_out=[e.task for e in fixed])


def label_styles(train: JudgeTrainConfig) -> set[str]:
    """The styles of the written judgements among the labels; of a generator, those of its first labels."""
    rows = _generated(train, 0) if train.labels in LABELS else _rows(train)
    found = set[str]()
    for number, (_, row) in enumerate(rows):
        if train.labels in LABELS and number == NUM_LOOKED_AT:
            break
        judgements = row.get("judgements")
        for one in judgements if isinstance(judgements, list) else ():
            found.add(_style(one) if isinstance(one, Mapping) else Demonstration.style)
    return found


@dataclasses.dataclass(frozen=True)
class _Reader:
    """Makes examples of labels and splits them. A label is held out with its prompt, and where a held-out task asks that."""

    config: JudgeConfig
    train: JudgeTrainConfig
    rules: Rules
    asked: frozenset[str]  # what the policy's own held-out tasks ask

    def file(self, seed: int) -> tuple[list[Example], list[Example]]:
        """(training, held-out) examples of a file."""
        found = {e.task.content_hash: e for e in (self._example(row, where) for where, row in _rows(self.train))}
        sides: tuple[list[Example], list[Example]] = [], []
        for example in found.values():
            sides[self._is_held_out(example)].append(example)
        fresh = sorted(sides[0], key=lambda e: key_of(seed, "order", e.task.content_hash))
        fixed = sorted(sides[1], key=lambda e: key_of(0, "order", e.task.content_hash))
        return fresh, fixed[: self.train.num_held_out]

    def generated(self, seed: int) -> tuple[list[Example], list[Example]]:
        """The same of a generator; one that runs dry gives what it has. Held-out labels are the same for every seed."""
        return self._side(seed + 1, self.train.num_labels, held_out=False), self._side(
            0, self.train.num_held_out, held_out=True
        )

    def _side(self, stream: int, count: int, *, held_out: bool) -> list[Example]:
        found, stale = dict[str, Example](), 0
        patience = PATIENCE / min(self.train.held_out_share, 1 - self.train.held_out_share)  # the rarer side comes seldom
        for where, row in _generated(self.train, stream):
            example = self._example(row, where)
            stale += 1
            if self._is_held_out(example) is held_out and example.task.content_hash not in found:
                found[example.task.content_hash], stale = example, 0
            if len(found) == count or stale > patience:
                break
        return list(found.values())

    def _is_held_out(self, example: Example) -> bool:
        return is_held_out(example.task, self.train.held_out_share) or example.task.problem in self.asked

    def _example(self, row: Mapping[str, object], where: str) -> Example:
        label = label_from(row, self.rules.rubric, where)
        task = judging_task(self.rules, label, self.config.effort)
        judgements = row.get("judgements") or ()
        if not isinstance(judgements, Sequence):
            raise UserError(f"{where}: judgements: got {judgements!r:.80}; allowed: a list of judgements to imitate")
        return Example(task, tuple(_demonstration(one, label, task, where) for one in judgements))


def _rows(train: JudgeTrainConfig) -> Iterator[tuple[str, Mapping[str, object]]]:
    path = Path(train.labels).expanduser()
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        known = f", or a generator of labels ({', '.join(LABELS)})" if LABELS else ""
        raise UserError(f"judge.train.labels: cannot read {train.labels!r}: {error}; allowed: a .jsonl file{known}") from None
    for number, line in enumerate(lines, start=1):
        where = f"{path}:{number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{where}: not JSON: {error}; allowed: one label a line") from None
        if not isinstance(row, Mapping):
            raise UserError(f"{where}: got {row!r:.80}; allowed: a mapping with prompt, response and label")
        yield where, row


def _generated(train: JudgeTrainConfig, seed: int) -> Iterator[tuple[str, Mapping[str, object]]]:
    index = 0
    while True:
        rng = random.Random(f"{seed}/labels/{train.labels}/{index}")
        try:
            yield f"label {index} of {train.labels}", LABELS[train.labels](rng, **train.options)
        except (TypeError, ValueError) as error:
            raise UserError(f"judge.train.options: {train.labels}: {error}") from error
        index += 1


def _demonstration(judgement: Any, label: Label, task: Task, where: str) -> Demonstration:
    """A written judgement: its reasoning is thought where the judge thinks, else it comes before the verdict."""
    try:
        reasoning, style = str(judgement.get("reasoning") or ""), _style(judgement)
        verdict = dict(judgement.get("verdict") or label.verdict)
    except (AttributeError, TypeError, ValueError):
        raise UserError(f"{where}: judgements: got {judgement!r:.80}; allowed: reasoning, verdict and style") from None
    if missing := [c.name for c in label.rubric.criteria if verdict.get(c.name) not in c.choices]:
        raise UserError(f"{where}: judgements: no choice for {missing[0]}; write a verdict that decides every criterion")
    text = written(verdict, task.data["marker"])
    if task.effort is Effort.NONE:
        if reasoning and task.data["marker"] is None:
            raise UserError(
                f"{where}: judgements: got a reasoning, which has no place where judge.effort is none and the prompt "
                "has no $verdict; allowed: no reasoning, another effort, or a prompt with $verdict"
            )
        response = Message(Role.ASSISTANT, f"{reasoning}\n{text}" if reasoning else text)
    else:
        response = Message(Role.ASSISTANT, text, reasoning)
    return Demonstration(task, response, style)


def _style(judgement: Mapping[str, object]) -> str:
    return str(judgement.get("style") or Demonstration.style)
