"""Drawing tokens from logits: temperature, top-k, top-p, greedy; one uniform number a token; rows are independent.

Shapes: _B rows, _V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rl.config import SamplingConfig
from rl.engine.protocol import GenerateRequest
from rl.rng import uniforms

BLOCK = 64  # tokens whose probabilities are summed first


@dataclass(frozen=True)
class Draws:
    token_ids: NDArray[np.int32]  # [B]
    logprobs: NDArray[np.float32]  # [B], of the distribution sampled from (after temperature, top-k and top-p)
    kept: list[NDArray[np.int32] | None]  # [B], the ids that top-k and top-p left; None where nothing was cut


def draw_next(logits_BV: Tensor, requests: Sequence[GenerateRequest], positions: Sequence[int]) -> Draws:
    """A draw for the token at `positions[i]` of each request, by the random number that belongs to it."""
    places = np.array(positions, np.uint64)
    keys = np.array([r.rollout_key for r in requests], np.uint64)
    seeds = np.array([r.seed_key for r in requests], np.uint64)
    uniforms_B = np.zeros(len(requests))
    for seed in np.unique(seeds).tolist():
        mine = seeds == seed
        uniforms_B[mine] = uniforms(seed, keys[mine], places[mine])
    return draw(logits_BV, [r.sampling for r in requests], uniforms_B)


def draw(logits_BV: Tensor, sampling: Sequence[SamplingConfig], uniforms_B: NDArray[np.float64]) -> Draws:
    """Inverse-CDF sampling: the first token whose cumulative probability exceeds the row's uniform number.

    Cuts follow transformers' order: temperature, then top-k, then top-p (the smallest set that reaches top_p). Greedy rows
    take the largest logit and report its log-probability at temperature 1.
    """
    logits_BV = logits_BV.float()
    temperatures = [s.temperature for s in sampling]
    if any(t not in (0.0, 1.0) for t in temperatures):
        logits_BV = logits_BV / torch.tensor([t or 1.0 for t in temperatures], device=logits_BV.device)[:, None]
    cut_rows = [i for i, s in enumerate(sampling) if s.temperature > 0 and (s.top_p < 1 or s.top_k > 0)]
    kept: list[NDArray[np.int32] | None] = [None] * len(sampling)
    if cut_rows:
        logits_BV = logits_BV.clone()
        allowed = _allowed(logits_BV[cut_rows], [sampling[i] for i in cut_rows])
        logits_BV[cut_rows] = logits_BV[cut_rows].masked_fill(~allowed, float("-inf"))
        for row, mask in zip(cut_rows, allowed.cpu().numpy(), strict=True):
            kept[row] = np.flatnonzero(mask).astype(np.int32)
    logprobs_BV = torch.log_softmax(logits_BV, dim=-1)
    token_B = _first_beyond(logprobs_BV.exp(), torch.from_numpy(uniforms_B).to(logprobs_BV.device))
    greedy = torch.tensor([t == 0 for t in temperatures], device=token_B.device)
    if bool(greedy.any()):
        token_B = torch.where(greedy, logits_BV.argmax(dim=-1), token_B)
    logprob_B = logprobs_BV.gather(-1, token_B[:, None]).squeeze(-1)
    return Draws(token_B.cpu().numpy().astype(np.int32), logprob_B.cpu().numpy(), kept)


def _first_beyond(probs_BV: Tensor, uniforms_B: Tensor) -> Tensor:
    """The first token whose cumulative probability, as a share of the row's sum, exceeds the uniform number; int64 [B].

    The block of tokens first, then the token in it: a running sum over all of them costs ten times as much. Sums are float64.
    """
    rows = len(probs_BV)
    blocks = torch.nn.functional.pad(probs_BV, (0, -probs_BV.shape[-1] % BLOCK)).view(rows, -1, BLOCK)
    ends = blocks.sum(dim=-1, dtype=torch.float64).cumsum(dim=-1)
    threshold = uniforms_B[:, None] * ends[:, -1:]
    block = torch.searchsorted(ends, threshold, right=True)
    before = torch.where(block > 0, ends.gather(-1, (block - 1).clamp_(min=0)), 0.0)
    inside = blocks[torch.arange(rows, device=block.device), block[:, 0]].cumsum(dim=-1, dtype=torch.float64)
    token = torch.searchsorted(inside, threshold - before, right=True)
    last = torch.searchsorted(
        inside, inside[:, -1:].contiguous()
    )  # of positive probability, where rounding would go past the block
    return (block * BLOCK + torch.minimum(token, last)).squeeze(-1)


def _allowed(logits_BV: Tensor, sampling: Sequence[SamplingConfig]) -> Tensor:
    """Boolean [B, V]: what top-k, then top-p, keep of each row. Ties are cut by token id, so a row is always the same."""
    ordered, index = logits_BV.sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(logits_BV.shape[-1], device=logits_BV.device)
    top_k = torch.tensor([s.top_k or logits_BV.shape[-1] for s in sampling], device=logits_BV.device)[:, None]
    ordered = ordered.masked_fill(rank >= top_k, float("-inf"))
    probability = ordered.softmax(dim=-1)
    before = probability.cumsum(dim=-1) - probability
    top_p = torch.tensor([s.top_p for s in sampling], device=logits_BV.device)[:, None]
    keep_sorted = (rank < top_k) & ((before < top_p) | (top_p >= 1))
    return torch.zeros_like(keep_sorted).scatter(-1, index, keep_sorted)
