"""Generators by index: the same task whoever asks; every reasoning-gym generator loads and its gold answer scores."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from itertools import islice

import pytest

from rewards.errors import UserError
from specialists import gym
from specialists.config import SourceConfig
from specialists.example import Example
from specialists.generators import stream

HAS_GYM = importlib.util.find_spec("reasoning_gym") is not None
needs_gym = pytest.mark.skipif(not HAS_GYM, reason="the reasoning-gym extra is not installed: make env-reasoning-gym")


def first(name: str, count: int, seed: int = 0, **options: object) -> list[Example]:
    return list(islice(stream(SourceConfig(generator=name, options=options), seed), count))


def test_arithmetic_by_index_is_deterministic() -> None:
    some = first("arithmetic", 20)
    assert some == first("arithmetic", 50)[:20]
    assert some != first("arithmetic", 20, seed=1)
    assert len({e.task.content_hash for e in some}) == 20


def test_arithmetic_takes_its_options() -> None:
    assert {e.task.kind for e in first("arithmetic", 30, kinds=["mul", "sub"])} == {"mul", "sub"}
    with pytest.raises(UserError, match="options of generator 'arithmetic'"):
        first("arithmetic", 1, digits=3)


# ---- reasoning-gym

NO_TASKS = {"composite": "mixes other generators, which its options must name"}
NO_GOLD = {"rush_hour": "any sequence of moves that frees the car", "boxnet": "any plan that brings the boxes home"}
ONE_OF_MANY = {  # the entry's answer is None; an example of a right one stands in its metadata
    "graph_color": lambda m: json.dumps(m["possible_answer"]),
    "propositional_logic": lambda m: m["example_answer"],
    "rubiks_cube": lambda m: m["example_correct_answer"],
}
GARBAGE_IS_RIGHT = {"game_of_life_halting": "upstream reads whatever is not True as False"}
GARBAGE = ("no idea at all", "[", "{}", "1 2 3", "a,b", "9" * 400, "[[1]]")


def gym_names() -> list[str]:
    if not HAS_GYM:
        return []
    from reasoning_gym.factory import DATASETS

    return sorted(DATASETS)


@needs_gym
def test_gym_tasks_are_deterministic_and_do_not_repeat_from_block_to_block() -> None:
    """An entry's seed is its data set's plus its index, so blocks of 1024 must start 1024 apart."""
    some = first("reasoning_gym/basic_arithmetic", 2200)
    assert [e.task for e in some[:50]] == [e.task for e in first("reasoning_gym/basic_arithmetic", 50)]
    assert [e.task.id for e in some] == [f"basic_arithmetic/{i}" for i in range(2200)]
    blocks = [{e.task.content_hash for e in some[a:b]} for a, b in ((0, 1024), (1024, 2048))]
    assert len(blocks[0] & blocks[1]) < 30
    other = {e.task.content_hash for e in first("reasoning_gym/basic_arithmetic", 1024, seed=1)}
    assert len(blocks[0] & other) < 30


@needs_gym
def test_gym_options_and_unknown_names_are_the_users_errors() -> None:
    [example] = first("reasoning_gym/basic_arithmetic", 1, min_terms=2, max_terms=2)
    assert example.task.kind == "basic_arithmetic"
    for name, options in (("nope", {}), ("basic_arithmetic", {"colour": 3}), ("basic_arithmetic", {"min_terms": -1})):
        with pytest.raises(UserError, match=f"reasoning_gym/{name}"):
            first(f"reasoning_gym/{name}", 1, **options)


@needs_gym
def test_gym_scores_the_part_after_the_thinking() -> None:
    [example] = first("reasoning_gym/basic_arithmetic", 1)
    task = example.task
    assert gym.score(task, f"<think>hm</think>{task.answer}") == 1.0
    assert gym.score(task, f"<think>{task.answer}</think>no idea") < 1.0
    assert gym.score(task, f"<think>{task.answer}") == 0.0


@pytest.mark.slow
@needs_gym
@pytest.mark.parametrize("name", gym_names())
def test_every_gym_generator_gives_a_task_whose_gold_answer_scores_one(name: str) -> None:
    if name in NO_TASKS:
        with pytest.raises(UserError, match=f"reasoning_gym/{name}"):
            first(f"reasoning_gym/{name}", 1)
        return
    for example in first(f"reasoning_gym/{name}", 2):
        task = example.task
        assert task.prompt
        assert (task.answer is None) == (name in NO_GOLD or name in ONE_OF_MANY)
        gold = ONE_OF_MANY[name](task.data["entry"]["metadata"]) if name in ONE_OF_MANY else task.answer
        if name not in NO_GOLD:
            assert gym.score(task, f"<think>...</think>{gold}") == 1.0
        for answer in GARBAGE:
            score = gym.score(task, f"<think>...</think>{answer}")
            assert 0 <= score < 1 or answer == gold or name in GARBAGE_IS_RIGHT, answer


@needs_gym
def test_an_unreadable_answer_is_wrong_but_a_broken_scorer_is_a_failure() -> None:
    [example] = first("reasoning_gym/prime_factorization", 1)
    assert gym.score(example.task, "<think></think>no idea") == 0.0
    broken = replace(example.task, answer="no gold", data={**example.task.data, "entry": {"metadata": {}}})
    with pytest.raises((KeyError, ValueError)):
        gym.score(broken, "<think></think>2 × 3")
