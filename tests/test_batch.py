"""Microbatches: where a loss token's hidden state is, limits, order, weights, and independence of padding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from rl.batch import Batch, Sample, make_batches, token_weights
from rl.head import token_logprobs
from rl.policy import Policy
from rl.trajectory import SamplingMask
from tests.conftest import tiny_policy

CPU = torch.device("cpu")


def sample(length: int, *, prompt: int = 3, seed: int = 0, advantage: float = 1.0, gaps: bool = False) -> Sample:
    rng = np.random.default_rng([seed, length])
    mask = np.arange(length) >= prompt
    if gaps:
        mask[prompt + 2 : prompt + 4] = False  # forced tokens in the middle, such as a tool's result
    ids = rng.integers(7, 200, length).astype(np.int32)
    return Sample(ids, mask, np.where(mask, -rng.uniform(0, 5, length), 0).astype(np.float32), advantage)


def test_layout() -> None:
    """Row, column, target and per-token fields, worked out by hand."""
    first = Sample(
        np.array([5, 6, 7, 8, 9], np.int32),
        np.array([False, False, True, False, True]),
        np.array([0, 0, -0.5, 0, -0.25], np.float32),
        2.0,
        SamplingMask.from_rows([np.array([7, 1], np.int32), np.array([9], np.int32)]),
    )
    second = Sample(np.array([3, 4], np.int32), np.array([False, True]), np.array([0, -1], np.float32), -1.0)
    [batch] = make_batches([second, first], 100, CPU)
    assert batch.input_ids_BL.tolist() == [[5, 6, 7, 8, 9], [3, 4, 0, 0, 0]]  # longest first, right-padded
    assert batch.sequence_T.tolist() == [0, 0, 1]
    assert batch.source_T.tolist() == [1, 3, 5]
    assert batch.target_T.tolist() == [7, 9, 4]
    assert batch.sampler_logprobs_T.tolist() == [-0.5, -0.25, -1]
    assert batch.advantage_T.tolist() == [2, 2, -1]
    assert batch.weight_T.tolist() == [0.75, 0.75, 1.5]  # N / (S |o_i|), N = 3, S = 2
    assert batch.kept is not None
    assert [None if k is None else k.tolist() for k in batch.kept] == [[7, 1], [9], None]
    assert (batch.num_sequences, batch.num_loss_tokens) == (2, 3)
    assert {t.dtype for t in (batch.input_ids_BL, batch.source_T, batch.sequence_T, batch.target_T)} == {torch.int64}


def test_hidden_at_row_and_column_predicts_the_target(policy: Policy) -> None:
    """Through the real model: gathered log-probabilities equal those of a plain forward of each sample alone."""
    samples = [sample(n, seed=n, gaps=n > 8) for n in (6, 9, 17, 12)]
    [batch] = make_batches(samples, 1000, CPU)
    with torch.no_grad():
        hidden = policy.hidden_states(batch.input_ids_BL).flatten(0, 1)[batch.source_T]
        got = token_logprobs(hidden, policy.head, batch.target_T)
        expected = []
        for s in sorted(samples, key=lambda s: -len(s.token_ids)):
            logits = policy.model(input_ids=torch.from_numpy(s.token_ids[None].astype(np.int64))).logits[0].log_softmax(-1)
            expected += [logits[t - 1, int(s.token_ids[t])] for t in np.flatnonzero(s.loss_mask)]
    torch.testing.assert_close(got, torch.stack(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize("architecture", ["qwen3", "gemma2", "gpt2", "mixtral"])
def test_a_sample_scores_the_same_whatever_it_is_batched_with(architecture: str) -> None:
    config = {"gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4}, "mixtral": {"num_local_experts": 4}}.get(architecture, {})
    policy = tiny_policy(architecture, **config)
    mine = sample(9)

    def scores(batch: Batch) -> Tensor:
        with torch.no_grad():
            hidden = policy.hidden_states(batch.input_ids_BL, use_cache=False).flatten(0, 1)[batch.source_T]
            logprobs = token_logprobs(hidden, policy.head, batch.target_T)
        row = next(i for i in range(batch.num_sequences) if batch.input_ids_BL[i, :9].tolist() == mine.token_ids.tolist())
        return logprobs[batch.sequence_T == row]

    [alone] = make_batches([mine], 100, CPU)
    [together] = make_batches([mine, sample(31), sample(4), sample(20)], 1000, CPU)
    assert together.input_ids_BL.shape == (4, 31)
    torch.testing.assert_close(scores(together), scores(alone), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("limit", [1, 20, 40, 64, 10_000])
def test_limits_are_respected_and_nothing_is_lost(limit: int) -> None:
    samples = [sample(n, seed=i) for i, n in enumerate([5, 30, 8, 8, 19, 6, 5, 30, 11, 4])]
    batches = make_batches(samples, limit, CPU)
    for batch in batches:
        assert batch.input_ids_BL.numel() <= limit or batch.num_sequences == 1
    assert sum(b.num_sequences for b in batches) == len(samples)
    rows = sorted(tuple(row[row > 0].tolist()) for b in batches for row in b.input_ids_BL)
    assert rows == sorted(tuple(s.token_ids.tolist()) for s in samples)
    assert sum(b.num_loss_tokens for b in batches) == sum(s.num_loss_tokens for s in samples)
    assert (len(batches) == 1) == (limit == 10_000)


def test_order_depends_on_the_samples_alone() -> None:
    samples = [sample(n, seed=i) for i, n in enumerate([5, 8, 8, 5, 12])]

    def ids(made: Sequence[Batch]) -> list[list[list[int]]]:
        return [b.input_ids_BL.tolist() for b in made]

    assert ids(make_batches(samples, 20, CPU)) == ids(make_batches(samples, 20, CPU))
    lengths = [b.input_ids_BL.shape[1] for b in make_batches(samples, 20, CPU)]
    assert lengths == sorted(lengths, reverse=True)


def test_weights_make_the_global_mean_a_mean_of_means() -> None:
    samples = [sample(5), sample(9, seed=1), sample(23, seed=2)]
    values = [np.linspace(i, i + 1, s.num_loss_tokens) for i, s in enumerate(samples)]
    weighted = sum(w * v.sum() for w, v in zip(token_weights(samples), values, strict=True))
    assert weighted / sum(s.num_loss_tokens for s in samples) == pytest.approx(np.mean([v.mean() for v in values]))


def test_no_samples_make_no_batches() -> None:
    assert make_batches([], 100, CPU) == []
