"""KL estimators, by enumerating a vocabulary: which have the right value, and which the right gradient as a loss."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rl.losses.config import KlName
from rl.losses.kl import kl_estimate

V = 11


def distributions(far: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(logits of pi, log pi, log of another sampler, log pi_ref) over a vocabulary, in float64."""
    generator = torch.Generator().manual_seed(3)
    logits, old, ref = (far * torch.randn(V, generator=generator, dtype=torch.float64) for _ in range(3))
    logits.requires_grad_()
    return logits, logits.log_softmax(0), old.log_softmax(0), ref.log_softmax(0)


def expectation(name: KlName, far: float, *, on_policy: bool) -> tuple[float, Tensor]:
    """Of the estimate over the sampler's draws: its value, and its gradient as a loss (the draws are held fixed)."""
    logits, logp, old, ref = distributions(far)
    old = logp.detach() if on_policy else old
    mean = (old.exp() * kl_estimate(name, logp, ref, (logp - old).exp())).sum()
    return float(mean.detach()), torch.autograd.grad(mean, logits)[0]


def divergence(far: float, *, forward: bool) -> tuple[float, Tensor]:
    """KL(pi || pi_ref), or KL(pi_ref || pi) for `forward`, with its gradient."""
    logits, logp, _, ref = distributions(far)
    kl = (ref.exp() * (ref - logp)).sum() if forward else (logp.exp() * (logp - ref)).sum()
    return float(kl.detach()), torch.autograd.grad(kl, logits)[0]


@pytest.mark.parametrize("far", [0.3, 2.0])
@pytest.mark.parametrize(
    ("name", "right_value", "gradient"),
    [("k1", True, "zero"), ("k2", False, "reverse"), ("k3", True, "forward"), ("corrected_k3", True, "reverse")],
)
def test_what_each_estimator_estimates_on_policy(name: KlName, right_value: bool, gradient: str, far: float) -> None:
    (value, got), (kl, reverse), (_, forward) = (
        expectation(name, far, on_policy=True),
        divergence(far, forward=False),
        divergence(far, forward=True),
    )
    assert (abs(value - kl) < 1e-12) == right_value
    wanted = {"zero": torch.zeros(V, dtype=torch.float64), "reverse": reverse, "forward": forward}
    for kind, want in wanted.items():
        assert (float((got - want).abs().max()) < 1e-12) == (kind == gradient), kind


@pytest.mark.parametrize("far", [0.3, 2.0])
@pytest.mark.parametrize("name", ["k1", "k2", "k3", "corrected_k3"])
def test_off_policy_only_the_corrected_one_is_right(name: KlName, far: float) -> None:
    (value, got), (kl, want) = expectation(name, far, on_policy=False), divergence(far, forward=False)
    assert (abs(value - kl) < 1e-12) == (name == "corrected_k3")
    assert (float((got - want).abs().max()) < 1e-12) == (name == "corrected_k3")
