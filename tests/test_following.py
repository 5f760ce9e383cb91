"""Tasks of checkable instructions: careful texts keep them all, sloppy ones seldom, and no fixed text does."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from itertools import chain
from typing import Any

import pytest

from recipes.load import load, shipped
from rewards.instructions import CHECKS, verify
from rewards.task import Task, is_held_out
from rl.tokenizer import train_tokenizer
from specialists import short_text
from specialists.config import DataConfig, SourceConfig
from specialists.data import load_data
from specialists.example import Example
from specialists.following import FAMILIES, SIDES, generate
from specialists.short_text import MAX_WORDS, THINGS, TOPICS, num_words


def draw(count: int, seed: int = 0, **options: Any) -> list[Example]:
    rng = random.Random(seed)
    return [generate(rng, **options) for _ in range(count)]


def score(task: Task, text: str) -> float:
    return verify(task, f"<think></think>{text}")


def test_the_careful_text_keeps_every_instruction_also_where_words_are_counted_as_published() -> None:
    for example in draw(1000):
        careful, sloppy = example.demonstrations
        assert (careful.style, sloppy.style) == ("careful", "sloppy")
        assert score(example.task, careful.response.content) == 1.0, (example.task.prompt, careful.response.content)
        low, below = (kwargs["num_words"] for kwargs in example.task.data["kwargs"][1:3])
        assert low <= len(re.findall(r"\w+", careful.response.content)) < below


@pytest.mark.parametrize("family", list(FAMILIES))
def test_each_family_alone_asks_one_thing_more_in_words_that_name_it(family: str) -> None:
    examples = draw(40, families=[family], num_constraints=[1])
    for example in examples:
        task = example.task
        *always, last = task.data["instruction_id_list"]
        assert always == ["keywords:existence", *["length_constraints:number_words"] * 2]
        assert last in CHECKS
        arguments = task.data["kwargs"][-1].values()
        named = [v for a in arguments for v in (a if isinstance(a, list) else [a]) if isinstance(v, str) and v in task.prompt]
        assert named or family in {"sentences", "placeholder", "bullets"} or not arguments
        assert score(task, example.demonstrations[0].response.content) == 1.0
    assert len({e.task.data["instruction_id_list"][-1] for e in examples}) == 1


def test_the_plan_counts_the_words_of_the_draft_and_the_text_is_the_draft() -> None:
    for example in draw(500):
        response = example.demonstrations[0].response
        number, draft = re.fullmatch(r"(\d+) words: (.*)", response.reasoning or "", re.DOTALL).groups()  # type: ignore[union-attr]
        assert re.sub(r"\d+", "", draft) == response.content
        assert [int(n) for n in re.findall(r"\d+", draft)] == list(range(1, int(number) + 1))
        assert int(number) == num_words(response.content) <= MAX_WORDS


def test_sloppy_texts_have_no_plan_and_keep_all_instructions_one_time_in_ten() -> None:
    examples = draw(1000)
    for example in examples:
        reasoning = example.demonstrations[1].response.reasoning
        assert reasoning is not None
        assert not any(letter.isdigit() for letter in reasoning)
    right = sum(score(e.task, e.demonstrations[1].response.content) for e in examples)
    assert 0.05 < right / len(examples) < 0.2


def test_no_fixed_text_keeps_the_instructions_of_more_than_a_few_tasks() -> None:
    """Whatever a policy says without reading the task: nothing, its own demonstrations, lists of the words that tasks name."""
    tasks = [e.task for e in draw(250, seed=1)]
    for empty in ("", " ", ".", "<think>", "No."):
        assert not any(score(task, empty) for task in tasks)
    assert not any(score(task, task.prompt) for task in tasks)
    best = max(sum(score(task, text) for task in tasks) for text in fixed_texts())
    assert best / len(tasks) <= 0.03


def fixed_texts() -> Iterator[str]:
    yield from (e.demonstrations[0].response.content for e in draw(15, seed=2))
    rng = random.Random(3)
    for _ in range(25):
        words = [*rng.sample(TOPICS, rng.randint(3, 6)), *rng.sample(THINGS, rng.randint(3, 6))]
        yield rng.choice(("{}", "{}.", '"{}"', "<<{}>>", "{} The end.")).format(" ".join(words))
    yield " ".join((*TOPICS, *THINGS))


def test_the_words_that_a_task_names_are_not_parts_of_other_words() -> None:
    texts = [d.response.content for e in draw(800) for d in e.demonstrations]
    spoken = {word.lower() for text in texts for word in re.findall(r"[A-Za-z]+", text)}
    for word in chain(TOPICS, THINGS, short_text.ADJECTIVES):
        assert not [other for other in spoken if word in other and word != other], word


def test_every_word_of_the_demonstrations_is_one_token_in_the_shipped_recipe() -> None:
    """A word in pieces is spelled out by a model that has not learned to spell."""
    init = load(shipped()["instruct"]).recipe.model.init
    assert init is not None
    examples = draw(3000)
    texts = [e.task.prompt for e in examples]
    texts += [t for e in examples for d in e.demonstrations for t in (d.response.reasoning or "", d.response.content)]
    tokenizer = train_tokenizer(texts, init.tokenizer_vocab_size)
    assert len(tokenizer) < init.tokenizer_vocab_size  # it found no more to merge
    pieces = {piece for text in texts for piece in re.findall(r" ?[A-Za-z]+", text)}
    assert not [piece for piece in pieces if len(tokenizer.tokenize(piece)) > 1]


def test_the_same_seed_gives_the_same_examples() -> None:
    assert draw(50, seed=7) == draw(50, seed=7)
    assert draw(50, seed=7) != draw(50, seed=8)


def test_kinds_are_numbers_of_constraints_and_sides_of_a_text_are_asked_about_once() -> None:
    examples = draw(600)
    for example in examples:
        number = {"one": 1, "two": 2, "three": 3}[example.task.kind]
        assert len(example.task.data["kwargs"]) == len(example.task.data["instruction_id_list"]) == 3 + number
    assert {e.task.kind for e in examples} == {"one", "two", "three"}
    assert {e.task.kind for e in draw(50, num_constraints=[2])} == {"two"}
    assert set(SIDES) == set(FAMILIES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"families": ["poem"]}, "families: got 'poem'; allowed: use, avoid"),
        ({"num_constraints": [4]}, r"num_constraints: got \[4\]; allowed: some of 1, 2, 3"),
        ({"num_constraints": []}, "num_constraints: got"),
    ],
)
def test_wrong_options_are_refused_with_the_allowed_ones(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate(random.Random(0), **options)


def test_combinations_of_topic_and_instructions_are_held_out_whatever_the_wording_and_length() -> None:
    data = DataConfig(sources=(SourceConfig(generator="following"),), num_train=1500, num_eval=100)
    loaded = load_data(data, domain="instruct", seed=0)

    def combination(task: Task) -> str:
        first, _, _, *wanted = zip(task.data["instruction_id_list"], map(str, task.data["kwargs"]), strict=True)
        return f"{first} {sorted(wanted)}"

    train = {combination(e.task) for e in loaded.train}
    assert not train & {combination(t) for t in loaded.held_out}
    assert all(is_held_out(t, 0.1) for t in loaded.held_out)
    assert {t.kind for t in loaded.held_out[:20]} == {"one", "two", "three"}
