"""The vocabulary projection, and log-probabilities through it in chunks, so that no [tokens, vocabulary] tensor is kept.

The model returns hidden states; a loss owns this projection. GRPO, evaluation and distillation all come through here.

Shapes: _T tokens, _D hidden, _V vocabulary, _C tokens of one chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CHUNK_BYTES = 64 * 2**20  # of one chunk's float32 logits


@dataclass(frozen=True)
class Head:
    """logits = softcap(scale * (hidden @ weight.T + bias)); `softcap` and `scale` are 1-to-1 with the config's fields."""

    weight_VD: Tensor
    bias_V: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    def logits(self, hidden_TD: Tensor) -> Tensor:
        """float32 logits [T, V] of float hidden states [T, D]; never under autocast, which would round them to bfloat16."""
        with torch.autocast(hidden_TD.device.type, enabled=False):
            bias = None if self.bias_V is None else self.bias_V.float()
            logits = torch.nn.functional.linear(hidden_TD.float(), self.weight_VD.float(), bias)
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits


def chunk_size(vocab_size: int) -> int:
    """Tokens whose float32 logits fit in CHUNK_BYTES."""
    return max(16, CHUNK_BYTES // (4 * vocab_size))


def _restrict(logits_CV: Tensor, kept: Sequence[NDArray[np.int32] | None]) -> Tensor:
    """Sets the logits that sampling had cut to -inf; rows whose entry is None were not cut."""
    cut = [(row, ids) for row, ids in enumerate(kept) if ids is not None]
    if not cut:
        return logits_CV
    rows = np.repeat([row for row, _ in cut], [len(ids) for _, ids in cut])
    columns = np.concatenate([ids for _, ids in cut]).astype(np.int64)
    allowed = torch.ones_like(logits_CV, dtype=torch.bool)
    allowed[[row for row, _ in cut]] = False
    allowed[torch.from_numpy(rows), torch.from_numpy(columns)] = True
    return logits_CV.masked_fill(~allowed, float("-inf"))


def token_logprobs(
    hidden_TD: Tensor,
    head: Head,
    target_T: Tensor,
    *,
    temperature: float = 1.0,
    kept: Sequence[NDArray[np.int32] | None] | None = None,
) -> Tensor:
    """log p(target) for each token, float32 [T], under softmax(logits / temperature) restricted to `kept`.

    Differentiable in the hidden states and the head. Each chunk's logits are rebuilt in the backward pass (activation
    checkpointing), so memory is one chunk's whatever T is.

    hidden_TD: float [T, D]; target_T: int64 [T]; kept: per token the ids that sampling could have drawn (it must contain
    the target), None for no restriction. Greedy sampling (temperature 0) is scored at temperature 1.
    """
    inverse_temperature = 1.0 / temperature if temperature > 0 else 1.0

    def one_chunk(
        hidden_CD: Tensor, weight_VD: Tensor, target_C: Tensor, rows: Sequence[NDArray[np.int32] | None] | None
    ) -> Tensor:
        logits = Head(weight_VD, head.bias_V, head.scale, head.softcap).logits(hidden_CD) * inverse_temperature
        if rows is not None:
            logits = _restrict(logits, rows)
        return logits.gather(-1, target_C[:, None]).squeeze(-1) - torch.logsumexp(logits, dim=-1)

    size = chunk_size(head.weight_VD.shape[0])
    parts = []
    for start in range(0, hidden_TD.shape[0], size):
        end = start + size
        arguments = (
            hidden_TD[start:end],
            head.weight_VD,
            target_T[start:end],
            None if kept is None else kept[start:end],
        )
        parts.append(torch.utils.checkpoint.checkpoint(one_chunk, *arguments, use_reentrant=False))
    return torch.cat(parts) if parts else hidden_TD.new_zeros(0, dtype=torch.float32)
