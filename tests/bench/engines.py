"""The two rollout engines: tokens a second, seconds to start, and memory; vLLM alone, through its own API, as the peer.

Every cell is a process of its own, which imports, starts and samples as a rollout worker does. The limit is the machine's
measured product rate over the model's FLOP a token (2 a parameter, no attention). --write writes docs/results/engines.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

from rl.config import EngineConfig, ModelConfig, SamplingConfig
from tests.bench.common import SIZES, machine, make_policy, median, num_parameters, product_rate, table, write

NEW_TOKENS, PROMPT, BATCHES, REPEATS, MAX_SEQ_LEN = 64, 32, (1, 32, 128), 3, 256
SIDES = {
    "torch": "torch",
    "vllm": "vllm",
    "vllm compiled": "vllm, compile: true",
    "vllm alone": "vLLM's LLM.generate",
    "vllm alone compiled": "the same, compiled",
}
Generate: TypeAlias = Callable[[list[list[int]]], int]  # samples NEW_TOKENS for each prompt, and says how many in all


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="q1,q5,q50", help="comma-separated, of: " + ", ".join(SIZES))
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--child", nargs=3, metavar=("SIDE", "DTYPE", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(child(*arguments.child, arguments.threads)))
        return
    text = (
        "# Which engine\n\n"
        f"Written by `python -m tests.bench.engines {' '.join(sys.argv[1:])}`. {machine()}, {arguments.threads} threads; "
        "random Qwen3 models, "
        f"{PROMPT} prompt tokens (all prompts differ) and {NEW_TOKENS} sampled ones at temperature 1, log-probabilities "
        f"included; tokens a second from the median of {REPEATS} repeats. Start, with torch imported: the engine's own "
        "imports, model, first answer; in brackets a second engine in the same process, as a new stage opens it. Memory: the "
        "process's peak. vLLM's own API is the peer: "
        "it has an engine process beside the caller's, and its seeded random numbers.\n"
    )
    print(text)
    for size in arguments.models.split(","):
        for part in compare(size, arguments):
            print(part, flush=True)
            text += "\n" + part
            if arguments.write:  # what is measured is kept, whatever ends the rest
                write("engines.md", text)


def compare(size: str, arguments: argparse.Namespace) -> Iterator[str]:
    """The tables of one model, one for each dtype."""
    import torch

    torch.set_num_threads(arguments.threads)
    rate = max(product_rate(dtype, time.perf_counter) for dtype in (torch.float32, torch.bfloat16))
    policy = make_policy(size, "float32")
    limit = rate / (2 * num_parameters(policy))
    with tempfile.TemporaryDirectory() as folder:
        policy.save(Path(folder))
        for dtype in arguments.dtypes.split(","):
            found = {side: measured(side, dtype, folder, arguments.threads) for side in SIDES}
            rows = []
            for side, values in found.items():
                speeds = [values[str(batch)] for batch in BATCHES]
                ratios = [
                    f"{speed:.0f} ({speed / found['torch'][str(b)]:.2f})" for speed, b in zip(speeds, BATCHES, strict=True)
                ]
                again = f" ({values['again_s']:.1f})" if "again_s" in values else ""
                start = f"{values['start_s']:.1f} s{again}"
                memory = f"{values['memory'] / 2**30:.2f} GiB"
                rows.append([SIDES[side], *ratios, f"{speeds[-1] / limit:.0%}", start, memory])
            header = ["engine", *(f"batch {b}: tokens/s (over torch)" for b in BATCHES), "of the limit", "start", "memory"]
            title = f"## {size}: {num_parameters(policy) / 1e6:.1f}M parameters, {dtype}"
            yield f"{title}\n\nLimit {limit:.0f} tokens/s.\n\n" + table(header, rows)


def measured(side: str, dtype: str, folder: str, threads: int) -> dict[str, float]:
    print(f"{side} {dtype}", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "tests.bench.engines", "--threads", str(threads), "--child", side, dtype, folder]
    quiet = {"TORCH_CPP_LOG_LEVEL": "ERROR", "VLLM_LOGGING_LEVEL": "ERROR", "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **quiet})
    if done.returncode:
        raise RuntimeError(f"{side} {dtype} failed:\n{done.stderr[-3000:]}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def child(side: str, dtype: str, folder: str, threads: int) -> dict[str, float]:
    begun = time.perf_counter()
    start = alone if side.startswith("vllm alone") else embedded
    generate = start(side, dtype, folder, threads)
    generate(prompts(1))
    found = {"start_s": time.perf_counter() - begun}
    for batch in BATCHES:
        times = []
        for _ in range(REPEATS + 1):
            asked, at = prompts(batch), time.perf_counter()
            assert generate(asked) == batch * NEW_TOKENS, "it stopped early"
            times.append(time.perf_counter() - at)
        found[str(batch)] = batch * NEW_TOKENS / median(times[1:])  # the first is a warm-up
    found["memory"] = peak_bytes()
    if start is embedded:
        again = time.perf_counter()
        start(side, dtype, folder, threads)(prompts(1))
        found["again_s"] = time.perf_counter() - again
    return found


def prompts(batch: int, state: list[int] = [0]) -> list[list[int]]:  # noqa: B006 - counts over all calls
    """Prompts that were never asked before, so that no cache answers them."""
    import torch

    state[0] += 1
    return torch.randint(7, 1000, (batch, PROMPT), generator=torch.Generator().manual_seed(state[0])).tolist()


def embedded(side: str, dtype: str, folder: str, threads: int) -> Generate:
    """One of our engines, as a rollout worker has it."""
    from rl.compute import set_num_threads, submit
    from rl.engine.build import serve
    from rl.engine.protocol import GenerateRequest
    from rl.rng import key_of

    set_num_threads(threads)
    name = "torch" if side == "torch" else "vllm"
    config = EngineConfig(name=name, max_batch_size=128, max_seq_len=MAX_SEQ_LEN, compile=side.endswith("compiled"))
    model = ModelConfig(path=folder, dtype=dtype)  # type: ignore[arg-type]
    engine = submit(lambda: serve(folder, model, config)).result().engine

    async def sample(asked: list[list[int]]) -> int:
        await engine.pause()
        sampling = SamplingConfig(max_tokens=NEW_TOKENS)
        streams = [
            engine.generate(GenerateRequest(str(i), prompt, sampling, frozenset(), key_of("bench"), key_of(i, *prompt)))
            for i, prompt in enumerate(asked)
        ]
        await engine.resume()

        async def read(i: int) -> int:
            return sum([len(chunk.token_ids) async for chunk in streams[i]])

        return sum(await asyncio.gather(*(read(i) for i in range(len(streams)))))

    return lambda asked: asyncio.run(sample(asked))


def alone(side: str, dtype: str, folder: str, threads: int) -> Generate:
    """vLLM's offline interface with its defaults, its engine in a process of its own."""
    os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}
    os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
    from vllm import LLM, SamplingParams

    eager = not side.endswith("compiled")
    llm = LLM(
        model=folder, dtype=dtype, max_model_len=MAX_SEQ_LEN, max_num_seqs=128, enforce_eager=eager, skip_tokenizer_init=True
    )
    params = SamplingParams(temperature=1.0, max_tokens=NEW_TOKENS, ignore_eos=True, logprobs=0, detokenize=False)

    def sample(asked: list[list[int]]) -> int:
        outputs = llm.generate([{"prompt_token_ids": prompt} for prompt in asked], params, use_tqdm=False)
        return sum(len(o.outputs[0].token_ids) for o in outputs)

    return sample


def peak_bytes() -> int:
    """The most resident memory that this process had, and each of those below it, added up."""
    import psutil

    me = psutil.Process()
    status = [Path(f"/proc/{process.pid}/status").read_text() for process in (me, *me.children(recursive=True))]
    return sum(int(text.partition("VmHWM:")[2].split()[0]) * 1024 for text in status if "VmHWM:" in text)


if __name__ == "__main__":
    main()
