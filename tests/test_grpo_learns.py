"""GRPO on a tiny random model: the mean reward rises on a reward that can be learned, and stays on one that cannot."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest

from rewards.plugin import RewardSource
from rewards.task import Effort, Message, Role, Task
from rl.collect import Crew
from rl.config import EngineConfig, GrpoConfig, ModelConfig, OptimizerConfig, SamplingConfig
from rl.scoring import RewardWorker
from rl.trajectory import TrajectoryGroup
from rl.workers import EngineSpec, InlineRewards, InlineRollouts, InlineTrainer, TrainerSpec
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
    name = source.split("(")[0].removeprefix("def ")
    tasks = [Task(f"t{i}", "math", (Message(Role.USER, f"Say {i}."),), effort=Effort.NONE) for i in range(16)]
    model = ModelConfig(path=str(folder))
    seen: list[Metrics] = []

    async def after_step(step: int, cursor: int, metrics: Metrics, groups: Sequence[TrajectoryGroup]) -> None:
        seen.append(metrics)

    async def run() -> None:
        trainer, rollouts = InlineTrainer(60.0), InlineRollouts(60.0)
        assert stage.optimizer is not None
        await trainer.open(TrainerSpec(str(folder), model, stage.optimizer, stage))
        await rollouts.open(EngineSpec(str(folder), model, EngineConfig(max_batch_size=32, max_seq_len=64), 60.0))
        reward = InlineRewards(RewardWorker([RewardSource(f"x.py:{name}", 1.0, source, name)]), 60.0)
        loop = GrpoLoop(stage, 0, trainer, Crew([rollouts], [reward], name), TaskSampler(tasks, "0"), 0)
        await loop.run(after_step, lambda: False)
        await rollouts.close()

    asyncio.run(run())
    return seen


def mean(rows: Sequence[Metrics]) -> float:
    return sum(r["reward_mean"] for r in rows) / len(rows)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [{}, {"kl_coef": 1e-3}, {"sampling": SamplingConfig(max_tokens=12, top_p=0.95, temperature=0.9)}],
    ids=["plain", "kl", "top-p"],
)
def test_reward_rises(model_folder: Path, changes: dict[str, object]) -> None:
    rows = train(model_folder, DIGITS, dataclasses.replace(STAGE, **changes))  # type: ignore[arg-type]
    assert mean(rows[-3:]) > mean(rows[:3]) + 0.3
    trained = [row for row in rows if "loss" in row]  # a step whose groups carry no signal trains nothing
    assert len(trained) > 10
    assert all(row["sampler_gap"] < 1e-4 for row in trained)  # what was sampled is what is trained, to rounding
    assert all(("kl" in row) == ("kl_coef" in changes) for row in trained)


@pytest.mark.slow
def test_groups_without_signal_train_nothing_and_are_counted(model_folder: Path) -> None:
    rows = train(model_folder, CONSTANT)
    assert all(row["num_groups_without_signal"] == 4 for row in rows)
    assert all("loss" not in row for row in rows)
