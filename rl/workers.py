"""The workers of a run as its driver sees them: the same small asynchronous surface inline and on Ray.

Here are the surface and its inline form (everything in this process); `rl/actors.py` has the form over Ray actors.
Workers live as long as the run: a new stage gives them a new model, so no process starts twice.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

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


class WorkerDiedError(RuntimeError):
    """A worker's process ended while it was needed."""


Event: TypeAlias = dict[str, Any]


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
class EngineSpec:
    """All that an engine is made from."""

    folder: str
    model: ModelConfig
    engine: EngineConfig
    timeout_s: float


class Job(Protocol):
    """A long blocking piece of training that can be pickled; `stopped` turns true when it should end."""

    def run(self, report: Callable[[Event], None], stopped: Callable[[], bool]) -> Any: ...


class TrainerHandle(Protocol):
    """Where training happens: supervised jobs, then steps on samples."""

    async def run_job(self, job: Job, report: Callable[[Event], None], stopped: Callable[[], bool]) -> Any:
        """Runs a job to its end, or until `stopped`, and returns its result, handing over its events as they come."""
        ...

    async def open(self, spec: TrainerSpec) -> None:
        """Builds the trainer that the calls below use, in place of an earlier one."""
        ...

    async def train_step(self, samples: Sequence[Sample]) -> dict[str, float]: ...

    async def publish(self) -> Any:
        """The current weights in the form that RolloutHandle.pull takes: themselves, or a reference to them."""
        ...

    async def save(self, folder: Path) -> None: ...


class RolloutHandle(Protocol):
    async def open(self, spec: EngineSpec) -> Capabilities:
        """Starts the engine that the calls below use, in place of an earlier one."""
        ...

    async def rollout(self, requests: Sequence[GroupRequest]) -> list[list[Trajectory]]: ...

    async def pull(self, weights: Any) -> None: ...

    async def close(self) -> None: ...


class RewardHandle(Protocol):
    async def score(self, items: Sequence[tuple[Task, str]]) -> list[RewardResult]: ...


@dataclass(frozen=True)
class Workers:
    """All workers of a run."""

    trainer: TrainerHandle
    rollouts: Sequence[RolloutHandle]
    rewards: Sequence[RewardHandle]


class InlineTrainer:
    """Training in this process; blocking work runs in a thread, one call at a time."""

    def __init__(self) -> None:
        self._trainer: Trainer | None = None

    @property
    def trainer(self) -> Trainer:
        assert self._trainer is not None, "open() comes first"
        return self._trainer

    async def run_job(self, job: Job, report: Callable[[Event], None], stopped: Callable[[], bool]) -> Any:
        loop, abandoned = asyncio.get_running_loop(), threading.Event()

        def pass_on(event: Event) -> None:
            loop.call_soon_threadsafe(report, event)

        try:
            return await asyncio.to_thread(job.run, pass_on, lambda: stopped() or abandoned.is_set())
        finally:
            abandoned.set()  # a cancelled wait leaves the thread running: tell it to end

    async def open(self, spec: TrainerSpec) -> None:
        self._trainer = None  # frees the earlier one before the next is built
        self._trainer = await asyncio.to_thread(spec.build)

    async def train_step(self, samples: Sequence[Sample]) -> dict[str, float]:
        return await asyncio.to_thread(self.trainer.train_step, samples)

    async def publish(self) -> Any:
        return self.trainer.publish()

    async def save(self, folder: Path) -> None:
        await asyncio.to_thread(self.trainer.save, folder)


class InlineRollouts:
    """Rollouts in this process."""

    def __init__(self) -> None:
        self._worker: RolloutWorker | None = None

    @property
    def worker(self) -> RolloutWorker:
        assert self._worker is not None, "open() comes first"
        return self._worker

    async def open(self, spec: EngineSpec) -> Capabilities:
        await self.close()
        self._worker = await asyncio.to_thread(RolloutWorker, spec.folder, spec.model, spec.engine, timeout_s=spec.timeout_s)
        return self._worker.engine.capabilities

    async def rollout(self, requests: Sequence[GroupRequest]) -> list[list[Trajectory]]:
        return await self.worker.rollout(requests)

    async def pull(self, weights: Any) -> None:
        await self.worker.pull(weights)

    async def close(self) -> None:
        if self._worker is not None:
            await asyncio.to_thread(self._worker.engine.close)
            self._worker = None


class InlineRewards:
    """Rewards in this process, in a thread."""

    def __init__(self, worker: RewardWorker) -> None:
        self.worker = worker

    async def score(self, items: Sequence[tuple[Task, str]]) -> list[RewardResult]:
        return await asyncio.to_thread(self.worker.score, items)
