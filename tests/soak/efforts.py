"""Three seeds of the effort recipe, each beside the same run without the length penalty: what thinking costs and what it buys.

`python -m tests.soak.efforts 0 1` runs these seeds, without numbers all three. Resumable: a seed that is in
docs/results/efforts/ already is not run again. Run by `make soak`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

from rl.checkpoint import write_json
from tests.soak.specialists import ROOT, from_cold_start, read, run_once, stage_of

Levels: TypeAlias = Mapping[str, Mapping[str, float]]

RESULTS = ROOT / "docs" / "results" / "efforts"
SEEDS = range(3)
WITHOUT = "efforts.penalty.c_max=0"
EXPLAINED = [
    "`recipes/effort.yaml`, 200 held-out sums, each at every effort, a sample each at temperature 1: accuracy in percent, and",
    "mean sampled tokens. Without the penalty: GRPO from the same cold start with `efforts.penalty.c_max=0`.",
    "Written by `make soak`.",
]


def main(words: Sequence[str]) -> None:
    """Runs the seeds that have no result yet, then writes the page."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    for seed in [int(word) for word in words] or SEEDS:
        path = RESULTS / f"{seed}.json"
        if not path.exists():
            print(f"effort, seed {seed}", file=sys.stderr, flush=True)
            write_json(path, one_seed(seed))
    RESULTS.with_suffix(".md").write_text(page(RESULTS))
    print(page(RESULTS))


def one_seed(seed: int) -> dict[str, Any]:
    """The figures by effort after the cold start and after GRPO, with the penalty and, from the same cold start, without."""
    name = f"soak-effort-{seed}"
    run = run_once(name, "effort", f"seed={seed}")
    folder = Path(run["folder"])
    overrides = [*from_cold_start(folder, stage_of(folder, "grpo")), WITHOUT]
    without = run_once(f"{name}-without", "effort", f"seed={seed}", *overrides)
    stages = {e["stage"]: e["by_effort"] for e in run["eval"]["stages"]}
    return {
        "cold_start": stages["cold_start"],
        "grpo": stages["grpo"],
        "without": without["eval"]["stages"][-1]["by_effort"],
        "wall_s": run["wall_s"] + without["wall_s"],
    }


def page(results: Path) -> str:
    """A line an effort of each seed, and what holds for all of them."""
    rows = read(results)
    out = [
        "# Efforts: accuracy against tokens",
        "",
        *EXPLAINED,
        "",
        "| seed | effort | cold start | GRPO | tokens | accuracy per 1,000 tokens | without penalty | tokens |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for seed, row in rows.items():
        for level, found in row["grpo"].items():
            cold, without, gain = row["cold_start"][level], row["without"][level], found["accuracy_per_1k_tokens"]
            out.append(
                f"| {seed} | {level} | {100 * cold['accuracy']:.1f} | {100 * found['accuracy']:.1f} "
                f"| {found['mean_tokens']:.1f} | {gain:.1f} | {100 * without['accuracy']:.1f} | {without['mean_tokens']:.1f} |"
            )
    if rows:
        out += ["", *_verdicts([row["grpo"] for row in rows.values()], [row["without"] for row in rows.values()])]
    return "\n".join(out) + "\n"


def _verdicts(grpo: Sequence[Levels], without: Sequence[Levels]) -> list[str]:
    rises = [_rises([level["mean_tokens"] for level in levels.values()], strictly=True) for levels in grpo]
    keeps = [_rises([level["accuracy"] for level in levels.values()], strictly=False) for levels in grpo]
    margins = [100 * (levels["max"]["accuracy"] - levels["none"]["accuracy"]) for levels in grpo]
    saved = [b["high"]["mean_tokens"] - a["high"]["mean_tokens"] for a, b in zip(grpo, without, strict=True)]
    return [
        f"Mean tokens rise strictly from none to high to max in {sum(rises)} of {len(grpo)} seeds, accuracy does not fall in "
        f"{sum(keeps)}; max is {min(margins):.1f} points above none at least. The penalty saves {min(saved):.1f} to "
        f"{max(saved):.1f} tokens at effort high."
    ]


def _rises(values: Sequence[float], *, strictly: bool) -> bool:
    return all(b > a if strictly else b >= a for a, b in pairwise(values))


if __name__ == "__main__":
    main(sys.argv[1:])
