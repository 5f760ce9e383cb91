"""Advantages of a step's groups: rewards centred on the group's mean, and scaled where the stage asks for it.

The default is centring and nothing else (DeepSeek-V3.2, arXiv 2512.02556, section 3; Dr. GRPO, arXiv 2503.20783).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from rl.batch import Sample
from rl.config import GrpoConfig
from rl.effort import NO_EFFORTS, Efforts
from rl.judging import is_judging
from rl.shaping import is_truncated, length_penalty
from rl.trajectory import TrajectoryGroup

SAME_REWARD = 1e-8  # rewards closer than this carry no signal
STD_FLOOR = 1e-4  # added to a standard deviation, as TRL does: rewards that differ by rounding stay far below 1


def advantages(rewards: Sequence[float]) -> list[float]:
    """R_i - mean(R). No division by the standard deviation, which would favour groups that are nearly all right or wrong.

    >>> advantages([1.0, 0.0, 0.0, 1.0])
    [0.5, -0.5, -0.5, 0.5]
    """
    mean = sum(rewards) / len(rewards)
    return [r - mean for r in rewards]


@dataclass(frozen=True)
class GroupCounts:
    """What became of a step's groups; every one of them is counted in the metrics."""

    num_groups: int
    num_without_signal: int  # all valid rewards equal, or nothing left to train on: no gradient, skipped
    num_failed_rollouts: int  # could not be scored: left out of baseline and batch
    num_overlong: int  # valid completions whose score a length penalty lowered
    num_truncated: int  # completions that were cut and, by `mask_truncated`, not trained on, in groups with signal


def shaped_rewards(group: TrajectoryGroup, stage: GrpoConfig, efforts: Efforts = NO_EFFORTS) -> list[float]:
    """The score of each valid member, with the stage's length penalty and its effort's; judging tasks have none."""
    if is_judging(group.task):
        return _scores(group)
    found = []
    for member, score in zip(group.valid, _scores(group), strict=True):
        trajectory, overlong = member.trajectory, stage.overlong
        shaped = score + efforts.penalty(group.task.effort, trajectory.num_reasoning)
        if overlong is not None:
            shaped += length_penalty(trajectory.num_sampled, overlong, overlong.max_tokens or stage.sampling.max_tokens)
        found.append(shaped)
    return found


def has_signal(group: TrajectoryGroup, stage: GrpoConfig, efforts: Efforts = NO_EFFORTS) -> bool:
    """Whether the group would give training samples: its rewards differ, and some completion is left to train on."""
    rewards = shaped_rewards(group, stage, efforts)
    return len(rewards) >= 2 and max(rewards) - min(rewards) >= SAME_REWARD and any(_trained(group, stage))


def to_samples(
    groups: Iterable[TrajectoryGroup], stage: GrpoConfig, efforts: Efforts = NO_EFFORTS
) -> tuple[list[Sample], GroupCounts]:
    """Training samples of the groups that carry a signal.

    Failed members are left out before centring, so the others' advantages are those of the valid subset exactly.
    """
    groups = list(groups)
    rewards = [shaped_rewards(group, stage, efforts) for group in groups]
    all_rewards = [r for of_group in rewards for r in of_group]
    batch_std = _std(all_rewards)
    samples: list[Sample] = []
    num_without = num_truncated = 0
    for group, of_group in zip(groups, rewards, strict=True):
        if not has_signal(group, stage, efforts):
            num_without += 1
            continue
        scale = {"none": 1.0, "group": _std(of_group) + STD_FLOOR, "batch": batch_std + STD_FLOOR}[stage.scale_rewards]
        for member, advantage, trained in zip(group.valid, advantages(of_group), _trained(group, stage), strict=True):
            num_truncated += not trained
            if trained:
                samples.append(Sample.from_trajectory(member.trajectory, group.weight * advantage / scale))
    num_failed = sum(len(group.members) - len(group.valid) for group in groups)
    scores = [r for group in groups for r in _scores(group)]
    num_overlong = sum(shaped < score for shaped, score in zip(all_rewards, scores, strict=True))
    return samples, GroupCounts(len(groups), num_without, num_failed, num_overlong, num_truncated)


def _trained(group: TrajectoryGroup, stage: GrpoConfig) -> list[bool]:
    members = [m.trajectory for m in group.valid]
    return [t.num_sampled > 0 and not (stage.mask_truncated and is_truncated(t)) for t in members]


def _scores(group: TrajectoryGroup) -> list[float]:
    return [m.reward.score for m in group.valid if m.reward.score is not None]


def _std(values: Sequence[float]) -> float:
    """The sample standard deviation (n - 1); 0 for fewer than two values."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
