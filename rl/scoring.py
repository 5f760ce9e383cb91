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
    """Holds the processes that the rewards run in, built there from their sources. Safe in threads; `close` ends them."""

    def __init__(
        self, sources: Sequence[RewardSource], sandbox: SandboxConfig | None = None, num_processes: int | None = None
    ) -> None:
        """`num_processes`: completions that are scored at a time; None: one more than there are cores."""
        self._scorer = IsolatedScorer(sources, sandbox, num_processes)
        self.deadline_s = sum(source.timeout_s for source in sources)  # for one completion

    def score(self, items: Sequence[tuple[Task, Transcript]]) -> list[RewardResult]:
        """One result for each (task, transcript); items of one group stand side by side."""
        return self._scorer.score(items)

    def close(self) -> None:
        """Ends the processes; a `score` in another thread raises a RuntimeError."""
        self._scorer.close()
