"""DAPO (Yu et al., arXiv 2503.14476, equations 8 to 12): clip-higher, and a mean over tokens.

    J = E[ 1/N sum_i sum_t  min(r A, clip(r, 1-eps_low, 1+eps_high) A) ]         no KL

The wider upper bound lets an unlikely token become likelier: with eps 0.2 a token of probability 0.01 could gain 0.002.
The paper's other parts are settings of the stage: `scale_rewards: group` (A = (R - mean) / std), `overlong`
(equation 13), `mask_truncated`, and the sampling of further prompts in place of groups without signal (equation 11).
N counts the whole step's tokens here, a group's in the paper: a token weighs the same whichever group it is in.
"""

from __future__ import annotations

from rl.losses.config import DapoLossConfig
from rl.losses.policy_gradient import Objective, Tokens, clipped_surrogate


def dapo(tokens: Tokens, config: DapoLossConfig) -> Objective:
    return clipped_surrogate(tokens.log_ratio_T, tokens.advantage_T, config.bounds)
