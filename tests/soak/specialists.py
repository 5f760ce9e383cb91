"""Five seeds of each specialist's recipe, each with its control: what GRPO adds over more supervised training.

The control goes on from the same cold start with supervised steps on the same demonstrations: as many as fit into GRPO's
seconds at the pace of the base stage. `python -m tests.soak.specialists code 0 1` runs these seeds, without seeds all five,
without a recipe all of them.
Resumable: a seed that is in docs/results/specialists/ already is not run again, nor a run that is finished in runs/. Run by
`make soak`.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from recipes.load import load, recipe_hash
from rl.checkpoint import write_json

Row: TypeAlias = dict[str, Any]  # of one seed: the evaluation after each stage and of the control, steps and seconds

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results" / "specialists"
RECIPES = ("code", "instruct", "rubric", "agent")
SEEDS = range(5)
SETTINGS = ["runtime=inline", "runtime.num_threads=1"]  # the metrics are those of `runtime: ray`; a test compares the two
LONGEST = "hop4"  # the agent's held-out chains
EXPLAINED = [
    "Held-out accuracy in percent (a sample a task at temperature 1) after each stage, and of the control: the cold start",
    "trained on with supervised steps on the same demonstrations, as many as fit into GRPO's seconds at the run's own pace.",
    "Written by `make soak`.",
]
EXPLAINED_JUDGE = [
    "In percent, before GRPO (after the cold start) and after it: the judge's accuracy on held-out labels, all criteria right;",
    "what the writer's held-out texts are really worth, which no reward tells it; and what the judge gives them. All at",
    "temperature 1. The gap is judged minus true. Before GRPO many verdicts are guesses, so that judged says little there.",
]


def main(words: Sequence[str]) -> None:
    """Runs what the words name and has no result yet, then writes the page."""
    recipes = [word for word in words if not word.isdigit()] or RECIPES
    seeds = [int(word) for word in words if word.isdigit()] or SEEDS
    if unknown := sorted(set(recipes) - set(RECIPES)):
        raise SystemExit(f"got {unknown[0]!r}; allowed: {', '.join(RECIPES)}, and numbers of seeds")
    for recipe in recipes:
        run_missing(recipe, seeds, RESULTS / recipe)
    RESULTS.with_suffix(".md").write_text(page(RESULTS))
    print(page(RESULTS))


def run_missing(recipe: str, seeds: Sequence[int], folder: Path) -> None:
    """One file a seed in `folder`, for the seeds that have none."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        path = folder / f"{seed}.json"
        if not path.exists():
            print(f"{recipe}, seed {seed}", file=sys.stderr, flush=True)
            write_json(path, one_seed(recipe, seed))


def one_seed(recipe: str, seed: int) -> Row:
    """Runs the recipe and then its control. A run has the stages `base`, `cold_start` and `grpo`."""
    name = f"soak-{recipe}-{seed}"
    run = run_once(name, recipe, f"seed={seed}")
    stages = {e["stage"]: e for e in run["eval"]["stages"]}
    folder = Path(run["folder"])
    stage, grpo_s = control_stage(folder)
    control = run_once(f"{name}-control", recipe, f"seed={seed}", *from_cold_start(folder, stage))
    rows = lines(Path(control["folder"]) / "metrics.jsonl")
    return {
        "base": stages["base"],
        "cold_start": stages["cold_start"],
        "grpo": stages["grpo"],
        "control": control["eval"]["stages"][-1],
        "wall_s": run["wall_s"],
        "grpo_s": round(grpo_s, 1),
        "control_steps": stage["steps"],
        "control_s": round(rows[-1]["elapsed_s"] - rows[0]["elapsed_s"], 1),
    }


def control_stage(folder: Path) -> tuple[dict[str, Any], float]:
    """The run's cold start, with as many steps as its GRPO stage had seconds for; and these seconds."""
    rows = lines(folder / "metrics.jsonl")
    grpo_s = sum(r["step_s"] for r in rows if r["stage"] == "grpo")
    ends = [r["elapsed_s"] for r in rows if r["stage"] == "base"]
    step_s = statistics.median(after - before for before, after in pairwise(ends))  # what else the machine did, left out
    return {**stage_of(folder, "cold_start"), "name": "control", "steps": math.ceil(grpo_s / step_s)}, grpo_s


def from_cold_start(folder: Path, stage: Mapping[str, Any]) -> list[str]:
    """The overrides that go on with this stage from the run's checkpoint after its cold start."""
    saved = [e for e in lines(folder / "events.jsonl") if (e["event"], e.get("stage")) == ("checkpoint", "cold_start")]
    return [f"model.path={saved[-1]['path']}", f"stages=[{json.dumps(stage)}]"]


def stage_of(folder: Path, name: str) -> dict[str, Any]:
    stages: list[dict[str, Any]] = yaml.safe_load((folder / "recipe.yaml").read_text())["stages"]
    return next(stage for stage in stages if stage["name"] == name)


def run_once(name: str, recipe: str, *overrides: str) -> dict[str, Any]:
    """What `polymath run --json` prints; of a finished run of this name and of the same recipe, what it printed."""
    wanted = load(ROOT / "recipes" / f"{recipe}.yaml", [*overrides, *SETTINGS]).recipe
    for folder in sorted((ROOT / "runs").glob(f"{name}-[0-9]*")):
        summary = folder / "summary.json"
        if not summary.is_file() or (found := json.loads(summary.read_text()))["status"] != "done":
            continue
        ran = load(folder / "recipe.yaml").recipe
        if recipe_hash(ran) == recipe_hash(wanted) and ran.evaluation == wanted.evaluation:
            return {"folder": str(folder), **found}
    return polymath("run", recipe, *overrides, "--name", name, *SETTINGS)


def polymath(*words: str) -> dict[str, Any]:
    """What `polymath ... --json` prints."""
    done = subprocess.run(
        [sys.executable, "-m", "recipes", *words, "--json"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def read(folder: Path) -> dict[str, Row]:
    """The results of the seeds that are done, by seed."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def page(results: Path) -> str:
    """A table for each recipe that has results."""
    parts = ["# Specialists: what GRPO adds", "", *EXPLAINED, ""]
    for recipe in RECIPES:
        if rows := read(results / recipe):
            spent = "; ".join(f"{seed}: {r['grpo_s']:.0f} and {r['control_s']:.0f}" for seed, r in rows.items())
            parts += [
                f"## `recipes/{recipe}.yaml`",
                "",
                *(judge_table(rows) if recipe == "rubric" else table(rows)),
                *(agent_lines(rows) if recipe == "agent" else []),
                "",
                f"Seconds of GRPO's and of the control's steps: {spent}.",
                "",
            ]
    return "\n".join(parts)


def table(rows: Mapping[str, Row]) -> list[str]:
    """A line a seed, and what holds for all of them."""
    out = [
        "| seed | tasks | base | cold start | GRPO | gain | control | GRPO - control | by kind after GRPO | tokens | wall s |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    gains, finals, margins = [], [], []
    for seed, row in rows.items():
        base, cold, grpo, control = (100 * row[k]["accuracy"] for k in ("base", "cold_start", "grpo", "control"))
        gains.append(grpo - cold)
        finals.append(grpo)
        margins.append(grpo - control)
        kinds = " ".join(f"{kind} {100 * share:.0f}" for kind, share in row["grpo"]["by_kind"].items())
        tokens = f"{row['cold_start']['mean_completion_tokens']:.0f} to {row['grpo']['mean_completion_tokens']:.0f}"
        out.append(
            f"| {seed} | {row['grpo']['num_tasks']} | {base:.1f} | {cold:.1f} | {grpo:.1f} | {gains[-1]:+.1f} | {control:.1f} "
            f"| {margins[-1]:+.1f} | {kinds} | {tokens} | {row['wall_s']:.0f} |"
        )
    return [
        *out,
        "",
        f"Median gain {statistics.median(gains):.1f} points, smallest {min(gains):.1f}; median final accuracy "
        f"{statistics.median(finals):.1f}; smallest margin over the control {min(margins):.1f} points.",
    ]


def agent_lines(rows: Mapping[str, Row]) -> list[str]:
    """What only rollouts with tools have, after GRPO."""
    figures = [row["grpo"]["agent"] for row in rows.values()]
    kept = min(100 * found["reasoning_kept_share"] for found in figures)
    longest = [100 * row["grpo"]["by_kind"][LONGEST] for row in rows.values()]
    calls = statistics.median(found["calls_mean"] for found in figures)
    return [
        "",
        f"`{LONGEST}` are chains a hop longer than any demonstration or training task: {min(longest):.1f} % at least. Thinking "
        f"is kept in {kept:.1f} % of the turns that called a tool, at least; {calls:.1f} calls a rollout in the median.",
    ]


def judge_table(rows: Mapping[str, Row]) -> list[str]:
    """The same of a recipe whose reward is a judge in training: how well it judges, and how well it is served."""
    stages = ("cold_start", "grpo", "control")
    out = [
        *EXPLAINED_JUDGE,
        "",
        "| seed | labels | judge before | after | gain | control | after - control | true before | after | gain | control "
        "| judged before | after | gap before | after | wall s |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    gains, margins, truths = [], [], []
    for seed, row in rows.items():
        found = {name: [100 * row[stage]["judge"][name] for stage in stages] for name in ("accuracy", "truth", "score", "gap")}
        cold, grpo, control = found["accuracy"]
        true_cold, true_grpo, true_control = found["truth"]
        gains.append(grpo - cold)
        margins.append(grpo - control)
        truths.append(true_grpo - true_cold)
        out.append(
            f"| {seed} | {row['grpo']['judge']['num_labels']:.0f} | {cold:.1f} | {grpo:.1f} | {gains[-1]:+.1f} | {control:.1f} "
            f"| {margins[-1]:+.1f} | {true_cold:.1f} | {true_grpo:.1f} | {truths[-1]:+.1f} | {true_control:.1f} "
            f"| {found['score'][0]:.1f} | {found['score'][1]:.1f} | {found['gap'][0]:+.1f} | {found['gap'][1]:+.1f} "
            f"| {row['wall_s']:.0f} |"
        )
    return [
        *out,
        "",
        f"Judge: median gain {statistics.median(gains):.1f} points, smallest {min(gains):.1f}; smallest margin over the "
        f"control {min(margins):.1f}. Truth: median gain {statistics.median(truths):.1f} points, smallest {min(truths):.1f}.",
    ]


if __name__ == "__main__":
    main(sys.argv[1:])
