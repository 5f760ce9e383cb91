"""The judge among the workers: a model of the run behind rewards' `Completer`, and judging tasks told from others.

Called by `rl/collect.py`, which has the workers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from rewards.judge import Ask, Completer, Reply, Rules, Submission
from rewards.labels import DOMAIN, agreement
from rewards.result import RewardResult
from rewards.task import Effort, Task
from rl.config import SamplingConfig
from rl.rollout import GroupRequest
from rl.trajectory import FinishReason, Trajectory

Rollouts = Callable[[Sequence[GroupRequest]], Awaitable[list[list[Trajectory]]]]


@dataclass(frozen=True)
class JudgePart:
    """A recipe's judge, in the terms of this package. `weights`: of all parts of a score, the judge's among them."""

    rules: Rules
    weights: Mapping[str, float]
    sampling: SamplingConfig
    effort: Effort = Effort.HIGH
    endpoint: Completer | None = None  # None: a model in rollout workers judges
    max_gap: float | None = None  # of a step's mean score above the truth's


@dataclass(frozen=True)
class RolloutCompleter:
    """A model in a rollout worker as a judge. Each reply is a rollout of its own: own request, own id, own random numbers."""

    rollouts: Rollouts
    sampling: SamplingConfig
    effort: Effort

    async def complete(self, asks: Sequence[Ask]) -> list[Reply]:
        requests = [
            GroupRequest(
                Task(DOMAIN, DOMAIN, ask.messages, effort=self.effort),
                0,
                1,
                self.sampling,
                ask.stream,
                may_not_fit=True,
                has_tools=False,
            )
            for ask in asks
        ]
        return [reply_of(trajectory) for (trajectory,) in await self.rollouts(requests)]


def reply_of(trajectory: Trajectory) -> Reply:
    """What a rollout says as a judge's reply."""
    if not trajectory.num_sampled:
        return Reply(None, f"the judging prompt of {len(trajectory.token_ids)} tokens leaves no room in engine.max_seq_len")
    cut = trajectory.finish_reason is not FinishReason.STOP
    return Reply(trajectory.completion, f"it was cut ({trajectory.finish_reason})" if cut else "")


def is_judging(task: Task) -> bool:
    """Whether the task is to judge, with a label as its answer."""
    return task.domain == DOMAIN


def agreement_of(trajectory: Trajectory) -> RewardResult:
    """The score of a judging task."""
    return agreement(trajectory.task, reply_of(trajectory))


def submission(seed: str, trajectory: Trajectory) -> Submission:
    return Submission(trajectory.task, trajectory.completion, f"{seed}/{trajectory.rollout_id.key}")
