"""A crew of workers: results in order whatever their number, failed scores left out exactly, evaluation's figures."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from rewards.plugin import RewardSource
from rewards.result import RewardResult, ScoreStatus
from rewards.score import part_names
from rewards.task import Message, Role, Task
from rl.advantage import advantages, to_samples
from rl.collect import Crew, Evaluation, evaluate
from rl.config import EngineConfig, GrpoConfig, ModelConfig, SamplingConfig
from rl.rollout import GroupRequest
from rl.scoring import RewardWorker
from rl.stats import pass_at_k, wilson_interval
from rl.trajectory import ScoredTrajectory, TrajectoryGroup
from rl.workers import EngineSpec, InlineRewards, InlineRollouts

TASKS = [Task(f"t{i}", "math", (Message(Role.USER, f"What is {i}?"),), answer=str(i), kind="ab"[i % 2]) for i in range(5)]
SAMPLING = SamplingConfig(max_tokens=12, temperature=1.0)

# Scores by what was written: half of all completions are right, some cannot be scored, one part counts the letters.
REWARDS = """
def half(task, completion):
    if len(completion) % 5 == 0:
        raise RuntimeError("no score for " + task.id)
    return float(len(completion) % 2)

def letters(task, completion):
    return len(completion) / 1000
"""


def sources(folder: Path, *names: str) -> list[RewardSource]:
    path = folder / "mine.py"
    path.write_text(REWARDS)
    return [RewardSource(f"{path}:{n}", 1.0, text=REWARDS, function=n) for n in names]


def run(model_folder: Path, rewards: Sequence[RewardSource], num_workers: int, work: str, num_samples: int = 4) -> object:
    """Opens real inline workers, does one thing with them, closes them."""

    async def inside() -> object:
        rollouts = [InlineRollouts(60.0) for _ in range(num_workers)]
        spec = EngineSpec(str(model_folder), ModelConfig(path=str(model_folder)), EngineConfig(max_seq_len=64), 60)
        for rollout in rollouts:
            await rollout.open(spec)
        workers = [RewardWorker(rewards) for _ in range(num_workers)]
        crew = Crew(rollouts, [InlineRewards(w, 60.0) for w in workers], part_names(rewards)[0])
        try:
            if work == "evaluate":
                return await evaluate(crew, TASKS, SAMPLING, num_samples, seed=0)
            return (await crew.groups([GroupRequest(task, 0, num_samples, SAMPLING, "0/train") for task in TASKS])).groups
        finally:
            for rollout in rollouts:
                await rollout.close()
            for worker in workers:
                worker.close()

    return asyncio.run(asyncio.wait_for(inside(), 120))


def groups_of(model_folder: Path, rewards: Sequence[RewardSource], num_workers: int) -> list[TrajectoryGroup]:
    groups = run(model_folder, rewards, num_workers, "groups")
    assert isinstance(groups, list)
    return groups


def test_two_workers_give_the_same_groups_in_the_same_order_as_one(model_folder: Path, tmp_path: Path) -> None:
    rewards = sources(tmp_path, "half", "letters")
    one, two = (groups_of(model_folder, rewards, n) for n in (1, 2))
    assert [g.task for g in one] == [g.task for g in two] == TASKS
    for a, b, task in zip(one, two, TASKS, strict=True):
        assert len(a.members) == len(b.members) == 4
        for i, (x, y) in enumerate(zip(a.members, b.members, strict=True)):
            assert x.trajectory.rollout_id == y.trajectory.rollout_id
            assert (x.trajectory.rollout_id.task_hash, x.trajectory.rollout_id.sample_index) == (task.content_hash, i)
            assert np.array_equal(x.trajectory.token_ids, y.trajectory.token_ids)
            np.testing.assert_allclose(x.trajectory.sampler_logprobs, y.trajectory.sampler_logprobs, atol=1e-5)
            assert (x.reward.status, x.reward.score, x.reward.parts) == (y.reward.status, y.reward.score, y.reward.parts)
            expected_failure = len(x.trajectory.completion) % 5 == 0  # each score belongs to its own completion
            assert (x.reward.status is ScoreStatus.FAILED) == expected_failure
            if not expected_failure:
                assert x.reward.parts["letters"] == len(x.trajectory.completion) / 1000
    assert len({m.trajectory.token_ids.tobytes() for g in one for m in g.members}) == 20, "every rollout draws its own"


def test_failed_scores_are_counted_and_left_out_exactly(model_folder: Path, tmp_path: Path) -> None:
    groups = groups_of(model_folder, sources(tmp_path, "half", "letters"), 2)
    failed = [m for g in groups for m in g.members if m.reward.score is None]
    assert 0 < len(failed) < 20, "the case needs both"
    assert all("no score for" in str(m.reward.error) for m in failed)
    samples, counts = to_samples(groups, GrpoConfig())
    assert (counts.num_groups, counts.num_failed_rollouts) == (5, len(failed))
    expected = []
    for group in groups:
        scores = [m.reward.score for m in group.members if m.reward.score is not None]
        if len(scores) >= 2 and max(scores) - min(scores) > 1e-8:
            valid = [m for m in group.members if m.reward.score is not None]
            expected += [(m.trajectory, s - sum(scores) / len(scores)) for m, s in zip(valid, scores, strict=True)]
    assert len(samples) == len(expected)
    for sample, (trajectory, advantage) in zip(samples, expected, strict=True):
        assert sample.token_ids is trajectory.token_ids
        assert sample.advantage == pytest.approx(advantage, abs=1e-12)


def scored(groups: Sequence[TrajectoryGroup], scores: Sequence[float | None]) -> TrajectoryGroup:
    """The first group's trajectories with made-up scores."""
    results = [
        RewardResult(ScoreStatus.FAILED, None, error="x") if s is None else RewardResult(ScoreStatus.OK, s, {"half": s})
        for s in scores
    ]
    members = [ScoredTrajectory(m.trajectory, r) for m, r in zip(groups[0].members, results, strict=True)]
    return TrajectoryGroup(groups[0].task, tuple(members))


def test_groups_without_signal_give_no_samples(model_folder: Path, tmp_path: Path) -> None:
    groups = groups_of(model_folder, sources(tmp_path, "letters"), 1)
    for scores in ([1, 1, 1, 1], [None, 1, 1, None], [None, None, None, 1], [None] * 4, [0.3, 0.3 + 1e-10, 0.3, 0.3]):
        samples, counts = to_samples([scored(groups, scores)], GrpoConfig())
        assert samples == []
        assert (counts.num_without_signal, counts.num_failed_rollouts) == (1, scores.count(None))
    samples, counts = to_samples([scored(groups, [None, 1, 0, 0])], GrpoConfig())
    assert [s.advantage for s in samples] == pytest.approx([2 / 3, -1 / 3, -1 / 3])
    assert (counts.num_without_signal, counts.num_failed_rollouts) == (0, 1)


def test_advantages_are_centred_and_not_scaled() -> None:
    assert advantages([1, 0, 0, 0]) == [0.75, -0.25, -0.25, -0.25]
    assert advantages([10, 0, 0, 0]) == [7.5, -2.5, -2.5, -2.5]


@pytest.mark.parametrize("num_samples", [1, 4])
def test_evaluation_figures(model_folder: Path, tmp_path: Path, num_samples: int) -> None:
    got = run(model_folder, sources(tmp_path, "half", "letters"), 2, "evaluate", num_samples)
    assert isinstance(got, Evaluation)
    assert [g.task for g in got.groups] == TASKS
    solved = [sum(m.reward.score is not None and m.reward.parts["half"] == 1.0 for m in g.members) for g in got.groups]
    tokens = sum(int(m.trajectory.loss_mask.sum()) for g in got.groups for m in g.members)
    total = 5 * num_samples
    assert 0 < sum(solved) < total
    assert got.accuracy == pytest.approx(sum(solved) / total)
    assert got.num_tasks == 5
    assert got.interval == wilson_interval(got.accuracy * 5, 5)
    assert got.interval[0] < got.accuracy < got.interval[1]
    assert got.mean_completion_tokens == pytest.approx(tokens / total)
    assert got.tokens_per_solved_task == pytest.approx(tokens / sum(solved))
    assert got.num_failed == sum(m.reward.score is None for g in got.groups for m in g.members)
    a, b = sum(solved[0::2]) / (3 * num_samples), sum(solved[1::2]) / (2 * num_samples)
    assert got.by_kind == pytest.approx({"a": a, "b": b})
    if num_samples == 1:
        assert got.pass_at_k == {}
    else:
        assert list(got.pass_at_k) == [1, 2, 4]
        assert got.pass_at_k[1] == pytest.approx(got.accuracy)
        assert got.pass_at_k[4] == pytest.approx(sum(s > 0 for s in solved) / 5)
    assert "groups" not in got.as_dict()


def test_nothing_solved_has_no_tokens_per_solved_task(model_folder: Path) -> None:
    rewards = [RewardSource("rewards.math:verify", 1.0, text=None, function="verify")]
    tasks_never_solved = run(model_folder, rewards, 1, "evaluate", 1)
    assert isinstance(tasks_never_solved, Evaluation)
    if tasks_never_solved.accuracy == 0:
        assert tasks_never_solved.tokens_per_solved_task is None
    assert tasks_never_solved.interval[0] == 0.0


def test_pass_at_k_by_enumeration() -> None:
    from itertools import combinations

    for correct in range(6):
        marks = [1] * correct + [0] * (5 - correct)
        for k in range(1, 6):
            draws = list(combinations(marks, k))
            assert pass_at_k(5, correct, k) == pytest.approx(sum(any(d) for d in draws) / len(draws))
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert wilson_interval(10, 10)[1] == 1.0
    assert wilson_interval(50, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
