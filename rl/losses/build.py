"""A loss from its settings: the one place where a name of `loss:` meets its formula."""

from __future__ import annotations

from functools import partial

from rl.losses.cispo import cispo
from rl.losses.config import (
    CispoLossConfig,
    DapoLossConfig,
    DrGrpoLossConfig,
    GrpoLossConfig,
    GspoLossConfig,
    LossConfig,
)
from rl.losses.dapo import dapo
from rl.losses.dr_grpo import dr_grpo
from rl.losses.grpo import grpo
from rl.losses.gspo import gspo
from rl.losses.policy_gradient import Formula, PolicyGradientLoss


def build_loss(config: LossConfig, temperature: float) -> PolicyGradientLoss:
    """`temperature` is that of sampling: the loss takes pi under it."""
    formula: Formula
    match config:
        case GrpoLossConfig():
            formula = partial(grpo, config=config)
        case DrGrpoLossConfig():
            formula = partial(dr_grpo, config=config)
        case DapoLossConfig():
            formula = partial(dapo, config=config)
        case GspoLossConfig():
            formula = partial(gspo, config=config)
        case CispoLossConfig():
            formula = partial(cispo, config=config)
    return PolicyGradientLoss(formula, config, temperature)
