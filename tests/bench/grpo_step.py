"""A GRPO step beside TRL's GRPOTrainer: same model, prompts, lengths, reward and machine, in one run.

Every side runs in processes of its own, in turns; a figure is the median over all their steps after a warm-up. Ours goes the
way that training goes (`GrpoLoop` over inline workers). With --sweep: how our step grows with batch, length, group size and
rollout workers, instead. With --write a page in docs/results/ is written. Ratios matter; absolute figures are noisy.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from rewards.config import RewardConfig
from rewards.plugin import read_source
from rewards.task import Message, Role, Task
from rl.collect import Crew
from rl.config import EngineConfig, GrpoConfig, ModelConfig, OptimizerConfig, RuntimeConfig, SamplingConfig
from rl.policy import load_policy
from rl.scoring import RewardWorker
from rl.workers import EngineSpec, InlineRewards, InlineRollouts, InlineTrainer, TrainerSpec
from specialists.data import TaskSampler
from specialists.grpo import GrpoLoop, Metrics
from tests.bench import reward
from tests.bench.common import SIZES, machine, make_policy, median, num_parameters, product_rate, table, write

PROMPT, LR, TIMEOUT_S = 32, 1e-5, 3600.0
PARTS = ("sampling", "scoring", "loss", "optimizer", "step")


@dataclass(frozen=True)
class Side:
    """One thing to measure; travels to its process as JSON."""

    name: str
    kind: str  # "trl" or "ours"
    dtype: str
    optimizer: str = "adamw"
    deterministic: bool = False
    checkpointing: bool = False  # TRL's default; ours recomputes only the vocabulary projection
    num_prompts: int = 16
    group_size: int = 8
    new_tokens: int = 64
    microbatch_tokens: int = 0  # ours; 0: the whole step at once, as TRL takes it
    workers: int = 0  # rollout workers in Ray; 0: everything in one process


class Clock:
    """Seconds by part of the present step, of the wall or of the process's CPU; `wrap` adds a callable's time to one."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.parts: dict[str, float] = defaultdict(float)
        self.now = now

    def wrap(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = self.now()
            try:
                return function(*args, **kwargs)
            finally:
                self.parts[part] += self.now() - start

        return timed

    def lap(self) -> dict[str, float]:
        parts, self.parts = dict(self.parts), defaultdict(float)
        return parts


def tasks(count: int) -> list[Task]:
    """Tasks whose prompts have PROMPT tokens: 5 of the chat format and one a word."""
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(0, 500, (count, PROMPT - 4), generator=generator).tolist()
    texts = ["".join(f"<w{i}>" for i in line) for line in words]
    return [Task(f"bench/{i}", "bench", (Message(Role.USER, text),)) for i, text in enumerate(texts)]


# ---- ours


class TimedRollouts(InlineRollouts):
    clock: Clock

    async def rollout(self, requests: Any) -> Any:
        start = self.clock.now()
        groups = await super().rollout(requests)
        self.clock.parts["sampling"] += self.clock.now() - start
        return groups


class TimedRewards(InlineRewards):
    clock: Clock

    async def score(self, items: Any) -> Any:
        start = self.clock.now()
        results = await super().score(items)
        self.clock.parts["scoring"] += self.clock.now() - start
        return results


async def ours(side: Side, folder: str, num_steps: int, now: Callable[[], float]) -> list[dict[str, float]]:
    """Seconds by part of each step, the first of which is a warm-up."""
    clock = Clock(now)
    model = ModelConfig(path=folder, dtype=side.dtype)  # type: ignore[arg-type]
    optimizer = OptimizerConfig(name=side.optimizer, lr=LR)  # type: ignore[arg-type]
    stage = GrpoConfig(
        steps=num_steps,
        num_prompts=side.num_prompts,
        group_size=side.group_size,
        sampling=SamplingConfig(max_tokens=side.new_tokens),
        microbatch_tokens=side.microbatch_tokens or side.num_prompts * side.group_size * (PROMPT + side.new_tokens),
    )
    size = min(128, side.num_prompts * side.group_size) // max(1, side.workers)
    engine = EngineConfig(max_batch_size=size, max_seq_len=PROMPT + side.new_tokens, deterministic=side.deterministic)
    source = read_source(RewardConfig(use="tests.bench.reward:score"), [])
    if side.workers:
        from rl.cluster import Cluster

        runtime = RuntimeConfig(num_rollout_workers=side.workers, timeout_s=TIMEOUT_S)
        made = await Cluster(runtime, 1, lambda worker, why: None).start([source])
        trainer, rollouts, rewards = made.trainer, made.rollouts, made.rewards
    else:
        trainer, rollouts = InlineTrainer(TIMEOUT_S), [TimedRollouts(TIMEOUT_S)]
        rewards = [TimedRewards(RewardWorker([source]), TIMEOUT_S)]
        rollouts[0].clock = rewards[0].clock = clock
    await trainer.open(TrainerSpec(folder, model, optimizer, stage))
    await asyncio.gather(*(worker.open(EngineSpec(folder, model, engine, TIMEOUT_S)) for worker in rollouts))
    if isinstance(trainer, InlineTrainer):
        inner: Any = trainer.trainer
        inner.forward_backward = clock.wrap("loss", inner.forward_backward)
        inner.optim_step = clock.wrap("optimizer", inner.optim_step)
    laps, ends = list[dict[str, float]](), [now()]

    async def after_step(step: int, cursor: int, metrics: Metrics, groups: Sequence[Any]) -> None:
        assert metrics["num_groups_without_signal"] == 0, "every group must carry a signal"
        assert metrics["num_sampled_tokens"] == side.num_prompts * side.group_size * side.new_tokens
        ends.append(now())
        laps.append({**clock.lap(), "step": ends[-1] - ends[-2]})

    crew = Crew(rollouts, rewards, "score")
    await GrpoLoop(stage, 0, trainer, crew, TaskSampler(tasks(64), "bench"), 0).run(after_step, lambda: False)
    await asyncio.gather(*(worker.close() for worker in (*rollouts, *rewards)))
    return laps[1:]


# ---- TRL


def trl(side: Side, folder: str, num_steps: int, now: Callable[[], float]) -> list[dict[str, float]]:
    """TRL without logging, saving or progress bars; a step is timed from the end of one to the end of the next."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    clock, laps, ends = Clock(now), list[dict[str, float]](), list[float]()
    policy_chat = load_policy(folder, ModelConfig(path=folder)).chat
    prompts = [policy_chat.tokenizer.decode(policy_chat.prompt_ids(t.messages)) for t in tasks(64)]

    class Laps(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(now())
            laps.append(clock.lap())

    def rewarded(completions: list[str], **_: Any) -> list[float]:
        return [reward.score(c) for c in completions]

    count = side.num_prompts * side.group_size
    with tempfile.TemporaryDirectory() as output:
        config = GRPOConfig(
            output_dir=output, use_cpu=True, bf16=side.dtype == "bfloat16", gradient_checkpointing=side.checkpointing,
            per_device_train_batch_size=count, num_generations=side.group_size, max_completion_length=side.new_tokens,
            learning_rate=LR, lr_scheduler_type="constant", weight_decay=0.1, max_steps=num_steps, logging_strategy="no",
            save_strategy="no", report_to="none", disable_tqdm=True, seed=0,
        )  # fmt: skip
        trainer = GRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
            processing_class=AutoTokenizer.from_pretrained(folder),
            reward_funcs=rewarded,
            args=config,
            train_dataset=Dataset.from_dict({"prompt": prompts}),
            callbacks=[Laps()],
        )
        trainer._generate = checked(clock.wrap("sampling", trainer._generate), side)
        trainer._calculate_rewards = clock.wrap("scoring", trainer._calculate_rewards)
        trainer.compute_loss = clock.wrap("loss", trainer.compute_loss)
        trainer.accelerator.backward = clock.wrap("loss", trainer.accelerator.backward)
        trainer.accelerator.clip_grad_norm_ = clock.wrap("optimizer", trainer.accelerator.clip_grad_norm_)
        trainer.create_optimizer_and_scheduler(num_steps)
        trainer.optimizer.step = clock.wrap("optimizer", trainer.optimizer.step)
        trainer.train()
    return [{**laps[i], "step": ends[i] - ends[i - 1]} for i in range(1, len(laps))]


def checked(generate: Callable[..., Any], side: Side) -> Callable[..., Any]:
    """Asserts that both sides do the same work: PROMPT tokens in, `new_tokens` out, for every completion."""

    def run(prompts: Any) -> Any:
        out = generate(prompts)
        assert {len(ids) for ids in out[0]} == {PROMPT}, "prompts of another length"
        assert {len(ids) for ids in out[1]} == {side.new_tokens}, "completions of another length"
        return out

    return run


# ---- the run


def child(arguments: argparse.Namespace) -> None:
    side = Side(**json.loads(arguments.child))
    torch.set_num_threads(arguments.threads)
    now = time.process_time if arguments.cpu_time else time.perf_counter
    if side.kind == "trl":
        laps = trl(side, arguments.folder, arguments.steps + 1, now)
    elif side.workers:
        from recipes.launch import ray_runtime

        with ray_runtime(RuntimeConfig()):
            laps = asyncio.run(ours(side, arguments.folder, arguments.steps + 1, now))
    else:
        laps = asyncio.run(ours(side, arguments.folder, arguments.steps + 1, now))
    print("LAPS " + json.dumps(laps))


def measure(sides: Sequence[Side], folder: str, arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Median seconds by part for each side's name; the sides take turns, each time in a fresh process."""
    laps: dict[str, list[dict[str, float]]] = defaultdict(list)
    for turn in range(arguments.turns):
        for side in sides:
            print(f"turn {turn + 1}: {side.name}", file=sys.stderr, flush=True)
            command = [sys.executable, "-m", "tests.bench.grpo_step", "--child", json.dumps(side.__dict__)]
            command += ["--folder", folder, "--steps", str(arguments.steps), "--threads", str(arguments.threads)]
            command += ["--cpu-time"] if arguments.cpu_time else []
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
            lines = [line for line in done.stdout.splitlines() if line.startswith("LAPS ")]
            if not lines:
                raise RuntimeError(f"{side.name} failed:\n{done.stderr[-3000:]}")
            laps[side.name] += json.loads(lines[0][5:])
    return {name: {p: median([lap.get(p, 0.0) for lap in mine]) for p in mine[0]} for name, mine in laps.items()}


SIDES = (
    Side("TRL fp32", "trl", "float32"),
    Side("ours fp32 AdamW", "ours", "float32"),
    Side("TRL bf16", "trl", "bfloat16"),
    Side("ours bf16 AdamW", "ours", "bfloat16"),
    Side("TRL as it comes (bf16, gradient checkpointing)", "trl", "bfloat16", checkpointing=True),
    Side("ours as it comes (fp32, Muon)", "ours", "float32", optimizer="muon"),
    Side("ours fp32 Muon, deterministic", "ours", "float32", optimizer="muon", deterministic=True),
)
RATIOS = (
    ("fp32", "TRL fp32", "ours fp32 AdamW"),
    ("bf16", "TRL bf16", "ours bf16 AdamW"),
    ("fp32, our Muon", "TRL fp32", "ours as it comes (fp32, Muon)"),
    ("fp32, our Muon and fixed shapes", "TRL fp32", "ours fp32 Muon, deterministic"),
    ("as they come", "TRL as it comes (bf16, gradient checkpointing)", "ours as it comes (fp32, Muon)"),
)


def flops(size: str, side: Side) -> float:
    """Products of one step: 2 FLOP a parameter and sampled or prefilled token, each distinct prompt prefilled once; 6 a
    parameter and trained token, the output head only where a loss token is predicted. Attention is left out.
    """
    policy = make_policy(size, "float32")
    total = num_parameters(policy)
    head = policy.head.weight_VD.numel()
    rows = side.num_prompts * side.group_size
    sampled, prefilled = rows * side.new_tokens, side.num_prompts * PROMPT
    trained = (total - head) * rows * (PROMPT + side.new_tokens) + head * sampled
    return 2.0 * total * (sampled + prefilled) + 6.0 * trained


def compare(size: str, folder: str, arguments: argparse.Namespace) -> str:
    found = measure([s for s in SIDES if arguments.only in s.name], folder, arguments)
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    rate = {"float32": product_rate(torch.float32, clock), "bfloat16": product_rate(torch.bfloat16, clock)}
    best = flops(size, SIDES[0]) / max(rate.values())
    rows = []
    for side in SIDES:
        if side.name in found:
            parts = found[side.name]
            rows.append([side.name, *(f"{parts.get(p, 0.0):.3g}" for p in PARTS), f"{best / parts['step']:.1%}"])
    text = table(["side, seconds", *PARTS, "of the limit"], rows)
    rows = [
        [name, *(_ratio(found[peer], found[mine], part) for part in PARTS)]
        for name, peer, mine in RATIOS
        if peer in found and mine in found
    ]
    text += "\n" + table(["TRL / ours", *PARTS], rows)
    return text + (
        f"\nThe machine's limit is {best:.3g} s a step: {flops(size, SIDES[0]) / 1e9:.0f} GFLOP of products at the better of "
        f"the measured {rate['float32'] / 1e9:.0f} (float32) and {rate['bfloat16'] / 1e9:.0f} (bfloat16) GFLOP/s.\n"
    )


def _ratio(peer: dict[str, float], mine: dict[str, float], part: str) -> str:
    return f"{peer[part] / mine[part]:.2f}" if mine.get(part) and part in peer else "-"


def sweep(folder: str, arguments: argparse.Namespace) -> str:
    """Our step against batch, length, group size and rollout workers; each ratio is to the first row of its table."""
    base = Side("base", "ours", "float32", microbatch_tokens=GrpoConfig.microbatch_tokens)
    sweeps = {
        "completions (8 a prompt)": [replace(base, name=str(8 * n), num_prompts=n) for n in (4, 8, 16, 32)],
        "new tokens": [replace(base, name=str(n), new_tokens=n) for n in (32, 64, 128, 256)],
        "group size (128 completions)": [
            replace(base, name=str(n), group_size=n, num_prompts=128 // n) for n in (4, 8, 16, 32)
        ],
        "rollout workers (Ray, one thread each)": [replace(base, name=str(n), workers=n) for n in (1, 2, 4)],
    }
    text = ""
    for what, sides in sweeps.items():
        found = measure(sides, folder, arguments)
        first = found[sides[0].name]
        rows = [
            [s.name, *(f"{mine[p]:.3g}" if p in mine else "-" for p in PARTS), f"{mine['step'] / first['step']:.2f}"]
            for s in sides
            for mine in [found[s.name]]
        ]
        text += table([what, *PARTS, "step / first"], rows) + "\n"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="q5", help="comma-separated, of: " + ", ".join(SIZES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3, help="measured steps of a process, after one warm-up")
    parser.add_argument("--turns", type=int, default=2, help="processes of each side")
    parser.add_argument("--only", default="", help="measure the sides whose name contains this")
    parser.add_argument("--cpu-time", action="store_true", help="for machines that others use too; with --threads 1")
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments)
        return
    torch.set_num_threads(arguments.threads)
    seconds = "CPU seconds" if arguments.cpu_time else "seconds"
    text = (
        f"# A GRPO step {'and what it grows with' if arguments.sweep else 'beside TRL'}\n\n"
        f"Written by `python -m tests.bench.grpo_step --write --models {arguments.models} --turns {arguments.turns}"
        f"{' --sweep' * arguments.sweep}`: "
        f"16 prompts x 8 completions, {PROMPT} + 64 tokens, AdamW unless said otherwise, {arguments.threads} threads, median "
        f"{seconds} of {arguments.turns * arguments.steps} steps. {machine()}.\n"
    )
    for size in arguments.models.split(","):
        with tempfile.TemporaryDirectory() as folder:
            policy = make_policy(size, "float32")
            policy.save(Path(folder))
            text += f"\n## {size}: {num_parameters(policy) / 1e6:.1f}M parameters\n\n"
            text += sweep(folder, arguments) if arguments.sweep else compare(size, folder, arguments)
    print(text)
    if arguments.write:
        write("grpo_growth.md" if arguments.sweep else "grpo_step.md", text)


if __name__ == "__main__":
    main()
