"""Sampling speed beside `transformers.generate`: same model, prompts, lengths and machine, in one run. Run by `make bench`.

The limit is the machine's measured float32 product rate divided by the model's FLOP a token (2 a parameter, no attention).
Ratios matter, not the absolute figures: machines are noisy.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable

import torch

from rl.config import EngineConfig, InitConfig, ModelConfig, SamplingConfig
from rl.engine.protocol import GenerateRequest
from rl.engine.torch_engine import TorchEngine
from rl.policy import Policy, init_policy
from rl.rng import key_of
from rl.tokenizer import train_tokenizer

NEW_TOKENS, PROMPT, GROUP, REPEATS = 64, 32, 8, 3
CONFIG = {
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 384,
    "tie_word_embeddings": True,
}


def main() -> None:
    torch.set_num_threads(2)
    tokenizer = train_tokenizer(["345 + 278 = 623"] * 4, 512)
    policy = init_policy(InitConfig(config=CONFIG), tokenizer, ModelConfig(path="-"), seed=0)
    num_parameters = sum(p.numel() for p in policy.model.parameters())
    limit = product_rate() / (2 * num_parameters)
    print(f"{num_parameters / 1e6:.2f}M parameters, {torch.get_num_threads()} threads, {PROMPT} + {NEW_TOKENS} tokens, float32")
    print(f"limit {limit / 1e3:.0f}k tokens/s, from the measured product rate")
    print("| batch | ours tokens/s | of the limit | generate tokens/s | ours / generate | fixed shapes / generate |")
    print("|---|---|---|---|---|---|")
    for batch in (16, 64, 128):
        ours = ours_rate(policy, batch, deterministic=False)
        fixed = ours_rate(policy, batch, deterministic=True)
        peer = rate(lambda b=batch: generate(policy, b), batch)
        print(
            f"| {batch} | {ours:.0f} | {ours / limit:.1%} | {peer:.0f} | {ours / peer:.2f} | {fixed / peer:.2f} |", flush=True
        )


def product_rate() -> float:
    """FLOP a second of a float32 product with the batch's shape of work."""
    a, b = torch.randn(128, 1024), torch.randn(1024, 1024)
    start, count = time.perf_counter(), 200
    for _ in range(count):
        a @ b
    return 2 * 128 * 1024 * 1024 * count / (time.perf_counter() - start)


def rate(run: Callable[[], None], batch: int) -> float:
    """Median tokens a second over the repeats, after one warm-up."""
    run()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return batch * NEW_TOKENS / statistics.median(times)


def prompts(policy: Policy, batch: int) -> list[list[int]]:
    """batch / GROUP distinct prompts of equal length, each GROUP times."""
    vocabulary = len(policy.tokenizer)
    generator = torch.Generator().manual_seed(0)
    distinct = torch.randint(7, vocabulary, (batch // GROUP, PROMPT), generator=generator).tolist()
    return [prompt for prompt in distinct for _ in range(GROUP)]


def ours_rate(policy: Policy, batch: int, *, deterministic: bool) -> float:
    engine = TorchEngine(policy, EngineConfig(max_batch_size=batch, max_seq_len=256, deterministic=deterministic))
    try:
        return rate(lambda: asyncio.run(sample(engine, prompts(policy, batch))), batch)
    finally:
        engine.close()


async def sample(engine: TorchEngine, batch: list[list[int]]) -> None:
    await engine.pause()
    streams = [
        engine.generate(
            GenerateRequest(str(i), prompt, SamplingConfig(max_tokens=NEW_TOKENS), frozenset(), key_of("bench"), key_of(i))
        )
        for i, prompt in enumerate(batch)
    ]
    await engine.resume()

    async def read(i: int) -> None:
        async for _ in streams[i]:
            pass

    await asyncio.gather(*(read(i) for i in range(len(streams))))


@torch.inference_mode()
def generate(policy: Policy, batch: int) -> None:
    ids = torch.tensor(prompts(policy, batch))
    policy.model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=True, min_new_tokens=NEW_TOKENS, max_new_tokens=NEW_TOKENS,
        pad_token_id=policy.tokenizer.pad_token_id,
    )  # fmt: skip


if __name__ == "__main__":
    main()
