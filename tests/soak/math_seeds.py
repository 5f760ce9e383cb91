"""Five seeds of `recipes/math.yaml`, each with its control: what GRPO adds over more supervised training.

The control goes on from the same cold start with supervised steps on the same demonstrations, for at least the seconds that
GRPO took. Resumable: a seed that is in docs/results/math_seeds/ already is not run again. Run by `make soak`.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from rl.checkpoint import write_json

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results" / "math_seeds"
SEEDS = range(5)
SETTINGS = ["runtime=inline", "runtime.num_threads=1"]  # the metrics are those of `runtime: ray`; a test compares the two


def main() -> None:
    """Runs the seeds named on the command line (default: all) that have no result yet, then writes the table."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    for seed in map(int, sys.argv[1:] or map(str, SEEDS)):
        path = RESULTS / f"{seed}.json"
        if not path.exists():
            write_json(path, one_seed(seed))
    done = {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}
    (RESULTS.parent / "math_seeds.md").write_text(report(done))
    print(report(done))


def one_seed(seed: int) -> dict[str, Any]:
    run = polymath("run", "math", f"seed={seed}", "--name", f"soak-math-{seed}", *SETTINGS)
    stages = {e["stage"]: e for e in run["eval"]["stages"]}
    control = control_run(seed, Path(run["folder"]))
    return {
        "base": stages["base"],
        "cold_start": stages["cold_start"],
        "grpo": stages["grpo"],
        "control": control["eval"]["stages"][-1],
        "wall_s": run["wall_s"],
        "control_steps": control["steps"],
    }


def control_run(seed: int, folder: Path) -> dict[str, Any]:
    """Supervised training from the run's cold start, for the seconds that its GRPO stage spent on steps."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    grpo_s = sum(r["step_s"] for r in rows if r["stage"] == "grpo")
    cold = [r for r in rows if r["stage"] == "base"]
    step_s = (cold[-1]["elapsed_s"] - cold[0]["elapsed_s"]) / (cold[-1]["step"] - cold[0]["step"])
    steps = math.ceil(grpo_s / step_s)
    start = next(e["path"] for e in events if e["event"] == "checkpoint" and e["stage"] == "cold_start")
    stage = json.dumps(
        {
            "kind": "sft",
            "name": "control",
            "steps": steps,
            "mixture": {"careful": 0.3, "sloppy": 0.7},
            "max_length": 96,
            "optimizer": {"lr": 5e-4, "schedule": "cosine", "warmup_steps": 5},
        }
    )
    name = f"soak-math-{seed}-control"
    result = polymath("run", "math", f"seed={seed}", f"model={start}", f"stages=[{stage}]", "--name", name, *SETTINGS)
    return {**result, "steps": steps}


def polymath(*words: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "recipes", *words, "--json"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def report(done: dict[str, Any]) -> str:
    lines = [
        "# `recipes/math.yaml`, five seeds",
        "",
        "Held-out accuracy in percent (a sample a task at temperature 1) after each stage, and of the control: the cold start",
        "trained on with supervised steps, same demonstrations, for the seconds that GRPO took. Written by `make soak`.",
        "",
        "| seed | tasks | base | cold start | GRPO | gain | control | GRPO - control | by kind after GRPO | tokens | wall s |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    gains, finals, margins = [], [], []
    for seed, row in done.items():
        base, cold, grpo, control = (100 * row[k]["accuracy"] for k in ("base", "cold_start", "grpo", "control"))
        gains.append(grpo - cold)
        finals.append(grpo)
        margins.append(grpo - control)
        kinds = " ".join(f"{kind} {100 * share:.0f}" for kind, share in row["grpo"]["by_kind"].items())
        tokens = f"{row['cold_start']['mean_completion_tokens']:.0f} to {row['grpo']['mean_completion_tokens']:.0f}"
        lines.append(
            f"| {seed} | {row['grpo']['num_tasks']} | {base:.1f} | {cold:.1f} | {grpo:.1f} | {gains[-1]:+.1f} | {control:.1f} "
            f"| {margins[-1]:+.1f} | {kinds} | {tokens} | {row['wall_s']:.0f} |"
        )
    lines += [
        "",
        f"Median gain {statistics.median(gains):.1f} points, smallest {min(gains):.1f}; median final accuracy "
        f"{statistics.median(finals):.1f}; smallest margin over the control {min(margins):.1f} points.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
