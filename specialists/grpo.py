"""The GRPO loop of a stage: one side makes scored groups, the other trains on them and publishes, at most so far apart.

With `max_staleness: 0` the two take turns. With more, the rollouts of the next steps go on while the trainer works.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from rewards.task import effort_name, effort_order
from rl.advantage import GroupCounts, has_signal, to_samples
from rl.agent_figures import agent_figures
from rl.collect import Collected, Crew
from rl.config import GrpoConfig, SamplingConfig
from rl.effort import NO_EFFORTS, Efforts
from rl.judging import is_judging
from rl.judging_figures import step_figures
from rl.rollout import GroupRequest
from rl.trajectory import FinishReason, TrajectoryGroup
from rl.workers import TrainerHandle
from specialists.data import TaskSampler

Metrics = dict[str, float]

# Gets the step, the tasks taken until its end, its metrics and its groups.
AfterStep: TypeAlias = Callable[[int, int, Metrics, Sequence[TrajectoryGroup]], Awaitable[None]]


class ScoringFailedError(RuntimeError):
    """More rollouts of a step could not be scored than the recipe allows."""


class JudgeGapError(RuntimeError):
    """The judge's scores are further above the ground truth than the recipe allows: the policy learns to please the judge."""


@dataclass(frozen=True)
class JudgingTasks:
    """Labels to learn to judge from, beside a stage's own tasks: so many a step, in groups of their own."""

    tasks: TaskSampler
    num_prompts: int
    sampling: SamplingConfig
    weight: float


@dataclass(frozen=True)
class Ready:
    """The groups of a step, waiting for the trainer."""

    collected: Collected
    cursor: int  # tasks taken until then
    weights_step: int  # the step after which the weights that it was sampled with were published


class GrpoLoop:
    """One stage over workers that exist already, from `first_step` on: steps that are done.

    `_make` consumes tasks and waits until the weights are fresh enough; what unblocks it is `_published`.
    `run` consumes `_ready` and waits for the next groups; what unblocks it is `_make`.
    """

    def __init__(
        self,
        stage: GrpoConfig,
        seed: int,
        trainer: TrainerHandle,
        crew: Crew,
        tasks: TaskSampler,
        first_step: int,
        judging: JudgingTasks | None = None,
        efforts: Efforts = NO_EFFORTS,
    ) -> None:
        self.efforts = efforts
        self.stage, self.seed, self.trainer, self.crew, self.tasks = stage, seed, trainer, crew, tasks
        self.first_step, self.judging = first_step, judging
        self.trained_step: int | None = first_step  # the step that the trainer's weights have seen; None while that is unknown
        self._ready: asyncio.Queue[Ready | BaseException] = asyncio.Queue()
        self._engines = asyncio.Lock()  # held while rollouts run: weights change and evaluations run between them
        self._weights: Any = None  # published and not pulled yet
        self._weights_step = self._pulled_step = first_step
        self._published = asyncio.Condition()
        self._allowed_step = first_step + 1 + stage.max_staleness  # the last step whose rollouts may start

    async def run(self, after_step: AfterStep, stopped: Callable[[], bool]) -> None:
        """Takes the stage's steps that are left. `after_step` logs, evaluates and saves; it belongs to the caller.

        Ends after the step in which `stopped` turns true.
        """
        maker = asyncio.create_task(self._make())
        try:
            for step in range(self.first_step + 1, self.stage.steps + 1):
                start = time.perf_counter()
                ready = await self._ready.get()
                if isinstance(ready, BaseException):
                    raise ready
                wait_s = time.perf_counter() - start
                metrics = await self._train(step, ready)
                if self.stage.max_staleness > 0:
                    await self._allow(step)
                metrics |= {"wait_s": wait_s, "step_s": time.perf_counter() - start}
                await after_step(step, ready.cursor, metrics, ready.collected.groups)
                if stopped():
                    return
                await self._allow(step)  # not before an evaluation, which needs the engines to itself
        finally:
            maker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await maker

    @contextlib.asynccontextmanager
    async def idle_engines(self) -> AsyncIterator[None]:
        """The engines between two rollouts, with the newest weights; for evaluations."""
        async with self._engines:
            await self._pull()
            yield

    # ---- the side that trains

    async def _train(self, step: int, ready: Ready) -> Metrics:
        collected = ready.collected
        own = [group for group in collected.groups if not is_judging(group.task)]
        judging = [group for group in collected.groups if is_judging(group.task)]
        self._check_failures(step, own)
        samples, counts = to_samples(own, self.stage, self.efforts)
        metrics = group_metrics(own, counts)
        if self.crew.judge is not None:
            metrics |= step_figures(collected.groups, self.crew.truth)
            self._check_gap(step, metrics)
        if judging:
            more, counts = to_samples(judging, self.stage)
            samples += more
            metrics |= {"judge/num_groups": counts.num_groups, "judge/num_groups_without_signal": counts.num_without_signal}
            metrics["num_sampled_tokens"] += sum(m.trajectory.num_sampled for group in judging for m in group.members)
        metrics |= {"rollout_s": collected.rollout_s, "score_s": collected.score_s}
        metrics["tokens_per_s"] = metrics["num_sampled_tokens"] / (collected.rollout_s + collected.score_s)
        metrics["staleness"] = float(step - 1 - ready.weights_step)
        if samples:
            self.trained_step = None  # until the trainer answers: it may still be at work when the wait for it is over
            metrics |= await self.trainer.train_step(samples)
            self.trained_step = step
            published = time.perf_counter()
            self._weights, self._weights_step = await self.trainer.publish(), step
            if self.stage.mixed_versions:
                await self._pull()
            metrics["publish_s"] = time.perf_counter() - published
        else:  # the weights of before are this step's too
            self.trained_step = self._weights_step = step
        return metrics

    async def _allow(self, step: int) -> None:
        async with self._published:
            self._allowed_step = step + 1 + self.stage.max_staleness
            self._published.notify_all()

    # ---- the side that samples

    async def _make(self) -> None:
        """Rollouts and scores of one step after another, as far ahead of the trainer as is allowed."""
        try:
            for step in range(self.first_step + 1, self.stage.steps + 1):
                async with self._published:
                    await self._published.wait_for(lambda step=step: step <= self._allowed_step)  # type: ignore[misc]
                async with self._engines:
                    await self._pull()
                    weights_step = self._pulled_step
                    collected = await self._collect()
                self._ready.put_nowait(Ready(collected, self.tasks.cursor, weights_step))
        except BaseException as error:  # raised where the groups are waited for, whatever it is
            known = error if isinstance(error, Exception) else RuntimeError(f"the rollouts ended: {error!r}")
            self._ready.put_nowait(known)
            if known is not error:
                raise

    async def _pull(self) -> None:
        weights, step = self._weights, self._weights_step
        self._weights = None
        if weights is not None:
            await self.crew.pull(weights)
        self._pulled_step = step

    async def _collect(self) -> Collected:
        """A step's groups; those without a signal are followed by as many others, as often as the stage says."""
        collected = await self.crew.groups([*self._requests(self.stage.num_prompts), *self._judging_requests()])
        for _ in range(self.stage.dynamic_sampling_rounds):
            own = [group for group in collected.groups if not is_judging(group.task)]
            missing = self.stage.num_prompts - sum(has_signal(group, self.stage, self.efforts) for group in own)
            if not missing:
                break
            collected += await self.crew.groups(self._requests(missing))
        return collected

    def _requests(self, count: int) -> list[GroupRequest]:
        stage, efforts = self.stage, self.efforts
        return [
            GroupRequest(
                task,
                epoch,
                stage.group_size,
                efforts.sampling(task.effort, stage.sampling),
                f"{self.seed}/{stage.name}",
                window=efforts.window(task.effort),
            )
            for epoch, task in self.tasks.next(count)
        ]

    def _judging_requests(self) -> list[GroupRequest]:
        if self.judging is None:
            return []
        judging, seed = self.judging, f"{self.seed}/{self.stage.name}/labels"
        return [
            GroupRequest(task, epoch, self.stage.group_size, judging.sampling, seed, judging.weight, has_tools=False)
            for epoch, task in judging.tasks.next(judging.num_prompts)
        ]

    def _check_gap(self, step: int, metrics: Metrics) -> None:
        limit, gap = self.crew.judge.max_gap if self.crew.judge else None, metrics.get("judge/gap")
        if limit is not None and gap is not None and gap > limit:
            raise JudgeGapError(
                f"step {step}: the judge's mean score {metrics['judge/score']:.3f} is {gap:.3f} above the mean "
                f"{metrics['judge/truth']:.3f} of {self.crew.truth}, more than judge.max_gap {limit:g}: the policy learns to "
                "please the judge. What was learned until the step before is kept; mend the rubric or the judge, or allow more"
            )

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
        **{f"reward/{name}": float(np.mean([r.parts[name] for r in results if name in r.parts])) for name in parts},
        "completion_tokens_mean": float(np.mean(lengths)),
        "completion_tokens_max": float(max(lengths)),
        "cut_share": float(np.mean([t.finish_reason is not FinishReason.STOP for t in trajectories])),
        "num_sampled_tokens": float(sum(lengths)),
        "num_groups": float(counts.num_groups),
        "num_groups_without_signal": float(counts.num_without_signal),
        "num_failed_rollouts": float(counts.num_failed_rollouts),
        "num_overlong": float(counts.num_overlong),
        "num_truncated": float(counts.num_truncated),
        **{f"agent/{name}": value for name, value in agent_figures(trajectories).items()},
        **_by_effort(groups),
    }


def _by_effort(groups: Sequence[TrajectoryGroup]) -> Metrics:
    """Mean reward and tokens of each effort, where a step has several."""
    levels = sorted({group.task.effort for group in groups}, key=effort_order)
    found = {}
    for level in levels if len(levels) > 1 else ():
        own = [group for group in groups if group.task.effort == level]
        scores = [m.reward.score for group in own for m in group.valid if m.reward.score is not None]
        if scores:
            found[f"effort/{effort_name(level)}/reward"] = float(np.mean(scores))
        lengths = [m.trajectory.num_sampled for group in own for m in group.members]
        found[f"effort/{effort_name(level)}/tokens"] = float(np.mean(lengths))
    return found
