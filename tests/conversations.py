"""Conversations that hold anything a model, a user or a tool may write, drawn at random; for properties of chat formats."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st

from rewards.task import Message, Role, ToolCall, ToolSpec
from rl.formats.dsml import CLOSE_CALL, CLOSE_PARAMETER, MARK, OPEN_BLOCK

draws = st.integers(0, 2**64).map(random.Random)  # cheap: hypothesis draws the seed alone
NAMES = (
    "add",
    "get_weather",
    "read.file",
    "x",
    "arguments",
    "name",
    "a b",
    "größe",
    "n/2",
    "天气",
    "'q'",
    "&amp;",
    "｜",
    "-",
    "0",
)
PLAIN = (
    "",
    "ok",
    "a\n\nb",
    "0",
    " ",
    "\n",
    "5.0",
    "\\n",
    '"',
    "{}",
    "null",
    "true",
    "[1]",
    "é",
    "天",
    "😀",
    "<b>",
    "\t",
    "'",
    "\x7f",
)
MARKS = (
    MARK,
    OPEN_BLOCK,
    "<",
    "</",
    ">",
    "\n\n",
    "<|DSML|invoke",
    "</think",
    "<tool_call>",
    "</tool_call>",
    "}",
    "\x00",
    "\ud800",
)
NUMBERS = (0, 1, -1, 2**53, 10**25, -(10**400), 0.5, -0.0, 1e22, 1e-7, 5e-324, 1.7976931348623157e308, 0.1 + 0.2)


def plain(draw: random.Random) -> str:
    """Text without marks of a format."""
    if draw.random() < 0.3:
        return "".join(
            chr(draw.choice((draw.randrange(32, 127), draw.randrange(0xA1, 0xD800)))) for _ in range(draw.randrange(12))
        )
    return "".join(draw.choice(PLAIN) for _ in range(draw.randrange(4)))


def marked(draw: random.Random) -> str:
    """Text with marks of formats, but none that ends a string parameter."""
    text = "".join(draw.choice((draw.choice(MARKS), plain(draw))) for _ in range(draw.randrange(5)))
    ends = (CLOSE_PARAMETER, f"\n{CLOSE_CALL}", "\n<｜DSML｜parameter ")
    return "" if any(end in text for end in ends) else text


def name(draw: random.Random) -> str:
    return draw.choice(NAMES) + (draw.choice(NAMES) if draw.random() < 0.3 else "")


def names(draw: random.Random, most: int) -> list[str]:
    return list(dict.fromkeys(name(draw) for _ in range(draw.randrange(most + 1))))


def json_value(draw: random.Random, depth: int = 0) -> Any:
    kind = draw.randrange(9 if depth < 3 else 6)
    if kind == 0:
        return draw.choice((None, True, False))
    if kind < 4:
        return draw.choice((*NUMBERS, draw.randrange(100), draw.random()))
    if kind < 6:
        return plain(draw)
    if kind == 6:
        return [json_value(draw, depth + 1) for _ in range(draw.randrange(4))]
    return {plain(draw): json_value(draw, depth + 1) for _ in range(draw.randrange(4))}


def call(draw: random.Random, *, any_text: bool = False) -> ToolCall:
    """`any_text`: string arguments may hold marks of formats."""
    return ToolCall(
        name(draw), {key: marked(draw) if any_text and draw.random() < 0.5 else json_value(draw) for key in names(draw, 4)}
    )


def tool(draw: random.Random) -> ToolSpec:
    properties = {key: {"type": draw.choice(("string", "integer")), "description": plain(draw)} for key in names(draw, 3)}
    return ToolSpec(name(draw), plain(draw), {"type": "object", "properties": properties, "required": list(properties)[:1]})


def tools(draw: random.Random) -> list[ToolSpec]:
    return [tool(draw) for _ in range(draw.randrange(3))]


def conversation(draw: random.Random, *, thinks: bool = True, any_text: bool = False, in_order: bool = False) -> list[Message]:
    """From the system's text, if any, to a user's or a tool's; every call has an id and a result, in any order or in its."""
    messages = [Message(Role.SYSTEM, plain(draw))] if draw.random() < 0.5 else []
    messages.append(Message(Role.USER, plain(draw)))
    for turn in range(draw.randrange(5)):
        reasoning = plain(draw) if thinks and draw.random() < 0.7 else None
        called = [call(draw, any_text=any_text) for _ in range(draw.choice((0, 0, 1, 1, 2, 3)))]
        called = [ToolCall(c.name, c.arguments, f"{turn}.{i}") for i, c in enumerate(called)]
        messages.append(Message(Role.ASSISTANT, plain(draw), reasoning, tuple(called)))
        messages += [
            Message(Role.TOOL, plain(draw), tool_call_id=c.id)
            for c in (called if in_order else draw.sample(called, len(called)))
        ]
        if not called or draw.random() < 0.3:
            messages += [Message(Role.USER, plain(draw)) for _ in range(draw.choice((1, 1, 2)))]
    return messages


def cut_at_answers(messages: Sequence[Message]) -> list[tuple[list[Message], Message, list[Message]]]:
    """Each answer with what came before it, and what came until the next one."""
    places = [i for i, message in enumerate(messages) if message.role is Role.ASSISTANT]
    return [(list(messages[:i]), messages[i], list(messages[i + 1 : end])) for i, end in pairwise([*places, len(messages)])]
