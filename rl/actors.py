"""The same workers as Ray actors: thin wrappers over the plain classes, and handles with a timeout on every wait.

Actors are asynchronous; blocking work runs in their threads, so that a call such as stop is answered in the middle of it.
Weights travel through Ray's object store: the trainer puts them once, every engine reads them, nothing goes through disk.
torch is imported by the actors that need it, not by reward workers.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from rewards.plugin import RewardSource
from rewards.result import RewardResult
from rewards.task import Task
from rl.scoring import RewardWorker

if TYPE_CHECKING:
    from rl.batch import Sample
    from rl.engine.protocol import Capabilities
    from rl.rollout import GroupRequest
    from rl.trajectory import Trajectory
    from rl.workers import EngineSpec, Event, Job, TrainerSpec, Workers

POLL_S = 0.2  # between two looks at a job's events


class TrainerActor:
    def __init__(self, num_threads: int, timeout_s: float) -> None:
        import torch

        from rl.workers import InlineTrainer

        torch.set_num_threads(num_threads)
        self.worker = InlineTrainer(timeout_s)
        self._events: list[Event] = []
        self._stop = threading.Event()

    async def run_job(self, job: Job) -> Any:
        self._events, self._stop = [], threading.Event()
        return await asyncio.to_thread(job.run, self._events.append, self._stop.is_set)

    async def events(self, start: int) -> list[Event]:
        """The running job's events from number `start` on; fetched, so that no connection back to the driver is needed."""
        return self._events[start:]

    async def stop_job(self) -> None:
        self._stop.set()

    async def open(self, spec: TrainerSpec) -> None:
        await self.worker.open(spec)

    async def train_step(self, samples: Sequence[Sample]) -> dict[str, float]:
        return await self.worker.train_step(samples)

    async def publish(self) -> list[ray.ObjectRef]:
        return [ray.put(await self.worker.publish())]  # in a list, so that the caller gets the reference, not the weights

    async def save(self, folder: Path, *, with_state: bool) -> None:
        await self.worker.save(folder, with_state=with_state)


class RolloutActor:
    def __init__(self, num_threads: int, timeout_s: float) -> None:
        import torch

        from rl.workers import InlineRollouts

        torch.set_num_threads(num_threads)
        self.worker = InlineRollouts(timeout_s)

    async def open(self, spec: EngineSpec) -> Capabilities:
        return await self.worker.open(spec)

    async def rollout(self, requests: Sequence[GroupRequest]) -> list[list[Trajectory]]:
        return await self.worker.rollout(requests)

    async def pull(self, weights: list[ray.ObjectRef]) -> None:
        await self.worker.pull(await weights[0])

    async def close(self) -> None:
        await self.worker.close()


class RewardActor:
    def __init__(self, sources: Sequence[RewardSource]) -> None:
        self.worker = RewardWorker(sources)

    async def score(self, items: Sequence[tuple[Task, str]]) -> list[RewardResult]:
        return await asyncio.to_thread(self.worker.score, items)


@dataclass(frozen=True)
class Cluster:
    """Starts actors. Each asks for a sliver of a core: on one machine trainer and sampler take turns on the same cores."""

    num_threads: int  # of each worker's tensor operations
    timeout_s: float  # of any single answer

    async def start(self, sources: Sequence[RewardSource], num_rollouts: int, num_rewards: int) -> Workers:
        """All workers of a run, started side by side; returns when every one of them is up."""
        from rl.workers import Workers

        trainer = self._actor(TrainerActor, self.num_threads, self.timeout_s)
        rollouts = [self._actor(RolloutActor, self.num_threads, self.timeout_s) for _ in range(num_rollouts)]
        rewards = [self._actor(RewardActor, sources) for _ in range(num_rewards)]
        names = ["the trainer", *(f"rollout worker {i}" for i in range(num_rollouts))]
        names += [f"reward worker {i}" for i in range(num_rewards)]
        await asyncio.gather(
            *(
                _answer(actor.__ray_ready__.remote(), self.timeout_s, f"{name} to start")
                for actor, name in zip([trainer, *rollouts, *rewards], names, strict=True)
            )
        )
        return Workers(
            RayTrainer(trainer, self.timeout_s),
            [RayRollouts(actor, self.timeout_s) for actor in rollouts],
            [RayRewards(actor, self.timeout_s) for actor in rewards],
        )

    def _actor(self, cls: type, *args: Any) -> Any:
        return ray.remote(num_cpus=0.01, max_concurrency=64)(cls).remote(*args)


@dataclass(frozen=True)
class RayTrainer:
    actor: Any
    timeout_s: float

    async def run_job(self, job: Job, report: Callable[[Event], None], stopped: Callable[[], bool]) -> Any:
        done, seen, finished = asyncio.ensure_future(_future(self.actor.run_job.remote(job))), 0, False
        while not finished:
            await asyncio.wait([done], timeout=POLL_S)
            finished = done.done()
            if stopped() and not finished:
                await _answer(self.actor.stop_job.remote(), self.timeout_s, "the supervised stage to take the wish to stop")
            events = await _answer(self.actor.events.remote(seen), self.timeout_s, "progress of the supervised stage")
            seen += len(events)
            for event in events:
                report(event)
        return await _answer(done, self.timeout_s, "the supervised stage")

    async def open(self, spec: TrainerSpec) -> None:
        await _answer(self.actor.open.remote(spec), self.timeout_s, "the trainer to load its model")

    async def train_step(self, samples: Sequence[Sample]) -> dict[str, float]:
        metrics: dict[str, float] = await _answer(self.actor.train_step.remote(samples), self.timeout_s, "a training step")
        return metrics

    async def publish(self) -> Any:
        return await _answer(self.actor.publish.remote(), self.timeout_s, "the trainer to publish its weights")

    async def save(self, folder: Path, *, with_state: bool) -> None:
        saved = self.actor.save.remote(folder.resolve(), with_state=with_state)
        await _answer(saved, self.timeout_s, f"the trainer to save {folder}")


@dataclass(frozen=True)
class RayRollouts:
    actor: Any
    timeout_s: float

    async def open(self, spec: EngineSpec) -> Capabilities:
        found: Capabilities = await _answer(self.actor.open.remote(spec), self.timeout_s, "an engine to start")
        return found

    async def rollout(self, requests: Sequence[GroupRequest]) -> list[list[Trajectory]]:
        what = f"rollouts of {len(requests)} tasks"
        groups: list[list[Trajectory]] = await _answer(self.actor.rollout.remote(requests), self.timeout_s, what)
        return groups

    async def pull(self, weights: Any) -> None:
        await _answer(self.actor.pull.remote(weights), self.timeout_s, "a rollout worker to load new weights")

    async def close(self) -> None:
        await _answer(self.actor.close.remote(), self.timeout_s, "an engine to stop")


@dataclass(frozen=True)
class RayRewards:
    actor: Any
    timeout_s: float

    async def score(self, items: Sequence[tuple[Task, str]]) -> list[RewardResult]:
        what = f"the scores of {len(items)} completions"
        results: list[RewardResult] = await _answer(self.actor.score.remote(items), self.timeout_s, what)
        return results


async def _answer(awaitable: Any, timeout_s: float, what: str) -> Any:
    """Waits for an actor's answer; an error of the worker is raised as itself, with the worker's traceback chained.

    Raises:
        TimeoutError: no answer in time. WorkerDiedError: the actor's process is gone. Both say what was waited for.
    """
    try:
        async with asyncio.timeout(timeout_s):
            return await awaitable
    except TimeoutError:
        raise TimeoutError(f"waited {timeout_s:.0f} s for {what}; raise runtime.timeout_s if it needs longer") from None
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.RayActorError as error:
        from rl.workers import WorkerDiedError

        raise WorkerDiedError(f"the worker died during {what}: {error}") from error


async def _future(reference: Any) -> Any:
    return await reference
