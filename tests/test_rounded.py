"""Linear layers with rounded operands: what autocast computes, but for the rounding of results."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rl.rounded import LOW, round_products, rounded

ULP = 2.0**-8  # of bfloat16, relative


def layers(*, bias: bool) -> tuple[nn.Linear, nn.Linear, Tensor]:
    """(a plain one, a replaced one with the same weights, an input [3, 5, 64])."""
    torch.manual_seed(0)
    plain, replaced = nn.Linear(64, 32, bias=bias), nn.Linear(64, 32, bias=bias)
    replaced.load_state_dict(plain.state_dict())
    round_products(replaced)
    return plain, replaced, torch.randn(3, 5, 64)


def outcome(layer: nn.Linear, x: Tensor) -> dict[str, Tensor]:
    """The result and every gradient, under autocast."""
    x = x.clone().requires_grad_()
    layer.zero_grad()
    with torch.autocast("cpu", LOW):
        y = layer(x)
    y.float().mul(torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
    assert x.grad is not None
    return {
        "y": y.detach().float(),
        "x": x.grad,
        **{n: p.grad.clone() for n, p in layer.named_parameters() if p.grad is not None},
    }


@pytest.mark.parametrize("bias", [False, True])
def test_it_is_autocast_without_the_rounding_of_results(bias: bool) -> None:
    plain, replaced, x = layers(bias=bias)
    want, got = outcome(plain, x), outcome(replaced, x)
    assert got.keys() == want.keys() == ({"y", "x", "weight", "bias"} if bias else {"y", "x", "weight"})
    for name, value in got.items():
        assert float((value - want[name]).abs().max()) <= ULP * float(want[name].abs().max()), name
    exact = x.to(LOW).double() @ plain.weight.detach().to(LOW).double().T
    if bias:
        exact += plain.bias.detach().to(LOW).double()
    assert float((got["y"] - exact).abs().max()) < 1e-5 < float((want["y"] - exact).abs().max())


def test_outside_of_autocast_nothing_changes() -> None:
    plain, replaced, x = layers(bias=True)
    assert torch.equal(plain(x), replaced(x))


def test_a_weight_in_bfloat16_and_a_frozen_one_are_taken_as_they_are() -> None:
    plain, replaced, x = layers(bias=False)
    replaced.to(LOW).requires_grad_(False)
    got = outcome(replaced, x)
    assert got.keys() == {"y", "x"}
    assert torch.equal(got["y"], outcome(layers(bias=False)[1], x)["y"])
    assert torch.equal(rounded(plain.weight), replaced.weight.float())


def test_what_is_saved_for_the_backward_pass_is_half_as_wide() -> None:
    _, replaced, x = layers(bias=False)
    saved: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t), torch.autocast("cpu", LOW):
        replaced(x.requires_grad_())
    assert {t.dtype for t in saved if t.shape == x.shape} == {LOW}
