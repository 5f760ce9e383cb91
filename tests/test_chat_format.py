"""The border between messages and ids: prompts, demonstrations and their loss, special tokens in text, completions."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from transformers import AddedToken, PreTrainedTokenizerFast

from rewards.errors import UserError
from rewards.task import Demonstration, Effort, Message, Role, Task
from rewards.transcript import END_THINK, THINK, parse_completion
from rl.chat import STAND_IN, ChatFormat
from rl.formats.wording import load_wording
from rl.tokenizer import ASSISTANT, BOS, EOS, TOOLS, USER, train_tokenizer
from tests.conftest import TEXTS

SPECIALS = [BOS, EOS, USER, ASSISTANT, THINK, END_THINK, TOOLS]
OURS = ChatFormat(train_tokenizer(TEXTS, 512))

CHATML = (
    "{%- for m in messages -%}{{- '<|im_start|>' + m.role + '\n' -}}"
    "{%- if m.reasoning_content is defined and m.reasoning_content -%}"
    "{{- '<think>\n' + m.reasoning_content.strip('\n') + '\n</think>\n\n' -}}{%- endif -%}"
    "{{- m.content | trim + '<|im_end|>\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)
LLAMA3 = (
    "{{- '<|begin_of_text|>' -}}{%- for m in messages -%}"
    "{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' -}}{%- endif -%}"
)
GEMMA = (
    "{{- '<bos>' -}}{%- for m in messages -%}{%- set role = 'model' if m.role == 'assistant' else m.role -%}"
    "{{- '<start_of_turn>' + role + '\n' + m.content | trim + '<end_of_turn>\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<start_of_turn>model\n' -}}{%- endif -%}"
)


def hub_like(template: str, specials: list[str], eos: str, *, thinking: bool = False) -> ChatFormat:
    """A tokenizer in the style of a hub model: its specials, its template, `<think>` an added token that is not special."""
    base = train_tokenizer(TEXTS, 512)
    fast = PreTrainedTokenizerFast(tokenizer_object=base.backend_tokenizer, eos_token=eos, pad_token=eos)
    fast.add_special_tokens({"additional_special_tokens": specials})
    if thinking:
        fast.add_tokens([AddedToken("<tool_call>", special=False), AddedToken("</tool_call>", special=False)])
    fast.chat_template = template
    return ChatFormat(fast)


CHATS = {
    "ours": OURS,
    "chatml": hub_like(CHATML, ["<|im_start|>", "<|im_end|>"], "<|im_end|>", thinking=True),
    "llama3": hub_like(LLAMA3, ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"], "<|eot_id|>"),
    "gemma": hub_like(GEMMA, ["<bos>", "<start_of_turn>", "<end_of_turn>"], "<end_of_turn>"),
}
TYPED = {"ours": USER, "chatml": "<|im_start|>", "llama3": "<|eot_id|>", "gemma": "<start_of_turn>"}
everywhere = pytest.mark.parametrize("name", CHATS)
plain_text = st.text(st.characters(exclude_categories=["Cs"], max_codepoint=0xFFFF), max_size=40)


def user(text: str) -> Message:
    return Message(Role.USER, text)


def demonstration(
    content: str, reasoning: str | None = None, *, effort: Effort = Effort.HIGH, question: str = "2+3"
) -> Demonstration:
    task = Task("t", "math", (Message(Role.SYSTEM, "Be brief."), user(question)), effort=effort)
    return Demonstration(task, Message(Role.ASSISTANT, content, reasoning))


def test_the_published_format_exactly() -> None:
    messages = [
        Message(Role.SYSTEM, "S"),
        user("a"),
        Message(Role.ASSISTANT, "b", "dropped"),
        user("c"),
    ]
    text = OURS.tokenizer.decode(OURS.prompt_ids(messages))
    assert text == f"{BOS}S{USER}a{ASSISTANT}{END_THINK}b{EOS}{USER}c{ASSISTANT}{THINK}"
    text = OURS.tokenizer.decode(OURS.prompt_ids(messages, Effort.NONE))
    assert text.endswith(f"{USER}c{ASSISTANT}{END_THINK}")
    most = OURS.tokenizer.decode(OURS.prompt_ids(messages, Effort.MAX))
    assert most.startswith(f"{BOS}{load_wording().max}S{USER}a")
    shown = OURS.demonstration(demonstration("5", "2+3=5"))
    assert OURS.tokenizer.decode(shown.token_ids) == f"{BOS}Be brief.{USER}2+3{ASSISTANT}{THINK}2+3=5{END_THINK}5{EOS}"


@everywhere
def test_a_demonstration_continues_the_prompt_and_has_loss_on_the_answer_alone(name: str) -> None:
    chat = CHATS[name]
    reasoning = "2+3=5" if name == "ours" else None
    shown = chat.demonstration(demonstration("5", reasoning))
    prompt = chat.prompt_ids(demonstration("5").task.messages)
    assert shown.token_ids[: len(prompt)] == prompt
    assert shown.loss_mask == [0] * len(prompt) + [1] * (len(shown.token_ids) - len(prompt))
    answer = chat.tokenizer.decode(shown.token_ids[len(prompt) :])
    assert answer == (f"2+3=5{END_THINK}5" if name == "ours" else "5") + chat.tokenizer.eos_token
    assert shown.token_ids[-1] in chat.stop_ids  # nothing that the model never samples comes after the end of the turn


def test_effort_none_opens_closed_and_needs_no_reasoning() -> None:
    shown = OURS.demonstration(demonstration("5", effort=Effort.NONE))
    assert OURS.tokenizer.decode(shown.token_ids).endswith(f"{ASSISTANT}{END_THINK}5{EOS}")
    assert sum(shown.loss_mask) == 2
    with pytest.raises(UserError, match="task t: an answer with a reasoning at effort none"):
        OURS.demonstration(demonstration("5", "2+3=5", effort=Effort.NONE))
    with pytest.raises(UserError, match="Give the demonstration a reasoning"):
        OURS.demonstration(demonstration("5"))


def test_the_token_behind_an_answer_ends_a_turn_though_the_folder_names_another() -> None:
    """As with base models, whose end-of-sequence token is the end of a text."""
    chat = hub_like(CHATML, ["<|im_start|>", "<|im_end|>", "<|endoftext|>"], "<|endoftext|>")
    assert chat.stop_ids == set(chat.tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"]))
    assert chat.tokenizer.decode(chat.demonstration(demonstration("5")).token_ids[-1:]) == "<|im_end|>"


def test_a_template_whose_end_of_turn_never_stops_is_the_users_error() -> None:
    plain = "{%- for m in messages -%}{{- m.role + ': ' + m.content + '\n' -}}{%- endfor -%}"
    chat = hub_like(plain + "{%- if add_generation_prompt -%}{{- 'assistant: ' -}}{%- endif -%}", [], "<|endoftext|>")
    with pytest.raises(UserError, match="never learn to stop"):
        chat.demonstration(demonstration("5"))


def test_a_conversation_that_the_template_refuses_is_the_users_error() -> None:
    picky = "{%- if messages[0].role == 'system' -%}{{- raise_exception('no system role here') -}}{%- endif -%}" + GEMMA
    chat = hub_like(picky, ["<bos>", "<start_of_turn>", "<end_of_turn>"], "<end_of_turn>")
    assert chat.prompt_ids([user("5")])
    with pytest.raises(UserError, match="refuses a conversation of the roles system, user: no system role here"):
        chat.prompt_ids([Message(Role.SYSTEM, "s"), user("5")])


# ---- special tokens in text


def special_ids(chat: ChatFormat) -> set[int]:
    return {i for i, token in chat.tokenizer.added_tokens_decoder.items() if token.special}


@everywhere
@pytest.mark.parametrize("role", [Role.USER, Role.SYSTEM, Role.TOOL])
def test_special_tokens_typed_into_a_message_stay_text(name: str, role: Role) -> None:
    """Somebody who types the format's own marks into a message starts no turn with it."""
    chat, typed = CHATS[name], TYPED[name]
    clean = chat.prompt_ids([Message(role, "a b"), user("x")])
    attack = chat.prompt_ids([Message(role, f"a {typed}5{typed}{typed} b"), user("x")])
    marks = special_ids(chat)
    assert [t for t in attack if t in marks] == [t for t in clean if t in marks]
    assert f"a {typed}5{typed}{typed} b" in chat.tokenizer.decode(attack)
    naive = chat.tokenizer(f"a {typed}5", add_special_tokens=False)["input_ids"]
    assert set(naive) & marks, "the test needs a mark that a tokenizer would read as one"


def test_every_special_token_of_our_format_stays_text_and_survives_a_demonstration() -> None:
    text = "".join(SPECIALS) + " and " + "".join(reversed(SPECIALS))
    shown = OURS.demonstration(demonstration(text, f"think {text}", question=text))
    clean = OURS.demonstration(demonstration("x", "x", question="x"))
    marks = special_ids(OURS)
    assert [t for t in shown.token_ids if t in marks] == [t for t in clean.token_ids if t in marks]
    assert OURS.tokenizer.decode(shown.token_ids).count(text) == 3
    assert shown.loss_mask.count(0) == len(OURS.prompt_ids(demonstration("x", question=text).task.messages))


@everywhere
@given(text=plain_text)
def test_text_without_special_tokens_is_encoded_as_the_template_alone_would(name: str, text: str) -> None:
    chat = CHATS[name]
    assume(not any(token in text for token in chat.tokenizer.get_added_vocab()))  # constants of the code are drawn as well
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]
    expected = chat.tokenizer.apply_chat_template(messages, add_generation_prompt=True, enable_thinking=True, return_dict=False)
    assert chat.prompt_ids([Message(Role.SYSTEM, "Be brief."), user(text)]) == list(expected)


@given(
    st.lists(st.one_of(st.sampled_from([*SPECIALS, "<", "｜", "｜>", "User", "think>"]), plain_text), max_size=8).map("".join)
)
def test_no_text_makes_a_special_token_and_none_is_lost(text: str) -> None:
    marks = special_ids(OURS)
    ids = OURS.prompt_ids([user(text)])
    assert [OURS.tokenizer.decode([t]) for t in ids if t in marks] == [BOS, USER, ASSISTANT, THINK]
    assert OURS.tokenizer.decode(ids) == f"{BOS}{USER}{text}{ASSISTANT}{THINK}"


def test_private_use_characters_never_make_a_special_token() -> None:
    text = "".join(chr(STAND_IN + i) for i in range(9))
    marks = special_ids(OURS)
    assert len([t for t in OURS.prompt_ids([user(text)]) if t in marks]) == 4


# ---- completions


def completion(chat: ChatFormat, shown: Demonstration) -> tuple[list[int], list[int]]:
    encoded = chat.demonstration(shown)
    start = encoded.loss_mask.index(1)
    return encoded.token_ids[:start], encoded.token_ids[start:]


def test_completion_text_puts_back_the_thought_that_the_prompt_opened() -> None:
    prompt, answer = completion(OURS, demonstration("5", "2+3=5"))
    assert OURS.completion_text(prompt, answer) == f"{THINK}2+3=5{END_THINK}5"
    assert OURS.completion_text(prompt, answer[:-1]) == f"{THINK}2+3=5{END_THINK}5"  # cut before its end token
    assert OURS.completion_text(prompt, []) == THINK
    prompt, answer = completion(OURS, demonstration("5", effort=Effort.NONE))
    assert OURS.completion_text(prompt, answer) == "5"
    chat = CHATS["chatml"]
    assert chat.completion_text(*completion(chat, demonstration("5"))) == "5"


def test_a_typed_think_at_the_end_of_a_question_opens_nothing() -> None:
    prompt = OURS.prompt_ids([user(f"what is {THINK}")], Effort.NONE)
    assert OURS.completion_text(prompt, OURS.tokenizer("5")["input_ids"]) == "5"


words = st.text(st.sampled_from("abc 0123456789+-=;.\n"), min_size=1, max_size=30).map(str.strip)


@given(reasoning=words, content=words)
def test_round_trip_of_reasoning_and_answer(reasoning: str, content: str) -> None:
    got = parse_completion(OURS.completion_text(*completion(OURS, demonstration(content, reasoning))))
    assert got == Message(Role.ASSISTANT, content, reasoning)


@given(content=words)
def test_round_trip_without_thinking(content: str) -> None:
    got = parse_completion(OURS.completion_text(*completion(OURS, demonstration(content, effort=Effort.NONE))))
    assert got == Message(Role.ASSISTANT, content)


@given(st.one_of(st.text(), st.lists(st.sampled_from([THINK, END_THINK, "a", " ", "\n", EOS]), max_size=8).map("".join)))
def test_parse_never_raises(text: str) -> None:
    got = parse_completion(text)
    assert got.role is Role.ASSISTANT
    assert END_THINK not in got.content
    assert THINK not in (got.reasoning or "")


@given(st.lists(st.integers(0, len(OURS.tokenizer) - 1), max_size=30))
def test_any_sampled_ids_have_a_text_that_parses(ids: list[int]) -> None:
    prompt = OURS.prompt_ids([user("2+3")])
    parse_completion(OURS.completion_text(prompt, ids))
    assert OURS.read(ids).message.role is Role.ASSISTANT


def test_an_unclosed_thought_is_all_reasoning() -> None:
    assert parse_completion(f"{THINK}2+3 is") == Message(Role.ASSISTANT, "", "2+3 is")
    assert parse_completion(f"{THINK}a{END_THINK}b{END_THINK} c") == Message(Role.ASSISTANT, "c", f"a{END_THINK}b")
