"""The reward worker: scores completions with a recipe's rewards. Plain class; `rl/actors.py` makes it a Ray actor."""

from __future__ import annotations

from collections.abc import Sequence

from rewards.plugin import RewardSource
from rewards.result import RewardResult
from rewards.score import Scorer
from rewards.task import Task


class RewardWorker:
    """Builds the reward functions from their sources, in the process that runs them."""

    def __init__(self, sources: Sequence[RewardSource]) -> None:
        self.scorer = Scorer(sources)

    def score(self, items: Sequence[tuple[Task, str]]) -> list[RewardResult]:
        """One result for each (task, completion)."""
        return [self.scorer.score(task, completion) for task, completion in items]
