"""Conversations that hold anything a model, a user or a tool may write, for property tests of chat formats."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from rewards.task import Message, Role, ToolCall, ToolSpec
from rl.formats.dsml import CLOSE_PARAMETER, MARK, OPEN_BLOCK

MARKS = (
    MARK,
    OPEN_BLOCK,
    "<",
    "</",
    ">",
    '"',
    "\n",
    "\n\n",
    "<|DSML|invoke",
    "</think",
    "<tool_call>",
    "{",
    "}",
    "｜",
    "\x00",
    "\ud800",
    "é",
)
names = st.one_of(
    st.sampled_from(["add", "get_weather", "read.file", "x", "arguments", "name", "a b", "größe"]),
    st.text("abcXYZ_-.09 /'&|｜é", min_size=1, max_size=12),
)
texts = st.one_of(st.text(max_size=20), st.lists(st.sampled_from(MARKS), max_size=6).map("".join), st.just("a\n\nb"))
plain = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20), st.sampled_from(["", "ok", "a\n\nb", "0", " "])
)
numbers = st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False))
json_values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, plain),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(plain, inner, max_size=3)),
    max_leaves=8,
)
string_values = texts.filter(lambda text: CLOSE_PARAMETER not in text)


def calls(values: st.SearchStrategy[Any] = json_values) -> st.SearchStrategy[ToolCall]:
    return st.builds(ToolCall, names, st.dictionaries(names, values, max_size=4))


tools = st.lists(
    st.builds(
        ToolSpec,
        names,
        plain,
        st.dictionaries(names, st.fixed_dictionaries({"type": st.sampled_from(["string", "integer"])}), max_size=3).map(
            lambda properties: {"type": "object", "properties": properties, "required": list(properties)[:1]}
        ),
    ),
    max_size=3,
)


@st.composite
def conversations(draw: st.DrawFn, *, values: st.SearchStrategy[Any] = json_values, thinks: bool = True) -> list[Message]:
    """From the system's text, if any, to a user's or a tool's; every call has an id and a result, in any order."""
    messages = [Message(Role.SYSTEM, draw(plain))] if draw(st.booleans()) else []
    messages.append(Message(Role.USER, draw(plain)))
    for turn in range(draw(st.integers(0, 4))):
        reasoning = draw(st.one_of(st.none(), plain)) if thinks else None
        called = draw(st.lists(calls(values), max_size=3))
        called = [ToolCall(call.name, call.arguments, f"{turn}.{i}") for i, call in enumerate(called)]
        messages.append(Message(Role.ASSISTANT, draw(plain), reasoning, tuple(called)))
        messages += [Message(Role.TOOL, draw(plain), tool_call_id=call.id) for call in draw(st.permutations(called))]
        if not called or draw(st.booleans()):
            messages += [Message(Role.USER, draw(plain)) for _ in range(draw(st.integers(1, 2)))]
    return messages
