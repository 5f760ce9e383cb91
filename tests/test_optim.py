"""Newton-Schulz, HybridMuon by hand, torch's own Muon, parameter groups, saved state, schedules."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn

from rl.config import OptimizerConfig
from rl.optim.build import ChainedOptimizer, build_optimizer, lr_share, split_parameters
from rl.optim.muon import FAST, HYBRID, STABLE, HybridMuon, newton_schulz
from rl.policy import Policy
from tests.conftest import tiny_policy


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 40, 12), (2, 12, 40), (1, 1, 9), (4, 64, 2)])
def test_newton_schulz_gives_singular_values_near_one(shape: tuple[int, int, int]) -> None:
    x = rand(*shape)
    out = newton_schulz(x)
    assert out.shape == x.shape
    values = torch.linalg.svdvals(out)
    assert float(values.min()) > 0.8
    assert float(values.max()) < 1.2
    u, _, vh = torch.linalg.svd(x, full_matrices=False)
    torch.testing.assert_close(out, u @ vh, atol=0.2, rtol=0)  # the same singular vectors


def test_newton_schulz_of_low_rank_and_of_nothing() -> None:
    low = rand(1, 20, 3) @ rand(1, 3, 30, seed=1)
    values = torch.linalg.svdvals(newton_schulz(low))[0]
    assert float((values[:3] - 1).abs().max()) < 0.2
    assert float(values[3:].max()) < 0.2
    assert torch.equal(newton_schulz(torch.zeros(1, 4, 5)), torch.zeros(1, 4, 5))
    assert torch.isfinite(newton_schulz(1e-20 * rand(1, 4, 5))).all()


def by_hand(weight: Tensor, gradients: Iterable[Tensor], lr: float, wd: float, mu: float) -> Tensor:
    """The published update for one matrix: M = mu M + G; O = NS(mu M + G) sqrt(max(n, m)) 0.18; W = W(1 - lr wd) - lr O."""
    w, m = weight.double(), torch.zeros_like(weight).double()
    for g in gradients:
        m = mu * m + g.double()
        x = mu * m + g.double()
        x = x / math.sqrt(float((x**2).sum()))
        for a, b, c in ((3.4445, -4.7750, 2.0315),) * 8 + ((2.0, -1.5, 0.5),) * 2:
            x = a * x + b * (x @ x.T) @ x + c * (x @ x.T) @ (x @ x.T) @ x
        w = w * (1 - lr * wd) - lr * x * math.sqrt(max(x.shape)) * 0.18
    return w


def test_the_published_polynomials() -> None:
    assert HYBRID == (FAST,) * 8 + (STABLE,) * 2
    assert (*FAST, *STABLE) == (3.4445, -4.7750, 2.0315, 2.0, -1.5, 0.5)


def test_hybrid_muon_equals_the_formula_by_hand_for_matrices_and_stacks() -> None:
    starts = [rand(6, 10), rand(6, 10, seed=1), rand(9, 4, seed=2), rand(3, 6, 10, seed=3)]
    parameters = [nn.Parameter(w.clone()) for w in starts]
    optimizer = HybridMuon(parameters, lr=0.02, momentum=0.9, weight_decay=0.3)
    gradients = [[rand(*w.shape, seed=10 * step + i) for i, w in enumerate(starts)] for step in range(3)]
    for step in gradients:
        for parameter, gradient in zip(parameters, step, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
    for i, (start, parameter) in enumerate(zip(starts, parameters, strict=True)):
        if start.ndim == 2:
            expected = by_hand(start, [g[i] for g in gradients], 0.02, 0.3, 0.9)
        else:
            expected = torch.stack([by_hand(start[e], [g[i][e] for g in gradients], 0.02, 0.3, 0.9) for e in range(3)])
        torch.testing.assert_close(parameter.detach().double(), expected, atol=2e-5, rtol=1e-4)


def test_a_parameter_without_gradient_stays() -> None:
    parameters = [nn.Parameter(rand(4, 4)), nn.Parameter(rand(4, 4, seed=1))]
    parameters[0].grad = rand(4, 4, seed=2)
    HybridMuon(parameters, lr=0.1).step()
    assert torch.equal(parameters[1].detach(), rand(4, 4, seed=1))
    assert not torch.equal(parameters[0].detach(), rand(4, 4))


ARCHITECTURES = {
    "qwen3": ("qwen3", {}),
    "untied": ("qwen3", {"tie_word_embeddings": False}),
    "gpt2": ("gpt2", {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128}),
    "mixtral": ("mixtral", {"num_local_experts": 4}),
}


def policy_of(name: str) -> Policy:
    architecture, config = ARCHITECTURES[name]
    return tiny_policy(architecture, **config)


@pytest.mark.parametrize("newton_schulz", ["hybrid", "quintic"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_parameter_groups(name: str, newton_schulz: str) -> None:
    model = policy_of(name).model
    optimizer, _ = build_optimizer(model, OptimizerConfig(newton_schulz=newton_schulz), 10)  # type: ignore[arg-type]
    assert isinstance(optimizer, ChainedOptimizer)
    muon, adamw = ([id(p) for g in part.param_groups for p in g["params"]] for part in optimizer.parts)
    every = [id(p) for p in model.parameters()]
    assert sorted(muon + adamw) == sorted(every), "every parameter exactly once"
    names = {id(p): n for n, p in model.named_parameters(remove_duplicate=False)}
    in_adamw = [names[i] for i in adamw]
    vocabulary = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    assert len(vocabulary) == (2 if name == "untied" else 1)
    assert vocabulary <= set(adamw)
    for parameter_name, parameter in model.named_parameters():
        if parameter.ndim == 1 or "wpe" in parameter_name:
            assert parameter_name in in_adamw
        elif id(parameter) not in vocabulary:
            stacked_for_torch = newton_schulz == "quintic" and parameter.ndim == 3
            assert (id(parameter) in muon) != stacked_for_torch, parameter_name
    assert any(p.ndim == 3 for p in model.parameters()) == (name == "mixtral")
    for group in optimizer.parts[1].param_groups:
        assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.9, 0.95), 1e-20, 0.1)


def test_frozen_parameters_are_left_out() -> None:
    model = tiny_policy().model
    model.base_model.layers[0].requires_grad_(False)
    hidden, others = split_parameters(model)
    assert {id(p) for p in hidden + others} == {id(p) for p in model.parameters() if p.requires_grad}


def train(model: nn.Module, optimizer: torch.optim.Optimizer, schedule: object, steps: Iterable[int]) -> None:
    for step in steps:
        for i, parameter in enumerate(model.parameters()):
            parameter.grad = rand(*parameter.shape, seed=1000 * step + i)
        optimizer.step()
        schedule.step()  # type: ignore[attr-defined]


def test_quintic_is_torchs_muon() -> None:
    config = OptimizerConfig(newton_schulz="quintic", lr=0.01, weight_decay=0.2, momentum=0.9)
    mine, plain = tiny_policy().model, tiny_policy().model
    optimizer, schedule = build_optimizer(mine, config, 10)
    hidden, others = split_parameters(plain)
    muon = torch.optim.Muon(hidden, lr=0.01, weight_decay=0.2, momentum=0.9, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(others, lr=0.01, weight_decay=0.2, betas=(0.9, 0.95), eps=1e-20)
    train(mine, optimizer, schedule, range(3))
    for step in range(3):
        for i, parameter in enumerate(plain.parameters()):
            parameter.grad = rand(*parameter.shape, seed=1000 * step + i)
        muon.step()
        adamw.step()
    for a, b in zip(mine.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("config", [OptimizerConfig(), OptimizerConfig(newton_schulz="quintic"), OptimizerConfig(name="adamw")])
def test_saved_state_goes_on_bit_by_bit(config: OptimizerConfig) -> None:
    """Three steps, save, three more: the same as six in a row, the learning rate's schedule included."""
    config = OptimizerConfig(name=config.name, newton_schulz=config.newton_schulz, schedule="cosine", warmup_steps=2)
    straight = tiny_policy().model
    optimizer, schedule = build_optimizer(straight, config, 6)
    train(straight, optimizer, schedule, range(3))
    resumed = copy.deepcopy(straight)
    saved = copy.deepcopy((optimizer.state_dict(), schedule.state_dict()))
    train(straight, optimizer, schedule, range(3, 6))

    optimizer, schedule = build_optimizer(resumed, config, 6)
    optimizer.load_state_dict(saved[0])
    schedule.load_state_dict(saved[1])
    train(resumed, optimizer, schedule, range(3, 6))
    for a, b in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_schedule_reaches_every_part() -> None:
    model = tiny_policy().model
    optimizer, schedule = build_optimizer(model, OptimizerConfig(lr=0.5, schedule="linear"), 4)
    train(model, optimizer, schedule, range(2))
    assert isinstance(optimizer, ChainedOptimizer)
    assert [g["lr"] for part in optimizer.parts for g in part.param_groups] == [0.25, 0.25]


def test_lr_share() -> None:
    def shares(num_steps: int = 10, **changes: object) -> list[float]:
        config = OptimizerConfig(**changes)  # type: ignore[arg-type]
        return [round(lr_share(config, step, num_steps), 6) for step in range(num_steps + 1)]

    assert shares(3) == [1.0] * 4
    assert shares(4, warmup_steps=2) == [0.5, 1.0, 1.0, 1.0, 1.0]
    assert shares(4, schedule="linear") == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert shares(4, schedule="linear", min_lr_share=0.2) == [1.0, 0.8, 0.6, 0.4, 0.2]
    assert shares(4, schedule="cosine") == [1.0, round(0.5 + 0.5 * math.cos(math.pi / 4), 6), 0.5, 0.146447, 0.0]
    assert shares(6, schedule="cosine", warmup_steps=2, min_lr_share=0.5)[1:] == [1.0, 1.0, 0.926777, 0.75, 0.573223, 0.5]
    assert shares(2, schedule="linear", warmup_steps=5)[:2] == [0.2, 0.4]
    assert lr_share(OptimizerConfig(schedule="linear", min_lr_share=0.1), 99, 10) == 0.1  # past the end it stays


def test_muon_gets_below_sgd_on_a_regression() -> None:
    """An ill-conditioned least-squares problem, each optimizer with the better of several learning rates."""
    inputs = rand(256, 16) * torch.logspace(0, -2, 16)
    targets = inputs @ rand(16, 8, seed=1)

    def final(name: str, lr: float) -> float:
        weight = nn.Parameter(torch.zeros(16, 8))
        optimizer: torch.optim.Optimizer = (
            HybridMuon([weight], lr=lr, weight_decay=0.0) if name == "muon" else torch.optim.SGD([weight], lr=lr)
        )
        for step in range(150):
            optimizer.param_groups[0]["lr"] = lr * (1 - step / 150)
            optimizer.zero_grad()
            loss = ((inputs @ weight - targets) ** 2).mean()
            loss.backward()
            optimizer.step()
        return float(loss.detach())

    best_muon = min(final("muon", lr) for lr in (0.03, 0.1, 0.3))
    best_sgd = min(final("sgd", lr) for lr in (0.1, 1.0, 3.0, 10.0))
    assert best_muon < 0.5 * best_sgd
