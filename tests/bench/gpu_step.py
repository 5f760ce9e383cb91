"""One GRPO step of a 0.6-billion-parameter Qwen3 with random weights on a GPU: its parts, tokens a second, peak memory.

16 prompts x 8 completions x 256 tokens, everything in one process. Not part of `make bench`: run it where there is a GPU.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

import torch

from rl.attention import enable_packing
from tests.bench.common import make_policy, median, num_parameters, table, write
from tests.bench.grpo_step import PARTS, Side, ours

NEW_TOKENS = 256
SIDES = [
    Side("bf16 AdamW", "ours", "bfloat16", new_tokens=NEW_TOKENS, microbatch_tokens=16384),
    Side("bf16 Muon", "ours", "bfloat16", optimizer="muon", new_tokens=NEW_TOKENS, microbatch_tokens=16384),
    Side("fp32 AdamW", "ours", "float32", new_tokens=NEW_TOKENS, microbatch_tokens=16384),
]


def synchronised() -> float:
    """Seconds, once the GPU has done what it was given."""
    torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3, help="measured steps, after one warm-up")
    parser.add_argument("--write", action="store_true", help="docs/results/gpu_step.md")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("this bench needs a GPU, and torch finds none")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        policy = make_policy("q600", "bfloat16")
        size, packing = num_parameters(policy) / 1e6, enable_packing(policy.model)
        policy.save(Path(folder))
        del policy
        for side in SIDES:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            laps = asyncio.run(ours(side, folder, arguments.steps + 1, synchronised))
            parts = {part: median([lap.get(part, 0.0) for lap in laps]) for part in PARTS}
            count = side.num_prompts * side.group_size * NEW_TOKENS
            rates = [f"{count / parts['sampling']:.0f}", f"{count / parts['step']:.0f}"]
            peak = f"{torch.cuda.max_memory_allocated() / 2**30:.1f}"
            rows.append([side.name, *(f"{parts[part]:.3g}" for part in PARTS), *rates, peak])
    where = f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    text = (
        f"# A GRPO step on a GPU\n\n{size:.0f}M parameters, {where}; 16 prompts x 8 completions x {NEW_TOKENS} tokens, "
        f"`runtime: inline`, torch engine; median seconds of {arguments.steps} steps. Packing: {packing or 'yes'}.\n\n"
    )
    text += table(["", *PARTS, "sampled tokens/s", "tokens/s of the step", "peak GiB"], rows)
    print(text)
    if arguments.write:
        write("gpu_step.md", text)


if __name__ == "__main__":
    main()
