"""Splits that never overlap, tasks that are held out whatever the seed, passes over the data, mixtures of styles."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from rewards.errors import UserError
from rewards.task import Demonstration, Message, Role, Task, is_held_out
from specialists.config import DataConfig, SourceConfig
from specialists.data import Data, TaskSampler, load_data, pick_demonstrations
from specialists.example import Example


def arithmetic(*kinds: str, **changes: float) -> SourceConfig:
    return SourceConfig(generator="arithmetic", options={"kinds": list(kinds or ("add",))}, **changes)  # type: ignore[arg-type]


def config(*sources: SourceConfig, **changes: float) -> DataConfig:
    settings = {"num_train": 200, "num_eval": 40, **changes}
    return DataConfig(sources=sources or (arithmetic(),), **settings)  # type: ignore[arg-type]


def load(settings: DataConfig, seed: int = 0) -> Data:
    return load_data(settings, domain="math", seed=seed)


def hashes(tasks: Sequence[Task]) -> list[str]:
    return [t.content_hash for t in tasks]


def train_hashes(data: Data) -> list[str]:
    return hashes([e.task for e in data.train])


def jsonl(path: Path, prompts: Sequence[str]) -> SourceConfig:
    path.write_text("".join(json.dumps({"prompt": p, "answer": "1", "response": "1"}) + "\n" for p in prompts))
    return SourceConfig(dataset=str(path))


@pytest.mark.parametrize("kind", ["generator", "file"])
def test_sides_are_disjoint_and_the_held_out_one_is_the_same_for_every_seed(kind: str, tmp_path: Path) -> None:
    source = arithmetic() if kind == "generator" else jsonl(tmp_path / "a.jsonl", [f"task {i}" for i in range(600)])
    runs = [load(config(source), seed) for seed in range(4)]
    held_out = set(hashes(runs[0].held_out))
    for data in runs:
        assert hashes(data.held_out) == hashes(runs[0].held_out)
        assert not held_out & set(train_hashes(data))
        assert all(is_held_out(t, 0.1) for t in data.held_out)
        assert (len(data.train), len(data.held_out)) == (200, 40)
        assert len(set(train_hashes(data))) == 200
    assert len({tuple(train_hashes(d)) for d in runs}) == 4  # training tasks and order are the seed's
    assert train_hashes(load(config(source), 2)) == train_hashes(runs[2])
    assert load(config(source), 2).hash == runs[2].hash != runs[1].hash


def test_sources_are_mixed_by_weight() -> None:
    data = load(config(arithmetic("add", weight=3), arithmetic("mul"), num_train=400, num_eval=40))
    assert Counter(e.task.kind for e in data.train) == {"add": 300, "mul": 100}
    assert Counter(t.kind for t in data.held_out) == {"add": 30, "mul": 10}
    assert len({e.task.kind for e in data.train[:20]}) == 2, "shuffled together"


def test_a_task_of_two_sources_counts_once(tmp_path: Path) -> None:
    both = [f"task {i}" for i in range(300)]
    sources = jsonl(tmp_path / "a.jsonl", both), jsonl(tmp_path / "b.jsonl", both)
    data = load(config(*sources, num_train=10_000, num_eval=10_000))
    assert len(data.train) + len(data.held_out) == 300
    assert len({*train_hashes(data), *hashes(data.held_out)}) == 300


def test_a_task_that_one_source_trains_on_and_another_holds_out_is_the_users_error(tmp_path: Path) -> None:
    first = jsonl(tmp_path / "a.jsonl", [f"task {i}" for i in range(50)])
    folder = tmp_path / "folder"
    folder.mkdir()
    for split, prompts in (("train", ["x", "y"]), ("test", [f"task {i}" for i in range(50)])):
        jsonl(folder / f"{split}.jsonl", prompts)
    with pytest.raises(UserError, match="held-out tasks are among the training tasks"):
        load(config(first, SourceConfig(dataset=str(folder), eval_split="test"), num_eval=100))


@pytest.mark.parametrize(("share", "side"), [(0.0, "held-out"), (1.0, "training")])
@pytest.mark.parametrize("kind", ["generator", "file"])
def test_an_empty_side_is_the_users_error(share: float, side: str, kind: str, tmp_path: Path) -> None:
    source = arithmetic() if kind == "generator" else jsonl(tmp_path / "a.jsonl", ["a", "b"])
    with pytest.raises(UserError, match=f"no {side} task"):
        load(config(source, held_out_share=share))


def test_a_source_that_runs_dry_gives_what_it_has() -> None:
    """reasoning-free: one kind with few operands asks for more tasks than there are."""
    pytest.importorskip("reasoning_gym", reason="the reasoning-gym extra is not installed: make env-reasoning-gym")
    few = SourceConfig(generator="reasoning_gym/prime_factorization", options={"min_value": 2, "max_value": 60})
    data = load(config(few, num_train=5000, num_eval=5000))
    assert 50 <= len(data.train) + len(data.held_out) <= 59
    assert data.held_out


def test_bad_options_of_a_generator_are_the_users_error() -> None:
    for options in ({"kinds": ["nope"]}, {"kinds": []}, {"colour": 3}):
        with pytest.raises(UserError, match="options of generator 'arithmetic'"):
            load(config(SourceConfig(generator="arithmetic", options=options)))


# ---- passes over the training tasks

TASKS = [Task(str(i), "math", (Message(Role.USER, str(i)),)) for i in range(7)]


def drawn(sampler: TaskSampler, count: int) -> list[tuple[int, str]]:
    return [(epoch, task.id) for epoch, task in sampler.next(count)]


def test_every_pass_has_every_task_once_in_its_own_order() -> None:
    got = drawn(TaskSampler(TASKS, seed="3"), 28)
    passes = [[i for epoch, i in got if epoch == e] for e in range(4)]
    assert [sorted(p) for p in passes] == [sorted(t.id for t in TASKS)] * 4
    assert len({tuple(p) for p in passes}) == 4
    assert got == drawn(TaskSampler(TASKS, seed="3"), 28)
    assert got != drawn(TaskSampler(TASKS, seed="4"), 28)


@pytest.mark.parametrize("first", [0, 1, 6, 7, 8, 20])
def test_a_sampler_goes_on_from_its_cursor(first: int) -> None:
    whole = drawn(TaskSampler(TASKS, seed="3"), 28)
    sampler = TaskSampler(TASKS, seed="3")
    begin = drawn(sampler, first)
    assert sampler.cursor == first
    resumed = TaskSampler(TASKS, seed="3", cursor=sampler.cursor)
    assert begin + drawn(resumed, 28 - first) == whole
    assert drawn(sampler, 3) == whole[first : first + 3]


# ---- demonstrations


def example(i: int, *styles: str) -> Example:
    task = TASKS[i % 7]
    return Example(task, tuple(Demonstration(task, Message(Role.ASSISTANT, f"{i} {s}", ""), s) for s in styles))


def test_a_mixture_is_honoured() -> None:
    train = [example(i, "careful", "sloppy") for i in range(7)]
    for mixture in ({"careful": 0.3, "sloppy": 0.7}, {"careful": 3.0, "sloppy": 7.0}):
        picked = list(pick_demonstrations(train, mixture, 2100, "0/a"))
        assert len(picked) == 2100
        assert 560 < sum(d.style == "careful" for d in picked) < 700
        for start in range(0, 2100, 7):  # each pass has every task once
            assert len({d.task.id for d in picked[start : start + 7]}) == 7
    assert {d.style for d in pick_demonstrations(train, {"sloppy": 1.0}, 50, "0/a")} == {"sloppy"}


def test_demonstrations_depend_on_the_seed_alone() -> None:
    train = [example(i, "careful", "sloppy") for i in range(7)]
    mixture = {"careful": 0.5, "sloppy": 0.5}
    first, again, other = (list(pick_demonstrations(train, mixture, 30, s)) for s in ("0/a", "0/a", "1/a"))
    assert first == again != other
    assert list(pick_demonstrations(train, mixture, 12, "0/a")) == first[:12]


def test_without_a_mixture_every_demonstration_comes_once_a_pass() -> None:
    train = [example(0, "careful", "sloppy"), example(1, "careful"), example(2)]
    picked = [d.response.content for d in pick_demonstrations(train, {}, 6, "0/a")]
    assert sorted(picked[:3]) == sorted(picked[3:]) == ["0 careful", "0 sloppy", "1 careful"]


def test_an_unknown_style_and_no_demonstrations_are_the_users_errors() -> None:
    with pytest.raises(UserError, match="got style 'brave'; allowed: careful, sloppy"):
        list(pick_demonstrations([example(0, "careful", "sloppy")], {"careful": 0.5, "brave": 0.5}, 3, "0/a"))
    with pytest.raises(UserError, match="needs demonstrations"):
        list(pick_demonstrations([example(0)], {}, 3, "0/a"))
    with pytest.raises(UserError):
        list(pick_demonstrations([example(0)], {"careful": 1.0}, 3, "0/a"))


def test_tasks_without_the_drawn_style_are_passed_over() -> None:
    train = [example(0, "careful"), example(1, "sloppy")]
    picked = list(pick_demonstrations(train, {"sloppy": 1.0}, 5, "0/a"))
    assert [d.task.id for d in picked] == ["1"] * 5


def test_the_data_hash_ignores_order_and_sees_answers_and_demonstrations() -> None:
    task = TASKS[0]
    shown = Demonstration(task, Message(Role.ASSISTANT, "1"))
    examples = [Example(task, (shown,)), Example(TASKS[1])]
    whole = Data(examples, TASKS[2:]).hash
    assert Data(examples[::-1], TASKS[:1:-1]).hash == whole
    assert Data([Example(task), Example(TASKS[1])], TASKS[2:]).hash != whole
    assert Data([Example(replace(task, answer="other"), (shown,)), Example(TASKS[1])], TASKS[2:]).hash != whole
    assert Data(examples, TASKS[3:]).hash != whole
