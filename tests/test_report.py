"""`polymath report`: what it reads from a run's folder, and the page itself in a real browser."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Locator, Page, sync_playwright

from recipes import cli
from recipes.load import FOLDER
from recipes.report import charts, page, texts, write_report
from recipes.report.mismatch import mismatch
from recipes.report.run import Stage, comparison, finite, read_run
from rewards.result import RewardResult, ScoreStatus
from rewards.task import Message, Role, Task
from rl.collect import Evaluation
from rl.trajectory import FinishReason, RolloutId, ScoredTrajectory, Trajectory, TrajectoryGroup, Turn
from specialists.transcripts import NUM_TRANSCRIPTS, write_transcripts

CHROMIUM = shutil.which("chromium")
Row = dict[str, Any]

HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>\x1b[31m\u202e\x00&amp;<!--"
STAGES = [{"name": "base", "kind": "sft", "steps": 30}, {"name": "grpo", "kind": "grpo", "steps": 5}]
REWARDS = [0.125, 0.25, 0.5, 0.375, 0.75]


# ---- folders of runs


def event(name: str, /, attempt: int = 0, **fields: Any) -> Row:
    return {"type": "event", "attempt": attempt, "event": name, **fields}


def metrics(stage: str, step: int, global_step: int, attempt: int = 0, **fields: Any) -> Row:
    place = {"type": "metrics", "attempt": attempt, "stage": stage, "step": step, "global_step": global_step}
    return {**place, "elapsed_s": float(global_step if stage == "grpo" else 0.9 * global_step), **fields}


def grpo(step: int, attempt: int = 0, **fields: Any) -> Row:
    values: Row = {"reward_mean": REWARDS[step - 1], "reward/right": REWARDS[step - 1] / 2, "reward/short": 0.5}
    values |= {"completion_tokens_mean": 20.0 + step, "completion_tokens_max": 40.0, "cut_share": 0.25, "kl": 0.01 * step}
    values |= {"num_sampled_tokens": 640.0, "num_groups": 4.0, "num_groups_without_signal": 1.0, "num_failed_rollouts": 0.0}
    values |= {"sampler_gap": 3e-7, "clipped_share": 0.01, "masked_share": 0.0, "surprisal": 0.2, "loss": -1e-9 * step}
    values |= {"sampler_gap_p99": 1e-6 * step, "sampler_gap_max": 1e-5, "truncated_weight_share": 0.025, "staleness": 0.0}
    values |= {"num_loss_tokens": 100.0 * step}
    values |= {"lr": 1e-3, "grad_norm": 0.5, "rollout_s": 0.5, "train_s": 0.25, "publish_s": 0.125, "step_s": 1.0}
    return metrics("grpo", step, 30 + step, attempt, tokens_per_s=1280.0, brand_new=2.0 * step, **{**values, **fields})


def sft(step: int, **fields: Any) -> Row:
    return metrics("base", step, step, **{"loss": 3.0 / step, "lr": 1e-3, "grad_norm": 1.0, "token_accuracy": 0.5, **fields})


def evaluation(stage: str, step: int, global_step: int, accuracy: float, *, final: bool = True, **fields: Any) -> Row:
    values = {"accuracy": accuracy, "interval": [accuracy - 0.05, accuracy + 0.05], "num_tasks": 100, "num_failed": 0}
    values |= {"mean_completion_tokens": 21.5, "by_kind": {"add": accuracy}, "elapsed_s": float(global_step)}
    return event("evaluation", stage=stage, step=step, global_step=global_step, final=final, **{**values, **fields})


def sample(step: int, completion: str = "") -> Row:
    values = {"task_id": f"add/{step}", "prompt": f"What is {step} + 1?", "answer": str(step + 1), "reward": 0.5}
    text = completion or f"<think>count on from {step}</think>it is {step + 1}"
    return event("sample", stage="grpo", step=step, completion=text, num_tokens=9, finish_reason="length", **values)


def transcript(task: str, *, correct: bool, completion: str, **fields: Any) -> Row:
    values = {"prompt": f"Say {task}", "completion": completion, "answer": task, "correct": correct, "reward": float(correct)}
    return {"task_id": task, **values, "num_tokens": 7, "finish_reason": "stop", **fields}


def dump(path: Path, rows: Sequence[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def make(folder: Path, events: Sequence[Row], rows: Sequence[Row] = (), **files: str) -> Path:
    dump(folder / "events.jsonl", [event("run_started", name=folder.name, stages=STAGES, elapsed_s=0.0), *events])
    dump(folder / "metrics.jsonl", rows)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


BASE = [
    event("stage_started", stage="base", kind="sft", steps=30, elapsed_s=0.5),
    event("checkpoint", stage="base", path="runs/full-1/checkpoints/step-30", global_step=30, elapsed_s=27.5),
    evaluation("base", 30, 30, 0.2),
]
GRPO = [event("stage_started", stage="grpo", kind="grpo", steps=5, elapsed_s=30.0), *(sample(i) for i in range(1, 6))]
ENDED = [evaluation("grpo", 2, 32, 0.4, final=False), evaluation("grpo", 5, 35, 0.8), event("run_finished", elapsed_s=36.0)]
ROWS = [*(sft(i) for i in (10, 20, 30)), *(grpo(i) for i in range(1, 6))]


def full(home: Path, name: str = "full-1") -> Path:
    """A run with everything, below home/runs."""
    recipe = "name: full\ndescription: Learns to add\ndomain: math\nseed: 3\n"
    recipe += "engine: {name: torch}\nmodel: {dtype: bfloat16}\n"
    summary = json.dumps({"status": "done", "wall_s": 36.0, "tokens_per_s": 640.0})
    folder = make(home / "runs" / name, [*BASE, *GRPO, *ENDED], ROWS, recipe__yaml=recipe, summary__json=summary)
    before = [transcript(t, correct=t == "b", completion=f"<think>hm {t}</think>old {t}") for t in "abc"]
    after = [transcript(t, correct=t != "c", completion=f"new {t}") for t in "abc"]
    dump(folder / "evaluations" / "30-base.jsonl", before)
    dump(folder / "evaluations" / "35-grpo.jsonl", after)
    parents = {35: "30", 30: "0", 0: ""}
    for step, parent in parents.items():
        values = {"stage": "x", "step": step, "parents": [f"runs/{name}/checkpoints/step-{parent}"] if parent else []}
        path = folder / "checkpoints" / f"step-{step}"
        path.mkdir(parents=True)
        (path / "manifest.json").write_text(json.dumps({**values, "model": "init:qwen3"}))
    run = {"seed": 3, "parents": [f"runs/{name}/checkpoints/step-35"], "versions": {"torch": "2.13.0"}}
    (folder / "manifest.json").write_text(json.dumps(run))
    return folder


def odd(home: Path) -> dict[str, Path]:
    """Runs that are not as runs should be."""
    nan = [grpo(1, loss=math.nan), grpo(2, loss=math.inf), {**grpo(3), "reward_mean": None}, {**grpo(4), "loss": "broken"}]
    failed = event("failed", error=f"boom {HOSTILE}\nthe last line", kept="runs/failed/checkpoints/step-30", elapsed_s=40.0)
    hostile = [sample(1, HOSTILE), sample(2, "x" * 100_000), event(HOSTILE), event("sample", stage=HOSTILE, step="?")]
    again = [event("interrupted", kept=None, elapsed_s=33.0), event("resumed", attempt=1, elapsed_s=0.1)]
    found = {
        "started": make(home / "started", []),
        "empty": make(home / "empty", [], recipe__yaml="", summary__json="", manifest__json="[]"),
        "failed": make(home / "failed", [*BASE, *GRPO, failed], ROWS[:5]),
        "interrupted": make(home / "interrupted", [*BASE, event("interrupted", kept=None, elapsed_s=31.0)], ROWS[:3]),
        "sft": make(home / "sft", [*BASE, event("run_finished", elapsed_s=31.0)], ROWS[:3]),
        "one": make(home / "one", GRPO[:2], [grpo(1)]),
        "nan": make(home / "nan", GRPO, nan),
        "hostile": make(home / "hostile", hostile, [metrics(HOSTILE, 1, 1, **{HOSTILE: 1.0, "big": 10**400})]),
        "resumed": make(home / "resumed", [*BASE, *GRPO, *again], [*ROWS[:7], grpo(3, 1, kl=9.0), grpo(4, 1), grpo(5, 1)]),
    }
    torn = full(home, "torn")
    for name in ("metrics.jsonl", "events.jsonl", "evaluations/35-grpo.jsonl"):
        with (torn / name).open("ab") as file:
            file.write('not json\n[1]\n{"type": "metrics", "é'.encode()[:-1])
    return {**found, "torn": torn}


# ---- reading


def test_the_rows_of_a_run_become_charts(tmp_path: Path) -> None:
    run = read_run(full(tmp_path))
    assert (run.status, run.notes) == ("done", [])
    shown, more = charts.stage_charts(run, run.stages[1])
    found = {chart.title: chart for chart in shown}
    reward = found["Reward"]
    assert {line.label: line.values for line in reward.lines}["reward"] == REWARDS
    assert [line.label for line in reward.lines] == ["reward", "right", "short"]
    assert reward.x == [1.0, 2.0, 3.0, 4.0, 5.0]
    held_out = found["Held-out accuracy"]
    assert (held_out.x, held_out.lines[0].values) == ([0.0, 2.0, 5.0], [0.2, 0.4, 0.8])
    assert held_out.lines[0].low == pytest.approx([0.15, 0.35, 0.75])
    stack = found["Where a step's time went"]
    assert {line.label: line.values[0] for line in stack.lines} == {
        "rollouts": 0.5,
        "update": 0.25,
        "publishing weights": 0.125,
        "rest": 0.125,
    }
    assert found["Samples without use"].lines[1].values == [0.25] * 5
    assert "Scores that failed" not in found
    assert [chart.title for chart in more] == ["brand_new", "num_loss_tokens"]
    assert [chart.title for chart in charts.stage_charts(run, run.stages[0])[0]][-1] == "Training speed"
    accuracy = charts.accuracy_chart(run)
    assert accuracy is not None
    assert (accuracy.x, accuracy.marks) == ([30.0, 32.0, 35.0], [(0.0, "base"), (30.0, "grpo")])


def test_every_metric_that_a_run_logs_is_in_a_chart(tmp_path: Path) -> None:
    run = read_run(full(tmp_path))
    table = charts._Table(run.stages[1])
    known = {key for spec in charts.SPECS for key in spec.keys} | set(charts.TIMES) | {"step_s", "reward_mean"}
    others = {"brand_new", "num_loss_tokens"}  # drawn below "More metrics"
    assert {key for key in table.keys - table.used - known if not key.startswith("reward/")} == others


def test_the_mismatch_of_sampler_and_trainer_is_shown(tmp_path: Path) -> None:
    run = read_run(full(tmp_path))
    found = {chart.title: chart for chart in charts.stage_charts(run, run.stages[1])[0]}
    lines = {line.label: line.values for line in found["Sampler against trainer"].lines}
    assert lines == {"mean": [3e-7] * 5, "99th percentile": pytest.approx([1e-6, 2e-6, 3e-6, 4e-6, 5e-6])}
    text = page.render(run)
    assert text.count("Sampler against trainer: engine torch, bfloat16; mean gap 3e-07, 99th percentile 3e-06 (median of") == 1
    assert "over 1,500 tokens; 0.0 % masked as off-policy; 2.5 % with a truncated weight." in text


def test_the_figures_of_a_runs_mismatch() -> None:
    shares = {"masked_share": 0.5, "truncated_weight_share": 0.0}
    rows: list[Row] = [
        {"step": 1, "loss": 2.0},  # supervised, or without an update
        {"sampler_gap": 1.0, "sampler_gap_p99": 5.0, "num_loss_tokens": 100, "staleness": 0.0, **shares},
        {"sampler_gap": 4.0, "sampler_gap_p99": 9.0, "num_loss_tokens": 200, "staleness": 1.0, **shares, "masked_share": 0.2},
        {"sampler_gap": 2.0, "sampler_gap_p99": 6.0, "num_loss_tokens": 100, "staleness": 0.0, **shares, "masked_share": 0.1},
    ]
    found = mismatch(rows, "torch", "float32")
    assert found == {
        "engine": "torch", "dtype": "float32", "mean": 2.75, "p99": 6.0, "num_tokens": 400,
        "masked_share": pytest.approx(0.25), "truncated_weight_share": 0.0,
        "fresh": {"mean": 1.5, "p99": 5.5, "num_tokens": 200},
    }  # fmt: skip
    assert mismatch(rows[:1], "torch", "float32") is None
    stale = mismatch(rows[2:3], "torch", "float32")
    assert stale is not None
    assert stale["fresh"] is None
    older = mismatch([{"sampler_gap": 1.0, "num_loss_tokens": 7}], "torch", "float32")
    assert older is not None
    assert (older["mean"], older["p99"], older["truncated_weight_share"]) == (1.0, None, None)
    broken = [
        *rows,
        {**rows[1], "sampler_gap": math.nan},
        {**rows[1], "sampler_gap": 10**400},
        {**rows[1], "num_loss_tokens": 0},
    ]
    assert mismatch(broken, "torch", "float32") == found


def test_where_the_time_went_adds_up(tmp_path: Path) -> None:
    shares = {one.stage: one.seconds for one in charts.time_shares(read_run(full(tmp_path)))}
    assert sum(sum(one.values()) for one in shares.values()) == pytest.approx(36.0)
    assert shares[""] == {charts.STARTING: 0.5}
    assert shares["base"] == pytest.approx({charts.SUPERVISED: 27.0, charts.BETWEEN: 2.5})
    assert shares["grpo"]["update"] == 5 * 0.25
    assert shares["grpo"][charts.BETWEEN] == pytest.approx(1.0)


def test_time_goes_on_over_attempts_and_past_checkpoints_inside_a_stage(tmp_path: Path) -> None:
    """A resumed run's clock starts at what it had behind it; training after a checkpoint is training still."""
    started = [event("run_started", stages=STAGES, elapsed_s=0.5), event("stage_started", stage="base", elapsed_s=0.5)]
    between = event("checkpoint", stage="base", elapsed_s=9.5)
    resumed = [event("run_started", attempt=1, stages=STAGES, elapsed_s=9.6), event("resumed", attempt=1, elapsed_s=12.0)]
    later = [metrics("base", step, step, attempt=1, elapsed_s=12.0 + step, loss=1.0) for step in (11, 12)]
    run = read_run(make(tmp_path / "again", [*started, between, *resumed], [*(sft(step) for step in range(1, 11)), *later]))
    shares = {one.stage: one.seconds for one in charts.time_shares(run)}
    assert sum(sum(one.values()) for one in shares.values()) == pytest.approx(24.0)
    assert shares[""][charts.STARTING] == pytest.approx(0.5 + 2.5)
    assert shares["base"] == pytest.approx({charts.SUPERVISED: 9.0 + 12.0})


def test_torn_and_broken_lines_are_left_out_and_said(tmp_path: Path) -> None:
    run = read_run(odd(tmp_path)["torn"])
    assert len(run.metrics) == len(ROWS)
    assert [len(one.rows) for one in run.transcripts] == [3, 3]
    assert sum("2 lines of" in note for note in run.notes) == 3
    assert sum("is torn" in note for note in run.notes) == 3
    assert "The last line of metrics.jsonl is torn" in page.render(run)


def test_rows_that_a_resume_went_behind_are_left_out(tmp_path: Path) -> None:
    run = read_run(odd(tmp_path)["resumed"])
    assert run.status == "unfinished"  # it ended once, and goes on in another attempt
    assert [(row["step"], row["attempt"]) for row in run.stages[1].rows] == [(1, 0), (2, 0), (3, 1), (4, 1), (5, 1)]
    assert run.notes == ["2 metrics rows of earlier attempts are left out: the run was resumed from before them."]
    assert charts.stage_charts(run, run.stages[1])[0][0].marks == [(3.0, "resumed")]


def test_values_that_are_not_finite_are_gaps_and_counted(tmp_path: Path) -> None:
    run = read_run(odd(tmp_path)["nan"])
    loss = next(chart for chart in charts.stage_charts(run, run.stages[1])[0] if chart.title == "Loss")
    assert loss.lines[0].values == [None, None, pytest.approx(-3e-9), None]
    assert loss.note == "2 values are not finite and left out."
    assert "NaN" not in texts.script_json([loss.lines[0].values])


def test_many_rows_are_averaged_and_that_is_said() -> None:
    rows = [{"step": i, "loss": float(i), "completion_tokens_max": float(i % 7)} for i in range(1, 4003)]
    run = read_run(Path("/nonexistent"))
    found, _ = charts.stage_charts(run, Stage("s", "sft", 0, rows))
    loss = next(chart for chart in found if chart.title == "Loss")
    assert len(loss.x) == len(loss.lines[0].values) == 1334
    assert (loss.x[0], loss.lines[0].values[0], loss.x[-1], loss.lines[0].values[-1]) == (3, 2.0, 4002, 4001.0)
    assert loss.note == "Each point stands for 3 rows."
    assert next(c for c in found if c.title == "Completion length").lines[0].values[:3] == [3, 6, 2]  # of 1-3, 4-6, 0-2


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([], (None, None)),
        ([("base", "sft")], (None, 0)),
        ([("start", ""), ("base", "sft")], (0, 1)),
        ([("grpo", "grpo")], (None, 0)),
        ([("start", ""), ("sft", "sft"), ("a", "grpo"), ("b", "grpo")], (1, 3)),
    ],
)
def test_what_is_compared(labels: Sequence[tuple[str, str]], expected: tuple[int | None, int | None]) -> None:
    assert comparison(labels) == expected


def test_lineage_goes_through_checkpoints_and_other_runs(tmp_path: Path) -> None:
    full(tmp_path)
    child = make(tmp_path / "runs" / "child-1", [])
    (child / "manifest.json").write_text(json.dumps({"parents": ["runs/full-1", "org/model"]}))
    found = read_run(child).ancestors
    assert [one.path.rpartition("/")[2] for one in found] == ["full-1", "model", "step-35", "step-30", "step-0"]
    assert [one.manifest is None for one in found] == [False, True, False, False, False]


def test_a_number_is_finite_or_nothing() -> None:
    row: Mapping[str, Any] = {"a": 1, "b": True, "c": "1", "d": math.nan, "e": 10**400, "f": 0.5}
    assert [finite(row, key) for key in "abcdefg"] == [1.0, None, None, None, None, 0.5, None]


# ---- texts


def test_long_texts_and_many_samples_are_cut_with_a_note(tmp_path: Path) -> None:
    text = texts.cut("a" * 30_000 + "b", 1000)
    assert len(text) < 1200
    assert "[... 29,001 characters are left out here" in text
    assert text.endswith("ab")
    rows = [{**sample(1), "step": i} for i in range(1, 1001)]
    found, note = texts.samples(read_run(make(tmp_path / "run", rows)), 500)
    assert [found[0]["step"], found[-1]["step"], len(found)] == [1, 1000, texts.MAX_SAMPLES]
    assert note.startswith("300 of 1000 samples are shown")


def test_a_page_of_huge_texts_stays_small_enough_to_open(tmp_path: Path) -> None:
    rows = [sample(1, "\x00" * 3_000_000), sample(2, "y" * 3_000_000), *({**sample(1), "step": i} for i in range(3, 40))]
    folder = make(tmp_path / "run", rows)
    assert write_report(folder).stat().st_size < 1_000_000


@pytest.mark.parametrize("name", ["hostile", "failed"])
def test_no_text_of_a_run_becomes_markup(tmp_path: Path, name: str) -> None:
    text = page.render(read_run(odd(tmp_path)[name]))
    assert "<img" not in text
    assert len(re.findall("<script", text)) == len(re.findall("</script", text)) == 2
    assert not set(text) & {"\x1b", "\u202e", "\x00"}
    text.encode()


def test_transcripts_are_written_whole_and_the_first_ones_only(tmp_path: Path) -> None:
    groups = []
    for i in range(NUM_TRANSCRIPTS + 3):
        task = Task(f"t{i}", "math", (Message(Role.USER, f"What is {i}? \ud83d"),), answer=str(i))
        mask = np.array([False, True, True])
        tokens, floats = np.zeros(3, np.int32), np.zeros(3, np.float32)
        turns = (Turn(1, 3, FinishReason.LENGTH),)
        trajectory = Trajectory(RolloutId(0, "ab", 0), task, tokens, mask, floats, tokens, turns, "<think>né")
        score = RewardResult(ScoreStatus.OK, 2.0, {"verify": 1.0}, notes={"verify": "n"})
        if not i:
            score = RewardResult(ScoreStatus.FAILED, None, error="e")
        groups.append(TrajectoryGroup(task, (ScoredTrajectory(trajectory, score),) * 2))
    result = Evaluation(0.5, (0.4, 0.6), 27, 2.0, None, 1, {}, {}, groups)
    path = write_transcripts(tmp_path, "grpo", 35, result, "verify")
    assert path == tmp_path / "evaluations" / "35-grpo.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["task_id"] for row in rows] == [f"t{i}" for i in range(NUM_TRANSCRIPTS)]
    assert (rows[0]["correct"], rows[0]["reward"]) == (False, None)
    expected = {"prompt": "What is 1? \ud83d", "completion": "<think>né", "answer": "1", "correct": True, "reward": 2.0}
    said = {"parts": {"verify": 1.0}, "notes": {"verify": "n"}, "error": None}
    assert rows[1] == {"task_id": "t1", **expected, **said, "num_tokens": 2, "finish_reason": "length"}
    assert rows[0]["error"] == "e"
    assert [p.name for p in path.parent.iterdir()] == ["35-grpo.jsonl"]
    make(tmp_path, [])
    assert "\\ud83d" in page.render(read_run(tmp_path))


# ---- the command


def test_the_command_takes_a_name_a_link_or_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = full(tmp_path)
    (tmp_path / "runs" / "full").symlink_to("full-1")
    monkeypatch.chdir(tmp_path)
    for value in ("full", "full-1", "runs/full", str(folder)):
        assert cli.main(["report", value]) == 0
        written = Path(capsys.readouterr().out.strip())
        assert written.resolve() == folder / "report.html"
        written.unlink()
    assert cli.main(["report", "full", "--output", "mine.html"]) == 0
    assert capsys.readouterr().out == "mine.html\n"
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    wrong = {
        "report fulll": 'error: RUN: got "fulll", no such run; allowed: a run\'s folder, or its name; did you mean full',
        "report mine.html": 'error: RUN: got "mine.html", a file; allowed',
        "report runs": 'error: RUN: got "runs", a folder without events.jsonl',
        "report full --output none/x.html": "error: --output: none/x.html cannot be written: No such file",
        "report full --output runs": 'error: --output: got "runs", a folder',
    }
    for line, message in wrong.items():
        assert cli.main(line.split()) == 2
        assert capsys.readouterr().err.startswith(message)


def test_the_report_imports_nothing_heavy(tmp_path: Path) -> None:
    full(tmp_path)
    text = "import sys; from recipes.cli import main; print(main(['report', 'full-1']), file=sys.stderr)\n"
    text += "print(sorted({'torch', 'transformers', 'ray', 'datasets', 'trl', 'numpy'} & set(sys.modules)), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", text],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(FOLDER.parent)},
        timeout=300,
    )
    assert done.stderr == "0\n[]\n"


# ---- in a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium here; `apt-get install chromium` brings it")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


class Watched:
    """A page opened from disk, and everything it complained about or asked for."""

    def __init__(self, browser: Browser, path: Path, width: int, scheme: str = "light") -> None:
        self.problems: list[str] = []
        self.context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)  # type: ignore[arg-type]
        self.page: Page = self.context.new_page()
        self.page.on("console", lambda message: self.problems.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.url = path.resolve().as_uri()
        self.page.on("request", lambda request: None if request.url == self.url else self.problems.append(request.url))
        self.page.goto(self.url)

    def widest(self) -> int:
        return int(self.page.evaluate("document.documentElement.scrollWidth"))


def chart(opened: Page, title: str) -> Locator:
    return opened.locator("#stage-1 figure.chart").filter(has=opened.locator(f"figcaption b:text-is('{title}')"))


def drawn(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", path)]


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (375, "dark")])
def test_the_page_in_a_browser(browser: Browser, tmp_path: Path, width: int, scheme: str) -> None:
    opened = Watched(browser, write_report(full(tmp_path)), width, scheme)
    for summary in opened.page.locator("summary").all():
        if not summary.evaluate("one => one.parentElement.open"):
            summary.click()
    assert opened.widest() == width
    for figure in opened.page.locator("figure.chart").all():
        assert figure.locator("svg path, svg circle").count() > 0
        assert "Arrow keys" in str(figure.locator("svg").get_attribute("aria-label"))
    top = opened.page.locator("header").inner_text()
    assert all(text in top for text in ("full-1", "done", "Learns to add", "20.0 %", "80.0 %", "75.0 to 85.0", "36 s", "640"))
    assert opened.page.locator(".lineage li").count() == 3
    dark = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (dark == "rgb(19, 22, 26)") is (scheme == "dark")
    assert opened.problems == []
    opened.context.close()


def test_a_curve_is_where_its_metrics_are(browser: Browser, tmp_path: Path) -> None:
    opened = Watched(browser, write_report(full(tmp_path)), 1280).page
    reward = chart(opened, "Reward")
    points = drawn(str(reward.locator("path.line.s0").get_attribute("d")))
    assert len(points) == len(REWARDS)
    (x0, y0), (x1, y1) = points[0], points[-1]
    assert x0 < x1
    assert y1 < y0  # up is more
    slope = (y1 - y0) / (REWARDS[-1] - REWARDS[0])
    for i, (x, y) in enumerate(points):
        assert y == pytest.approx(y0 + slope * (REWARDS[i] - REWARDS[0]), abs=0.2)
        assert x == pytest.approx(x0 + i * (x1 - x0) / 4, abs=0.2)
    reward.locator("svg").focus()
    tip = reward.locator(".tip")
    for key, step in [("Home", 1), ("ArrowRight", 2), ("End", 5), ("ArrowLeft", 4)]:
        opened.keyboard.press(key)
        assert tip.locator("div").all_inner_texts()[:2] == [f"step {step}", f"reward: {REWARDS[step - 1]}"]
    opened.keyboard.press("Escape")
    assert not tip.is_visible()
    reward.scroll_into_view_if_needed()
    box = reward.locator("svg").bounding_box()
    assert box is not None
    opened.mouse.move(box["x"] + points[2][0], box["y"] + 60)
    assert tip.locator("div").all_inner_texts() == ["step 3", "reward: 0.5", "right: 0.25", "short: 0.5"]


def test_a_legend_hides_and_shows_its_line(browser: Browser, tmp_path: Path) -> None:
    opened = Watched(browser, write_report(full(tmp_path)), 1280).page
    reward = chart(opened, "Reward")
    button = reward.get_by_role("button", name="short")
    assert reward.locator("path.line").count() == 3
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert reward.locator("path.line").count() == 2
    button.click()
    assert reward.locator("path.line").count() == 3
    stack = chart(opened, "Where a step\\'s time went")
    assert stack.locator("path.area").count() == 4
    stack.get_by_role("button", name="update").click()
    assert stack.locator("path.area").count() == 3


def test_samples_can_be_clicked_through(browser: Browser, tmp_path: Path) -> None:
    opened = Watched(browser, write_report(full(tmp_path)), 375).page
    root = opened.locator("#samples-turner")
    following, previous = root.get_by_role("button", name="Next"), root.get_by_role("button", name="Previous")
    for step in range(5, 0, -1):
        assert root.locator("output").inner_text() == f"grpo {step}"
        assert f"What is {step} + 1?" in root.locator(".prompt").inner_text()
        assert root.locator(".answer").inner_text() == f"it is {step + 1}"
        assert root.locator("details .text").inner_text() == f"count on from {step}"
        assert "cut at max_tokens" in root.locator(".card").inner_text()
        assert following.is_disabled() is (step == 5)
        if step > 1:
            previous.click()
    assert previous.is_disabled()
    following.click()
    assert root.locator("output").inner_text() == "grpo 2"
    root.get_by_role("slider").press("End")
    assert root.locator("output").inner_text() == "grpo 5"
    root.locator("summary").click()
    assert not root.locator("details .text").is_visible()


def test_before_and_after_stand_side_by_side(browser: Browser, tmp_path: Path) -> None:
    opened = Watched(browser, write_report(full(tmp_path)), 1280).page
    root = opened.locator("#compare-turner")
    left, right = (root.locator(f'[data-role="{side}-card"]') for side in ("left", "right"))
    assert [left.locator("h3").inner_text(), right.locator("h3").inner_text()] == ["after base", "after grpo"]
    assert left.locator(".verdict").inner_text() == "✗ wrong"
    assert left.locator("details .text").inner_text() == "hm a"
    assert [left.locator(".answer").inner_text(), right.locator(".answer").inner_text()] == ["old a", "new a"]
    assert right.locator(".verdict").inner_text() == "✓ right"
    boxes = [side.bounding_box() for side in (left, right)]
    assert boxes[0] is not None
    assert boxes[1] is not None
    assert boxes[0]["y"] == boxes[1]["y"]
    root.get_by_role("button", name="Next").click()
    assert right.locator(".answer").inner_text() == "new b"
    options = root.locator('[data-role="filter"] option').all_inner_texts()
    assert options == ["all tasks (3)", "wrong → right (1)", "right in both (1)", "wrong in both (1)"]
    root.get_by_label("show", exact=True).select_option("none")
    assert root.locator("output").inner_text() == "1 / 1"
    assert right.locator(".answer").inner_text() == "new c"
    root.get_by_label("right", exact=True).select_option(label="after base")
    assert right.locator(".answer").inner_text() == "old a"


@pytest.mark.parametrize(
    "name", ["empty", "failed", "hostile", "interrupted", "nan", "one", "resumed", "sft", "started", "torn"]
)
def test_odd_runs_still_give_a_readable_page(browser: Browser, tmp_path: Path, name: str) -> None:
    opened = Watched(browser, write_report(odd(tmp_path)[name]), 375)
    assert opened.problems == []
    assert opened.widest() == 375
    assert opened.page.locator("h1").inner_text()
    assert opened.page.locator("figure.chart").count() == opened.page.locator("figure.chart svg").count()
    assert opened.page.evaluate("window.hacked") is None
    text = opened.page.locator("body").inner_text()
    said = {
        "failed": ["The run failed", "boom </script>", "polymath resume failed"],
        "interrupted": ["The run was interrupted", "no checkpoint yet"],
        "started": ["The run has not finished", "No samples yet", "No checkpoint yet"],
        "nan": ["2 values are not finite"],
        "sft": ["done", "No samples yet"],
        "hostile": ["onerror"],
    }
    assert all(words in text for words in said.get(name, []))
    if name == "hostile":
        root = opened.page.locator("#samples-turner")
        root.get_by_role("slider").press("Home")
        assert "</script><script>window.hacked = 1</script><img src=x" in root.locator(".card").inner_text()
        assert "\\x1b[31m\\u202e\\x00&amp;<!--" in root.locator(".card").inner_text()
        root.get_by_role("button", name="Next").click()
        assert "80,000 characters are left out here" in root.locator(".card").inner_text()
        assert opened.widest() == 375
    opened.context.close()


# ---- colours


def luminance(colour: str) -> float:
    """Relative luminance of #rgb or #rrggbb, as WCAG 2 defines it."""
    digits = colour.lstrip("#")
    digits = "".join(2 * c for c in digits) if len(digits) == 3 else digits
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_texts_and_lines_stand_out_from_what_is_behind_them(scheme: int) -> None:
    css = (page.HERE / "page.css").read_text()
    colours = dict(re.findall(r"--([\w-]+): (#\w+);", re.findall(r":root \{(.*?)\}", css, re.DOTALL)[scheme]))
    pairs = [("ink", "bg"), ("ink", "card"), ("soft", "bg"), ("soft", "card"), ("accent", "bg"), ("good", "good-bg")]
    pairs += [("bad", "bad-bg"), ("good", "card"), ("bad", "card"), ("ink", "warn-bg"), ("ink", "bad-bg"), ("bg", "ink")]
    for front, back in pairs:
        assert contrast(colours[front], colours[back]) >= 4.5, (front, back)
    for i in range(6):
        assert contrast(colours[f"c{i}"], colours["card"]) >= 3, i
