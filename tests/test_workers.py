"""Workers that die, rollouts that overlap training, prompts that are asked for again, trainers that share a step."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from rl.workers import Event, InlineTrainer
from tests.soak.kills import SETTINGS, End, Whole, output_of, prepare, rows, start

pytestmark = pytest.mark.slow


def workers_of(driver: int, name: str) -> list[int]:
    """The process ids of a driver's own Ray actors of a class: children of the raylet that it started."""
    parents, titles = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            titles[int(folder.name)] = (folder / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue  # it has just ended
    return [pid for pid, title in titles.items() if f"ray::{name}" in title and parents.get(parents[pid]) == driver]


def wait_for_step(process: subprocess.Popen[str], home: Path, step: int) -> None:
    metrics, deadline = home / "runs" / "tiny-1" / "metrics.jsonl", time.monotonic() + 600
    while not (metrics.exists() and f'"stage": "grpo", "step": {step}, ' in metrics.read_text()):
        assert process.poll() is None, output_of(home)
        assert time.monotonic() < deadline, f"step {step} never came"
        time.sleep(0.02)


@dataclass(frozen=True)
class Counting:
    """A job that reports until it is stopped."""

    def run(self, report: Callable[[Event], None], stopped: Callable[[], bool]) -> int:
        for step in range(10_000):
            if stopped():
                return step
            report({"step": step})
            time.sleep(0.001)
        return 10_000


def test_a_progress_report_that_cannot_be_kept_ends_the_stage() -> None:
    """Such as a checkpoint on a full disk: the stage must not go on as if it were there."""

    def report(event: Event) -> None:
        if event["step"] == 3:
            raise OSError("no space left")

    async def run() -> None:
        await InlineTrainer(60.0).run_job(Counting(), report, lambda: False)

    with pytest.raises(OSError, match="no space left"):
        asyncio.run(run())


def test_a_run_outlives_its_workers_and_says_how_to_go_on_without_its_trainer(
    whole: tuple[Path, Whole], tmp_path: Path
) -> None:
    """A rollout worker and a reward worker are killed, later the trainer; resumed, the run ends as an untouched one."""
    home = prepare(tmp_path / "hurt")
    process = start(home, "run", "tiny.yaml", "runtime=ray", *SETTINGS)
    for step, name in ((3, "RolloutActor"), (8, "RewardActor"), (14, "TrainerActor")):
        wait_for_step(process, home, step)
        [pid] = workers_of(process.pid, name)
        os.kill(pid, signal.SIGKILL)
    assert process.wait(timeout=400) == 1
    run = home / "runs" / "tiny-1"
    events = rows(run / "events.jsonl")
    assert [e["worker"] for e in events if e["event"] == "worker_restarted"] == ["rollout worker 0", "reward worker 0"]
    failed = next(e for e in events if e["event"] == "failed")
    assert "died" in failed["error"]
    assert failed["resume"].endswith("resume runs/tiny-1")
    assert "Traceback" not in output_of(home)
    assert json.loads((run / "summary.json").read_text())["status"] == "failed"
    assert start(home, "resume", "tiny-1").wait(timeout=800) == 0, output_of(home)
    assert End.of(run) == whole[1].end
