"""Advantages of a group: rewards centred on the group's mean, nothing else (DeepSeek-V3.2, arXiv 2512.02556 section 3)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rl.batch import Sample
from rl.trajectory import TrajectoryGroup

SAME_REWARD = 1e-8  # rewards closer than this carry no signal


def advantages(rewards: Sequence[float]) -> list[float]:
    """R_i - mean(R). No division by the standard deviation, which would favour groups that are nearly all right or wrong.

    >>> advantages([1.0, 0.0, 0.0, 1.0])
    [0.5, -0.5, -0.5, 0.5]
    """
    mean = sum(rewards) / len(rewards)
    return [r - mean for r in rewards]


def has_signal(group: TrajectoryGroup) -> bool:
    """Whether the scored members' rewards differ; a group whose rewards are all equal carries no gradient."""
    rewards = [m.reward.score for m in group.valid if m.reward.score is not None]
    return len(rewards) >= 2 and max(rewards) - min(rewards) >= SAME_REWARD


@dataclass(frozen=True)
class GroupCounts:
    """What became of a step's groups; every one of them is counted in the metrics."""

    num_groups: int
    num_without_signal: int  # all valid rewards equal: no gradient, skipped
    num_failed_rollouts: int  # could not be scored: left out of baseline and batch


def to_samples(groups: Iterable[TrajectoryGroup]) -> tuple[list[Sample], GroupCounts]:
    """Training samples of the groups that carry a signal.

    Failed members are left out before centring, so the others' advantages are those of the valid subset exactly.
    """
    samples: list[Sample] = []
    num_groups = num_without = num_failed = 0
    for group in groups:
        num_groups += 1
        num_failed += len(group.members) - len(group.valid)
        if not has_signal(group):
            num_without += 1
            continue
        rewards = [m.reward.score for m in group.valid if m.reward.score is not None]
        for member, advantage in zip(group.valid, advantages(rewards), strict=True):
            samples.append(Sample.from_trajectory(member.trajectory, advantage))
    return samples, GroupCounts(num_groups, num_without, num_failed)
