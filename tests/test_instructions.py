"""Instructions by id: answers that follow each, answers that do not, and answers that try to cheat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from rewards.instructions import CHECKS, check, verify
from rewards.instructions.catalog import IFBENCH, IFEVAL, IFTRAIN
from rewards.instructions.table import PAGE, updated
from rewards.task import Message, Role, Task
from rewards.text import list_items, sentences, words
from rewards.transcript import Transcript
from tests.instruction_cases import IFEVAL_CASES
from tests.instruction_cases_further import IFBENCH_CASES, IFTRAIN_CASES

CASES = (*IFEVAL_CASES, *IFBENCH_CASES, *IFTRAIN_CASES)


def make_task(*pairs: tuple[str, Mapping[str, Any] | None], prompt: str = "Tell me about rivers, in your own words.") -> Task:
    data = {"instruction_id_list": [name for name, _ in pairs], "kwargs": [kwargs for _, kwargs in pairs]}
    return Task("1", "instruct", (Message(Role.USER, prompt),), data=data)


NO_COMMA = ("punctuation:no_comma", None)
SHORT = ("length_constraints:number_words", {"relation": "less than", "num_words": 10})


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.instruction)
def test_follows(case):
    for response in case.yes:
        assert check(case.instruction, response, case.kwargs), response
    for response in case.no:
        assert not check(case.instruction, response, case.kwargs), response


def test_every_id_has_answers_that_follow_and_that_do_not():
    assert {case.instruction for case in CASES} == set(CHECKS)
    assert all(case.yes and case.no for case in CASES)


@pytest.mark.parametrize("response", ["", " \n\t", "...", "*** --- ***", "\u200b"])
def test_a_response_without_a_word_follows_nothing(response):
    assert not any(check(case.instruction, response, case.kwargs) for case in CASES)


def test_the_published_ids_are_all_there():
    assert (len(IFEVAL), len(IFBENCH), len(IFTRAIN), len(CHECKS)) == (25, 58, 29, 112)


def test_columns_of_other_instructions_may_be_none():
    assert check("punctuation:no_comma", "Fine.", {"num_words": None, "relation": None})
    assert check("length_constraints:number_words", "One two.", {"num_words": 2.0, "relation": "at least", "letter": None})


@pytest.mark.parametrize(
    ("instruction", "kwargs", "message"),
    [
        ("length_constraints:number_word", {}, "did you mean 'length_constraints:number_words'"),
        ("nothing", {}, "cannot judge 'nothing': unknown instruction id"),
        ("length_constraints:number_words", {"num_words": 3}, "it needs the keyword argument 'relation'"),
        ("length_constraints:number_words", {"num_word": 3, "relation": "at least"}, "did you mean 'num_words'"),
        ("length_constraints:number_words", {"num_words": 3, "relation": "at most"}, "'at least' or 'less than' is expected"),
        ("length_constraints:number_words", {"num_words": "three", "relation": "at least"}, "a whole number"),
        ("length_constraints:number_words", {"num_words": 2.5, "relation": "at least"}, "a whole number"),
        ("length_constraints:number_words", {"num_words": True, "relation": "at least"}, "a whole number"),
        ("length_constraints:number_words", {"num_words": -1, "relation": "at least"}, "a whole number"),
        ("keywords:existence", {"keywords": "river"}, "a list of strings"),
        ("keywords:existence", {"keywords": []}, "a list of strings"),
        ("startend:end_checker", {"end_phrase": " "}, "a string that is not empty"),
        ("punctuation:no_comma", {"num_words": 3}, "no keyword argument 'num_words'; it takes no"),
        ("language:response_language", {"language": "klingon"}, "unknown language 'klingon'"),
        ("keywords:letter_frequency", {"letter": "ab", "let_frequency": 1, "let_relation": "at least"}, "a single character"),
    ],
)
def test_a_mistake_in_the_task_is_no_verdict(instruction, kwargs, message):
    for response in ("Some answer.", ""):
        if response or ("language" not in message and "character" not in message):
            with pytest.raises(ValueError, match=message):
                check(instruction, response, kwargs)


def test_all_or_share():
    task = make_task(NO_COMMA, SHORT)
    assert verify(task, "Rivers flow.") == 1.0
    assert verify(task, "Rivers flow, always.") == 0.0
    assert verify(task, "Rivers flow, always.", partial=True) == 0.5


def test_only_what_is_visible_is_judged():
    task = make_task(NO_COMMA, SHORT)
    assert verify(task, "<think>Well, well, well, this is long, very long indeed.</think>Rivers flow.") == 1.0
    assert verify(task, "<think>Rivers flow.</think>Well, well.") == 0.0
    assert verify(task, "<think>Rivers flow.") == 0.0
    assert verify(task, "<think>Rivers flow.</think>") == 0.0
    assert verify(task, "<think>Rivers flow.</think>", partial=True) == 0.0


def test_the_prompt_is_no_answer():
    prompt = "Write two lines about rivers without any commas"
    task = make_task(NO_COMMA, prompt=prompt)
    for response in (
        prompt,
        prompt.upper(),
        f"{prompt}\n\n{prompt}",
        f'"{prompt}."',
        prompt[6:],
        "lines about rivers without any commas",
    ):
        assert verify(task, response) == 0.0, response
        assert verify(task, response, strict=False) == 0.0, response
    assert verify(task, "Rivers run down to the sea and never come back the same way") == 1.0


def test_what_an_answer_repeats_of_the_prompt_is_not_its_own():
    prompt = "Write about rivers and include the keywords estuary and delta"
    task = make_task(("keywords:existence", {"keywords": ["estuary", "delta"]}), prompt=prompt)
    assert verify(task, f"Sure, here is what you asked for: {prompt}") == 0.0
    assert verify(task, f"{prompt}: the estuary lies before the delta") == 1.0


def test_a_request_may_be_repeated_where_that_is_asked_for():
    prompt = "Name a long river of the north. Repeat the request before you answer it."
    repeat = ("combination:repeat_prompt", {"prompt_to_repeat": "Name a long river of the north."})
    task = make_task(repeat, NO_COMMA, prompt=prompt)
    assert verify(task, "Name a long river of the north. The Ob.") == 1.0
    assert verify(task, prompt) == 0.0
    assert verify(task, "Name a long river of the north.") == 0.0
    copy = make_task(("copy:copy", {"prompt_to_repeat": prompt}), prompt=prompt)
    assert verify(copy, prompt) == 1.0


def test_an_answer_that_was_cut_off_follows_nothing():
    task = make_task(NO_COMMA)
    cut = Transcript.of("Rivers flow and", finish_reason="length")
    assert verify(task, cut.completion, cut) == 0.0
    assert verify(task, cut.completion, Transcript.of(cut.completion)) == 1.0


def test_an_answer_that_the_prompt_names_is_no_echo():
    task = make_task(
        ("detectable_format:constrained_response", {}), prompt='Is it? Say "My answer is yes." or "My answer is no."'
    )
    assert verify(task, "My answer is yes.") == 1.0


def test_the_loose_variant_forgives_a_line_and_asterisks():
    task = make_task(("startend:quotation", {}))
    framed = 'Sure, here it is:\n"Rivers flow."\nAnything else?'
    assert (verify(task, framed), verify(task, framed, strict=False)) == (0.0, 1.0)
    assert (verify(task, '**"Rivers flow."**'), verify(task, '**"Rivers flow."**', strict=False)) == (0.0, 1.0)
    assert verify(task, 'a\nb\n"Rivers flow."', strict=False) == 0.0


@pytest.mark.parametrize("data", [{}, {"instruction_id_list": []}, {"instruction_id_list": ["punctuation:no_comma"]}])
def test_a_task_without_its_columns_is_no_verdict(data):
    with pytest.raises(ValueError, match="task '1'"):
        verify(Task("1", "instruct", (), data=data), "Fine.")


def test_a_mistake_is_found_in_an_empty_answer_too():
    with pytest.raises(ValueError, match="unknown instruction"):
        verify(make_task(("nothing", {})), "")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("Dr. Smith met Mrs. J. K. Jones at 3 p.m. on Jan. 5. They talked!", 2),
        ("It costs $3.50 (approx. 4 euros). Really?! Yes...", 3),
        ('"Really?" he asked. "Yes!" she said.', 2),
        ("this is it. that was that. all in small letters!", 3),
        ("One.Two.Three.", 3),
        ("See www.example.com or e.g. file.txt for more.", 1),
        ("1. First thing\n2. Second thing", 2),
        ("A title\n\nA line that\ngoes on.", 2),
        ("- one\n- two\n- three", 3),
        ("今天天气很好。我们去公园吧！你来吗？", 3),
        ("यह पहला है। यह दूसरा है।", 2),
        ("Wait... what? Oh... Right.", 3),
        ("... !!! ???", 0),
    ],
)
def test_sentences(text, number):
    assert len(sentences(text)) == number, sentences(text)


def test_words():
    assert len(words("Don't re-read: it's 3 o'clock — yes_no!")) == 8
    assert len(words("我爱 Python 编程")) == 5
    assert words("यह हिन्दी है।") == ["यह", "हिन्दी", "है"]
    assert words("... -- !") == []


def test_list_items():
    assert list_items("* one\n  - two\n+ three\n---\n* * *\n*emphasis* here\n-5 degrees\n1. no") == ["one", "two", "three"]


def test_the_documentation_has_every_id_as_it_is():
    page = PAGE.read_text(encoding="utf-8")
    assert updated(page) == page, "run python -m rewards.instructions.table --write"
    assert all(f"| `{name}` |" in page for name in CHECKS)
    with pytest.raises(ValueError, match="lacks the marks of the table IFEval"):
        updated("nothing")
