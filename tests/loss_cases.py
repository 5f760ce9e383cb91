"""What the tests of losses share: one setting of every loss, made-up samples, and hidden states with a head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rl.batch import Batch, Sample, make_batches
from rl.head import Head, token_logprobs
from rl.losses.base import LossResult
from rl.losses.build import build_loss
from rl.losses.config import (
    CispoLossConfig,
    DapoLossConfig,
    DrGrpoLossConfig,
    GrpoLossConfig,
    GspoLossConfig,
    LossConfig,
)
from rl.trajectory import SamplingMask

D, V, MAX_TOKENS = 6, 11, 9
CPU = torch.device("cpu")
ALL: dict[str, LossConfig] = {  # with a clip that cuts some tokens of `samples_of`
    "grpo": GrpoLossConfig(off_policy_threshold=None),
    "dr_grpo": DrGrpoLossConfig(),
    "dapo": DapoLossConfig(),
    "gspo": GspoLossConfig(clip=0.1, clip_high=0.15),
    "cispo": CispoLossConfig(max_ratio=1.2),
}
LENGTHS, ADVANTAGES = [4, 7, 2, 5, 1, 9], [0.8, -0.6, -0.9, 0.7, 0.1, -0.2]


def samples_of(lengths: Sequence[int], advantages: Sequence[float], *, masked: bool = False, seed: int = 0) -> list[Sample]:
    """Samples with a prompt of three tokens, the given numbers of loss tokens, and made-up sampler log-probabilities."""
    rng = np.random.default_rng(seed)
    made = []
    for length, advantage in zip(lengths, advantages, strict=True):
        ids = rng.integers(0, V, 3 + length).astype(np.int32)
        mask = np.arange(3 + length) >= 3
        likely = rng.uniform(-3.8, -2.0, 3 + length) + 0.5 * masked  # near the model's own: ratios on both sides of 1
        logprobs = np.where(mask, likely, 0).astype(np.float32)
        rows = [np.unique([t, *rng.integers(0, V, 5)]).astype(np.int32) for t in ids[3:]]
        made.append(Sample(ids, mask, logprobs, advantage, SamplingMask.from_rows(rows) if masked else None))
    return made


def batches_of(
    samples: Sequence[Sample], config: LossConfig, microbatch_tokens: int = 10_000, *, packed: bool = False
) -> list[Batch]:
    return make_batches(samples, microbatch_tokens, CPU, config.aggregation, MAX_TOKENS, packed=packed)


@dataclass
class Model:
    """The smallest model there is: a token's hidden state is the embedding of the token before it."""

    table_VD: Tensor
    weight_VD: Tensor

    @classmethod
    def random(cls, seed: int = 0) -> Model:
        generator = torch.Generator().manual_seed(seed)
        table, weight = torch.randn(V, D, generator=generator), 0.4 * torch.randn(V, D, generator=generator)
        return cls(table.requires_grad_(), weight.requires_grad_())

    def hidden(self, batch: Batch) -> Tensor:
        return self.table_VD[batch.input_ids_BL.flatten()[batch.source_T]]

    def logprobs(self, batch: Batch, temperature: float = 1.0) -> Tensor:
        return token_logprobs(
            self.hidden(batch), Head(self.weight_VD), batch.target_T, temperature=temperature, kept=batch.kept
        )

    def loss(self, config: LossConfig, batch: Batch, reference: Tensor | None = None, temperature: float = 1.0) -> LossResult:
        return build_loss(config, temperature)(self.hidden(batch), Head(self.weight_VD), batch, reference)

    def gradient(self, total: Tensor) -> Tensor:
        """Of a scalar in all parameters, flat."""
        return torch.cat([g.flatten() for g in torch.autograd.grad(total, [self.table_VD, self.weight_VD])])


def reference_of(batch: Batch, seed: int = 3) -> Tensor:
    """Made-up log-probabilities of a reference model, which belong to (token before, token)."""
    table = torch.rand(V, V, generator=torch.Generator().manual_seed(seed)) - 2.8
    return table[batch.input_ids_BL.flatten()[batch.source_T], batch.target_T]
