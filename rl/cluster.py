"""A run's workers on Ray as its driver sees them: placement, a timeout on every wait, and workers that are started again.

A rollout or reward worker whose process dies is replaced and its work is done again: randomness belongs to tokens'
positions, so the second result equals the first. A trainer that dies ends the run, which resumes from its checkpoint.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from rewards.errors import UserError
from rewards.plugin import RewardSource
from rewards.result import RewardResult
from rewards.task import Task
from rl.actors import RewardActor, RolloutActor, TrainerActor
from rl.config import RuntimeConfig
from rl.workers import Event, Job, WorkerDiedError, Workers

if TYPE_CHECKING:
    from rl.batch import Sample
    from rl.engine.capabilities import Capabilities
    from rl.rollout import GroupRequest
    from rl.trajectory import Trajectory
    from rl.workers import EngineSpec, TrainerFacts, TrainerSpec

POLL_S = 0.05  # between two looks at a job's events
SLIVER = 0.01  # of a core: on one machine trainer and sampler take turns on the same cores
Restarted = Callable[[str, str], None]  # gets the worker's name and why it was started again


@dataclass(frozen=True)
class Cluster:
    """Starts a run's actors in one placement group: trainers first, then rollout workers, then reward workers."""

    config: RuntimeConfig
    num_threads: int  # of each worker's tensor operations
    restarted: Restarted

    async def start(self, sources: Sequence[RewardSource]) -> Workers:
        """All workers, started side by side; returns when every one of them is up."""
        config, threads, timeout_s = self.config, self.num_threads, self.config.timeout_s
        deadline_s = sum(source.timeout_s for source in sources)
        place = await self._reserve()

        def start(cls: type, *arguments: Any) -> Callable[[int], Any]:
            return lambda bundle: _actor(cls, place, bundle, *arguments)

        first_rollout = config.num_trainers
        first_reward = first_rollout + config.num_rollout_workers
        trainers = [start(TrainerActor, threads, timeout_s)(i) for i in range(first_rollout)]
        rollouts = [
            RayRollouts(self._worker(f"rollout worker {i}", start(RolloutActor, threads, timeout_s), first_rollout + i))
            for i in range(config.num_rollout_workers)
        ]
        rewards = [
            RayRewards(self._worker(f"reward worker {i}", start(RewardActor, sources), first_reward + i), deadline_s)
            for i in range(config.num_reward_workers if sources else 0)
        ]
        await asyncio.gather(
            *(answer(t.__ray_ready__.remote(), timeout_s, f"trainer {i} to start") for i, t in enumerate(trainers)),
            *(rollout.worker.ready() for rollout in rollouts),
            *(reward.worker.ready() for reward in rewards),
        )
        if len(trainers) > 1:
            address = await answer(trainers[0].address.remote(), timeout_s, "a trainer's address")
            backend = "nccl" if place.bundle_specs[0].get("GPU") == 1 else "gloo"  # NCCL wants a GPU a rank
            joins = (t.join.remote(rank, len(trainers), address, backend) for rank, t in enumerate(trainers))
            await asyncio.gather(*(answer(join, timeout_s, "the trainers to join") for join in joins))
        return Workers(RayTrainer(trainers, timeout_s), rollouts, rewards)

    def _worker(self, name: str, start: Callable[[int], Any], bundle: int) -> Revivable:
        return Revivable(name, lambda: start(bundle), self.config.timeout_s, self.config.max_restarts, self.restarted)

    async def _reserve(self) -> PlacementGroup:
        """A bundle for each worker. GPUs go to trainers and engines, whole ones where there are enough, else shares."""
        config = self.config
        num_models = config.num_trainers + config.num_rollout_workers
        gpus = gpu_share(num_models, int(ray.cluster_resources().get("GPU", 0)))
        model = {"CPU": SLIVER, **({"GPU": gpus} if gpus else {})}
        place = placement_group([model] * num_models + [{"CPU": SLIVER}] * config.num_reward_workers, strategy="PACK")
        try:
            await answer(place.ready(), config.timeout_s, "room for the workers")
        except TimeoutError:
            raise UserError(
                f"runtime: {num_models} trainers and rollout workers with {gpus} GPUs each, and {config.num_reward_workers} "
                f"reward workers, found no room within {config.timeout_s:.0f} s; the cluster has {ray.available_resources()}"
            ) from None
        return place


def gpu_share(num_models: int, num_gpus: int) -> float:
    """GPUs for each of so many workers: one each where there are enough, else the largest share that fits beside others.

    >>> gpu_share(3, 8), gpu_share(3, 2), gpu_share(7, 2), gpu_share(3, 0)
    (1.0, 0.5, 0.25, 0.0)
    """
    return int(100 / math.ceil(num_models / num_gpus)) / 100 if num_gpus else 0.0


def _actor(cls: type, place: PlacementGroup, bundle: int, *arguments: Any) -> Any:
    resources = place.bundle_specs[bundle]
    options = {
        "num_cpus": resources["CPU"],
        "num_gpus": resources.get("GPU", 0),
        "max_concurrency": 64,
        "scheduling_strategy": PlacementGroupSchedulingStrategy(place, placement_group_bundle_index=bundle),
    }
    return ray.remote(**options)(cls).remote(*arguments)


class Revivable:
    """An actor that is started again when its process dies. `prepare`, if set, brings a new one to where the old one was."""

    def __init__(self, name: str, start: Callable[[], Any], timeout_s: float, max_restarts: int, restarted: Restarted) -> None:
        self.name, self.timeout_s = name, timeout_s
        self.prepare: Callable[[Any], Awaitable[None]] | None = None
        self._start, self._max_restarts, self._restarted = start, max_restarts, restarted
        self._actor, self._num_restarts = start(), 0
        self._lock = asyncio.Lock()

    async def ready(self) -> None:
        await answer(self._actor.__ray_ready__.remote(), self.timeout_s, f"{self.name} to start")

    async def call(self, method: Callable[[Any], Any], what: str, more_s: float = 0.0) -> Any:
        """The answer to `method(actor)`; asked again of a new actor where the old one died over it.

        `more_s`: seconds beyond the usual limit that it may rightly take.

        Raises:
            TimeoutError: no answer in time. WorkerDiedError: it died more often than `runtime.max_restarts` allows.
        """
        while True:
            actor = self._actor
            try:
                return await answer(method(actor), self.timeout_s + more_s, what)
            except WorkerDiedError as error:
                await self._revive(actor, error)

    async def close(self, method: Callable[[Any], Any], what: str) -> None:
        """As `call`, for the last time: an actor that is gone is as good as closed."""
        with contextlib.suppress(WorkerDiedError):
            await answer(method(self._actor), self.timeout_s, what)

    async def _revive(self, dead: Any, error: WorkerDiedError) -> None:
        """Replaces a dead actor; a replacement that dies before it is ready counts as well."""
        async with self._lock:
            while self._actor is dead:  # else another call has seen to it
                if self._num_restarts == self._max_restarts:
                    raise WorkerDiedError(
                        f"{self.name} died more than {self._max_restarts} times, the last time so: {error}; raise "
                        "runtime.max_restarts if its machine is to blame"
                    ) from error
                self._num_restarts += 1
                ray.kill(dead)  # an actor that is out of reach, not dead, would keep its place
                actor = self._start()
                try:
                    await answer(actor.__ray_ready__.remote(), self.timeout_s, f"{self.name} to start again")
                    if self.prepare is not None:
                        await self.prepare(actor)
                except WorkerDiedError as again:
                    ray.kill(actor)
                    error = again
                except BaseException:
                    ray.kill(actor)
                    raise
                else:
                    self._actor = actor
                    self._restarted(self.name, str(error))


@dataclass(frozen=True)
class RayTrainer:
    """Data-parallel trainers; the first one also publishes, saves, and runs supervised jobs."""

    actors: Sequence[Any]
    timeout_s: float

    @property
    def first(self) -> Any:
        return self.actors[0]

    async def run_job(self, job: Job, report: Callable[[Event], None], stopped: Callable[[], bool]) -> Any:
        done, finished = asyncio.ensure_future(_future(self.first.run_job.remote(job))), False
        while not finished:
            await asyncio.wait([done], timeout=POLL_S)
            finished = done.done()
            if stopped() and not finished:
                await answer(self.first.stop_job.remote(), self.timeout_s, "the supervised stage to take the wish to stop")
            for event in await answer(self.first.take_events.remote(), self.timeout_s, "progress of the supervised stage"):
                report(event)
        return await answer(done, self.timeout_s, "the supervised stage")

    async def open(self, spec: TrainerSpec) -> TrainerFacts:
        facts: TrainerFacts = (await self._all(lambda actor: actor.open.remote(spec), "the trainer to load its model"))[0]
        return facts

    async def train_step(self, samples: Sequence[Sample]) -> dict[str, float]:
        shared = ray.put(samples)  # once, however many trainers read it
        metrics: dict[str, float] = (await self._all(lambda actor: actor.train_step.remote(shared), "a training step"))[0]
        return metrics

    async def publish(self) -> Any:
        return await answer(self.first.publish.remote(), self.timeout_s, "the trainer to publish its weights")

    async def save(self, folder: Path, *, with_state: bool) -> None:
        saved = self.first.save.remote(folder.resolve(), with_state=with_state)
        await answer(saved, self.timeout_s, f"the trainer to save {folder}")

    async def _all(self, call: Callable[[Any], Any], what: str) -> list[Any]:
        return await asyncio.gather(*(answer(call(actor), self.timeout_s, what) for actor in self.actors))


@dataclass
class RayRollouts:
    worker: Revivable
    _spec: EngineSpec | None = None
    _weights: Any = None  # the newest, which a new actor needs

    def __post_init__(self) -> None:
        self.worker.prepare = self._prepare

    async def _prepare(self, actor: Any) -> None:
        if self._spec is not None:
            await answer(actor.open.remote(self._spec), self.worker.timeout_s, "an engine to start again")
        if self._weights is not None:
            await answer(actor.pull.remote(self._weights), self.worker.timeout_s, "a rollout worker to load the weights again")

    async def open(self, spec: EngineSpec) -> Capabilities:
        self._spec, self._weights = spec, None
        found: Capabilities = await self.worker.call(lambda actor: actor.open.remote(spec), "an engine to start")
        return found

    async def rollout(self, requests: Sequence[GroupRequest]) -> list[list[Trajectory]]:
        what = f"rollouts of {len(requests)} tasks"
        groups: list[list[Trajectory]] = await self.worker.call(lambda actor: actor.rollout.remote(requests), what)
        return groups

    async def pull(self, weights: Any) -> None:
        self._weights = weights
        await self.worker.call(lambda actor: actor.pull.remote(weights), "a rollout worker to load new weights")

    async def close(self) -> None:
        await self.worker.close(lambda actor: actor.close.remote(), "an engine to stop")


@dataclass(frozen=True)
class RayRewards:
    worker: Revivable
    deadline_s: float  # what the rewards may take for one completion, all together

    async def score(self, items: Sequence[tuple[Task, str]]) -> list[RewardResult]:
        what, more_s = f"the scores of {len(items)} completions", len(items) * self.deadline_s
        results: list[RewardResult] = await self.worker.call(lambda actor: actor.score.remote(items), what, more_s)
        return results

    async def close(self) -> None:
        await self.worker.close(lambda actor: actor.close.remote(), "a reward worker to stop")


async def answer(awaitable: Any, timeout_s: float, what: str) -> Any:
    """Waits for an actor's answer; an error of the worker is raised as itself, with the worker's traceback chained.

    Raises:
        TimeoutError: no answer in time. WorkerDiedError: the actor's process is gone. Both say what was waited for.
    """
    limit = asyncio.timeout(timeout_s)
    try:
        async with limit:
            return await awaitable
    except ray.exceptions.RayTaskError as error:  # before TimeoutError: it may be one as well, the worker's own
        raise error.cause from error
    except TimeoutError:
        if not limit.expired():
            raise
        raise TimeoutError(f"waited {timeout_s:.0f} s for {what}; raise runtime.timeout_s if it needs longer") from None
    except ray.exceptions.RayActorError as error:
        why = str(error).partition("\n")[0]  # the rest is the same advice every time
        raise WorkerDiedError(f"the worker died during {what}: {why}") from error


async def _future(reference: Any) -> Any:
    return await reference
