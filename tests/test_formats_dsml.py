"""Calls in the block of DeepSeek-V4: written to the letter, read strictly, never with an exception, in linear time."""

from __future__ import annotations

import json
import random
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.task import Message, Role, ToolCall
from rl.formats.dsml import BLANK_LINE, CLOSE_BLOCK, CLOSE_CALL, CLOSE_PARAMETER, OPEN_BLOCK, read_turn, write_calls, write_turn
from rl.formats.protocol import CallErrorKind as Kind
from rl.formats.protocol import ReadTurn
from tests.conversations import call as a_call
from tests.conversations import draws, json_value, marked, names, plain
from tests.conversations import name as a_name

WEATHER = """<｜DSML｜tool_calls>
<｜DSML｜invoke name="get_weather">
<｜DSML｜parameter name="location" string="true">New "York" <NY> & more\\n</｜DSML｜parameter>
<｜DSML｜parameter name="days" string="false">5</｜DSML｜parameter>
</｜DSML｜invoke>
<｜DSML｜invoke name="now">

</｜DSML｜invoke>
</｜DSML｜tool_calls>"""
WEATHER_CALLS = (ToolCall("get_weather", {"location": 'New "York" <NY> & more\\n', "days": 5}), ToolCall("now", {}))


def block(*inside: str) -> str:
    return "\n".join((BLANK_LINE + OPEN_BLOCK, *inside, CLOSE_BLOCK))


def call(*parameters: str, name: str = "f") -> str:
    return "\n".join((f'<｜DSML｜invoke name="{name}">', *parameters, CLOSE_CALL))


def parameter(value: str, *, name: str = "a", string: str = "true") -> str:
    return f'<｜DSML｜parameter name="{name}" string="{string}">{value}{CLOSE_PARAMETER}'


def read(text: str) -> ReadTurn:
    return read_turn(text, thinking=False)


def test_the_published_block_exactly() -> None:
    assert write_calls(WEATHER_CALLS) == WEATHER
    turn = read_turn(f"hm</think>Let me see.\n\n{WEATHER}", thinking=True)
    assert turn == ReadTurn(Message(Role.ASSISTANT, "Let me see.", "hm", WEATHER_CALLS))
    assert write_turn(turn.message, thinking=True) == f"hm</think>Let me see.\n\n{WEATHER}"
    assert read(f"\n\n{WEATHER}").message == Message(Role.ASSISTANT, "", None, WEATHER_CALLS)


@pytest.mark.parametrize(
    "text",
    ["", "5", "\n\n5 \n", "<tool_calls>", "a < b > c", "｜", "<｜User｜>", "x</think>y", "<think>hm</think>5", "<|D|tool"],
)
def test_text_without_a_block_is_the_answer_as_it_stands(text: str) -> None:
    assert read(text) == ReadTurn(Message(Role.ASSISTANT, text))
    assert read_turn(f"hm</think>{text}", thinking=True) == ReadTurn(Message(Role.ASSISTANT, text, "hm"))
    assert write_turn(Message(Role.ASSISTANT, text, "hm"), thinking=True) == f"hm</think>{text}"


BROKEN = {
    "block not closed": (block(call(parameter("x"))).removesuffix(CLOSE_BLOCK), Kind.UNCLOSED_BLOCK),
    "cut in the opening tag": ("\n\n<｜DSML｜tool_c", Kind.UNCLOSED_BLOCK),
    "cut in a closing tag": (block(call(parameter("x")))[:-3], Kind.UNCLOSED_BLOCK),
    "invoke not closed": (block(call(parameter("x")).removesuffix("\n" + CLOSE_CALL)), Kind.UNCLOSED_CALL),
    "invoke in invoke": (block(call(parameter("x"), call(parameter("y")))), Kind.UNCLOSED_CALL),
    "empty invoke cut": (block(call("")).removesuffix("invoke>\n" + CLOSE_BLOCK), Kind.UNCLOSED_CALL),
    "parameter not closed": (block(call(parameter("x").removesuffix(CLOSE_PARAMETER))), Kind.UNCLOSED_PARAMETER),
    "parameter swallows the next": (
        block(call(parameter("x").removesuffix(CLOSE_PARAMETER), parameter("y", name="b"))),
        Kind.UNCLOSED_PARAMETER,
    ),
    "value with the closing tag": (block(call(parameter(f"a{CLOSE_PARAMETER}b"))), Kind.TEXT_BETWEEN_TAGS),
    "text in the block": (block("Now:", call(parameter("x"))), Kind.TEXT_BETWEEN_TAGS),
    "text in the invoke": (block(call("Now:", parameter("x"))), Kind.TEXT_BETWEEN_TAGS),
    "tags on one line": (block(call(parameter("x"))).replace("\n<｜DSML｜param", "<｜DSML｜param"), Kind.TEXT_BETWEEN_TAGS),
    "indented": (block("  " + call(parameter("x"))), Kind.TEXT_BETWEEN_TAGS),
    "text after": (block(call(parameter("x"))) + "\n", Kind.TEXT_AFTER_CALLS),
    "no blank line": ("Let me see.\n" + block(call(parameter("x"))).lstrip(), Kind.NO_BLANK_LINE),
    "nothing before the block": (block(call(parameter("x"))).lstrip(), Kind.NO_BLANK_LINE),
    "no empty line in an empty call": (block(call()), Kind.NO_BLANK_LINE),
    "no string attribute": (block(call(parameter("x").replace(' string="true"', ""))), Kind.BAD_STRING_ATTRIBUTE),
    "another string attribute": (block(call(parameter("x", string="yes"))), Kind.BAD_STRING_ATTRIBUTE),
    "a further attribute": (block(call(parameter("x", string='true" x="1'))), Kind.BAD_STRING_ATTRIBUTE),
    "no name": (block(call(parameter("x").replace(' name="a"', ""))), Kind.BAD_TAG),
    "empty name": (block(call(parameter("x", name=""))), Kind.BAD_NAME),
    "empty tool name": (block(call(parameter("x"), name="")), Kind.BAD_NAME),
    "name over two lines": (block(call(parameter("x", name="a\nb"))), Kind.BAD_NAME),
    "duplicate": (block(call(parameter("x"), parameter("5", string="false"))), Kind.DUPLICATE_PARAMETER),
    "no JSON": (block(call(parameter("{'a': 1}", string="false"))), Kind.BAD_JSON),
    "empty JSON": (block(call(parameter("", string="false"))), Kind.BAD_JSON),
    "not a number": (block(call(parameter("NaN", string="false"))), Kind.BAD_JSON),
    "infinity": (block(call(parameter('{"a": -Infinity}', string="false"))), Kind.BAD_JSON),
    "beyond floats": (block(call(parameter("1e999", string="false"))), Kind.BAD_JSON),
    "beyond integers": (block(call(parameter("9" * 5000, string="false"))), Kind.BAD_JSON),
    "half of a character": (block(call(parameter('["a\\ud800"]', string="false"))), Kind.BAD_JSON),
    "long names": (block(call(parameter("x", name="a" * 10**5, string="false"), name="b" * 10**5)), Kind.BAD_JSON),
    "long escapes": (block(call(parameter("x", name="\u2028" * 99, string="false"), name="\u2028" * 99)), Kind.BAD_JSON),
    "deep": (block(call(parameter("[" * 100_000 + "]" * 100_000, string="false"))), Kind.BAD_JSON),
    "deep and open": (block(call(parameter('{"a":' * 100_000, string="false"))), Kind.BAD_JSON),
    "no call": (block(), Kind.EMPTY_BLOCK),
    "block in a block": (block(block(call(parameter("x"))).lstrip()), Kind.NESTED_BLOCK),
    "block in a value": (block(call(parameter(block(call(parameter("x")))))), Kind.NESTED_BLOCK),
    "a hundred thousand": (BLANK_LINE + f"{OPEN_BLOCK}\n" * 100_000, Kind.NESTED_BLOCK),
    "second block": (block(call(parameter("x"))) + block(call(parameter("y"))), Kind.SECOND_BLOCK),
    "call without a block": (call(parameter("x")), Kind.STRAY_TAG),
    "end of a block": (f"done {CLOSE_BLOCK}", Kind.STRAY_TAG),
    "another tag": ("\n\n<｜DSML｜function_calls>", Kind.BAD_TAG),
    "another tag inside": (block(call(parameter("x")).replace("parameter", "argument")), Kind.BAD_TAG),
    "the mark alone": ("so ｜DSML｜ it is", Kind.BAD_TAG),
    "ASCII bars": (block(call(parameter("x"))).replace("｜", "|"), Kind.LOOKALIKE),
    "drawn bars": (block(call(parameter("x"))).replace("｜", "│"), Kind.LOOKALIKE),
    "no bars": (block(call(parameter("x"))).replace("｜", ""), Kind.LOOKALIKE),
    "small letters": (block(call(parameter("x"))).replace("DSML", "dsml"), Kind.LOOKALIKE),
    "bars within the block": (block(call(parameter("x")).replace("｜", "|")), Kind.LOOKALIKE),
    "bars of a closing tag": (block(call(parameter("x").replace("</｜DSML｜", "</|DSML|"))), Kind.LOOKALIKE),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_not_exactly_a_block_is_an_error_of_its_kind(name: str) -> None:
    text, kind = BROKEN[name]
    for before in ("", "thought</think>"):
        turn = read_turn(before + text, thinking=bool(before))
        assert turn.error is not None
        assert turn.error.kind is kind, turn.error.text
        assert not turn.message.tool_calls
        assert turn.message.content == text  # nothing is lost
        assert write_turn(turn.message, thinking=bool(before)) == before + text
        assert turn.error.text.endswith(".")
        assert len(turn.error.text) < 500, turn.error.text
        turn.error.text.encode()  # tokenizers take it


def test_errors_say_what_was_found_and_what_is_allowed() -> None:
    error = read(block(call(parameter("5 apples", name="n", string="false"), name="add"))).error
    assert error is not None
    assert error.text == (
        "The tool call could not be read and nothing was run: the parameter 'n' of 'add' says string=\"false\" and is no JSON: "
        "Extra data at character 3, found 'apples'. Allowed: a JSON value, or any text with string=\"true\"."
    )


def test_a_block_in_the_thinking_is_no_call() -> None:
    text = f"I could write{block(call(parameter('x')))} then"
    assert read_turn(f"{text}</think>Done.", thinking=True) == ReadTurn(Message(Role.ASSISTANT, "Done.", text))
    called = read_turn(f"{text}</think>\n\n{WEATHER}", thinking=True)
    assert called == ReadTurn(Message(Role.ASSISTANT, "", text, WEATHER_CALLS))
    for nothing in (f"{text}</think>", f"{text}</think>\n ", text):
        turn = read_turn(nothing, thinking=True)
        assert turn.error is not None
        assert turn.error.kind is Kind.CALL_IN_THINKING
        assert (turn.message.reasoning, turn.message.tool_calls) == (text, ())
    unfinished = read_turn("so 5 and 6", thinking=True)
    assert unfinished.error is not None
    assert unfinished.error.kind is Kind.UNFINISHED_THINKING
    assert unfinished.message == Message(Role.ASSISTANT, "", "so 5 and 6")


SPELLED = ["5.00", "1e3", "-0", '{"a":1}', '{"a": 1, "a": 2}', " [1,\n 2] ", '"\\ud83d\\ude00"', '"text"', '""']
STRINGS = {
    "long": "x" * 10**6,
    "begun tags": "\n<｜DSML｜param" * 10**5,
    "begun marks": "<｜" * 10**6,
    "NUL": "\x00",
    "surrogate": "\ud800",
    "a tag": "</｜DSML｜invoke>",
}


@pytest.mark.parametrize("value", SPELLED)
def test_json_that_would_be_written_otherwise_is_kept_as_it_stood(value: str) -> None:
    text = block(call(parameter(value, string="false")))
    turn = read(text)
    [got] = turn.message.tool_calls
    assert got.arguments["a"] == json.loads(value)
    assert got.written == {"a": value}
    assert write_turn(turn.message, thinking=False) == text


def test_long_json_is_read() -> None:
    values = {"a": "9" * 4000, "b": '"' + "x" * 10**6 + '"', "c": "[" + ", ".join("0" * 10**5) + "]"}
    text = block(call(*(parameter(value, name=name, string="false") for name, value in values.items())))
    turn = read(text)
    assert [c.arguments for c in turn.message.tool_calls] == [{name: json.loads(value) for name, value in values.items()}]
    assert write_turn(turn.message, thinking=False) == text


@pytest.mark.parametrize("name", STRINGS)
def test_a_string_is_any_text(name: str) -> None:
    text = block(call(parameter(STRINGS[name])))
    turn = read(text)
    assert [c.arguments for c in turn.message.tool_calls] == [{"a": STRINGS[name]}]
    assert write_turn(turn.message, thinking=False) == text


def test_reading_hangs_on_no_depth_of_the_stack() -> None:
    """Whoever reads near the end of Python's stack gets the same values."""
    text = block(call(parameter("[" * 90 + "]" * 90, string="false")))

    def deep(levels: int) -> ReadTurn:
        return deep(levels - 1) if levels else read(text)

    assert deep(sys.getrecursionlimit() // 2) == read(text)


@settings(max_examples=200)
@given(draws)
def test_what_is_written_reads_back(draw: random.Random) -> None:
    calls = tuple(a_call(draw, any_text=True) for _ in range(draw.randrange(4)))
    message = Message(Role.ASSISTANT, plain(draw), draw.choice((None, plain(draw))), calls)
    thinking = message.reasoning is not None
    turn = read_turn(write_turn(message, thinking=thinking), thinking=thinking)
    assert turn == ReadTurn(message)


def well_formed(draw: random.Random) -> str:
    """Blocks put together from the grammar, with JSON in every spelling, and not by the writer."""

    def spelled() -> str:
        if draw.random() < 0.3:
            return draw.choice(SPELLED)
        gap = draw.choice((":", ": ", " : "))
        return json.dumps(
            json_value(draw), indent=draw.choice((None, 0, 2)), ensure_ascii=draw.random() < 0.5, separators=(",", gap)
        )

    called = []
    for _ in range(draw.randrange(1, 4)):
        made = [
            parameter(marked(draw), name=key) if draw.random() < 0.4 else parameter(spelled(), name=key, string="false")
            for key in names(draw, 3)
        ]
        called.append(call(*made or [""], name=a_name(draw)))
    return plain(draw) + block(*called)


@settings(max_examples=200)
@given(draws)
def test_writing_what_was_read_gives_the_same_text(draw: random.Random) -> None:
    text, thought = well_formed(draw), marked(draw).replace("</think", "")
    turn = read(text)
    assert turn.error is None, turn.error
    assert write_turn(turn.message, thinking=False) == text
    thinking = read_turn(f"{thought}</think>{text}", thinking=True)
    assert thinking.message.tool_calls == turn.message.tool_calls
    assert write_turn(thinking.message, thinking=True) == f"{thought}</think>{text}"


@given(
    st.lists(st.one_of(st.sampled_from(WEATHER.split("\n")), st.text(max_size=8)), max_size=12).map("\n".join), st.booleans()
)
def test_any_text_reads_to_calls_or_an_error(text: str, thinking: bool) -> None:
    turn = read_turn(BLANK_LINE + text, thinking=thinking)
    assert turn.error is None or not turn.message.tool_calls
    if turn.error is None:
        assert write_turn(turn.message, thinking=thinking) == BLANK_LINE + text
