"""What readers of all call syntaxes share: thinking split off, errors put into words for the model."""

from __future__ import annotations

import re
from collections.abc import Callable

from rewards.errors import UserError
from rewards.task import Message, Role, ToolCall
from rewards.transcript import END_THINK, THINK
from rl.formats.protocol import CallError, CallErrorKind, ReadTurn

EXCERPT, SHOWN = 60, 90  # characters of what was found that an error shows: as they are, and with some as escapes

NAME = r'[^"<>\x00-\x1f\x7f]*'  # what a tool's or a parameter's name may hold; none is empty
_NAME = re.compile(NAME)


class BrokenCallError(Exception):
    """Inside of readers alone: what makes a call unreadable. `read_with` turns it into a value."""

    def __init__(self, kind: CallErrorKind, problem: str, allowed: str) -> None:
        self.error = CallError(kind, f"The tool call could not be read and nothing was run: {problem}. Allowed: {allowed}.")
        super().__init__(self.error.text)


def is_name(text: str) -> bool:
    return bool(text) and _NAME.fullmatch(text) is not None


def excerpt(text: str, start: int = 0) -> str:
    """What stands there, in one short line that any tokenizer takes."""
    if start >= len(text):
        return "the end of the turn"
    shown = repr(text[start : start + EXCERPT])
    if len(shown) > SHOWN or len(text) - start > EXCERPT:
        return f"{shown[: min(SHOWN, len(shown) - 1)]}...{shown[0]}"
    return shown


def read_with(body_of: Callable[[str], tuple[str, list[ToolCall]]], text: str, *, thinking: bool, opening: str) -> ReadTurn:
    """Splits off the thinking and gives the rest to `body_of`, which returns content and calls or raises BrokenCallError.

    Args:
        thinking: whether the text begins inside of the thinking.
        opening: what calls begin with, if there are any; where it stands in the thinking alone, the model has called nothing.
    """
    reasoning, body = None, text
    if thinking:
        reasoning, ended, body = text.partition(END_THINK)
        if not ended:
            return _unfinished(text, opening)
    try:
        content, calls = body_of(body)
    except BrokenCallError as broken:
        return ReadTurn(Message(Role.ASSISTANT, body, reasoning), broken.error)
    message = Message(Role.ASSISTANT, content, reasoning, tuple(calls))
    if reasoning and not calls and not content.strip() and opening and opening in reasoning:
        return ReadTurn(message, _call_in_thinking("inside of the thinking, and nothing came after it"))
    return ReadTurn(message)


def opened(text: str, *, thinking: bool) -> tuple[str, bool]:
    """For models that open the thinking themselves: the text behind `<think>`, if it begins with that, and whether it thinks.

    White space before the tag is left out: with it, a call inside of the thinking would pass for one outside.
    """
    inside = text.lstrip()
    return (text, thinking) if thinking or not inside.startswith(THINK) else (inside[len(THINK) :], True)


def write_thinking(message: Message, *, thinking: bool) -> str:
    """The start of a turn: what `read_with` splits off."""
    return (message.reasoning or "") + END_THINK if thinking else ""


def check_reads_back(message: Message, read: ReadTurn, *, calls_alone: bool = False) -> None:
    """Raises UserError unless a turn written for this message reads as the message: no model could have sampled it.

    `calls_alone`: text may differ, as it does where a template trims it.
    """
    found = read.message
    if read.error is not None:
        problem = read.error.text
    elif not calls_alone and (found.content, found.reasoning or "") != (message.content, message.reasoning or ""):
        problem = f"its text holds the format's own marks: {excerpt(message.content or message.reasoning or '')}"
    elif [(c.name, c.arguments) for c in found.tool_calls] != [(c.name, c.arguments) for c in message.tool_calls]:
        problem = "its calls hold what is no JSON value, or the format's own marks"
    else:
        return
    called = ", ".join(call.name for call in message.tool_calls) or "none"
    raise UserError(f"an answer (calls: {called}) cannot be written so that it reads back as it is: {problem}")


def _unfinished(text: str, opening: str) -> ReadTurn:
    message = Message(Role.ASSISTANT, "", text)
    if opening and opening in text:
        return ReadTurn(message, _call_in_thinking("inside of the thinking, which never ended"))
    problem = f"The turn ended inside of the thinking: there is no {END_THINK}, so there is neither an answer nor a tool call."
    return ReadTurn(
        message, CallError(CallErrorKind.UNFINISHED_THINKING, f"{problem} Close the thinking, then answer or call.")
    )


def _call_in_thinking(where: str) -> CallError:
    text = f"The tool call was not run: it stands {where}. Close the thinking with {END_THINK} before calling a tool."
    return CallError(CallErrorKind.CALL_IN_THINKING, text)
