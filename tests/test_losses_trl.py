"""Losses and gradients beside those of TRL's GRPOTrainer, from its own code on the same log-probabilities.

TRL's `_compute_loss` runs unbound on a trainer without a model: it is handed the log-probabilities that our head gives.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor
from trl import GRPOConfig, GRPOTrainer
from trl.rewards import get_soft_overlong_punishment

from rl.batch import Batch
from rl.config import OverlongConfig
from rl.losses.config import CispoLossConfig, DapoLossConfig, DrGrpoLossConfig, GrpoLossConfig, GspoLossConfig, LossConfig
from rl.shaping import length_penalty
from tests.loss_cases import ADVANTAGES, LENGTHS, MAX_TOKENS, Model, batches_of, reference_of, samples_of


@dataclass(frozen=True)
class Case:
    ours: LossConfig
    trl: dict[str, object]


NO_KL = {"beta": 0.0, "epsilon": 0.2}
WITH_KL = {"beta": 0.3, "epsilon": 0.2, "use_bias_correction_kl": True}
CASES = {
    "grpo": Case(GrpoLossConfig(off_policy_threshold=None), {**NO_KL, "loss_type": "grpo"}),
    "grpo as in V3.2": Case(
        GrpoLossConfig(kl_coef=0.3, off_policy_threshold=0.05),
        {**WITH_KL, "loss_type": "grpo", "off_policy_mask_threshold": 0.05},
    ),
    "grpo, k3": Case(
        GrpoLossConfig(kl_coef=0.3, kl="k3", off_policy_threshold=None),
        {**WITH_KL, "loss_type": "grpo", "use_bias_correction_kl": False},
    ),
    "dr_grpo": Case(DrGrpoLossConfig(kl_coef=0.3), {**WITH_KL, "loss_type": "dr_grpo"}),
    "dapo": Case(DapoLossConfig(), {**NO_KL, "epsilon_high": 0.28, "loss_type": "dapo"}),
    "dapo, kl": Case(DapoLossConfig(kl_coef=0.3), {**WITH_KL, "epsilon_high": 0.28, "loss_type": "dapo"}),
    "gspo": Case(
        GspoLossConfig(clip=0.1, clip_high=0.15),
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "beta": 0.0, "epsilon": 0.1, "epsilon_high": 0.15},
    ),
    "gspo, published clip": Case(
        GspoLossConfig(),
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "beta": 0.0, "epsilon": 3e-4, "epsilon_high": 4e-4},
    ),
    "cispo": Case(CispoLossConfig(), {**NO_KL, "loss_type": "cispo", "epsilon_high": 5.0}),
    "cispo, kl": Case(CispoLossConfig(max_ratio=1.2, kl_coef=0.3), {**WITH_KL, "loss_type": "cispo", "epsilon_high": 1.2}),
    "truncated importance": Case(
        DapoLossConfig(ratio_to="trainer", importance_cap=1.1),
        {**NO_KL, "epsilon_high": 0.28, "loss_type": "dapo", "vllm_importance_sampling_correction": True},
    ),
    "truncated importance, mask, kl": Case(
        GrpoLossConfig(ratio_to="trainer", importance_cap=1.1, kl_coef=0.3, kl="k3", off_policy_threshold=0.05),
        {
            **WITH_KL,
            "use_bias_correction_kl": False,
            "loss_type": "grpo",
            "off_policy_mask_threshold": 0.05,
            "vllm_importance_sampling_correction": True,
        },
    ),
}


def padded(values_T: Tensor, batch: Batch) -> Tensor:
    """[T] as [sequences, longest], zeros after each sequence's end."""
    out = values_T.new_zeros(batch.num_sequences, int(batch.sequence_T.bincount().max()))
    place_T = torch.cat([torch.arange(int(n)) for n in batch.sequence_T.bincount()])
    return out.index_put((batch.sequence_T, place_T), values_T)


def trl_loss(case: Case, logprobs_T: Tensor, batch: Batch, folder: Path) -> Tensor:
    """What GRPOTrainer computes from these log-probabilities."""
    config: LossConfig = case.ours
    args = GRPOConfig(str(folder), use_cpu=True, bf16=False, report_to="none", max_completion_length=MAX_TOKENS, **case.trl)  # type: ignore[arg-type]
    trainer = object.__new__(GRPOTrainer)
    settings = ("loss_type", "importance_sampling_level", "off_policy_mask_threshold", "beta", "top_entropy_quantile")
    for name in (*settings, "vllm_importance_sampling_correction"):
        setattr(trainer, name, getattr(args, name))
    trainer.args, trainer.accelerator, trainer.model = args, Accelerator(cpu=True), torch.nn.Linear(1, 1)
    trainer.epsilon_low = args.epsilon
    trainer.epsilon_high = args.epsilon if args.epsilon_high is None else args.epsilon_high
    trainer.max_completion_length, trainer.current_gradient_accumulation_steps = args.max_completion_length, 1
    trainer.aux_loss_enabled = trainer._entropy_bonus_enabled = False
    trainer.use_vllm = config.importance_cap is not None
    trainer._metrics = {"train": defaultdict(list)}
    logprobs_BL, sampler_BL = padded(logprobs_T, batch), padded(batch.sampler_logprobs_T, batch)
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (logprobs_BL, torch.zeros_like(logprobs_BL), None)
    args.steps_per_generation = 1
    ones = torch.ones_like(batch.target_T)
    inputs = {
        "prompt_ids": torch.ones(batch.num_sequences, 1, dtype=torch.int64),
        "prompt_mask": torch.ones(batch.num_sequences, 1, dtype=torch.int64),
        "completion_ids": padded(batch.target_T, batch),
        "completion_mask": padded(ones, batch),
        "advantages": padded(batch.advantage_T, batch)[:, 0],
        "old_per_token_logps": sampler_BL if config.ratio_to == "sampler" else logprobs_BL.detach(),
        "sampling_per_token_logps": sampler_BL,
        "ref_per_token_logps": padded(reference_of(batch), batch),
        "num_items_in_batch": ones.sum(),
    }
    if config.importance_cap is not None:
        drift_BL = logprobs_BL.detach() - sampler_BL
        inputs["importance_sampling_ratio"] = drift_BL.exp().clamp(max=config.importance_cap)  # its "token_truncate"
    loss = GRPOTrainer._compute_loss(trainer, SimpleNamespace(), inputs)
    assert isinstance(loss, Tensor)
    return loss


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_are_those_of_trl(name: str, tmp_path: Path) -> None:
    case, model = CASES[name], Model.random()
    [batch] = batches_of(samples_of(LENGTHS, ADVANTAGES), case.ours)
    result = model.loss(case.ours, batch, reference_of(batch) if case.ours.kl_coef else None)
    ours = result.total / batch.num_loss_tokens
    ratio_T = (model.logprobs(batch).detach() - batch.sampler_logprobs_T).exp()
    for side in (ratio_T > 1.28) & (batch.advantage_T > 0), (ratio_T < 0.8) & (batch.advantage_T < 0):
        assert bool(side.any()), "the case needs tokens that each bound clips"
    theirs = trl_loss(case, model.logprobs(batch), batch, tmp_path)
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), abs=2e-7)
    want = model.gradient(theirs)
    assert float(want.abs().max()) > 1e-3
    torch.testing.assert_close(model.gradient(ours), want, atol=1e-7, rtol=1e-5)


def test_a_step_of_many_microbatches_is_trl_loss_on_all(tmp_path: Path) -> None:
    """Our sums over microbatches, divided once, are TRL's loss of the whole step."""
    for name in ("grpo", "dr_grpo", "dapo", "gspo"):
        case, model = CASES[name], Model.random()
        ours = replace(case.ours, kl_coef=0.0)
        [whole] = batches_of(samples_of(LENGTHS, ADVANTAGES), ours)
        parts = batches_of(samples_of(LENGTHS, ADVANTAGES), ours, 12)
        assert len(parts) >= 5
        total = sum(float(model.loss(ours, b).total.detach()) for b in parts) / whole.num_loss_tokens
        case = Case(ours, {**case.trl, "beta": 0.0})
        assert total == pytest.approx(float(trl_loss(case, model.logprobs(whole), whole, tmp_path).detach()), abs=5e-7)


@pytest.mark.parametrize("buffer_tokens", [1, 20, 100])
def test_the_length_penalty_is_that_of_trl(buffer_tokens: int) -> None:
    lengths = [1, 50, 79, 80, 81, 90, 99, 100, 101, 500]
    theirs = get_soft_overlong_punishment(100, buffer_tokens)([[0] * n for n in lengths])
    ours = [length_penalty(n, OverlongConfig(buffer_tokens=buffer_tokens), 100) for n in lengths]
    assert ours == pytest.approx(theirs)
