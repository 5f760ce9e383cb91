"""Rollouts: tasks in, trajectories out. One coroutine a rollout over one engine; plain class, see rl/actors.py for Ray.

All requests of a call enter the engine while it is paused, so that a batch's make-up, and with it every bit of the result,
depends on the request alone and not on the timing of threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import numpy as np

from rewards.task import Task
from rl.config import EngineConfig, ModelConfig, SamplingConfig
from rl.engine.build import serve
from rl.engine.protocol import GenerateRequest, TokenChunk, Weights
from rl.rng import key_of
from rl.trajectory import FinishReason, RolloutId, SamplingMask, Trajectory, Turn


@dataclass(frozen=True)
class GroupRequest:
    """Asks for `group_size` rollouts of one task. `epoch` counts passes over the data; evaluation has a seed of its own."""

    task: Task
    epoch: int
    group_size: int
    sampling: SamplingConfig
    seed: str  # names the random stream, such as "0/train"
    weight: float = 1.0  # of the group's advantages in the batch
    may_not_fit: bool = False  # a prompt that leaves no room gives a trajectory without sampled tokens; else it is an error


class RolloutWorker:
    """Owns an engine and its copy of the policy."""

    def __init__(self, folder: str, model: ModelConfig, engine: EngineConfig, *, timeout_s: float) -> None:
        served = serve(folder, model, engine, timeout_s=timeout_s)
        self.engine, self.chat, self._max_seq_len = served.engine, served.chat, engine.max_seq_len

    async def pull(self, weights: Weights) -> None:
        await self.engine.load_weights(weights)

    async def rollout(self, requests: Sequence[GroupRequest]) -> list[list[Trajectory]]:
        """All rollouts of all groups, in the order asked for."""
        await self.engine.pause()
        try:
            running = [self._start(request, i) for request in requests for i in range(request.group_size)]
        finally:
            await self.engine.resume()
        try:
            trajectories = iter(await asyncio.gather(*running))
        except BaseException:
            for task in running:  # one failed: do not decode the others for nobody
                task.cancel()
            raise
        return [[next(trajectories) for _ in range(request.group_size)] for request in requests]

    def _start(self, request: GroupRequest, index: int) -> asyncio.Task[Trajectory]:
        rollout_id = RolloutId(request.epoch, request.task.content_hash, index)
        prompt_ids = self.chat.prompt_ids(request.task.messages, request.task.effort)
        if request.may_not_fit and len(prompt_ids) >= self._max_seq_len:
            return asyncio.create_task(_without_room(rollout_id, request.task, prompt_ids))
        stream = self.engine.generate(
            GenerateRequest(
                request_id=f"{request.seed}/{rollout_id}",
                prompt_ids=prompt_ids,
                sampling=request.sampling,
                stop_ids=self.chat.stop_ids,
                seed_key=key_of(request.seed),
                rollout_key=rollout_id.key,
            )
        )
        return asyncio.create_task(self._record(rollout_id, request.task, prompt_ids, stream))

    async def _record(
        self, rollout_id: RolloutId, task: Task, prompt_ids: Sequence[int], stream: AsyncIterator[TokenChunk]
    ) -> Trajectory:
        """Reads one turn's stream to its end."""
        chunks = [chunk async for chunk in stream]
        finish_reason = chunks[-1].finish_reason
        assert finish_reason is not None, "a stream ends with a finish reason"
        sampled = np.concatenate([c.token_ids for c in chunks])
        start, total = len(prompt_ids), len(prompt_ids) + len(sampled)
        kept = [row for c in chunks for row in c.kept]
        loss_mask = np.zeros(total, np.bool_)
        loss_mask[start:] = True
        return Trajectory(
            rollout_id=rollout_id,
            task=task,
            token_ids=np.concatenate([np.array(prompt_ids, np.int32), sampled]),
            loss_mask=loss_mask,
            sampler_logprobs=np.concatenate([np.zeros(start, np.float32), *(c.logprobs for c in chunks)]),
            policy_version=np.concatenate([np.full(start, -1, np.int32), *(c.policy_version for c in chunks)]),
            turns=(Turn(start, total, finish_reason),),
            completion=self.chat.completion_text(prompt_ids, sampled.tolist()),
            sampling_mask=SamplingMask.from_rows([row for row in kept if row is not None])
            if any(row is not None for row in kept)
            else None,
        )


async def _without_room(rollout_id: RolloutId, task: Task, prompt_ids: Sequence[int]) -> Trajectory:
    """A prompt alone: nothing was sampled."""
    total = len(prompt_ids)
    return Trajectory(
        rollout_id=rollout_id,
        task=task,
        token_ids=np.array(prompt_ids, np.int32),
        loss_mask=np.zeros(total, np.bool_),
        sampler_logprobs=np.zeros(total, np.float32),
        policy_version=np.full(total, -1, np.int32),
        turns=(Turn(total, total, FinishReason.CONTEXT),),
        completion="",
    )
