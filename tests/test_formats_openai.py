"""Conversations in OpenAI's shape: what is read, and what is named where it cannot be."""

from __future__ import annotations

import contextlib
import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.errors import UserError
from rewards.task import Message, Role, ToolCall, ToolSpec
from rl.formats.openai import read_messages, read_tools
from tests.conversations import conversation, draws, tools

CALL = {"id": "c", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": [2.50]}'}}


def assistant(**fields: Any) -> dict[str, Any]:
    return {"role": "assistant", **fields}


def test_a_conversation_with_all_that_it_may_hold() -> None:
    read = read_messages(
        [
            {"role": "developer", "content": [{"type": "text", "text": "a"}, "b"]},
            {"role": "user", "content": "q", "name": "Tom"},
            assistant(content=None, reasoning="hm", tool_calls=[CALL, {"name": "now", "arguments": {}}], refusal=None),
            {"role": "tool", "content": "3", "tool_call_id": "c", "name": "add"},
            {"role": "tool", "content": None},
            assistant(content="3", reasoning_content="so", reasoning="so", tool_calls=None),
        ]
    )
    assert read == [
        Message(Role.SYSTEM, "a\n\nb"),
        Message(Role.USER, "q"),
        Message(Role.ASSISTANT, "", "hm", (ToolCall("add", {"a": 1, "b": [2.5]}, "c"), ToolCall("now", {}))),
        Message(Role.TOOL, "3", tool_call_id="c"),
        Message(Role.TOOL, ""),
        Message(Role.ASSISTANT, "3", "so"),
    ]


@pytest.mark.parametrize("text", ["", "5", "[1]", "null", "{a: 1}", '{"a": NaN}', '{"a": 1', "x" * 9999, "[" * 9999])
def test_arguments_that_are_no_object_are_one_text(text: str) -> None:
    [message] = read_messages([assistant(tool_calls=[{"function": {"name": "f", "arguments": text}}])])
    assert message.tool_calls == (ToolCall("f", {"arguments": text}),)


@given(draws)
def test_what_is_shown_to_templates_reads_back(draw: random.Random) -> None:
    messages, specs = conversation(draw), tools(draw)
    shown = [message.as_dict() for message in messages]
    for data in shown:
        for call in data.get("tool_calls", ()):
            if draw.random() < 0.5:
                call["function"]["arguments"] = json.dumps(call["function"]["arguments"])
    assert read_messages(shown) == messages
    unique = list({spec.name: spec for spec in specs}.values())
    assert read_tools([spec.as_dict() for spec in unique]) == unique


def test_tools_without_what_may_be_left_out() -> None:
    nothing = {"type": "object", "properties": {}}
    assert read_tools([{"name": "now"}, {"function": {"name": "x", "parameters": None}}]) == [
        ToolSpec("now", "", nothing),
        ToolSpec("x", "", nothing),
    ]


MISTAKES: dict[str, tuple[Any, str]] = {
    "no list": ({"role": "user"}, "messages: got {'role': 'user'}; allowed: a list"),
    "no mapping": (["hello"], "messages[0]: got 'hello'; allowed: a mapping"),
    "no role": ([{"content": "x"}], "messages[0].role: got nothing; allowed: system, user, assistant, tool, developer"),
    "role": ([{"role": "bot"}], "messages[0].role: got 'bot'; allowed: system, user"),
    "role that hashes not": ([{"role": []}], "messages[0].role: got []; allowed: system, user"),
    "field": (
        [assistant(tool_call=[])],
        "messages[0]: got the field 'tool_call'; did you mean 'tool_calls'?; allowed: role, con",
    ),
    "content": ([{"role": "user", "content": 5}], "messages[0].content: got 5; allowed: a text"),
    "no content": ([{"role": "user"}], "messages[0].content: got nothing; allowed: a text, or a list of texts"),
    "an image": ([{"role": "user", "content": [{"type": "image"}]}], "messages[0].content[0].type: got 'image'; allowed: text"),
    "no text": ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text: got nothing; allowed: a text"),
    "two reasonings": ([assistant(reasoning="a", reasoning_content="b")], "messages[0].reasoning: got 'a'; allowed: one of"),
    "a user's reasoning": ([{"role": "user", "content": "", "reasoning": "a"}], "it belongs to messages of the role assistant"),
    "a user's calls": ([{"role": "user", "content": "", "tool_calls": [CALL]}], "messages[0].tool_calls: got [{'id': 'c'"),
    "calls": ([assistant(tool_calls=CALL)], "messages[0].tool_calls: got {'id': 'c'"),
    "a call": ([assistant(tool_calls=["add"])], "messages[0].tool_calls[0]: got 'add'; allowed: a mapping"),
    "kind of call": (
        [assistant(tool_calls=[{**CALL, "type": "x"}])],
        "messages[0].tool_calls[0].type: got 'x'; allowed: function",
    ),
    "a call's name": (
        [assistant(tool_calls=[{"name": 'a"b', "arguments": {}}])],
        "tool_calls[0].name: got 'a\"b'; allowed: a name",
    ),
    "arguments": ([assistant(tool_calls=[{"name": "f", "arguments": [1]}])], "arguments: got [1]; allowed: a mapping, or JSON"),
    "no arguments": (
        [assistant(tool_calls=[{"function": {"name": "f"}}])],
        "tool_calls[0].function.arguments: got nothing; all",
    ),
    "argument's value": (
        [assistant(tool_calls=[{"name": "f", "arguments": {"a": {1}}}])],
        "allowed: JSON values (Object of type set",
    ),
    "argument's number": (
        [assistant(tool_calls=[{"name": "f", "arguments": {"a": float("nan")}}])],
        "allowed: JSON values (NaN is",
    ),
    "argument's name": ([assistant(tool_calls=[{"name": "f", "arguments": {1: 1}}])], "allowed: names that are texts"),
    "half a character": ([{"role": "user", "content": "a\ud800"}], "messages[0].content: got '\\ud800'; allowed: text without"),
    "a result of no call": (
        [assistant(tool_calls=[CALL]), {"role": "tool", "content": "", "tool_call_id": "d"}],
        "messages[1].tool_call_id: got 'd'; allowed: an id of the calls before it: c",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named_with_their_place(name: str) -> None:
    data, problem = MISTAKES[name]
    with pytest.raises(UserError) as error:
        read_messages(data)
    assert problem in str(error.value)
    assert len(str(error.value)) < 250


def test_mistakes_in_tools_are_named() -> None:
    for data, problem in (
        ([{"name": ""}], "tools[0].name: got ''; allowed: a name"),
        ([{"function": {"name": "a", "parameters": []}}], "tools[0].function.parameters: got []; allowed: a mapping"),
        ([{"name": "a"}, {"name": "a"}], "tools[1].name: got 'a'; allowed: a name that no tool before it has"),
    ):
        with pytest.raises(UserError) as error:
            read_tools(data)
        assert problem in str(error.value)


anything = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=4), st.floats()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["role", "content", "tool_calls", "function", "name", "arguments", "type", "text", "id", "x"]),
            st.one_of(inner, st.sampled_from(["user", "assistant", "tool", "text", "function"])),
            max_size=5,
        ),
    ),
    max_leaves=12,
)


@given(anything)
def test_any_data_is_read_or_a_named_mistake(data: Any) -> None:
    for read in (read_messages, read_tools):
        with contextlib.suppress(UserError):
            read(data)
