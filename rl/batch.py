"""Samples of a step laid out as microbatches: right-padded token ids and, flat, everything the loss needs a token.

Shapes: _B rows, _L padded length, _T loss tokens of the microbatch (in row order).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rl.trajectory import SamplingMask, Trajectory


@dataclass(frozen=True)
class Sample:
    """One trajectory with its advantage, reduced to what training reads. Arrays are [T], prompt included."""

    token_ids: NDArray[np.int32]
    loss_mask: NDArray[np.bool_]
    sampler_logprobs: NDArray[np.float32]
    advantage: float
    sampling_mask: SamplingMask | None = None

    @classmethod
    def from_trajectory(cls, trajectory: Trajectory, advantage: float) -> Sample:
        t = trajectory
        return cls(t.token_ids, t.loss_mask, t.sampler_logprobs, advantage, t.sampling_mask)

    @property
    def num_loss_tokens(self) -> int:
        return int(self.loss_mask.sum())


@dataclass(frozen=True)
class Batch:
    """One microbatch. The hidden state that predicts loss token t is `hidden_BLD[sequence_T[t], column_T[t]]`."""

    input_ids_BL: Tensor  # int64, right-padded with 0; causal attention never lets a real token see the padding
    sequence_T: Tensor  # int64, the index of the token's sequence inside the microbatch; here also its row
    column_T: Tensor  # int64, the position before the token
    target_T: Tensor  # int64
    sampler_logprobs_T: Tensor  # float32
    advantage_T: Tensor  # float32
    weight_T: Tensor  # float32; see token_weights
    kept: Sequence[NDArray[np.int32] | None] | None  # [T], the sampling mask's rows

    @property
    def num_sequences(self) -> int:
        return int(self.input_ids_BL.shape[0])

    @property
    def num_loss_tokens(self) -> int:
        return int(self.target_T.shape[0])


def token_weights(samples: Sequence[Sample]) -> list[float]:
    """Each sample's weight per token, such that a weighted sum over all loss tokens divided by their number is GRPO's mean.

    GRPO averages over a sequence's tokens, then over sequences: 1/S sum_i 1/|o_i| sum_t. The trainer divides a sum by the
    global number N of loss tokens, so token t of sequence i weighs N / (S |o_i|).
    """
    total = sum(s.num_loss_tokens for s in samples)
    return [total / (len(samples) * s.num_loss_tokens) for s in samples]


def make_batches(samples: Sequence[Sample], microbatch_tokens: int, device: torch.device) -> list[Batch]:
    """Splits a step's samples into microbatches of at most `microbatch_tokens` padded tokens, similar lengths together.

    A single sample longer than the limit gets a microbatch of its own. The order depends on the samples alone.
    """
    weighted = sorted(zip(samples, token_weights(samples), strict=True), key=lambda pair: -len(pair[0].token_ids))
    batches, rows = [], list[tuple[Sample, float]]()
    for pair in weighted:
        longest = len(rows[0][0].token_ids) if rows else 0
        if rows and longest * (len(rows) + 1) > microbatch_tokens:
            batches.append(_batch(rows, device))
            rows = []
        rows.append(pair)
    return [*batches, _batch(rows, device)] if rows else batches


def _batch(rows: Sequence[tuple[Sample, float]], device: torch.device) -> Batch:
    longest = max(len(s.token_ids) for s, _ in rows)
    input_ids = np.zeros((len(rows), longest), np.int64)
    row_index, column, kept = list[NDArray[np.int64]](), list[NDArray[np.int64]](), list[NDArray[np.int32] | None]()
    for i, (sample, _) in enumerate(rows):
        input_ids[i, : len(sample.token_ids)] = sample.token_ids
        places = np.flatnonzero(sample.loss_mask)
        row_index.append(np.full(len(places), i))
        column.append(places - 1)
        kept.extend(sample.sampling_mask.rows() if sample.sampling_mask is not None else [None] * len(places))
    counts = [s.num_loss_tokens for s, _ in rows]

    def floats(values: Sequence[float] | NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(np.asarray(values, np.float32)).to(device)

    def ints(values: Sequence[NDArray[np.int64]]) -> Tensor:
        return torch.from_numpy(np.concatenate(values)).to(device)

    return Batch(
        input_ids_BL=torch.from_numpy(input_ids).to(device),
        sequence_T=ints(row_index),
        column_T=ints(column),
        target_T=ints([s.token_ids[s.loss_mask].astype(np.int64) for s, _ in rows]),
        sampler_logprobs_T=floats(np.concatenate([s.sampler_logprobs[s.loss_mask] for s, _ in rows])),
        advantage_T=floats(np.repeat([s.advantage for s, _ in rows], counts)),
        weight_T=floats(np.repeat([w for _, w in rows], counts)),
        kept=kept if any(k is not None for k in kept) else None,
    )
