"""Tool calls as DeepSeek-V4 writes them: a block of `<｜DSML｜tool_calls>` behind a turn's text. Written and read here.

Reading never throws and takes linear time. It is strict: a block that was begun and is not exactly well-formed is an error
and never half of its calls. Writing what was read gives the same text, to the letter.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from rewards.task import Message, ToolCall
from rl.formats.protocol import CallErrorKind, ReadTurn
from rl.formats.reading import NAME, BrokenCallError, excerpt, read_with, write_thinking
from rl.formats.strict_json import dump, read_json

MARK = "｜DSML｜"
OPEN_BLOCK, CLOSE_BLOCK = f"<{MARK}tool_calls>", f"</{MARK}tool_calls>"
CLOSE_CALL, CLOSE_PARAMETER = f"</{MARK}invoke>", f"</{MARK}parameter>"
BLANK_LINE = "\n\n"  # between a turn's text and its calls, also where there is no text
_OPEN_CALL, _OPEN_PARAMETER = f"<{MARK}invoke", f"<{MARK}parameter"
_NAME = f'name="({NAME})"'
_CALL = re.compile(rf"{_OPEN_CALL} {_NAME}>")
_PARAMETER = re.compile(rf'{_OPEN_PARAMETER} {_NAME} string="(true|false)">')
_NAMED_PARAMETER = re.compile(rf"{_OPEN_PARAMETER} {_NAME}(?=[ >])")
_ANY_TAG = re.compile(r"[<＜]/?[^<>\n]{0,4}DSML[^<>\n]{0,4}(?:tool|invoke|parameter)", re.IGNORECASE)  # right bars or not
_EXACT = (f"<{MARK}", f"</{MARK}")
_IN_VALUE = (f"\n{_OPEN_PARAMETER} ", f"\n{CLOSE_CALL}")  # lines that come after a value, so inside of it they say it is open

CALL_FORM = f'{_OPEN_CALL} name="TOOL">'
PARAMETER_FORM = f'{_OPEN_PARAMETER} name="NAME" string="true|false">VALUE{CLOSE_PARAMETER}'


def write_calls(calls: Sequence[ToolCall]) -> str:
    """The block of these calls, without the blank line before it.

    >>> print(write_calls([ToolCall("get_weather", {"location": "Paris", "days": 5})]))
    <｜DSML｜tool_calls>
    <｜DSML｜invoke name="get_weather">
    <｜DSML｜parameter name="location" string="true">Paris</｜DSML｜parameter>
    <｜DSML｜parameter name="days" string="false">5</｜DSML｜parameter>
    </｜DSML｜invoke>
    </｜DSML｜tool_calls>
    """
    written = [
        f'{_OPEN_CALL} name="{call.name}">\n'
        + "\n".join(_parameter(name, value, call.written.get(name)) for name, value in call.arguments.items())
        + f"\n{CLOSE_CALL}"
        for call in calls
    ]
    return "\n".join((OPEN_BLOCK, *written, CLOSE_BLOCK))


def write_turn(message: Message, *, thinking: bool) -> str:
    """All that a model samples in a turn but the token that ends it. `thinking`: the prompt has opened the thinking."""
    calls = BLANK_LINE + write_calls(message.tool_calls) if message.tool_calls else ""
    return write_thinking(message, thinking=thinking) + message.content + calls


def read_turn(text: str, *, thinking: bool) -> ReadTurn:
    """Takes a turn apart. `thinking`: the prompt had opened the thinking, so that the text begins inside of it."""
    return read_with(_read_body, text, thinking=thinking, opening=OPEN_BLOCK)


def _parameter(name: str, value: Any, written: str | None) -> str:
    is_string = isinstance(value, str) and written is None
    text = value if is_string else dump(value) if written is None else written
    return f'{_OPEN_PARAMETER} name="{name}" string="{"true" if is_string else "false"}">{text}{CLOSE_PARAMETER}'


def _read_body(body: str) -> tuple[str, list[ToolCall]]:
    """Content and calls of what came after the thinking."""
    mark = body.find(MARK)
    tag = _ANY_TAG.search(body) if mark >= 0 or "dsml" in body.lower() else None
    if mark < 0 and tag is None:
        return body, []
    start = tag.start() if tag is not None and (mark < 0 or tag.start() < mark) else mark
    if not body.startswith(OPEN_BLOCK, start):
        raise _stray(body, start)
    if not body.endswith(BLANK_LINE, 0, start):
        before = excerpt(body[max(0, start - 20) : start]) if start else "the start of the answer"
        raise BrokenCallError(
            CallErrorKind.NO_BLANK_LINE,
            f"there is no blank line before {OPEN_BLOCK}, found {before}",
            "text, if any, then a blank line, then the block",
        )
    return body[: start - len(BLANK_LINE)], _Block(body, start + len(OPEN_BLOCK)).calls()


def _stray(body: str, start: int) -> BrokenCallError:
    """For a tag outside of a block."""
    found = excerpt(body, start)
    if OPEN_BLOCK.startswith(body[start : start + len(OPEN_BLOCK)]):
        return BrokenCallError(CallErrorKind.UNCLOSED_BLOCK, f"the turn ended in {found}", f"{OPEN_BLOCK}, and then calls")
    if not body.startswith(_EXACT, start):
        kind = CallErrorKind.BAD_TAG if body.startswith(MARK, start) else CallErrorKind.LOOKALIKE
        return BrokenCallError(kind, f"{found} is no tag", f"calls begin with {OPEN_BLOCK}, in exactly these characters")
    known = (_OPEN_CALL, _OPEN_PARAMETER, CLOSE_CALL, CLOSE_PARAMETER, CLOSE_BLOCK)
    kind = CallErrorKind.STRAY_TAG if body.startswith(known, start) else CallErrorKind.BAD_TAG
    return BrokenCallError(kind, f"{found} stands outside of a block", f"calls begin with {OPEN_BLOCK}")


class _Block:
    """Walks once over a block; every method raises BrokenCallError where it finds something else than may stand there."""

    def __init__(self, text: str, at: int) -> None:
        self.text = text
        self.at = at

    def calls(self) -> list[ToolCall]:
        calls: list[ToolCall] = []
        while True:
            self._line_break(CallErrorKind.UNCLOSED_BLOCK, CLOSE_BLOCK)
            if self.text.startswith(CLOSE_BLOCK, self.at):
                break
            calls.append(self._call())
        self.at += len(CLOSE_BLOCK)
        if not calls:
            raise BrokenCallError(
                CallErrorKind.EMPTY_BLOCK, "the block has no call", f"one or more calls {CALL_FORM} ... {CLOSE_CALL}"
            )
        if self.at < len(self.text):
            again = self.text.find(OPEN_BLOCK, self.at) >= 0
            kind = CallErrorKind.SECOND_BLOCK if again else CallErrorKind.TEXT_AFTER_CALLS
            raise BrokenCallError(
                kind,
                f"after the block came {excerpt(self.text, self.at)}",
                f"one block with all calls, and nothing after {CLOSE_BLOCK}",
            )
        return calls

    def _call(self) -> ToolCall:
        name = self._tag(_CALL, _OPEN_CALL, CallErrorKind.UNCLOSED_BLOCK, f"{CALL_FORM} or {CLOSE_BLOCK}").group(1)
        if not name:
            raise BrokenCallError(CallErrorKind.BAD_NAME, "a call names no tool", CALL_FORM)
        arguments: dict[str, Any] = {}
        written: dict[str, str] = {}
        self._line_break(CallErrorKind.UNCLOSED_CALL, CLOSE_CALL)
        if self.text.startswith("\n", self.at):  # a call without parameters has an empty line in their place
            self.at += 1
            if not self.text.startswith(CLOSE_CALL, self.at):
                raise self._unexpected(CallErrorKind.UNCLOSED_CALL, CLOSE_CALL)
            self.at += len(CLOSE_CALL)
            return ToolCall(name, arguments)
        if self.text.startswith(CLOSE_CALL, self.at):
            problem = f"the call of {excerpt(name)} has no parameters and no empty line between its tags"
            raise BrokenCallError(CallErrorKind.NO_BLANK_LINE, problem, f"{CALL_FORM}, an empty line, {CLOSE_CALL}")
        while not arguments or not self.text.startswith(CLOSE_CALL, self.at):
            self._parameter(name, arguments, written)
            self._line_break(CallErrorKind.UNCLOSED_CALL, CLOSE_CALL)
        self.at += len(CLOSE_CALL)
        return ToolCall(name, arguments, written=written)

    def _parameter(self, call: str, arguments: dict[str, Any], written: dict[str, str]) -> None:
        tag = self._tag(_PARAMETER, _OPEN_PARAMETER, CallErrorKind.UNCLOSED_CALL, f"{PARAMETER_FORM} or {CLOSE_CALL}")
        name, is_string = tag.group(1), tag.group(2) == "true"
        if not name:
            raise BrokenCallError(CallErrorKind.BAD_NAME, f"a parameter of {excerpt(call)} has no name", PARAMETER_FORM)
        if name in arguments:
            problem = f"the parameter {excerpt(name)} of {excerpt(call)} stands twice"
            raise BrokenCallError(CallErrorKind.DUPLICATE_PARAMETER, problem, "each parameter once")
        text = self._value(name)
        if is_string:
            arguments[name] = text
            return
        json = read_json(text)
        if json.problem:
            problem = f'the parameter {excerpt(name)} of {excerpt(call)} says string="false" and is no JSON: {json.problem}'
            raise BrokenCallError(CallErrorKind.BAD_JSON, problem, 'a JSON value, or any text with string="true"')
        arguments[name] = json.value
        if isinstance(json.value, str) or dump(json.value) != text:
            written[name] = text

    def _value(self, name: str) -> str:
        """The text up to the closing tag. Never escaped, it may hold anything else but the lines that come after a value."""
        start, end = self.at, self.text.find(CLOSE_PARAMETER, self.at)
        limit = end if end >= 0 else len(self.text)
        inner = min((i for line in _IN_VALUE if (i := self.text.find(line, start, limit)) >= 0), default=-1)
        if end >= 0 and inner < 0:
            self.at = end + len(CLOSE_PARAMETER)
            return self.text[start:end]
        before = inner if inner >= 0 else limit
        kind, found = CallErrorKind.UNCLOSED_PARAMETER, excerpt(self.text, before)
        if self.text.find(OPEN_BLOCK, start, before) >= 0:
            kind = CallErrorKind.NESTED_BLOCK
        elif (tag := _ANY_TAG.search(self.text, start, before)) is not None and not self.text.startswith(
            f"<{MARK}", tag.start()
        ):
            kind, found = CallErrorKind.LOOKALIKE, excerpt(self.text, tag.start())
        raise BrokenCallError(
            kind, f"the parameter {excerpt(name)} is not closed, found {found}", f"{CLOSE_PARAMETER} behind the value"
        )

    def _line_break(self, unclosed: CallErrorKind, closing: str) -> None:
        if not self.text.startswith("\n", self.at):
            kind = unclosed if self.at >= len(self.text) else CallErrorKind.TEXT_BETWEEN_TAGS
            found = excerpt(self.text, self.at)
            raise BrokenCallError(kind, f"found {found}", f"a line break, and then the next tag or {closing}")
        self.at += 1

    def _tag(self, form: re.Pattern[str], opening: str, unclosed: CallErrorKind, allowed: str) -> re.Match[str]:
        found = form.match(self.text, self.at)
        if found is None:
            raise self._malformed(opening, allowed) if self._begins(opening) else self._unexpected(unclosed, allowed)
        self.at = found.end()
        return found

    def _begins(self, opening: str) -> bool:
        return self.text.startswith(opening, self.at) and self.text.find(">", self.at) >= 0

    def _malformed(self, opening: str, allowed: str) -> BrokenCallError:
        """For a tag of the right kind whose attributes are wrong."""
        kind = CallErrorKind.BAD_NAME
        if opening == _OPEN_PARAMETER and _NAMED_PARAMETER.match(self.text, self.at):
            kind = CallErrorKind.BAD_STRING_ATTRIBUTE
        elif not self.text.startswith(f"{opening} name=", self.at):
            kind = CallErrorKind.BAD_TAG
        return BrokenCallError(kind, f"found {excerpt(self.text, self.at)}", allowed)

    def _unexpected(self, unclosed: CallErrorKind, allowed: str) -> BrokenCallError:
        """For what stands where a tag or a line break should."""
        text, at = self.text, self.at
        if text.startswith(OPEN_BLOCK, at):
            kind = CallErrorKind.NESTED_BLOCK
        elif at >= len(text) or (text.startswith("<", at) and text.find(">", at) < 0):
            kind = unclosed  # the text ends here, or in the middle of a tag
        elif text.startswith((CLOSE_BLOCK, _OPEN_CALL), at):
            kind = unclosed
        elif text.startswith(_EXACT, at):
            kind = CallErrorKind.BAD_TAG
        elif _ANY_TAG.match(text, at):
            kind = CallErrorKind.LOOKALIKE
        else:
            kind = CallErrorKind.TEXT_BETWEEN_TAGS
        return BrokenCallError(kind, f"found {excerpt(text, at)}", allowed)
