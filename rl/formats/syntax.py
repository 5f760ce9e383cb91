"""The ways to write a call that can be read, and finding out which of them a model's own format has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from rewards.task import ToolCall, ToolSpec
from rl.formats import dsml, hermes
from rl.formats.protocol import ReadTurn
from rl.formats.reading import read_with


class Reader(Protocol):
    def __call__(self, text: str, *, thinking: bool) -> ReadTurn: ...


@dataclass(frozen=True)
class Syntax:
    """A call syntax; `shown` is how it looks, for messages."""

    name: str
    read: Reader
    shown: str


SYNTAXES = (
    Syntax("dsml", dsml.read_turn, dsml.OPEN_BLOCK),
    Syntax("hermes", hermes.read_turn, f"{hermes.OPEN} around JSON"),
)
PLAIN = Syntax("plain", partial(read_with, lambda body: (body, []), opening=""), "no calls")
PROBE_TOOL = ToolSpec(
    "probe_tool",
    "Looks something up.",
    {"type": "object", "properties": {"text": {"type": "string"}, "number": {"type": "integer"}, "list": {"type": "array"}}},
)
PROBE_CALL = ToolCall(PROBE_TOOL.name, {"text": "some words", "number": 5, "list": [1, "two"]}, "call_1")


def find_syntax(written: Callable[[ToolCall], str]) -> Syntax | None:
    """The syntax that a format writes calls in: `written` gives a turn that is this call alone."""
    text = written(PROBE_CALL)
    for syntax in SYNTAXES:
        calls = syntax.read(text, thinking=False).message.tool_calls
        if [(call.name, call.arguments) for call in calls] == [(PROBE_CALL.name, PROBE_CALL.arguments)]:
            return syntax
    return None
