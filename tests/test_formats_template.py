"""Hub models' own chat templates: the conversations they write, what they do to reasoning, and which policies that allows."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
import trl
from hypothesis import given, settings
from transformers import PreTrainedTokenizerFast

from rewards.errors import UserError
from rewards.task import Effort, EffortLevel, Message, Role, ToolCall, ToolSpec
from rl.chat import ChatFormat
from rl.config import ChatConfig, ThinkingConfig
from rl.formats.check import check_prefix
from rl.formats.protocol import CallErrorKind, ThinkingMode
from rl.formats.syntax import PROBE_TOOL
from rl.formats.template import TemplateFormat
from rl.formats.v4 import V4Format
from rl.formats.wording import Wording
from rl.tokenizer import train_tokenizer
from tests.conftest import TEXTS
from tests.conversations import conversation, cut_at_answers, draws, tools
from tests.test_formats_v4 import SAVED, V4

TEMPLATES = Path(trl.__file__).parent / "chat_templates"  # as published with the models, and variants for training
SPECIAL = re.compile(r"<\|[^|<>\n' ]+\|>|<｜[^｜]+｜>|<(?:start|end)_of_turn>|</?s>")
WORDING = Wording("TOOLS {schemas}\n", "MAX\n\n", "EFFORT {effort}\n\n")
ADD = ToolSpec("add", "Adds.", {"type": "object", "properties": {"a": {"type": "integer"}}})
CALLED = Message(Role.ASSISTANT, "Adding.", "2 and 3", (ToolCall("add", {"a": 2}, "x"), ToolCall("add", {"a": 3}, "y")))
RESULTS = [Message(Role.TOOL, "three", tool_call_id="y"), Message(Role.TOOL, "two", tool_call_id="x")]
BACKEND = train_tokenizer(TEXTS, 512).backend_tokenizer.to_str()


def tokenizer_with(template: str) -> PreTrainedTokenizerFast:
    specials = sorted(set(SPECIAL.findall(template)))
    end = next((token for token in ("<|im_end|>", "<|eot_id|>", "<|end|>") if token in specials), "<|end_of_text|>")
    fast = PreTrainedTokenizerFast(
        tokenizer_object=type(SAVED.backend_tokenizer).from_str(BACKEND), eos_token=end, bos_token="<s>"
    )
    fast.add_special_tokens({"additional_special_tokens": specials})
    fast.chat_template = template
    return fast


def template(name: str) -> str:
    return (TEMPLATES / f"{name}.jinja").read_text()


def hub(name: str, thinking: ThinkingMode = ThinkingMode.INTERLEAVED) -> TemplateFormat:
    return TemplateFormat(tokenizer_with(template(name)), WORDING, thinking)


QWEN3, TRAINING = hub("qwen3"), hub("qwen3_training")


def user(text: str) -> Message:
    return Message(Role.USER, text)


# ---- conversations


def test_qwens_conversation_exactly() -> None:
    asked = [Message(Role.SYSTEM, "S"), user("2+3")]
    prompt = QWEN3.prompt(asked, [ADD], Effort.HIGH)
    assert prompt.startswith("<|im_start|>system\nS\n\n# Tools\n\n")
    assert '"name": "add"' in prompt
    assert prompt.endswith("<|im_start|>user\n2+3<|im_end|>\n<|im_start|>assistant\n")
    assert QWEN3.prompt(asked, [], Effort.NONE).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert QWEN3.turn(CALLED, Effort.HIGH) == (
        '<think>\n2 and 3\n</think>\n\nAdding.\n<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call>\n'
        '<tool_call>\n{"name": "add", "arguments": {"a": 3}}\n</tool_call><|im_end|>'
    )
    assert QWEN3.turn(Message(Role.ASSISTANT, "5"), Effort.NONE) == "5<|im_end|>"
    assert QWEN3.results(CALLED, RESULTS, Effort.HIGH) == (
        "\n<|im_start|>user\n<tool_response>\ntwo\n</tool_response>\n<tool_response>\nthree\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    read = QWEN3.read(QWEN3.turn(CALLED, Effort.HIGH).removesuffix(QWEN3.end), Effort.HIGH)
    assert read.error is None
    assert [(c.name, c.arguments) for c in read.message.tool_calls] == [("add", {"a": 2}), ("add", {"a": 3})]
    assert (read.message.reasoning, read.message.content) == ("\n2 and 3\n", "\n\nAdding.")


def test_the_result_of_a_call_that_could_not_be_read() -> None:
    broken = QWEN3.read("<think>\n\n</think>\n\n<tool_call>\n{", Effort.HIGH)
    assert broken.error is not None
    assert broken.error.kind is CallErrorKind.UNCLOSED_CALL
    text = QWEN3.results(broken.message, [Message(Role.TOOL, broken.error.text)], Effort.HIGH)
    assert text.startswith("\n<|im_start|>user\n<tool_response>\nThe tool call could not be read")


def test_the_words_of_an_effort_stand_before_the_systems_text() -> None:
    asked = [Message(Role.SYSTEM, "S"), user("2+3")]
    plain = QWEN3.prompt(asked, [], Effort.HIGH)
    efforts: list[tuple[EffortLevel, str]] = [(Effort.MAX, "MAX"), (40, "EFFORT 40")]
    for effort, words in efforts:
        assert QWEN3.prompt(asked, [], effort) == plain.replace("system\nS<", f"system\n{words}\n\nS<")
        alone = QWEN3.prompt(asked[1:], [], effort)
        assert alone.startswith(f"<|im_start|>system\n{words}<|im_end|>\n<|im_start|>user\n2+3")
    assert QWEN3.prompt(asked, [], Effort.NONE).startswith("<|im_start|>system\nS<|im_end|>")


def test_our_own_template_is_the_format_itself() -> None:
    ours = TemplateFormat(SAVED, V4.wording)
    assert (ours.end, ours.syntax and ours.syntax.name) == (V4.end, "dsml")
    asked = [Message(Role.SYSTEM, "S"), user("2+3"), CALLED, *RESULTS]
    assert ours.prompt(asked, [ADD], Effort.HIGH) == V4.prompt(asked, [ADD], Effort.HIGH)
    assert ours.turn(CALLED, Effort.HIGH) == V4.turn(CALLED, Effort.HIGH)
    assert ours.results(CALLED, RESULTS, Effort.HIGH) == V4.results(CALLED, RESULTS, Effort.HIGH)
    text = V4.turn(CALLED, Effort.HIGH).removesuffix(V4.end)
    assert ours.read(text, Effort.HIGH) == V4.read(text, Effort.HIGH)
    assert ours.read("5", Effort.NONE) == V4.read("5", Effort.NONE)


@settings(max_examples=60)
@given(draws)
def test_a_template_that_keeps_reasoning_only_grows(draw: random.Random) -> None:
    messages, specs, effort = conversation(draw), tools(draw), draw.choice([Effort.HIGH, Effort.MAX, 3])
    for before, said, after in cut_at_answers(messages):
        if not after or said.reasoning != (said.reasoning or "").strip():
            continue
        grown = TRAINING.prompt(before, specs, effort) + TRAINING.turn(said, effort) + TRAINING.results(said, after, effort)
        assert TRAINING.prompt([*before, said, *after], specs, effort) == grown
        assert TRAINING.keeps(after, effort, has_tools=True)


def test_when_text_before_stays() -> None:
    tool, per_turn = RESULTS[0], hub("qwen3", ThinkingMode.PER_TURN)
    assert QWEN3.keeps([tool, user("u")], Effort.HIGH, has_tools=True)
    assert not QWEN3.keeps([user("u")], Effort.HIGH, has_tools=False)
    assert per_turn.keeps([tool], Effort.HIGH, has_tools=True)
    assert not per_turn.keeps([tool, user("u")], Effort.HIGH, has_tools=True)
    assert per_turn.keeps([tool, user("u")], Effort.NONE, has_tools=True)


def test_reasoning_is_dropped_by_the_policy_where_the_template_keeps_it() -> None:
    said = Message(Role.ASSISTANT, "5", "hm")
    asked = [user("2+3"), said, user("3+4"), CALLED, RESULTS[0]]
    for mode, kept, dropped in ((ThinkingMode.INTERLEAVED, "hm", "none"), (ThinkingMode.PER_TURN, "2 and 3", "hm")):
        text = hub("qwen3_training", mode).prompt(asked, [ADD], Effort.HIGH)
        assert kept in text
        assert dropped not in text
    assert "hm" not in TRAINING.prompt(asked, [ADD], Effort.NONE)
    assert "hm" not in hub("qwen3_training", ThinkingMode.OFF).prompt(asked, [ADD], Effort.HIGH)


# ---- what a template cannot do is the user's error


def test_tools_need_a_template_that_shows_them_and_writes_calls_that_are_read() -> None:
    for name, problem in (("gemma3", "shows a model no tools"), ("glm4moe", "writes calls in a way that is not read")):
        format_ = hub(name)
        assert format_.prompt([user("2+3")], [], Effort.HIGH)
        with pytest.raises(UserError, match=rf"tools: the model's chat template {problem}; allowed: no tools, or one that"):
            format_.prompt([user("2+3")], [ADD], Effort.HIGH)


def test_what_cannot_be_written_is_named() -> None:
    with pytest.raises(UserError, match="does not show an answer's reasoning; allowed: answers without"):
        hub("qwen2_5").turn(CALLED, Effort.HIGH)
    with pytest.raises(UserError, match=r"refuses a conversation of the roles user, assistant: .*single tool-calls"):
        hub("llama3_1").turn(Message(Role.ASSISTANT, "", tool_calls=CALLED.tool_calls), Effort.HIGH)
    with pytest.raises(UserError, match=r"at effort none.*got '2 and 3'; allowed: no reasoning"):
        QWEN3.turn(CALLED, Effort.NONE)
    with pytest.raises(UserError, match="the last is the assistant's"):
        QWEN3.prompt([user("a"), CALLED], [], Effort.HIGH)
    endless = TemplateFormat(tokenizer_with("{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"))
    with pytest.raises(UserError, match="would never learn to stop"):
        endless.turn(Message(Role.ASSISTANT, "5"), Effort.HIGH)


NO_TOOLS = "shows a model no tools"
NOT_READ, NO_REASONING = "writes calls in a way that is not read", "does not show an answer's reasoning"
DROPPED, REWRITTEN = "drops the reasoning of an earlier turn", "writes an earlier turn otherwise than it was sampled"
ALWAYS_STRIPS = template("qwen3").replace("loop.last or (not loop.last and reasoning_content)", "loop.last")
# why not, under interleaved and per_turn at effort high, and under off; "" where it passes
TABLE = {
    "qwen3": (DROPPED, "", REWRITTEN),
    "qwen3_training": ("", "", ""),
    "qwen2_5": (NO_REASONING, NO_REASONING, ""),
    "qwen3_instruct_2507": (NO_REASONING, NO_REASONING, ""),
    "strips always": (DROPPED, DROPPED, REWRITTEN),
    "ours": ("", "", ""),
    "qwen3_5_think": (NOT_READ,) * 3,
    "deepseekv3": (NO_TOOLS,) * 3,
    "glm4moe": (NOT_READ,) * 3,
    "gptoss": (NOT_READ,) * 3,
    "llama3_1": (NOT_READ,) * 3,
    "phi3": (NO_TOOLS,) * 3,
}


@pytest.mark.parametrize("name", TABLE)
def test_which_templates_pass_under_which_policy(name: str) -> None:
    text = {"strips always": ALWAYS_STRIPS, "ours": str(SAVED.chat_template)}.get(name) or template(name)
    tokenizer = tokenizer_with(text)
    working = [mode.value for mode, why_not in zip(ThinkingMode, TABLE[name], strict=True) if not why_not]
    for mode, why_not in zip(ThinkingMode, TABLE[name], strict=True):
        if not why_not:
            check_prefix(lambda m: TemplateFormat(tokenizer, WORDING, m), mode, [Effort.HIGH])
            continue
        with pytest.raises(UserError) as error:
            check_prefix(lambda m: TemplateFormat(tokenizer, WORDING, m), mode, [Effort.HIGH])
        text = str(error.value)
        assert text.startswith(f"thinking.mode: got {mode} with a chat template that does not keep to it: ")
        assert why_not in text
        others = "".join(f"thinking.mode {other}, or " for other in working)
        assert text.endswith(f"\n allowed: {others}another chat template")


def test_the_spot_is_shown() -> None:
    with pytest.raises(UserError) as error:
        check_prefix(lambda mode: hub("qwen3", mode), ThinkingMode.INTERLEAVED, [Effort.NONE, Effort.HIGH])
    assert "at effort none it writes an earlier turn otherwise" in str(error.value)
    with pytest.raises(UserError) as error:
        check_prefix(lambda mode: hub("qwen3", mode), ThinkingMode.INTERLEAVED, [7])
    assert "at effort 7 it drops the reasoning of an earlier turn.\n sampled: '" in str(error.value)
    sampled, rendered = str(error.value).split("\n")[1:3]
    assert "assistant\\n<think>\\nThought 1: first" in sampled
    assert "assistant\\nLooking." in rendered


def test_a_chat_format_proves_its_own_tools() -> None:
    plain = ChatFormat(tokenizer_with(template("qwen3")), config=ChatConfig(format="template"))
    plain.check_keeps([Effort.HIGH])  # without tools no turn follows another in one context
    with pytest.raises(UserError, match=r"thinking\.mode: got interleaved with a chat template that does not keep to it"):
        plain.with_tools([PROBE_TOOL], ThinkingConfig()).check_keeps([Effort.HIGH])
    plain.with_tools([PROBE_TOOL], ThinkingConfig(mode="per_turn")).check_keeps([Effort.HIGH])


def test_our_format_passes_under_every_policy() -> None:
    for mode in ThinkingMode:
        check_prefix(lambda m: V4Format(WORDING, m), mode, [*Effort, 1, 100])


def test_a_template_that_thinks_at_effort_none() -> None:
    always = template("qwen3_training") + "{%- if add_generation_prompt %}{{ '<think>\n' }}{% endif %}"
    with pytest.raises(UserError, match="at effort none it opens the thinking all the same"):
        check_prefix(lambda mode: TemplateFormat(tokenizer_with(always), WORDING, mode), ThinkingMode.OFF, [Effort.NONE])
