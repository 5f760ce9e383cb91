"""Sampling speed beside `transformers.generate` and its continuous batching: same model, prompts, lengths, machine and run.

The limit is the better of the machine's measured float32 and bfloat16 product rates over the model's FLOP a token (2 a
parameter, no attention). Ratios matter, not the absolute figures: machines are noisy. --cpu-time counts the process's CPU
seconds instead, for machines that others use too (with --threads 1). --write writes docs/results/engine.md.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig

from rl.compute import submit
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
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.child:
        print(json.dumps(child(arguments)))
        return
    seconds = "CPU seconds" if arguments.cpu_time else "seconds"
    text = (
        "# Sampling beside transformers\n\n"
        f"Written by `python -m tests.bench.engine --write --models {arguments.models}`. {machine()}, {arguments.threads} "
        f"threads; {PROMPT} + {NEW_TOKENS} tokens, {GROUP} completions a prompt, temperature 1; tokens a second from the "
        f"median {seconds} of {arguments.repeats} repeats, each side in its own process. Continuous batching is "
        "`generate_batch` with max_batch_tokens 2048 and room for exactly these requests, which is several times faster than "
        "its defaults here.\n"
    )
    for size in arguments.models.split(","):
        text += "\n" + compare(size, arguments)
    print(text)
    if arguments.write:
        write("engine.md", text)


def compare(size: str, arguments: argparse.Namespace) -> str:
    rates = {dtype: product_rate(dtype, _clock(arguments)) for dtype in (torch.float32, torch.bfloat16)}
    sides = [name for name in SIDES if name != "continuous" or not arguments.no_continuous]
    found = {name: measured(name, size, arguments) for name in sides}
    count = num_parameters(make_policy(size, "float32"))
    limit = max(rates.values()) / (2 * count)
    rows = []
    for dtype in arguments.dtypes.split(","):
        for batch in arguments.batches.split(","):
            rate = {name: int(batch) * NEW_TOKENS / values[f"{dtype} {batch}"] for name, values in found.items()}
            beside = (
                [f"{rate['continuous']:.0f}", f"{rate['ours'] / rate['continuous']:.2f}"] if "continuous" in rate else ["-"] * 2
            )
            mine = [f"{rate['ours']:.0f}", f"{rate['ours'] / limit:.1%}"]
            peer = [f"{rate['generate']:.0f}", f"{rate['ours'] / rate['generate']:.2f}"]
            rows.append(
                [dtype, batch, *mine, *peer, *beside, f"{rate['fixed']:.0f}", f"{rate['fixed'] / rate['generate']:.2f}"]
            )
    return (
        f"## {size}: {count / 1e6:.1f}M parameters\n\nLimit {limit:.0f} tokens/s: the better of the measured "
        f"{rates[torch.float32] / 1e9:.0f} (float32) and {rates[torch.bfloat16] / 1e9:.0f} (bfloat16) GFLOP/s over "
        f"{2 * count / 1e6:.1f} MFLOP a token.\n\n" + table(HEADER, rows)
    )


def measured(side: str, size: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Median seconds of one side by "dtype batch", from a process of its own: a second thread that computes slows the first."""
    print(f"{size}: {side}", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "tests.bench.engine", *sys.argv[1:], "--child", side, "--models", size]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{side} failed:\n{done.stderr[-3000:]}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def child(arguments: argparse.Namespace) -> dict[str, float]:
    clock, side, seconds = _clock(arguments), SIDES[arguments.child], dict[str, float]()
    for dtype in arguments.dtypes.split(","):
        with ThreadPoolExecutor(1) as thread:  # which ends, and with it the threads that OpenMP made for it
            policy = thread.submit(make_policy, arguments.models, dtype).result()
        for batch in map(int, arguments.batches.split(",")):
            run = side(policy, batch)
            times = []
            for _ in range(arguments.repeats + 1):
                start = clock()
                run()
                times.append(clock() - start)
            seconds[f"{dtype} {batch}"] = median(times[1:])  # the first is a warm-up
    return seconds


def _clock(arguments: argparse.Namespace) -> Callable[[], float]:
    return time.process_time if arguments.cpu_time else time.perf_counter


def prompts(policy: Policy, batch: int) -> list[list[int]]:
    """batch / GROUP distinct prompts of equal length, each GROUP times."""
    vocab_size = policy.model.config.vocab_size
    generator = torch.Generator().manual_seed(0)
    distinct = torch.randint(7, vocab_size, (batch // GROUP, PROMPT), generator=generator).tolist()
    return [prompt for prompt in distinct for _ in range(GROUP)]


def engine(policy: Policy, batch: int, *, fixed: bool) -> Callable[[], None]:
    config = EngineConfig(max_batch_size=batch, max_seq_len=256, deterministic=fixed)
    made = submit(lambda: TorchEngine(policy, config)).result()
    return lambda: asyncio.run(sample(made, prompts(policy, batch)))


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


SIDES: dict[str, Callable[[Policy, int], Callable[[], None]]] = {
    "ours": functools.partial(engine, fixed=False),
    "fixed": functools.partial(engine, fixed=True),
    "generate": lambda policy, batch: lambda: generate(policy, batch),
    "continuous": lambda policy, batch: lambda: continuous(policy, batch),
}

if __name__ == "__main__":
    main()
