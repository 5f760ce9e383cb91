"""Efforts: their penalties, their groups, tasks at each of them, and the sums that are thought about at will."""

from __future__ import annotations

import itertools
import random

import pytest

from rewards.task import Effort, Message, Role, Task
from rl.config import EffortsConfig, LevelConfig, PenaltyConfig, SamplingConfig
from rl.effort import Efforts
from specialists.config import DataConfig, SourceConfig
from specialists.data import load_data
from specialists.totals import generate

LEVELS = EffortsConfig(
    levels=(
        LevelConfig(effort="none", max_tokens=8, window=40),
        LevelConfig(effort="high", length_penalty=1.0),
        LevelConfig(effort="max", length_penalty=0.25, max_tokens=200),
    ),
    penalty=PenaltyConfig(c_max=0.4, l_norm=100),
)


def test_a_level_has_its_own_bounds_and_the_rest_of_the_sampling() -> None:
    efforts = Efforts(LEVELS)
    base = SamplingConfig(max_tokens=64, temperature=0.7)
    assert efforts.sampling(Effort.NONE, base) == SamplingConfig(max_tokens=8, temperature=0.7)
    assert efforts.sampling(Effort.HIGH, base) == base
    assert efforts.window(Effort.NONE) == 40
    assert efforts.window(Effort.MAX) is None


def test_thinking_costs_by_the_formula_and_no_more_than_c_max() -> None:
    efforts = Efforts(LEVELS)
    assert [efforts.penalty(Effort.HIGH, n) for n in (0, 10, 40, 1000)] == pytest.approx([0, -0.1, -0.4, -0.4])
    assert efforts.penalty(Effort.MAX, 40) == pytest.approx(-0.1)
    assert efforts.penalty(Effort.NONE, 40) == 0
    assert Efforts().penalty(Effort.HIGH, 1000) == 0


def test_a_scalar_effort_costs_less_the_higher_it_is() -> None:
    config = EffortsConfig(
        levels=tuple(LevelConfig(effort=b) for b in (10, 40, 70)), penalty=PenaltyConfig(k0=2.0, l_norm=1000, c_max=9, spread=2)
    )
    found = [Efforts(config).penalty(b, 500) for b in (10, 40, 70)]
    # tau = 2 * 30: k = 2, 2 exp(-1/2), 2 exp(-1)
    assert found == pytest.approx([-1.0, -0.6065307, -0.3678794])


def test_every_task_is_there_at_each_effort_on_one_side() -> None:
    config = DataConfig(sources=(SourceConfig(generator="totals", options={"terms": [2, 3]}),), num_train=20, num_eval=6)
    data = load_data(config, domain="math", seed=1, levels=Efforts(LEVELS).levels)
    assert len(data.train) == 60
    assert [t.effort for t in data.held_out[:3]] == [Effort.NONE, Effort.HIGH, Effort.MAX]
    assert len({t.prompt for t in data.held_out[:3]}) == 1
    assert not {e.task.problem for e in data.train} & {t.problem for t in data.held_out}
    hashes = [e.task.content_hash for e in data.train]
    assert len(set(hashes)) == len(hashes)  # a group has one effort
    for example in data.train:
        assert {d.task.effort for d in example.demonstrations} == {example.task.effort}
        if example.task.effort is Effort.NONE:
            assert all(d.response.reasoning is None for d in example.demonstrations)


def test_sums_are_right_where_they_are_worked_out() -> None:
    for seed in range(200):
        example = generate(random.Random(seed))
        numbers = [int(n) for n in example.task.prompt.split("+")]
        assert example.task.answer == str(sum(numbers))
        for shown in example.demonstrations:
            if shown.style == "guess":
                assert not shown.response.reasoning
                continue
            assert shown.response.content == example.task.answer
            totals = list(itertools.accumulate(numbers))[1:]
            written = str(shown.response.reasoning)
            said = written.split() if shown.style == "brief" else [w[1:] for w in written.split() if w.startswith("=")]
            assert [int(total) for total in said] == totals
    right = [d for s in range(400) for d in generate(random.Random(s)).demonstrations if d.style == "guess"]
    assert sum(d.response.content == d.task.answer for d in right) < 0.25 * len(right)


def test_a_wrong_option_is_named() -> None:
    with pytest.raises(ValueError, match="terms"):
        generate(random.Random(0), terms=[1])


def test_tasks_with_other_files_are_other_tasks() -> None:
    messages = (Message(Role.USER, "q"),)
    one, two = (Task("t", "agent", messages, data={"files": {"/tmp/a": text}}) for text in ("1", "2"))
    assert one.content_hash != two.content_hash
    assert Task("t", "agent", messages, data={"column": 1}).content_hash == Task("t", "agent", messages).content_hash
