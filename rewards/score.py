"""Scoring: the weighted mean of a recipe's rewards for one completion, or a failure that says whose fault it was.

User code runs here, so anything it does wrong becomes a FAILED result, never a zero. A run scores in a child process, by
`rewards.isolation`; `Scorer` does the same in this one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePath

from rewards.calls import Caller, Outcome
from rewards.config import SandboxConfig
from rewards.errors import UserError
from rewards.plugin import RewardSource, build
from rewards.result import RewardResult, ScoreStatus
from rewards.task import Task
from rewards.transcript import Transcript

CORRECT_AT = 1.0 - 1e-9  # the primary part from which a completion counts as correct


class Scorer:
    """Scores completions with a sequence of rewards; the first one is the primary, which decides accuracy.

    >>> scorer = Scorer([RewardSource("rewards.math:verify", 2.0, text=None, function="verify")])
    >>> result = scorer.score(Task("1", "math", (), answer="42"), Transcript.of("It is 42."))
    >>> result.score, dict(result.parts), is_correct(result, scorer.primary)
    (1.0, {'verify': 1.0}, True)
    """

    def __init__(self, sources: Sequence[RewardSource], sandbox: SandboxConfig | None = None) -> None:
        """Build every reward.

        Raises:
            UserError: no reward, one named twice, a weight that is not finite, or one that does not load.
        """
        self.weights = part_weights(sources)
        self._rewards = [build(source) for source in sources]
        self._caller = Caller(sandbox or SandboxConfig())
        self.primary = next(iter(self.weights))

    def score(self, task: Task, transcript: Transcript) -> RewardResult:
        """Score one completion. Never raises for what a reward does; KeyboardInterrupt passes."""
        found: dict[int, Outcome] = {}
        for i, reward in enumerate(self._rewards):
            found[i] = self._caller.call(reward, [(task, transcript)])[0]
            if isinstance(found[i], str):
                break
        return weigh(self.weights, found, task)

    def close(self) -> None:
        """Ends the boxes that rewards have used."""
        self._caller.close()


def weigh(weights: Mapping[str, float], found: Mapping[int, Outcome], task: Task) -> RewardResult:
    """The weighted mean over the rewards that apply: sum(w r) / sum(|w|). `found`: outcomes by the weights' places.

    FAILED where a reward has failed, after which others may not have been asked, or where none that has a weight applies.
    """
    values, measured, notes = dict[str, float](), dict[str, float](), dict[str, str]()
    failed = None
    for i, name in enumerate(weights):
        outcome = found.get(i)
        if outcome is None:
            continue
        if isinstance(outcome, str):
            failed = failed or f"reward {name!r} failed on task {task.id!r}: it {outcome}"
            continue
        if outcome.value is not None:
            values[name] = outcome.value
        measured |= {f"{name}/{part}": value for part, value in outcome.parts.items() if value is not None}
        if outcome.note:
            notes[name] = outcome.note
    if failed is not None:
        return _failed(failed, {**values, **measured}, notes)
    assert len(found) == len(weights), "each reward has an outcome"
    parts, total = {**values, **measured}, weighted_mean(weights, values)
    if total is None:
        kept = f"only {', '.join(values)}, of weight 0, did" if values else "every one returned None"
        error = f"no reward applies to task {task.id!r}: {kept}"
        return RewardResult(ScoreStatus.FAILED, None, parts, error, notes, is_empty=True)
    if not math.isfinite(total):
        return _failed(f"the weighted mean of {values} on task {task.id!r} is {total}, not a finite number", parts, notes)
    return RewardResult(ScoreStatus.OK, total, parts, notes=notes)


def weighted_mean(weights: Mapping[str, float], values: Mapping[str, float]) -> float | None:
    """sum(w r) / sum(|w|) over the values that have a weight; None where these are none, or weigh nothing.

    >>> weighted_mean({"right": 1.0, "brevity": 0.25}, {"right": 1.0, "brevity": 0.5, "verify/passed_tests": 0.7})
    0.9
    """
    scale = sum(abs(weights[name]) for name in values if name in weights)
    return sum(weights[name] * value for name, value in values.items() if name in weights) / scale if scale else None


def is_scored(result: RewardResult, primary: str) -> bool:
    """Whether it is known if the completion is right: the primary reward, or the first that applies, has a number."""
    return primary in result.parts or result.status is ScoreStatus.OK


def is_correct(result: RewardResult, primary: str) -> bool:
    """Whether the primary part is full marks; where the primary reward does not apply, the first one that does.

    A completion whose primary part failed is not known to be right.
    """
    first = next(iter(result.parts.values()), 0.0) if result.status is ScoreStatus.OK else 0.0
    return result.parts.get(primary, first) >= CORRECT_AT


def _failed(error: str, parts: Mapping[str, float], notes: Mapping[str, str]) -> RewardResult:
    return RewardResult(ScoreStatus.FAILED, None, parts, error=error, notes=notes)


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
