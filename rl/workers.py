"""The workers of a run as its driver sees them: the same small asynchronous surface inline and on Ray.

Here are the surface and its inline form (everything in this process); `rl/actors.py` has the form over Ray actors.
Workers live as long as the run: a new stage gives them a new model, so no process starts twice.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar

from rewards.result import RewardResult
from rewards.task import Task
from rewards.transcript import Transcript
from rl.batch import Sample
from rl.compute import result_of, run_into, submit
from rl.config import EngineConfig, GrpoConfig, ModelConfig, OptimizerConfig
from rl.data_parallel import ALONE, Ranks
from rl.engine.capabilities import Capabilities
from rl.losses.build import build_loss
from rl.products import use_fast_products
from rl.rollout import AgentSpec, GroupRequest, RolloutWorker
from rl.scoring import RewardWorker
from rl.trainer import Trainer
from rl.trajectory import Trajectory


class WorkerDiedError(RuntimeError):
    """A worker's process ended while it was needed, and the run cannot go on without it."""


class WorkerLostError(WorkerDiedError):
    """A worker went with the call that it had; others can do the call, or the worker itself when it is back."""


class Member(Protocol):
    """A worker that may go and come back."""

    @property
    def absence(self) -> asyncio.Task[None] | None:
        """None while the worker is there; else a task that ends when it is back, and raises where it never will be."""
        ...


Event: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class TrainerSpec:
    """All that a trainer is made from; travels to the process that builds it."""

    folder: str
    model: ModelConfig
    optimizer: OptimizerConfig
    stage: GrpoConfig
    timeout_s: float = 600.0  # of the meeting of data-parallel trainers
    resume_from: str | None = None  # a checkpoint with the trainer's state; `folder` is then still the stage's first model

    def build(self, ranks: Ranks = ALONE) -> Trainer:
        use_fast_products()
        stage = self.stage
        ranks.join(self.timeout_s)
        trainer = Trainer(
            self.folder,
            self.model,
            self.optimizer,
            build_loss(stage.loss, stage.sampling.temperature),
            num_steps=stage.steps,
            microbatch_tokens=stage.microbatch_tokens,
            packing=stage.packing,
            reference_refresh_steps=stage.reference_refresh_steps if stage.loss.kl_coef > 0 else None,
            temperature=stage.sampling.temperature,
            aggregation=stage.loss.aggregation,
            max_tokens=stage.sampling.max_tokens,
            ranks=ranks,
        )
        if self.resume_from is not None:
            trainer.load_state(Path(self.resume_from))
        return trainer


@dataclass(frozen=True)
class TrainerFacts:
    """What a trainer found when it opened, for the run's log."""

    padded_because: str | None  # why microbatches are padded; None: they are packed
    products: str  # which float32 products this machine uses, and why


@dataclass(frozen=True)
class EngineSpec:
    """All that an engine is made from."""

    folder: str
    model: ModelConfig
    engine: EngineConfig
    timeout_s: float
    agent: AgentSpec = field(default_factory=AgentSpec)


class Job(Protocol):
    """A long blocking piece of training that can be pickled; `stopped` turns true when it should end."""

    def run(self, report: Callable[[Event], None], stopped: Callable[[], bool]) -> Any: ...


class TrainerHandle(Protocol):
    """Where training happens: supervised jobs, then steps on samples."""

    async def run_job(self, job: Job, report: Callable[[Event], None], stopped: Callable[[], bool]) -> Any:
        """Runs a job to its end, or until `stopped`, and returns its result, handing over its events as they come."""
        ...

    async def open(self, spec: TrainerSpec) -> TrainerFacts:
        """Builds the trainer that the calls below use, in place of an earlier one."""
        ...

    async def train_step(self, samples: Sequence[Sample]) -> dict[str, float]: ...

    async def publish(self) -> Any:
        """The current weights in the form that RolloutHandle.pull takes: themselves, or a reference to them."""
        ...

    async def save(self, folder: Path, *, with_state: bool) -> None:
        """Writes the model; with its state where training is to go on from there."""
        ...


class RolloutHandle(Member, Protocol):
    async def open(self, spec: EngineSpec) -> Capabilities | None:
        """Starts the engine that the calls below use, in place of an earlier one.

        None from a worker that is away: it opens the newest engine, and pulls the newest weights, before it is back.
        """
        ...

    async def rollout(self, requests: Sequence[GroupRequest]) -> list[list[Trajectory]]: ...

    async def pull(self, weights: Any) -> None: ...

    async def close(self) -> None: ...


class RewardHandle(Member, Protocol):
    async def score(self, items: Sequence[tuple[Task, Transcript]]) -> list[RewardResult]: ...

    async def close(self) -> None: ...


@dataclass(frozen=True)
class Workers:
    """All workers of a run."""

    trainer: TrainerHandle
    rollouts: Sequence[RolloutHandle]
    rewards: Sequence[RewardHandle]
    judges: Sequence[RolloutHandle] = ()  # of a frozen judge's own model

    async def close(self) -> list[BaseException]:
        """Closes all but the trainer; what went wrong over it."""
        rollouts = [worker.close() for worker in (*self.rollouts, *self.judges)]
        found = await asyncio.gather(*rollouts, *(worker.close() for worker in self.rewards), return_exceptions=True)
        return [problem for problem in found if isinstance(problem, BaseException)]


T = TypeVar("T")


async def in_thread(function: Callable[[], T], timeout_s: float | None, what: str) -> T:
    """Runs a function that waits for something in a thread that a process about to end does not wait for.

    Raises:
        TimeoutError: it took longer than `timeout_s` (None: no limit); the thread is left to itself.
    """
    future: Future[T] = Future()
    threading.Thread(target=run_into, args=(future, function), name=what, daemon=True).start()
    return await result_of(future, timeout_s, what)


async def computed(function: Callable[[], T], timeout_s: float | None, what: str) -> T:
    """Runs a function that computes in the process's compute thread; raises as `in_thread` does."""
    return await result_of(submit(function), timeout_s, what)


class InlineTrainer:
    """Training in this process, in its compute thread."""

    def __init__(self, timeout_s: float, ranks: Ranks = ALONE) -> None:
        self.timeout_s, self.ranks = timeout_s, ranks
        self._trainer: Trainer | None = None

    @property
    def trainer(self) -> Trainer:
        assert self._trainer is not None, "open() comes first"
        return self._trainer

    async def run_job(self, job: Job, report: Callable[[Event], None], stopped: Callable[[], bool]) -> Any:
        self._trainer = None  # a stage before may have left one, with its model
        loop, abandoned, failures = asyncio.get_running_loop(), threading.Event(), list[Exception]()

        def take(event: Event) -> None:
            try:
                report(event)
            except Exception as error:  # noqa: BLE001 - raised below; the event loop would only print it
                failures.append(error)
                abandoned.set()

        def pass_on(event: Event) -> None:
            loop.call_soon_threadsafe(take, event)

        try:
            # no limit: a stage may take days, and its events show that it goes on
            result = await computed(
                lambda: job.run(pass_on, lambda: stopped() or abandoned.is_set()), None, "the supervised stage"
            )
        finally:
            abandoned.set()  # a cancelled wait leaves the thread running: tell it to end
        if failures:
            raise failures[0]
        return result

    async def open(self, spec: TrainerSpec) -> TrainerFacts:
        self._trainer = None  # frees the earlier one before the next is built
        self._trainer = await computed(lambda: spec.build(self.ranks), self.timeout_s, "the trainer to load its model")
        return TrainerFacts(self._trainer.padded_because, use_fast_products().reason)

    async def train_step(self, samples: Sequence[Sample]) -> dict[str, float]:
        return await computed(lambda: self.trainer.train_step(samples), self.timeout_s, "a training step")

    async def publish(self) -> Any:
        return await computed(self.trainer.publish, self.timeout_s, "the trainer to publish its weights")

    async def save(self, folder: Path, *, with_state: bool) -> None:
        await computed(
            lambda: self.trainer.save(folder, with_state=with_state), self.timeout_s, f"the trainer to save {folder}"
        )


class InlineRollouts:
    """Rollouts in this process."""

    absence: asyncio.Task[None] | None = None  # always there

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._worker: RolloutWorker | None = None

    @property
    def worker(self) -> RolloutWorker:
        assert self._worker is not None, "open() comes first"
        return self._worker

    async def open(self, spec: EngineSpec) -> Capabilities:
        await self.close()
        self._worker = await computed(
            lambda: RolloutWorker(spec.folder, spec.model, spec.engine, spec.agent, timeout_s=spec.timeout_s),
            spec.timeout_s,
            "an engine to start",
        )
        return self._worker.engine.capabilities

    async def rollout(self, requests: Sequence[GroupRequest]) -> list[list[Trajectory]]:
        return await self.worker.rollout(requests)

    async def pull(self, weights: Any) -> None:
        await self.worker.pull(weights)

    async def close(self) -> None:
        if self._worker is not None:
            worker, self._worker = self._worker, None
            try:
                async with asyncio.timeout(self.timeout_s):
                    await worker.close()
            finally:
                await in_thread(worker.engine.close, self.timeout_s, "an engine to stop")


class InlineRewards:
    """Rewards in a child of this process, waited for in a thread."""

    absence: asyncio.Task[None] | None = None  # always there

    def __init__(self, worker: RewardWorker, timeout_s: float) -> None:
        self.worker, self.timeout_s = worker, timeout_s

    async def score(self, items: Sequence[tuple[Task, Transcript]]) -> list[RewardResult]:
        limit_s = self.timeout_s + len(items) * self.worker.deadline_s  # each completion may rightly take its deadline
        return await in_thread(lambda: self.worker.score(items), limit_s, f"the scores of {len(items)} completions")

    async def close(self) -> None:
        await in_thread(self.worker.close, self.timeout_s, "a reward worker to stop")
