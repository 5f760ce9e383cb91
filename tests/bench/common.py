"""What the benchmarks share: the models, the machine in words, its product rates, and the pages they write."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import GenerationConfig

from rl.config import InitConfig, ModelConfig
from rl.policy import Policy, init_policy
from rl.tokenizer import train_tokenizer
from tests.bench.pages import RESULTS, table, write

__all__ = ["RESULTS", "SIZES", "machine", "make_policy", "median", "num_parameters", "product_rate", "table", "write"]

SIZES = {  # Qwen3 with 1.1, 4.98, 49.3 and 596 million parameters (the last one is Qwen3-0.6B's shape): config, vocabulary
    "q1": ({"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 384}, 1024),
    "q5": ({"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 768}, 1024),
    "q50": ({"hidden_size": 512, "num_hidden_layers": 12, "num_attention_heads": 8, "intermediate_size": 2048}, 4096),
    "q600": (
        {"hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16, "intermediate_size": 3072, "head_dim": 128},
        151936,
    ),
}


def make_policy(size: str, dtype: str) -> Policy:
    """A random model whose end-of-sequence token lies outside its vocabulary: no side ever stops early."""
    config, vocab_size = SIZES[size]
    tokenizer = train_tokenizer(["345 + 278 = 623"] * 4, 512)
    tokenizer.add_tokens([f"<w{i}>" for i in range(vocab_size - len(tokenizer))])
    heads = {"num_key_value_heads": config["num_attention_heads"] // 2, "tie_word_embeddings": True}
    model = ModelConfig(path="-", dtype=dtype)  # type: ignore[arg-type]
    policy = init_policy(InitConfig(config={"head_dim": 64, **config, **heads}), tokenizer, model, seed=0)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.add_special_tokens({"eos_token": "<never>"})
    never = tokenizer.eos_token_id
    template = str(tokenizer.chat_template)
    tokenizer.chat_template = template.replace(str(tokenizer.pad_token), "<never>")  # what a template ends a turn with stops
    assert never == vocab_size, "the end token must lie outside the vocabulary"
    policy.model.config.eos_token_id = never
    policy.model.generation_config = GenerationConfig(eos_token_id=never, pad_token_id=tokenizer.pad_token_id)
    return policy


def num_parameters(policy: Policy) -> int:
    return sum(p.numel() for p in policy.model.parameters())


def product_rate(dtype: torch.dtype, clock: Callable[[], float]) -> float:
    """FLOP a second of a product [1024, 1024] @ [1024, 1024] with the present threads; best of 5 times 20 products."""
    a, b = torch.randn(1024, 1024).to(dtype), torch.randn(1024, 1024).to(dtype)
    times = []
    for _ in range(6):
        start = clock()
        for _ in range(20):
            a @ b
        times.append(clock() - start)
    return 2 * 1024**3 * 20 / min(times[1:])


def machine() -> str:
    """Cores, vector instructions and torch, and nothing that names the machine."""
    capability = torch.backends.cpu.get_cpu_capability()
    flags = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").exists() else []
    units = ", ".join(name for name in ("avx512_bf16", "avx512_fp16", "amx_bf16") if name in flags)
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores, {capability}{f' ({units})' if units else ''}, torch {torch.__version__}"


def median(values: list[float]) -> float:
    return statistics.median(values)
