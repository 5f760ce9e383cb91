"""Advantages and their scaling, the length penalty, cut completions, and which groups carry a signal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from rewards.result import RewardResult, ScoreStatus
from rewards.task import Effort, Message, Role, Task
from rl.advantage import GroupCounts, has_signal, shaped_rewards, to_samples
from rl.config import GrpoConfig, OverlongConfig, SamplingConfig
from rl.trajectory import FinishReason, RolloutId, ScoredTrajectory, Trajectory, TrajectoryGroup, Turn

TASK = Task("t", "math", (Message(Role.USER, "What is 1?"),), effort=Effort.NONE)
LENGTH, STOP = FinishReason.LENGTH, FinishReason.STOP


def group(scores: Sequence[float | None], lengths: Sequence[int] | None = None, cut: Sequence[int] = ()) -> TrajectoryGroup:
    """Completions with these scores (None: failed) and numbers of sampled tokens; those at `cut` hit max_tokens."""
    members = []
    for i, score in enumerate(scores):
        n = 5 if lengths is None else lengths[i]
        trajectory = Trajectory(
            RolloutId(0, "ab", i),
            TASK,
            token_ids=np.arange(2 + n).astype(np.int32),
            loss_mask=np.arange(2 + n) >= 2,
            sampler_logprobs=np.zeros(2 + n, np.float32),
            policy_version=np.zeros(2 + n, np.int32),
            turns=(Turn(2, 2 + n, LENGTH if i in cut else STOP),),
            completion="",
        )
        result = RewardResult(ScoreStatus.FAILED, None, error="x") if score is None else RewardResult(ScoreStatus.OK, score, {})
        members.append(ScoredTrajectory(trajectory, result))
    return TrajectoryGroup(TASK, tuple(members))


def advantages_of(groups: Sequence[TrajectoryGroup], stage: GrpoConfig) -> list[float]:
    return [s.advantage for s in to_samples(groups, stage)[0]]


def test_scaling_by_the_standard_deviation() -> None:
    groups = [group([1, 0, 0, 0]), group([0.5, 0.25, None, 0.5]), group([1, 1, 1, 1])]
    first, second, third = torch.tensor([1.0, 0, 0, 0]), torch.tensor([0.5, 0.25, 0.5]), torch.ones(4)
    assert advantages_of(groups, GrpoConfig()) == pytest.approx(
        torch.cat([first - first.mean(), second - second.mean()]).tolist(), rel=1e-5
    )
    by_group = [(r - r.mean()) / (r.std() + 1e-4) for r in (first, second)]
    assert advantages_of(groups, GrpoConfig(scale_rewards="group")) == pytest.approx(torch.cat(by_group).tolist(), rel=1e-5)
    std = torch.cat([first, second, third]).std()  # of all that were scored, groups without signal too
    by_batch = [(r - r.mean()) / (std + 1e-4) for r in (first, second)]
    assert advantages_of(groups, GrpoConfig(scale_rewards="batch")) == pytest.approx(torch.cat(by_batch).tolist(), rel=1e-5)


@pytest.mark.parametrize("scale", ["none", "group", "batch"])
def test_rewards_that_differ_by_rounding_are_never_scaled_up(scale: str) -> None:
    stage = GrpoConfig(scale_rewards=scale)  # type: ignore[arg-type]
    assert not has_signal(group([0.3, 0.3 + 1e-10, 0.3]), stage)
    assert advantages_of([group([0.3, 0.3 + 1e-10, 0.3]), group([0, 0, 0])], stage) == []
    tiny = advantages_of([group([0.3, 0.3 + 2e-8, 0.3])], stage)
    assert len(tiny) == 3
    assert max(map(abs, tiny)) < 1e-3


def test_the_length_penalty_comes_before_the_mean() -> None:
    """Equation 13 with max_tokens 10, buffer 4, penalty 0.5: nothing up to 6 tokens, 0.25 at 8, 0.5 at 10."""
    stage = GrpoConfig(overlong=OverlongConfig(buffer_tokens=4, penalty=0.5), sampling=SamplingConfig(max_tokens=10))
    made = group([1, 1, 1, 0, None], [6, 8, 10, 1, 10])
    assert shaped_rewards(made, stage) == [1, 0.75, 0.5, 0]
    samples, counts = to_samples([made], stage)
    assert [s.advantage for s in samples] == pytest.approx([0.4375, 0.1875, -0.0625, -0.5625])
    assert counts == GroupCounts(1, 0, num_failed_rollouts=1, num_overlong=2, num_truncated=0)
    assert has_signal(group([1, 1], [6, 8]), stage), "the penalty alone is a signal"
    longer = GrpoConfig(overlong=OverlongConfig(buffer_tokens=4, max_tokens=20), sampling=SamplingConfig(max_tokens=10))
    assert to_samples([made], longer)[1].num_overlong == 0


def test_cut_completions_leave_the_batch_but_not_the_mean() -> None:
    made = group([1, 0, 0, 0], cut=[1, 2])
    samples, counts = to_samples([made], GrpoConfig(mask_truncated=True))
    assert [s.advantage for s in samples] == [0.75, -0.25]
    assert counts == GroupCounts(1, 0, num_failed_rollouts=0, num_overlong=0, num_truncated=2)
    assert len(to_samples([made], GrpoConfig())[0]) == 4
    nothing_left = group([1, 0], cut=[0, 1])
    assert has_signal(nothing_left, GrpoConfig())
    assert not has_signal(nothing_left, GrpoConfig(mask_truncated=True))
    samples, counts = to_samples([nothing_left], GrpoConfig(mask_truncated=True))
    assert (samples, counts.num_without_signal) == ([], 1)


def test_a_group_has_signal_exactly_when_it_gives_samples() -> None:
    stage = GrpoConfig(mask_truncated=True, overlong=OverlongConfig(buffer_tokens=3), sampling=SamplingConfig(max_tokens=6))
    groups = [
        group(scores, lengths, cut)
        for scores in ([1, 1, 1], [1, 0, 1], [None, 1, 1], [None, None, 1], [None, 0, 1])
        for lengths in ([3, 3, 3], [3, 5, 6])
        for cut in ([], [2], [0, 1, 2])
    ]
    assert {has_signal(g, stage) for g in groups} == {True, False}
    for g in groups:
        assert bool(to_samples([g], stage)[0]) == has_signal(g, stage)
    assert to_samples([], stage) == ([], GroupCounts(0, 0, 0, 0, 0))
