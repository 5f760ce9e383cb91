"""Settings of the policy-gradient losses, one frozen dataclass each, with the defaults of its paper where it states them.

`GrpoConfig.loss` is their union, told apart by `name`; `loss: dapo` in a recipe is short for `loss: {name: dapo}`.
`rl/losses/build.py` makes the loss. No torch here. docs/losses.md compares them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar, Literal, TypeAlias

from annotated_types import Ge, Gt, Lt

PositiveFloat = Annotated[float, Gt(0)]
KlName: TypeAlias = Literal["k1", "k2", "k3", "corrected_k3"]  # rl/losses/kl.py has their formulas and their biases


class Aggregation(StrEnum):
    """How a step's loss tokens become one number. S sequences, N tokens in all, |o_i| tokens in sequence i."""

    SEQUENCES = "sequences"  # 1/S sum_i 1/|o_i| sum_t: every completion counts the same, a long one's tokens count less
    TOKENS = "tokens"  # 1/N sum_i sum_t: every token counts the same
    BUDGET = "budget"  # 1/(S max_tokens) sum_i sum_t: every token counts the same, in every step


@dataclass(frozen=True, kw_only=True)
class PolicyGradientConfig:
    """What the losses share: the ratio's denominator, the corrections for off-policy samples, and the KL penalty."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}  # unknown keys are errors
    aggregation: ClassVar[Aggregation]
    name: str
    kl_coef: Annotated[float, Ge(0)] = 0.0  # beta; 0 keeps no reference model
    kl: KlName = "corrected_k3"
    ratio_to: Literal["sampler", "trainer"] = "sampler"  # whose probability pi_old is in the ratio pi / pi_old
    importance_cap: PositiveFloat | None = None  # C: tokens weigh min(pi_trainer / pi_sampler, C); with ratio_to: trainer
    off_policy_threshold: PositiveFloat | None = None  # delta of V3.2's mask, for sequences of negative advantage
    geometric_mask: tuple[Annotated[float, Gt(0), Lt(1)], Annotated[float, Gt(1)]] | None = None  # of mean pi / pi_sampler


@dataclass(frozen=True, kw_only=True)
class ClippedConfig(PolicyGradientConfig):
    """A ratio that is clipped to [1 - clip, 1 + clip_high]."""

    clip: PositiveFloat = 0.2  # epsilon
    clip_high: PositiveFloat | None = None  # null: as `clip`

    @property
    def bounds(self) -> tuple[float, float]:
        return 1 - self.clip, 1 + (self.clip if self.clip_high is None else self.clip_high)


@dataclass(frozen=True, kw_only=True)
class GrpoLossConfig(ClippedConfig):
    """DeepSeek-V3.2's GRPO (arXiv 2512.02556, equations 5 to 9)."""

    aggregation: ClassVar[Aggregation] = Aggregation.SEQUENCES
    name: Literal["grpo"] = "grpo"
    off_policy_threshold: PositiveFloat | None = 0.5  # the report has the mask and not its delta


@dataclass(frozen=True, kw_only=True)
class DrGrpoLossConfig(ClippedConfig):
    """Dr. GRPO (arXiv 2503.20783): no length bias."""

    aggregation: ClassVar[Aggregation] = Aggregation.BUDGET
    name: Literal["dr_grpo"] = "dr_grpo"


@dataclass(frozen=True, kw_only=True)
class DapoLossConfig(ClippedConfig):
    """DAPO (arXiv 2503.14476): clip-higher and a mean over tokens."""

    aggregation: ClassVar[Aggregation] = Aggregation.TOKENS
    name: Literal["dapo"] = "dapo"
    clip_high: PositiveFloat | None = 0.28


@dataclass(frozen=True, kw_only=True)
class GspoLossConfig(ClippedConfig):
    """GSPO (arXiv 2507.18071): one ratio for a sequence, which moves far less than a token's."""

    aggregation: ClassVar[Aggregation] = Aggregation.SEQUENCES
    name: Literal["gspo"] = "gspo"
    clip: PositiveFloat = 3e-4
    clip_high: PositiveFloat | None = 4e-4


@dataclass(frozen=True, kw_only=True)
class CispoLossConfig(PolicyGradientConfig):
    """CISPO (MiniMax-M1, arXiv 2506.13585; bound from ScaleRL, arXiv 2510.13786)."""

    aggregation: ClassVar[Aggregation] = Aggregation.TOKENS
    name: Literal["cispo"] = "cispo"
    max_ratio: Annotated[float, Ge(1)] = 5.0  # 1 + epsilon_high; there is no lower bound


LossConfig: TypeAlias = GrpoLossConfig | DrGrpoLossConfig | DapoLossConfig | GspoLossConfig | CispoLossConfig
