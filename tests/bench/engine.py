"""Sampling speed beside `transformers.generate` and its continuous batching: same model, prompts, lengths, machine and run.

The limit is the better of the machine's measured float32 and bfloat16 product rates over the model's FLOP a token (2 a
parameter, no attention). Ratios matter, not the absolute figures: machines are noisy. --cpu-time counts the process's CPU
seconds instead, for machines that others use too (with --threads 1). --write writes docs/results/engine.md.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig

from rl.config import EngineConfig, SamplingConfig
from rl.engine.protocol import GenerateRequest
from rl.engine.torch_engine import TorchEngine
from rl.policy import Policy
from rl.rng import key_of
from tests.bench.common import SIZES, machine, make_policy, median, num_parameters, product_rate, table, write

NEW_TOKENS, PROMPT, GROUP = 64, 32, 8
HEADER = ["dtype", "batch", "ours tokens/s", "of the limit", "`generate`", "ours / it", "continuous batching", "ours / it"]
HEADER += ["ours with fixed shapes", "it / `generate`"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="q5", help="comma-separated, of: " + ", ".join(SIZES))
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--batches", default="16,64,128")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--no-continuous", action="store_true", help="leave transformers' continuous batching out: it is slow")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    seconds = "CPU seconds" if arguments.cpu_time else "seconds"
    text = (
        "# Sampling beside transformers\n\n"
        f"Written by `python -m tests.bench.engine --write --models {arguments.models}`. {machine()}, {arguments.threads} "
        f"threads; {PROMPT} + {NEW_TOKENS} tokens, {GROUP} completions a prompt, temperature 1; tokens a second from the "
        f"median {seconds} of {arguments.repeats} repeats, the sides in turns. Continuous batching is `generate_batch` with "
        "max_batch_tokens 2048 and room for exactly these requests, which is several times faster than its defaults here.\n"
    )
    for size in arguments.models.split(","):
        text += "\n" + compare(size, arguments)
    print(text)
    if arguments.write:
        write("engine.md", text)


def compare(size: str, arguments: argparse.Namespace) -> str:
    count = num_parameters(make_policy(size, "float32"))
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    rates = {dtype: product_rate(dtype, clock) for dtype in (torch.float32, torch.bfloat16)}
    limit = max(rates.values()) / (2 * count)
    rows = []
    for dtype in arguments.dtypes.split(","):
        policy = make_policy(size, dtype)
        for batch in map(int, arguments.batches.split(",")):
            rows.append([dtype, str(batch), *line(policy, batch, limit, arguments)])
            print(" | ".join(rows[-1]), flush=True)
    return (
        f"## {size}: {count / 1e6:.1f}M parameters\n\nLimit {limit:.0f} tokens/s: the better of the measured "
        f"{rates[torch.float32] / 1e9:.0f} (float32) and {rates[torch.bfloat16] / 1e9:.0f} (bfloat16) GFLOP/s over "
        f"{2 * count / 1e6:.1f} MFLOP a token.\n\n" + table(HEADER, rows)
    )


def line(policy: Policy, batch: int, limit: float, arguments: argparse.Namespace) -> list[str]:
    """All sides at one batch size, measured in turns."""
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    engines = [
        TorchEngine(policy, EngineConfig(max_batch_size=batch, max_seq_len=256, deterministic=fixed)) for fixed in (False, True)
    ]
    sides: dict[str, Callable[[], None]] = {
        "ours": lambda: asyncio.run(sample(engines[0], prompts(policy, batch))),
        "generate": lambda: generate(policy, batch),
        "fixed": lambda: asyncio.run(sample(engines[1], prompts(policy, batch))),
    }
    if not arguments.no_continuous:
        sides["continuous"] = lambda: continuous(policy, batch)
    times: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(arguments.repeats + 1):
        for name, run in sides.items():
            start = clock()
            run()
            if repeat:  # the first is a warm-up
                times[name].append(clock() - start)
    for engine in engines:
        engine.close()
    rate = {name: batch * NEW_TOKENS / median(values) for name, values in times.items()}
    beside = [f"{rate['continuous']:.0f}", f"{rate['ours'] / rate['continuous']:.2f}"] if "continuous" in rate else ["-", "-"]
    return [
        *(f"{rate['ours']:.0f}", f"{rate['ours'] / limit:.1%}", f"{rate['generate']:.0f}"),
        *(f"{rate['ours'] / rate['generate']:.2f}", *beside, f"{rate['fixed']:.0f}", f"{rate['fixed'] / rate['generate']:.2f}"),
    ]


def prompts(policy: Policy, batch: int) -> list[list[int]]:
    """batch / GROUP distinct prompts of equal length, each GROUP times."""
    vocab_size = policy.model.config.vocab_size
    generator = torch.Generator().manual_seed(0)
    distinct = torch.randint(7, vocab_size, (batch // GROUP, PROMPT), generator=generator).tolist()
    return [prompt for prompt in distinct for _ in range(GROUP)]


async def sample(engine: TorchEngine, batch: list[list[int]]) -> None:
    sampling = SamplingConfig(max_tokens=NEW_TOKENS)
    await engine.pause()
    streams = [
        engine.generate(GenerateRequest(str(i), prompt, sampling, frozenset(), key_of("bench"), key_of(i)))
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
    with policy.autocast():
        out = policy.model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=0, max_new_tokens=NEW_TOKENS,
            pad_token_id=policy.tokenizer.pad_token_id,
        )  # fmt: skip
    assert out.shape == (batch, PROMPT + NEW_TOKENS), "it stopped early"


def continuous(policy: Policy, batch: int) -> None:
    settings = GenerationConfig(
        do_sample=True, top_k=0, max_new_tokens=NEW_TOKENS, eos_token_id=-1, pad_token_id=policy.tokenizer.pad_token_id
    )
    pages = ContinuousBatchingConfig(
        page_size=32, num_blocks=batch * (PROMPT + NEW_TOKENS) // 32 + batch, max_batch_tokens=2048
    )
    with torch.no_grad(), policy.autocast():
        out = policy.model.generate_batch(prompts(policy, batch), settings, pages)
    assert [len(o.generated_tokens) for o in out.values()] == [NEW_TOKENS] * batch, "it stopped early"


if __name__ == "__main__":
    main()
