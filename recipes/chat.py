"""`polymath chat`: talk to a model, answers streamed as they are sampled. With piped input, a question a line.

What is kept of a conversation is messages; each question renders them anew through the model's chat template.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from safetensors import SafetensorError

from recipes.text import END_THINK, THINK, safe
from rewards.errors import UserError
from rewards.task import Effort, Message, Role
from rl.checkpoint import last_checkpoint
from rl.compute import submit
from rl.config import EngineConfig, EngineName, ModelConfig, SamplingConfig
from rl.engine.build import Served, declared_context, serve
from rl.engine.protocol import GenerateRequest
from rl.rng import key_of
from rl.trajectory import FinishReason

MAX_CONTEXT = 32_768  # tokens, which bound the memory of the cache
VLLM_CONTEXT = 4096  # whose cache is taken whole at the start
HELP = "/reset forgets the conversation, /quit or Ctrl-D leaves, Ctrl-C stops an answer"


def chat(source: str, *, temperature: float, max_tokens: int, effort: Effort, engine: EngineName) -> int:
    """Reads questions until the end of input; returns the exit code.

    Raises:
        UserError: no model there, or one that cannot be loaded or served; piped input that is not text.
    """
    console, interactive = Console(), sys.stdin.isatty()
    path = Path(source).expanduser()
    folder = str(last_checkpoint(path)) if path.is_dir() else source
    served, context = submit(lambda: _serve(folder, engine)).result()
    seed = secrets.randbits(32)
    sampling = SamplingConfig(max_tokens=max_tokens, temperature=temperature)
    conversation = Conversation(served, sampling, effort, context, seed)
    drawn = f"temperature {temperature:g}, seed {seed}" if temperature else "greedy"
    _say(console, f"{folder}: up to {max_tokens} tokens an answer, context {context}, effort {effort.value}, {drawn}")
    _say(console, HELP)
    try:
        with asyncio.Runner() as runner:
            _converse(console, conversation, runner, interactive=interactive)
    finally:
        served.engine.close()
    return 0


def _serve(folder: str, engine: EngineName) -> tuple[Served, int]:
    """The model behind the engine, and the tokens of a conversation: what the model was made for, bounded."""
    model = ModelConfig(path=folder)
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
    effort: Effort
    context: int
    seed: int
    messages: list[Message] = field(default_factory=list)
    num_asked: int = 0

    async def ask(self, question: str, printer: Printer) -> FinishReason:
        """Streams the answer to the printer. A cancelled call ends as ABORTED.

        Raises:
            UserError: the question and what went before do not fit the context.
        """
        asked = [*self.messages, Message(Role.USER, question)]
        format_ = self.served.chat
        prompt_ids = format_.prompt_ids(asked, self.effort)
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
            stop_ids=format_.stop_ids,
            seed_key=key_of(self.seed),
            rollout_key=key_of("chat", self.num_asked),
            stream_interval=1,
        )
        ids: list[int] = []
        finish = FinishReason.ABORTED
        try:
            async for chunk in self.served.engine.generate(request):
                ids += chunk.token_ids.tolist()
                finish = chunk.finish_reason or finish
                printer.show(format_.completion_text(prompt_ids, ids), final=chunk.finish_reason is not None)
                await asyncio.sleep(0)  # where a Ctrl-C is delivered although the engine is far ahead of the printing
        except asyncio.CancelledError:  # Ctrl-C, through asyncio.Runner
            await self.served.engine.abort(request.request_id)
            return FinishReason.ABORTED
        self.messages = [*asked, format_.parse(format_.completion_text(prompt_ids, ids))]
        return finish


@dataclass
class Printer:
    """Prints a growing completion: thinking dimmed in a terminal and labelled in a pipe, markers left out."""

    console: Console
    shown: str = ""  # the part of the completion that has been dealt with
    thinking: bool = False
    part: str = ""  # "thinking" or "answer" once something of it is on the screen

    def show(self, text: str, *, final: bool) -> None:
        """Prints what is new in `text`, the whole completion so far, and cannot change any more."""
        stable = text if final else _stable(text)
        if len(stable) <= len(self.shown):
            return
        common = len(self.shown) if stable.startswith(self.shown) else _common(self.shown, stable)
        for piece in _pieces(stable[common:]):
            if piece in (THINK, END_THINK):
                self.thinking = piece == THINK
            else:
                self._print(piece)
        self.shown = stable

    def _print(self, piece: str) -> None:
        part = "thinking" if self.thinking else "answer"
        if part != self.part:
            piece = piece.lstrip()
            if not piece:
                return
            label = "" if self.console.is_terminal else f"{part}: "
            self.console.out(("\n" if self.part else "") + label, end="", highlight=False)
            self.part = part
        style = "dim" if self.thinking else None
        self.console.out(safe(piece, self.console.encoding), style=style, end="", highlight=False)

    def end(self, note: str = "") -> None:
        """Ends the answer's line and says what there is to say about it."""
        if self.part:
            self.console.out()
        if note or not self.part:
            _say(self.console, f"({note or 'an empty answer'})")


def _stable(text: str) -> str:
    """Without what the next token may still change: half a character, white space, the beginning of a marker."""
    text = text.rstrip("\ufffd").rstrip()
    for marker in (THINK, END_THINK):
        for length in range(len(marker) - 1, 0, -1):
            if text.endswith(marker[:length]):
                return text[:-length].rstrip()
    return text


def _pieces(text: str) -> Iterator[str]:
    """The text cut at its thinking markers, which are pieces of their own."""
    while text:
        found = [(at, marker) for marker in (THINK, END_THINK) if (at := text.find(marker)) >= 0]
        at, marker = min(found, default=(len(text), ""))
        if at:
            yield text[:at]
        if marker:
            yield marker
        text = text[at + len(marker) :]


def _common(a: str, b: str) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _converse(console: Console, conversation: Conversation, runner: asyncio.Runner, *, interactive: bool) -> None:
    for line in _typed(console) if interactive else _piped(console):
        question = line.strip()
        if question == "/quit":
            return
        if question == "/reset":
            conversation.messages = []
            _say(console, "a new conversation")
        elif question == "/help" or (question.startswith("/") and question[1:].isalpha()):
            _say(console, HELP if question == "/help" else f"{question}: unknown command; {HELP}")
        elif question:
            finish = _answer(console, conversation, runner, question)
            if finish is FinishReason.ABORTED and not interactive:
                raise KeyboardInterrupt  # nobody is there to ask something else


def _answer(console: Console, conversation: Conversation, runner: asyncio.Runner, question: str) -> FinishReason | None:
    printer = Printer(console)
    try:
        finish = runner.run(conversation.ask(question, printer))
    except UserError as error:  # this question alone; the conversation goes on
        _say(console, f"error: {error}")
        return None
    notes = {
        FinishReason.LENGTH: f"cut after {conversation.sampling.max_tokens} tokens; --max-tokens allows more",
        FinishReason.CONTEXT: f"cut: the context of {conversation.context} tokens is full; /reset starts a new conversation",
        FinishReason.ABORTED: "stopped; the conversation goes on as if this had not been asked",
    }
    printer.end(notes.get(finish, ""))
    return finish


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
            _say(console, f"\n{HELP}")


def _piped(console: Console) -> Iterator[str]:
    """The lines of standard input, each echoed, so that the output reads as a conversation."""
    try:
        for line in sys.stdin:
            if line.strip():
                _say(console, f"\n> {line.strip()}")
            yield line
    except UnicodeDecodeError as error:
        raise UserError(f"standard input: not {error.encoding} text: {error.reason} at byte {error.start}") from None


def _say(console: Console, text: str) -> None:
    console.out(safe(text, console.encoding), highlight=False)
