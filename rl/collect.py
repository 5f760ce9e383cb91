"""From tasks to scored groups, and from held-out tasks to an accuracy: the two uses of rollout and reward workers.

Work is dealt out in a fixed order to the workers that are there, so a result does not depend on which of them is quicker.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby

from rewards.judge import Ask, Completer, Judgement, Reply, judge, with_judgement
from rewards.result import RewardResult, ScoreStatus
from rewards.score import is_correct, is_scored
from rewards.task import Task, effort_name, effort_order
from rl.agent_figures import agent_figures
from rl.config import RuntimeConfig, SamplingConfig
from rl.effort import NO_EFFORTS, Efforts
from rl.engine.capabilities import Capabilities
from rl.judging import JudgePart, RolloutCompleter, agreement_of, is_judging, submission
from rl.judging_figures import label_figures, score_figures
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
    A `judge` adds its part to every score. It is asked through `judges`, rollout workers of a frozen model that are open
    already, or where there are none through `rollouts`: the policy judges. Judging tasks are scored by their labels.
    """

    def __init__(
        self,
        rollouts: Sequence[RolloutHandle],
        rewards: Sequence[RewardHandle],
        primary: str,
        timeout_s: float = RuntimeConfig.timeout_s,
        judge: JudgePart | None = None,
        judges: Sequence[RolloutHandle] = (),
    ) -> None:
        self.primary, self.judge = primary, judge
        self.truth = primary if rewards else None  # the part that a judge's scores are held against
        self._rollouts, self._rewards = Pool("rollout", rollouts, timeout_s), Pool("reward", rewards, timeout_s)
        self._judges = Pool("judge", judges, timeout_s) if judges else self._rollouts

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
            pairs = [(request, t) for request, members in zip(mine, rollouts, strict=True) for t in members]
            scored = iter(await self._score(first, pairs))
            return [
                TrajectoryGroup(request.task, tuple(next(scored) for _ in members), request.weight)
                for request, members in zip(mine, rollouts, strict=True)
            ]

        groups = await self._rollouts.each_share(requests, share)
        rollout_s = max(sampled_at) - start
        return Collected(groups, rollout_s, time.perf_counter() - start - rollout_s)

    async def pull(self, weights: object) -> None:
        await asyncio.gather(*(worker.pull(weights) for worker in self._rollouts.workers))

    async def ask(self, asks: Sequence[Ask]) -> list[Reply]:
        """The judge's replies, dealt out to the workers that it runs in."""
        if self._part.endpoint is not None:
            return await self._part.endpoint.complete(asks)

        async def share(first: int, mine: Sequence[Ask]) -> list[Reply]:
            return await self._completer(first).complete(mine)

        return await self._judges.each_share(asks, share)

    @property
    def _part(self) -> JudgePart:
        assert self.judge is not None, "the recipe has a judge"
        return self.judge

    def _completer(self, first: int) -> Completer:
        """The judge, asked through one worker by preference: a share's judgements stay where its rollouts were."""
        part = self._part

        async def rollouts(requests: Sequence[GroupRequest]) -> list[list[Trajectory]]:
            return await self._judges.run(first, lambda worker: worker.rollout(requests))

        return part.endpoint or RolloutCompleter(rollouts, part.sampling, part.effort)

    async def _score(self, first: int, pairs: Sequence[tuple[GroupRequest, Trajectory]]) -> list[ScoredTrajectory]:
        """Each trajectory with its score, in order; rewards and judge are at work side by side. A failed one has none."""
        own = [(request, t) for request, t in pairs if not is_judging(t.task) and t.failure is None]
        results, judgements = await asyncio.gather(self._reward([t for _, t in own]), self._judge(first, own))
        found = iter(zip(results, judgements, strict=True))
        scored = []
        for _, trajectory in pairs:
            if is_judging(trajectory.task):
                scored.append(ScoredTrajectory(trajectory, agreement_of(trajectory)))
                continue
            if trajectory.failure is not None:
                scored.append(ScoredTrajectory(trajectory, RewardResult(ScoreStatus.FAILED, None, error=trajectory.failure)))
                continue
            result, judgement = next(found)
            if judgement is not None:
                result = with_judgement(result, judgement, self._part.weights)
            assert result is not None, "rewards or a judge have scored it"
            scored.append(ScoredTrajectory(trajectory, result, judgement))
        return scored

    async def _judge(
        self, first: int, pairs: Sequence[tuple[GroupRequest, Trajectory]]
    ) -> Sequence[Judgement] | Sequence[None]:
        if self.judge is None:
            return [None] * len(pairs)
        submissions = [submission(request.seed, trajectory) for request, trajectory in pairs]
        return await judge(self._completer(first), self.judge.rules, submissions)

    async def _reward(self, trajectories: Sequence[Trajectory]) -> Sequence[RewardResult] | Sequence[None]:
        async def share(first: int, mine: Sequence[Sequence[Trajectory]]) -> list[list[RewardResult]]:
            items = [(t.task, t.transcript) for group in mine for t in group]
            results = iter(await self._rewards.run(first, lambda worker: worker.score(items)))
            return [[next(results) for _ in group] for group in mine]

        if not self._rewards.workers:
            return [None] * len(trajectories)
        groups = [list(group) for _, group in groupby(trajectories, lambda t: t.transcript.group)]  # scored in one place
        return list(chain.from_iterable(await self._rewards.each_share(groups, share)))


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
    judge: Mapping[str, float] = field(default_factory=dict)  # figures of the judge; empty where there is none
    by_effort: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # see `effort_figures`; empty for one effort
    agent: Mapping[str, float] = field(default_factory=dict)  # figures of rollouts with tools; empty where none was called

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
            **({"judge": dict(self.judge)} if self.judge else {}),
            **({"by_effort": {name: dict(found) for name, found in self.by_effort.items()}} if self.by_effort else {}),
            **({"agent": dict(self.agent)} if self.agent else {}),
        }


def accuracy(groups: Sequence[TrajectoryGroup], primary: str) -> float:
    """The mean over groups of the share of their members whose primary part is full marks."""
    return sum(_num_solved(group, primary) / len(group.members) for group in groups) / len(groups)


def _num_solved(group: TrajectoryGroup, primary: str) -> int:
    return sum(is_correct(m.reward, primary) for m in group.members)


def effort_figures(groups: Sequence[TrajectoryGroup], primary: str) -> dict[str, dict[str, float]]:
    """Of each effort, from the least: accuracy, mean sampled tokens, and accuracy per thousand of them. None for one effort."""
    levels = {group.task.effort for group in groups}
    if len(levels) < 2:
        return {}
    found = {}
    for level in sorted(levels, key=effort_order):
        own = [group for group in groups if group.task.effort == level]
        share = accuracy(own, primary)
        members = [m.trajectory for group in own for m in group.members]
        tokens = sum(t.num_sampled for t in members) / len(members)
        found[effort_name(level)] = {
            "accuracy": share,
            "mean_tokens": tokens,
            "mean_reasoning_tokens": sum(t.num_reasoning for t in members) / len(members),
            "accuracy_per_1k_tokens": 1000 * share / tokens if tokens else 0.0,
            "num_tasks": float(len(own)),
        }
    return found


async def evaluate(
    crew: Crew,
    tasks: Sequence[Task],
    sampling: SamplingConfig,
    num_samples: int,
    seed: int,
    labels: Sequence[Task] = (),
    efforts: Efforts = NO_EFFORTS,
) -> Evaluation:
    """Accuracy on these tasks: the mean over tasks of the share of their samples whose primary part is full marks.

    Where there is a judge, its figures as well: of its scores on these samples, and of its agreement with held-out labels.
    """
    requests = [
        GroupRequest(
            task, 0, num_samples, efforts.sampling(task.effort, sampling), f"{seed}/eval", window=efforts.window(task.effort)
        )
        for task in tasks
    ]
    groups = (await crew.groups(requests)).groups
    judged: dict[str, float] = {}
    if crew.judge is not None:
        judged = score_figures(groups, crew.truth)
        judged |= await label_figures(crew.ask, crew.judge.rules, labels, f"{seed}/eval/labels")
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
        judge=judged,
        by_effort=effort_figures(groups, crew.primary),
        agent=agent_figures([m.trajectory for g in groups for m in g.members]),
        groups=groups,
    )
