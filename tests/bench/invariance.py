"""Is decoding batch-invariant? The engine's own probe over widths and dtypes, with and without fixed shapes.

Then what it is for: 8 of 64 requests sampled alone, in the batch of 64, and aborted half way and continued; the last column
says how many gave the same tokens all three ways. Run by `make bench`. The verdict belongs to the machine's kernels, so it is
measured at every engine start.
"""

from __future__ import annotations

import asyncio
import itertools
import platform
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import torch

from rl.config import EngineConfig, InitConfig, ModelConfig, SamplingConfig
from rl.engine.invariance import choose_kv, probe
from rl.engine.kv_slots import SlotKV
from rl.engine.protocol import GenerateRequest, TokenChunk
from rl.engine.torch_engine import TorchEngine
from rl.policy import init_policy
from rl.rng import key_of
from rl.tokenizer import train_tokenizer


def main() -> None:
    torch.set_num_threads(2)
    tokenizer = train_tokenizer(["345 + 278 = 623"] * 4, 512)
    print(f"torch {torch.__version__}, {platform.processor() or platform.machine()}, {torch.get_num_threads()} threads")
    print("| d | dtype | shapes | invariant | detail | same tokens |\n|---|---|---|---|---|---|")
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
        settings = EngineConfig(max_batch_size=64, max_seq_len=256, deterministic=fixed)
        kv, _ = choose_kv(policy, settings)
        assert isinstance(kv, SlotKV)
        verdict = probe(kv.decoder, settings)
        engine = TorchEngine(policy, settings)
        same = asyncio.run(same_tokens(engine))
        engine.close()
        invariant, shapes = "yes" if verdict.invariant else "no", "fixed" if fixed else "free"
        print(f"| {width} | {dtype} | {shapes} | {invariant} | {verdict.detail} | {same} of 8 |", flush=True)


async def same_tokens(engine: TorchEngine) -> int:
    """How many of 8 requests have the same tokens and log-probabilities in company, alone, and continued."""
    requests = [
        GenerateRequest(
            f"r{i}", [0, 2, *range(20, 24 + i % 9), 4], SamplingConfig(max_tokens=48), frozenset([1]), key_of("s"), key_of(i)
        )
        for i in range(64)
    ]
    together = await sample(engine, requests)
    same = 0
    for i in range(0, 64, 8):
        [alone] = await sample(engine, requests[i : i + 1])
        half = [token for token, _ in alone[: len(alone) // 2]]
        rest = (await sample(engine, [replace(requests[i], generated_ids=half)]))[0] if half else alone
        same += alone == together[i] and alone[len(half) :] == rest
    return same


async def sample(engine: TorchEngine, requests: Sequence[GenerateRequest]) -> list[list[tuple[int, float]]]:
    await engine.pause()
    streams = [engine.generate(r) for r in requests]
    await engine.resume()

    async def read(stream: AsyncIterator[TokenChunk]) -> list[tuple[int, float]]:
        return [pair async for c in stream for pair in zip(c.token_ids.tolist(), c.logprobs.tolist(), strict=True)]

    return list(await asyncio.gather(*(read(s) for s in streams)))


if __name__ == "__main__":
    main()
