"""Rollouts: tasks in, trajectories out. One coroutine a rollout over one engine; plain class, see rl/actors.py for Ray.

All requests of a call enter the engine while it is paused, so that a batch's make-up, and with it every bit of the result,
depends on the request alone and not on the timing of threads. Later turns of rollouts with tools come when their tools are
done: while one waits for its tool the others decode.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from rewards.config import SandboxConfig
from rewards.task import EffortLevel, Task, ToolSpec
from rl.config import EngineConfig, ModelConfig, RolloutConfig, SamplingConfig, ThinkingConfig
from rl.conversation import Conversation, Record
from rl.engine.build import serve
from rl.engine.protocol import GenerateRequest, TokenChunk, Weights
from rl.rng import key_of
from rl.tools.protocol import ToolUnavailableError
from rl.tools.source import ToolSource
from rl.tools.tools import Tools, specs_of
from rl.trajectory import FinishReason, RolloutId, Trajectory, Turn

Begun: TypeAlias = tuple[Conversation, AsyncIterator[TokenChunk]]  # a rollout, and its first turn's stream


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
    window: int | None = None  # tokens in all; None: the engine's max_seq_len
    has_tools: bool = True  # whether the model is shown the recipe's tools; a judge is not


@dataclass(frozen=True)
class AgentSpec:
    """What a rollout is beside its model: the tools, where they run, their bounds, and what becomes of the thinking.

    `specs` is what the model is told of the tools, found once (`with_specs`), so that every worker shows the same.
    """

    thinking: ThinkingConfig = field(default_factory=ThinkingConfig)
    tools: tuple[ToolSource, ...] = ()
    specs: tuple[ToolSpec, ...] = ()
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    limits: RolloutConfig = field(default_factory=RolloutConfig)

    def with_specs(self, *, try_box: bool) -> AgentSpec:
        """With what the model is told of its tools; starts MCP servers for it, and ends them.

        `try_box`: where a tool uses boxes, a program runs in one; else none is opened, since they will be on other machines.

        Raises:
            UserError: a tool cannot be built, or no box can be had.
        """
        return replace(self, specs=asyncio.run(self._specs(try_box=try_box))) if self.tools else self

    async def _specs(self, *, try_box: bool) -> tuple[ToolSpec, ...]:
        if not try_box:
            return await specs_of(self.tools)
        tools = Tools(self.tools, self.sandbox)
        await tools.open()
        try:
            return tools.specs
        finally:
            await tools.close()


class RolloutWorker:
    """Owns an engine, its copy of the policy, and the tools. `close` ends them."""

    def __init__(
        self, folder: str, model: ModelConfig, engine: EngineConfig, agent: AgentSpec | None = None, *, timeout_s: float
    ) -> None:
        self.agent = agent or AgentSpec()
        served = serve(folder, model, engine, timeout_s=timeout_s)
        self.engine, self._max_seq_len = served.engine, engine.max_seq_len
        self.chat = served.chat.with_tools((), self.agent.thinking)
        self.chat_with_tools = served.chat.with_tools(self.agent.specs, self.agent.thinking)
        self._tools: Tools | None = None
        self._proved: set[EffortLevel] = set()  # efforts at which the chat format is known to keep what was sampled

    async def pull(self, weights: Weights) -> None:
        await self.engine.load_weights(weights)

    async def rollout(self, requests: Sequence[GroupRequest]) -> list[list[Trajectory]]:
        """All rollouts of all groups, in the order asked for."""
        if self.agent.tools and self._tools is None:
            tools = Tools(self.agent.tools, self.agent.sandbox)
            await tools.open()
            self._tools = tools
        running: list[asyncio.Task[Trajectory]] = []
        try:
            await self.engine.pause()
            try:
                for request in requests:
                    running += [self._start(request, i) for i in range(request.group_size)]
            finally:
                await self.engine.resume()
            trajectories = iter(await asyncio.gather(*running))
        except BaseException:
            for task in running:  # one failed: do not decode the others for nobody
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)  # they give back boxes and places in the engine
            raise
        return [[next(trajectories) for _ in range(request.group_size)] for request in requests]

    async def close(self) -> None:
        """Ends the tools and their boxes; the engine is the caller's to close, in another thread."""
        tools, self._tools = self._tools, None
        if tools is not None:
            await tools.close()

    def _start(self, request: GroupRequest, index: int) -> asyncio.Task[Trajectory]:
        rollout_id = RolloutId(request.epoch, request.task.content_hash, index)
        tools = self._tools if request.has_tools else None
        chat = self.chat if tools is None else self.chat_with_tools
        effort = request.task.effort
        if tools is not None and effort not in self._proved:
            chat.check_keeps([effort])
            self._proved.add(effort)
        prompt_ids = chat.prompt_ids(request.task.messages, effort)
        window = min(request.window or self._max_seq_len, self._max_seq_len)
        if request.may_not_fit and len(prompt_ids) >= window:
            return asyncio.create_task(_without_room(rollout_id, request.task, prompt_ids))
        sampling, limit = request.sampling, self.agent.limits.max_tokens
        if tools is not None and limit is not None and limit < sampling.max_tokens:
            sampling = replace(sampling, max_tokens=limit)

        def begin(rollout_id: RolloutId) -> Begun:
            asked = GenerateRequest(
                request_id=f"{request.seed}/{rollout_id}",
                prompt_ids=prompt_ids,
                sampling=sampling,
                stop_ids=chat.stop_ids,
                seed_key=key_of(request.seed),
                rollout_key=rollout_id.key,
                keep=tools is not None,
                window=window,
            )
            conversation = Conversation(self.engine, chat, self.agent.limits, request.task, rollout_id, asked)
            return conversation, self.engine.generate(asked)

        first = begin(rollout_id)  # submitted here, where the engine is paused
        return asyncio.create_task(_alone(*first) if tools is None else attempts(tools, first, begin))


async def attempts(tools: Tools, now: Begun, begin: Callable[[RolloutId], Begun]) -> Trajectory:
    """A rollout with tools; where they fail through no fault of the model, done again from the start, with other draws.

    After the last attempt that is allowed it is a trajectory with a `failure`, which is neither right nor wrong.
    """
    while True:
        conversation, stream = now
        async with tools.session(conversation.task, conversation.request.request_id) as session:
            try:
                await conversation.run(stream, session)
                return replace(conversation.trajectory(session), box_state=await session.state())
            except ToolUnavailableError as error:
                failure = str(error)
        attempt = conversation.rollout_id.attempt + 1
        if attempt >= conversation.limits.max_attempts:
            return conversation.trajectory(failure=failure)
        now = begin(replace(conversation.rollout_id, attempt=attempt))


async def _alone(conversation: Conversation, stream: AsyncIterator[TokenChunk]) -> Trajectory:
    """A rollout of one turn."""
    await conversation.run(stream, None)
    return conversation.trajectory()


async def _without_room(rollout_id: RolloutId, task: Task, prompt_ids: Sequence[int]) -> Trajectory:
    """A prompt alone: nothing was sampled."""
    total = len(prompt_ids)
    return Record(list(prompt_ids)).trajectory(rollout_id, task, [Turn(total, total, FinishReason.CONTEXT)], "")
