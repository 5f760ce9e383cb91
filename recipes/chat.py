"""`polymath chat`: talk to a model, answers streamed as they are sampled. With piped input, a question a line.

A run's model has its recipe's tools, in a box that lives as long as the conversation. What is kept of a conversation is
messages; each question renders them anew, and the turns of one answer grow in one context.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from rich.console import Console
from safetensors import SafetensorError

from recipes.printer import Printer, say
from rewards.errors import UserError
from rewards.task import Effort, EffortLevel, Message, Role, Task, effort_name
from rewards.transcript import parse_completion
from rl.checkpoint import last_checkpoint
from rl.compute import submit
from rl.config import ChatConfig, EngineConfig, EngineName, ModelConfig, SamplingConfig
from rl.conversation import call_all
from rl.engine.build import Served, declared_context, serve
from rl.engine.protocol import GenerateRequest, TokenChunk
from rl.formats.protocol import ReadTurn
from rl.rng import key_of
from rl.rollout import AgentSpec
from rl.tools.protocol import ToolUnavailableError
from rl.tools.session import Session
from rl.tools.tools import Tools
from rl.trajectory import FinishReason

MAX_CONTEXT = 32_768  # tokens, which bound the memory of the cache
VLLM_CONTEXT = 4096  # whose cache is taken whole at the start
MAX_TURNS = 32  # of one answer
HELP = (
    "/reset forgets the conversation, /effort none|high|max|1-100 says how long to think, /task [NUMBER] asks one of the run's "
    "held-out tasks, with its files in the box, /quit or Ctrl-D leaves, Ctrl-C stops an answer"
)
NO_TASK = Task("chat", "chat", ())  # of a conversation of the user's own: its box is empty


def chat(
    source: str,
    *,
    temperature: float,
    max_tokens: int,
    effort: EffortLevel,
    engine: EngineName,
    agent: AgentSpec | None = None,
    chat_config: ChatConfig | None = None,
    held_out: Callable[[], Sequence[Task]] = tuple,
) -> int:
    """Reads questions until the end of input; returns the exit code. `agent`: with which tools. `held_out`: tasks of the run.

    Raises:
        UserError: no model there, or one that cannot be loaded or served; a tool that there is not; input that is not text.
    """
    console, interactive = Console(), sys.stdin.isatty()
    path = Path(source).expanduser()
    folder = str(last_checkpoint(path)) if path.is_dir() else source
    served, context = submit(lambda: _serve(folder, engine, chat_config)).result()
    seed = secrets.randbits(32)
    sampling = SamplingConfig(max_tokens=max_tokens, temperature=temperature)
    with asyncio.Runner() as runner:
        try:
            tools = runner.run(_open(agent)) if agent is not None and agent.tools else None
            if agent is not None:
                served = replace(served, chat=served.chat.with_tools(tools.specs if tools else (), agent.thinking))
            conversation = Conversation(served, sampling, effort, context, seed, tools=tools)
            drawn = f"temperature {temperature:g}, seed {seed}" if temperature else "greedy"
            with_tools = f", tools {', '.join(spec.name for spec in tools.specs)}" if tools is not None else ""
            level = effort_name(effort)
            try:
                served.chat.check_keeps([effort])
                say(
                    console,
                    f"{folder}: up to {max_tokens} tokens a turn, context {context}, effort {level}, {drawn}{with_tools}",
                )
                say(console, HELP)
                _converse(console, conversation, runner, HeldOut(held_out), interactive=interactive)
            finally:
                runner.run(conversation.close())
        finally:
            served.engine.close()
    return 0


async def _open(agent: AgentSpec) -> Tools:
    tools = Tools(agent.tools, agent.sandbox)
    await tools.open()
    return tools


def _serve(folder: str, engine: EngineName, chat_config: ChatConfig | None = None) -> tuple[Served, int]:
    """The model behind the engine, and the tokens of a conversation: what the model was made for, bounded."""
    model = ModelConfig(path=folder, chat=chat_config or ChatConfig())
    try:
        most = VLLM_CONTEXT if engine == "vllm" else MAX_CONTEXT
        context = min(declared_context(folder, model) or most, most)
        return serve(folder, model, EngineConfig(name=engine, max_batch_size=1, max_seq_len=context)), context
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{folder}: this model cannot be loaded: {error}") from error


@dataclass
class Conversation:
    """The messages so far and what answers them. A question that got no whole turn leaves no trace in `messages`."""

    served: Served
    sampling: SamplingConfig
    effort: EffortLevel
    context: int
    seed: int
    messages: list[Message] = field(default_factory=list)
    num_asked: int = 0
    tools: Tools | None = None
    _task: Task = NO_TASK
    _session: Session | None = None
    _stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    async def ask(self, question: str, printer: Printer) -> FinishReason:
        """Streams the answer to the printer, tools called between its turns. A cancelled call ends as ABORTED.

        Raises:
            UserError: the question and what went before do not fit the context.
        """
        asked = [*self.messages, Message(Role.USER, question)]
        prompt_ids = self.served.chat.prompt_ids(asked, self.effort)
        if len(prompt_ids) >= self.context:
            raise UserError(
                f"the context is full: with this question the conversation has {len(prompt_ids)} tokens; allowed: less than "
                f"{self.context}; /reset starts a new one"
            )
        self.num_asked += 1
        request = GenerateRequest(
            request_id=f"chat-{self.num_asked}",
            prompt_ids=prompt_ids,
            sampling=self.sampling,
            stop_ids=self.served.chat.stop_ids,
            seed_key=key_of(self.seed),
            rollout_key=key_of("chat", self.num_asked),
            keep=self.tools is not None,
            stream_interval=1,
        )
        try:
            said, finish = await self._answer(asked, request, printer)
        except asyncio.CancelledError:  # Ctrl-C, through asyncio.Runner
            return FinishReason.ABORTED
        except ToolUnavailableError as error:
            await self._leave_box()
            raise UserError(f"{error}; its box is given up: what was in it is lost, and the next call has a new one") from error
        finally:
            await self.served.engine.abort(request.request_id)
        self.messages = [*asked, *said]
        return finish

    async def reset(self) -> None:
        """Forgets the messages, and ends the box."""
        await self.begin(NO_TASK)

    async def begin(self, task: Task) -> None:
        """Forgets what was; what stands before the task's question is said, and the next box has its files."""
        self.messages, self._task = list(task.messages[:-1]), task
        await self._leave_box()

    async def close(self) -> None:
        try:
            await self._leave_box()
        finally:
            if self.tools is not None:
                await self.tools.close()

    async def _leave_box(self) -> None:
        self._session = None
        stack, self._stack = self._stack, contextlib.AsyncExitStack()
        await stack.aclose()

    async def _answer(
        self, asked: list[Message], request: GenerateRequest, printer: Printer
    ) -> tuple[list[Message], FinishReason]:
        """The turns until an answer without calls, with the tools' results between them."""
        engine, format_ = self.served.engine, self.served.chat
        stream, context, said = engine.generate(request), list(request.prompt_ids), list[Message]()
        for _ in range(MAX_TURNS):
            ids, finish = await self._turn(stream, context, printer)
            if self.tools is None:
                return [parse_completion(format_.completion_text(context, ids))], finish
            read = format_.read(ids, self.effort)
            said.append(read.message)
            if finish is not FinishReason.STOP or not (read.message.tool_calls or read.error):
                return said, finish
            results = await self._results(read, printer)
            said += results
            forced = format_.results_ids(read.message, results, self.effort)
            context += [*ids, *forced]
            if len(context) >= self.context:
                return said, FinishReason.CONTEXT
            stream = engine.extend(request.request_id, forced)
        return said, FinishReason.TURNS

    async def _turn(
        self, stream: AsyncIterator[TokenChunk], context: Sequence[int], printer: Printer
    ) -> tuple[list[int], FinishReason]:
        ids: list[int] = []
        finish = FinishReason.ABORTED
        async for chunk in stream:
            ids += chunk.token_ids.tolist()
            finish = chunk.finish_reason or finish
            printer.show(self.served.chat.completion_text(context, ids), final=chunk.finish_reason is not None)
            await asyncio.sleep(0)  # where a Ctrl-C is delivered although the engine is far ahead of the printing
        return ids, finish

    async def _results(self, read: ReadTurn, printer: Printer) -> list[Message]:
        """What the calls come to, shown as they come; a call that could not be read comes to its error."""
        if read.error is not None:
            printer.result(read.error.text, is_error=True)
            return [Message(Role.TOOL, read.error.text)]
        assert self.tools is not None, "the conversation has tools"
        if self._session is None:
            self._session = await self._stack.enter_async_context(self.tools.session(self._task, f"chat-{self.seed}"))
        for call in read.message.tool_calls:
            printer.call(call)
        session = self._session
        found = []
        calls = read.message.tool_calls
        for call, outcome in zip(calls, await call_all(session, calls), strict=True):
            printer.result(outcome.text, is_error=outcome.is_error)
            found.append(Message(Role.TOOL, outcome.text, tool_call_id=call.id))
        return found


class HeldOut:
    """The run's held-out tasks, one after another or by their number; made when the first one is asked for."""

    def __init__(self, load: Callable[[], Sequence[Task]]) -> None:
        self._load, self._last = load, 0

    @cached_property
    def _tasks(self) -> Sequence[Task]:
        return self._load()

    def take(self, number: str) -> tuple[int, Task]:
        """The task of this number, from 1; without one, that after the last.

        Raises:
            UserError: there is none, or that is no number.
        """
        if not self._tasks:
            raise UserError("/task: there are no held-out tasks; start `polymath chat` with a run's folder")
        if number and not (number.isdecimal() and 1 <= int(number) <= len(self._tasks)):
            raise UserError(f"/task: got {number!r}; allowed: a number from 1 to {len(self._tasks)}")
        self._last = int(number) if number else self._last % len(self._tasks) + 1
        return self._last, self._tasks[self._last - 1]


def _converse(
    console: Console, conversation: Conversation, runner: asyncio.Runner, held_out: HeldOut, *, interactive: bool
) -> None:
    for line in _typed(console) if interactive else _piped(console):
        question = line.strip()
        word, rest = question.partition(" ")[0], question.partition(" ")[2].strip()
        finish = None
        if question == "/quit":
            return
        if question == "/reset":
            runner.run(conversation.reset())
            say(console, "a new conversation")
        elif word == "/effort":
            say(console, _set_effort(conversation, rest))
        elif word == "/task":
            finish = _ask_held_out(console, conversation, runner, held_out, rest)
        elif question == "/help" or (question.startswith("/") and question[1:].isalpha()):
            say(console, HELP if question == "/help" else f"{question}: unknown command; {HELP}")
        elif question:
            finish = _answer(console, conversation, runner, question)
        if finish is FinishReason.ABORTED and not interactive:
            raise KeyboardInterrupt  # nobody is there to ask something else


def _ask_held_out(
    console: Console, conversation: Conversation, runner: asyncio.Runner, held_out: HeldOut, number: str
) -> FinishReason | None:
    try:
        at, task = held_out.take(number)
    except UserError as error:
        say(console, f"error: {error}")
        return None
    runner.run(conversation.begin(task))
    say(console, f"task {at}, a new conversation: {task.prompt}")
    return _answer(console, conversation, runner, task.prompt)


def _set_effort(conversation: Conversation, value: str) -> str:
    try:
        effort = parse_effort(value)
        conversation.served.chat.check_keeps([effort])
    except UserError as error:
        return f"error: {error}"
    conversation.effort = effort
    return f"effort {effort_name(effort)}"


def _answer(console: Console, conversation: Conversation, runner: asyncio.Runner, question: str) -> FinishReason | None:
    printer = Printer(console)
    try:
        finish = runner.run(conversation.ask(question, printer))
    except UserError as error:  # this question alone; the conversation goes on
        say(console, f"error: {error}")
        return None
    notes = {
        FinishReason.LENGTH: f"cut after {conversation.sampling.max_tokens} tokens; --max-tokens allows more",
        FinishReason.CONTEXT: f"cut: the context of {conversation.context} tokens is full; /reset starts a new conversation",
        FinishReason.TURNS: f"cut after {MAX_TURNS} turns",
        FinishReason.ABORTED: "stopped; the conversation goes on as if this had not been asked",
    }
    printer.end(notes.get(finish, ""))
    return finish


def parse_effort(value: str) -> EffortLevel:
    """A mode by its name, or a number.

    Raises:
        UserError: it is neither.
    """
    if value in {level.value for level in Effort}:
        return Effort(value)
    if value.isdecimal() and 1 <= int(value) <= 100:
        return int(value)
    raise UserError(f"effort: got {value!r}; allowed: {', '.join(level.value for level in Effort)}, or a number from 1 to 100")


def _typed(console: Console) -> Iterator[str]:
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - gives input() editing and history
    while True:
        try:
            yield input("> ")
        except EOFError:
            console.out()
            return
        except KeyboardInterrupt:
            say(console, f"\n{HELP}")


def _piped(console: Console) -> Iterator[str]:
    """The lines of standard input, each echoed, so that the output reads as a conversation."""
    try:
        for line in sys.stdin:
            if line.strip():
                say(console, f"\n> {line.strip()}")
            yield line
    except UnicodeDecodeError as error:
        raise UserError(f"standard input: not {error.encoding} text: {error.reason} at byte {error.start}") from None
