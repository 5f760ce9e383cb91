"""Arithmetic tasks: true answers, work that adds up, guesses that are often wrong, a space too large to memorise."""

from __future__ import annotations

import random
import re

import pytest

from rewards.math import verify
from rewards.task import is_held_out
from specialists.arithmetic import KINDS, generate
from specialists.config import DataConfig, SourceConfig
from specialists.data import load_data
from specialists.example import Example


def draw(count: int, seed: int = 0, **options: tuple[str, ...]) -> list[Example]:
    rng = random.Random(seed)
    return [generate(rng, **options) for _ in range(count)]


def true_answer(example: Example) -> int:
    """What the question asks, worked out from the question's own numbers."""
    numbers = sorted((int(n) for n in re.findall(r"\d+", example.task.prompt)), reverse=True)
    assert len(numbers) == 2, example.task.prompt
    left, right = numbers
    return {"add": left + right, "sub": left - right, "mul": left * right}[example.task.kind]


def test_the_careful_answer_is_the_true_one() -> None:
    for example in draw(3000):
        careful, sloppy = example.demonstrations
        assert (careful.style, sloppy.style) == ("careful", "sloppy")
        assert int(careful.response.content) == true_answer(example)
        assert careful.response.content == example.task.answer


def test_every_step_of_the_careful_work_holds() -> None:
    for example in draw(1000):
        work = example.demonstrations[0].response.reasoning
        assert work is not None
        steps = re.findall(r"(\d+)([-+*])(\d+)=(\d+)", work)
        assert len(steps) == work.count("=") >= 3, work
        for left, sign, right, result in steps:
            a, b = int(left), int(right)
            assert {"+": a + b, "-": a - b, "*": a * b}[sign] == int(result), work


def test_sloppy_demonstrations_do_no_work_and_are_mostly_wrong() -> None:
    examples = draw(3000)
    sloppy = [e.demonstrations[1].response for e in examples]
    assert all(s.reasoning is not None and "=" not in s.reasoning for s in sloppy)
    right = sum(s.content == e.task.answer for s, e in zip(sloppy, examples, strict=True))
    assert 0.1 < right / len(sloppy) < 0.25


def test_the_same_seed_gives_the_same_examples() -> None:
    assert draw(50, seed=7) == draw(50, seed=7)
    assert draw(50, seed=7) != draw(50, seed=8)


def test_kinds_are_the_ones_asked_for() -> None:
    assert {e.task.kind for e in draw(200)} == set(KINDS)
    assert {e.task.kind for e in draw(200, kinds=("mul", "sub"))} == {"mul", "sub"}


@pytest.mark.parametrize("kinds", [("add", "root"), ()])
def test_wrong_kinds_are_refused_with_the_allowed_ones(kinds: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"kinds: .*add, sub, mul"):
        generate(random.Random(0), kinds=kinds)


def test_all_text_is_plain_ascii_and_the_domain_is_math() -> None:
    for example in draw(500):
        task = example.task
        texts = [task.id, task.prompt, task.answer or ""]
        for demonstration in example.demonstrations:
            assert demonstration.task is task
            texts += [demonstration.response.content, demonstration.response.reasoning or ""]
        assert all(t.isascii() and t == t.strip() for t in texts)
        assert task.domain == "math"


@pytest.mark.parametrize("kind", list(KINDS))
def test_there_are_tens_of_thousands_of_tasks_and_both_sides_of_the_split(kind: str) -> None:
    tasks = [e.task for e in draw(4000, kinds=(kind,))]
    assert len({t.content_hash for t in tasks}) > 3800  # few repeats: by the birthday bound, more than 40,000 tasks
    assert 0.05 < sum(is_held_out(t, 0.1) for t in tasks) / len(tasks) < 0.15


def test_a_problem_is_never_on_both_sides_in_other_words() -> None:
    data = DataConfig(sources=(SourceConfig(generator="arithmetic"),), num_train=6000, num_eval=300)
    loaded = load_data(data, domain="math", seed=0)
    assert not {e.task.problem for e in loaded.train} & {t.problem for t in loaded.held_out}
    assert {t.kind for t in loaded.held_out[:20]} == {"add", "sub", "mul"}


def test_the_question_is_not_its_own_answer() -> None:
    for index in range(300):
        task = generate(random.Random(index)).task
        assert verify(task, f"<think></think>{task.prompt}") == 0.0
        assert verify(task, f"<think></think>{task.problem}") == 0.0
