"""GSPO (Zheng et al., arXiv 2507.18071, equations 5 to 7): ratio, clip and reward of a whole sequence.

    J = E[ 1/S sum_i  min(s_i A_i, clip(s_i, 1-eps_low, 1+eps_high) A_i) ]
    s_i = (pi(o_i) / pi_old(o_i))^(1/|o_i|) = exp( 1/|o_i| sum_t log(pi / pi_old) )

Equation 10's gradient: each token of the sequence gets s_i A_i / |o_i| times its grad log pi, or nothing at all where s_i is
clipped. Written per token, every token carries its sequence's term, and the batch's weights divide by |o_i|.
"""

from __future__ import annotations

from rl.losses.config import GspoLossConfig
from rl.losses.policy_gradient import Objective, Tokens, clipped_surrogate


def gspo(tokens: Tokens, config: GspoLossConfig) -> Objective:
    return clipped_surrogate(tokens.sequence_mean(tokens.log_ratio_T), tokens.advantage_T, config.bounds)
