"""What every policy-gradient loss does around its formula: log-probabilities, ratio, weights, masks, KL and metric sums.

An algorithm's own file (`grpo.py`, `dapo.py`, ...) is a function from `Tokens` to `Objective`; `build.py` puts the two
together. How tokens are averaged is in the batch's weights (`rl/batch.py` `token_weights`), so that no split of a step
into microbatches changes the result. Pure: no state, no randomness.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from rl.batch import Batch
from rl.head import Head, token_scores
from rl.losses.base import LossResult
from rl.losses.config import PolicyGradientConfig
from rl.losses.kl import kl_estimate


@dataclass(frozen=True)
class Tokens:
    """A microbatch's loss tokens, as a formula sees them. All float32 [T]; differentiable where marked."""

    logprobs_T: Tensor  # log pi, differentiable
    log_ratio_T: Tensor  # log(pi / pi_old), differentiable
    advantage_T: Tensor
    batch: Batch

    def sequence_mean(self, values_T: Tensor) -> Tensor:
        """The mean of `values_T` over each token's sequence, at every one of its tokens; float32 [T], differentiable."""
        return sequence_mean(values_T, self.batch)


@dataclass(frozen=True)
class Objective:
    """What a formula returns: the quantity to raise, per token, and which tokens its clip changed. [T] each."""

    value_T: Tensor  # float32, differentiable
    clipped_T: Tensor  # bool


Formula: TypeAlias = Callable[[Tokens], Objective]


@dataclass(frozen=True)
class PolicyGradientLoss:
    """Minus the formula's objective, weighted, masked and with the KL penalty: a sum over loss tokens.

    pi is taken under the same temperature and the same top-p / top-k cut as sampling ("keep sampling mask").
    """

    formula: Formula
    config: PolicyGradientConfig
    temperature: float  # of sampling

    def __call__(self, hidden_TD: Tensor, head: Head, batch: Batch, reference_logprobs_T: Tensor | None) -> LossResult:
        """hidden_TD: float [T, D] at the positions that predict the loss tokens; reference_logprobs_T: float32 [T].

        Raises FloatingPointError, which names the input, where the sum is not finite.
        """
        config = self.config
        scores = token_scores(hidden_TD, head, batch.target_T, temperature=self.temperature, kept=batch.kept)
        logprobs_T, now_T = scores.logprobs_T, scores.logprobs_T.detach()
        drift_T = now_T - batch.sampler_logprobs_T  # log(pi / pi_sampler)
        old_T = batch.sampler_logprobs_T if config.ratio_to == "sampler" else now_T  # the step's only update starts at pi
        tokens = Tokens(logprobs_T, logprobs_T - old_T, batch.advantage_T, batch)

        objective = self.formula(tokens)
        importance_T = truncated_importance(drift_T, config.importance_cap)
        mask_T = off_policy_mask(drift_T, batch, config.off_policy_threshold)
        inside_T = geometric_mask(drift_T, batch, config.geometric_mask)
        gain_T = objective.value_T * importance_T * mask_T
        sums = {
            "ratio": tokens.log_ratio_T.detach().exp(),
            "clipped_share": objective.clipped_T,
            "surprisal": -now_T,  # of what was sampled
            "entropy": scores.entropy_T.detach(),  # of pi, in nats
            "masked_share": mask_T * inside_T == 0,
            "truncated_weight_share": drift_T.exp() > (math.inf if config.importance_cap is None else config.importance_cap),
        }
        if config.kl_coef > 0:
            assert reference_logprobs_T is not None, f"kl_coef {config.kl_coef} needs reference_logprobs_T, got None"
            kl_T = kl_estimate(config.kl, logprobs_T, reference_logprobs_T, tokens.log_ratio_T.exp() * importance_T)
            gain_T = gain_T - config.kl_coef * kl_T
            sums["kl"] = kl_T.detach()
        total = -(gain_T * inside_T * batch.weight_T).sum()
        if not torch.isfinite(total):
            raise FloatingPointError(_not_finite(logprobs_T, batch, reference_logprobs_T))
        return LossResult(total, _sums(sums), drift_T.abs())


def sequence_mean(values_T: Tensor, batch: Batch) -> Tensor:
    """The mean over each token's sequence, at every one of its tokens; float32 [T]."""
    zeros_S = values_T.new_zeros(batch.num_sequences)
    sum_S = zeros_S.index_add(0, batch.sequence_T, values_T)
    length_S = zeros_S.index_add(0, batch.sequence_T, torch.ones_like(values_T))
    return (sum_S / length_S.clamp(min=1))[batch.sequence_T]


def clipped_surrogate(log_ratio_T: Tensor, advantage_T: Tensor, bounds: tuple[float, float]) -> Objective:
    """min(r A, clip(r, low, high) A) of PPO (arXiv 1707.06347, equation 7)."""
    ratio_T = log_ratio_T.exp()
    free_T = ratio_T * advantage_T
    value_T = torch.minimum(free_T, ratio_T.clamp(*bounds) * advantage_T)
    return Objective(value_T, value_T.detach() < free_T.detach())


def truncated_importance(drift_T: Tensor, cap: float | None) -> Tensor:
    """min(pi_trainer / pi_sampler, cap), no gradient: truncated importance sampling; ones where `cap` is None.

    F. Yao et al., "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training" (2025).
    """
    return torch.ones_like(drift_T) if cap is None else drift_T.exp().clamp(max=cap)


def off_policy_mask(drift_T: Tensor, batch: Batch, threshold: float | None) -> Tensor:
    """M of DeepSeek-V3.2 (arXiv 2512.02556, equation 9), float32 [T].

    0 on every token of a sequence with negative advantage whose mean log(pi_sampler / pi) is above the threshold.
    """
    if threshold is None:
        return torch.ones_like(drift_T)
    return 1.0 - ((batch.advantage_T < 0) & (sequence_mean(-drift_T, batch) > threshold)).float()


def geometric_mask(drift_T: Tensor, batch: Batch, bounds: tuple[float, float] | None) -> Tensor:
    """0 on every token of a sequence whose geometric mean of pi / pi_sampler lies outside the bounds, else 1; float32 [T].

    J. Liu, Y. Li et al., "When Speed Kills Stability: Demystifying RL Collapse from the Training-Inference Mismatch" (2025).
    """
    if bounds is None:
        return torch.ones_like(drift_T)
    mean_T = sequence_mean(drift_T, batch).exp()
    return ((mean_T >= bounds[0]) & (mean_T <= bounds[1])).float()


def _sums(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Sums over the loss tokens, brought to the host together."""
    stacked: list[float] = torch.stack([v.sum(dtype=torch.float32) for v in values.values()]).tolist()
    return dict(zip(values, stacked, strict=True))


def _not_finite(logprobs_T: Tensor, batch: Batch, reference_logprobs_T: Tensor | None) -> str:
    """Which input made the sum infinite or NaN."""
    inputs = {
        "sampler_logprobs": batch.sampler_logprobs_T,
        "advantage": batch.advantage_T,
        "weight": batch.weight_T,
        "reference_logprobs": reference_logprobs_T,
        "the trainer's log-probabilities": logprobs_T.detach(),
    }
    counts = {name: int((~torch.isfinite(v)).sum()) for name, v in inputs.items() if v is not None}
    found = [f"{name} at {count} tokens" for name, count in counts.items() if count]
    what = ", ".join(found) or "no input; a ratio pi / pi_old overflowed"
    return f"the loss of {batch.num_loss_tokens} tokens is not finite; not finite: {what}"
