"""From tasks to scored groups, and from held-out tasks to an accuracy: the two uses of rollout and reward workers.

Work is dealt out in a fixed order to the workers that are there, so a result does not depend on which of them is quicker.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

from rewards.result import RewardResult
from rewards.score import is_correct, is_scored
from rewards.task import Task
from rewards.transcript import Transcript
from rl.config import RuntimeConfig, SamplingConfig
from rl.engine.capabilities import Capabilities
from rl.pool import Pool
from rl.rollout import GroupRequest
from rl.stats import pass_at_k, wilson_interval
from rl.trajectory import ScoredTrajectory, Trajectory, TrajectoryGroup
from rl.workers import EngineSpec, RewardHandle, RolloutHandle


@dataclass(frozen=True)
class Collected:
    """Scored groups, and where the time went: until the last rollout was there, and from then until the last score."""

    groups: Sequence[TrajectoryGroup]
    rollout_s: float
    score_s: float

    def __add__(self, other: Collected) -> Collected:
        return Collected([*self.groups, *other.groups], self.rollout_s + other.rollout_s, self.score_s + other.score_s)


class Crew:
    """The workers that turn tasks into scored trajectories; `primary` is the reward part that decides accuracy.

    Workers may be lost and come back while it works (rl/pool.py); `timeout_s` is how long it waits when none is left.
    """

    def __init__(
        self,
        rollouts: Sequence[RolloutHandle],
        rewards: Sequence[RewardHandle],
        primary: str,
        timeout_s: float = RuntimeConfig.timeout_s,
    ) -> None:
        self.primary = primary
        self._rollouts, self._rewards = Pool("rollout", rollouts, timeout_s), Pool("reward", rewards, timeout_s)

    async def open(self, spec: EngineSpec) -> Capabilities:
        """This engine in every rollout worker; in those that are away, before they are back."""
        found = await asyncio.gather(*(worker.open(spec) for worker in self._rollouts.workers))
        there = next((one for one in found if one is not None), None)
        while there is None:
            there = await self._rollouts.run(0, lambda worker: worker.open(spec))
        return there

    async def groups(self, requests: Sequence[GroupRequest]) -> Collected:
        """Rollouts of every request, scored; one group a request, in order. A worker's share is scored once it is there."""
        start = time.perf_counter()
        sampled_at = [start]

        async def share(first: int, mine: Sequence[GroupRequest]) -> list[TrajectoryGroup]:
            rollouts = await self._rollouts.run(first, lambda worker: worker.rollout(mine))
            sampled_at.append(time.perf_counter())
            scores = iter(await self._score(list(chain.from_iterable(rollouts))))
            return [
                TrajectoryGroup(request.task, tuple(ScoredTrajectory(t, next(scores)) for t in members))
                for request, members in zip(mine, rollouts, strict=True)
            ]

        groups = await self._rollouts.each_share(requests, share)
        rollout_s = max(sampled_at) - start
        return Collected(groups, rollout_s, time.perf_counter() - start - rollout_s)

    async def pull(self, weights: object) -> None:
        await asyncio.gather(*(worker.pull(weights) for worker in self._rollouts.workers))

    async def _score(self, trajectories: Sequence[Trajectory]) -> list[RewardResult]:
        async def share(first: int, mine: Sequence[tuple[Task, Transcript]]) -> list[RewardResult]:
            return await self._rewards.run(first, lambda worker: worker.score(mine))

        return await self._rewards.each_share([(t.task, t.transcript) for t in trajectories], share)


@dataclass(frozen=True)
class Evaluation:
    """Held-out accuracy. A completion whose primary part failed counts as not solved and is counted in `num_failed`."""

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


def accuracy(groups: Sequence[TrajectoryGroup], primary: str) -> float:
    """The mean over groups of the share of their members whose primary part is full marks."""
    return sum(_num_solved(group, primary) / len(group.members) for group in groups) / len(groups)


def _num_solved(group: TrajectoryGroup, primary: str) -> int:
    return sum(is_correct(m.reward, primary) for m in group.members)


async def evaluate(crew: Crew, tasks: Sequence[Task], sampling: SamplingConfig, num_samples: int, seed: int) -> Evaluation:
    """Accuracy on these tasks: the mean over tasks of the share of their samples whose primary part is full marks."""
    requests = [GroupRequest(task, 0, num_samples, sampling, f"{seed}/eval") for task in tasks]
    groups = (await crew.groups(requests)).groups
    solved = [_num_solved(group, crew.primary) for group in groups]
    kinds: dict[str, list[float]] = {}
    for group, count in zip(groups, solved, strict=True):
        kinds.setdefault(group.task.kind or group.task.domain, []).append(count / num_samples)
    tokens = sum(m.trajectory.num_sampled for g in groups for m in g.members)
    overall = accuracy(groups, crew.primary)
    powers = [k for k in (1, 2, 4, 8, 16, 32, 64) if k <= num_samples] if num_samples > 1 else []
    return Evaluation(
        accuracy=overall,
        interval=wilson_interval(overall * len(tasks), len(tasks)),
        num_tasks=len(tasks),
        mean_completion_tokens=tokens / (num_samples * len(tasks)),
        tokens_per_solved_task=tokens / sum(solved) if any(solved) else None,
        num_failed=sum(not is_scored(m.reward, crew.primary) for g in groups for m in g.members),
        by_kind={kind: sum(values) / len(values) for kind, values in sorted(kinds.items())},
        pass_at_k={k: sum(pass_at_k(num_samples, c, k) for c in solved) / len(tasks) for k in powers},
        groups=groups,
    )
