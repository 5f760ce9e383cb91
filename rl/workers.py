"""The workers of a run as its driver sees them: the same small asynchronous surface inline and on Ray.

Here are the surface and its inline form (everything in this process); `rl/actors.py` has the form over Ray actors.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from rewards.plugin import RewardSource
from rewards.result import RewardResult
from rewards.task import Task
from rl.batch import Sample
from rl.config import EngineConfig, GrpoConfig, ModelConfig, OptimizerConfig
from rl.engine.protocol import Capabilities
from rl.losses.grpo import GrpoLoss
from rl.rollout import GroupRequest, RolloutWorker
from rl.scoring import RewardWorker
from rl.trainer import Trainer
from rl.trajectory import Trajectory


@dataclass(frozen=True)
class TrainerSpec:
    """All that a trainer is made from; travels to the process that builds it."""

    folder: str
    model: ModelConfig
    optimizer: OptimizerConfig
    stage: GrpoConfig

    def build(self) -> Trainer:
        stage = self.stage
        loss = GrpoLoss(stage.clip, stage.kl_coef, stage.off_policy_threshold, stage.sampling.temperature)
        return Trainer(
            self.folder,
            self.model,
            self.optimizer,
            loss,
            num_steps=stage.steps,
            microbatch_tokens=stage.microbatch_tokens,
            reference_refresh_steps=stage.reference_refresh_steps if stage.kl_coef > 0 else None,
            temperature=stage.sampling.temperature,
        )


@dataclass(frozen=True)
class RolloutSpec:
    folder: str
    model: ModelConfig
    engine: EngineConfig
    timeout_s: float

    def build(self) -> RolloutWorker:
        return RolloutWorker(self.folder, self.model, self.engine, timeout_s=self.timeout_s)


class TrainerHandle(Protocol):
    async def train_step(self, samples: Sequence[Sample]) -> dict[str, float]: ...

    async def publish(self) -> Any:
        """The current weights in the form that RolloutHandle.pull takes: themselves, or a reference to them."""
        ...

    async def save(self, folder: Path) -> None: ...

    async def close(self) -> None: ...


class RolloutHandle(Protocol):
    async def rollout(self, requests: Sequence[GroupRequest]) -> list[list[Trajectory]]: ...

    async def pull(self, weights: Any) -> None: ...

    async def capabilities(self) -> Capabilities: ...

    async def close(self) -> None: ...


class RewardHandle(Protocol):
    async def score(self, items: Sequence[tuple[Task, str]]) -> list[RewardResult]: ...

    async def close(self) -> None: ...


Event: TypeAlias = dict[str, Any]


class Job(Protocol):
    """A long blocking piece of work, such as a supervised stage. It can be pickled; `stopped` turns true when it should end."""

    def run(self, report: Callable[[Event], None], stopped: Callable[[], bool]) -> Any: ...


class Workers(Protocol):
    """Starts workers where the runtime puts them. Each handle's `close` frees what its worker holds."""

    async def trainer(self, spec: TrainerSpec) -> TrainerHandle: ...

    async def rollouts(self, spec: RolloutSpec, count: int) -> list[RolloutHandle]: ...

    async def rewards(self, sources: Sequence[RewardSource], count: int) -> list[RewardHandle]: ...

    async def run_job(self, job: Job, report: Callable[[Event], None]) -> Any:
        """Runs a job to its end and returns its result, handing over its events as they come."""
        ...


class InlineWorkers:
    """Everything in this process: what a debugger wants. Blocking work runs in threads, one call at a time."""

    async def trainer(self, spec: TrainerSpec) -> TrainerHandle:
        return InlineTrainer(await asyncio.to_thread(spec.build))

    async def rollouts(self, spec: RolloutSpec, count: int) -> list[RolloutHandle]:
        return [await asyncio.to_thread(spec.build) for _ in range(count)]

    async def rewards(self, sources: Sequence[RewardSource], count: int) -> list[RewardHandle]:
        return [InlineRewards(RewardWorker(sources)) for _ in range(count)]

    async def run_job(self, job: Job, report: Callable[[Event], None]) -> Any:
        loop, stop = asyncio.get_running_loop(), threading.Event()
        try:
            return await asyncio.to_thread(
                job.run, lambda event: loop.call_soon_threadsafe(report, event) and None, stop.is_set
            )
        finally:
            stop.set()  # a cancelled wait leaves the thread running: tell it to end


class InlineTrainer:
    def __init__(self, trainer: Trainer) -> None:
        self.worker = trainer

    async def train_step(self, samples: Sequence[Sample]) -> dict[str, float]:
        return await asyncio.to_thread(self.worker.train_step, samples)

    async def publish(self) -> Any:
        return self.worker.publish()

    async def save(self, folder: Path) -> None:
        await asyncio.to_thread(self.worker.save, folder)

    async def close(self) -> None:
        pass


class InlineRewards:
    def __init__(self, worker: RewardWorker) -> None:
        self.worker = worker

    async def score(self, items: Sequence[tuple[Task, str]]) -> list[RewardResult]:
        return await asyncio.to_thread(self.worker.score, items)

    async def close(self) -> None:
        pass
