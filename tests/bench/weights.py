"""New weights from the trainer to two engines on Ray, checked by the probe, beside the way through disk: save, then open again.

The limit is one copy of the parameters out of the trainer and one into each engine, at the machine's measured copying rate.
--write writes docs/results/weights.md.
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
from pathlib import Path

from tests.bench.common import SIZES, machine, make_policy, median, num_parameters, table, write

NUM_ENGINES, REPEATS, COPIED_BYTES = 2, 5, 2**28
HEADER = [
    "model",
    "engine",
    "megabytes",
    "publish",
    "pull, both engines",
    "together",
    "limit",
    "save and open again",
    "times slower",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="q1,q5,q50", help="comma-separated, of: " + ", ".join(SIZES))
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--child", nargs=2, metavar=("ENGINE", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(asyncio.run(measure(*arguments.child))))
        return
    rate, rows = copy_rate(), []
    for size in arguments.models.split(","):
        policy = make_policy(size, "float32")
        size_bytes = 4 * num_parameters(policy)
        with tempfile.TemporaryDirectory() as folder:
            policy.save(Path(folder))
            for engine in ("torch", "vllm"):
                found = child(engine, folder)
                together = found["publish_s"] + found["pull_s"]
                seconds = (found["publish_s"], found["pull_s"], together, size_bytes * (1 + NUM_ENGINES) / rate)
                times = [f"{s * 1000:.0f} ms" for s in seconds]
                restart = [f"{found['restart_s']:.1f} s", f"{found['restart_s'] / together:.0f}"]
                rows.append([size, engine, f"{size_bytes / 1e6:.0f}", *times, *restart])
    text = (
        "# New weights, from the trainer to every engine\n\n"
        f"Written by `python -m tests.bench.weights --write`. {machine()}; a trainer and {NUM_ENGINES} engines as Ray actors, "
        f"one thread each, float32 Qwen3; medians of {REPEATS}. `publish`: a copy of the weights into Ray's object store, and "
        "the probe. `pull`: both engines at once, until each has loaded them and compared the probe. The limit is one copy out "
        f"and {NUM_ENGINES} in at the measured {rate / 1e9:.1f} GB/s. The way through disk: the trainer saves, both engines "
        "start anew from the folder (the processes live on, so no import counts).\n\n" + table(HEADER, rows)
    )
    print(text)
    if arguments.write:
        write("weights.md", text)


def copy_rate() -> float:
    """Bytes a second of a large copy in memory, with one thread."""
    import torch

    torch.set_num_threads(1)
    source = torch.zeros(COPIED_BYTES // 4)
    target = torch.empty_like(source)
    times = []
    for _ in range(6):
        start = time.perf_counter()
        target.copy_(source)
        times.append(time.perf_counter() - start)
    return COPIED_BYTES / min(times[1:])


def child(engine: str, folder: str) -> dict[str, float]:
    print(f"{engine} {folder}", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "tests.bench.weights", "--child", engine, folder]
    quiet = {"TORCH_CPP_LOG_LEVEL": "ERROR", "GOMP_SPINCOUNT": "1000"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **quiet})
    if done.returncode:
        raise RuntimeError(f"{engine} failed:\n{done.stderr[-3000:]}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


async def measure(engine: str, folder: str) -> dict[str, float]:
    from recipes.runtime import ray_runtime
    from rl.cluster import Cluster
    from rl.config import EngineConfig, GrpoConfig, ModelConfig, OptimizerConfig, RuntimeConfig
    from rl.workers import EngineSpec, TrainerSpec

    config = RuntimeConfig(num_rollout_workers=NUM_ENGINES, num_reward_workers=1, num_threads=1)
    model, stage = ModelConfig(path=folder), GrpoConfig()
    engine_config = EngineConfig(name=engine, max_batch_size=32, max_seq_len=256)  # type: ignore[arg-type]
    with ray_runtime(config):
        workers = await Cluster(config, 1, lambda name, fields: None).start([])
        await workers.trainer.open(TrainerSpec(folder, model, OptimizerConfig(), stage))

        async def open_all(source: str) -> None:
            spec = EngineSpec(source, model, engine_config, config.timeout_s)
            await asyncio.gather(*(rollout.open(spec) for rollout in workers.rollouts))

        await open_all(folder)  # imports
        times: dict[str, list[float]] = {"publish_s": [], "pull_s": [], "restart_s": []}
        for _ in range(REPEATS + 1):
            start = time.perf_counter()
            weights = await workers.trainer.publish()
            published = time.perf_counter()
            await asyncio.gather(*(rollout.pull(weights) for rollout in workers.rollouts))
            times["publish_s"].append(published - start)
            times["pull_s"].append(time.perf_counter() - published)
        for _ in range(3):
            with tempfile.TemporaryDirectory() as saved:
                start = time.perf_counter()
                await workers.trainer.save(Path(saved), with_state=False)
                await open_all(saved)
                times["restart_s"].append(time.perf_counter() - start)
        await asyncio.gather(*(rollout.close() for rollout in workers.rollouts))
    return {name: median(values[1:]) for name, values in times.items()}


if __name__ == "__main__":
    main()
