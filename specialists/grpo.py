"""The GRPO loop of a stage: take groups, make samples, train, publish, log, evaluate, checkpoint."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from rl.advantage import GroupCounts, to_samples
from rl.collect import Crew
from rl.config import GrpoConfig
from rl.rollout import GroupRequest
from rl.trajectory import FinishReason, TrajectoryGroup
from rl.workers import TrainerHandle
from specialists.data import TaskSampler

Metrics = dict[str, float]


# Gets the step, the tasks taken so far, the metrics and the groups.
AfterStep: TypeAlias = Callable[[int, int, Metrics, Sequence[TrajectoryGroup]], Awaitable[None]]


class ScoringFailedError(RuntimeError):
    """More rollouts of a step could not be scored than the recipe allows."""


@dataclass
class GrpoLoop:
    """One stage over workers that exist already. `after_step` logs, evaluates and saves; it belongs to the caller."""

    stage: GrpoConfig
    seed: int
    trainer: TrainerHandle
    crew: Crew
    tasks: TaskSampler
    first_step: int = 0  # steps that are done already

    async def run(self, after_step: AfterStep, stopped: Callable[[], bool]) -> None:
        """Takes the stage's steps that are left; each waits for its rollouts, their scores, the trainer, then the engines.

        Ends after the step in which `stopped` turns true.
        """
        for step in range(self.first_step + 1, self.stage.steps + 1):
            start = time.perf_counter()
            groups = await self.crew.groups(self._requests())
            rollout_s = time.perf_counter() - start
            self._check_failures(step, groups)
            samples, counts = to_samples(groups)
            metrics = group_metrics(groups, counts)
            if samples:
                metrics |= await self.trainer.train_step(samples)
                published = time.perf_counter()
                await self.crew.pull(await self.trainer.publish())
                metrics["publish_s"] = time.perf_counter() - published
            metrics |= {"rollout_s": rollout_s, "step_s": time.perf_counter() - start}
            metrics["tokens_per_s"] = metrics["num_sampled_tokens"] / metrics["rollout_s"]
            await after_step(step, self.tasks.cursor, metrics, groups)
            if stopped():
                return

    def _requests(self) -> list[GroupRequest]:
        stage = self.stage
        return [
            GroupRequest(task, epoch, stage.group_size, stage.sampling, f"{self.seed}/{stage.name}")
            for epoch, task in self.tasks.next(stage.num_prompts)
        ]

    def _check_failures(self, step: int, groups: Sequence[TrajectoryGroup]) -> None:
        members = [m for g in groups for m in g.members]
        failed = [m for m in members if m.reward.score is None]
        if len(failed) > self.stage.max_failed_share * len(members):
            raise ScoringFailedError(
                f"step {step}: {len(failed)} of {len(members)} completions could not be scored, more than max_failed_share "
                f"{self.stage.max_failed_share}; the first failure:\n{failed[0].reward.error}"
            )


def group_metrics(groups: Sequence[TrajectoryGroup], counts: GroupCounts) -> Metrics:
    """Means over a step's rollouts; failed scores are left out of the reward's mean and counted."""
    trajectories = [m.trajectory for g in groups for m in g.members]
    results = [m.reward for g in groups for m in g.valid]
    lengths = [t.num_sampled for t in trajectories]
    parts = sorted({name for r in results for name in r.parts})
    return {
        **({"reward_mean": float(np.mean([r.score for r in results if r.score is not None]))} if results else {}),
        **{f"reward/{name}": float(np.mean([r.parts[name] for r in results])) for name in parts},
        "completion_tokens_mean": float(np.mean(lengths)),
        "completion_tokens_max": float(max(lengths)),
        "cut_share": float(np.mean([t.finish_reason is not FinishReason.STOP for t in trajectories])),
        "num_sampled_tokens": float(sum(lengths)),
        "num_groups": float(counts.num_groups),
        "num_groups_without_signal": float(counts.num_without_signal),
        "num_failed_rollouts": float(counts.num_failed_rollouts),
    }
