"""GRPO against a plain float64 loop over tokens, its gradients, and what the trainer's division makes of the sum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from rl.batch import Batch, Sample, make_batches
from rl.head import Head
from rl.losses.grpo import GrpoLoss, corrected_k3
from rl.trajectory import SamplingMask

D, V = 6, 11
CPU = torch.device("cpu")


def samples_of(lengths: Sequence[int], advantages: Sequence[float], *, masked: bool = False, seed: int = 0) -> list[Sample]:
    """Samples with a prompt of three tokens, the given numbers of loss tokens, and made-up sampler log-probabilities."""
    rng = np.random.default_rng(seed)
    made = []
    for length, advantage in zip(lengths, advantages, strict=True):
        ids = rng.integers(0, V, 3 + length).astype(np.int32)
        mask = np.arange(3 + length) >= 3
        logprobs = np.where(mask, rng.uniform(-3.2, -1.6, 3 + length), 0).astype(np.float32)
        rows = [np.unique([t, *rng.integers(0, V, 5)]).astype(np.int32) for t in ids[3:]]
        made.append(Sample(ids, mask, logprobs, advantage, SamplingMask.from_rows(rows) if masked else None))
    return made


def reference_loss(
    hidden: Tensor, weight: Tensor, batch: Batch, samples: Sequence[Sample], loss: GrpoLoss, reference: Tensor | None
) -> Tensor:
    """-J with the mean over sequences of the mean over tokens, written from the published formulas, in float64."""
    total, start = hidden.new_zeros(()), 0
    for i in range(batch.num_sequences):
        [sample] = [s for s in samples if np.array_equal(s.token_ids, batch.input_ids_BL[i, : len(s.token_ids)].numpy())]
        old = torch.from_numpy(sample.sampler_logprobs[sample.loss_mask]).double()
        places, advantage = range(start, start + len(old)), sample.advantage
        start += len(old)
        logprobs = []
        for t, place in enumerate(places):
            logits = (weight @ hidden[place]) / loss.temperature
            target = int(sample.token_ids[sample.loss_mask][t])
            kept = range(V) if sample.sampling_mask is None else sample.sampling_mask.row(t).tolist()
            logprobs.append(logits[target] - torch.log(sum(torch.exp(logits[v]) for v in kept)))  # type: ignore[arg-type]
        drift = sum(float(o - p.detach()) for o, p in zip(old, logprobs, strict=True)) / len(old)
        threshold = loss.off_policy_threshold
        mask = 0.0 if threshold is not None and advantage < 0 and drift > threshold else 1.0
        sequence = hidden.new_zeros(())
        for t, (logprob, place) in enumerate(zip(logprobs, places, strict=True)):
            ratio = torch.exp(logprob - old[t])
            clipped = torch.clamp(ratio, 1 - loss.clip, 1 + loss.clip)
            sequence = sequence + torch.min(ratio * advantage, clipped * advantage) * mask
            if reference is not None:
                r = torch.exp(reference[place].double() - logprob)
                sequence = sequence - loss.kl_coef * ratio * (r - torch.log(r) - 1)
        total = total + sequence / len(old)
    return -total / batch.num_sequences


@pytest.mark.parametrize("masked", [False, True], ids=["full", "sampling-mask"])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("kl_coef", [0.0, 0.3])
@pytest.mark.parametrize("threshold", [None, 0.05])
def test_grpo_and_its_gradients_equal_the_written_formula(
    masked: bool, temperature: float, kl_coef: float, threshold: float | None
) -> None:
    samples = samples_of([4, 7, 2, 5], [0.8, -0.6, -0.9, 0.7], masked=masked)
    loss = GrpoLoss(clip=0.2, kl_coef=kl_coef, off_policy_threshold=threshold, temperature=temperature)
    [batch] = make_batches(samples, 1000, CPU)
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(batch.num_loss_tokens, D, generator=generator)
    weight = 0.4 * torch.randn(V, D, generator=generator)
    reference = torch.rand(batch.num_loss_tokens, generator=generator) - 2.5 if kl_coef else None

    mine = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    result = loss(mine[0], Head(mine[1]), batch, reference)
    (result.total / batch.num_loss_tokens).backward()
    plain = hidden.double().requires_grad_(), weight.double().requires_grad_()
    expected = reference_loss(plain[0], plain[1], batch, samples, loss, reference)
    expected.backward()

    assert float(result.total.detach()) / batch.num_loss_tokens == pytest.approx(float(expected.detach()), abs=1e-6)
    for got, want in zip(mine, plain, strict=True):
        assert got.grad is not None
        assert want.grad is not None
        assert float(want.grad.abs().max()) > 1e-3
        torch.testing.assert_close(got.grad.double(), want.grad, atol=2e-6, rtol=1e-5)
    assert 0 < result.sums["clipped_share"] < batch.num_loss_tokens  # the case has tokens on both sides of the clip
    assert ("kl" in result.sums) == (kl_coef > 0)


def one_token(advantage: float, ratio: float, **changes: float | None) -> tuple[float, float, float]:
    """(loss, size of its gradient, share masked) of one token whose pi / pi_old is `ratio`."""
    loss = replace(GrpoLoss(clip=0.2, kl_coef=0.0, off_policy_threshold=None, temperature=1.0), **changes)  # type: ignore[arg-type]
    hidden, weight = torch.ones(1, D, requires_grad=True), torch.linspace(-0.4, 0.4, V * D).reshape(V, D)
    logprob = float(torch.log_softmax(hidden.detach() @ weight.T, -1)[0, 5])
    old = np.array([0, logprob - math.log(ratio)], np.float32)
    [batch] = make_batches([Sample(np.array([1, 5], np.int32), np.array([False, True]), old, advantage)], 9, CPU)
    result = loss(hidden, Head(weight), batch, None)
    result.total.backward()
    assert hidden.grad is not None
    return float(result.total.detach()), float(hidden.grad.norm()), result.sums["masked_share"]


@pytest.mark.parametrize(
    ("advantage", "ratio", "loss", "has_gradient"),
    [
        (1.0, 1.1, -1.1, True),  # inside the clip
        (1.0, 1.3, -1.2, False),  # a good token that is likely enough already: clipped
        (1.0, 0.5, -0.5, True),  # a good token that has become unlikely: never clipped
        (-1.0, 0.5, 0.8, False),  # a bad token that is unlikely enough already: clipped
        (-1.0, 1.3, 1.3, True),  # a bad token that has become likely: never clipped
        (-1.0, 0.9, 0.9, True),
    ],
)
def test_both_sides_of_the_clip(advantage: float, ratio: float, loss: float, has_gradient: bool) -> None:
    got, gradient, _ = one_token(advantage, ratio)
    assert got == pytest.approx(loss, abs=1e-5)
    assert (gradient > 1e-4) == has_gradient


def test_sequence_mask_at_its_threshold() -> None:
    """M is 0 only where the advantage is negative and mean log(pi_old / pi) is above delta."""
    wide = {"clip": 10.0}
    ratio = math.exp(-0.5)  # the policy moved away: log(pi_old / pi) = 0.5
    assert one_token(-1.0, ratio, off_policy_threshold=0.499, **wide)[1:] == (0.0, 1.0)
    assert one_token(-1.0, ratio, off_policy_threshold=0.501, **wide)[1] > 1e-4
    assert one_token(-1.0, ratio, off_policy_threshold=None, **wide)[1] > 1e-4
    assert one_token(1.0, ratio, off_policy_threshold=0.1, **wide)[1] > 1e-4
    assert one_token(-1.0, 1 / ratio, off_policy_threshold=0.1, **wide)[1] > 1e-4


def test_sequence_mask_takes_the_mean_of_the_whole_sequence() -> None:
    """One far token does not mask a sequence whose mean is near, and a masked sequence loses all of its tokens."""
    loss = GrpoLoss(clip=0.2, kl_coef=0.0, off_policy_threshold=0.5, temperature=1.0)
    hidden, head = torch.zeros(8, D), Head(torch.zeros(V, D))  # pi is 1/V everywhere
    uniform = -math.log(V)

    def masked(drifts: Sequence[float]) -> float:
        old = np.array([0, *(uniform + d for d in drifts), 0, 0, 0][: 1 + len(drifts)], np.float32)
        sample = Sample(np.arange(1 + len(drifts)).astype(np.int32), np.arange(1 + len(drifts)) > 0, old, -1.0)
        other = replace(sample, token_ids=sample.token_ids + 1, sampler_logprobs=np.full_like(old, uniform))
        [batch] = make_batches([sample, other], 100, CPU)
        return loss(hidden, head, batch, None).sums["masked_share"]

    assert masked([1.6, 0, 0, 0]) == 0
    assert masked([2.4, 0, 0, 0]) == 4


@pytest.mark.parametrize("far", [0.3, 2.0])
def test_corrected_k3_is_unbiased_in_value_and_gradient(far: float) -> None:
    """Exact enumeration over a vocabulary: E_{v ~ pi_old}[k3] and its gradient are those of KL(pi || pi_ref)."""
    generator = torch.Generator().manual_seed(3)
    logits, old, ref = (far * torch.randn(V, generator=generator, dtype=torch.float64) for _ in range(3))
    logits.requires_grad_()
    logp, logold, logref = logits.log_softmax(0), old.log_softmax(0), ref.log_softmax(0)
    estimate = (logold.exp() * corrected_k3(logp, (logp - logold).exp(), logref)).sum()
    exact = (logp.exp() * (logp - logref)).sum()
    assert float(estimate.detach()) == pytest.approx(float(exact.detach()), abs=1e-12)
    [got] = torch.autograd.grad(estimate, logits, retain_graph=True)
    [want] = torch.autograd.grad(exact, logits, retain_graph=True)
    torch.testing.assert_close(got, want, atol=1e-12, rtol=1e-10)
    plain = (logold.exp() * ((logref - logp).exp() - (logref - logp) - 1)).sum()  # uncorrected: another gradient
    [biased] = torch.autograd.grad(plain, logits)
    assert float((biased - want).abs().max()) > 1e-2


def test_gradient_of_one_batch_equals_that_of_many() -> None:
    samples = samples_of([4, 7, 2, 5, 1, 9], [0.8, -0.6, -0.9, 0.7, 0.1, -0.2])
    loss = GrpoLoss(clip=0.2, kl_coef=0.0, off_policy_threshold=0.3, temperature=1.0)
    table = torch.randn(V, D, generator=torch.Generator().manual_seed(0))

    def gradient(microbatch_tokens: int) -> tuple[int, Tensor]:
        weight = table.clone().requires_grad_()
        batches = make_batches(samples, microbatch_tokens, CPU)
        count = sum(b.num_loss_tokens for b in batches)
        for batch in batches:  # a token's hidden state is the embedding of the token before it
            hidden = table[batch.input_ids_BL.flatten()[batch.source_T]]
            (loss(hidden, Head(weight), batch, None).total / count).backward()
        assert weight.grad is not None
        return len(batches), weight.grad

    (one, whole), (many, parts) = gradient(10_000), gradient(12)
    assert one == 1
    assert many >= 5
    torch.testing.assert_close(parts, whole, atol=1e-6, rtol=0)
