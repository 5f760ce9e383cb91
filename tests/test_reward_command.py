"""`polymath reward`: a reward tried on completions, and a recipe's rewards audited; through the command line itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recipes.cli import main
from recipes.load import load, resolved_yaml
from recipes.reward_samples import data_of

GOOD = "def right(task, completion):\n    return float(completion.rpartition('</think>')[2].strip() == task.answer)\n"
GULLIBLE = "def right(task, completion):\n    return float(task.answer in completion)\n"
RECIPE = """
extends: math
data: {num_train: 40, num_eval: 10}
rewards: [{use: mine.py:right}]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


def documents(capsys: pytest.CaptureFixture[str]) -> object:
    return json.loads(capsys.readouterr().out)


def test_a_reward_is_tried_on_demonstrations_and_empty_answers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "mine.py").write_text(GOOD)
    assert main(["reward", "try", "mine.py:right", "--num", "6", "--json"]) == 0
    rows = documents(capsys)
    assert [(row["what"], row["score"]) for row in rows if row["what"] != "sloppy"] == [
        ("careful", 1.0), ("empty", 0.0), ("careful", 1.0), ("empty", 0.0)
    ]  # fmt: skip
    assert all(row["seconds"] > 0 for row in rows)


def test_what_goes_wrong_is_shown_with_the_users_own_lines(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "mine.py").write_text("def right(completion):\n    return float(completion == nothing_known)\n")
    assert main(["reward", "try", "mine.py:right", "--num", "2"]) == 1
    out = capsys.readouterr().out
    assert "2 of 2 could not be scored" in out
    assert "NameError: name 'nothing_known' is not defined" in out
    assert "line 2, in right" in out
    assert "rewards/" not in out


def test_options_reach_the_reward_and_a_wrong_one_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "mine.py").write_text("def size(completion, scale):\n    return len(completion) / scale\n")
    assert main(["reward", "try", "mine.py:size", "scale=4", "--completion", "abcd", "--num", "1", "--json"]) == 0
    assert [row["score"] for row in documents(capsys)] == [1.0]
    assert main(["reward", "try", "mine.py:size", "scael=4", "--num", "1"]) == 2
    assert "did you mean 'scale'?" in capsys.readouterr().err


def test_a_sound_recipe_passes_its_audit(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "mine.py").write_text(GOOD)
    assert main(["reward", "audit", "recipe.yaml", "--num-attacked", "1", "--json"]) == 0
    found = documents(capsys)
    assert found["problems"] == []
    assert found["families"]["gold answers"]["tried"] == 50
    assert len(found["families"]) > 4


def test_a_gullible_reward_and_a_wrong_gold_answer_are_found(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "mine.py").write_text(GULLIBLE)
    assert main(["reward", "audit", "recipe.yaml", "--num-attacked", "1"]) == 1
    assert "answer dumps, every number" in (out := capsys.readouterr().out)
    assert "do not train on this yet" in out
    assert str(folder) not in out  # files are called as the recipe calls them
    (folder / "mine.py").write_text("def right():\n    return 0.0\n")
    assert main(["reward", "audit", "recipe.yaml", "--num-tasks", "3", "--num-attacked", "1", "--json"]) == 1
    assert {problem["family"] for problem in documents(capsys)["problems"]} == {"gold answers"}


def test_an_answer_that_cannot_be_scored_is_a_problem(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "mine.py").write_text(GOOD.replace("return", "assert completion, 'empty'\n    return"))
    assert main(["reward", "audit", "recipe.yaml", "--num-tasks", "2", "--num-attacked", "1", "--json"]) == 1
    problems = documents(capsys)["problems"]
    assert {problem["completion"] for problem in problems} == {""}
    assert all("no score" in problem["problem"] for problem in problems)


def test_transcripts_of_a_run_are_scored_with_their_tasks(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "mine.py").write_text(GOOD)
    loaded = load("recipe.yaml", ())
    run, tasks = folder / "runs" / "some-1", data_of(loaded).held_out
    (run / "evaluations").mkdir(parents=True)
    (run / "recipe.yaml").write_text(resolved_yaml(loaded.recipe))
    said = {"finish_reason": "stop", "num_tokens": 3}
    rows = [{"task_id": t.id, "prompt": t.prompt, "completion": f"<think></think>{t.answer}", **said} for t in tasks]
    for name, text in (("7-base", "no idea"), ("30-grpo", None)):
        lines = [json.dumps(row | ({"completion": text} if text else {})) for row in rows]
        (run / "evaluations" / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    assert main(["reward", "try", "mine.py:right", "--run", "some-1", "--num", "12", "--json"]) == 0
    found = documents(capsys)
    assert [row["score"] for row in found] == [1.0] * 10 + [0.0] * 2  # the newest first
    assert {row["what"] for row in found} == {"recorded"}
    (run / "evaluations" / "30-grpo.jsonl").write_text(json.dumps(rows[0] | {"task_id": "gone"}) + "\n")
    (run / "evaluations" / "7-base.jsonl").unlink()
    assert main(["reward", "try", "mine.py:right", "--run", "some-1"]) == 2
    assert "none of the 1 transcripts" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["reward", "try", "mine.py:right", "--num", "0"], "--num: got 0; allowed: a whole number more than 0"),
        (["reward", "try", "nowhere.py:right"], "no such file"),
        (["reward", "audit", "nowhere"], "nowhere"),
        (["reward", "audit", "math", "rewards=[]", "stages=[]"], "got []"),
    ],
)
def test_mistakes_are_named_without_a_traceback(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
