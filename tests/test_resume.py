"""Resuming: killed at random moments a run ends as if it had not been; what may change in between, and what may not."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recipes import cli
from rl.checkpoint import checkpoints
from rl.training_state import FILE as TRAINING_STATE
from tests.soak.kills import SETTINGS, Whole, last_row, output_of, prepare, rows, run_with_kills, start

pytestmark = pytest.mark.slow


def test_killed_at_random_moments_an_inline_run_ends_in_the_same_bits(whole: tuple[Path, Whole], tmp_path: Path) -> None:
    end, struck = run_with_kills(tmp_path, "inline", 3, whole[1], random.Random(2))
    assert struck
    assert end == whole[1].end


def test_killed_on_ray_no_step_is_lost_or_repeated(whole: tuple[Path, Whole], tmp_path: Path) -> None:
    """Ray gives what inline gives, so the comparison is with the inline run."""
    end, struck = run_with_kills(tmp_path, "ray", 1, whole[1], random.Random(1))
    assert struck
    assert end == whole[1].end


def kill_when(home: Path, stage: str, step: int) -> None:
    """Starts the run and kills it once the stage has logged this step."""
    process = start(prepare(home), "run", "tiny.yaml", "runtime=inline", *SETTINGS)
    metrics, deadline = home / "runs" / "tiny-1" / "metrics.jsonl", time.monotonic() + 600
    while not (metrics.exists() and f'"stage": "{stage}", "step": {step}, ' in metrics.read_text()):
        assert process.poll() is None, output_of(home)
        assert time.monotonic() < deadline, "the run never came so far"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()


def resume(home: Path, *words: str, code: int = 0) -> str:
    command = [sys.executable, "-m", "recipes", "resume", "tiny-1", *words]
    env_home = {
        "cwd": home,
        "env": {"PYTHONPATH": str(Path(cli.__file__).parents[1]), "PATH": "/usr/bin:/bin", "HOME": str(home)},
    }
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=800, **env_home)  # type: ignore[call-overload]
    assert done.returncode == code, done.stdout[-2000:] + done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    return str(done.stdout + done.stderr)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose run was killed inside its GRPO stage, past two checkpoints of it."""
    home = tmp_path_factory.mktemp("killed")
    kill_when(home, "grpo", 10)
    return home


def test_settings_that_decide_what_is_trained_are_refused(killed: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(killed, home, symlinks=True)
    text = resume(home, "stages.grpo.steps=30", "optimizer.lr=0.5", code=2)
    assert "stages.2.steps: got 30; the run began with 24" in text
    assert "runtime, evaluation, checkpoints and a stage's eval_every and save_every" in text
    reward = killed / "digits.py"  # the run's recipe names it by the path that it had
    text = reward.read_text()
    try:
        reward.write_text(text.replace("sum(", "2 * sum("))
        assert "a reward's file has changed" in resume(home, code=2)
    finally:
        reward.write_text(text)


def test_a_resumed_run_may_change_how_it_runs(killed: Path, whole: tuple[Path, Whole], tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(killed, home, symlinks=True)
    before = last_row(home / "runs" / "tiny-1")
    assert "grpo" in before
    text = resume(home, "stages.grpo.save_every=3", "stages.grpo.eval_every=0", "checkpoints.keep_last=1")
    assert "resumed in stage grpo after step" in text
    run = home / "runs" / "tiny-1"
    found = rows(run / "metrics.jsonl")
    steps = [(r["stage"], r["step"]) for r in found]
    assert steps == [(r["stage"], r["step"]) for r in rows(whole[0] / "runs" / "tiny-1" / "metrics.jsonl")]
    assert {r["attempt"] for r in found} == {0, 1}
    assert [e["event"] for e in rows(run / "events.jsonl")[-2:]] == ["run_finished", "report"]
    assert resume(home) == "tiny-1: this run is done; there is nothing to resume\n"
    assert (run / "checkpoints" / "best").exists()


def test_the_newest_and_the_best_checkpoints_are_kept(whole: tuple[Path, Whole]) -> None:
    run = whole[0] / "runs" / "tiny-1"
    ends = {0, 40, 48, 72}
    inside = {int(p.name.removeprefix("step-")) for p in checkpoints(run) if (p / TRAINING_STATE).exists()}
    assert ends == {int(p.name.removeprefix("step-")) for p in checkpoints(run)} - inside
    assert len(inside) <= 2 + 1
    evaluations = [e for e in rows(run / "events.jsonl") if e["event"] == "evaluation"]
    best = max((e["accuracy"], e["global_step"]) for e in evaluations)
    assert (run / "checkpoints" / "best").readlink() == Path(f"step-{best[1]}")
    assert (run / "checkpoints" / "best" / "config.json").exists()


def test_only_one_process_runs_a_run(killed: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(killed, home, symlinks=True)
    process = start(home, "resume", "tiny-1")
    events, deadline = home / "runs" / "tiny-1" / "events.jsonl", time.monotonic() + 400
    while '"resumed"' not in events.read_text():
        assert process.poll() is None, output_of(home)
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert f"process {process.pid} is running it" in resume(home, code=2)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=400) in (0, 130)


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(whole: tuple[Path, Whole], tmp_path: Path) -> None:
    run = prepare(tmp_path) / "runs" / "tiny-1"
    run.mkdir(parents=True)
    recipe = (whole[0] / "runs" / "tiny-1" / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(recipe)
    (run / "events.jsonl").write_text('{"type": "event", "attempt": 0, "event": "run_started"}\n{"type": "eve')
    resume(tmp_path, "runtime.num_threads=1")
    attempts = {row["attempt"] for row in rows(run / "events.jsonl")}
    assert attempts == {1}
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "done"


@pytest.mark.parametrize(("run", "text"), [("nothing", 'RUN: got "nothing", no such run; allowed: a run')])
def test_a_run_that_is_not_there_is_named(
    run: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["resume", run]) == 2
    assert text in capsys.readouterr().err
