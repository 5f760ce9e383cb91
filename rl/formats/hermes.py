"""Tool calls as Hermes, Qwen2.5 and Qwen3 write them: a JSON object in `<tool_call>` tags for each. Written and read here.

With the guarantees of `rl.formats.dsml`: reading never throws, takes linear time and is strict about what stands around the
objects; inside of the tags any JSON text of a name and arguments is read, and written again as it stood.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from rewards.task import Message, ToolCall
from rewards.transcript import THINK
from rl.formats.protocol import CallErrorKind, ReadTurn
from rl.formats.reading import BrokenCallError, excerpt, is_name, opened, read_with, write_thinking
from rl.formats.strict_json import dump, end_of_object, read_json

OPEN, CLOSE = "<tool_call>", "</tool_call>"
WHOLE = OPEN  # key of `ToolCall.written`: all that stood between the tags, where `write_calls` would give another text
FORM = f'{OPEN}, {{"name": "TOOL", "arguments": {{...}}}} and {CLOSE}, each on a line of its own'
_ANY_TAG = re.compile(r"<[^<>\w\n]{0,3}tool[_ -]?calls?[^<>\w\n]{0,3}>", re.IGNORECASE)  # the right ones too
_SPACE = re.compile(r"[ \t\n\r]*+")  # that JSON has between its parts


def write_calls(calls: Sequence[ToolCall]) -> str:
    """These calls, one after the other.

    >>> print(write_calls([ToolCall("add", {"a": 2, "b": 3})]))
    <tool_call>
    {"name": "add", "arguments": {"a": 2, "b": 3}}
    </tool_call>
    """
    return "\n".join(OPEN + call.written.get(WHOLE, _inside(call)) + CLOSE for call in calls)


def write_turn(message: Message, *, thinking: bool) -> str:
    """All that a model samples in a turn but the token that ends it. `thinking`: the prompt has opened the thinking."""
    opened = thinking or message.reasoning is not None
    start = (THINK if opened and not thinking else "") + write_thinking(message, thinking=opened)
    gap = "\n" if message.tool_calls and message.content.strip() else ""
    return start + message.content + gap + write_calls(message.tool_calls)


def read_turn(text: str, *, thinking: bool) -> ReadTurn:
    """Takes a turn apart. Where the prompt has not opened the thinking, the turn may do so itself."""
    inside, thinks = opened(text, thinking=thinking)
    return read_with(_read_body, inside, thinking=thinks, opening=OPEN)


def _inside(call: ToolCall) -> str:
    arguments = ", ".join(f"{dump(name)}: {call.written.get(name, dump(value))}" for name, value in call.arguments.items())
    return f'\n{{"name": {dump(call.name)}, "arguments": {{{arguments}}}}}\n'


def _read_body(body: str) -> tuple[str, list[ToolCall]]:
    """Content and calls of what came after the thinking."""
    tag = _ANY_TAG.search(body)
    if tag is None:
        return body, []
    at = tag.start()
    if tag.group() != OPEN:
        kind = CallErrorKind.STRAY_TAG if tag.group() == CLOSE else CallErrorKind.LOOKALIKE
        raise BrokenCallError(kind, f"found {excerpt(body, at)} where no call is open", FORM)
    content = body[:at]
    if content.strip():
        if not content.endswith("\n"):
            raise BrokenCallError(
                CallErrorKind.NO_BLANK_LINE, f"no line break before {OPEN}", f"text, a line break, then {FORM}"
            )
        content = content[:-1]
    calls = []
    while True:
        call, at = _read_call(body, at + len(OPEN))
        calls.append(call)
        if at == len(body):
            return content, calls
        if not body.startswith("\n" + OPEN, at):
            again = body.find(OPEN, at) >= 0
            kind = CallErrorKind.TEXT_BETWEEN_TAGS if again else CallErrorKind.TEXT_AFTER_CALLS
            raise BrokenCallError(kind, f"after a call came {excerpt(body, at)}", f"a line break and a next {OPEN}, or the end")
        at += 1


def _read_call(text: str, start: int) -> tuple[ToolCall, int]:
    """The call whose inside begins at `start`, and the index behind its closing tag."""
    at = _after_space(text, start)
    if not text.startswith("{", at):
        kind = CallErrorKind.BAD_JSON
        if at >= len(text):
            kind = CallErrorKind.UNCLOSED_CALL
        elif text.startswith(OPEN, at):
            kind = CallErrorKind.NESTED_BLOCK
        raise BrokenCallError(kind, f"after {OPEN} came {excerpt(text, at)}", FORM)
    end = end_of_object(text, at)
    if end is None:
        raise _endless(text, at)
    close = _after_space(text, end)
    if not text.startswith(CLOSE, close):
        kind = CallErrorKind.UNCLOSED_CALL if close >= len(text) else CallErrorKind.TEXT_BETWEEN_TAGS
        if (tag := _ANY_TAG.match(text, close)) is not None:
            kind = CallErrorKind.UNCLOSED_CALL if tag.group() == OPEN else CallErrorKind.LOOKALIKE
        raise BrokenCallError(kind, f"behind the object came {excerpt(text, close)}", f"{CLOSE} behind the object")
    call = _call_of(text[at:end])
    inside = text[start:close]
    if inside != _inside(call):
        call = ToolCall(call.name, call.arguments, written={WHOLE: inside})
    return call, close + len(CLOSE)


def _call_of(text: str) -> ToolCall:
    read = read_json(text)
    if read.problem:
        raise BrokenCallError(CallErrorKind.BAD_JSON, f"it is no JSON: {read.problem}", FORM)
    if read.repeats is not None:
        raise BrokenCallError(CallErrorKind.DUPLICATE_PARAMETER, f"{excerpt(read.repeats)} stands twice", "each key once")
    data: dict[str, Any] = read.value
    if set(data) != {"name", "arguments"}:
        raise BrokenCallError(CallErrorKind.BAD_ARGUMENTS, f"its keys are {excerpt(', '.join(data))}", "name and arguments")
    name, arguments = data["name"], data["arguments"]
    if not isinstance(name, str) or not is_name(name):
        raise BrokenCallError(CallErrorKind.BAD_NAME, f"its name is {excerpt(str(name) or ' ')}", "the name of a tool")
    if not isinstance(arguments, dict):
        raise BrokenCallError(CallErrorKind.BAD_ARGUMENTS, f"its arguments are {excerpt(dump(arguments))}", "an object")
    if WHOLE in arguments:
        raise BrokenCallError(CallErrorKind.BAD_NAME, f"an argument is named {WHOLE}", "the parameters' names")
    return ToolCall(name, arguments)


def _endless(text: str, at: int) -> BrokenCallError:
    """For an object without an end, or nested too deep."""
    close = text.find(CLOSE, at)
    if close < 0:
        return BrokenCallError(CallErrorKind.UNCLOSED_CALL, f"the object never ends, found {excerpt(text, at)}", FORM)
    return BrokenCallError(CallErrorKind.BAD_JSON, f"it is no JSON: {read_json(text[at:close]).problem}", FORM)


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at
