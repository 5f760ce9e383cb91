"""Is decoding batch-invariant? The engine's own probe over widths and dtypes, with and without fixed shapes.

Run by `make bench`; prints a table. The verdict belongs to the machine's kernels: it is measured at every engine start.
"""

from __future__ import annotations

import itertools
import platform

import torch

from rl.config import EngineConfig, InitConfig, ModelConfig
from rl.engine.invariance import probe
from rl.policy import init_policy
from rl.tokenizer import train_tokenizer


def main() -> None:
    torch.set_num_threads(2)
    tokenizer = train_tokenizer(["345 + 278 = 623"] * 4, 512)
    print(f"torch {torch.__version__}, {platform.processor() or platform.machine()}, {torch.get_num_threads()} threads")
    print("| d | dtype | shapes | invariant | detail |\n|---|---|---|---|---|")
    for width, dtype, fixed in itertools.product((128, 256, 512), ("float32", "bfloat16"), (False, True)):
        config = {
            "hidden_size": width,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": width // 4,
            "intermediate_size": 3 * width,
            "tie_word_embeddings": True,
        }
        model = ModelConfig(path="-", dtype=dtype)  # type: ignore[arg-type]
        policy = init_policy(InitConfig(config=config), tokenizer, model, seed=0)
        verdict = probe(policy, EngineConfig(max_batch_size=64, deterministic=fixed))
        shapes = "fixed" if fixed else "free"
        print(f"| {width} | {dtype} | {shapes} | {'yes' if verdict.invariant else 'no'} | {verdict.detail} |", flush=True)


if __name__ == "__main__":
    main()
