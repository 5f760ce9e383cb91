"""What a recipe would do and roughly what it would cost, for `run --dry-run`: arithmetic on its numbers, no torch.

Tokens are upper bounds: every sample as long as the recipe lets it be. Times rest on one stated assumption.
"""

from __future__ import annotations

import json
import math
import os
import re
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from recipes.schema import Recipe, StageConfig
from rl.config import GrpoConfig, ModelConfig, OptimizerConfig, SamplingConfig

FLOPS_PER_CORE = 30e9  # assumed, sustained, float32
BYTES = 4  # of a master weight, of a gradient, of one optimizer moment


@dataclass(frozen=True)
class ModelSize:
    """Parameters: all of them, those that Muon updates (hidden matrices), and the cache of one token in bytes."""

    parameters: int
    hidden: int
    cache_bytes: int | None


@dataclass(frozen=True)
class StagePlan:
    """One line of the plan. Counts are upper bounds; None where the model's size is unknown."""

    name: str
    what: str
    train_tokens: int
    sampled_tokens: int
    memory_bytes: int | None
    time_s: float | None


@dataclass(frozen=True)
class Plan:
    model: str
    parameters: int | None
    stages: tuple[StagePlan, ...]
    assumption: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def text(self) -> str:
        count = "unknown until the model is read" if self.parameters is None else _count(self.parameters)
        lines = [f"model  {self.model}: parameters {count}"]
        for stage in self.stages:
            tokens = f"up to {_count(stage.train_tokens)} tokens trained" if stage.train_tokens else ""
            sampled = f"up to {_count(stage.sampled_tokens)} sampled" if stage.sampled_tokens else ""
            memory = "" if stage.memory_bytes is None else f"about {_bytes(stage.memory_bytes)}"
            time = "time unknown" if stage.time_s is None else f"up to about {_time(stage.time_s)}"
            parts = [part for part in (stage.what, tokens, sampled, memory, time) if part]
            lines.append(f"stage  {stage.name}: {'; '.join(parts)}")
        return "\n".join([*lines, f"note   {self.assumption}"])


def plan(recipe: Recipe) -> Plan:
    """The stages in order, evaluations included."""
    size, cores, init = model_size(recipe), _cores(recipe), recipe.model.init
    scored = recipe.rewards or recipe.judge is not None
    start = [_evaluation(recipe, size)] if init is None and scored else []  # random weights solve nothing
    stages = (*start, *(_stage(stage, recipe, size) for stage in recipe.stages))
    name = f"new {init.architecture} with random weights" if init else str(recipe.model.path)
    assumption = (
        "an estimate from 6N FLOP for a trained token and 2N for a sampled one, at an assumed"
        f" {FLOPS_PER_CORE / 1e9:g} GFLOP/s a core on {cores} {'core' if cores == 1 else 'cores'};"
        " memory is weights, gradients, optimizer state and a full cache"
    )
    return Plan(name, size.parameters if size else None, stages, assumption)


def _cores(recipe: Recipe) -> int:
    return recipe.runtime.num_threads or os.cpu_count() or 1


def _evaluation(recipe: Recipe, size: ModelSize | None) -> StagePlan:
    evaluation = recipe.evaluation
    samples = f" x {evaluation.num_samples} samples" if evaluation.num_samples > 1 else ""
    what = f"{evaluation.num_tasks} held-out tasks{samples} before training"
    sampled = _eval_tokens(recipe, evaluation.num_tasks)
    memory = _sampling_bytes(recipe, size) if size else None
    return StagePlan("evaluation", what, 0, sampled, memory, _time_s(recipe, size, 0, sampled))


def _stage(stage: StageConfig, recipe: Recipe, size: ModelSize | None) -> StagePlan:
    if isinstance(stage, GrpoConfig):
        rewards = ", ".join([*(reward.use for reward in recipe.rewards), *(["a judge"] if recipe.judge else [])])
        shape = f"{stage.num_prompts} prompts x {stage.group_size} completions"
        what = f"grpo, {stage.steps} steps of {shape}, scored by {rewards}"
        during = (stage.steps - 1) // stage.eval_every if stage.eval_every else 0
        completions = stage.steps * stage.num_prompts * stage.group_size
        trained = completions * _most_tokens(recipe, stage.sampling) + stage.steps * stage.group_size * _label_tokens(recipe)
        sampled = trained + completions * _verdict_tokens(recipe)
        sampled += during * _eval_tokens(recipe, recipe.evaluation.num_tasks_during)
        sampled += _eval_tokens(recipe, recipe.evaluation.num_tasks)
    else:
        mixture = ", ".join(f"{share:g} {style}" for style, share in stage.mixture.items())
        what = f"sft, {stage.steps} steps of {stage.batch_size} demonstrations{f' ({mixture})' if mixture else ''}"
        trained = stage.steps * stage.batch_size * stage.max_length
        sampled = _eval_tokens(recipe, recipe.evaluation.num_tasks) if stage.evaluate else 0
    memory = None
    if size is not None:
        memory = _training_bytes(size, stage.optimizer or recipe.optimizer, recipe.model)
        memory += _sampling_bytes(recipe, size) if sampled else 0
        memory += BYTES * size.parameters if isinstance(stage, GrpoConfig) and stage.loss.kl_coef else 0  # the reference
    return StagePlan(stage.name, what, trained, sampled, memory, _time_s(recipe, size, trained, sampled))


def _eval_tokens(recipe: Recipe, num_tasks: int) -> int:
    completions = num_tasks * recipe.evaluation.num_samples * max(1, len(recipe.efforts.levels))
    tokens = completions * (_most_tokens(recipe, recipe.evaluation.sampling) + _verdict_tokens(recipe))
    judge = recipe.judge
    if judge is not None and judge.train is not None and _judges_here(recipe):
        tokens += 2 * min(num_tasks, judge.train.num_held_out) * judge.sampling.max_tokens  # in both orders
    return tokens


def _most_tokens(recipe: Recipe, sampling: SamplingConfig) -> int:
    """Sampled in one rollout, in all of its turns."""
    levels = [level.max_tokens or sampling.max_tokens for level in recipe.efforts.levels]
    turn = max(levels, default=sampling.max_tokens)
    if not recipe.tools:
        return turn
    most = min(turn * recipe.rollout.max_turns, recipe.engine.max_seq_len)
    return most if recipe.rollout.max_tokens is None else min(most, recipe.rollout.max_tokens)


def _judges_here(recipe: Recipe) -> bool:
    """Whether a model of the run judges: an endpoint's tokens are somebody else's."""
    return recipe.judge is not None and isinstance(recipe.judge.model, str)


def _verdict_tokens(recipe: Recipe) -> int:
    """Sampled for one completion's score, none of them asked again."""
    judge = recipe.judge
    return judge.num_samples * judge.sampling.max_tokens if judge is not None and _judges_here(recipe) else 0


def _label_tokens(recipe: Recipe) -> int:
    """Of a step's judging tasks, one completion each."""
    judge = recipe.judge
    return judge.train.num_prompts * judge.sampling.max_tokens if judge is not None and judge.train is not None else 0


def _time_s(recipe: Recipe, size: ModelSize | None, trained: int, sampled: int) -> float | None:
    if size is None:
        return None
    return size.parameters * (6 * trained + 2 * sampled) / (FLOPS_PER_CORE * _cores(recipe))


def _sampling_bytes(recipe: Recipe, size: ModelSize) -> int:
    cache = (size.cache_bytes or 0) * recipe.engine.max_seq_len * recipe.engine.max_batch_size
    return recipe.runtime.num_rollout_workers * (BYTES * size.parameters + cache)


def _training_bytes(size: ModelSize, optimizer: OptimizerConfig, model: ModelConfig) -> int:
    """Weights, gradients and moments: AdamW keeps two of each parameter, Muon one of each hidden matrix.

    With LoRA the weights alone, the hidden ones narrow in bfloat16: adapters are small beside them.
    """
    if model.lora is not None:
        return BYTES * size.parameters - (BYTES // 2 * size.hidden if model.dtype == "bfloat16" else 0)
    moments = 2 * size.parameters - (size.hidden if optimizer.name == "muon" else 0)
    return BYTES * (2 * size.parameters + moments)


def model_size(recipe: Recipe) -> ModelSize | None:
    """From an init config by formula, from a local model by its headers; None for a hub id or a partial config."""
    if recipe.model.init is not None:
        return _from_config(recipe.model.init.config, recipe.model.init.tokenizer_vocab_size)
    folder = Path(os.path.expanduser(recipe.model.path or ""))
    steps = [p for p in (folder / "checkpoints").glob("step-*") if p.name[5:].isdigit()]
    folder = max(steps, key=lambda p: int(p.name[5:]), default=folder)
    files = sorted(folder.glob("*.safetensors"))
    return _from_headers(files, folder / "config.json") if files else None


def _from_config(config: Mapping[str, Any], vocab: int) -> ModelSize | None:
    """A decoder with grouped-query attention and a gated MLP."""
    try:
        d, layers, ff = (int(config[key]) for key in ("hidden_size", "num_hidden_layers", "intermediate_size"))
        heads = int(config["num_attention_heads"])
    except (KeyError, TypeError, ValueError):
        return None
    kv_heads = int(config.get("num_key_value_heads") or heads)
    head_dim = int(config.get("head_dim") or d // heads)
    hidden = layers * (2 * d * heads * head_dim + 2 * d * kv_heads * head_dim + 3 * d * ff)
    embeddings = vocab * d * (1 if config.get("tie_word_embeddings") else 2)
    return ModelSize(hidden + embeddings + (2 * layers + 1) * d, hidden, layers * 2 * kv_heads * head_dim * BYTES)


def _from_headers(files: list[Path], config_file: Path) -> ModelSize | None:
    total = hidden = 0
    try:
        for file in files:
            with file.open("rb") as stream:
                (length,) = struct.unpack("<Q", stream.read(8))
                header: dict[str, Any] = json.loads(stream.read(min(length, 100_000_000)))
            for name, tensor in header.items():
                if name != "__metadata__":
                    count = math.prod(tensor["shape"])
                    total += count
                    is_matrix = len(tensor["shape"]) == 2 and not re.search(r"embed|lm_head", name)
                    hidden += count if is_matrix else 0
        config = json.loads(config_file.read_text(encoding="utf-8")) if config_file.is_file() else {}
    except (OSError, ValueError, KeyError, struct.error):
        return None
    guess = _from_config(config, 0)
    return ModelSize(total, hidden, guess.cache_bytes if guess else None)


def _count(value: float) -> str:
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.3g}{name}"
    return f"{value:.0f}"


def _bytes(value: int) -> str:
    return f"{value / 2**30:.2g} GiB" if value >= 2**30 else f"{value / 2**20:.3g} MiB"


def _time(seconds: float) -> str:
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{max(seconds, 1):.0f} s"
