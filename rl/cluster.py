"""A run's workers on Ray as its driver sees them: started in their places, a timeout on every wait, started again when lost.

A rollout or reward worker that is lost, with its process or its node, is started again in the background while others do its
work: randomness belongs to tokens' positions, so the second result equals the first. A trainer that dies ends the run, which
resumes from its checkpoint.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import ray

from rewards.config import SandboxConfig
from rewards.plugin import RewardSource
from rewards.result import RewardResult
from rewards.task import Task
from rewards.transcript import Transcript
from rl.actors import RewardActor, RolloutActor, TrainerActor
from rl.config import RuntimeConfig
from rl.placement import POLL_S, Place, check_room, claims, node_names
from rl.workers import Event, Job, WorkerDiedError, WorkerLostError, Workers

if TYPE_CHECKING:
    from rl.batch import Sample
    from rl.engine.capabilities import Capabilities
    from rl.rollout import GroupRequest
    from rl.trajectory import Trajectory
    from rl.workers import EngineSpec, TrainerFacts, TrainerSpec

LOOK_S = 0.5  # between two looks at whether a new worker's node still lives
Note: TypeAlias = Callable[[str, Mapping[str, Any]], None]  # gets what happened to workers: an event's name and fields


@dataclass(frozen=True)
class Cluster:
    """Starts a run's actors: trainers close together, every other worker in a place of its own."""

    config: RuntimeConfig
    num_threads: int  # of each worker's tensor operations
    note: Note

    async def start(self, sources: Sequence[RewardSource], sandbox: SandboxConfig, num_judges: int = 0) -> Workers:
        """All workers, started side by side; returns when every one of them is up. `num_judges`: of a frozen judge.

        Raises:
            UserError: the cluster has no room for them.
        """
        config, timeout_s = self.config, self.config.timeout_s
        num_rewards = config.num_reward_workers if sources else 0
        wanted = claims(config, int(ray.cluster_resources().get("GPU", 0)), num_judges)
        check_room(config, wanted, num_rewards, num_judges)
        home = Place("the trainers' place", [wanted.trainer] * config.num_trainers, (), asyncio.Lock())
        apart, lock = list[Place](), asyncio.Lock()
        rollouts, judges, rewards = list[RayRollouts](), list[RayRollouts](), list[RayRewards]()
        places = {"trainer": home}
        for i in range(config.num_rollout_workers):
            name = f"rollout worker {i}"
            places[name] = Place(name, [wanted.rollout], apart, lock if config.spread else asyncio.Lock())
            rollouts.append(RayRollouts(self._worker(name, places[name], RolloutActor, self.num_threads, timeout_s)))
        if config.spread:
            apart += [places[rollout.worker.name] for rollout in rollouts]
        for i in range(num_judges):
            name = f"judge worker {i}"
            places[name] = Place(name, [wanted.rollout], (), asyncio.Lock())
            judges.append(RayRollouts(self._worker(name, places[name], RolloutActor, self.num_threads, timeout_s)))
        deadline_s = sum(source.timeout_s for source in sources)
        cores = int(wanted.reward["CPU"]) or (None if num_rewards == 1 else 1)  # claimed, or left to the only one
        for i in range(num_rewards):
            name = f"reward worker {i}"
            places[name] = Place(name, [wanted.reward], (), asyncio.Lock())
            rewards.append(RayRewards(self._worker(name, places[name], RewardActor, sources, sandbox, cores), deadline_s))
        started = asyncio.gather(*(r.worker.begin() for r in (*rollouts, *judges)), *(r.worker.begin() for r in rewards))
        trainer, _ = await asyncio.gather(self._trainer(home), started)
        if config.address is not None:
            names = node_names()
            self.note("workers_placed", {"nodes": {name: names.get(place.node, place.node) for name, place in places.items()}})
        return Workers(trainer, rollouts, rewards, judges)

    async def _trainer(self, place: Place) -> RayTrainer:
        timeout_s, count = self.config.timeout_s, self.config.num_trainers
        await place.settle(timeout_s)
        trainers = [place.start(TrainerActor, self.num_threads, timeout_s, bundle=i) for i in range(count)]
        await asyncio.gather(
            *(answer(t.__ray_ready__.remote(), timeout_s, f"trainer {i} to start") for i, t in enumerate(trainers))
        )
        if count > 1:
            address = await answer(trainers[0].address.remote(), timeout_s, "a trainer's address")
            backend = "nccl" if place.bundles[0].get("GPU", 0) >= 1 else "gloo"  # NCCL wants a GPU a rank
            joins = (t.join.remote(rank, count, address, backend) for rank, t in enumerate(trainers))
            await asyncio.gather(*(answer(join, timeout_s, "the trainers to join") for join in joins))
        return RayTrainer(trainers, timeout_s)

    def _worker(self, name: str, place: Place, cls: type, *arguments: Any) -> Revivable:
        return Revivable(name, place, lambda: place.start(cls, *arguments), self.config, self.note)


class Revivable:
    """An actor that is started again in the background when it is lost: where it was, else once a node has room.

    `absence` is None while it is there; see `rl/pool.py`. `prepare`, if set, brings a new actor to where the old one was.
    """

    def __init__(self, name: str, place: Place, start: Callable[[], Any], config: RuntimeConfig, note: Note) -> None:
        self.name, self.timeout_s = name, config.timeout_s
        self.prepare: Callable[[Any], Awaitable[None]] | None = None
        self.absence: asyncio.Task[None] | None = None
        self._place, self._start, self._max_restarts, self._note = place, start, config.max_restarts, note
        self._actor: Any = None
        self._num_restarts = 0

    async def begin(self) -> None:
        """Returns when the first actor is up; one that dies at once is an error, not a loss."""
        await self._place.settle(self.timeout_s)
        self._actor = self._start()
        await answer(self._actor.__ray_ready__.remote(), self.timeout_s, f"{self.name} to start")

    async def call(self, method: Callable[[Any], Any], what: str, more_s: float = 0.0) -> Any:
        """The answer to `method(actor)`. `more_s`: seconds beyond the usual limit that it may rightly take.

        Raises:
            TimeoutError: no answer in time. WorkerLostError: it is gone; `absence` tells when it is back.
        """
        if self.absence is not None:
            raise WorkerLostError(f"{self.name} is not there")
        actor = self._actor
        try:
            return await answer(method(actor), self.timeout_s + more_s, what)
        except WorkerLostError as error:
            if self._actor is actor and self.absence is None:  # else another call has seen it first
                self.absence = asyncio.create_task(self._revive(error))
            raise

    async def close(self, method: Callable[[Any], Any], what: str) -> None:
        """The last call; an actor that is gone is as good as closed."""
        if self.absence is None:
            try:
                await answer(method(self._actor), self.timeout_s, what)
            except WorkerLostError:
                return
        else:
            self.absence.cancel()
            await asyncio.gather(self.absence, return_exceptions=True)

    async def _revive(self, error: Exception) -> None:
        """Replaces the actor. A replacement that dies or hangs before it is ready counts as well, unless its node did."""
        self._note("worker_lost", {"worker": self.name, "error": str(error)})
        self._count(error)
        actor = self._actor
        while True:
            ray.kill(actor)  # one that is out of reach, not dead, would keep its place
            await self._place.settle(None)
            actor, node = self._start(), self._place.node
            bringing = asyncio.create_task(self._bring(actor))
            try:
                while not (await asyncio.wait([bringing], timeout=LOOK_S))[0] and self._place.stands_on(node):
                    pass
                if self._place.stands_on(node):
                    await bringing
                    break
            except (WorkerLostError, TimeoutError) as again:
                if self._place.stands_on(node):
                    self._count(again)
            finally:  # it began on a node that was dying: what Ray makes of it may take long, or be where another one is
                bringing.cancel()
                await asyncio.gather(bringing, return_exceptions=True)
        self._actor, self.absence = actor, None
        self._note("worker_restarted", {"worker": self.name, "error": str(error), "node": node_names().get(node, node)})

    async def _bring(self, actor: Any) -> None:
        """Returns when a new actor is where the old one was."""
        await answer(actor.__ray_ready__.remote(), self.timeout_s, f"{self.name} to start again")
        if self.prepare is not None:
            await self.prepare(actor)

    def _count(self, error: Exception) -> None:
        if self._num_restarts == self._max_restarts:
            raise WorkerDiedError(
                f"{self.name} died more than {self._max_restarts} times, the last time so: {error}; raise "
                "runtime.max_restarts if its machine is to blame"
            ) from error
        self._num_restarts += 1


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
        self.worker.prepare = self._catch_up

    @property
    def absence(self) -> asyncio.Task[None] | None:
        return self.worker.absence

    async def _catch_up(self, actor: Any) -> None:
        """Brings a new actor to the newest model and weights, though they change while it loads them."""
        spec = weights = None
        while spec is not self._spec or weights is not self._weights:
            if spec is not self._spec:
                spec, weights = self._spec, None
                await answer(actor.open.remote(spec), self.worker.timeout_s, "an engine to start again")
            else:
                weights = self._weights
                await answer(actor.pull.remote(weights), self.worker.timeout_s, "a new rollout worker to load the weights")

    async def open(self, spec: EngineSpec) -> Capabilities | None:
        self._spec, self._weights = spec, None
        found: Capabilities | None = await self._tell(lambda actor: actor.open.remote(spec), "an engine to start")
        return found

    async def rollout(self, requests: Sequence[GroupRequest]) -> list[list[Trajectory]]:
        what = f"rollouts of {len(requests)} tasks"
        groups: list[list[Trajectory]] = await self.worker.call(lambda actor: actor.rollout.remote(requests), what)
        return groups

    async def pull(self, weights: Any) -> None:
        self._weights = weights
        await self._tell(lambda actor: actor.pull.remote(weights), "a rollout worker to load new weights")

    async def close(self) -> None:
        await self.worker.close(lambda actor: actor.close.remote(), "an engine to stop")

    async def _tell(self, method: Callable[[Any], Any], what: str) -> Any:
        """The answer; None from a worker that is away or lost over it, which catches up before it is back."""
        try:
            return await self.worker.call(method, what)
        except WorkerLostError:
            return None


@dataclass(frozen=True)
class RayRewards:
    worker: Revivable
    deadline_s: float  # what the rewards may take for one completion, all together

    @property
    def absence(self) -> asyncio.Task[None] | None:
        return self.worker.absence

    async def score(self, items: Sequence[tuple[Task, Transcript]]) -> list[RewardResult]:
        what, more_s = f"the scores of {len(items)} completions", len(items) * self.deadline_s
        results: list[RewardResult] = await self.worker.call(lambda actor: actor.score.remote(items), what, more_s)
        return results

    async def close(self) -> None:
        await self.worker.close(lambda actor: actor.close.remote(), "a reward worker to stop")


async def answer(awaitable: Any, timeout_s: float, what: str) -> Any:
    """Waits for an actor's answer; an error of the worker is raised as itself, with the worker's traceback chained.

    Raises:
        TimeoutError: no answer in time. WorkerLostError: the actor is gone, or its node with the answer in its memory.
        WorkerDiedError: what it was to read, such as weights, is gone with another worker. All say what was waited for.
    """
    limit = asyncio.timeout(timeout_s)
    try:
        async with limit:
            return await awaitable
    except ray.exceptions.RayTaskError as error:  # before TimeoutError: it may be one as well, the worker's own
        if isinstance(error.cause, ray.exceptions.ObjectLostError):
            raise WorkerDiedError(f"a worker died, and with it what another one needed for {what}") from error
        raise error.cause from error
    except TimeoutError:
        if not limit.expired():
            raise
        raise TimeoutError(f"waited {timeout_s:.0f} s for {what}; raise runtime.timeout_s if it needs longer") from None
    except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError) as error:
        raise WorkerLostError(f"the worker died during {what}: {_why(error)}") from error


def _why(error: Exception) -> str:
    """Ray's reason: the line that it ends with where it names one, else its first; the rest is the same every time."""
    first, *rest = str(error).splitlines()
    return next((line.strip() for line in rest if line.startswith("The actor died because")), first)


async def _future(reference: Any) -> Any:
    return await reference
