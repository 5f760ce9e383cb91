"""bfloat16 training with rounded operands and float32 products: what autocast computes, but for the rounding of results."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rl.batch import Sample
from rl.config import ModelConfig, OptimizerConfig
from rl.losses.build import build_loss
from rl.losses.config import GrpoLossConfig
from rl.rounded import LOW, round_products, rounded, with_fast_products
from rl.trainer import Trainer
from tests.conftest import tiny_policy

ULP = 2.0**-8  # of bfloat16, relative
IDS = torch.randint(7, 200, (3, 40), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def slow_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rl.rounded.fast_bfloat16", lambda: False)


def layers(*, bias: bool) -> tuple[nn.Linear, nn.Linear, Tensor]:
    """(a plain one, a replaced one with the same weights, an input [3, 5, 64])."""
    torch.manual_seed(0)
    plain, replaced = nn.Linear(64, 32, bias=bias), nn.Linear(64, 32, bias=bias)
    replaced.load_state_dict(plain.state_dict())
    round_products(replaced)
    return plain, replaced, torch.randn(3, 5, 64)


def outcome(layer: nn.Linear, x: Tensor, *, autocast: bool = False) -> dict[str, Tensor]:
    """The result and every gradient."""
    x = x.clone().requires_grad_()
    layer.zero_grad()
    with torch.autocast("cpu", LOW) if autocast else contextlib.nullcontext():
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
    want, got = outcome(plain, x, autocast=True), outcome(replaced, x)
    assert got.keys() == want.keys() == ({"y", "x", "weight", "bias"} if bias else {"y", "x", "weight"})
    for name, value in got.items():
        assert float((value - want[name]).abs().max()) <= ULP * float(want[name].abs().max()), name
    exact = x.to(LOW).double() @ plain.weight.detach().to(LOW).double().T
    if bias:
        exact += plain.bias.detach().to(LOW).double()
    assert float((got["y"] - exact).abs().max()) < 1e-5 < float((want["y"] - exact).abs().max())


def test_any_number_of_dimensions() -> None:
    plain, replaced, x = layers(bias=True)
    for shape in ((64,), (5, 64), (2, 3, 5, 64)):
        part = x.flatten()[: 64 * 5].expand(6, -1).reshape(-1, 64)[: int(np.prod(shape)) // 64].reshape(shape)
        want, got = outcome(plain, part), outcome(replaced, part)
        assert all(float((got[name] - want[name]).abs().max()) < 0.05 for name in want)


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

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        replaced(x.requires_grad_())
    assert {t.dtype for t in saved if t.shape == x.shape} == {LOW}


def test_only_bfloat16_policies_of_cpus_with_slow_units_are_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    for dtype, fast, changed in (("float32", False, False), ("bfloat16", True, False), ("bfloat16", False, True)):
        monkeypatch.setattr("rl.rounded.fast_bfloat16", lambda fast=fast: fast)
        policy = with_fast_products(tiny_policy(dtype=dtype))
        assert policy.rounds == changed
        assert any("forward" in vars(module) for module in policy.model.modules()) == changed


@pytest.mark.usefixtures("slow_bfloat16")
def test_hidden_states_are_nearer_to_exact_ones_than_autocast_s() -> None:
    exact, plain, made = (tiny_policy(dtype=dtype) for dtype in ("float32", "bfloat16", "bfloat16"))
    with torch.no_grad():
        want = exact.hidden_states(IDS)
        apart = [float((p.hidden_states(IDS) - want).abs().mean()) for p in (with_fast_products(made), plain)]
    assert 1e-4 < apart[0] < apart[1]


def trainer_of(folder: Path, *, packing: bool = True, recompute: bool = False) -> Trainer:
    model = ModelConfig(path=str(folder), dtype="bfloat16", activation_checkpointing=recompute)
    loss = build_loss(GrpoLossConfig(kl_coef=0.1, off_policy_threshold=None), temperature=1.0)
    settings = {"num_steps": 9, "microbatch_tokens": 10_000, "reference_refresh_steps": 5}
    return Trainer(folder, model, OptimizerConfig(name="adamw"), loss, packing=packing, **settings)


@pytest.mark.usefixtures("slow_bfloat16")
@pytest.mark.parametrize("change", [{"packing": False}, {"recompute": True}], ids=["padded", "activation checkpointing"])
def test_the_trainer_trains_so_and_its_layouts_agree(change: dict[str, bool], model_folder: Path) -> None:
    rng = np.random.default_rng(0)
    mask = np.arange(30) >= 5
    old = np.where(mask, -5.0, 0).astype(np.float32)
    samples = [Sample(rng.integers(7, 200, 30).astype(np.int32), mask, old, 0.5 - i % 2) for i in range(4)]
    plain, changed = trainer_of(model_folder), trainer_of(model_folder, **change)
    assert plain.policy.rounds
    assert changed.policy.rounds
    for _ in range(2):
        got, want = changed.train_step(samples), plain.train_step(samples)
        assert got["loss"] == pytest.approx(want["loss"], abs=1e-4)
        assert got["grad_norm"] == pytest.approx(want["grad_norm"], rel=1e-3)
    assert plain.reference is not None
    before = plain.reference.hidden_states(IDS, use_cache=False)
    with torch.no_grad():
        next(p for p in plain.policy.model.parameters() if p.ndim == 2).add_(1.0)
    assert torch.equal(plain.reference.hidden_states(IDS, use_cache=False), before)  # a copy has layers of its own


@pytest.mark.usefixtures("slow_bfloat16")
def test_packing_is_probed_on_exact_layers(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounding turns differences in the last bit into such of a bfloat16 step, and a larger model would then be padded."""
    replaced: list[bool] = []

    def probe(model: nn.Module) -> str | None:
        replaced.append(any("forward" in vars(module) for module in model.modules() if type(module) is nn.Linear))
        return None

    monkeypatch.setattr("rl.trainer.enable_packing", probe)
    assert trainer_of(model_folder).policy.rounds
    assert replaced == [False]
