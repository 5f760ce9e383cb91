"""Every loss against a plain float64 loop written from its paper, and one contract that all of them keep."""

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
from rl.losses.build import build_loss
from rl.losses.config import CispoLossConfig, GrpoLossConfig, LossConfig
from tests.loss_cases import ADVANTAGES, ALL, CPU, LENGTHS, MAX_TOKENS, D, Model, V, batches_of, reference_of, samples_of

# Values and gradients, against the formulas written out


def written_out(model: Model, config: LossConfig, batch: Batch, samples: Sequence[Sample], temperature: float) -> Tensor:
    """-J as the papers have it, sequence by sequence and token by token, in float64."""
    table, weight, reference = model.table_VD.double(), model.weight_VD.double(), reference_of(batch).double()
    sequences, start = list[list[Tensor]](), 0
    for i in range(batch.num_sequences):
        [sample] = [s for s in samples if np.array_equal(s.token_ids, batch.input_ids_BL[i, : len(s.token_ids)].numpy())]
        sampler = torch.from_numpy(sample.sampler_logprobs[sample.loss_mask]).double()
        logprobs = []
        for t in range(len(sampler)):
            logits = weight @ table[int(sample.token_ids[2 + t])] / temperature
            kept = range(V) if sample.sampling_mask is None else sample.sampling_mask.row(t).tolist()
            logprobs.append(
                logits[int(sample.token_ids[3 + t])] - torch.log(torch.stack([logits[v].exp() for v in kept]).sum())
            )
        terms = sequence_terms(config, logprobs, sampler, sample.advantage, reference[start : start + len(sampler)])
        sequences.append(terms)
        start += len(sampler)
    match config.name:
        case "grpo" | "gspo":
            return -torch.stack([torch.stack(terms).mean() for terms in sequences]).mean()
        case "dapo" | "cispo":
            return -torch.stack([term for terms in sequences for term in terms]).mean()
        case "dr_grpo":
            return -torch.stack([term for terms in sequences for term in terms]).sum() / (len(sequences) * MAX_TOKENS)


def sequence_terms(
    config: LossConfig, logprobs: list[Tensor], sampler: Tensor, advantage: float, reference: Tensor
) -> list[Tensor]:
    """What each token of one sequence adds to J, before any mean."""
    now = [float(p.detach()) for p in logprobs]
    old = [float(s) for s in sampler] if config.ratio_to == "sampler" else now
    drift = sum(p - float(s) for p, s in zip(now, sampler, strict=True)) / len(now)
    if config.geometric_mask is not None and not config.geometric_mask[0] <= math.exp(drift) <= config.geometric_mask[1]:
        return [0 * p for p in logprobs]
    threshold = config.off_policy_threshold
    keep = 0.0 if threshold is not None and advantage < 0 and -drift > threshold else 1.0
    ratios = [torch.exp(p - o) for p, o in zip(logprobs, old, strict=True)]
    of_sequence = torch.stack(ratios).log().mean().exp()
    terms = []
    for p, s, r, ref in zip(logprobs, sampler, ratios, reference, strict=True):
        if isinstance(config, CispoLossConfig):
            gain = min(float(r.detach()), config.max_ratio) * advantage * p
        else:
            x = of_sequence if config.name == "gspo" else r
            high = config.clip if config.clip_high is None else config.clip_high
            gain = torch.min(x * advantage, torch.clamp(x, 1 - config.clip, 1 + high) * advantage)
        w = 1.0 if config.importance_cap is None else min(math.exp(float(p.detach() - s)), config.importance_cap)
        log_r = ref - p
        k3 = torch.exp(log_r) - log_r - 1
        kl = {"k1": -log_r, "k2": log_r**2 / 2, "k3": k3, "corrected_k3": r * w * k3}[config.kl]
        terms.append(keep * w * gain - config.kl_coef * kl)
    return terms


VARIANTS = {
    "plain": {},
    "kl": {"kl_coef": 0.3},
    "k1": {"kl_coef": 0.3, "kl": "k1"},
    "k2": {"kl_coef": 0.3, "kl": "k2"},
    "k3": {"kl_coef": 0.3, "kl": "k3"},
    "mask": {"off_policy_threshold": 0.05},
    "geometric": {"geometric_mask": (0.82, 1.2), "kl_coef": 0.3},
    "trainer": {"ratio_to": "trainer"},
    "truncated": {"ratio_to": "trainer", "importance_cap": 1.1, "kl_coef": 0.3},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", ALL)
def test_loss_and_gradient_equal_the_written_formula(name: str, variant: str) -> None:
    config = replace(ALL[name], **VARIANTS[variant])  # type: ignore[arg-type]
    for masked, temperature in [(False, 1.0), (True, 0.6)]:
        samples = samples_of(LENGTHS, ADVANTAGES, masked=masked)
        [batch] = batches_of(samples, config)
        model = Model.random()
        result = model.loss(config, batch, reference_of(batch), temperature)
        expected = written_out(model, config, batch, samples, temperature)
        want = model.gradient(expected)
        assert float(result.total.detach()) / batch.num_loss_tokens == pytest.approx(float(expected.detach()), abs=2e-6)
        assert float(want.abs().max()) > 1e-3
        torch.testing.assert_close(model.gradient(result.total / batch.num_loss_tokens), want, atol=2e-6, rtol=1e-5)
        assert ("kl" in result.sums) == (config.kl_coef > 0)
        if config.ratio_to == "sampler":
            assert 0 < result.sums["clipped_share"] < batch.num_loss_tokens  # tokens on both sides of the clip
        if variant in ("mask", "geometric"):
            assert 0 < result.sums["masked_share"] < batch.num_loss_tokens
        if variant == "truncated":
            assert 0 < result.sums["truncated_weight_share"] < batch.num_loss_tokens


# The contract of every loss


@pytest.mark.parametrize("name", ALL)
def test_no_split_into_microbatches_changes_the_gradient_or_the_metrics(name: str) -> None:
    config = replace(ALL[name], kl_coef=0.1, off_policy_threshold=0.05, geometric_mask=(0.82, 1.2))
    samples, model = samples_of(LENGTHS, ADVANTAGES), Model.random()

    def step(microbatch_tokens: int, *, packed: bool) -> tuple[int, Tensor, dict[str, float]]:
        batches = batches_of(samples, config, microbatch_tokens, packed=packed)
        count = sum(b.num_loss_tokens for b in batches)
        results = [model.loss(config, b, reference_of(b)) for b in batches]
        gradient = torch.stack([model.gradient(r.total / count) for r in results]).sum(0)
        return len(batches), gradient, {key: sum(r.sums[key] for r in results) for key in results[0].sums}

    one, whole, sums = step(10_000, packed=False)
    assert one == 1
    names = {"ratio", "clipped_share", "masked_share", "truncated_weight_share", "surprisal", "entropy", "kl"}
    assert names == set(sums)
    for packed in (False, True):
        many, parts, part_sums = step(12, packed=packed)
        assert many >= 5
        torch.testing.assert_close(parts, whole, atol=1e-6, rtol=0)
        assert part_sums == pytest.approx(sums, rel=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_no_advantage_gives_no_gradient(name: str) -> None:
    [batch] = batches_of(samples_of(LENGTHS, [0.0] * 6), ALL[name])
    model = Model.random()
    result = model.loss(ALL[name], batch)
    assert float(result.total.detach()) == 0
    assert float(model.gradient(result.total).abs().max()) == 0


def on_policy(model: Model, config: LossConfig, advantages: Sequence[float] = ADVANTAGES) -> Batch:
    """A batch whose sampler log-probabilities are the model's own."""
    [batch] = batches_of(samples_of(LENGTHS, advantages), config)
    return replace(batch, sampler_logprobs_T=model.logprobs(batch).detach())


@pytest.mark.parametrize("name", ALL)
def test_on_policy_the_gradient_is_that_of_reinforce(name: str) -> None:
    """sum_t weight_t A_t grad log pi_t, with nothing clipped; so too, wherever the sampler is, against the trainer's own pi."""
    model, own = Model.random(), replace(ALL[name], ratio_to="trainer")
    off_policy = batches_of(samples_of(LENGTHS, ADVANTAGES), own)[0]
    for config, batch in [(ALL[name], on_policy(model, ALL[name])), (own, off_policy)]:
        result = model.loss(config, batch)
        reinforce = -(batch.weight_T * batch.advantage_T * model.logprobs(batch)).sum()
        torch.testing.assert_close(model.gradient(result.total), model.gradient(reinforce), atol=1e-5, rtol=1e-5)
        assert result.sums["clipped_share"] == result.sums["masked_share"] == result.sums["truncated_weight_share"] == 0
        assert result.sums["ratio"] == pytest.approx(batch.num_loss_tokens)


@pytest.mark.parametrize("name", ALL)
def test_a_masked_sequence_gives_no_gradient(name: str) -> None:
    """Sequence 1 is far from the sampler. The geometric mask drops all of it; V3.2's leaves its KL."""
    model = Model.random()
    for settings, has_kl in [({"geometric_mask": (0.9, 1.1)}, False), ({"off_policy_threshold": 0.1}, True)]:
        config = replace(ALL[name], kl_coef=0.1, **settings)  # type: ignore[arg-type]
        batch = on_policy(model, config, [0.8, -0.6, -0.9, 0.7, -0.1, -0.2])
        far = (batch.sequence_T == 1).float() * torch.linspace(0.3, 0.5, batch.num_loss_tokens)
        assert bool((batch.advantage_T[batch.sequence_T == 1] < 0).all())
        batch = replace(batch, sampler_logprobs_T=batch.sampler_logprobs_T + far)
        for kl_coef in (0.0, 0.1):
            hidden = model.hidden(batch).detach().requires_grad_()
            loss = build_loss(replace(config, kl_coef=kl_coef), 1.0)
            result = loss(hidden, Head(model.weight_VD), batch, reference_of(batch))
            [gradient] = torch.autograd.grad(result.total, hidden)
            moved = gradient.abs().sum(-1) > 0
            assert bool(moved[batch.sequence_T != 1].all())
            assert bool(moved[batch.sequence_T == 1].any()) == (kl_coef > 0 and has_kl)
            assert result.sums["masked_share"] == int((batch.sequence_T == 1).sum())


@pytest.mark.parametrize("name", ALL)
def test_what_is_not_finite_or_missing_is_named(name: str) -> None:
    [batch] = batches_of(samples_of(LENGTHS, ADVANTAGES), ALL[name])
    model, config = Model.random(), replace(ALL[name], kl_coef=0.1)
    with pytest.raises(AssertionError, match=r"kl_coef 0\.1 needs reference_logprobs_T, got None"):
        model.loss(config, batch)
    bad = batch.advantage_T.clone()
    bad[3:5] = math.nan
    with pytest.raises(FloatingPointError, match="loss of 28 tokens is not finite; not finite: advantage at 2 tokens"):
        model.loss(config, replace(batch, advantage_T=bad), reference_of(batch))
    with pytest.raises(FloatingPointError, match="not finite: sampler_logprobs at 2 tokens"):
        model.loss(config, replace(batch, sampler_logprobs_T=bad), reference_of(batch))
    with pytest.raises(FloatingPointError, match="not finite: reference_logprobs at 2 tokens"):
        model.loss(config, batch, bad)


# What each correction counts


@pytest.mark.parametrize(
    ("settings", "masked", "truncated"),
    [
        ({}, 0, 0),
        ({"importance_cap": 2.0}, 0, 7),  # above 0.69: all of the far sequence, and one token of the near one
        ({"off_policy_threshold": 0.5}, 5, 0),  # of the two negative ones, the one that the policy left
        ({"geometric_mask": (0.5, 2.0)}, 5 + 6, 0),  # both far ones, whatever their advantage
        ({"geometric_mask": (0.1, 2.0)}, 6, 0),
        ({"importance_cap": 2.0, "off_policy_threshold": 0.5}, 5, 7),
        ({"importance_cap": 2.0, "geometric_mask": (0.5, 2.0)}, 5 + 6, 7),  # the six are counted by both
    ],
)
@pytest.mark.parametrize("name", ALL)
def test_each_corrections_share_on_a_made_case(name: str, settings: dict[str, object], masked: int, truncated: int) -> None:
    """Sequences of 4, 5, 6 and 3 tokens whose log(pi / pi_sampler) is small, -0.9, 0.9 and small with one of 1.2."""
    none = {"off_policy_threshold": None, "ratio_to": "trainer" if "importance_cap" in settings else "sampler"}
    config = replace(ALL[name], **{**none, **settings})  # type: ignore[arg-type]
    model, drifts = Model.random(), [[0.1] * 4, [-0.9] * 5, [0.9] * 6, [0.0, 1.2, -0.2]]
    samples = samples_of([4, 5, 6, 3], [0.8, -0.6, 0.7, -0.9])
    [batch] = batches_of(samples, config)
    lengths = torch.bincount(batch.sequence_T).tolist()  # long ones come first
    drift_T = torch.tensor([d for n in lengths for d in drifts[[4, 5, 6, 3].index(n)]])
    batch = replace(batch, sampler_logprobs_T=model.logprobs(batch).detach() - drift_T)
    result = model.loss(config, batch)
    assert (result.sums["masked_share"], result.sums["truncated_weight_share"]) == (masked, truncated)
    torch.testing.assert_close(result.sampler_gap_T, drift_T.abs(), atol=1e-6, rtol=0)  # of masked and truncated ones too
    assert not result.sampler_gap_T.requires_grad


# Clip and masks at their edges


def one_token(config: LossConfig, advantage: float, ratio: float) -> tuple[float, float, float]:
    """(loss, size of its gradient, share masked) of one token whose pi / pi_old is `ratio`."""
    hidden, weight = torch.ones(1, D, requires_grad=True), torch.linspace(-0.4, 0.4, V * D).reshape(V, D)
    logprob = float(torch.log_softmax(hidden.detach() @ weight.T, -1)[0, 5])
    old = np.array([0, logprob - math.log(ratio)], np.float32)
    [batch] = make_batches([Sample(np.array([1, 5], np.int32), np.array([False, True]), old, advantage)], 9, CPU)
    result = build_loss(config, 1.0)(hidden, Head(weight), batch, None)
    result.total.backward()
    assert hidden.grad is not None
    return float(result.total.detach()), float(hidden.grad.norm()), result.sums["masked_share"]


@pytest.mark.parametrize(
    ("advantage", "ratio", "loss", "has_gradient"),
    [
        (1.0, 1.1, -1.1, True),  # inside the clip
        (1.0, 1.3, -1.25, False),  # a good token that is likely enough already: clipped, by the upper bound
        (1.0, 0.5, -0.5, True),  # a good token that has become unlikely: never clipped
        (-1.0, 0.5, 0.8, False),  # a bad token that is unlikely enough already: clipped
        (-1.0, 1.3, 1.3, True),  # a bad token that has become likely: never clipped
        (-1.0, 0.9, 0.9, True),
    ],
)
@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "dapo", "gspo"])
def test_both_sides_of_the_clip(name: str, advantage: float, ratio: float, loss: float, has_gradient: bool) -> None:
    got, gradient, _ = one_token(replace(ALL[name], clip=0.2, clip_high=0.25), advantage, ratio)  # type: ignore[call-arg]
    assert got == pytest.approx(loss, abs=1e-5)
    assert (gradient > 1e-4) == has_gradient


@pytest.mark.parametrize(("ratio", "weight"), [(0.1, 0.1), (1.0, 1.0), (4.0, 4.0), (5.0, 5.0), (50.0, 5.0)])
@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_cispo_keeps_every_token_with_a_bounded_weight(ratio: float, weight: float, advantage: float) -> None:
    _, at_one, _ = one_token(CispoLossConfig(), advantage, 1.0)
    _, gradient, _ = one_token(CispoLossConfig(), advantage, ratio)
    assert gradient == pytest.approx(weight * at_one, rel=1e-4)


def test_sequence_mask_at_its_threshold() -> None:
    """M is 0 only where the advantage is negative and mean log(pi_old / pi) is above delta."""
    ratio = math.exp(-0.5)  # the policy moved away: log(pi_old / pi) = 0.5

    def masked(threshold: float | None, advantage: float, ratio: float) -> tuple[float, float]:
        return one_token(GrpoLossConfig(clip=10.0, off_policy_threshold=threshold), advantage, ratio)[1:]

    assert masked(0.499, -1.0, ratio) == (0.0, 1.0)
    assert masked(0.501, -1.0, ratio)[0] > 1e-4
    assert masked(None, -1.0, ratio)[0] > 1e-4
    assert masked(0.1, 1.0, ratio)[0] > 1e-4
    assert masked(0.1, -1.0, 1 / ratio)[0] > 1e-4


@pytest.mark.parametrize("config", [GrpoLossConfig(), GrpoLossConfig(off_policy_threshold=None, geometric_mask=(0.61, 1.64))])
def test_sequence_masks_take_the_mean_of_the_whole_sequence(config: GrpoLossConfig) -> None:
    """One far token does not mask a sequence whose mean is near, and a masked sequence loses all of its tokens."""
    hidden, head = torch.zeros(8, D), Head(torch.zeros(V, D))  # pi is 1/V everywhere
    uniform = -math.log(V)

    def masked(drifts: Sequence[float]) -> float:
        old = np.array([0, *(uniform + d for d in drifts)], np.float32)
        sample = Sample(np.arange(1 + len(drifts)).astype(np.int32), np.arange(1 + len(drifts)) > 0, old, -1.0)
        other = replace(sample, token_ids=sample.token_ids + 1, sampler_logprobs=np.full_like(old, uniform))
        [batch] = make_batches([sample, other], 100, CPU)
        return build_loss(config, 1.0)(hidden, head, batch, None).sums["masked_share"]

    assert masked([1.6, 0, 0, 0]) == 0
    assert masked([2.4, 0, 0, 0]) == 4
    assert masked([-2.4, 0, 0, 0]) == (4 if config.geometric_mask else 0)  # only the geometric mask has two sides
