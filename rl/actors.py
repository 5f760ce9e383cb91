"""The same workers as Ray actors: thin wrappers over the plain classes, and handles with a timeout on every wait.

Actors are asynchronous; blocking work runs in their threads, so that a call such as stop is answered in the middle of it.
Weights travel through Ray's object store: the trainer puts them once, every engine reads them without a copy on disk.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch

from rewards.plugin import RewardSource
from rewards.result import RewardResult
from rewards.task import Task
from rl.batch import Sample
from rl.engine.protocol import Capabilities
from rl.rollout import GroupRequest
from rl.scoring import RewardWorker
from rl.trajectory import Trajectory
from rl.workers import Event, Job, RewardHandle, RolloutHandle, RolloutSpec, TrainerHandle, TrainerSpec

POLL_S = 0.2  # between two looks at a job's events


class TrainerActor:
    def __init__(self, spec: TrainerSpec, num_threads: int) -> None:
        torch.set_num_threads(num_threads)
        self.worker = spec.build()

    async def train_step(self, samples: Sequence[Sample]) -> dict[str, float]:
        return await asyncio.to_thread(self.worker.train_step, samples)

    async def publish(self) -> list[ray.ObjectRef]:
        weights = await asyncio.to_thread(self.worker.publish)
        return [ray.put(weights)]  # in a list, so that the caller gets the reference and not the weights

    async def save(self, folder: Path) -> None:
        await asyncio.to_thread(self.worker.save, folder)


class RolloutActor:
    def __init__(self, spec: RolloutSpec, num_threads: int) -> None:
        torch.set_num_threads(num_threads)
        self.worker = spec.build()

    async def rollout(self, requests: Sequence[GroupRequest]) -> list[list[Trajectory]]:
        return await self.worker.rollout(requests)

    async def pull(self, weights: list[ray.ObjectRef]) -> None:
        await self.worker.pull(await weights[0])

    async def capabilities(self) -> Capabilities:
        return await self.worker.capabilities()


class RewardActor:
    def __init__(self, sources: Sequence[RewardSource]) -> None:
        self.worker = RewardWorker(sources)

    async def score(self, items: Sequence[tuple[Task, str]]) -> list[RewardResult]:
        return await asyncio.to_thread(self.worker.score, items)


class JobActor:
    """Runs one job in a thread; its events are fetched, so that they cross machines without a connection back."""

    def __init__(self, job: Job, num_threads: int) -> None:
        torch.set_num_threads(num_threads)
        self.job, self._events, self._stop = job, list[Event](), threading.Event()

    async def run(self) -> Any:
        return await asyncio.to_thread(self.job.run, self._events.append, self._stop.is_set)

    async def events(self, start: int) -> list[Event]:
        return self._events[start:]

    async def stop(self) -> None:
        self._stop.set()


class RayWorkers:
    """Starts actors. They ask for a sliver of a core each: on one machine trainer and sampler take turns on the same cores."""

    def __init__(self, *, num_threads: int, timeout_s: float) -> None:
        self.num_threads, self.timeout_s = num_threads, timeout_s

    async def trainer(self, spec: TrainerSpec) -> TrainerHandle:
        return RayTrainer(await self._start("the trainer", TrainerActor, spec, self.num_threads), self.timeout_s)

    async def rollouts(self, spec: RolloutSpec, count: int) -> list[RolloutHandle]:
        starts = [self._start(f"rollout worker {i}", RolloutActor, spec, self.num_threads) for i in range(count)]
        return [RayRollouts(actor, self.timeout_s) for actor in await asyncio.gather(*starts)]

    async def rewards(self, sources: Sequence[RewardSource], count: int) -> list[RewardHandle]:
        starts = [self._start(f"reward worker {i}", RewardActor, sources) for i in range(count)]
        return [RayRewards(actor, self.timeout_s) for actor in await asyncio.gather(*starts)]

    async def run_job(self, job: Job, report: Callable[[Event], None]) -> Any:
        actor = await self._start("the supervised stage", JobActor, job, self.num_threads)
        done, seen = asyncio.ensure_future(_future(actor.run.remote())), 0
        try:
            while not done.done():
                await asyncio.wait([done], timeout=POLL_S)
                events = await _answer(actor.events.remote(seen), self.timeout_s, "progress of the supervised stage")
                seen += len(events)
                for event in events:
                    report(event)
            return done.result()
        finally:
            if not done.done():
                await _answer(actor.stop.remote(), self.timeout_s, "the supervised stage to stop")
            ray.kill(actor)

    async def _start(self, what: str, cls: type, *args: Any) -> Any:
        actor = ray.remote(num_cpus=0.01, max_concurrency=64)(cls).remote(*args)
        await _answer(actor.__ray_ready__.remote(), self.timeout_s, f"{what} to start")
        return actor


@dataclass(frozen=True)
class RayTrainer:
    actor: Any
    timeout_s: float

    async def train_step(self, samples: Sequence[Sample]) -> dict[str, float]:
        metrics: dict[str, float] = await _answer(self.actor.train_step.remote(samples), self.timeout_s, "a training step")
        return metrics

    async def publish(self) -> Any:
        return await _answer(self.actor.publish.remote(), self.timeout_s, "the trainer to publish its weights")

    async def save(self, folder: Path) -> None:
        await _answer(self.actor.save.remote(folder), self.timeout_s, f"the trainer to save {folder}")

    async def close(self) -> None:
        ray.kill(self.actor)


@dataclass(frozen=True)
class RayRollouts:
    actor: Any
    timeout_s: float

    async def rollout(self, requests: Sequence[GroupRequest]) -> list[list[Trajectory]]:
        what = f"rollouts of {len(requests)} tasks"
        groups: list[list[Trajectory]] = await _answer(self.actor.rollout.remote(requests), self.timeout_s, what)
        return groups

    async def pull(self, weights: Any) -> None:
        await _answer(self.actor.pull.remote(weights), self.timeout_s, "a rollout worker to load new weights")

    async def capabilities(self) -> Capabilities:
        found: Capabilities = await _answer(self.actor.capabilities.remote(), self.timeout_s, "an engine's capabilities")
        return found

    async def close(self) -> None:
        ray.kill(self.actor)


@dataclass(frozen=True)
class RayRewards:
    actor: Any
    timeout_s: float

    async def score(self, items: Sequence[tuple[Task, str]]) -> list[RewardResult]:
        what = f"the scores of {len(items)} completions"
        results: list[RewardResult] = await _answer(self.actor.score.remote(items), self.timeout_s, what)
        return results

    async def close(self) -> None:
        ray.kill(self.actor)


async def _answer(reference: Any, timeout_s: float, what: str) -> Any:
    """Waits for an actor's answer; an error of the worker is raised as itself, with the worker's traceback chained."""
    try:
        return await asyncio.wait_for(_future(reference), timeout_s)
    except TimeoutError:
        raise TimeoutError(f"waited {timeout_s:.0f} s for {what}; raise runtime.timeout_s if it needs longer") from None
    except ray.exceptions.RayTaskError as error:
        raise error.as_instanceof_cause() from error


async def _future(reference: Any) -> Any:
    return await reference
