"""GRPO on a tiny random model: the mean reward rises on a reward that can be learned, and stays on one that cannot."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Awaitable, Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from rewards.plugin import RewardSource
from rewards.task import Effort, Message, Role, Task
from rl.batch import Sample
from rl.collect import Crew
from rl.config import EngineConfig, GrpoConfig, ModelConfig, OptimizerConfig, OverlongConfig, SamplingConfig
from rl.engine.core import EngineCore
from rl.engine.protocol import TokenChunk, Weights
from rl.losses.config import CispoLossConfig, DapoLossConfig, DrGrpoLossConfig, GrpoLossConfig, GspoLossConfig
from rl.rollout import GroupRequest
from rl.scoring import RewardWorker
from rl.trainer import Trainer
from rl.trajectory import Trajectory, TrajectoryGroup
from rl.workers import EngineSpec, InlineRewards, InlineRollouts, InlineTrainer, TrainerSpec, WorkerDiedError
from specialists.data import TaskSampler
from specialists.grpo import GrpoLoop, Metrics

DIGITS = "def digits(task, completion):\n    return sum(c.isdigit() for c in completion) / max(1, len(completion))\n"
CONSTANT = "def constant(task, completion):\n    return 0.5\n"
STAGE = GrpoConfig(
    steps=60,
    num_prompts=4,
    group_size=8,
    sampling=SamplingConfig(max_tokens=12),
    optimizer=OptimizerConfig(lr=2e-2),
)


def train(folder: Path, source: str, stage: GrpoConfig = STAGE) -> list[Metrics]:
    """The metrics of every step of a whole inline stage."""
    return run_stage(folder, source, stage)[0]


def run_stage(
    folder: Path, source: str, stage: GrpoConfig, num_workers: int = 1
) -> tuple[list[Metrics], list[Sequence[TrajectoryGroup]]]:
    """Metrics and groups of every step, with so many rollout workers and as many reward workers."""
    name = source.split("(")[0].removeprefix("def ")
    tasks = [Task(f"t{i}", "math", (Message(Role.USER, f"Say {i}."),), effort=Effort.NONE) for i in range(16)]
    model = ModelConfig(path=str(folder))
    seen: list[Metrics] = []
    kept: list[Sequence[TrajectoryGroup]] = []

    async def after_step(step: int, cursor: int, metrics: Metrics, groups: Sequence[TrajectoryGroup]) -> None:
        seen.append(metrics)
        kept.append(groups)

    async def run() -> None:
        trainer, rollouts = InlineTrainer(60.0), [InlineRollouts(60.0) for _ in range(num_workers)]
        assert stage.optimizer is not None
        await trainer.open(TrainerSpec(str(folder), model, stage.optimizer, stage, 60.0))
        spec = EngineSpec(str(folder), model, EngineConfig(max_batch_size=32, max_seq_len=64), 60.0)
        await asyncio.gather(*(worker.open(spec) for worker in rollouts))
        reward = RewardSource(f"x.py:{name}", 1.0, source, name)
        rewards = [InlineRewards(RewardWorker([reward]), 60.0) for _ in range(num_workers)]
        loop = GrpoLoop(stage, 0, trainer, Crew(rollouts, rewards, name), TaskSampler(tasks, "0"), 0)
        await loop.run(after_step, lambda: False)
        await asyncio.gather(*(worker.close() for worker in (*rollouts, *rewards)))

    asyncio.run(run())
    return seen, kept


def mean(rows: Sequence[Metrics]) -> float:
    return sum(r["reward_mean"] for r in rows) / len(rows)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"loss": GrpoLossConfig(kl_coef=1e-3)},
        {"sampling": SamplingConfig(max_tokens=12, top_p=0.95, temperature=0.9)},
        {"loss": DrGrpoLossConfig()},
        {"loss": DapoLossConfig(), "scale_rewards": "group", "overlong": OverlongConfig(buffer_tokens=4, penalty=0.1)},
        {"loss": GspoLossConfig()},
        {"loss": CispoLossConfig(ratio_to="trainer", importance_cap=2.0)},
    ],
    ids=["plain", "kl", "top-p", "dr_grpo", "dapo", "gspo", "cispo"],
)
def test_reward_rises(model_folder: Path, changes: dict[str, object]) -> None:
    stage = dataclasses.replace(STAGE, **changes)  # type: ignore[arg-type]
    rows = train(model_folder, DIGITS, stage)
    assert mean(rows[-3:]) > mean(rows[:3]) + 0.3
    trained = [row for row in rows if "loss" in row]  # a step whose groups carry no signal trains nothing
    assert len(trained) > 10
    assert all(row["sampler_gap"] < 1e-4 for row in trained)  # what was sampled is what is trained, to rounding
    assert all(("kl" in row) == (stage.loss.kl_coef > 0) for row in trained)


@pytest.mark.slow
def test_groups_without_signal_train_nothing_and_are_counted(model_folder: Path) -> None:
    rows = train(model_folder, CONSTANT)
    assert all(row["num_groups_without_signal"] == 4 for row in rows)
    assert all("loss" not in row for row in rows)


def test_engine_and_trainer_of_one_process_compute_in_one_thread(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: dict[str, set[int]] = {"step": set(), "train_step": set(), "publish": set()}
    for owner, name in ((EngineCore, "step"), (Trainer, "train_step"), (Trainer, "publish")):
        original = getattr(owner, name)

        def seen(*args: object, name: str = name, original: Callable[..., object] = original) -> object:
            threads[name].add(threading.get_ident())
            return original(*args)

        monkeypatch.setattr(owner, name, seen)
    train(model_folder, DIGITS, dataclasses.replace(STAGE, steps=2))
    assert all(threads.values())
    assert len(set.union(*threads.values())) == 1


def versions(groups: Sequence[TrajectoryGroup]) -> list[set[int]]:
    """The policy versions of each group's sampled tokens."""
    return [{int(v) for m in g.members for v in m.trajectory.policy_version[m.trajectory.loss_mask]} for g in groups]


@pytest.mark.slow
def test_stale_rollouts_overlap_training_never_mix_versions_and_still_learn(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samplers, overlaps = 0, list[bool]()  # the second: whether the side that samples was at work, for each training step
    train_step, rollout, pull = InlineTrainer.train_step, InlineRollouts.rollout, InlineRollouts.pull

    async def seen_train_step(self: InlineTrainer, samples: Sequence[Sample]) -> dict[str, float]:
        result = await train_step(self, samples)
        overlaps.append(samplers > 0)
        return result

    def counted(function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def run(*arguments: Any) -> Any:
            nonlocal samplers
            samplers += 1
            try:
                return await function(*arguments)
            finally:
                samplers -= 1

        return run

    monkeypatch.setattr(InlineTrainer, "train_step", seen_train_step)
    monkeypatch.setattr(InlineRollouts, "rollout", counted(rollout))
    monkeypatch.setattr(InlineRollouts, "pull", counted(pull))
    stage = dataclasses.replace(STAGE, max_staleness=1)
    rows, steps = run_stage(model_folder, DIGITS, stage, num_workers=2)
    assert mean(rows[-3:]) > mean(rows[:3]) + 0.3
    updates = list(accumulate("loss" in row for row in rows))  # a step without a signal makes none
    behind = [before - max(v) for before, groups in zip([0, *updates], steps, strict=False) for v in versions(groups)]
    assert all(len(v) == 1 for groups in steps for v in versions(groups))
    assert set(behind) == {0, 1}  # the first step's are fresh, later ones are a step behind
    assert [row["staleness"] for row in rows[:2]] == [0.0, 1.0]
    assert sum(overlaps) >= len(overlaps) - 1 > 10  # the next step's side waits for no trainer; the last step has no next one


@pytest.mark.slow
def test_mixed_versions_are_taken_where_the_recipe_allows_them(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second step's rollouts and the first training step wait for each other: new weights come after four tokens."""
    train_step, rollout, step = InlineTrainer.train_step, InlineRollouts.rollout, EngineCore.step
    num_rollouts = num_steps = 0  # rollouts begun, and decoding steps of the newest

    async def late_train_step(self: InlineTrainer, samples: Sequence[Sample]) -> dict[str, float]:
        while num_rollouts < 2 or (num_rollouts == 2 and num_steps < 4):
            await asyncio.sleep(0.001)
        return await train_step(self, samples)

    async def counted_rollout(self: InlineRollouts, requests: Sequence[GroupRequest]) -> list[list[Trajectory]]:
        nonlocal num_rollouts, num_steps
        num_rollouts, num_steps = num_rollouts + 1, 0
        return await rollout(self, requests)

    def held_step(self: EngineCore) -> list[tuple[str, TokenChunk]]:
        nonlocal num_steps
        if num_rollouts == 2 and num_steps == 4 and self.policy_version == 0:
            return []
        num_steps += 1
        return step(self)

    monkeypatch.setattr(InlineTrainer, "train_step", late_train_step)
    monkeypatch.setattr(InlineRollouts, "rollout", counted_rollout)
    monkeypatch.setattr(EngineCore, "step", held_step)
    changes = {"max_staleness": 2, "mixed_versions": True, "sampling": SamplingConfig(max_tokens=48), "steps": 12}
    rows, steps = run_stage(model_folder, DIGITS, dataclasses.replace(STAGE, **changes))  # type: ignore[arg-type]
    assert all("loss" in row for row in rows)  # so that a step is a version
    assert {0, 1} in versions(steps[1])
    assert all(0 <= step - v <= 2 for step, groups in enumerate(steps) for found in versions(groups) for v in found)


@pytest.mark.slow
def test_prompts_are_asked_for_until_enough_groups_carry_a_signal(model_folder: Path) -> None:
    """Half of the tasks give everybody the same reward."""
    reward = "def even(task, completion):\n    return len(completion) * (int(task.id[1:]) % 2) / 100\n"
    plain, _ = run_stage(model_folder, reward, dataclasses.replace(STAGE, steps=6))
    rows, steps = run_stage(model_folder, reward, dataclasses.replace(STAGE, steps=6, dynamic_sampling_rounds=8))
    assert all(row["num_groups"] - row["num_groups_without_signal"] == 4 for row in rows)
    assert any(row["num_groups_without_signal"] > 0 for row in plain)
    taken = [g.task.id for groups in steps for g in groups]
    assert len(taken) == sum(row["num_groups"] for row in rows) > 6 * 4
    assert all(len(set(taken[i : i + 16])) == 16 for i in range(0, len(taken) - 16, 16))  # no task is taken twice in a pass


class FailingPull(InlineRollouts):
    """A rollout worker that is lost for good when it should take the weights of the third step."""

    async def pull(self, weights: Weights) -> None:
        if weights.version == 3:
            raise WorkerDiedError("gone")
        await super().pull(weights)


@pytest.mark.slow
def test_weights_ahead_of_the_log_are_known_as_such(model_folder: Path) -> None:
    """When weights do not reach the engines, the trainer's have seen a step that is not logged, and must not be saved."""
    logged: list[int] = []

    async def after_step(step: int, cursor: int, metrics: Metrics, groups: Sequence[TrajectoryGroup]) -> None:
        logged.append(step)

    async def run() -> GrpoLoop:
        model, stage = ModelConfig(path=str(model_folder)), dataclasses.replace(STAGE, mixed_versions=True, max_staleness=1)
        trainer, rollouts = InlineTrainer(60.0), FailingPull(60.0)
        assert stage.optimizer is not None
        await trainer.open(TrainerSpec(str(model_folder), model, stage.optimizer, stage))
        await rollouts.open(EngineSpec(str(model_folder), model, EngineConfig(max_batch_size=32, max_seq_len=64), 60.0))
        rewards = InlineRewards(RewardWorker([RewardSource("x.py:digits", 1.0, DIGITS, "digits")]), 60.0)
        tasks = [Task(f"t{i}", "math", (Message(Role.USER, f"Say {i}."),), effort=Effort.NONE) for i in range(16)]
        loop = GrpoLoop(stage, 0, trainer, Crew([rollouts], [rewards], "digits"), TaskSampler(tasks, "0"), 0)
        with pytest.raises(WorkerDiedError, match="gone"):
            await loop.run(after_step, lambda: False)
        await asyncio.gather(rollouts.close(), rewards.close())
        return loop

    loop = asyncio.run(run())
    assert loop.trained_step == logged[-1] + 1
