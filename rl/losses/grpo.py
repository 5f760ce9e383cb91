"""GRPO as DeepSeek-V3.2 states it (arXiv 2512.02556, equations 5 to 9) and V4 inherits it.

    J = E[ 1/S sum_i 1/|o_i| sum_t  min(r A, clip(r, 1-eps, 1+eps) A) M  -  beta KL ]
    r  = pi / pi_old                        pi_old: the probability that the inference engine returned
    KL = (pi / pi_old) (pi_ref/pi - log(pi_ref/pi) - 1)     `corrected_k3` in kl.py
    M  = 0 if A < 0 and mean_t log(pi_old/pi) > delta, else 1     `off_policy_mask` in policy_gradient.py

One choice of ours: a step takes one update on fresh samples, so pi_old in r is the engine's probability as it is in M,
which corrects for the difference between sampler and trainer as well as for staleness. The report's A is R - mean(R).
"""

from __future__ import annotations

from rl.losses.config import GrpoLossConfig
from rl.losses.policy_gradient import Objective, Tokens, clipped_surrogate


def grpo(tokens: Tokens, config: GrpoLossConfig) -> Objective:
    return clipped_surrogate(tokens.log_ratio_T, tokens.advantage_T, config.bounds)
