"""`recipes/math.yaml` with each engine: the same held-out accuracy within noise, and how far sampler and trainer are apart.

Resumable: a run that is in docs/results/math_engines/ already is not made again. Run by `make soak`; needs `make env-vllm`.
"""

from __future__ import annotations

import json
import math
import sys
from typing import Any

from rl.checkpoint import write_json
from tests.soak.specialists import RESULTS as SPECIALISTS
from tests.soak.specialists import SETTINGS, polymath

RESULTS = SPECIALISTS.with_name("math_engines")
RUNS = [(engine, "float32", seed) for seed in range(3) for engine in ("torch", "vllm")]
RUNS += [(engine, "bfloat16", 0) for engine in ("torch", "vllm")]


def main() -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    for engine, dtype, seed in RUNS:
        path = RESULTS / f"{engine}-{dtype}-{seed}.json"
        if not path.exists():
            print(path.stem, file=sys.stderr, flush=True)
            write_json(path, one_run(engine, dtype, seed))
    done = {run: json.loads((RESULTS / "{}-{}-{}.json".format(*run)).read_text()) for run in RUNS}
    text = report(done)
    RESULTS.with_suffix(".md").write_text(text)
    print(text)


def one_run(engine: str, dtype: str, seed: int) -> dict[str, Any]:
    words = ["run", "math", f"engine={engine}", f"model.dtype={dtype}", f"seed={seed}"]
    run = polymath(*words, "--name", f"soak-{engine}-{dtype}-{seed}", *SETTINGS)
    stages = {e["stage"]: e for e in run["eval"]["stages"]}
    return {
        "cold_start": stages["cold_start"],
        "grpo": stages["grpo"],
        "mismatch": run["mismatch"],
        "tokens_per_s": run["tokens_per_s"],
        "wall_s": run["wall_s"],
    }


def report(done: dict[tuple[str, str, int], dict[str, Any]]) -> str:
    lines = [
        "# `recipes/math.yaml` with each engine",
        "",
        "Held-out accuracy in percent (a sample a task at temperature 1, 300 tasks) after the cold start and after GRPO, and",
        "the difference of sampler and trainer log-probabilities in nats over all GRPO steps (99th percentile: median of the",
        "steps). Written by `make soak`. The machine did other work meanwhile, and stood still at times: the seconds compare",
        "nothing; docs/results/engines.md does.",
        "",
        "| dtype | seed | engine | cold start | GRPO | 95 % | gap, mean | gap, 99 % | masked | truncated | tokens/s | wall s |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (engine, dtype, seed), run in done.items():
        grpo, gap = run["grpo"], run["mismatch"]
        low, high = (100 * bound for bound in grpo["interval"])
        lines.append(
            f"| {dtype} | {seed} | {engine} | {100 * run['cold_start']['accuracy']:.1f} | {100 * grpo['accuracy']:.1f} "
            f"| {low:.1f}-{high:.1f} | {gap['mean']:.2g} | {gap['p99']:.2g} | {gap['masked_share']:.2%} "
            f"| {gap['truncated_weight_share']:.2%} | {run['tokens_per_s']:.0f} | {run['wall_s']:.0f} |"
        )
    return "\n".join([*lines, "", *differences(done), ""])


def differences(done: dict[tuple[str, str, int], dict[str, Any]]) -> list[str]:
    """vLLM's accuracy beside the torch engine's, in standard errors of two samples of so many tasks."""
    lines = []
    for dtype in ("float32", "bfloat16"):
        seeds = [seed for engine, kind, seed in done if (engine, kind) == ("vllm", dtype)]
        pairs = [(done["torch", dtype, seed]["grpo"], done["vllm", dtype, seed]["grpo"]) for seed in seeds]
        ours, theirs = (sum(pair[i]["accuracy"] for pair in pairs) / len(pairs) for i in (0, 1))
        variances = [e["accuracy"] * (1 - e["accuracy"]) / e["num_tasks"] for pair in pairs for e in pair]
        error = math.sqrt(sum(variances)) / len(pairs)
        lines.append(
            f"{dtype}: mean accuracy {100 * ours:.1f} with torch, {100 * theirs:.1f} with vllm; difference "
            f"{100 * (theirs - ours):+.1f} points, {abs(theirs - ours) / error:.1f} standard errors of the evaluation alone."
        )
    return lines


if __name__ == "__main__":
    main()
