"""The reward worker: scores completions with a recipe's rewards. Plain class; `rl/actors.py` makes it a Ray actor."""

from __future__ import annotations

from collections.abc import Sequence

from rewards.config import SandboxConfig
from rewards.isolation import IsolatedScorer
from rewards.plugin import RewardSource
from rewards.result import RewardResult
from rewards.task import Task
from rewards.transcript import Transcript


class RewardWorker:
    """Holds the process that the reward functions run in, built there from their sources. Safe in threads; `close` ends it."""

    def __init__(self, sources: Sequence[RewardSource], sandbox: SandboxConfig | None = None) -> None:
        self._scorer = IsolatedScorer(sources, sandbox)
        self.deadline_s = sum(source.timeout_s for source in sources)  # for one completion

    def score(self, items: Sequence[tuple[Task, Transcript]]) -> list[RewardResult]:
        """One result for each (task, transcript)."""
        return [self._scorer.score(task, transcript) for task, transcript in items]

    def close(self) -> None:
        """Ends the process; a `score` in another thread raises a RuntimeError."""
        self._scorer.close()
