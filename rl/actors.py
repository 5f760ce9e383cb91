"""The workers as Ray actors: thin wrappers over the plain classes. `rl/cluster.py` starts them and talks to them.

Actors are asynchronous; blocking work runs in their threads, so that a call such as stop is answered in the middle of it.
Weights travel through Ray's object store: the trainer puts them once, every engine reads them, nothing goes through disk.
torch is imported by the actors that need it, not by reward workers.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from rewards.config import SandboxConfig
from rewards.plugin import RewardSource
from rewards.result import RewardResult
from rewards.task import Task
from rewards.transcript import Transcript
from rl.compute import set_num_threads, submit
from rl.imports import uncollected
from rl.scoring import RewardWorker

if TYPE_CHECKING:
    from rl.batch import Sample
    from rl.engine.capabilities import Capabilities
    from rl.rollout import GroupRequest
    from rl.trajectory import Trajectory
    from rl.workers import EngineSpec, Event, Job, TrainerFacts, TrainerSpec


class TrainerActor:
    def __init__(self, num_threads: int, timeout_s: float) -> None:
        with uncollected():
            from rl.workers import InlineTrainer

        set_num_threads(num_threads)
        self.worker, self._timeout_s = InlineTrainer(timeout_s), timeout_s
        self._events: deque[Event] = deque()  # the job's thread appends while they are taken
        self._stop = threading.Event()

    async def address(self) -> str:
        """A free port of this machine, for the data-parallel trainers to meet at."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return f"tcp://{ray.util.get_node_ip_address()}:{probe.getsockname()[1]}"

    async def join(self, rank: int, size: int, address: str, backend: str) -> None:
        """Says which of the data-parallel trainers this is; they meet when the first model is opened."""
        with uncollected():
            from rl.data_parallel import Ranks
            from rl.workers import InlineTrainer

        self.worker = InlineTrainer(self._timeout_s, Ranks(rank, size, address, backend))

    async def run_job(self, job: Job) -> Any:
        self._events.clear()
        self._stop = threading.Event()
        stopped = self._stop.is_set
        return await asyncio.wrap_future(submit(lambda: job.run(self._events.append, stopped)))

    async def take_events(self) -> list[Event]:
        """The running job's events since the last call; fetched, so that no connection back to the driver is needed."""
        return [self._events.popleft() for _ in range(len(self._events))]

    async def stop_job(self) -> None:
        self._stop.set()

    async def open(self, spec: TrainerSpec) -> TrainerFacts:
        return await self.worker.open(spec)

    async def train_step(self, samples: Sequence[Sample]) -> dict[str, float]:
        return await self.worker.train_step(samples)

    async def publish(self) -> list[ray.ObjectRef]:
        return [ray.put(await self.worker.publish())]  # in a list, so that the caller gets the reference, not the weights

    async def save(self, folder: Path, *, with_state: bool) -> None:
        await self.worker.save(folder, with_state=with_state)


class RolloutActor:
    def __init__(self, num_threads: int, timeout_s: float) -> None:
        with uncollected():
            from rl.workers import InlineRollouts

        set_num_threads(num_threads)
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
    def __init__(self, sources: Sequence[RewardSource], sandbox: SandboxConfig, num_processes: int | None) -> None:
        self.worker = RewardWorker(sources, sandbox, num_processes)

    async def score(self, items: Sequence[tuple[Task, Transcript]]) -> list[RewardResult]:
        return await asyncio.to_thread(self.worker.score, items)

    async def close(self) -> None:
        await asyncio.to_thread(self.worker.close)
