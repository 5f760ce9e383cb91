"""Runs with the policy as its own judge: both learn, other judges, staleness, resuming, the gap that stops a run, Ray."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recipes.launch import read_data, start_workers, to_plan
from recipes.load import load
from recipes.report import write_report
from rl.chat import ChatFormat
from rl.collect import Crew
from rl.config import SamplingConfig
from rl.rollout import GroupRequest
from rl.runlog import RunLog, cut_back
from rl.tokenizer import load_tokenizer
from rl.workers import EngineSpec
from specialists.grpo import JudgeGapError
from specialists.judging import judge_part, primary_part
from specialists.progress import Progress
from specialists.specialist import InterruptedRun, Specialist
from tests.chat_endpoint import said, served
from tests.test_run import polymath, rows, without_timings

pytestmark = pytest.mark.slow

RECIPE = """
model:
  init:
    config: {hidden_size: 64, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2, head_dim: 16,
             intermediate_size: 128, tie_word_embeddings: true, max_position_embeddings: 512}
    tokenizer_vocab_size: 320
domain: writing
data:
  sources: [{dataset: tasks.jsonl, columns: {response: response}}]
  held_out_share: 0.2
stages:
  - kind: sft
    name: sft
    steps: 80
    batch_size: 16
    mixture: {careful: 0.5, guess: 0.5}
    max_length: 128
    optimizer: {lr: 1e-2, schedule: cosine}
  - kind: grpo
    name: grpo
    steps: 16
    num_prompts: 2
    group_size: 8
    sampling: {max_tokens: 12}
    optimizer: {lr: 2e-3}
rewards: [{use: "truth.py:truth"}]
judge:
  prompt: short-1
  rubric: [{name: red, text: "red?"}]
  effort: none
  sampling: {max_tokens: 12}
  train: {labels: labels.jsonl, num_prompts: 8}
evaluation: {num_tasks: 80, num_tasks_during: 20, sampling: {max_tokens: 12}}
engine: {max_seq_len: 128}
runtime: {mode: inline, num_threads: 1}
"""
AGAIN = """
extends: judge.yaml
model: {path: %s}
stages: [{kind: grpo, name: more, steps: 2, num_prompts: 2, group_size: 4, sampling: {max_tokens: 12},
          optimizer: {lr: 1e-3}, save_every: 1}]
evaluation: {num_tasks: 12}
judge: {train: {num_prompts: 3}}
"""
TRUTH = 'def truth(transcript):\n    return float(transcript.content == "red")\n'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe in which a colour is written, and judged by whether it is red; written judgements are wrong in three of ten."""
    home, rng = tmp_path_factory.mktemp("judge"), random.Random(0)
    labels, tasks = [], []
    for i in range(200):
        prompt = f"Colour {i}"
        tasks.append({"prompt": prompt, "response": rng.choice(["red", "blue"])})
        for word, right, wrong in (("red", "yes", "no"), ("blue", "no", "yes")):
            guess = right if rng.random() < 0.7 else wrong
            judgements = [{"style": "guess", "verdict": {"red": guess}}]
            labels.append({"prompt": prompt, "response": word, "label": {"red": right}, "judgements": judgements})
    for name, found in (("labels", labels), ("tasks", tasks)):
        (home / f"{name}.jsonl").write_text("\n".join(map(json.dumps, found)))
    (home / "truth.py").write_text(TRUTH)
    (home / "judge.yaml").write_text(RECIPE)
    return home


def run_in(
    home: Path, recipe: str, folder: Path, *changes: str, stop_at: int | None = None, resume: Path | None = None
) -> Specialist:
    """A run in this process, as `polymath run` does it; with `stop_at` it is asked to stop after so many steps in all."""
    plan = to_plan(load(home / recipe, list(changes)))
    folder.mkdir(exist_ok=True)
    (folder / "recipe.yaml").write_text("")
    log = RunLog(folder, attempt=1 if resume else 0)
    specialist = Specialist(plan, read_data(plan), folder, log, lambda: specialist.progress.global_step == stop_at, resume)

    async def inside() -> None:
        workers = await start_workers(plan, lambda event, fields: None)
        try:
            await specialist.train(workers)
        finally:
            assert not await workers.close()
            log.close()

    asyncio.run(inside())
    return specialist


@pytest.fixture(scope="module")
def trained(folder: Path) -> Specialist:
    return run_in(folder, "judge.yaml", folder / "run")


@pytest.fixture(scope="module")
def again(folder: Path, trained: Specialist) -> str:
    """A recipe of a few more steps from the end of the supervised stage, where the model writes verdicts that can be read."""
    (folder / "again.yaml").write_text(AGAIN % (folder / "run" / "checkpoints" / "step-80"))
    return "again.yaml"


def test_writing_and_judging_get_better_together(folder: Path, trained: Specialist) -> None:
    before, after = trained.progress.evaluations
    assert after["judge"]["accuracy"] > before["judge"]["accuracy"]
    assert after["judge"]["truth"] > before["judge"]["truth"] + 0.1
    assert after["judge"]["score"] > before["judge"]["score"]
    found = [row for row in rows(folder / "run", "metrics.jsonl") if row["stage"] == "grpo"]
    accuracy = [row["judge/accuracy"] for row in found]
    assert np.mean(accuracy[-4:]) > np.mean(accuracy[:4]) + 0.1
    for row in found:
        assert {"judge/accuracy", "judge/agreement", "judge/score", "judge/truth", "judge/gap", "judge/malformed_share"} <= set(
            row
        )
        assert row["judge/gap"] == pytest.approx(row["judge/score"] - row["judge/truth"])
        assert (row["num_groups"], row["judge/num_groups"]) == (2, 8)
        assert row["reward_mean"] == pytest.approx((row["reward/truth"] + row["reward/judge"]) / 2)
    assert {"order_consistency", "position_bias", "label_malformed_share", "num_labels"} <= set(after["judge"])
    asked = next(e for e in rows(folder / "run", "events.jsonl") if e["event"] == "judge")
    assert (asked["model"], asked["prompt"]) == ("policy", "short-1")


def test_labels_are_never_on_both_sides(trained: Specialist) -> None:
    data = trained.data
    held_out = {task.problem for task in data.judging_held_out}
    assert held_out.isdisjoint(e.task.problem for e in data.judging)
    assert {task.prompt for task in data.held_out}.isdisjoint(e.task.problem for e in data.judging)
    assert len(data.judging_held_out) > 40


def without(metrics: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "attempt"} for row in without_timings(metrics)]


@pytest.fixture(scope="module")
def whole(folder: Path, again: str) -> Specialist:
    return run_in(folder, again, folder / "whole")


def test_a_run_that_was_stopped_and_resumed_gives_the_same_figures(folder: Path, again: str, whole: Specialist) -> None:
    with pytest.raises(InterruptedRun):
        run_in(folder, again, folder / "parts", stop_at=1)
    checkpoint = folder / "parts" / "checkpoints" / "step-1"
    cut_back(folder / "parts", Progress.read(checkpoint).log)
    parts = run_in(folder, again, folder / "parts", resume=checkpoint)
    one, two = (without(rows(folder / name, "metrics.jsonl")) for name in ("whole", "parts"))
    assert [row["step"] for row in one] == [1, 2]
    assert one == two
    assert parts.progress.evaluations == whole.progress.evaluations


def test_staleness_two_engines_and_several_samples(folder: Path, again: str) -> None:
    changes = ["stages.0.steps=3", "stages.0.max_staleness=1", "runtime.num_rollout_workers=2", "judge.num_samples=2"]
    run_in(folder, again, folder / "stale", *changes)
    found = rows(folder / "stale", "metrics.jsonl")
    assert [row["staleness"] for row in found] == [0, 1, 1]
    assert all("judge/score" in row and "judge/accuracy" in row for row in found)


def test_a_frozen_judge_keeps_its_opinions(folder: Path, again: str) -> None:
    """Its figures on labels are the same to the bit before and after; the policy's own change."""
    changes = [f"judge.model={folder / 'run' / 'checkpoints' / 'step-80'}", "judge.train.num_prompts=0"]
    frozen = run_in(folder, again, folder / "frozen", *changes)
    names = ("accuracy", "agreement", "order_consistency", "position_bias", "label_malformed_share")
    before, after = ([e["judge"][name] for name in names] for e in frozen.progress.evaluations)
    assert before == after
    assert all("judge/score" in row and "judge/accuracy" not in row for row in rows(folder / "frozen", "metrics.jsonl"))


def test_a_gap_that_is_too_wide_stops_the_run_and_keeps_what_was_learned(folder: Path, again: str) -> None:
    with pytest.raises(
        JudgeGapError, match=r"step 1: the judge's mean score .* above the mean .* of truth, .*max_gap -2"
    ) as error:
        run_in(folder, again, folder / "gap", "judge.max_gap=-2")
    assert "please the judge" in str(error.value)


def test_without_other_rewards_the_judge_decides_alone(folder: Path, again: str) -> None:
    alone = run_in(folder, again, folder / "alone", "rewards=[]", "stages.0.steps=1")
    assert alone.primary == "judge"
    (row,) = rows(folder / "alone", "metrics.jsonl")
    assert row["reward_mean"] == row["reward/judge"] == row["judge/score"]
    assert "judge/gap" not in row


# ---- what a crew does


def crew_of(home: Path, recipe: str, work: Callable[[Crew], Any], *changes: str) -> Any:
    plan = to_plan(load(home / recipe, list(changes)))

    async def inside() -> Any:
        workers = await start_workers(plan, lambda event, fields: None)
        part = judge_part(plan.judge, plan.rewards)
        crew = Crew(workers.rollouts, workers.rewards, primary_part(plan.rewards, plan.judge), 60.0, part, workers.judges)
        try:
            await crew.open(EngineSpec(str(plan.model.path), plan.model, plan.engine, 60.0))
            return await work(crew)
        finally:
            await workers.close()

    return asyncio.run(inside())


def test_judgements_do_not_depend_on_how_work_is_dealt_out(folder: Path, again: str, trained: Specialist) -> None:
    tasks = trained.data.held_out[:6]
    sampling = trained.plan.evaluation.sampling

    async def groups(crew: Crew) -> Any:
        return (await crew.groups([GroupRequest(task, 0, 2, sampling, "0/x") for task in tasks])).groups

    one, two = (crew_of(folder, again, groups, f"runtime.num_rollout_workers={n}") for n in (1, 2))
    for a, b in zip(one, two, strict=True):
        for x, y in zip(a.members, b.members, strict=True):
            assert np.array_equal(x.trajectory.token_ids, y.trajectory.token_ids)
            assert x.judgement == y.judgement
            assert x.reward.score == y.reward.score
    assert any(m.judgement.score is not None for g in one for m in g.members)


def test_an_answer_that_leaves_no_room_for_its_judgement_is_a_failed_score(
    folder: Path, again: str, trained: Specialist
) -> None:
    tasks, sampling = trained.data.held_out[:4], SamplingConfig(max_tokens=4)
    chat = ChatFormat(load_tokenizer(folder / "run" / "checkpoints" / "step-80"))
    room = max(len(chat.prompt_ids(task.messages, task.effort)) for task in tasks) + 4

    async def groups(crew: Crew) -> Any:
        return (await crew.groups([GroupRequest(task, 0, 2, sampling, "0/x") for task in tasks])).groups

    small = ["judge.sampling.max_tokens=4", "evaluation.sampling.max_tokens=4", "stages.0.sampling.max_tokens=4"]
    found = crew_of(folder, again, groups, f"engine.max_seq_len={room}", *small)
    errors = {m.reward.error for g in found for m in g.members}
    assert all(error is not None and "leaves no room in engine.max_seq_len" in error for error in errors)


# ---- elsewhere


def test_an_endpoint_judges_a_run_and_its_key_is_written_nowhere(
    folder: Path, again: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "s3cret-key")
    with served([(200, said("red: yes"))]) as (url, seen):
        model = f"judge.model={{endpoint: '{url}', name: big, api_key_env: JUDGE_KEY}}"
        run_in(folder, again, folder / "endpoint", model, "judge.train.num_prompts=0", "stages.0.steps=1")
    (row,) = rows(folder / "endpoint", "metrics.jsonl")
    assert (row["judge/score"], row["judge/malformed_share"]) == (1.0, 0.0)
    assert {key for _, key, _ in seen} == {"Bearer s3cret-key"}
    texts = [path.read_bytes() for path in (folder / "endpoint").rglob("*") if path.is_file()]
    assert not [text for text in texts if b"s3cret-key" in text]


def test_eval_gives_the_figures_that_the_run_ended_with(folder: Path, again: str, whole: Specialist) -> None:
    last = folder / "whole" / "checkpoints" / "last"
    out = polymath(folder, "eval", str(last), str(folder / again), "--json")
    assert json.loads(out[out.index("{") :])["judge"] == whole.progress.evaluations[-1]["judge"]


def test_the_report_shows_the_judge_before_and_after(folder: Path, trained: Specialist) -> None:
    (folder / "run" / "recipe.yaml").write_text((folder / "judge.yaml").read_text())
    page = write_report(folder / "run").read_text()
    told = [json.loads(line) for line in sorted((folder / "run" / "evaluations").iterdir())[0].read_text().splitlines()]
    assert any("red: " in row["judge"] for row in told)
    for words in ("accuracy on labels", "score above truth", "position bias", "Judge against the truth"):
        assert words in page


def test_on_ray_the_judge_gives_the_same_figures(folder: Path, again: str, whole: Specialist) -> None:
    (folder / "ray").mkdir()
    polymath(folder / "ray", "run", str(folder / again), "runtime.mode=ray")
    assert without(rows(folder / "ray" / "runs" / "again", "metrics.jsonl")) == without(rows(folder / "whole", "metrics.jsonl"))


@pytest.mark.full
def test_a_frozen_judge_on_ray_has_a_worker_of_its_own(folder: Path, again: str) -> None:
    (folder / "ray_frozen").mkdir()
    changes = [f"judge.model={folder / 'run' / 'checkpoints' / 'step-80'}", "judge.train.num_prompts=0"]
    polymath(folder / "ray_frozen", "run", str(folder / again), "runtime.mode=ray", *changes)
    inline = run_in(folder, again, folder / "inline_frozen", *changes)
    summary = json.loads((folder / "ray_frozen" / "runs" / "again" / "summary.json").read_text())
    assert summary["eval"]["after"]["judge"] == inline.progress.evaluations[-1]["judge"]
    started = rows(folder / "ray_frozen" / "runs" / "again", "events.jsonl")[0]
    assert started["workers"]["judge workers"] == 1
