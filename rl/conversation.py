"""One rollout: the model's turns, the tools that it calls between them, and the record of both.

What was sampled is recorded as it comes; what tools return is appended as forced tokens, which carry no loss. Called by
`rl/rollout.py`, which has the engine and the tools.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from rewards.task import Message, Role, Task, ToolCall
from rewards.transcript import parse_completion
from rl.chat import ChatFormat
from rl.config import RolloutConfig
from rl.engine.protocol import Engine, GenerateRequest, TokenChunk
from rl.formats.protocol import ReadTurn
from rl.tools.protocol import ToolOutcome
from rl.tools.session import Session
from rl.trajectory import FinishReason, RolloutId, SamplingMask, Trajectory, Turn


class FidelityError(AssertionError):
    """What the engine has as a conversation's tokens is not what was recorded: training would learn from other tokens."""


@dataclass
class Record:
    """The conversation's tokens as they come: sampled ones and forced ones."""

    token_ids: list[int]
    _pieces: list[tuple[int, TokenChunk]] = field(init=False, default_factory=list)  # where each chunk begins

    def add(self, chunk: TokenChunk) -> None:
        self._pieces.append((len(self.token_ids), chunk))
        self.token_ids += chunk.token_ids.tolist()

    def force(self, token_ids: Sequence[int]) -> None:
        self.token_ids += token_ids

    def trajectory(self, rollout_id: RolloutId, task: Task, turns: Sequence[Turn], completion: str) -> Trajectory:
        total = len(self.token_ids)
        mask, logprobs = np.zeros(total, np.bool_), np.zeros(total, np.float32)
        version = np.full(total, -1, np.int32)
        rows: list[NDArray[np.int32] | None] = []
        for start, chunk in self._pieces:
            where = slice(start, start + len(chunk.token_ids))
            mask[where], logprobs[where], version[where] = True, chunk.logprobs, chunk.policy_version
            rows += chunk.kept
        kept = [row for row in rows if row is not None]
        return Trajectory(
            rollout_id,
            task,
            np.array(self.token_ids, np.int32),
            mask,
            logprobs,
            version,
            tuple(turns),
            completion,
            sampling_mask=SamplingMask.from_rows(kept) if kept else None,
        )


class Conversation:
    """A rollout from its prompt to its end; `run` may be called once."""

    def __init__(
        self,
        engine: Engine,
        chat: ChatFormat,
        limits: RolloutConfig,
        task: Task,
        rollout_id: RolloutId,
        request: GenerateRequest,
    ) -> None:
        self.engine, self.chat, self.limits = engine, chat, limits
        self.task, self.rollout_id, self.request = task, rollout_id, request
        self.turns: list[Turn] = []
        self.messages: list[Message] = []
        self._texts: list[str] = []
        self._record = Record(list(request.prompt_ids))
        self._deadline: float | None = None  # on the loop's clock; set by the first token
        self._is_cut = False  # in the middle of a turn
        self._tool_s, self._num_sampled, self._num_compared = 0.0, 0, 0

    async def run(self, stream: AsyncIterator[TokenChunk], session: Session | None) -> None:
        """Reads the first turn's stream, and goes on until an answer without calls or a bound.

        Raises:
            ToolUnavailableError: a tool failed through no fault of the model. FidelityError.
        """
        try:
            await self._all_turns(stream, session)
        except BaseException:  # cancelled, too: a request that is kept for nobody would stay in the engine
            with contextlib.suppress(Exception):
                await self.engine.abort(self.request.request_id)
            raise
        await self._close()

    async def _all_turns(self, stream: AsyncIterator[TokenChunk], session: Session | None) -> None:
        while True:
            start = len(self._record.token_ids)
            finish = await self._sample(stream)
            sampled = self._record.token_ids[start:]
            said = self.chat.read(sampled, self.task.effort)
            text = self.chat.completion_text(self._record.token_ids[:start], sampled)
            message = said.message if session is not None else parse_completion(text)
            self.messages.append(message)
            self._texts.append(text)
            ending = self._ending(finish, said, session)
            self._note(said, start, sampled, ending)
            if session is None or ending is not FinishReason.STOP or not _wants(said):
                break
            results = await self._results(session, said)
            if results is None:
                break
            next_stream = self._next(said.message, results)
            if next_stream is None:
                break
            self.messages += results
            stream = next_stream

    def trajectory(self, session: Session | None = None, failure: str | None = None) -> Trajectory:
        """The record so far."""
        place = len(self.request.prompt_ids)
        turns = self.turns or [Turn(place, place, FinishReason.ABORTED)]
        found = self._record.trajectory(self.rollout_id, self.task, turns, "\n".join(self._texts))
        box = None if session is None else session.box_ref
        compared = self._num_compared
        return replace(found, messages=tuple(self.messages), box=box, failure=failure, num_compared=compared)

    # ---- a turn

    async def _sample(self, stream: AsyncIterator[TokenChunk]) -> FinishReason:
        """Records the stream to its end, or until the rollout's time is over."""
        finish: FinishReason | None = None
        try:
            async with asyncio.timeout_at(self._deadline) as limit:
                async for chunk in stream:
                    if self._deadline is None and self.limits.total_time_s is not None:  # what it waited for a place is not its
                        self._deadline = asyncio.get_running_loop().time() + self.limits.total_time_s
                        limit.reschedule(self._deadline)
                    self._record.add(chunk)
                    self._num_sampled += len(chunk.token_ids)
                    finish = chunk.finish_reason
        except TimeoutError:
            if not limit.expired():
                raise
            self._is_cut = True
            return FinishReason.TIME
        assert finish is not None, "a stream ends with a finish reason"
        return finish

    def _ending(self, finish: FinishReason, said: ReadTurn, session: Session | None) -> FinishReason:
        """The turn's finish reason: where the model wants a tool that it may not have any more, the bound that says so."""
        left = self._tokens_left()
        if finish is FinishReason.LENGTH and left == 0:
            return FinishReason.TOKENS
        if finish is not FinishReason.STOP or session is None or not _wants(said):
            return finish
        if len(self.turns) + 1 >= self.limits.max_turns:
            return FinishReason.TURNS
        return FinishReason.TOKENS if left == 0 else FinishReason.STOP

    def _note(self, said: ReadTurn, start: int, sampled: Sequence[int], finish: FinishReason) -> None:
        self.turns.append(
            Turn(
                start,
                start + len(sampled),
                finish,
                num_reasoning=self.chat.num_reasoning(self._record.token_ids[:start], sampled),
                num_calls=len(said.message.tool_calls),
                call_error=None if said.error is None else said.error.kind.value,
            )
        )

    def _end(self, reason: FinishReason) -> None:
        self.turns[-1] = replace(self.turns[-1], finish_reason=reason)

    def _tokens_left(self) -> int | None:
        """Of `rollout.max_tokens`; None where there is no such bound."""
        return None if self.limits.max_tokens is None else max(0, self.limits.max_tokens - self._num_sampled)

    # ---- tools

    async def _results(self, session: Session, said: ReadTurn) -> list[Message] | None:
        """The results of the turn's calls, in their order; None where a bound has ended the rollout."""
        if said.error is not None:
            return [Message(Role.TOOL, said.error.text)]
        try:
            async with asyncio.timeout_at(self._deadline) as limit:
                outcomes = await call_all(session, said.message.tool_calls)
        except TimeoutError:
            if not limit.expired():
                raise
            self._end(FinishReason.TIME)
            return None
        spent = sum(outcome.wall_s for outcome in outcomes)
        self._tool_s += spent
        errors, retries = (sum(counts) for counts in zip(*((o.is_error, o.num_retries) for o in outcomes), strict=True))
        self.turns[-1] = replace(self.turns[-1], tool_s=spent, num_tool_errors=errors, num_tool_retries=retries)
        if self._tool_s > self.limits.tool_time_s:
            self._end(FinishReason.TOOL_TIME)
            return None
        calls = zip(outcomes, said.message.tool_calls, strict=True)
        return [Message(Role.TOOL, outcome.text, tool_call_id=call.id) for outcome, call in calls]

    def _next(self, answer: Message, results: Sequence[Message]) -> AsyncIterator[TokenChunk] | None:
        """The next turn's stream; None where the context has no room for it."""
        assert self.request.window is not None, "a rollout's request says its window"
        left, most = self._tokens_left(), self.request.sampling.max_tokens
        forced = self.chat.results_ids(answer, results, self.task.effort)
        if len(self._record.token_ids) + len(forced) >= self.request.window:
            self._end(FinishReason.CONTEXT)
            return None
        self._record.force(forced)
        return self.engine.extend(self.request.request_id, forced, most if left is None else min(left, most))

    async def _close(self) -> None:
        """Ends the request in the engine, and compares what it has with the record."""
        if not self.request.keep:
            return
        if self._is_cut or self.turns[-1].finish_reason is FinishReason.ABORTED:  # in the middle of a turn
            await self.engine.abort(self.request.request_id)
            return
        known, mine = await self.engine.release(self.request.request_id), self._record.token_ids
        self._num_compared = len(known)
        if known != mine:
            at = next(i for i, (a, b) in enumerate(zip_longest(known, mine)) if a != b)
            raise FidelityError(
                f"rollout {self.rollout_id}: the engine has {len(known)} tokens and the record {len(mine)}; they differ at {at}"
            )


def _wants(said: ReadTurn) -> bool:
    return bool(said.message.tool_calls) or said.error is not None


async def call_all(session: Session, calls: Sequence[ToolCall]) -> list[ToolOutcome]:
    """Every call at once. One that fails through no fault of the model is raised when all have ended."""
    outcomes = await asyncio.gather(*(session.call(call) for call in calls), return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
