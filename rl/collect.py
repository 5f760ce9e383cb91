"""From tasks to scored groups, and from held-out tasks to an accuracy: the two uses of rollout and reward workers.

Work is dealt out in a fixed order, so a result does not depend on which worker is quicker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

from rewards.result import RewardResult
from rewards.score import is_correct
from rewards.task import Task
from rl.config import SamplingConfig
from rl.rollout import GroupRequest
from rl.stats import pass_at_k, wilson_interval
from rl.trajectory import ScoredTrajectory, Trajectory, TrajectoryGroup
from rl.workers import RewardHandle, RolloutHandle


@dataclass(frozen=True)
class Crew:
    """The workers that turn tasks into scored trajectories; `primary` is the reward part that decides accuracy."""

    rollouts: Sequence[RolloutHandle]
    rewards: Sequence[RewardHandle]
    primary: str

    async def groups(self, requests: Sequence[GroupRequest]) -> list[TrajectoryGroup]:
        """Rollouts of every request, scored; one group a request, in order."""
        shares = [requests[i :: len(self.rollouts)] for i in range(len(self.rollouts))]
        answers = await asyncio.gather(*(w.rollout(s) for w, s in zip(self.rollouts, shares, strict=True) if s))
        dealt = [answers[i % len(self.rollouts)][i // len(self.rollouts)] for i in range(len(requests))]
        scores = iter(await self._score(list(chain.from_iterable(dealt))))
        return [
            TrajectoryGroup(request.task, tuple(ScoredTrajectory(t, next(scores)) for t in members))
            for request, members in zip(requests, dealt, strict=True)
        ]

    async def pull(self, weights: object) -> None:
        await asyncio.gather(*(worker.pull(weights) for worker in self.rollouts))

    async def _score(self, trajectories: Sequence[Trajectory]) -> list[RewardResult]:
        items = [(t.task, t.completion) for t in trajectories]
        count = len(self.rewards)
        shares = [items[i::count] for i in range(count)]
        answers = await asyncio.gather(*(w.score(s) for w, s in zip(self.rewards, shares, strict=True) if s))
        return [answers[i % count][i // count] for i in range(len(items))]


@dataclass(frozen=True)
class Evaluation:
    """Held-out accuracy. A completion that could not be scored counts as not solved and is counted in `num_failed`."""

    accuracy: float
    interval: tuple[float, float]  # Wilson, 95 %, over tasks
    num_tasks: int
    mean_completion_tokens: float
    tokens_per_solved_task: float | None  # None when nothing was solved
    num_failed: int
    by_kind: Mapping[str, float]
    pass_at_k: Mapping[int, float]
    groups: Sequence[TrajectoryGroup] = field(repr=False)

    def as_dict(self) -> dict[str, object]:
        """What summary.json and metrics hold: everything but the trajectories."""
        return {
            "accuracy": self.accuracy,
            "interval": list(self.interval),
            "num_tasks": self.num_tasks,
            "mean_completion_tokens": self.mean_completion_tokens,
            "tokens_per_solved_task": self.tokens_per_solved_task,
            "num_failed": self.num_failed,
            "by_kind": dict(self.by_kind),
            "pass_at_k": {str(k): v for k, v in self.pass_at_k.items()},
        }


async def evaluate(crew: Crew, tasks: Sequence[Task], sampling: SamplingConfig, num_samples: int, seed: int) -> Evaluation:
    """Accuracy on these tasks: the mean over tasks of the share of their samples whose primary part is full marks."""
    requests = [GroupRequest(task, 0, num_samples, sampling, f"{seed}/eval") for task in tasks]
    groups = await crew.groups(requests)
    solved = [sum(is_correct(m.reward, crew.primary) for m in g.members) for g in groups]
    kinds: dict[str, list[float]] = {}
    for group, count in zip(groups, solved, strict=True):
        kinds.setdefault(group.task.kind or group.task.domain, []).append(count / num_samples)
    tokens = sum(m.trajectory.num_sampled for g in groups for m in g.members)
    accuracy = sum(solved) / (num_samples * len(tasks))
    powers = [k for k in (1, 2, 4, 8, 16, 32, 64) if k <= num_samples] if num_samples > 1 else []
    return Evaluation(
        accuracy=accuracy,
        interval=wilson_interval(accuracy * len(tasks), len(tasks)),
        num_tasks=len(tasks),
        mean_completion_tokens=tokens / (num_samples * len(tasks)),
        tokens_per_solved_task=tokens / sum(solved) if any(solved) else None,
        num_failed=sum(len(g.members) - len(g.valid) for g in groups),
        by_kind={kind: sum(values) / len(values) for kind, values in sorted(kinds.items())},
        pass_at_k={k: sum(pass_at_k(num_samples, c, k) for c in solved) / len(tasks) for k in powers},
        groups=groups,
    )
