"""Muon against AdamW on `recipes/math.yaml`'s model and data, reduced: supervised training, and GRPO from one common start.

Seed 0 chooses each optimizer's learning rate: the grid grows by factors of two until the best lies inside it. The other seeds
then run the chosen rate, two of them its neighbours too, and only they are reported. Resumable: a cell that is in
docs/results/optimizers/ already is not run again. Run by `make soak`.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.nn.utils.rnn import pad_sequence

from rewards.task import is_held_out
from rl.checkpoint import write_json
from rl.config import ModelConfig, OptimizerConfig
from rl.optim.build import build_optimizer
from rl.policy import load_policy
from specialists.config import DataConfig, SourceConfig
from specialists.generators import stream
from tests.soak.math_seeds import ROOT, SETTINGS, polymath

RESULTS = ROOT / "docs" / "results" / "optimizers"
RECIPE = yaml.safe_load((ROOT / "recipes" / "math.yaml").read_text())
BASE, COLD_START, GRPO = RECIPE["stages"]
OPTIMIZERS = ("muon", "adamw")
FIRST = {  # learning rates to begin with on the tuning seed
    ("sft", "muon"): [0.005, 0.01, 0.02],
    ("sft", "adamw"): [0.0025, 0.005, 0.01],
    ("grpo", "muon"): [0.0005, 0.001, 0.002],
    ("grpo", "adamw"): [0.00025, 0.0005, 0.001],
}
TUNING_SEED, GRID_SEEDS, SEEDS = 0, (1, 2), (1, 2, 3)
SFT_STEPS, SFT_BATCH, GRPO_STEPS = 250, 16, 30
EVALUATION = ["evaluation.num_tasks=200", "evaluation.num_samples=2"]
STYLE = "careful"  # of the supervised comparison: guesses would keep accuracy near 0 in so few steps
HELD_OUT_EXAMPLES = 300
TIMED = {
    "adamw": OptimizerConfig(name="adamw", lr=1e-6),
    "muon, hybrid": OptimizerConfig(name="muon", lr=1e-6),
    "muon, quintic": OptimizerConfig(name="muon", lr=1e-6, newton_schulz="quintic"),
}


def main() -> None:
    """Runs the cells that have no result yet, for the seeds named on the command line (default: all); writes the table."""
    torch.set_num_threads(1)
    RESULTS.mkdir(parents=True, exist_ok=True)
    best = {(part, name): search(part, name) for part in ("sft", "grpo") for name in OPTIMIZERS}
    for seed in map(int, sys.argv[1:] or map(str, SEEDS)):
        for (part, name), rate in best.items():
            for lr in (rate, rate / 2, rate * 2) if seed in GRID_SEEDS else (rate,):
                cell(part, name, lr, seed)
    path = RESULTS / "step_ms.json"
    if not path.exists():
        write_json(path, optimizer_step_ms(start_of(TUNING_SEED)))
    text = report(best, json.loads(path.read_text()))
    (RESULTS.parent / "optimizers.md").write_text(text)
    print(text)


# ---- cells


def search(part: str, name: str) -> float:
    """The learning rate that does best on the tuning seed, with a worse one tried on either side."""
    rates = FIRST[part, name]
    while True:
        best = min(rates, key=lambda lr: merit(part, cell(part, name, lr, TUNING_SEED)))
        if best not in (rates[0], rates[-1]):
            return best
        rates = [best / 2, *rates] if best == rates[0] else [*rates, best * 2]


def merit(part: str, figures: dict[str, Any]) -> float:
    """What a rate is chosen by, smaller is better: the figure with the least noise of each part."""
    return float(figures["held_out_loss"] if part == "sft" else -figures["mean_reward"])


def cell_path(part: str, name: str, lr: float, seed: int) -> Path:
    return RESULTS / f"{part}-{name}-{lr:g}-{seed}.json"


def cell(part: str, name: str, lr: float, seed: int) -> dict[str, Any]:
    path = cell_path(part, name, lr, seed)
    if not path.exists():
        write_json(path, (sft_cell if part == "sft" else grpo_cell)(name, lr, seed))
    found: dict[str, Any] = json.loads(path.read_text())
    print(path.stem, {key: value for key, value in found.items() if isinstance(value, float)}, flush=True)
    return found


def sft_cell(name: str, lr: float, seed: int) -> dict[str, Any]:
    """The recipe's first stage, shortened, on careful demonstrations alone, from random weights."""
    optimizer = {**BASE["optimizer"], "name": name, "lr": lr}
    stage = {
        **BASE,
        "steps": SFT_STEPS,
        "batch_size": SFT_BATCH,
        "mixture": {STYLE: 1.0},
        "logging_steps": 10,
        "optimizer": optimizer,
    }
    data = f"data.num_train={SFT_STEPS * SFT_BATCH}"
    run = run_math(f"optimizers-sft-{name}-{lr:g}", seed, [stage], data, *EVALUATION)
    rows = metrics_of(run)
    return {
        "accuracy": run["eval"]["stages"][-1]["accuracy"],
        "train_loss": statistics.mean(row["loss"] for row in rows[-5:]),  # of the last 50 steps
        "held_out_loss": held_out_loss(ROOT / run["checkpoint"]),
        "wall_s": run["wall_s"],
        "losses": [row["loss"] for row in rows],
    }


def grpo_cell(name: str, lr: float, seed: int) -> dict[str, Any]:
    """The recipe's last stage, shortened, from the seed's common start."""
    stage = {**GRPO, "steps": GRPO_STEPS, "eval_every": 0, "optimizer": {**GRPO["optimizer"], "name": name, "lr": lr}}
    run = run_math(f"optimizers-grpo-{name}-{lr:g}", seed, [stage], f"model={start_of(seed)}", *EVALUATION)
    rewards = [row["reward_mean"] for row in metrics_of(run)]
    return {
        "start_accuracy": run["eval"]["stages"][0]["accuracy"],
        "accuracy": run["eval"]["stages"][-1]["accuracy"],
        "mean_reward": statistics.mean(rewards),
        "wall_s": run["wall_s"],
        "rewards": rewards,
    }


def start_of(seed: int) -> Path:
    """The checkpoint after the recipe's two supervised stages, with the recipe's own settings; made once a seed."""
    name = f"optimizers-start-{seed}"
    summary = ROOT / "runs" / name / "summary.json"  # of the newest run of that name
    if not summary.exists() or json.loads(summary.read_text())["status"] != "done":
        run_math(name, seed, [{**BASE, "evaluate": False}, COLD_START], *EVALUATION)
    return (summary.parent / "checkpoints" / "last").resolve()


def run_math(run_name: str, seed: int, stages: Sequence[dict[str, Any]], *settings: str) -> dict[str, Any]:
    return polymath("run", "math", f"seed={seed}", f"stages={json.dumps(stages)}", *settings, *SETTINGS, "--name", run_name)


def metrics_of(run: dict[str, Any]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (ROOT / run["folder"] / "metrics.jsonl").read_text().splitlines()]


@torch.no_grad()
def held_out_loss(folder: Path) -> float:
    """Mean negative log-likelihood, in nats, of the assistant's tokens in demonstrations of held-out tasks."""
    policy = load_policy(folder, ModelConfig(path=str(folder)))
    policy.model.eval()
    source = SourceConfig(**RECIPE["data"]["sources"][0])
    examples = (e for e in stream(source, seed=0) if is_held_out(e.task, DataConfig.held_out_share))
    encoded = [
        policy.chat.demonstration(d) for e in islice(examples, HELD_OUT_EXAMPLES) for d in e.demonstrations if d.style == STYLE
    ]
    ids = pad_sequence([torch.tensor(e.token_ids) for e in encoded], batch_first=True)
    mask = pad_sequence([torch.tensor(e.loss_mask) for e in encoded], batch_first=True)
    return float(policy.model(input_ids=ids, labels=ids.where(mask.bool(), -100)).loss)


def optimizer_step_ms(folder: Path) -> dict[str, float]:
    """Median milliseconds of processor time of one optimizer step on one thread; the three take turns."""
    model = load_policy(folder, ModelConfig(path=str(folder))).model
    for parameter in model.parameters():
        parameter.grad = 1e-3 * torch.randn_like(parameter)
    optimizers = {name: build_optimizer(model, config, 1)[0] for name, config in TIMED.items()}
    times: dict[str, list[float]] = {name: [] for name in TIMED}
    for _ in range(30):
        for name, optimizer in optimizers.items():
            start = time.process_time()
            optimizer.step()
            times[name].append(1000 * (time.process_time() - start))
    return {name: statistics.median(values[5:]) for name, values in times.items()}  # the first steps make the state


# ---- the table


@dataclass(frozen=True)
class Measure:
    """One column of the table: a figure of a cell, and which way is better."""

    part: str
    key: str
    title: str
    scale: float
    digits: int
    higher_is_better: bool

    def of(self, name: str, lr: float, seed: int) -> float | None:
        path = cell_path(self.part, name, lr, seed)
        return self.scale * json.loads(path.read_text())[self.key] if path.exists() else None

    def text(self, values: Sequence[float]) -> str:
        """Mean (smallest to largest)."""
        if not values:
            return "-"
        mean, low, high = (f"{value:.{self.digits}f}" for value in (statistics.mean(values), min(values), max(values)))
        return f"{mean} ({low} to {high})"


MEASURES = (
    Measure("sft", "held_out_loss", "held-out loss", 1, 3, higher_is_better=False),
    Measure("sft", "accuracy", "accuracy %", 100, 1, higher_is_better=True),
    Measure("sft", "train_loss", "training loss, last 50 steps", 1, 3, higher_is_better=False),
    Measure("grpo", "mean_reward", "mean reward over the steps", 1, 3, higher_is_better=True),
    Measure("grpo", "accuracy", "accuracy % after", 100, 1, higher_is_better=True),
)


INTRO = f"""# Muon and AdamW, both tuned

Model and data of `recipes/math.yaml`, float32, one thread.

- SFT: its first stage from random weights, {SFT_STEPS} steps of {SFT_BATCH} {STYLE} demonstrations instead of {BASE["steps"]} of 32 of both styles.
- GRPO: its last stage, {GRPO_STEPS} steps instead of {GRPO["steps"]}, from the checkpoint after both supervised stages; one a seed, the same
  for both optimizers, trained with Muon.
- Schedules, weight decay (0.1) and clipping are the recipe's for both. Muon gives embeddings and norms to AdamW, at the same rate.
- Seed {TUNING_SEED} chose each rate, by held-out loss (SFT) and by mean reward (GRPO); its grid grew by factors of two until the best lay
  inside it. Columns without a seed's number are over the other seeds, which chose nothing: mean (smallest to largest).
- Accuracy: 200 held-out tasks, two samples each at temperature 1. Held-out loss: nats a token over {HELD_OUT_EXAMPLES} demonstrations.

Written by `make soak`.
"""  # noqa: E501


def report(best: dict[tuple[str, str], float], step_ms: dict[str, float]) -> str:
    lines = [INTRO]
    for part, heading in (("sft", "SFT from random weights"), ("grpo", "GRPO from a common start")):
        lines += [f"## {heading}", "", *rates_table(part, best), "", *tuned_table(part, best), "", *verdicts(part, best), ""]
    lines += [
        f"With no difference at all, {len(SEEDS)} seeds would still agree one time in {2 ** (len(SEEDS) - 1)}.",
        "",
        "## Time of an optimizer step",
        "",
        "| optimizer | ms of processor time |",
        "|---|---|",
        *(f"| {name} | {value:.1f} |" for name, value in step_ms.items()),
        "",
        "`muon, quintic` is torch.optim.Muon (`newton_schulz: quintic`); `hybrid` is the default here. Median of 25 steps.",
        "",
    ]
    return "\n".join(lines)


def rates_table(part: str, best: dict[tuple[str, str], float]) -> list[str]:
    """Every rate that was run, with the tuning seed and the others apart."""
    measures = [m for m in MEASURES if m.part == part]
    titles = [f"{measures[0].title}, seed {TUNING_SEED}", *(m.title for m in measures)]
    lines = [f"| optimizer | rate | {' | '.join(titles)} | seeds |", "|---" * (len(titles) + 3) + "|"]
    for name in OPTIMIZERS:
        found = sorted({rate_of(path, f"{part}-{name}-") for path in RESULTS.glob(f"{part}-{name}-*.json")})
        for lr in found:
            tuning = measures[0].of(name, lr, TUNING_SEED)
            first = "-" if tuning is None else f"{tuning:.{measures[0].digits}f}"
            columns = [m.text([v for seed in SEEDS if (v := m.of(name, lr, seed)) is not None]) for m in measures]
            seeds = sum(cell_path(part, name, lr, seed).exists() for seed in SEEDS)
            rate = f"**{lr:g}**" if lr == best[part, name] else f"{lr:g}"
            lines.append(f"| {name} | {rate} | {first} | {' | '.join(columns)} | {seeds} |")
    return lines


def rate_of(path: Path, prefix: str) -> float:
    return float(path.stem.removeprefix(prefix).rpartition("-")[0])


def tuned(measure: Measure, best: dict[tuple[str, str], float]) -> list[tuple[int, float, float]]:
    """(seed, Muon, AdamW) at the chosen rates, for the reported seeds that have both."""
    muon, adamw = ([measure.of(name, best[measure.part, name], seed) for seed in SEEDS] for name in OPTIMIZERS)
    return [(seed, a, b) for seed, a, b in zip(SEEDS, muon, adamw, strict=True) if a is not None and b is not None]


def tuned_table(part: str, best: dict[tuple[str, str], float]) -> list[str]:
    """Each reported seed at the chosen rates."""
    muon, adamw = (f"{name} at {best[part, name]:g}" for name in OPTIMIZERS)
    lines = [f"| measure | seed | {muon} | {adamw} | muon - adamw |", "|---|---|---|---|---|"]
    for measure in (m for m in MEASURES if m.part == part):
        digits = measure.digits
        for seed, a, b in tuned(measure, best):
            lines.append(f"| {measure.title} | {seed} | {a:.{digits}f} | {b:.{digits}f} | {a - b:+.{digits}f} |")
    return lines


def verdicts(part: str, best: dict[tuple[str, str], float]) -> list[str]:
    """A sentence for each measure: who is ahead on every seed, or nobody."""
    lines = []
    for measure in (m for m in MEASURES if m.part == part):
        gaps = [(a - b) * (1 if measure.higher_is_better else -1) for _, a, b in tuned(measure, best)]
        sizes = measure.text([abs(gap) for gap in gaps])
        if all(gap > 0 for gap in gaps):
            lines.append(f"- {measure.title}: Muon is better on every seed, by {sizes}.")
        elif all(gap < 0 for gap in gaps):
            lines.append(f"- {measure.title}: AdamW is better on every seed, by {sizes}.")
        else:
            mean = f"{statistics.mean(gaps):+.{measure.digits}f}"
            lines.append(f"- {measure.title}: no difference; the sign changes between seeds (mean in Muon's favour {mean}).")
    return lines


if __name__ == "__main__":
    main()
