"""A chat format over somebody else's rendering of whole conversations, by what one text has more than another.

Templates and encoders write conversations from the front to the end. What a turn, or what follows it, looks like is found by
writing a short conversation with it and without it.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from functools import cached_property
from itertools import groupby

from rewards.errors import UserError
from rewards.task import Effort, EffortLevel, Message, Role, ToolCall, ToolSpec
from rewards.transcript import THINK
from rl.formats.protocol import ReadTurn, ThinkingMode, in_call_order
from rl.formats.reading import check_reads_back, opened
from rl.formats.syntax import PLAIN, PROBE_CALL, PROBE_TOOL, SYNTAXES, Syntax, find_syntax
from rl.formats.thinking import check_may_think, of_the_last_question, thinks, without_reasoning

QUESTION = Message(Role.USER, "question")
ANSWER = "answer"


class RenderedFormat(ABC):
    """See `rl.formats.protocol.Format`; who inherits says how a conversation is rendered.

    `name` says in messages whose rendering it is: "the chat template". `marks` matches every special token.
    """

    def __init__(self, name: str, marks: re.Pattern[str], thinking: ThinkingMode) -> None:
        self.thinking = thinking
        self._name = name
        self._marks = marks
        self._opens = {effort: self._opens_thinking(effort) for effort in (Effort.NONE, Effort.HIGH)}

    @abstractmethod
    def render(self, messages: Sequence[Message], tools: Sequence[ToolSpec], effort: EffortLevel, *, header: bool) -> str:
        """The conversation as text, with the header of a next answer or without. Raises UserError where it cannot be."""

    @cached_property
    def end(self) -> str:
        answered = [QUESTION, Message(Role.ASSISTANT, ANSWER)]
        after = self.render(answered, [], Effort.HIGH, header=False).rpartition(ANSWER)[2]
        found = self._marks.search(after)
        return found.group() if found else ""

    def prompt(self, messages: Sequence[Message], tools: Sequence[ToolSpec], effort: EffortLevel) -> str:
        if messages and messages[-1].role is Role.ASSISTANT:
            raise UserError("messages: the last is the assistant's; allowed: a prompt ends with the user, a tool or the system")
        if tools and self._problem_with_tools:
            raise UserError(self._problem_with_tools)
        if not thinks(effort, self.thinking):
            messages = without_reasoning(messages)
        elif self.thinking is ThinkingMode.PER_TURN:
            messages = of_the_last_question(messages)
        return self.render(_ordered(messages), tools, effort, header=True)

    def turn(self, message: Message, effort: EffortLevel) -> str:
        check_may_think(message, effort, self.thinking)
        prompt = self.render([QUESTION], [], effort, header=True)
        whole = self.render([QUESTION, message], [], effort, header=False)
        if not whole.startswith(prompt):
            raise UserError(
                f"{self._name} renders the answered conversation differently from the prompt, so the model would be trained "
                f"on another text than it is asked with.\n prompt: {prompt[-80:]!r}\n answered: "
                f"{whole[max(0, len(prompt) - 80) : len(prompt) + 20]!r}\n Give the answer a reasoning if the thinking is "
                "opened for the model, or use effort none."
            )
        text = whole[len(prompt) :]
        end = self._last_mark(text)
        if end is None:
            raise UserError(
                f"{self._name} ends the answer with {whole[-20:]!r}, which holds no special token, so the model would "
                "never learn to stop; end its answers with the end-of-sequence token"
            )
        if message.reasoning is not None and message.reasoning.strip() not in text:
            raise UserError(f"{self._name} does not show an answer's reasoning; allowed: answers without, or one that does")
        if message.tool_calls:
            check_reads_back(message, self.read(text[: end.start()], effort), calls_alone=True)
        return text[: end.end()]

    def results(self, answer: Message, messages: Sequence[Message], effort: EffortLevel) -> str:
        """The answer's own text does not matter: one of the same calls stands in its place."""
        calls = answer.tool_calls or tuple(
            ToolCall(PROBE_CALL.name, PROBE_CALL.arguments, message.tool_call_id or PROBE_CALL.id)
            for message in messages
            if message.role is Role.TOOL
        )
        said = Message(Role.ASSISTANT, ANSWER, ANSWER if thinks(effort, self.thinking) else None, calls)
        tools = [PROBE_TOOL] if self.syntax else []  # a template may keep reasoning only where there are tools
        before = self.render([QUESTION, said], tools, effort, header=False)
        end = self._last_mark(before)
        before = before[: end.end()] if end else before
        whole = self.render(_ordered([QUESTION, said, *messages]), tools, effort, header=True)
        if not whole.startswith(before):
            raise UserError(
                f"{self._name} writes an answer differently once something follows it.\n before: {before[-80:]!r}\n "
                f"after: {whole[max(0, len(before) - 80) : len(before) + 20]!r}"
            )
        return whole[len(before) :]

    def read(self, text: str, effort: EffortLevel) -> ReadTurn:
        thinks_ = effort is not Effort.NONE and self.thinking is not ThinkingMode.OFF
        text, thinking = opened(text, thinking=self._opens[Effort.HIGH if thinks_ else Effort.NONE])
        return (self.syntax or PLAIN).read(text, thinking=thinking)

    def keeps(self, messages: Sequence[Message], effort: EffortLevel, *, has_tools: bool) -> bool:
        kept = self.thinking is ThinkingMode.INTERLEAVED and has_tools
        return kept or not thinks(effort, self.thinking) or all(message.role is not Role.USER for message in messages)

    @cached_property
    def syntax(self) -> Syntax | None:
        """How calls are written, found by writing one; None where no reader reads it."""

        def written(call: ToolCall) -> str:
            said = Message(Role.ASSISTANT, "", tool_calls=(call,))
            text = self.render([QUESTION, said], [PROBE_TOOL], Effort.HIGH, header=False).rpartition(QUESTION.content)[2]
            end = self._last_mark(text)
            return text[: end.start()] if end else text

        try:
            return find_syntax(written)
        except UserError:  # it cannot even write a call
            return None

    @cached_property
    def _problem_with_tools(self) -> str:
        """Why no tools can be used; "" where they can."""
        if PROBE_TOOL.name not in self.render([QUESTION], [PROBE_TOOL], Effort.HIGH, header=True):
            return f"tools: {self._name} shows a model no tools; allowed: no tools, or one that does"
        if self.syntax is None:
            shown = ", ".join(syntax.shown for syntax in SYNTAXES)
            return f"tools: {self._name} writes calls in a way that is not read; allowed: no tools, or one that writes {shown}"
        return ""

    def _opens_thinking(self, effort: Effort) -> bool:
        return self.render([QUESTION], [], effort, header=True).rstrip().endswith(THINK)

    def _last_mark(self, text: str) -> re.Match[str] | None:
        return next(iter(deque(self._marks.finditer(text), maxlen=1)), None)


def _ordered(messages: Sequence[Message]) -> list[Message]:
    """The same conversation with results in the order of the calls that they answer."""
    ordered: list[Message] = []
    calls: Sequence[ToolCall] = ()
    for is_result, group in groupby(messages, lambda message: message.role is Role.TOOL):
        some = list(group)
        ordered += in_call_order(calls, some) if is_result else some
        calls = some[-1].tool_calls
    return ordered
