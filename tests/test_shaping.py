"""How an answer is written: what each shaping reward gives to good form, and to what tries to get it for nothing."""

from __future__ import annotations

import pytest

from rewards import shaping
from rewards.errors import NoScoreError
from rewards.plugin import RewardSource
from rewards.score import Scorer
from rewards.task import Effort, Message, Role, Task
from rewards.transcript import Transcript, parse_completion

ENGLISH = "First I look at the numbers, and then I add them up to see what they are."
FRENCH = "Je regarde d'abord les nombres, et puis je les ajoute pour voir ce qu'ils sont."
GOOD = f"<think>{ENGLISH}</think>It is \\boxed{{42}}."
HARD = Task("1", "math", (Message(Role.USER, "What is the sum of the two numbers that you see here?"),))
PLAIN = Task("2", "math", HARD.messages, effort=Effort.NONE)


def of(completion: str, **more: object) -> Transcript:
    return Transcript.of(completion, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        (GOOD, 1.0),
        (f"\n{GOOD}", 1.0),
        ("<think>\nhm\n</think>\n\n42", 1.0),
        ("42", 0.0),
        ("hm</think>42", 0.0),
        ("<think>hm 42", 0.0),
        ("<think></think>42", 0.0),
        ("<think> ... </think>42", 0.0),
        ("<think>hm</think>", 0.0),
        ("<think>hm</think>\n ... \n", 0.0),
        ("<think>hm</think>42</think>43", 0.0),
        ("<think>hm</think><think>hm</think>42", 0.0),
        ("<think><think>hm</think>42", 0.0),
        ("Well: <think>hm</think>42", 0.0),
        ("<think>hm</think>42<think>", 0.0),
        ("", 0.0),
    ],
)
def test_format_with_thinking(completion, expected):
    assert shaping.format(HARD, of(completion)) == expected


@pytest.mark.parametrize(("completion", "expected"), [("42", 1.0), ("", 0.0), ("...", 0.0), (GOOD, 0.0), ("</think>42", 0.0)])
def test_format_without_thinking(completion, expected):
    assert shaping.format(PLAIN, of(completion)) == expected


def test_format_of_an_answer_that_was_cut_off():
    assert shaping.format(HARD, of(GOOD, finish_reason="length")) == 0.0


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("\\boxed{42}", 1.0),
        ("\\boxed{\\frac{1}{2}}", 1.0),
        ("42", 0.0),
        ("\\boxed{}", 0.0),
        ("\\boxed{ }", 0.0),
        ("\\boxed{42", 0.0),
        ("\\boxed{41} or \\boxed{42}", 0.0),
        ("\\boxed 42", 0.0),
    ],
)
def test_format_boxed(answer, expected):
    assert shaping.format(HARD, of(f"<think>so \\boxed{{1}}</think>{answer}"), boxed=True) == expected


def test_format_pattern_is_looked_for_in_the_answer_alone():
    pattern = r"Answer: \d+$"
    assert shaping.format(HARD, of("<think>hm</think>So.\nAnswer: 42"), pattern=pattern) == 1.0
    assert shaping.format(HARD, of("<think>Answer: 42</think>So."), pattern=pattern) == 0.0
    with pytest.raises(NoScoreError, match="no regular expression"):
        shaping.format(HARD, of(GOOD), pattern="(")


def test_format_judges_the_last_turn():
    call = Message(Role.ASSISTANT, "", "let me look")
    result = Message(Role.TOOL, "42")
    for last, expected in (("<think>so</think>42", 1.0), ("42", 0.0), ("<think>so</think>", 0.0)):
        transcript = Transcript("...", (call, result, parse_completion(last)))
        assert shaping.format(HARD, transcript) == expected


@pytest.mark.parametrize(("tokens", "expected"), [(1, 1.0), (100, 1.0), (150, 0.5), (175, 0.25), (200, 0.0), (1000, 0.0)])
def test_length_in_tokens(tokens, expected):
    assert shaping.length(of(GOOD, num_tokens=tokens), free_tokens=100, max_tokens=200) == expected


def test_length_in_words():
    twelve = of("<think>one two three four</think>five six seven eight nine ten eleven twelve")
    assert shaping.length(twelve, free_words=10, max_words=14) == 0.5
    assert shaping.length(twelve, free_words=2, max_words=6, part="reasoning") == 0.5
    assert shaping.length(twelve, free_words=6, max_words=10, part="answer") == 0.5
    assert shaping.length(twelve, free_words=12, max_words=14) == 1.0


@pytest.mark.parametrize("completion", ["", "...", "<think>hm</think>", "<think>hm", "<think>hm</think> . "])
def test_saying_nothing_is_not_the_best_length(completion):
    assert shaping.length(of(completion, num_tokens=5), free_tokens=100, max_tokens=200) == 0.0


def test_length_is_not_fooled():
    cut = of(GOOD, num_tokens=50, finish_reason="length")
    assert shaping.length(cut, free_tokens=100, max_tokens=200) == 0.0
    assert shaping.length(of("glued" * 1000), free_words=10, max_words=100) == 0.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs the options"),
        ({"free_tokens": 1}, "needs the options"),
        ({"free_tokens": 1, "max_tokens": 2, "free_words": 1, "max_words": 2}, "not both"),
        ({"free_tokens": 2, "max_tokens": 2}, "free < maximum"),
        ({"free_words": -1, "max_words": 2}, "free < maximum"),
        ({"free_tokens": 1, "max_tokens": 2, "part": "answer"}, "tokens of the answer alone"),
        ({"free_words": 1, "max_words": 2, "part": "thought"}, "part 'thought'"),
        ({"free_tokens": 1, "max_tokens": 2}, "no number of tokens"),
    ],
)
def test_length_says_what_is_wrong_with_its_options(options, message):
    with pytest.raises(NoScoreError, match=message):
        shaping.length(of(GOOD), **options)


def test_repetition_of_honest_text_is_small():
    assert shaping.repetition(of(GOOD)) == 1.0
    assert shaping.repetition(of("42")) == 1.0
    assert shaping.repetition(of("a b a b a b"), n=2) == pytest.approx(0.4)
    assert shaping.repetition(of("a b a b a b"), n=2, free=0.2) == pytest.approx(0.5)


@pytest.mark.parametrize(
    "text",
    [
        "wait " * 300,
        "Wait, let me check. " * 100,
        "\n".join(f"{'WAIT' if i % 2 else 'wait'}, let me: check!" for i in range(100)),
        "ha" * 3000,
        "!" * 3000,
        "- " * 3000 + "so",
        "等一下让我看看" * 100,
    ],
)
def test_loops_are_found(text):
    assert shaping.repetition(of(text + " 42")) < 0.15


@pytest.mark.parametrize("text", ["", " ", "..."])
def test_saying_nothing_is_not_free_of_repetition(text):
    assert shaping.repetition(of(text)) == 0.0


def test_repetition_reads_the_part_that_it_is_asked_to():
    transcript = of("<think>" + "wait " * 100 + "</think>It is forty-two, as the first line says.")
    assert shaping.repetition(transcript, part="reasoning") < 0.1
    assert shaping.repetition(transcript, part="answer") == 1.0


@pytest.mark.parametrize("options", [{"n": 0}, {"free": 1.0}, {"free": -0.1}])
def test_repetition_says_what_is_wrong_with_its_options(options):
    with pytest.raises(NoScoreError, match="are expected"):
        shaping.repetition(of(GOOD), **options)


def test_language_of_the_reasoning():
    assert shaping.language(HARD, of(GOOD), "en") == 1.0
    assert shaping.language(HARD, of(GOOD), "fr") == 0.0
    assert shaping.language(HARD, of(f"<think>{FRENCH}</think>{ENGLISH}"), "en") == 0.0
    assert shaping.language(HARD, of(f"<think>{FRENCH}</think>{ENGLISH}"), "en", part="answer") == 1.0
    mixed = shaping.language(HARD, of(f"<think>{ENGLISH} {FRENCH}</think>42"), "en")
    assert mixed is not None
    assert 0.3 < mixed < 0.7


def test_language_of_the_prompt():
    german = Task("3", "math", (Message(Role.USER, "Wie viel ist das, und warum ist es so und nicht anders?"),))
    thought = "<think>Das ist die Summe der beiden Zahlen, und sie ist nicht sehr groß.</think>42"
    assert shaping.language(german, of(thought)) == 1.0
    assert shaping.language(german, of(GOOD)) == 0.0
    assert shaping.language(Task("4", "math", (Message(Role.USER, "2 + 2"),)), of(GOOD)) is None


@pytest.mark.parametrize(
    "completion", ["42", "<think></think>42", "<think>2 + 2 = 4</think>4", "<think>$x + y$ `def f(): pass`</think>4"]
)
def test_no_reasoning_has_no_language(completion):
    assert shaping.language(HARD, of(completion), "en") is None


def test_code_and_formulas_are_in_no_language():
    thought = f"{ENGLISH}\n```python\nfor zahl in liste: drucke(zahl)\n```\nso $\\alpha + \\beta$ and \\(x\\)"
    assert shaping.language(HARD, of(f"<think>{thought}</think>42"), "en") == 1.0


def test_language_is_not_fooled():
    salad = "the and of to in is " * 3 + "我们先看一下这些数字然后把它们加起来看看是多少"
    value = shaping.language(HARD, of(f"<think>{salad}</think>42"), "en")
    assert value is not None
    assert value < 0.6
    assert shaping.language(HARD, of(f"<think>{'zxq wvu ' * 30}</think>42"), "en") == 0.0


def test_a_language_that_is_not_known_is_no_score():
    with pytest.raises(NoScoreError, match="unknown language"):
        shaping.language(HARD, of(GOOD), "elvish")


def test_a_recipe_mixes_them_by_weight():
    def source(use: str, weight: float, **options: object) -> RewardSource:
        return RewardSource(use, weight, None, use.rpartition(":")[2], options=options)

    data = {"instruction_id_list": ["punctuation:no_comma", "startend:quotation"], "kwargs": [{}, {}], "language": "en"}
    task = Task("5", "instruct", HARD.messages, data=data)
    scorer = Scorer(
        [
            source("rewards.instructions:verify", 2.0, partial=True),
            source("rewards.shaping:format", 1.0, pattern="four"),
            source("rewards.shaping:length", 1.0, free_words=2, max_words=4, part="answer"),
            source("rewards.shaping:language", 1.0),  # which one is a column of the data
        ]
    )
    try:
        result = scorer.score(task, of(f"<think>{ENGLISH}</think>It is four."))
        assert result.parts == {"verify": 0.5, "format": 1.0, "length": 0.5, "language": 1.0}, result.error
        assert result.score == pytest.approx((2 * 0.5 + 1.0 + 0.5 + 1.0) / 5)
        plain = scorer.score(task, of("It is four."))
        assert "language" not in plain.parts  # nothing was thought: left out of the mean
        assert plain.score == pytest.approx((2 * 0.5 + 0.0 + 0.5) / 4)
        wrong = Task(
            "6",
            "instruct",
            HARD.messages,
            data={**data, "instruction_id_list": ["punctuation:no_commas", "startend:quotation"]},
        )
        failed = scorer.score(wrong, of("It is four."))
        assert failed.score is None
        assert failed.error is not None
        assert "did you mean 'punctuation:no_comma'" in failed.error
        assert "Traceback" not in failed.error
    finally:
        scorer.close()
