"""One rollout with tools, its record and its bounds, over an engine that says what a test tells it to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from rewards.result import ScoreStatus
from rewards.task import Effort, Message, Role, Task, ToolCall, ToolSpec
from rl.agent_figures import agent_figures
from rl.batch import Sample
from rl.chat import ChatFormat
from rl.collect import Crew
from rl.config import RolloutConfig, SamplingConfig, ThinkingConfig
from rl.conversation import Conversation, FidelityError
from rl.engine.protocol import GenerateRequest, TokenChunk
from rl.formats.phrases import phrases
from rl.rollout import Begun, GroupRequest, attempts
from rl.tokenizer import train_tokenizer
from rl.tools.protocol import ToolOutcome, ToolUnavailableError
from rl.trajectory import FinishReason, RolloutId, Trajectory, TrajectoryGroup

SHELL = ToolSpec("shell", "Runs a command.", {"type": "object", "properties": {"command": {"type": "string"}}})
TOKENIZER = train_tokenizer(["look at the price of plum and fig: 12 and 7, that is 19"] * 3, 512, phrases([SHELL]))
TASK = Task("t", "agent", (Message(Role.USER, "plum and fig?"),))


def chat_format() -> ChatFormat:
    return ChatFormat(TOKENIZER).with_tools([SHELL], ThinkingConfig())


@dataclass
class Scripted:
    """Samples the turns that it was given, in chunks of two tokens, as long as bounds allow."""

    turns: list[list[int]]
    held: dict[str, list[int]] = field(default_factory=dict)
    aborted: list[str] = field(default_factory=list)
    prompts: list[list[int]] = field(default_factory=list)
    delay_s: float = 0.0
    lies: bool = False

    def generate(self, request: GenerateRequest) -> AsyncIterator[TokenChunk]:
        self.held[request.request_id] = list(request.prompt_ids)
        self.prompts.append(list(request.prompt_ids))
        return self._turn(request.request_id, request.sampling.max_tokens)

    def extend(self, request_id: str, forced_ids: Sequence[int], max_tokens: int | None = None) -> AsyncIterator[TokenChunk]:
        self.held[request_id] += forced_ids
        return self._turn(request_id, max_tokens or 10_000)

    async def _turn(self, request_id: str, max_tokens: int) -> AsyncIterator[TokenChunk]:
        wanted = self.turns.pop(0)
        ids = wanted[:max_tokens]
        for start in range(0, len(ids), 2):
            await asyncio.sleep(self.delay_s)
            piece = np.array(ids[start : start + 2], np.int32)
            self.held[request_id] += piece.tolist()
            last = FinishReason.STOP if len(ids) == len(wanted) else FinishReason.LENGTH
            finish = last if start + 2 >= len(ids) else None
            count = len(piece)
            yield TokenChunk(piece, np.full(count, -0.5, np.float32), np.full(count, 3, np.int32), [None] * count, finish)

    async def release(self, request_id: str) -> list[int]:
        held = self.held.pop(request_id)
        return [*held[:-1], held[-1] + 1] if self.lies else held

    async def abort(self, request_id: str) -> None:
        self.aborted.append(request_id)
        self.held.pop(request_id, None)


@dataclass
class Told:
    """A session whose tool is a function of the command."""

    tool: Callable[[str], ToolOutcome]
    calls: list[str] = field(default_factory=list)
    box_ref: None = None
    delay_s: float = 0.0

    async def call(self, call: ToolCall) -> ToolOutcome:
        self.calls.append(call.arguments["command"])
        await asyncio.sleep(self.delay_s)
        return self.tool(call.arguments["command"])

    async def state(self) -> None:
        """It has no box."""


def says(chat: ChatFormat, *turns: Message) -> list[list[int]]:
    return [chat._encode(chat.format.turn(turn, Effort.HIGH)) for turn in turns]


def look(*commands: str, thought: str = "look") -> Message:
    return Message(Role.ASSISTANT, "", thought, tuple(ToolCall("shell", {"command": c}) for c in commands))


ANSWER = Message(Role.ASSISTANT, "19", "12 and 7")


def run(
    turns: list[list[int]],
    tool: Callable[[str], ToolOutcome] = lambda command: ToolOutcome(f"<{command}>", is_error=False, wall_s=0.01),
    limits: RolloutConfig | None = None,
    window: int = 2000,
    max_tokens: int = 200,
    tool_delay_s: float = 0.0,
    **engine: object,
) -> tuple[Trajectory, Scripted, Told]:
    chat = chat_format()
    scripted, told = Scripted(turns, **engine), Told(tool, delay_s=tool_delay_s)  # type: ignore[arg-type]
    request = GenerateRequest(
        "r",
        chat.prompt_ids(TASK.messages),
        SamplingConfig(max_tokens=max_tokens),
        chat.stop_ids,
        1,
        2,
        keep=True,
        window=window,
    )
    rollout_id = RolloutId(0, TASK.content_hash, 0)
    talk = Conversation(scripted, chat, limits or RolloutConfig(), TASK, rollout_id, request)  # type: ignore[arg-type]

    async def all_of_it() -> None:
        await talk.run(scripted.generate(request), told)  # type: ignore[arg-type]

    asyncio.run(all_of_it())
    return talk.trajectory(), scripted, told


def test_turns_and_results_alternate_and_the_context_only_grows() -> None:
    chat = chat_format()
    turns = says(chat, look("grep plum", "grep fig"), look("echo", thought="write"), ANSWER)
    found, engine, told = run([list(turn) for turn in turns])
    assert told.calls == ["grep plum", "grep fig", "echo"]
    assert [m.role for m in found.messages] == [Role.ASSISTANT, Role.TOOL, Role.TOOL, Role.ASSISTANT, Role.TOOL, Role.ASSISTANT]
    assert found.messages[1].content == "<grep plum>"
    assert found.messages[-1].content == "19"
    assert [t.finish_reason for t in found.turns] == [FinishReason.STOP] * 3
    assert [t.num_calls for t in found.turns] == [2, 1, 0]
    assert found.token_ids[found.loss_mask].tolist() == [token for turn in turns for token in turn]
    whole = chat.prompt_ids((*TASK.messages, *found.messages[:-1]))
    assert found.token_ids[: len(whole)].tolist() == whole  # as if the conversation had been written down at once
    assert not engine.held
    assert set(found.policy_version[found.loss_mask]) == {3}
    assert set(found.policy_version[~found.loss_mask]) == {-1}
    assert not found.sampler_logprobs[~found.loss_mask].any()
    figures = agent_figures([found])
    assert figures["reasoning_kept_share"] == 1.0
    sample = Sample.from_trajectory(found, 0.5)
    assert sample.token_ids[sample.loss_mask].tolist() == [token for turn in turns for token in turn]
    assert figures["calls_mean"] == 3
    assert figures["compared_token_share"] == 1.0


def test_a_malformed_call_goes_back_to_the_model_and_is_counted() -> None:
    chat = chat_format()
    broken = [*chat._encode("look</think>\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke>"), chat.tokenizer.eos_token_id]
    found, _, told = run([broken, *says(chat, ANSWER)])
    assert told.calls == []
    assert found.turns[0].call_error is not None
    assert found.messages[1].role is Role.TOOL
    assert "could not be read" in found.messages[1].content
    assert agent_figures([found])["malformed_call_share"] == 1.0


@pytest.mark.parametrize(
    ("limits", "reason", "num_calls"),
    [
        (RolloutConfig(max_turns=2), FinishReason.TURNS, 1),
        (RolloutConfig(max_tokens=60), FinishReason.TOKENS, 2),
        (RolloutConfig(tool_time_s=0.015), FinishReason.TOOL_TIME, 2),
        (RolloutConfig(total_time_s=0.3), FinishReason.TIME, 1),
    ],
)
def test_each_bound_ends_a_rollout_with_its_own_reason(limits: RolloutConfig, reason: FinishReason, num_calls: int) -> None:
    turns = says(chat_format(), *(look(f"ls {i}") for i in range(20)))
    delay_s = 0.5 if reason is FinishReason.TIME else 0.0
    found, engine, told = run(turns, limits=limits, tool_delay_s=delay_s)
    assert found.finish_reason is reason
    assert len(told.calls) == num_calls
    assert not engine.held
    if reason is FinishReason.TOKENS:
        assert found.num_sampled == 60


def test_a_turn_is_cut_in_the_middle_when_the_time_is_over() -> None:
    found, engine, _ = run(says(chat_format(), ANSWER), limits=RolloutConfig(total_time_s=0.1), delay_s=0.06)
    assert found.finish_reason is FinishReason.TIME
    assert 0 < found.num_sampled < len(says(chat_format(), ANSWER)[0])
    assert engine.aborted == ["r"]


def test_a_result_without_room_ends_with_the_context() -> None:
    chat = chat_format()
    room = len(chat.prompt_ids(TASK.messages)) + len(says(chat, look("ls"))[0]) + 5
    found, engine, told = run(says(chat, look("ls"), ANSWER), window=room)
    assert found.finish_reason is FinishReason.CONTEXT
    assert told.calls == ["ls"]
    assert not engine.held


def test_what_is_not_the_models_fault_is_raised_and_never_shown() -> None:
    with pytest.raises(ToolUnavailableError):
        run(says(chat_format(), look("ls"), ANSWER), tool=gone)


def test_tokens_that_the_engine_does_not_have_are_no_record() -> None:
    with pytest.raises(FidelityError, match="differ"):
        run(says(chat_format(), look("ls"), ANSWER), lies=True)


def test_a_conversation_that_is_cancelled_between_its_turns_leaves_nothing_in_the_engine() -> None:
    chat = chat_format()
    engine = Scripted(says(chat, look("ls"), ANSWER))
    told = Told(lambda _: ToolOutcome("x", is_error=False, wall_s=0.0), delay_s=60)
    request = GenerateRequest("r", chat.prompt_ids(TASK.messages), SamplingConfig(), chat.stop_ids, 1, 2, keep=True, window=900)
    talk = Conversation(
        engine,
        chat,
        RolloutConfig(),
        TASK,
        RolloutId(0, TASK.content_hash, 0),
        request,  # type: ignore[arg-type]
    )

    async def cancelled() -> None:
        running = asyncio.create_task(talk.run(engine.generate(request), told))  # type: ignore[arg-type]
        while not told.calls:
            await asyncio.sleep(0.001)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(cancelled())
    assert not engine.held


# ---- tools that fail through no fault of the model


@dataclass
class Lossy:
    """Tools whose first `num_losses` sessions lose their box at the first call."""

    num_losses: int
    sessions: list[Told] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def session(self, task: Task, rollout_id: str) -> AsyncIterator[Told]:
        lost = len(self.sessions) < self.num_losses
        self.sessions.append(Told(gone if lost else lambda command: ToolOutcome(command, is_error=False, wall_s=0.0)))
        yield self.sessions[-1]


def gone(_: str) -> ToolOutcome:
    raise ToolUnavailableError("the box was lost")


def attempted(num_losses: int) -> tuple[Trajectory, Lossy, Scripted]:
    chat, tools = chat_format(), Lossy(num_losses)
    engine = Scripted(says(chat, *[look("ls")] * num_losses, look("ls"), ANSWER))

    def begin(rollout_id: RolloutId) -> Begun:
        request = GenerateRequest(
            f"s/{rollout_id}", chat.prompt_ids(TASK.messages), SamplingConfig(), chat.stop_ids, 1, rollout_id.key, keep=True,
            window=900,
        )  # fmt: skip
        talk = Conversation(engine, chat, RolloutConfig(max_attempts=3), TASK, rollout_id, request)  # type: ignore[arg-type]
        return talk, engine.generate(request)

    async def run_it() -> Trajectory:
        return await attempts(tools, begin(RolloutId(0, TASK.content_hash, 0)), begin)  # type: ignore[arg-type]

    return asyncio.run(run_it()), tools, engine


def test_a_rollout_whose_box_was_lost_is_done_again_with_other_draws() -> None:
    found, tools, engine = attempted(2)
    assert found.failure is None
    assert found.rollout_id.attempt == 2
    assert found.rollout_id.key != RolloutId(0, TASK.content_hash, 0).key
    assert [m.content for m in found.messages if m.role is Role.TOOL] == ["ls"]  # of what failed nothing is shown
    assert len(tools.sessions) == 3
    assert not engine.held
    assert agent_figures([found])["redone_share"] == 1.0


def test_one_that_cannot_be_brought_to_an_end_is_a_failure_and_no_zero() -> None:
    found, tools, engine = attempted(3)
    assert found.failure == "the box was lost"
    assert len(tools.sessions) == 3
    assert not engine.held
    assert agent_figures([found])["failed_share"] == 1.0
    crew = Crew([], [], "verify")
    request = GroupRequest(TASK, 0, 1, SamplingConfig(), "s")
    (scored,) = asyncio.run(crew._score(0, [(request, found)]))
    assert scored.reward.status is ScoreStatus.FAILED
    assert scored.reward.error == "the box was lost"
    assert not TrajectoryGroup(TASK, (scored,)).valid


def test_thinking_that_the_engine_was_not_seen_to_keep_does_not_count_as_kept() -> None:
    whole, _, _ = run(says(chat_format(), look("ls"), look("cat", thought=""), ANSWER))
    assert agent_figures([whole])["reasoning_kept_share"] == 0.5  # the second turn thought nothing
    assert agent_figures([replace(whole, num_compared=whole.turns[0].start)])["reasoning_kept_share"] == 0.0
    assert "reasoning_kept_share" not in agent_figures([replace(whole, num_compared=0)])
