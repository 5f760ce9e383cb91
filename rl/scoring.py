"""The reward worker: scores completions with a recipe's rewards. Plain class; `rl/actors.py` makes it a Ray actor."""

from __future__ import annotations

from collections.abc import Sequence

from rewards.isolation import IsolatedScorer
from rewards.plugin import RewardSource
from rewards.result import RewardResult
from rewards.task import Task


class RewardWorker:
    """Holds the process that the reward functions run in, built there from their sources. Safe in threads; `close` ends it."""

    def __init__(self, sources: Sequence[RewardSource]) -> None:
        self._scorer = IsolatedScorer(sources)
        self.deadline_s = sum(source.timeout_s for source in sources)  # for one completion

    def score(self, items: Sequence[tuple[Task, str]]) -> list[RewardResult]:
        """One result for each (task, completion)."""
        return [self._scorer.score(task, completion) for task, completion in items]

    def close(self) -> None:
        """Ends the process; a `score` in another thread raises a RuntimeError."""
        self._scorer.close()
