"""Whole runs with vLLM behind the engine: the torch engine's learning, death without leftovers, resumption, evaluation."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from tests.conftest import NEEDS_VLLM
from tests.test_run import DIGITS, ROOT, SMALL, polymath, rows, start, without_timings

pytestmark = [pytest.mark.slow, NEEDS_VLLM]
MARK = "POLYMATH_TEST_MARK"  # in the environment of a run, and so of every process that it starts
RUN = ["run", "tiny.yaml", "engine=vllm", *SMALL, "stages.grpo.steps=6"]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "digits.py").write_text(DIGITS)
    (tmp_path / "tiny.yaml").write_text("extends: math\nname: tiny\nrewards:\n  - use: digits.py:digits\n")
    return tmp_path


def marked(mark: str) -> list[psutil.Process]:
    """Living processes whose environment has the mark."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue  # it ended just now
    return found


def shared_files(processes: Sequence[psutil.Process]) -> set[str]:
    """What these processes have in shared memory by a name."""
    found = set[str]()
    for process in processes:
        with contextlib.suppress(psutil.Error, OSError):
            found |= {m.path for m in process.memory_maps() if m.path.startswith("/dev/shm/")}
    return found


@pytest.mark.parametrize("mode", [pytest.param("inline", marks=pytest.mark.full), "ray"])
def test_a_killed_run_leaves_nothing_behind_and_resumes(home: Path, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mark, shared = uuid.uuid4().hex, set[str]()
    monkeypatch.setenv(MARK, mark)
    process = start(home, *RUN, f"runtime={mode}")
    metrics = home / "runs" / "tiny-1" / "metrics.jsonl"
    deadline = time.monotonic() + 600
    while not (metrics.exists() and '"stage": "grpo", "step": 2, ' in metrics.read_text()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "the run never came so far"
        shared |= shared_files(marked(mark))
        time.sleep(0.1)
    assert process.pid in {p.pid for p in marked(mark)}
    process.send_signal(signal.SIGKILL)
    process.communicate()
    deadline = time.monotonic() + 400
    while left := marked(mark):
        assert time.monotonic() < deadline, [p.cmdline() for p in left]
        time.sleep(0.2)
    assert not any(map(os.path.exists, shared))
    if mode == "inline":  # resumes as the torch engine's runs do, which tests/test_resume.py looks at
        return
    polymath(home, "resume", "tiny-1")
    run = home / "runs" / "tiny-1"
    assert [r["step"] for r in rows(run, "metrics.jsonl") if r["stage"] == "grpo"] == [1, 2, 3, 4, 5, 6]
    mismatch = json.loads((run / "summary.json").read_text())["mismatch"]
    assert (mismatch["engine"], mismatch["dtype"]) == ("vllm", "float32")
    assert mismatch["p99"] < 1e-4
    assert not marked(mark)


def test_a_model_that_vllm_refuses_is_known_before_anything_is_trained(home: Path) -> None:
    said = polymath(home, *RUN, "runtime=inline", "model.init.config.head_dim=16", code=2)
    assert "vLLM cannot run this model here: " in said
    assert "head_dim=16" in said
    assert "run it with engine=torch" in said
    assert "Traceback" not in said
    assert "polymath resume" not in said  # it would come to the same
    assert not (home / "runs" / "tiny-1" / "metrics.jsonl").read_text()
    again = polymath(home, "resume", "runs/tiny-1", code=2)  # all the same it says so at once
    assert "vLLM cannot run this model here: " in again
    assert not (home / "runs" / "tiny-1" / "metrics.jsonl").read_text()


STALE = """
import dataclasses, sys
from recipes.cli import main
from rl.trainer import Trainer
probe = Trainer._probe
Trainer._probe = lambda trainer: dataclasses.replace(found := probe(trainer), logprobs=found.logprobs + 0.5)
sys.exit(main(sys.argv[1:]))
"""


def test_an_engine_with_other_weights_than_the_trainers_ends_the_run_with_its_reason(home: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", STALE, *RUN, "runtime=inline"]
    done = subprocess.run(words, check=False, capture_output=True, text=True, cwd=home, env=env, timeout=800)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    [failed] = [e for e in rows(home / "runs" / "tiny-1", "events.jsonl") if e["event"] == "failed"]
    assert "differ from the trainer's by 0.5 on average; allowed: 0.0001" in failed["error"]
    assert failed["resume"].endswith("resume runs/tiny-1")


def test_a_run_of_vllm_is_evaluated_alike_by_either_engine(home: Path) -> None:
    """Draws belong to positions, so float32 results differ only where rounding crosses a draw: hardly in 30 short answers."""
    polymath(home, *RUN, "runtime=inline")
    results = [
        json.loads(polymath(home, "eval", "tiny", "tiny.yaml", f"engine={name}", "runtime=inline", *SMALL, "--json"))
        for name in ("vllm", "torch")
    ]
    assert abs(results[0]["accuracy"] - results[1]["accuracy"]) <= 1 / 30
    assert abs(results[0]["mean_completion_tokens"] - results[1]["mean_completion_tokens"]) <= 12 / 30
    events = without_timings(rows(home / "runs" / "tiny", "events.jsonl"))
    assert next(e for e in events if e["event"] == "engine")["batch_invariant"] is False
