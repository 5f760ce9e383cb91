"""Calls in `<tool_call>` tags: written and read to the letter, strictly, never with an exception."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.task import Message, Role, ToolCall
from rl.formats.hermes import CLOSE, OPEN, WHOLE, read_turn, write_calls, write_turn
from rl.formats.protocol import CallErrorKind as Kind
from rl.formats.protocol import ReadTurn
from tests.conversations import call as a_call
from tests.conversations import draws, json_value, marked, name, plain

TWO = """<tool_call>
{"name": "get_weather", "arguments": {"location": "Paris", "days": 5}}
</tool_call>
<tool_call>
{"name": "now", "arguments": {}}
</tool_call>"""
CALLS = (ToolCall("get_weather", {"location": "Paris", "days": 5}), ToolCall("now", {}))


def tagged(inside: str) -> str:
    return f"{OPEN}\n{inside}\n{CLOSE}"


def add(arguments: str) -> str:
    return tagged(f'{{"name": "add", "arguments": {arguments}}}')


def read(text: str) -> ReadTurn:
    return read_turn(text, thinking=False)


def test_calls_exactly() -> None:
    assert write_calls(CALLS) == TWO
    assert read(TWO) == ReadTurn(Message(Role.ASSISTANT, "", None, CALLS))
    assert read(f"Let me see.\n{TWO}") == ReadTurn(Message(Role.ASSISTANT, "Let me see.", None, CALLS))
    thought = f"<think>\nhm\n</think>\n\nLet me see.\n{TWO}"
    assert read(thought) == ReadTurn(Message(Role.ASSISTANT, "\n\nLet me see.", "\nhm\n", CALLS))
    assert read_turn(thought.removeprefix("<think>"), thinking=True) == read(thought)
    assert read(f"<think>\n</think>\n\n{TWO}") == ReadTurn(Message(Role.ASSISTANT, "\n\n", "\n", CALLS))
    assert read("\n" + thought) == read(thought)  # a call in the thinking must not become one by a line break in front
    for text in ("", "5", "<think>a</think>b", "a <tools> b", "<tool", '{"name": "add", "arguments": {}}'):
        assert write_turn(read(text).message, thinking=False) == text
        assert read(text).error is None


ODD = {
    "no space": '{"name":"add","arguments":{"a":1}}',
    "keys in another order": '{"arguments": {"a": 1}, "name": "add"}',
    "numbers": '{"name": "add", "arguments": {"a": 5.00, "b": 1e3}}',
    "escapes": '{"name": "add", "arguments": {"a": "\\u00e9\\/"}}',
    "lines": '{\n  "name": "add",\n  "arguments": {\n    "a": 1\n  }\n}',
    "repeated keys within a value": '{"name": "add", "arguments": {"a": {"b": 1, "b": 2}}}',
}


@pytest.mark.parametrize("name", ODD)
def test_json_that_would_be_written_otherwise_is_kept_as_it_stood(name: str) -> None:
    for text in (tagged(ODD[name]), f"{OPEN}{ODD[name]}{CLOSE}", f"a\n{OPEN} {ODD[name]}\t{CLOSE}\n{TWO}"):
        turn = read(text)
        [called, *_] = turn.message.tool_calls
        assert {"name": called.name, "arguments": called.arguments} == json.loads(ODD[name])
        assert list(called.written) == [WHOLE]
        assert write_turn(turn.message, thinking=False) == text


def test_a_value_may_hold_the_closing_tag() -> None:
    text = write_calls([ToolCall("say", {"text": f"{CLOSE}\n{OPEN}"})])
    assert read(text).message.tool_calls[0].arguments == {"text": f"{CLOSE}\n{OPEN}"}


BROKEN = {
    "not closed": (TWO.removesuffix(CLOSE), Kind.UNCLOSED_CALL),
    "cut in the object": (TWO[:40], Kind.UNCLOSED_CALL),
    "cut behind the tag": ("<tool_call>\n", Kind.UNCLOSED_CALL),
    "opened instead of closed": (TWO.replace("</", "<"), Kind.UNCLOSED_CALL),
    "call in a call": (f"{OPEN}\n{TWO}\n{CLOSE}", Kind.NESTED_BLOCK),
    "a hundred thousand": (f"{OPEN}\n" * 100_000, Kind.NESTED_BLOCK),
    "a hundred thousand objects": (f'{OPEN}\n{{"' * 100_000, Kind.UNCLOSED_CALL),
    "closed alone": (f"done {CLOSE}", Kind.STRAY_TAG),
    "bars": ("<|tool_call|>{}", Kind.LOOKALIKE),
    "plural": (TWO.replace("tool_call", "tool_calls"), Kind.LOOKALIKE),
    "closing tag of another kind": (TWO.replace("</tool_call>", "</tool_calls>"), Kind.LOOKALIKE),
    "text before": (f"Let me see. {TWO}", Kind.NO_BLANK_LINE),
    "text between": (TWO.replace("</tool_call>\n<", "</tool_call>\nand\n<"), Kind.TEXT_BETWEEN_TAGS),
    "text behind the object": (TWO.replace("}}\n", "}} so\n"), Kind.TEXT_BETWEEN_TAGS),
    "text after": (TWO + "\n", Kind.TEXT_AFTER_CALLS),
    "empty": (tagged(""), Kind.BAD_JSON),
    "no object": (tagged("add(1, 2)"), Kind.BAD_JSON),
    "Python": (tagged("{'name': 'add', 'arguments': {}}"), Kind.BAD_JSON),
    "a bracket too few": (tagged('{"name": "add", "arguments": {"a": 1}'), Kind.BAD_JSON),
    "not a number": (add('{"a": NaN}'), Kind.BAD_JSON),
    "beyond integers": (add('{"a": ' + "9" * 5000 + "}"), Kind.BAD_JSON),
    "half of a character": (add('{"a": "\\udfff"}'), Kind.BAD_JSON),
    "deep": (add('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}"), Kind.BAD_JSON),
    "no arguments": (tagged('{"name": "add"}'), Kind.BAD_ARGUMENTS),
    "another key": (tagged('{"name": "add", "parameters": {}}'), Kind.BAD_ARGUMENTS),
    "a key too many": (tagged('{"name": "add", "arguments": {}, "id": 1}'), Kind.BAD_ARGUMENTS),
    "arguments are text": (add('"{}"'), Kind.BAD_ARGUMENTS),
    "empty name": (tagged('{"name": "", "arguments": {}}'), Kind.BAD_NAME),
    "name is no text": (tagged('{"name": 5, "arguments": {}}'), Kind.BAD_NAME),
    "twice": (add('{"a": 1, "a": 2}'), Kind.DUPLICATE_PARAMETER),
    "two names": (tagged('{"name": "add", "name": "sub", "arguments": {}}'), Kind.DUPLICATE_PARAMETER),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_not_exactly_a_call_is_an_error_of_its_kind(name: str) -> None:
    text, kind = BROKEN[name]
    for before in ("", "<think>hm</think>"):
        turn = read(before + text)
        assert turn.error is not None
        assert turn.error.kind is kind, turn.error.text
        assert (turn.message.tool_calls, turn.message.content) == ((), text)
        assert write_turn(turn.message, thinking=False) == before + text
        assert len(turn.error.text) < 500
        turn.error.text.encode()


def test_a_call_in_the_thinking_is_none() -> None:
    assert read(f"<think>{TWO}</think>5") == ReadTurn(Message(Role.ASSISTANT, "5", TWO))
    for text in (f"<think>{TWO}</think>\n\n", f"<think>{TWO}"):
        error = read(text).error
        assert error is not None
        assert error.kind is Kind.CALL_IN_THINKING
    error = read("<think>so").error
    assert error is not None
    assert error.kind is Kind.UNFINISHED_THINKING


@settings(max_examples=200)
@given(draws)
def test_round_trips(draw: random.Random) -> None:
    calls = tuple(a_call(draw) for _ in range(draw.randrange(4)))
    message = Message(Role.ASSISTANT, plain(draw), draw.choice((None, plain(draw))), calls)
    for thinking in {message.reasoning is not None, False}:
        assert read_turn(write_turn(message, thinking=thinking), thinking=thinking) == ReadTurn(message)
    spelled = [
        json.dumps({"name": name(draw), "arguments": {name(draw): json_value(draw)}}, indent=draw.choice((None, 1)))
        for _ in range(draw.randrange(1, 3))
    ]
    text = f"<think>{marked(draw).replace('</think', '')}</think>" + "\n".join(map(tagged, spelled))
    turn = read(text)
    assert turn.error is None, turn.error
    assert write_turn(turn.message, thinking=False) == text


@given(st.lists(st.one_of(st.sampled_from(TWO.split("\n")), st.text(max_size=8)), max_size=8).map("\n".join), st.booleans())
def test_any_text_reads_to_calls_or_an_error(text: str, thinking: bool) -> None:
    turn = read_turn(text, thinking=thinking)
    assert turn.error is None or not turn.message.tool_calls
    if turn.error is None:
        assert write_turn(turn.message, thinking=thinking) == text
