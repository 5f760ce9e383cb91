"""The form of every loss: hidden states and head in, a sum over loss tokens out; the trainer divides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from rl.batch import Batch
from rl.head import Head


@dataclass(frozen=True)
class LossResult:
    """`total` is differentiable; `sums` are plain numbers. Both are sums over the microbatch's loss tokens."""

    total: Tensor
    sums: Mapping[str, float]
    sampler_gap_T: Tensor  # float32, |log pi - log pi_sampler| of every loss token, masked ones included; no gradient


class LossFn(Protocol):
    def __call__(self, hidden_TD: Tensor, head: Head, batch: Batch, reference_logprobs_T: Tensor | None) -> LossResult: ...
