"""Dr. GRPO, "GRPO done right" (Liu et al., "Understanding R1-Zero-Like Training", arXiv 2503.20783, section 3.2).

    J = E[ 1/(S max_tokens) sum_i sum_t  min(r A, clip(r, 1-eps, 1+eps) A) ]         A = R - mean(R)

GRPO divides a sequence by its own length, so a long wrong answer is punished less a token than a short one, and answers
grow. Here the divisor is a constant, the generation budget. The other half of the paper, no division by the standard
deviation, is `scale_rewards: none` of the stage, the default.
"""

from __future__ import annotations

from rl.losses.config import DrGrpoLossConfig
from rl.losses.policy_gradient import Objective, Tokens, clipped_surrogate


def dr_grpo(tokens: Tokens, config: DrGrpoLossConfig) -> Objective:
    return clipped_surrogate(tokens.log_ratio_T, tokens.advantage_T, config.bounds)
