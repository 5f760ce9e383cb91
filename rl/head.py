"""The vocabulary projection, and log-probabilities and entropies through it, in chunks of tokens.

The model returns hidden states; a loss owns this projection. GRPO, evaluation and distillation all come through here.
Gradients are formed by hand, chunk by chunk, so no [tokens, vocabulary] tensor outlives its chunk.

Shapes: _T tokens, _D hidden, _V vocabulary, _C tokens of one chunk, _R rows of a chunk that are worked on together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_BYTES = 64 * 2**20  # of one chunk's float32 logits
BLOCK_BYTES = 2**19  # of logits that row-wise work goes over at a time, so that they stay in a core's cache
CUT = -1e30  # the logit of a token that sampling had cut: finite, because 0 * -inf is not 0

Kept: TypeAlias = Sequence[NDArray[np.int32] | None]


@dataclass(frozen=True)
class Head:
    """logits = softcap(scale * (hidden @ weight.T + bias)); `softcap` and `scale` are 1-to-1 with the config's fields."""

    weight_VD: Tensor
    bias_V: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    def logits(self, hidden_TD: Tensor) -> Tensor:
        """Logits [T, V] of float hidden states [T, D], float32 (float64 for float64 hidden states).

        Never under autocast, which would round them to bfloat16.
        """
        dtype = _precision(hidden_TD)
        with torch.autocast(hidden_TD.device.type, enabled=False):
            bias = None if self.bias_V is None else self.bias_V.to(dtype)
            logits = torch.nn.functional.linear(hidden_TD.to(dtype), self.weight_VD.to(dtype), bias)
        if self.scale != 1.0:
            logits.mul_(self.scale)
        if self.softcap is not None:
            logits.div_(self.softcap).tanh_()
            logits = logits * self.softcap if logits.requires_grad else logits.mul_(self.softcap)
        return logits


@dataclass(frozen=True)
class TokenScores:
    """What a distribution over the vocabulary says of each token; both differentiable."""

    logprobs_T: Tensor  # float32, log p(target)
    entropy_T: Tensor  # float32, -sum p log p, in nats


def chunk_size(vocab_size: int) -> int:
    """Tokens whose float32 logits fit in CHUNK_BYTES."""
    return max(16, CHUNK_BYTES // (4 * vocab_size))


def token_scores(
    hidden_TD: Tensor,
    head: Head,
    target_T: Tensor,
    *,
    temperature: float = 1.0,
    kept: Kept | None = None,
) -> TokenScores:
    """log p(target) and the entropy for each token, under softmax(logits / temperature) restricted to `kept`.

    Differentiable once in the hidden states, the head's weight and its bias. Where all tokens fit in one chunk its logits
    are kept for the backward pass (three products of the vocabulary's size); otherwise each chunk's are computed again
    (four), and memory is one chunk's whatever T is. Tokens are cut into chunks by their place alone.

    hidden_TD: float [T, D]; target_T: int64 [T]; kept: per token the ids that sampling could have drawn (it must contain
    the target), None for no restriction. Greedy sampling (temperature 0) is scored at temperature 1.
    """
    inverse_temperature = 1.0 / temperature if temperature > 0 else 1.0
    how = _How(head.scale, head.softcap, inverse_temperature, kept)
    return TokenScores(*_Scores.apply(hidden_TD, head.weight_VD, head.bias_V, target_T, how))  # type: ignore[no-untyped-call]


def token_logprobs(
    hidden_TD: Tensor,
    head: Head,
    target_T: Tensor,
    *,
    temperature: float = 1.0,
    kept: Kept | None = None,
) -> Tensor:
    """`token_scores` for those who need the log-probabilities alone; float32 [T]."""
    return token_scores(hidden_TD, head, target_T, temperature=temperature, kept=kept).logprobs_T


@dataclass(frozen=True)
class _How:
    """Everything about the distribution that carries no gradient."""

    scale: float
    softcap: float | None
    inverse_temperature: float
    kept: Kept | None

    def logits(self, hidden_CD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, start: int) -> Tensor:
        """Logits [C, V] of the tokens from `start` on, as sampling saw them: after temperature and cuts."""
        logits_CV = Head(weight_VD, bias_V, self.scale, self.softcap).logits(hidden_CD)
        if self.inverse_temperature != 1.0:
            logits_CV.mul_(self.inverse_temperature)
        if self.kept is not None:
            _cut(logits_CV, self.kept[start : start + len(logits_CV)])
        return logits_CV

    def through_logits(self, grad_RV: Tensor, logits_RV: Tensor) -> None:
        """Turns, in place, the gradient in `logits` into the gradient in hidden @ weight.T + bias."""
        factor = self.scale * self.inverse_temperature
        if self.softcap is not None:  # d tanh(x) = 1 - tanh(x)^2; a cut logit's gradient is 0 whatever it is multiplied with
            tanh_RV = (logits_RV / (self.softcap * self.inverse_temperature)).clamp_(-1, 1)
            grad_RV.mul_(1 - tanh_RV.square_())
        if factor != 1.0:
            grad_RV.mul_(factor)


class _Scores(torch.autograd.Function):
    """(log-probabilities, entropies) of `token_scores`.

    With p = softmax(z), H its entropy, a and b the gradients in log p(target) and H:
        dz = a (onehot(target) - p) - b p (log p + H)
    """

    @staticmethod
    def forward(
        ctx: Any, hidden_TD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, target_T: Tensor, how: _How
    ) -> tuple[Tensor, Tensor]:
        logprobs_T, normalizer_T, entropy_T = hidden_TD.new_empty(3, len(hidden_TD), dtype=_precision(hidden_TD)).unbind()
        logits_CV = None
        for chunk in _chunks(len(hidden_TD), weight_VD.shape[0]):
            logits_CV = how.logits(hidden_TD[chunk], weight_VD, bias_V, chunk.start)
            logprobs_T[chunk] = logits_CV.gather(-1, target_T[chunk, None]).squeeze(-1)
            normalizer_C, entropy_C = normalizer_T[chunk], entropy_T[chunk]
            for rows in _row_blocks(logits_CV):
                logits_RV = logits_CV[rows]
                top_R = logits_RV.amax(-1, keepdim=True)
                weight_RV = (logits_RV - top_R).exp_()
                sum_R = weight_RV.sum(-1)
                normalizer_C[rows] = top_R.squeeze(-1) + sum_R.log()
                entropy_C[rows] = normalizer_C[rows] - torch.linalg.vecdot(weight_RV, logits_RV) / sum_R
        logprobs_T -= normalizer_T
        one_chunk = len(hidden_TD) <= chunk_size(weight_VD.shape[0])
        ctx.save_for_backward(hidden_TD, weight_VD, bias_V, target_T, normalizer_T, entropy_T, logits_CV if one_chunk else None)
        ctx.how = how
        ctx.set_materialize_grads(False)
        return logprobs_T, entropy_T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logprobs_T: Tensor | None, grad_entropy_T: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad_logprobs_T is None and grad_entropy_T is None:
            return (None,) * 5
        hidden_TD, weight_VD, bias_V, target_T, normalizer_T, entropy_T, kept_logits = ctx.saved_tensors
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        dtype = _precision(hidden_TD)
        d_hidden = torch.empty_like(hidden_TD) if wants_hidden else None
        d_weight = torch.zeros_like(weight_VD, dtype=dtype) if wants_weight else None
        d_bias = torch.zeros_like(bias_V, dtype=dtype) if wants_bias else None
        with torch.autocast(hidden_TD.device.type, enabled=False):
            for chunk in _chunks(len(hidden_TD), weight_VD.shape[0]):
                logits_CV = kept_logits
                if logits_CV is None:
                    logits_CV = ctx.how.logits(hidden_TD[chunk], weight_VD, bias_V, chunk.start)
                grad_CV = torch.empty_like(logits_CV) if kept_logits is not None else logits_CV
                for rows in _row_blocks(logits_CV):
                    places = slice(chunk.start + rows.start, chunk.start + rows.stop)
                    a_R, b_R = (None if g is None else g[places] for g in (grad_logprobs_T, grad_entropy_T))
                    statistics = target_T[places], normalizer_T[places], entropy_T[places]
                    grad_CV[rows] = _grad_logits(ctx.how, logits_CV[rows], *statistics, a_R, b_R)
                if d_hidden is not None:
                    d_hidden[chunk] = grad_CV @ weight_VD.to(dtype)
                if d_weight is not None:
                    d_weight.addmm_(grad_CV.T, hidden_TD[chunk].to(dtype))
                if d_bias is not None:
                    d_bias += grad_CV.sum(0)
        return (
            d_hidden,
            None if d_weight is None else d_weight.to(weight_VD.dtype),
            None if d_bias is None else d_bias.to(bias_V.dtype),
            None,
            None,
        )


def _grad_logits(
    how: _How,
    logits_RV: Tensor,
    target_R: Tensor,
    normalizer_R: Tensor,
    entropy_R: Tensor,
    a_R: Tensor | None,
    b_R: Tensor | None,
) -> Tensor:
    """The gradient in hidden @ weight.T + bias of some rows, [R, V]; a and b as in `_Scores`, None where nobody asked."""
    grad_RV = logits_RV - normalizer_R[:, None]
    if b_R is None:
        assert a_R is not None, "backward is called for a gradient in one of the two"
        grad_RV.exp_().mul_(-a_R[:, None])
    else:
        factor_RV = (grad_RV + entropy_R[:, None]).mul_(b_R[:, None])
        if a_R is not None:
            factor_RV += a_R[:, None]
        grad_RV.exp_().mul_(factor_RV).neg_()
    if a_R is not None:
        grad_RV.scatter_add_(-1, target_R[:, None], a_R[:, None])
    how.through_logits(grad_RV, logits_RV)
    return grad_RV


def _precision(hidden: Tensor) -> torch.dtype:
    return torch.promote_types(hidden.dtype, torch.float32)


def _chunks(num_tokens: int, vocab_size: int) -> Iterator[slice]:
    size = chunk_size(vocab_size)
    return (slice(start, min(start + size, num_tokens)) for start in range(0, num_tokens, size))


def _row_blocks(logits_CV: Tensor) -> Iterator[slice]:
    """Rows of a chunk in pieces of BLOCK_BYTES on a CPU; all at once elsewhere."""
    count, row_bytes = len(logits_CV), logits_CV.shape[1] * logits_CV.element_size()
    size = max(1, BLOCK_BYTES // row_bytes) if logits_CV.device.type == "cpu" else count
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def _cut(logits_CV: Tensor, kept: Kept) -> None:
    """Sets, in place, the logits that sampling had cut to CUT; rows whose entry is None were not cut."""
    rows = [row for row, ids in enumerate(kept) if ids is not None]
    if not rows:
        return
    ids = [ids for ids in kept if ids is not None]
    row_index = torch.from_numpy(np.repeat(rows, [len(i) for i in ids])).to(logits_CV.device)
    column_index = torch.from_numpy(np.concatenate(ids).astype(np.int64)).to(logits_CV.device)
    allowed = logits_CV[row_index, column_index]
    logits_CV[rows] = CUT
    logits_CV[row_index, column_index] = allowed
