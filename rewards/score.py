"""Scoring: the weighted sum of a recipe's rewards for one completion, or a failure that says whose fault it was.

User code runs here, so anything it does wrong becomes a FAILED result, never a zero. A run scores in a child process, by
`rewards.isolation`; `Scorer` does the same in this one.
"""

from __future__ import annotations

import math
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Real
from pathlib import PurePath
from typing import TypeAlias

from rewards.errors import UserError
from rewards.plugin import Reward, RewardSource, build
from rewards.result import RewardResult, ScoreStatus
from rewards.task import Task

CORRECT_AT = 1.0 - 1e-9  # the primary part from which a completion counts as correct
MAX_REASON_CHARS = 20_000  # of a traceback; its middle is left out

Outcome: TypeAlias = float | str  # of one reward: its number, or why it has none


class Scorer:
    """Scores completions with a sequence of rewards; the first one is the primary, which decides accuracy.

    >>> scorer = Scorer([RewardSource("rewards.math:verify", 2.0, text=None, function="verify")])
    >>> result = scorer.score(Task("1", "math", (), answer="42"), "It is 42.")
    >>> result.score, dict(result.parts), is_correct(result, scorer.primary)
    (2.0, {'verify': 1.0}, True)
    """

    def __init__(self, sources: Sequence[RewardSource]) -> None:
        """Build every reward.

        Raises:
            UserError: no reward, one named twice, a weight that is not finite, or one that does not load.
        """
        self.weights = part_weights(sources)
        self._rewards = [build(source) for source in sources]
        self.primary = next(iter(self.weights))

    def score(self, task: Task, completion: str) -> RewardResult:
        """Score one completion. Never raises for what a reward does; KeyboardInterrupt passes."""
        return weigh(self.weights, outcomes(self._rewards, task, completion), task)


def outcomes(rewards: Iterable[Reward], task: Task, completion: str) -> Iterator[Outcome]:
    """What each reward comes to, in order, up to the first that fails."""
    for reward in rewards:
        outcome: Outcome
        try:
            outcome = _as_float(reward(task, completion))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a user's code may raise anything
            outcome = reason(error)
        yield outcome
        if isinstance(outcome, str):
            return


def reason(error: BaseException) -> str:
    """Why a reward has no number, from what it raised: the traceback, shortened where it is endless."""
    trace = "".join(traceback.format_exception(error)).rstrip()
    if len(trace) > MAX_REASON_CHARS:
        half = MAX_REASON_CHARS // 2
        trace = f"{trace[:half]}\n... {len(trace) - 2 * half} characters left out ...\n{trace[-half:]}"
    return f"raised an error\n{trace}"


def weigh(weights: Mapping[str, float], found: Iterable[Outcome], task: Task) -> RewardResult:
    """The weighted sum of one outcome for each weight, in order; FAILED where the last one is a reason instead."""
    parts: dict[str, float] = {}
    for name, outcome in zip(weights, found, strict=False):
        if isinstance(outcome, str):
            return _failed(f"reward {name!r} failed on task {task.id!r}: it {outcome}", parts)
        parts[name] = outcome
    assert len(parts) == len(weights), "each reward has an outcome"
    total = sum(weights[name] * part for name, part in parts.items())
    if not math.isfinite(total):
        return _failed(f"the weighted sum of {parts} on task {task.id!r} is {total}, not a finite number", parts)
    return RewardResult(ScoreStatus.OK, total, parts)


def is_correct(result: RewardResult, primary: str) -> bool:
    """Whether the primary part is full marks; a completion whose primary part failed is not known to be right."""
    return result.parts.get(primary, 0.0) >= CORRECT_AT


def _failed(error: str, parts: Mapping[str, float]) -> RewardResult:
    return RewardResult(ScoreStatus.FAILED, None, parts, error=error)


def _as_float(value: object) -> float:
    """A real, finite number as a float; ints and numpy scalars count as numbers, bools do not."""
    if type(value).__name__ in ("bool", "bool_"):
        raise TypeError(f"the reward returned the bool {value}; write float(...) around it if 1.0 and 0.0 are meant")
    if not isinstance(value, Real):
        raise TypeError(f"the reward returned {value!r:.200} of type {type(value).__name__}; a float is expected")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"the reward returned {number}; a finite float is expected")
    return number


def part_weights(sources: Sequence[RewardSource]) -> dict[str, float]:
    """The weight of each part, by its name and in order.

    Raises:
        UserError: no reward, one named twice, or a weight that is not finite.
    """
    if not sources:
        raise UserError("a recipe needs at least one reward, such as rewards.math:verify")
    for source in sources:
        if isinstance(source.weight, bool) or not math.isfinite(source.weight):
            raise UserError(f"reward {source.use!r}: weight {source.weight!r} is not a finite number")
    return {name: float(source.weight) for name, source in zip(part_names(sources), sources, strict=True)}


def part_names(sources: Sequence[RewardSource]) -> list[str]:
    """The shortest of `function`, `module:function` and the full `use` that is unique among the sources, in order."""
    forms = [
        [source.function, f"{PurePath(source.module.removesuffix('.py')).name}:{source.function}", source.use]
        for source in sources
    ]
    twice = [use for use, count in Counter(source.use for source in sources).items() if count > 1]
    if twice:
        raise UserError(f"reward {twice[0]!r} is listed twice; keep one and add up the weights")
    seen = [Counter(column) for column in zip(*forms, strict=True)]
    return [next(form for form, counts in zip(row, seen, strict=True) if counts[form] == 1) for row in forms]
