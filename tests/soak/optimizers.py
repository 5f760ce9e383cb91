"""Muon against AdamW on `recipes/math.yaml`'s model and data, reduced: supervised training, and GRPO from a common start.

The first seed finds each optimizer's grid of learning rates: it grows by factors of two until the best lies inside it. All
seeds run the best and its two neighbours; each is reported at the rate that did best on the other seeds. Resumable: a cell
that is in docs/results/optimizers/ already is not run again. Run by `make soak`.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch.nn.utils.rnn import pad_sequence

from recipes.load import load
from rewards.task import is_held_out
from rl.checkpoint import write_json
from rl.config import ModelConfig, OptimizerConfig
from rl.optim.build import build_optimizer
from rl.policy import load_policy
from specialists.generators import stream
from tests.soak.specialists import ROOT, SETTINGS, polymath

RESULTS = ROOT / "docs" / "results" / "optimizers"
RECIPE = load("math").recipe
BASE, COLD_START, GRPO = RECIPE.model_dump(mode="json")["stages"]
Rates: TypeAlias = tuple[float, float, float]
Pair: TypeAlias = tuple[tuple[float, float], tuple[float, float]]  # Muon, AdamW; each (rate, figure)
OPTIMIZERS = ("muon", "adamw")
FIRST = {  # learning rates to begin with on the tuning seed
    ("sft", "muon"): [0.005, 0.01, 0.02],
    ("sft", "adamw"): [0.00125, 0.0025, 0.005],
    ("grpo", "muon"): [0.0005, 0.001, 0.002],
    ("grpo", "adamw"): [0.00025, 0.0005, 0.001],
}
SEEDS = (0, 1, 2)  # the first one finds the grid
SFT_STEPS, SFT_BATCH, GRPO_STEPS, GRPO_PROMPTS = 250, 16, 30, 8
EVALUATION = ["evaluation.num_tasks=200", "evaluation.num_samples=2"]
STYLE = "careful"  # of the supervised comparison: guesses would keep accuracy near 0 in so few steps
HELD_OUT_EXAMPLES = 300
LENGTH = 75  # tokens of a careful demonstration, about
GRADIENT = f"forward and backward of {SFT_BATCH} demonstrations"
TIMED = {
    "adamw, step": OptimizerConfig(name="adamw", lr=1e-6),
    "muon, hybrid, step": OptimizerConfig(name="muon", lr=1e-6),
    "muon, quintic, step": OptimizerConfig(name="muon", lr=1e-6, newton_schulz="quintic"),
}


def main() -> None:
    """Runs the cells that have no result yet, then writes the table."""
    torch.set_num_threads(1)
    RESULTS.mkdir(parents=True, exist_ok=True)
    grids = {(part, name): search(part, name) for part in ("sft", "grpo") for name in OPTIMIZERS}
    for seed in SEEDS:
        for (part, name), rates in grids.items():
            for lr in rates:
                cell(part, name, lr, seed)
    path = RESULTS / "step_ms.json"
    if not path.exists():
        write_json(path, step_parts_ms(start(SEEDS[0])))
    text = report(grids, json.loads(path.read_text()))
    (RESULTS.parent / "optimizers.md").write_text(text)
    print(text)


# ---- cells


def search(part: str, name: str) -> Rates:
    """The learning rate that does best on the first seed, between two that do worse."""
    rates = FIRST[part, name]
    while True:
        best = min(rates, key=lambda lr: merit(part, cell(part, name, lr, SEEDS[0])))
        if best not in (rates[0], rates[-1]):
            return best / 2, best, best * 2
        rates = [best / 2, *rates] if best == rates[0] else [*rates, best * 2]


def chosen(part: str, name: str, rates: Rates, seed: int) -> float:
    """The rate of the grid that did best on the other seeds."""
    others = [other for other in SEEDS if other != seed]
    return min(rates, key=lambda lr: statistics.mean(merit(part, cell(part, name, lr, other)) for other in others))


def merit(part: str, figures: dict[str, Any]) -> float:
    """What a rate is chosen by, smaller is better: the figure with the least noise of each part."""
    return float(figures["held_out_loss"] if part == "sft" else -figures["mean_reward"])


def cell_path(part: str, name: str, lr: float, seed: int) -> Path:
    return RESULTS / f"{part}-{name}-{lr:g}-{seed}.json"


def cell(part: str, name: str, lr: float, seed: int) -> dict[str, Any]:
    """The figures of one run; runs it where there are none yet."""
    path = cell_path(part, name, lr, seed)
    if not path.exists():
        write_json(path, (sft_cell if part == "sft" else grpo_cell)(name, lr, seed))
    found: dict[str, Any] = json.loads(path.read_text())
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
    optimizer = {**GRPO["optimizer"], "name": name, "lr": lr}
    stage = {**GRPO, "steps": GRPO_STEPS, "num_prompts": GRPO_PROMPTS, "eval_every": 0, "optimizer": optimizer}
    data = f"data.num_train={GRPO_STEPS * GRPO_PROMPTS}"
    run = run_math(f"optimizers-grpo-{name}-{lr:g}", seed, [stage], f"model={start(seed)}", data, *EVALUATION)
    rewards = [row["reward_mean"] for row in metrics_of(run)]
    return {
        "start_accuracy": run["eval"]["stages"][0]["accuracy"],
        "accuracy": run["eval"]["stages"][-1]["accuracy"],
        "mean_reward": statistics.mean(rewards),
        "wall_s": run["wall_s"],
        "rewards": rewards,
    }


def start(seed: int) -> Path:
    """The checkpoint after the recipe's two supervised stages, with the recipe's own settings; made once a seed."""
    name = f"optimizers-start-seed{seed}"
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
    examples = (e for e in stream(RECIPE.data.sources[0], seed=0) if is_held_out(e.task, RECIPE.data.held_out_share))
    encoded = [
        policy.chat.demonstration(d) for e in islice(examples, HELD_OUT_EXAMPLES) for d in e.demonstrations if d.style == STYLE
    ]
    ids = pad_sequence([torch.tensor(e.token_ids) for e in encoded], batch_first=True)
    mask = pad_sequence([torch.tensor(e.loss_mask) for e in encoded], batch_first=True)
    return float(policy.model(input_ids=ids, labels=ids.where(mask.bool(), -100)).loss)


def step_parts_ms(folder: Path) -> dict[str, float]:
    """Median milliseconds of processor time, one thread, of an SFT step's gradient and of each optimizer's step; in turns."""
    model = load_policy(folder, ModelConfig(path=str(folder))).model
    ids = torch.randint(model.config.vocab_size, (SFT_BATCH, LENGTH), generator=torch.Generator().manual_seed(0))
    optimizers = {name: build_optimizer(model, config, 1)[0] for name, config in TIMED.items()}
    times: dict[str, list[float]] = {name: [] for name in (GRADIENT, *TIMED)}
    for _ in range(30):
        start = time.process_time()
        model.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        times[GRADIENT].append(1000 * (time.process_time() - start))
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

    def of(self, name: str, lr: float, seed: int) -> float:
        return self.scale * float(cell(self.part, name, lr, seed)[self.key])

    def text(self, values: Sequence[float]) -> str:
        """Mean (smallest to largest)."""
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
- GRPO: its last stage, {GRPO_STEPS} steps of {GRPO_PROMPTS} prompts instead of {GRPO["steps"]} of {GRPO["num_prompts"]}, from the
  checkpoint after both supervised stages of the recipe; one a seed, the same for both optimizers, trained with Muon.
- Schedules, weight decay (0.1) and clipping are the recipe's for both. Muon gives embeddings and norms to AdamW, at the same rate.
- Seed {SEEDS[0]} found each grid; every seed ran the best rate and its two neighbours. The judge of a rate is held-out loss (SFT) or mean
  reward (GRPO). Figures at a rate: mean over seeds (smallest to largest). "Tuned": each seed at the rate that did best on the
  others, since choosing and reporting on the same seeds would flatter both.
- Accuracy: 200 held-out tasks, two samples each at temperature 1. Held-out loss: nats a token over {HELD_OUT_EXAMPLES} demonstrations.

Written by `make soak`.
"""  # noqa: E501


def report(grids: Mapping[tuple[str, str], Rates], step_ms: dict[str, float]) -> str:
    pairs = {measure: tuned(measure, grids) for measure in MEASURES}
    lines = [INTRO, "## What it means", "", *(f"- {verdict(measure, found)}" for measure, found in pairs.items()), ""]
    gradient, adamw, muon, _ = step_ms.values()
    lines += [
        f"With no difference at all, {len(SEEDS)} seeds would still agree one time in {2 ** (len(SEEDS) - 1)}.",
        f"An SFT step with Muon takes {(gradient + muon) / (gradient + adamw):.1f} times the processor time of one with AdamW.",
        "These are short budgets of a model of under a million parameters, and only the rate was tuned: they say who learns",
        "faster in few steps, not who ends better.",
        "",
    ]
    for part, heading in (("sft", "SFT from random weights"), ("grpo", "GRPO from a common start")):
        of_part = {measure: found for measure, found in pairs.items() if measure.part == part}
        lines += [f"## {heading}", "", *rates_table(part), "", *tuned_table(of_part), ""]
    lines += [
        "## Time of an optimizer step",
        "",
        "| part of a step | ms of processor time |",
        "|---|---|",
        *(f"| {name} | {value:.1f} |" for name, value in step_ms.items()),
        "",
        "`quintic` is torch.optim.Muon (`newton_schulz: quintic`); `hybrid` is the default here. Median of 25 steps.",
        "",
    ]
    return "\n".join(lines)


def rates_table(part: str) -> list[str]:
    """Every rate that was run, on however many seeds."""
    measures = [m for m in MEASURES if m.part == part]
    lines = [f"| optimizer | rate | {' | '.join(m.title for m in measures)} | seeds |", "|---" * (len(measures) + 3) + "|"]
    for name in OPTIMIZERS:
        stems = [path.stem.removeprefix(f"{part}-{name}-") for path in RESULTS.glob(f"{part}-{name}-*.json")]
        for lr in sorted({float(stem.rpartition("-")[0]) for stem in stems}):
            seeds = [seed for seed in SEEDS if cell_path(part, name, lr, seed).exists()]
            columns = [m.text([m.of(name, lr, seed) for seed in seeds]) for m in measures]
            lines.append(f"| {name} | {lr:g} | {' | '.join(columns)} | {len(seeds)} |")
    return lines


def tuned(measure: Measure, grids: Mapping[tuple[str, str], Rates]) -> list[Pair]:
    """For each seed (rate, figure) of Muon and of AdamW."""

    def one(name: str, seed: int) -> tuple[float, float]:
        lr = chosen(measure.part, name, grids[measure.part, name], seed)
        return lr, measure.of(name, lr, seed)

    return [(one("muon", seed), one("adamw", seed)) for seed in SEEDS]


def tuned_table(pairs: Mapping[Measure, Sequence[Pair]]) -> list[str]:
    lines = ["| tuned | seed | muon | adamw | muon - adamw |", "|---|---|---|---|---|"]
    for measure, found in pairs.items():
        digits = measure.digits
        for seed, ((lr_a, a), (lr_b, b)) in zip(SEEDS, found, strict=True):
            figures = f"{a:.{digits}f} at {lr_a:g} | {b:.{digits}f} at {lr_b:g} | {a - b:+.{digits}f}"
            lines.append(f"| {measure.title} | {seed} | {figures} |")
    return lines


def verdict(measure: Measure, pairs: Sequence[Pair]) -> str:
    """Both means, and who is ahead on every seed, or nobody."""
    muon, adamw = [a for (_, a), _ in pairs], [b for _, (_, b) in pairs]
    gaps = [(a - b) * (1 if measure.higher_is_better else -1) for a, b in zip(muon, adamw, strict=True)]
    means = f"{measure.part.upper()}, {measure.title}: Muon {measure.text(muon)}, AdamW {measure.text(adamw)}"
    if min(gaps) > 0 or max(gaps) < 0:
        return f"{means}; {'Muon' if gaps[0] > 0 else 'AdamW'} is better on every seed."
    return f"{means}; no difference that holds, the sign changes between seeds."


if __name__ == "__main__":
    main()
