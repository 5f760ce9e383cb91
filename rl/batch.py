"""Samples of a step laid out as microbatches: token ids, packed or right-padded, and everything the loss needs a token.

Packed: one row without padding, in which samples with the same prompt share it (`rl/packing.py`). Padded: a row a sample,
for models that packing is not exact for.

Shapes: _B rows, _L their length, _T loss tokens of the microbatch, sample after sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rl.data_parallel import ALONE, Ranks
from rl.losses.config import Aggregation
from rl.packing import Packing, lay_out, plan, prompt_key
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

    @property
    def prompt_length(self) -> int:
        """Tokens before the first loss token: what samples of a group have in common."""
        return int(self.loss_mask.argmax())


@dataclass(frozen=True)
class Batch:
    """One microbatch. The hidden state that predicts loss token t is `hidden_BLD.flatten(0, 1)[source_T[t]]`."""

    input_ids_BL: Tensor  # int64; packed: [1, N]; padded: 0 to the right, which causal attention lets no real token see
    position_ids_BL: Tensor | None  # int64, packed: from 0 again in each sample; None: counted along the row
    packing: Packing | None  # None: padded
    source_T: Tensor  # int64, the place of the token before it in `input_ids_BL.flatten()`
    sequence_T: Tensor  # int64, the index of the token's sequence inside the microbatch
    num_sequences: int
    target_T: Tensor  # int64
    sampler_logprobs_T: Tensor  # float32
    advantage_T: Tensor  # float32
    weight_T: Tensor  # float32; see token_weights
    kept: Sequence[NDArray[np.int32] | None] | None  # [T], the sampling mask's rows

    @property
    def num_loss_tokens(self) -> int:
        return int(self.target_T.shape[0])


def token_weights(
    samples: Sequence[Sample], aggregation: Aggregation = Aggregation.SEQUENCES, max_tokens: int | None = None
) -> list[float]:
    """Each sample's weight per token, such that a weighted sum over all loss tokens divided by their number is the mean wanted.

    The trainer divides a sum by the global number N of loss tokens, so a token of sequence i weighs N / (S |o_i|) for a mean
    over tokens and then over the S sequences, 1 for a mean over tokens, and N / (S max_tokens) for the `max_tokens` budget.
    """
    total = sum(s.num_loss_tokens for s in samples)
    match aggregation:
        case Aggregation.SEQUENCES:
            return [total / (len(samples) * s.num_loss_tokens) for s in samples]
        case Aggregation.TOKENS:
            return [1.0] * len(samples)
        case Aggregation.BUDGET:
            assert max_tokens is not None, "the budget aggregation needs max_tokens"
            return [total / (len(samples) * max_tokens)] * len(samples)


def make_batches(
    samples: Sequence[Sample],
    microbatch_tokens: int,
    device: torch.device,
    aggregation: Aggregation = Aggregation.SEQUENCES,
    max_tokens: int | None = None,
    *,
    packed: bool = False,
    ranks: Ranks = ALONE,
) -> list[Batch]:
    """Splits a step's samples into microbatches of at most `microbatch_tokens`, similar lengths together.

    With several ranks each gets its share of the microbatches, cut smaller so that there is one for each as far as there
    are samples. Weights are those of the whole step, so the ranks' gradients add up to the step's.

    The limit counts what the model computes: packed, each token once, a prompt once a microbatch; padded, padding too.
    A single sample longer than the limit gets a microbatch of its own. The order depends on the samples alone.
    """
    weights = token_weights(samples, aggregation, max_tokens)
    pairs = sorted(zip(samples, weights, strict=True), key=lambda pair: -len(pair[0].token_ids))
    if packed:
        groups: dict[bytes, list[tuple[Sample, float]]] = {}
        for pair in pairs:
            groups.setdefault(_key(pair[0]), []).append(pair)
        pairs = [pair for group in groups.values() for pair in group]
    if ranks.size > 1:
        microbatch_tokens = min(microbatch_tokens, -(-sum(len(s.token_ids) for s in samples) // ranks.size))
    cuts = list(_cut(pairs, microbatch_tokens, packed=packed))
    return [_batch(rows, device, packed=packed) for rows in cuts[ranks.rank :: ranks.size]]


def _key(sample: Sample) -> bytes:
    return prompt_key(sample.token_ids, sample.prompt_length)


def _cut(
    pairs: Sequence[tuple[Sample, float]], microbatch_tokens: int, *, packed: bool
) -> Iterator[list[tuple[Sample, float]]]:
    """Runs of consecutive samples that stay within the limit."""
    rows, prompts, num_tokens = list[tuple[Sample, float]](), set[bytes](), 0
    for sample, weight in pairs:
        key, length = _key(sample), len(sample.token_ids)
        if packed:
            total = num_tokens + length - (sample.prompt_length if key in prompts else 0)
        else:
            total = (len(rows) + 1) * max([length, *(len(rows[0][0].token_ids) for _ in rows[:1])])
        if rows and total > microbatch_tokens:
            yield rows
            rows, prompts, total = [], set(), length
        rows.append((sample, weight))
        prompts.add(key)
        num_tokens = total
    if rows:
        yield rows


def _batch(rows: Sequence[tuple[Sample, float]], device: torch.device, *, packed: bool) -> Batch:
    samples = [sample for sample, _ in rows]
    counts = [s.num_loss_tokens for s in samples]
    packing, position_ids = None, None
    if packed:
        row = lay_out([s.token_ids for s in samples], [s.prompt_length for s in samples])
        input_ids, position_ids, places = row.token_ids_N[None], row.position_ids_N[None], row.places
        packing = plan(row, device)
    else:
        input_ids = np.zeros((len(rows), max(len(s.token_ids) for s in samples)), np.int64)
        places = [i * input_ids.shape[1] + np.arange(len(s.token_ids)) for i, s in enumerate(samples)]
        for sample, place in zip(samples, places, strict=True):
            input_ids.ravel()[place] = sample.token_ids
    kept = list[NDArray[np.int32] | None]()
    for sample, count in zip(samples, counts, strict=True):
        kept.extend(sample.sampling_mask.rows() if sample.sampling_mask is not None else [None] * count)

    def floats(values: Sequence[float] | NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(np.asarray(values, np.float32)).to(device)

    def ints(values: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(values).to(device)

    return Batch(
        input_ids_BL=ints(input_ids),
        position_ids_BL=None if position_ids is None else ints(position_ids),
        packing=packing,
        source_T=ints(np.concatenate([p[np.flatnonzero(s.loss_mask) - 1] for s, p in zip(samples, places, strict=True)])),
        sequence_T=ints(np.repeat(np.arange(len(rows)), counts)),
        num_sequences=len(rows),
        target_T=ints(np.concatenate([s.token_ids[s.loss_mask] for s in samples]).astype(np.int64)),
        sampler_logprobs_T=floats(np.concatenate([s.sampler_logprobs[s.loss_mask] for s in samples])),
        advantage_T=floats(np.repeat([s.advantage for s in samples], counts)),
        weight_T=floats(np.repeat([weight for _, weight in rows], counts)),
        kept=kept if any(k is not None for k in kept) else None,
    )
