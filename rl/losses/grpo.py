"""GRPO as DeepSeek-V3.2 states it (arXiv 2512.02556, equations 5 to 9) and V4 inherits it.

    J = E[ 1/G sum_i 1/|o_i| sum_t  min(r A, clip(r, 1-eps, 1+eps) A) M  -  beta KL ]
    r  = pi / pi_old                        pi_old: the probability that the inference engine returned
    KL = (pi / pi_old) (pi_ref/pi - log(pi_ref/pi) - 1)     importance-corrected k3: unbiased gradient
    M  = 0 if A < 0 and mean_t log(pi_old/pi) > delta, else 1     off-policy sequence masking

One choice of ours: a step takes one update on fresh samples, so pi_old in r is the engine's probability too, which
corrects for the difference between sampler and trainer as well as for staleness. pi is taken under the same temperature
and the same top-p / top-k cut as sampling ("keep sampling mask"). Pure: no state, no randomness.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rl.batch import Batch
from rl.head import Head, token_logprobs
from rl.losses.base import LossResult


@dataclass(frozen=True)
class GrpoLoss:
    clip: float  # epsilon
    kl_coef: float  # beta; 0 needs no reference
    off_policy_threshold: float | None  # delta; None: no sequence is masked
    temperature: float  # of sampling

    def __call__(self, hidden_TD: Tensor, head: Head, batch: Batch, reference_logprobs_T: Tensor | None) -> LossResult:
        """hidden_TD: float [T, D] at the positions that predict the loss tokens; reference_logprobs_T: float32 [T]."""
        logprobs_T = token_logprobs(hidden_TD, head, batch.target_T, temperature=self.temperature, kept=batch.kept)
        log_ratio_T = logprobs_T - batch.sampler_logprobs_T
        ratio_T, advantage_T = log_ratio_T.exp(), batch.advantage_T
        clipped_T = ratio_T.clamp(1 - self.clip, 1 + self.clip)
        surrogate_T = torch.minimum(ratio_T * advantage_T, clipped_T * advantage_T)
        mask_T = self._sequence_mask(log_ratio_T.detach(), batch)
        objective_T = surrogate_T * mask_T
        sums = {
            "sampler_gap": float(log_ratio_T.detach().abs().sum()),  # |log pi - log pi_sampler|
            "clipped_share": float((surrogate_T.detach() < ratio_T.detach() * advantage_T).sum()),
            "masked_share": float((mask_T == 0).sum()),
            "surprisal": float(-logprobs_T.detach().sum()),  # its mean estimates the entropy of what was sampled
        }
        if self.kl_coef > 0:
            assert reference_logprobs_T is not None, "kl_coef > 0 needs the reference's log-probabilities"
            kl_T = corrected_k3(logprobs_T, ratio_T, reference_logprobs_T)
            objective_T = objective_T - self.kl_coef * kl_T
            sums["kl"] = float(kl_T.detach().sum())
        return LossResult(-(objective_T * batch.weight_T).sum(), sums)

    def _sequence_mask(self, log_ratio_T: Tensor, batch: Batch) -> Tensor:
        """M as float32 [T]: 0 on every token of a sequence with negative advantage that the policy has moved away from."""
        if self.off_policy_threshold is None:
            return torch.ones_like(log_ratio_T)
        zeros_B = log_ratio_T.new_zeros(batch.num_sequences)
        drift_B = zeros_B.index_add(0, batch.sequence_T, -log_ratio_T)
        length_B = zeros_B.index_add(0, batch.sequence_T, torch.ones_like(log_ratio_T))
        drift_T = (drift_B / length_B.clamp(min=1))[batch.sequence_T]
        return 1.0 - ((batch.advantage_T < 0) & (drift_T > self.off_policy_threshold)).float()


def corrected_k3(logprobs_T: Tensor, ratio_T: Tensor, reference_logprobs_T: Tensor) -> Tensor:
    """Per-token KL estimate whose expectation under pi_old has KL(pi || pi_ref)'s value and gradient; float32 [T]."""
    log_r_T = reference_logprobs_T - logprobs_T
    return ratio_T * (log_r_T.exp() - log_r_T - 1)
