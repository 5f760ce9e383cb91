"""Activation checkpointing: the same losses and gradients to the bit, dropout still off, less memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from rewards.errors import UserError
from rl.batch import Sample, make_batches
from rl.config import ModelConfig, OptimizerConfig
from rl.losses.build import build_loss
from rl.losses.config import GrpoLossConfig
from rl.trainer import Trainer
from tests.conftest import tiny_policy

LOSS = build_loss(GrpoLossConfig(kl_coef=0.1, off_policy_threshold=None), temperature=1.0)


def samples(count: int, prompt: int, length: int) -> list[Sample]:
    rng = np.random.default_rng(0)
    mask = np.arange(length) >= prompt
    old = np.where(mask, -5.0, 0).astype(np.float32)
    return [Sample(rng.integers(7, 200, length).astype(np.int32), mask, old, 0.5 - i % 2) for i in range(count)]


def trainer_of(folder: Path, *, activation_checkpointing: bool, packing: bool = True) -> Trainer:
    model = ModelConfig(path=str(folder), activation_checkpointing=activation_checkpointing)
    optimizer = OptimizerConfig(name="adamw")
    settings = {"num_steps": 9, "microbatch_tokens": 10_000, "reference_refresh_steps": 5}
    return Trainer(folder, model, optimizer, LOSS, packing=packing, **settings)


def result(trainer: Trainer) -> tuple[dict[str, float], list[Tensor]]:
    packed = trainer.padded_because is None
    [batch] = make_batches(samples(4, 5, 30), 10_000, torch.device("cpu"), packed=packed)
    found = trainer.forward_backward(batch, LOSS, batch.num_loss_tokens)
    return {"loss": float(found.total), **found.sums}, [p.grad for p in trainer.policy.model.parameters() if p.grad is not None]


@pytest.mark.parametrize("packing", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize("architecture", ["qwen3", "gpt2"])  # gpt2 has dropout, and the reference is compared with the policy
def test_losses_and_gradients_are_identical(architecture: str, packing: bool, tmp_path: Path) -> None:
    config = {"n_embd": 64, "n_layer": 2, "n_head": 4} if architecture == "gpt2" else {}
    tiny_policy(architecture, **config).save(tmp_path)
    (plain, gradients), (sums, again) = (
        result(trainer_of(tmp_path, activation_checkpointing=on, packing=packing)) for on in (False, True)
    )
    assert sums == plain
    assert sums["kl"] == pytest.approx(0, abs=1e-6)
    assert len(gradients) == len(again) > 10
    for got, want in zip(again, gradients, strict=True):
        assert torch.equal(got, want)


def test_a_layer_that_drops_out_by_its_own_flag_is_refused(tmp_path: Path) -> None:
    tiny_policy("opt", ffn_dim=64, word_embed_proj_dim=64, dropout=0.5).save(tmp_path)
    with pytest.raises(UserError, match=r"model\.activation_checkpointing.*without dropout"):
        trainer_of(tmp_path, activation_checkpointing=True)


PEAK = """
import os, sys
from pathlib import Path
import torch
from tests.test_recompute import make_batches, result, samples, trainer_of, LOSS
torch.set_num_threads(1)

def status(field):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(field)) * 1024

[batch] = make_batches(samples(8, 2, 400), 10_000, torch.device("cpu"), packed=True)
for on in (False, True):
    trainer = trainer_of(Path(sys.argv[1]), activation_checkpointing=on)
    if (child := os.fork()) == 0:
        result(trainer)  # first calls load kernels
        before = status("VmRSS")
        trainer.forward_backward(batch, LOSS, batch.num_loss_tokens)
        print(status("VmHWM") - before, flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak memory of a process from /proc")
def test_peak_memory_falls(tmp_path: Path) -> None:
    tiny_policy(num_hidden_layers=24).save(tmp_path)
    command = [sys.executable, "-c", PEAK, str(tmp_path)]
    out = subprocess.run(command, capture_output=True, text=True, timeout=800, check=False)
    assert out.returncode == 0, out.stderr
    plain, recomputed = json.loads(f"[{','.join(out.stdout.split())}]")
    assert recomputed < plain / 2, (plain, recomputed)
