"""DeepSeek-V4's conversations: to the letter, beside vLLM's encoder, and growing only."""

from __future__ import annotations

import importlib.util
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from jinja2 import TemplateError

from rewards.errors import UserError
from rewards.task import Effort, EffortLevel, Message, Role, ToolCall, ToolSpec
from rl.formats.protocol import ThinkingMode
from rl.formats.v4 import ASSISTANT, BOS, EOS, USER, V4Format
from rl.formats.v4_template import chat_template
from rl.formats.wording import DEFAULT, Wording, load_wording
from rl.tokenizer import fingerprint, load_tokenizer, train_tokenizer
from tests.conftest import NEEDS_VLLM, TEXTS
from tests.conversations import call, conversation, cut_at_answers, draws, plain, tools

V4 = V4Format(Wording("TOOLS {schemas} END\n", "MAX\n\n", "EFFORT {effort}\n\n"))
PARAMETERS = '{"type": "object", "properties": {"location": {"type": "string"}}}'
WEATHER = ToolSpec("get_weather", "Größe", json.loads(PARAMETERS))
SCHEMA = f'{{"name": "get_weather", "description": "Größe", "parameters": {PARAMETERS}}}'
SECTION = f"TOOLS {SCHEMA} END\n"


def system(text: str) -> Message:
    return Message(Role.SYSTEM, text)


def user(text: str) -> Message:
    return Message(Role.USER, text)


def answer(text: str, reasoning: str | None = None, *calls: ToolCall) -> Message:
    return Message(Role.ASSISTANT, text, reasoning, calls)


def result(text: str, call: str = "") -> Message:
    return Message(Role.TOOL, text, tool_call_id=call)


TWO_CALLS = (
    ToolCall("get_weather", {"location": "Paris\n<b>", "days": 5}, "a"),
    ToolCall("now", {}, "b"),
)
TWO_RESULTS = [result("noon", "b"), result("sun", "a")]
NOW = '\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name="now">\n\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>'
BLOCK = """\n\n<｜DSML｜tool_calls>
<｜DSML｜invoke name="get_weather">
<｜DSML｜parameter name="location" string="true">Paris
<b></｜DSML｜parameter>
<｜DSML｜parameter name="days" string="false">5</｜DSML｜parameter>
</｜DSML｜invoke>
<｜DSML｜invoke name="now">

</｜DSML｜invoke>
</｜DSML｜tool_calls>"""
# messages, whether there are tools, effort, the prompt
EXACT: dict[str, tuple[list[Message], bool, EffortLevel, str]] = {
    "one question": ([user("2+3")], False, Effort.HIGH, f"{BOS}{USER}2+3{ASSISTANT}<think>"),
    "a system's text": ([system("S"), user("q")], False, Effort.HIGH, f"{BOS}S{USER}q{ASSISTANT}<think>"),
    "none": ([system("S"), user("q")], False, Effort.NONE, f"{BOS}S{USER}q{ASSISTANT}</think>"),
    "max": ([system("S"), user("q")], False, Effort.MAX, f"{BOS}MAX\n\nS{USER}q{ASSISTANT}<think>"),
    "max without a system's text": ([user("q")], False, Effort.MAX, f"{BOS}MAX\n\n{USER}q{ASSISTANT}<think>"),
    "a number": ([system("S"), user("q")], False, 40, f"{BOS}EFFORT 40\n\nS{USER}q{ASSISTANT}<think>"),
    "nothing said": ([], False, Effort.HIGH, f"{BOS}{ASSISTANT}<think>"),
    "reasoning before the last question is dropped": (
        [user("a"), answer("b", "dropped"), user("c"), answer("d", "too"), user("e")],
        False,
        Effort.HIGH,
        f"{BOS}{USER}a{ASSISTANT}</think>b{EOS}{USER}c{ASSISTANT}</think>d{EOS}{USER}e{ASSISTANT}<think>",
    ),
    "reasoning is kept with tools": (
        [system("S"), user("a"), answer("b", "kept"), user("c"), answer("d"), user("e")],
        True,
        Effort.HIGH,
        f"{BOS}S\n\n{SECTION}{USER}a{ASSISTANT}<think>kept</think>b{EOS}{USER}c{ASSISTANT}<think></think>d{EOS}{USER}e{ASSISTANT}<think>",
    ),
    "no reasoning at none": (
        [user("a"), answer("b", "dropped"), user("c")],
        True,
        Effort.NONE,
        f"{BOS}{SECTION}{USER}a{ASSISTANT}</think>b{EOS}{USER}c{ASSISTANT}</think>",
    ),
    "max, tools and no system's text": ([user("q")], True, Effort.MAX, f"{BOS}MAX\n\n{SECTION}{USER}q{ASSISTANT}<think>"),
    "calls, results in their order, and what the user says": (
        [system("S"), user("q"), answer("Let me see.", "hm", *TWO_CALLS), *TWO_RESULTS, user("Well?")],
        True,
        Effort.HIGH,
        f"{BOS}S\n\n{SECTION}{USER}q{ASSISTANT}<think>hm</think>Let me see.{BLOCK}{EOS}"
        f"{USER}<tool_result>sun</tool_result>\n\n<tool_result>noon</tool_result>\n\nWell?{ASSISTANT}<think>",
    ),
    "calls without text": (
        [user("q"), answer("", "hm", *TWO_CALLS), result("sun"), result("noon")],
        True,
        Effort.HIGH,
        f"{BOS}{SECTION}{USER}q{ASSISTANT}<think>hm</think>{BLOCK}{EOS}"
        f"{USER}<tool_result>sun</tool_result>\n\n<tool_result>noon</tool_result>{ASSISTANT}<think>",
    ),
    "calls at none": (
        [user("q"), answer("", None, TWO_CALLS[1]), result("noon")],
        True,
        Effort.NONE,
        f"{BOS}{SECTION}{USER}q{ASSISTANT}</think>{NOW}{EOS}{USER}<tool_result>noon</tool_result>{ASSISTANT}</think>",
    ),
    "texts of the user are one turn": ([user("a"), user("b")], False, Effort.HIGH, f"{BOS}{USER}a\n\nb{ASSISTANT}<think>"),
    "results without tools count as a question": (
        [user("q"), answer("", "dropped", TWO_CALLS[1]), result("noon")],
        False,
        Effort.HIGH,
        f"{BOS}{USER}q{ASSISTANT}</think>{NOW}{EOS}{USER}<tool_result>noon</tool_result>{ASSISTANT}<think>",
    ),
    "a system's text within": (
        [user("a"), answer("b"), system("S"), user("c")],
        True,
        Effort.HIGH,
        f"{BOS}{SECTION}{USER}a{ASSISTANT}<think></think>b{EOS}S{USER}c{ASSISTANT}<think>",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EXACT)
def test_prompts_exactly(name: str) -> None:
    messages, has_tools, effort, expected = EXACT[name]
    assert V4.prompt(messages, [WEATHER] if has_tools else [], effort) == expected


def test_turns_and_results_exactly() -> None:
    called = answer("Let me see.", "hm", *TWO_CALLS)
    assert V4.turn(called, Effort.HIGH) == f"hm</think>Let me see.{BLOCK}{EOS}"
    assert V4.turn(answer("5"), Effort.NONE) == f"5{EOS}"
    assert V4.turn(answer("5"), 7) == f"</think>5{EOS}"
    joined = f"{USER}<tool_result>sun</tool_result>\n\n<tool_result>noon</tool_result>"
    assert V4.results(called, TWO_RESULTS, Effort.HIGH) == f"{joined}{ASSISTANT}<think>"
    assert V4.results(called, [*TWO_RESULTS, user("So?")], Effort.NONE) == f"{joined}\n\nSo?{ASSISTANT}</think>"
    assert V4.results(answer("<broken>"), [result("no call")], Effort.HIGH) == (
        f"{USER}<tool_result>no call</tool_result>{ASSISTANT}<think>"
    )


def test_reasoning_kept_for_the_turn_alone() -> None:
    per_turn = V4Format(V4.wording, ThinkingMode.PER_TURN)
    within = [user("a"), answer("", "kept", TWO_CALLS[1]), result("noon", "b")]
    assert per_turn.prompt(within, [WEATHER], Effort.HIGH) == V4.prompt(within, [WEATHER], Effort.HIGH)
    text = per_turn.prompt([*within, answer("Noon.", "too"), user("And?")], [WEATHER], Effort.HIGH)
    assert "kept" not in text
    assert f"{ASSISTANT}</think>Noon.{EOS}{USER}And?{ASSISTANT}<think>" in text
    off = V4Format(V4.wording, ThinkingMode.OFF)
    assert off.prompt(within, [WEATHER], Effort.MAX) == V4.prompt(within, [WEATHER], Effort.NONE)


def test_when_text_before_stays() -> None:
    per_turn, off = V4Format(thinking=ThinkingMode.PER_TURN), V4Format(thinking=ThinkingMode.OFF)
    for format_, after, has_tools, stays in (
        (V4, result("r"), True, True), (V4, user("u"), True, True),
        (V4, user("u"), False, False), (V4, result("r"), False, False),
        (per_turn, result("r"), True, True), (per_turn, user("u"), True, False), (off, user("u"), False, True),
    ):  # fmt: skip
        assert format_.keeps([after], Effort.HIGH, has_tools=has_tools) is stays
        assert format_.keeps([after], Effort.NONE, has_tools=has_tools)


def test_what_no_model_could_have_said_is_the_users_error() -> None:
    with pytest.raises(UserError, match=r"effort none, thinking.mode interleaved: got 'hm'; allowed: no reasoning, another"):
        V4.turn(answer("5", "hm"), Effort.NONE)
    with pytest.raises(UserError, match=r"calls: say.*reads back.*text_|calls: say.*cannot be written.*found 'b"):
        V4.turn(answer("", "", ToolCall("say", {"text": "a</｜DSML｜parameter>b"})), Effort.HIGH)
    with pytest.raises(UserError, match="NaN is no JSON"):
        V4.turn(answer("", "", ToolCall("say", {"x": float("nan")})), Effort.HIGH)
    with pytest.raises(UserError, match="the format's own marks: '5'"):
        V4.turn(answer("5", "a</think>b"), Effort.HIGH)
    with pytest.raises(UserError, match="the last is the assistant's"):
        V4.prompt([user("a"), answer("b")], [], Effort.HIGH)
    with pytest.raises(UserError, match="effort: got 0; allowed: none, high, max, or a number from 1 to 100"):
        V4.prompt([user("a")], [], 0)


# ---- properties


@settings(max_examples=200)
@given(draws)
def test_a_conversation_only_grows_where_reasoning_is_kept(draw: random.Random) -> None:
    effort, mode = draw.choice([*Effort, 1, 100]), draw.choice(list(ThinkingMode))
    thinks = effort is not Effort.NONE and mode is not ThinkingMode.OFF
    format_, tools_ = V4Format(V4.wording, mode), tools(draw)
    messages = conversation(draw, thinks=thinks, any_text=True)
    for before, said, after in cut_at_answers(messages):
        grown = format_.prompt(before, tools_, effort) + format_.turn(said, effort) + format_.results(said, after, effort)
        if format_.keeps(after, effort, has_tools=bool(tools_)):
            assert format_.prompt([*before, said, *after], tools_, effort) == grown
        read = format_.read(format_.turn(said, effort).removesuffix(EOS), effort)
        assert read.error is None or not (said.content.strip() or said.tool_calls)
        assert [(c.name, c.arguments) for c in read.message.tool_calls] == [(c.name, c.arguments) for c in said.tool_calls]


@pytest.fixture(scope="module")
def encoder() -> ModuleType:
    """vLLM's file alone, without the package around it, with our words."""
    spec = importlib.util.find_spec("vllm")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    path = Path(spec.submodule_search_locations[0]) / "tokenizers" / "deepseek_v4_encoding.py"
    file = importlib.util.spec_from_file_location("deepseek_v4_encoding", path)
    assert file is not None
    assert file.loader is not None
    module = importlib.util.module_from_spec(file)
    file.loader.exec_module(module)
    module.REASONING_EFFORT_PROMPTS = {"low": "", "max": V4.wording.max}
    module.render_tools = lambda specs: V4.wording.tools.replace("{schemas}", "\n".join(map(module.to_json, specs)))
    return module


def as_openai(message: Message) -> dict[str, Any]:
    data = message.as_dict()
    data["reasoning"] = data.pop("reasoning_content", None)
    for called in data.get("tool_calls", []):
        called["function"]["arguments"] = json.dumps(called["function"]["arguments"])
    return data


@NEEDS_VLLM
@settings(max_examples=250)
@given(draw=draws)
def test_vllms_encoder_writes_the_same(encoder: ModuleType, draw: random.Random) -> None:
    messages, specs, effort = conversation(draw), tools(draw), draw.choice(list(Effort))
    shown = [as_openai(message) for message in messages]
    has_system = messages[0].role is Role.SYSTEM
    if specs:
        shown = shown if has_system else [{"role": "system", "content": ""}, *shown]
        shown[0]["tools"] = [tool.as_dict() for tool in specs]
    mode = "chat" if effort is Effort.NONE else "thinking"
    text = encoder.encode_messages(shown, mode, reasoning_effort="max" if effort is Effort.MAX else None)
    if specs and not has_system:  # a system's message without text leaves vLLM's blank line at the start
        start = BOS + (V4.wording.max if effort is Effort.MAX else "")
        text = start + text.removeprefix(start).removeprefix("\n\n")
    assert V4.prompt(messages, specs, effort) == text


# ---- the chat template that is saved with our tokenizers

SAVED = train_tokenizer(TEXTS, 512)
SAVED.chat_template = chat_template(V4.wording)


def rendered(messages: Sequence[Message], specs: Sequence[ToolSpec], **settings: Any) -> str:
    shown, shown_specs = [message.as_dict() for message in messages], [spec.as_dict() for spec in specs] or None
    return str(SAVED.apply_chat_template(shown, tools=shown_specs, tokenize=False, **settings))


@settings(max_examples=80)
@given(draws)
def test_the_saved_template_writes_the_same(draw: random.Random) -> None:
    messages, specs = conversation(draw, any_text=True, in_order=True), tools(draw)
    for effort, names in (
        (Effort.HIGH, [{}, {"enable_thinking": True}, {"reasoning_effort": "high"}]),
        (
            Effort.NONE,
            [{"enable_thinking": False}, {"reasoning_effort": "none"}, {"enable_thinking": False, "reasoning_effort": "max"}],
        ),
        (Effort.MAX, [{"reasoning_effort": "max"}]),
        (7, [{"reasoning_effort": 7}]),
    ):
        expected = V4.prompt(messages, specs, effort)
        for named in names:
            assert rendered(messages, specs, add_generation_prompt=True, **named) == expected
    said = Message(Role.ASSISTANT, plain(draw), plain(draw), (call(draw),))
    assert rendered([*messages, said], specs) == V4.conversation([*messages, said], specs, Effort.HIGH)


def test_the_saved_template_knows_the_other_shapes_that_servers_hand_over() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "now", "arguments": {}}}
    data = [
        {"role": "developer", "content": "S"},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": None, "reasoning": "hm", "tool_calls": [call]},
        {"role": "tool", "content": "noon"},
    ]
    text = SAVED.apply_chat_template(data, tools=[WEATHER.as_dict()], tokenize=False)
    assert text == f"{BOS}S\n\n{SECTION}{USER}q{ASSISTANT}<think>hm</think>{NOW}{EOS}{USER}<tool_result>noon</tool_result>"
    call["function"] = {"name": "now", "arguments": "{}"}
    with pytest.raises(TemplateError, match="arguments as a mapping"):
        SAVED.apply_chat_template(data, tokenize=False)


def test_a_wording_in_the_template_is_text_whatever_it_holds(tmp_path: Path) -> None:
    odd = "{{ x }} {% if %} {# \\ \\n \"quoted\" @BOS@ 'a' 😀 "
    wording = Wording(f"{odd}{{schemas}}{odd}", odd, f"{{effort}}{odd}")
    tokenizer = train_tokenizer(TEXTS, 512, wording=wording)
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert fingerprint(loaded) == fingerprint(SAVED)
    text = loaded.apply_chat_template(
        [{"role": "user", "content": "q"}], tools=[WEATHER.as_dict()], tokenize=False, reasoning_effort=9
    )
    assert text == V4Format(wording).conversation([user("q")], [WEATHER], 9)


def test_a_wording_may_have_the_tools_names_alone() -> None:
    wording = Wording("Tools: {names}.\n", "MAX\n\n", "{effort}\n\n")
    tools = [WEATHER, replace(WEATHER, name="time")]
    text = train_tokenizer(TEXTS, 512, wording=wording).apply_chat_template(
        [{"role": "user", "content": "q"}], tools=[tool.as_dict() for tool in tools], tokenize=False
    )
    assert text == V4Format(wording).conversation([user("q")], tools, Effort.HIGH)
    assert text == f"{BOS}Tools: {WEATHER.name}, time.\n{USER}q"


# ---- wording


def test_the_shipped_wording_is_complete() -> None:
    wording = load_wording()
    section = wording.tool_section([WEATHER, WEATHER])
    assert f"\n{SCHEMA}\n{SCHEMA}\n" in section
    assert "{" not in section.replace(SCHEMA, "")
    assert wording.effort_text(Effort.HIGH) == wording.effort_text(Effort.NONE) == ""
    assert wording.effort_text(Effort.MAX).endswith(".\n\n")
    assert wording.effort_text(40) == "Effort: 40 of 100.\n\n"


MISTAKES = {
    "no file": (None, "cannot be read"),
    "no YAML": ("tools: [", "is no YAML"),
    "a list": ("- a", "got list; allowed: a mapping of tools, max, scalar"),
    "unknown key": ("tool: x", "got the key 'tool'; did you mean 'tools'?; allowed: tools, max, scalar"),
    "missing key": ("tools: '{schemas}'\nmax: x", "scalar: got no value; allowed: a text with {effort}"),
    "no text": ("tools: '{schemas}'\nmax: 5\nscalar: '{effort}'", "max: got 5; allowed: a text"),
    "no placeholder": ("tools: x\nmax: x\nscalar: '{effort}'", "tools: holds {schemas} or {names} 0 times; allowed: once"),
    "twice": ("tools: '{schemas}'\nmax: x\nscalar: '{effort}{effort}'", "scalar: holds {effort} 2 times; allowed: once"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_wording_that_cannot_be_used_is_named(name: str, tmp_path: Path) -> None:
    text, problem = MISTAKES[name]
    path = tmp_path / "wording.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError) as error:
        load_wording(path)
    assert f"wording {path}: " in str(error.value)
    assert problem in str(error.value)


def test_a_wording_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(DEFAULT.read_text().replace("of 100", "percent"))
    assert "Effort: 7 percent.\n\n" in V4Format(load_wording(path)).prompt([user("q")], [], 7)
