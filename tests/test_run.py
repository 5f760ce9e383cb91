"""Whole runs through the command line: inline against Ray, the run's folder, own data and rewards, interruption, failures."""

from __future__ import annotations

import html
import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from recipes.launch import run_recipe
from recipes.load import load

ROOT = Path(__file__).resolve().parents[1]
SMALL = [
    "runtime.num_threads=1",
    "data.num_train=200",
    "data.num_eval=40",
    "evaluation.num_tasks=30",
    "evaluation.num_tasks_during=10",
    "evaluation.sampling.max_tokens=12",
    "stages.base.steps=6",
    "stages.cold_start.steps=3",
    "stages.grpo.steps=3",
    "stages.grpo.num_prompts=4",
    "stages.grpo.group_size=4",
    "stages.grpo.sampling.max_tokens=12",
    "stages.grpo.eval_every=2",
]
DIGITS = """
def digits(task, completion):
    text = completion.removeprefix("<think>")
    return sum(c.isdigit() for c in text) / max(1, len(text))
"""
FULL = partial(pytest.param, marks=pytest.mark.full)
pytestmark = pytest.mark.slow


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    """`polymath WORDS` in `folder`, without the environment's own settings for threads."""
    return subprocess.Popen(
        [sys.executable, "-m", "recipes", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def polymath(folder: Path, *words: str, code: int = 0) -> str:
    process = start(folder, *words)
    out, err = process.communicate(timeout=800)
    assert process.returncode == code, err[-3000:] + out[-1000:]
    return out + err


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def without_timings(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if not k.endswith("_s")} for row in found]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The maths recipe with a reward that a random model can learn."""
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "my_rewards.py").write_text(DIGITS)
    text = "extends: math\nname: tiny\nrewards:\n  - use: my_rewards.py:digits\n  - {use: rewards.math:verify, weight: 0.1}\n"
    (folder / "tiny.yaml").write_text(text)
    return folder / "tiny.yaml"


@pytest.fixture(scope="module")
def runs(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One run inline, one on Ray, of the same recipe and seed."""
    found = {}
    for mode in ("inline", "ray"):
        folder = tmp_path_factory.mktemp(mode)
        polymath(folder, "run", str(recipe), f"runtime={mode}", *SMALL)
        found[mode] = folder / "runs" / "tiny"
    return found


def test_inline_and_ray_give_the_same_metrics(runs: dict[str, Path]) -> None:
    inline, ray = (without_timings(rows(runs[mode], "metrics.jsonl")) for mode in ("inline", "ray"))
    assert [r["stage"] for r in inline] == ["base"] * 6 + ["cold_start"] * 3 + ["grpo"] * 3
    assert inline == ray
    evaluations = [
        [r for r in without_timings(rows(runs[mode], "events.jsonl")) if r["event"] in ("evaluation", "sample", "data")]
        for mode in ("inline", "ray")
    ]
    assert evaluations[0] == evaluations[1]
    assert any(r["num_groups_without_signal"] < 4 for r in inline if r["stage"] == "grpo")
    weights = [
        AutoModelForCausalLM.from_pretrained(runs[mode] / "checkpoints" / "last").state_dict() for mode in ("inline", "ray")
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_run_folder_has_what_people_use(runs: dict[str, Path]) -> None:
    run = runs["ray"]
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "done"
    for side in ("before", "after"):
        assert set(summary["eval"][side]) == {"accuracy", "num_tasks", "mean_completion_tokens"}
        assert summary["eval"][side]["num_tasks"] == 30
    assert [e["stage"] for e in summary["eval"]["stages"]] == ["base", "cold_start", "grpo"]
    assert summary["wall_s"] > 0
    assert summary["tokens_per_s"] > 0
    trained = [row for row in rows(run, "metrics.jsonl") if "sampler_gap" in row]
    found = summary["mismatch"]
    assert (found["engine"], found["dtype"]) == ("torch", "float32")
    assert found["num_tokens"] == sum(row["num_loss_tokens"] for row in trained) > 0
    assert 0 < found["mean"] < found["p99"] < 1e-4
    assert found["masked_share"] == found["truncated_weight_share"] == 0
    assert found["fresh"] == {key: found[key] for key in ("mean", "p99", "num_tokens")}
    assert "Sampler against trainer: engine torch, float32; mean gap" in (run / "report.html").read_text()
    manifest = json.loads((run / "manifest.json").read_text())
    assert (manifest["domain"], manifest["step"], manifest["stage"]) == ("math", 12, "run")
    steps = sorted(p.name for p in (run / "checkpoints").iterdir())
    assert steps == ["best", "last", "step-0", "step-11", "step-12", "step-6", "step-9"]  # 11: the best until then
    assert list((run / "tensorboard").iterdir())
    assert (run / "report.html").read_text().startswith("<!DOCTYPE html>")
    kept = {p.name: rows(p.parent, p.name) for p in (run / "evaluations").iterdir()}
    assert {name: len(found) for name, found in kept.items()} == {
        f"{n}.jsonl": 24 for n in ("6-base", "9-cold_start", "12-grpo")
    }
    assert [r["task_id"] for r in kept["6-base.jsonl"]] == [r["task_id"] for r in kept["12-grpo.jsonl"]]
    parent = json.loads((run / "checkpoints" / "last" / "manifest.json").read_text())["parents"][0]
    assert parent.endswith("step-9")
    assert manifest["tokenizer_fingerprint"]


def test_the_last_checkpoint_loads_with_transformers_and_gives_the_same_logits(runs: dict[str, Path]) -> None:
    """What transformers computes from the folder is what the engine sampled from: its log-probabilities say so."""
    folder = runs["inline"] / "checkpoints" / "last"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    from rl.config import ModelConfig
    from rl.policy import load_policy

    policy = load_policy(folder, ModelConfig(path=str(folder)))
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "What is 2 + 2?"}], add_generation_prompt=True)[
        "input_ids"
    ]
    assert tokenizer.decode(ids).endswith("<think>")
    with torch.no_grad():
        expected = model(input_ids=torch.tensor([ids])).logits
        assert torch.equal(policy.model(input_ids=torch.tensor([ids])).logits, expected)
        torch.testing.assert_close(policy.head.logits(policy.hidden_states(torch.tensor([ids]))), expected)


def test_a_second_run_gets_its_own_folder(runs: dict[str, Path], recipe: Path) -> None:
    home = runs["inline"].parent.parent
    polymath(home, "run", str(recipe), "runtime=inline", *SMALL, "stages.grpo.steps=1")
    assert (home / "runs" / "tiny").readlink() == Path("tiny-2")
    assert json.loads((home / "runs" / "tiny-1" / "summary.json").read_text())["status"] == "done"


def test_eval_and_chat_use_a_finished_run(runs: dict[str, Path], recipe: Path) -> None:
    home = runs["inline"].parent.parent
    out = polymath(home, "eval", "runs/tiny-1", str(recipe), "runtime=inline", *SMALL, "--json")
    result = json.loads(out[out.index("{") :])
    summary = json.loads((home / "runs" / "tiny-1" / "summary.json").read_text())
    assert result["accuracy"] == summary["eval"]["after"]["accuracy"]
    assert result["mean_completion_tokens"] == summary["eval"]["after"]["mean_completion_tokens"]
    sampled = ["evaluation.num_samples=4", "evaluation.sampling.temperature=1.0"]
    out = polymath(home, "eval", "runs/tiny-1", str(recipe), "runtime=inline", *SMALL, *sampled, "--json")
    assert set(json.loads(out[out.index("{") :])["pass_at_k"]) == {"1", "2", "4"}


def test_own_jsonl_data_on_top_of_a_run(runs: dict[str, Path], tmp_path: Path) -> None:
    data = [{"question": f"Say {i}.", "gold": str(i), "worked": f"{i}"} for i in range(80)]
    (tmp_path / "mine.jsonl").write_text("\n".join(json.dumps(d) for d in data))
    (tmp_path / "mine.yaml").write_text(
        f"""
model: {runs["inline"].resolve()}
data:
  sources:
    - dataset: mine.jsonl
      columns: {{prompt: question, answer: gold, response: worked}}
  held_out_share: 0.3
stages:
  - {{kind: sft, name: sft, steps: 2, batch_size: 4}}
  - {{kind: grpo, name: grpo, steps: 1, num_prompts: 2, group_size: 2, sampling: {{max_tokens: 8}}}}
rewards:
  - use: rewards.math:verify
evaluation: {{num_tasks: 10, sampling: {{max_tokens: 8}}}}
runtime: {{mode: inline, num_threads: 1}}
"""
    )
    polymath(tmp_path, "run", "mine.yaml")
    stages = [e["stage"] for e in json.loads((tmp_path / "runs/mine/summary.json").read_text())["eval"]["stages"]]
    assert stages == ["start", "sft", "grpo"]


@pytest.mark.parametrize(("mode", "stage"), [("inline", "grpo"), ("ray", "grpo"), ("inline", "base"), FULL("ray", "base")])
def test_ctrl_c_keeps_what_was_learned_and_exits_130(recipe: Path, tmp_path: Path, mode: str, stage: str) -> None:
    """As a terminal sends it: to every process of the foreground group, Ray's included."""
    process = start(tmp_path, "run", str(recipe), f"runtime={mode}", *SMALL, f"stages.{stage}.steps=5000")
    metrics = tmp_path / "runs" / "tiny-1" / "metrics.jsonl"
    deadline = time.monotonic() + 600
    while not (metrics.exists() and f'"{stage}"' in metrics.read_text()):
        assert process.poll() is None, process.communicate()[1][-2000:]
        assert time.monotonic() < deadline, f"the run never reached {stage}"
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 130, err[-2000:]
    assert "Traceback" not in out + err
    summary = json.loads((tmp_path / "runs" / "tiny-1" / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    assert "The run was interrupted" in (tmp_path / "runs" / "tiny-1" / "report.html").read_text()
    kept = Path(summary["checkpoint"])
    assert int(kept.name.removeprefix("step-")) > (9 if stage == "grpo" else 0)
    assert f"resume {kept.parents[1]}" in out + err
    AutoModelForCausalLM.from_pretrained(tmp_path / kept)
    assert str(kept) in out + err
    leftovers = [p.name for p in (tmp_path / kept).parent.iterdir() if p.name.startswith(".")]
    assert not leftovers


@pytest.mark.parametrize("mode", ["inline", FULL("ray")])
def test_a_reward_that_fails_too_often_stops_the_run_with_its_reason(tmp_path: Path, mode: str) -> None:
    (tmp_path / "bad.py").write_text("def broken(task, completion):\n    return 1 / 0\n")
    (tmp_path / "r.yaml").write_text("extends: math\nrewards: [{use: bad.py:broken}]\n")
    text = polymath(tmp_path, "run", "r.yaml", f"runtime={mode}", *SMALL, code=1)
    assert "could not be scored" in text
    events = rows(tmp_path / "runs" / "r", "events.jsonl")
    failed = next(e for e in events if e["event"] == "failed")
    assert "ZeroDivisionError" in failed["error"]
    assert "The run failed" in (tmp_path / "runs" / "r" / "report.html").read_text()
    assert "Traceback" not in text.replace(failed["error"], "")


def test_user_errors_leave_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "r.yaml").write_text("extends: math\ndata: {sources: [{dataset: empty.jsonl, columns: {response: worked}}]}\n")
    text = polymath(tmp_path, "run", "r.yaml", code=2)
    assert text.startswith("error: ")
    assert "empty" in text
    assert "Traceback" not in text


def test_a_report_that_cannot_be_written_changes_nothing_else(tmp_path: Path) -> None:
    from recipes.launch import _report
    from rl.runlog import RunLog

    log = RunLog(tmp_path)
    (tmp_path / "report.html").mkdir()
    assert _report(tmp_path, log) is None
    log.close()
    assert "a folder" in rows(tmp_path, "events.jsonl")[-1]["error"]


def test_the_name_of_a_run_never_means_an_untrained_model(tmp_path: Path) -> None:
    from recipes.launch import _Linker

    for number in (1, 2):
        (tmp_path / f"q-{number}").mkdir()
        link = _Linker(tmp_path / f"q-{number}")
        before = (tmp_path / "q").readlink() if number == 2 else None
        link({"event": "checkpoint", "global_step": 0})
        assert (tmp_path / "q").is_symlink() is (number == 2)
        assert before is None or (tmp_path / "q").readlink() == before
        link({"event": "checkpoint", "global_step": 5})
        assert (tmp_path / "q").readlink() == Path(f"q-{number}")


def test_rewards_that_hang_or_crash_cost_their_samples_alone(tmp_path: Path) -> None:
    (tmp_path / "unsafe.py").write_text(
        "import os\n"
        "def unsafe(completion):\n"
        "    number = sum(map(ord, completion)) % 6\n"
        "    while number == 0: pass\n"
        "    if number == 1: os._exit(7)\n"
        "    return float(number)\n"
    )
    (tmp_path / "mine.yaml").write_text(
        """
extends: math
stages:
  - {kind: grpo, name: grpo, steps: 2, num_prompts: 4, group_size: 4, max_failed_share: 1.0, sampling: {max_tokens: 8}}
rewards:
  - {use: unsafe.py:unsafe, timeout_s: 0.5}
evaluation: {num_tasks: 4, sampling: {max_tokens: 8}}
"""
    )
    small = ["data.num_train=20", "data.num_eval=8", "runtime.num_threads=1", "model.init.config.num_hidden_layers=1"]
    polymath(tmp_path, "run", "mine.yaml", "runtime=inline", *small)
    run = tmp_path / "runs" / "mine"
    assert json.loads((run / "summary.json").read_text())["status"] == "done"
    failed = [row["num_failed_rollouts"] for row in rows(run, "metrics.jsonl")]
    assert len(failed) == 2
    assert 0 < sum(failed) < 32
    errors = [row for row in rows(run, "events.jsonl") if row["event"] == "score_failed"]
    assert sum(row["count"] for row in errors) == sum(failed)
    for row in errors:
        assert row["first_error"].endswith(("took longer than 0.5 s", "ended the process with exit status 7"))


UNSCORED = {
    "return float('nan')": "it returned nan; a finite number is expected",
    "return 'right'": "it returned 'right' of type str; a number, None or a Score is expected",
    "return True": "it returned the bool True; write float(...) around it if 1.0 and 0.0 are meant",
    "os._exit(7)": "it ended the process with exit status 7",
    "while True: pass": "it took longer than 0.5 s",
}


@pytest.mark.parametrize("body", [*list(UNSCORED)[:1], *(FULL(body) for body in list(UNSCORED)[1:3]), *list(UNSCORED)[3:]])
def test_too_many_failed_scores_stop_the_run_with_their_reason(
    body: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "half.py").write_text(
        f"import os\ndef half(completion):\n    if len(completion) % 2:\n        {body}\n    return 0.0\n"
    )
    timeout_s = 0.5 if "0.5 s" in UNSCORED[body] else 100
    (tmp_path / "mine.yaml").write_text(
        f"""
extends: math
stages:
  - {{kind: grpo, name: grpo, steps: 1, num_prompts: 8, group_size: 4, max_failed_share: 0.1, sampling: {{max_tokens: 4}}}}
rewards:
  - {{use: half.py:half, timeout_s: {timeout_s}}}
evaluation: {{num_tasks: 16, sampling: {{max_tokens: 4}}}}
"""
    )
    small = ["data.num_train=20", "data.num_eval=16", "runtime.num_threads=1", "model.init.config.num_hidden_layers=1"]
    monkeypatch.chdir(tmp_path)
    assert run_recipe(load("mine.yaml", [*small, "runtime=inline"]), name=None, as_json=True) == 1
    (run,) = (tmp_path / "runs").glob("mine-*")
    assert json.loads((run / "summary.json").read_text())["status"] == "failed"
    assert not (run / "metrics.jsonl").read_text()
    (failed,) = (row for row in rows(run, "events.jsonl") if row["event"] == "failed")
    assert re.match(
        r"step 1: \d+ of 32 completions could not be scored, more than max_failed_share 0.1; the f", failed["error"]
    )
    assert failed["error"].endswith(UNSCORED[body])
    assert html.escape(UNSCORED[body]) in (run / "report.html").read_text()


def test_a_runs_that_is_no_folder_is_the_users_error(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    text = polymath(tmp_path, "run", str(recipe), *SMALL, code=2)
    assert "cannot be made a folder" in text
    assert "Traceback" not in text
