"""Kills whole runs with SIGKILL at random moments, resumes them, and compares their end with an uninterrupted run's.

Used by tests/test_resume.py with a few kills, and at full counts by `make soak`: two hundred inline, thirty on Ray.
Resumable: a round that is in docs/results/kills/ is not done again.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

from rl.checkpoint import write_json

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results" / "kills"
TARGETS = {"inline": 200, "ray": 30}
KILLS_A_RUN = {"inline": 10, "ray": 3}
RECIPE = """
extends: math
rewards: [{use: digits.py:digits}]
"""
REWARD = """
def digits(task, completion):
    text = completion.removeprefix("<think>")
    return sum(c.isdigit() for c in text) / max(1, len(text))
"""
SETTINGS = (
    "runtime.num_threads=1", "data.num_train=200", "data.num_eval=40", "evaluation.num_tasks=20",
    "evaluation.num_tasks_during=10", "evaluation.sampling.max_tokens=12",
    "stages.base.steps=40", "stages.base.save_every=8", "stages.base.batch_size=4",
    "stages.cold_start.steps=8", "stages.cold_start.save_every=3", "stages.cold_start.batch_size=4",
    "stages.grpo.steps=24", "stages.grpo.num_prompts=4", "stages.grpo.group_size=4", "stages.grpo.sampling.max_tokens=12",
    "stages.grpo.eval_every=5", "stages.grpo.save_every=4",
    "stages.grpo.loss.kl_coef=0.01", "stages.grpo.reference_refresh_steps=7",
)  # fmt: skip


@dataclass(frozen=True)
class End:
    """What a run came to: metrics, evaluations and mismatch without timings, a hash of its weights, what it kept."""

    metrics: tuple[str, ...]
    evaluations: tuple[str, ...]
    mismatch: str
    weights: str
    kept: tuple[str, ...]

    @classmethod
    def of(cls, run: Path) -> End:
        events = [e for e in rows(run / "events.jsonl") if e["event"] == "evaluation"]
        return cls(
            metrics=tuple(map(_untimed, rows(run / "metrics.jsonl"))),
            evaluations=tuple(map(_untimed, events)),
            mismatch=json.dumps(json.loads((run / "summary.json").read_text())["mismatch"]),
            weights=weights_hash(run / "checkpoints" / "last"),
            kept=tuple(
                f"{path.name} -> {path.readlink()}" if path.is_symlink() else path.name
                for folder in ("checkpoints", "evaluations")
                for path in sorted((run / folder).iterdir())
            ),
        )


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _untimed(row: dict[str, Any]) -> str:
    return json.dumps({k: v for k, v in row.items() if not k.endswith("_s") and k != "attempt"}, sort_keys=True)


def weights_hash(checkpoint: Path) -> str:
    """SHA-256 over the names and bytes of all tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(load_file(checkpoint / "model.safetensors").items()):
        digest.update(name.encode() + tensor.tobytes())
    return digest.hexdigest()


def prepare(home: Path) -> Path:
    """A folder with the recipe and its reward, to run in."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "digits.py").write_text(REWARD)
    (home / "tiny.yaml").write_text(RECIPE)
    return home


def start(home: Path, *words: str) -> subprocess.Popen[str]:
    """`polymath WORDS` in `home`, with its output in output.txt."""
    with (home / "output.txt").open("a") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "recipes", *words],
            cwd=home,
            env={**os.environ, "PYTHONPATH": str(ROOT), "GOMP_SPINCOUNT": "1000"},
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )


@dataclass(frozen=True)
class Whole:
    """An uninterrupted run: its end, and the seconds until its first metrics row."""

    end: End
    startup_s: float


def run_to_the_end(home: Path, mode: str) -> Whole:
    begun, run = time.monotonic(), home / "runs" / "tiny-1"
    process = start(prepare(home), "run", "tiny.yaml", f"runtime={mode}", *SETTINGS)
    while not num_rows(run) and process.poll() is None:
        time.sleep(0.02)
    startup_s = time.monotonic() - begun
    assert process.wait(timeout=600) == 0, output_of(home)
    return Whole(End.of(run), startup_s)


def run_with_kills(home: Path, mode: str, num_kills: int, whole: Whole, rng: random.Random) -> tuple[End, list[str]]:
    """A run that is killed up to `num_kills` times at random moments and resumed each time.

    A moment is a time within the start-up, or one soon after a random metrics row of those to come: in a step, a checkpoint
    or an evaluation. Returns the run's end, and for each kill what the run had logged last: where it struck.
    """
    run, struck = home / "runs" / "tiny-1", list[str]()
    first = ["run", "tiny.yaml", f"runtime={mode}", *SETTINGS]
    process = start(prepare(home), *first)
    while len(struck) < num_kills and process.returncode is None:
        if rng.random() < 0.2:
            time.sleep(rng.uniform(0.2, 1.0) * whole.startup_s)
        else:
            moment = num_rows(run) + rng.uniform(0, 2 * len(whole.end.metrics) / num_kills)
            while num_rows(run) < moment and process.poll() is None:
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.5))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)  # to it alone; what it had started must end by itself
            process.wait()
            struck.append(last_row(run))
            process = start(home, *(["resume", "tiny-1"] if (run / "recipe.yaml").exists() else first))
    assert process.wait(timeout=600) == 0, output_of(home)
    return End.of(run), struck


def num_rows(run: Path) -> int:
    """Metrics rows that the run has logged so far."""
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def output_of(home: Path) -> str:
    return (home / "output.txt").read_text()[-3000:]


def last_row(run: Path) -> str:
    """The newest whole row of the log in words, such as "metrics base" or "evaluation grpo"."""
    newest = (0.0, "nothing logged")
    for name in ("metrics", "events"):
        path = run / f"{name}.jsonl"
        for text in path.read_text().splitlines()[-2:] if path.exists() else []:
            try:
                row = json.loads(text)
            except ValueError:
                continue  # cut short by the kill
            newest = max(newest, (row["elapsed_s"], f"{row.get('event', 'metrics')} {row.get('stage', '')}".strip()))
    return newest[1]


def main() -> None:
    """Rounds of one run each, of the runtimes named on the command line (default: both), until all kills have been made."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    for mode in sys.argv[1:] or TARGETS:
        path, whole = RESULTS / f"{mode}.json", None
        rounds: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
        with tempfile.TemporaryDirectory() as scratch:
            while (kills := sum(len(r["struck"]) for r in rounds)) < TARGETS[mode]:
                whole = whole or run_to_the_end(Path(scratch) / "whole", mode)
                home = Path(scratch) / f"round-{len(rounds)}"
                count = min(KILLS_A_RUN[mode], TARGETS[mode] - kills)
                end, struck = run_with_kills(home, mode, count, whole, random.Random(f"{mode}/{len(rounds)}"))
                rounds.append({"struck": struck, "identical": end == whole.end})
                write_json(path, rounds)
                print(f"{mode}: {kills + len(struck)} of {TARGETS[mode]} kills, identical: {end == whole.end}", flush=True)
                shutil.rmtree(home)
    text = report({path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))})
    RESULTS.with_suffix(".md").write_text(text)
    print(text)


def report(done: dict[str, list[dict[str, Any]]]) -> str:
    lines = [
        "# Kills",
        "",
        "Small runs (two SFT stages, one GRPO stage with a reference model and evaluations) killed with SIGKILL at random",
        "moments, resumed each time, and compared at the end with an uninterrupted run: every metrics row (timings aside),",
        "every evaluation and every weight, bit by bit, and which checkpoints, links and transcripts are kept. Written by",
        "`make soak`.",
        "",
        "| runtime | runs | kills | runs with an identical end |",
        "|---|---|---|---|",
    ]
    for mode, rounds in done.items():
        kills = sum(len(r["struck"]) for r in rounds)
        lines.append(f"| {mode} | {len(rounds)} | {kills} | {sum(r['identical'] for r in rounds)} |")
    places = Counter(place for rounds in done.values() for r in rounds for place in r["struck"])
    lines += ["", "What the log's newest row was when the kill struck:", "", "| newest row | kills |", "|---|---|"]
    lines += [f"| {place} | {count} |" for place, count in places.most_common()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
