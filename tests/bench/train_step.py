"""A training step's speed and memory beside the plain way to write it: full logits on padded rows. Run by `make bench`.

Each way runs in a process of its own, on the same model, samples and thread. The limit is the machine's measured float32
product rate over the products that the padded step needs: 6 FLOP a parameter and model token. Ratios matter: machines vary.
`python -m tests.bench.train_step 131072` takes another vocabulary; `--profile` adds the share of time in matrix products.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rl.batch import Batch, Sample
from rl.config import InitConfig, ModelConfig, OptimizerConfig
from rl.head import Head
from rl.losses.base import LossResult
from rl.losses.build import build_loss
from rl.losses.config import GrpoLossConfig
from rl.policy import init_policy
from rl.tokenizer import train_tokenizer
from rl.trainer import Trainer

PROMPTS, GROUP, PROMPT, NEW, REPEATS = 16, 8, 32, 64, 2
CONFIG = {
    "hidden_size": 256,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "intermediate_size": 768,
    "tie_word_embeddings": True,
}
WAYS = {
    "full logits, padded": {"naive": True, "packing": False},
    "padded": {"packing": False},
    "packed, own prompts": {"own_prompts": True},
    "packed, shared prompts": {},
    "the same, activation checkpointing": {"activation_checkpointing": True},
    "the same, Muon": {"optimizer": "muon"},
    "the same, bfloat16": {"dtype": "bfloat16"},
}


class FullLogits:
    """GRPO's surrogate over the whole logits tensor and autograd's log_softmax: what the chunked head is compared with."""

    def __call__(self, hidden_TD: Tensor, head: Head, batch: Batch, reference_logprobs_T: Tensor | None) -> LossResult:
        logprobs_T = head.logits(hidden_TD).log_softmax(-1).gather(-1, batch.target_T[:, None])[:, 0]
        drift_T = logprobs_T - batch.sampler_logprobs_T
        ratio_T = drift_T.exp()
        clipped_T = ratio_T.clamp(0.8, 1.2)
        objective_T = torch.minimum(ratio_T * batch.advantage_T, clipped_T * batch.advantage_T)
        return LossResult(-(objective_T * batch.weight_T).sum(), {}, drift_T.detach().abs())


def main() -> None:
    torch.set_num_threads(1)
    vocab_size = int(next((a for a in sys.argv[1:] if a.isdigit()), "1024"))
    with tempfile.TemporaryDirectory() as folder:
        policy = init_policy(InitConfig(config=CONFIG), train_tokenizer(["623"] * 4, 512), ModelConfig(path="-"), seed=0)
        policy.model.resize_token_embeddings(vocab_size, mean_resizing=False)
        policy.save(Path(folder))
        body = sum(p.numel() for p in policy.model.parameters()) - vocab_size * CONFIG["hidden_size"]  # type: ignore[operator]
        head = vocab_size * CONFIG["hidden_size"]  # type: ignore[operator]
        new, padded, rate = PROMPTS * GROUP * NEW, PROMPTS * GROUP * (PROMPT + NEW), product_rate()
        print(
            f"{(body + head) / 1e6:.2f}M parameters, vocabulary {vocab_size}, {PROMPTS} prompts of {PROMPT} x {GROUP} x {NEW}"
        )
        print(f"new tokens, one thread, float32, AdamW; products at {rate / 1e9:.0f} GFLOP/s; tokens are new ones")
        print("| step | seconds | tokens/s | against full logits | peak MB | model tokens | products' limit s | of the limit |")
        print("|---|---|---|---|---|---|---|---|")
        first = None
        for way in WAYS:
            row = in_own_process(way, folder, vocab_size)
            first = first or row["seconds"]
            limit = 6 * (body * row["model_tokens"] + head * new) / rate
            cells = [way, f"{row['seconds']:.2f}", f"{new / row['seconds']:.0f}", f"{first / row['seconds']:.2f}"]
            cells += [f"{row['peak_mb']:.0f}", f"{row['model_tokens'] / padded:.0%}"]
            print(f"| {' | '.join(cells)} | {limit:.2f} | {limit / row['seconds']:.0%} |", flush=True)
            if "products_share" in row:
                print(f"| ... of its time in products: {row['products_share']:.0%} | | | | | | | |", flush=True)


def product_rate() -> float:
    """FLOP a CPU second of a float32 product with the shape of the model's."""
    a, b = torch.randn(8192, 256), torch.randn(256, 768)
    times = []
    for _ in range(20):
        start = time.process_time()
        a @ b
        times.append(time.process_time() - start)
    return 2 * 8192 * 256 * 768 / min(times)


def in_own_process(way: str, folder: str, vocab_size: int) -> dict[str, float]:
    profile = [a for a in sys.argv[1:] if a == "--profile"]
    command = [sys.executable, "-m", "tests.bench.train_step", str(vocab_size), *profile, "--way", way, folder]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    result: dict[str, float] = json.loads(out.stdout.splitlines()[-1])
    return result


def measure(way: str, folder: str, vocab_size: int) -> None:
    """CPU seconds (wall seconds lie on a machine with neighbours) of a step after a warm-up, and the steps' peak memory."""
    torch.set_num_threads(1)
    settings = WAYS[way]
    trainer = Trainer(
        folder,
        ModelConfig(
            path=folder,
            dtype=settings.get("dtype", "float32"),  # type: ignore[arg-type]
            activation_checkpointing=bool(settings.get("activation_checkpointing", False)),
        ),
        OptimizerConfig(name=settings.get("optimizer", "adamw")),  # type: ignore[arg-type]
        FullLogits() if settings.get("naive") else build_loss(GrpoLossConfig(off_policy_threshold=None), 1.0),
        num_steps=99,
        microbatch_tokens=8192,
        packing=bool(settings.get("packing", True)),
    )
    samples = made(vocab_size, own_prompts=bool(settings.get("own_prompts")))
    before = memory("VmRSS")
    metrics = trainer.train_step(samples)
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        trainer.train_step(samples)
        times.append(time.process_time() - start)
    row = {"seconds": statistics.median(times), "peak_mb": (memory("VmHWM") - before) / 2**20}
    row["model_tokens"] = metrics["num_model_tokens"]
    if "--profile" in sys.argv:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            trainer.train_step(samples)
        events = profile.key_averages()
        products = {"aten::mm", "aten::bmm", "aten::addmm", "aten::addmm_", "mkldnn::_linear_pointwise"}
        total = sum(e.self_cpu_time_total for e in events)
        row["products_share"] = sum(e.self_cpu_time_total for e in events if e.key in products) / total
    print(json.dumps(row))


def memory(field: str) -> int:
    """Bytes, from /proc: now (VmRSS) or at most so far (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


def made(vocab_size: int, *, own_prompts: bool) -> Sequence[Sample]:
    rng = np.random.default_rng(0)
    mask = np.arange(PROMPT + NEW) >= PROMPT
    old = np.where(mask, -np.log(vocab_size), 0).astype(np.float32)
    samples = []
    for _ in range(PROMPTS):
        prompt = rng.integers(7, vocab_size, PROMPT)
        for i in range(GROUP):
            if own_prompts:
                prompt = rng.integers(7, vocab_size, PROMPT)
            ids = np.concatenate([prompt, rng.integers(7, vocab_size, NEW)]).astype(np.int32)
            samples.append(Sample(ids, mask, old, 0.5 - i % 2))
    return samples


if __name__ == "__main__":
    if "--way" in sys.argv:
        chosen, where = sys.argv[sys.argv.index("--way") + 1 :]
        measure(chosen, where, int(sys.argv[1]))
    else:
        main()
