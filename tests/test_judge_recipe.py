"""A recipe's judge: what is refused and how it is said, labels read and split, and what makes a recipe another one."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import cast

import pytest

from recipes.check import check_files
from recipes.launch import read_data, to_plan
from recipes.load import LoadedRecipe, load, resolved_yaml
from recipes.plan import plan
from recipes.tree import RecipeError
from rewards.errors import UserError
from specialists.config import SftConfig
from specialists.data import pick_demonstrations
from specialists.labels import LABELS

SMALL = """
model: {path: a/b}
data: {sources: [{dataset: tasks.jsonl}]}
stages: [{kind: grpo, steps: 10, num_prompts: 2, group_size: 4, sampling: {max_tokens: 100}}]
rewards: [{use: rewards.math:verify, weight: 0}]
evaluation: {num_tasks: 10, sampling: {max_tokens: 100}}
"""
JUDGE = "judge: {rubric: [{name: red, text: 'Red?'}], train: {labels: labels.jsonl, held_out_share: 0.3}}\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    tasks = [{"prompt": f"task {i}", "answer": "red"} for i in range(40)]
    (tmp_path / "tasks.jsonl").write_text("\n".join(map(json.dumps, tasks)))
    labels = [
        {"prompt": f"label {i}", "response": word, "label": {"red": "yes" if word == "red" else "no"}}
        for i in range(40)
        for word in ("red", "blue")
    ]
    (tmp_path / "labels.jsonl").write_text("\n".join(map(json.dumps, labels)))
    return tmp_path


def recipe(part: str = JUDGE, *changes: str) -> LoadedRecipe:
    Path("r.yaml").write_text(SMALL + part)
    return load("r.yaml", changes)


BAD = {
    "text": ("judge: 3", "judge: got 3; allowed: a mapping"),
    "key": ("judge: {wieght: 1}", "judge.wieght: unknown key", "did you mean weight?"),
    "no name": ("judge: {model: {endpoint: http://x}}", "judge.model.name: missing"),
    "endpoint key": (
        "judge: {model: {endpoint: http://x, name: m, nam: m}}",
        "judge.model.nam: unknown key; allowed: endpoint,",
    ),
    "address": ("judge: {model: {endpoint: x, name: m}}", 'judge.model.endpoint: got "x"; allowed: http://'),
    "model": ("judge: {model: 7}", "judge.model: got 7; allowed: text"),
    "no model": ("judge: {model: ./nowhere}", 'judge.model: got "./nowhere", no such folder'),
    "prompt": ("judge: {prompt: rubrik-1}", "judge.prompt: got 'rubrik-1'; allowed: one of rubric-1, short-1"),
    "criterion": ("judge: {rubric: [{name: a}]}", "judge.rubric.0.text: missing"),
    "name": ("judge: {rubric: [{name: 'a:', text: x}]}", "judge.rubric.0.name: got 'a:'; allowed: letters"),
    "choices": ("judge: {rubric: [{name: a, text: x, choices: {no: 0}}]}", "judge.rubric.0.choices: got {'no': 0.0}; allowed:"),
    "value": (
        "judge: {rubric: [{name: a, text: x, choices: {no: yes}}]}",
        'judge.rubric.0.choices.no: got "yes"; allowed: a number',
    ),
    "weight": ("judge: {weight: 0}", "judge.weight: got 0 where no reward has a weight"),
    "labels": ("judge: {train: {labels: lables.jsonl}}", "judge.train.labels: cannot read 'lables.jsonl': No such file"),
    "no labels": ("judge: {train: {}}", "judge.train.labels: missing"),
    "other model": ("judge: {model: a/b, train: {labels: labels.jsonl}}", "judge.train.num_prompts: got 4 with another model"),
    "long": (
        "judge: {sampling: {max_tokens: 4000}}",
        "judge.sampling.max_tokens: got 4000; allowed: at most engine.max_seq_len",
    ),
    "domain": ("judge: {}\ndomain: judge", "domain: got judge, which is that of judging tasks"),
    "nothing counts": ("seed: 1", "rewards: every weight is 0, which only measures"),
    "vllm": ("judge: {model: a/b}\nengine: vllm\nruntime: inline", 'judge.model: got "a/b" with vllm'),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_with_a_judge_is_named(case: str) -> None:
    part, *pieces = BAD[case]
    with pytest.raises(RecipeError) as error:
        check_files(recipe(part))
    assert str(error.value).startswith("r.yaml:")
    for piece in pieces:
        assert piece in str(error.value)


@pytest.mark.parametrize(
    ("use", "gap", "words"),
    [("[{use: mine.py:judge}]", "null", "a function called judge"), ("[]", "0.2", "judge.max_gap: got 0.2; allowed: beside a")],
)
def test_rewards_beside_a_judge(use: str, gap: str, words: str) -> None:
    text = SMALL.replace("[{use: rewards.math:verify, weight: 0}]", use) + f"judge: {{max_gap: {gap}}}\n"
    Path("r.yaml").write_text(text)
    with pytest.raises(RecipeError, match=words):
        load("r.yaml")


def test_a_judge_alone_is_enough_and_the_recipe_comes_back_as_it_was() -> None:
    loaded = recipe(JUDGE, "rewards=[]")
    check_files(loaded)
    Path("again.yaml").write_text(resolved_yaml(loaded.recipe))
    assert load("again.yaml").recipe.judge == loaded.recipe.judge


def test_labels_are_split_by_prompt_the_same_way_for_every_seed() -> None:
    one, two = (read_data(to_plan(recipe(JUDGE, f"seed={seed}"))) for seed in (0, 1))
    sides = [{e.task.problem for e in one.judging}, {t.problem for t in one.judging_held_out}]
    assert sides[0].isdisjoint(sides[1])
    assert len(sides[0] | sides[1]) == 40
    assert 4 < len(sides[1]) < 22
    assert len(one.judging) + len(one.judging_held_out) == 80, "both responses to a prompt are on its side"
    assert one.judging_held_out == two.judging_held_out
    assert [e.task.id for e in one.judging] != [e.task.id for e in two.judging]
    assert sorted(e.task.id for e in one.judging) == sorted(e.task.id for e in two.judging)
    assert one.hash == two.hash


def test_a_generator_of_labels_gives_the_same_held_out_ones_for_every_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    def toy(rng: random.Random, *, words: int = 40) -> dict[str, object]:
        return {"prompt": f"word {rng.randrange(words)}", "response": rng.choice(["a", "b"]), "label": rng.choice([0, 1])}

    monkeypatch.setitem(cast("dict[str, object]", LABELS), "toy", toy)
    changes = ["judge.train.labels=toy", "judge.train.num_labels=30", "judge.train.num_held_out=10"]
    one, two = (read_data(to_plan(recipe(JUDGE, *changes, f"seed={seed}"))) for seed in (0, 1))
    assert (len(one.judging), len(one.judging_held_out)) == (30, 10)
    assert {e.task.problem for e in one.judging}.isdisjoint(t.problem for t in one.judging_held_out)
    assert one.judging_held_out == two.judging_held_out
    assert one.judging != two.judging
    dry = read_data(to_plan(recipe(JUDGE, *changes, "judge.train.options={words: 8}")))  # it has 16 labels in all
    assert len(dry.judging) + len(dry.judging_held_out) == 16
    with pytest.raises(UserError, match=r"judge\.train\.options: toy: .*wrods"):
        read_data(to_plan(recipe(JUDGE, *changes, "judge.train.options={wrods: 8}")))


def test_a_label_whose_prompt_is_a_held_out_task_is_held_out(folder: Path) -> None:
    plain = read_data(to_plan(recipe()))
    asked = plain.held_out[0].prompt
    row = {"prompt": asked, "response": "red", "label": {"red": "yes"}}
    (folder / "labels.jsonl").write_text((folder / "labels.jsonl").read_text() + "\n" + json.dumps(row))
    data = read_data(to_plan(recipe()))
    assert asked in {t.problem for t in data.judging_held_out}
    assert asked not in {e.task.problem for e in data.judging}


def test_written_judgements_are_demonstrations_under_their_styles(folder: Path) -> None:
    rows = [
        {
            "prompt": f"label {i}", "response": "red", "label": {"red": "yes"},
            "judgements": [{"style": "careful_judge", "reasoning": "It is."}, {"style": "wrong", "verdict": {"red": "no"}}],
        }
        for i in range(20)
    ]  # fmt: skip
    (folder / "labels.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = read_data(to_plan(recipe(JUDGE, "judge.prompt=short-1")))
    picked = list(pick_demonstrations(data.judging, {"careful_judge": 1.0}, 3, "s"))
    assert {(d.response.reasoning, d.response.content) for d in picked} == {("It is.", "red: yes")}
    picked = list(pick_demonstrations(data.judging, {"wrong": 1.0}, 3, "s"))
    assert {d.response.content for d in picked} == {"red: no"}
    data = read_data(to_plan(recipe(JUDGE, "judge.effort=none")))  # rubric-1: the reasoning is open, the verdict marked
    (found,) = {d.response.content for d in pick_demonstrations(data.judging[:1], {"careful_judge": 1.0}, 1, "s")}
    marker = data.judging[0].task.data["marker"]
    assert found == f"It is.\n{marker}\nred: yes"
    assert data.judging[0].task.prompt.endswith(marker)
    with pytest.raises(UserError, match=r"a reasoning, which has no place where judge\.effort is none"):
        read_data(to_plan(recipe(JUDGE, "judge.effort=none", "judge.prompt=short-1")))


def test_styles_of_judgements_count_as_the_datas_own(folder: Path) -> None:
    rows = [{"prompt": "p", "response": "r", "label": 1, "judgements": [{"style": "careful_judge", "verdict": {"red": "yes"}}]}]
    (folder / "labels.jsonl").write_text("\n".join(map(json.dumps, rows)))
    stages = "stages: [{kind: sft, mixture: {%s: 1}}]\n"
    text = SMALL.replace("dataset: tasks.jsonl", "dataset: tasks.jsonl, columns: {response: answer}")
    for style in ("careful_judge", "careful_jugde"):
        Path("r.yaml").write_text(
            "\n".join(line for line in text.splitlines() if "stages" not in line) + "\n" + stages % style + JUDGE
        )
        loaded = load("r.yaml")
        assert isinstance(loaded.recipe.stages[0], SftConfig)
        if style == "careful_judge":
            check_files(loaded)
        else:
            with pytest.raises(RecipeError, match=r"mixture.careful_jugde: unknown style; .*did you mean careful_judge"):
                check_files(loaded)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", r"labels\.jsonl:1: not JSON"),
        ("3", r"labels\.jsonl:1: got 3; allowed: a mapping"),
        ('{"prompt": "p"}', r"labels\.jsonl:1: response is missing"),
        ('{"prompt": "p", "response": "r", "label": {"red": "maybe"}}', r"labels\.jsonl:1: label: got 'maybe' for red"),
        ('{"prompt": "p", "response": "r", "label": 1, "judgements": [{}]}', "no choice for red; write a verdict"),
        ('{"prompt": "p", "response": "r", "label": 1, "judgements": 7}', "judgements: got 7"),
        ('{"prompt": "p", "response": "r", "label": 1}', "got [01] training and [01] held-out labels"),
    ],
)
def test_labels_that_cannot_be_used_are_the_users_error(folder: Path, line: str, words: str) -> None:
    (folder / "labels.jsonl").write_text(line)
    with pytest.raises(UserError, match=words):
        read_data(to_plan(recipe()))


def test_tasks_without_a_rubric_are_found_before_anything_runs(folder: Path) -> None:
    with pytest.raises(UserError, match=r"task .*: no rubric; write judge\.rubric in the recipe"):
        read_data(to_plan(recipe("judge: {}\n")))
    rows = [{"prompt": f"task {i}", "rubric": [{"name": "a", "text": "?", "choices": {"no": 0}}]} for i in range(9)]
    (folder / "tasks.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match=r"task .*: rubric\.0\.choices: got"):
        read_data(to_plan(recipe("judge: {}\n")))


def test_an_edited_prompt_is_another_recipe_and_the_gap_may_change(folder: Path) -> None:
    (folder / "mine.txt").write_text("$question $answer $criteria")
    first = to_plan(recipe(JUDGE, "judge.prompt=mine.txt")).recipe_hash
    assert to_plan(recipe(JUDGE, "judge.prompt=mine.txt", "judge.max_gap=0.1")).recipe_hash == first
    assert to_plan(recipe(JUDGE, "judge.prompt=mine.txt", "judge.num_samples=2")).recipe_hash != first
    (folder / "mine.txt").write_text("$question! $answer $criteria")
    assert to_plan(recipe(JUDGE, "judge.prompt=mine.txt")).recipe_hash != first


def test_the_plan_counts_what_the_judge_samples_and_learns_from() -> None:
    """10 steps of 8 completions of 100 tokens; a verdict for each, and 4 labels with 4 completions, of 50 tokens."""
    small = ("judge.sampling.max_tokens=50", "judge.num_samples=2", "judge.train.num_held_out=5")
    start, stage = plan(recipe(JUDGE, *small).recipe).stages
    assert stage.train_tokens == 10 * (8 * 100 + 4 * 4 * 50)
    evaluation = 10 * (100 + 2 * 50) + 2 * 5 * 50
    assert start.sampled_tokens == evaluation
    assert stage.sampled_tokens == stage.train_tokens + 10 * 8 * 2 * 50 + evaluation
    assert "a judge" in stage.what
