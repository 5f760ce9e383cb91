"""CISPO (MiniMax-M1, arXiv 2506.13585, equations 4 and 5): the weight is clipped, never the token's gradient.

    J = E[ 1/N sum_i sum_t  sg(min(r, max_ratio)) A log pi ]         sg: no gradient through it

PPO's clip drops a token once its ratio leaves the range, and the rare tokens that turn a line of thought ("However",
"Wait") leave it first. Here each token keeps its gradient, with a bounded weight. max_ratio is the paper's 1 + eps_high,
tuned there and not disclosed; 5 is ScaleRL's (arXiv 2510.13786). As in the paper's runs there is no lower bound.
"""

from __future__ import annotations

from rl.losses.config import CispoLossConfig
from rl.losses.policy_gradient import Objective, Tokens


def cispo(tokens: Tokens, config: CispoLossConfig) -> Objective:
    ratio_T = tokens.log_ratio_T.detach().exp()
    value_T = ratio_T.clamp(max=config.max_ratio) * tokens.advantage_T * tokens.logprobs_T
    return Objective(value_T, ratio_T > config.max_ratio)
