"""Norms and rotary embeddings in few passes: values and gradients are those of the modules that they stand for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers.models.qwen3.modeling_qwen3 import apply_rotary_pos_emb

import rl.fused
from rl.config import LoraConfig, ModelConfig, OptimizerConfig
from rl.fused import fuse, rms_norm, rotate
from rl.losses.build import build_loss
from rl.losses.config import GrpoLossConfig
from rl.policy import Policy
from rl.trainer import Trainer
from tests.conftest import tiny_policy
from tests.test_packing import SAMPLES

LAYER = "model.layers.0."
NORMS = {f"{LAYER}input_layernorm", f"{LAYER}post_attention_layernorm", "model.norm"}
ATTENTION, HEAD_NORMS = {f"{LAYER}self_attn"}, {f"{LAYER}self_attn.q_norm", f"{LAYER}self_attn.k_norm"}
OUTER_NORMS = {f"{LAYER}pre_feedforward_layernorm", f"{LAYER}post_feedforward_layernorm"}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
EXPECTED = {  # of one layer: gpt_oss rotates otherwise
    "qwen3": ({}, NORMS | HEAD_NORMS | ATTENTION),
    "llama": ({}, NORMS | ATTENTION),
    "mistral": ({}, NORMS | ATTENTION),
    "gemma2": ({}, NORMS | OUTER_NORMS | ATTENTION),
    "gemma3_text": ({}, NORMS | OUTER_NORMS | HEAD_NORMS | ATTENTION),
    "qwen3_moe": (EXPERTS, NORMS | HEAD_NORMS | ATTENTION),
    "gpt_oss": ({"num_local_experts": 4}, NORMS),
    "gpt2": ({"n_embd": 64, "n_head": 4, "n_layer": 1}, set[str]()),
}


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks, the last one shorter, in tensors of a few rows."""
    monkeypatch.setattr(rl.fused, "BLOCK_BYTES", 256)


def random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64).requires_grad_()


@pytest.mark.usefixtures("small_blocks")
def test_gradients_are_exact() -> None:
    torch.manual_seed(0)
    angles = torch.randn(1, 7, 4, dtype=torch.float64).repeat(1, 1, 2)
    cos, sin = angles.cos(), angles.sin()

    def both(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return rotate(q, k, cos, sin)

    cases: list[tuple[Callable[..., object], tuple[Tensor, ...]]] = [
        (lambda x, w: rms_norm(x, w, 1e-3), (random(2, 5, 6), random(6))),
        (both, (random(2, 4, 7, 8), random(2, 2, 7, 8))),
    ]
    for function, inputs in cases:
        assert torch.autograd.gradcheck(function, inputs)
        for i in range(len(inputs)):  # each alone, as with frozen parameters
            assert torch.autograd.gradcheck(function, tuple(t if i == j else t.detach() for j, t in enumerate(inputs)))


@pytest.mark.usefixtures("small_blocks")
def test_values_are_those_of_plain_code_in_float64() -> None:
    torch.manual_seed(0)
    x, w = torch.randn(3, 5, 16), torch.randn(16)
    expected = x.double() * torch.rsqrt(x.double().square().mean(-1, keepdim=True) + 1e-6) * w.double()
    torch.testing.assert_close(rms_norm(x, w, 1e-6).double(), expected, rtol=1e-6, atol=1e-6)

    q, k, angles = torch.randn(3, 4, 5, 16), torch.randn(3, 2, 5, 16), torch.randn(3, 5, 8).repeat(1, 1, 2)
    wanted = apply_rotary_pos_emb(q.double(), k.double(), angles.cos().double(), angles.sin().double())
    for got, want in zip(rotate(q, k, angles.cos(), angles.sin()), wanted, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-6, atol=1e-6)


def gradients(policy: Policy) -> dict[str, Tensor]:
    policy.model.zero_grad()
    ids = torch.randint(7, 200, (3, 40), generator=torch.Generator().manual_seed(0))
    hidden = policy.hidden_states(ids, use_cache=False)
    weight = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(1))
    torch.autograd.backward((hidden.float() * weight).sum())
    found = {n: p.grad.clone() for n, p in policy.model.named_parameters() if p.grad is not None}
    return found | {"hidden": hidden.detach()}


@pytest.mark.parametrize("architecture", EXPECTED)
def test_a_model_is_what_it_was(architecture: str) -> None:
    config, expected = EXPECTED[architecture]
    policy = tiny_policy(architecture, **({"num_hidden_layers": 1} | config if architecture != "gpt2" else config))
    policy.model.eval()
    with torch.no_grad():
        for p in policy.model.parameters():  # norms' weights that are all one would hide what is done with them
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())), alpha=0.05)
    plain, names = gradients(policy), list(policy.model.state_dict())
    assert set(fuse(policy.model)) == expected
    assert fuse(policy.model) == [], "once is enough"
    fused = gradients(policy)
    assert fused.keys() == plain.keys()
    for name, want in plain.items():
        assert float((fused[name] - want).abs().max()) <= 1e-5 * max(1e-2, float(want.abs().max())), name
    assert torch.equal(fused["hidden"], plain["hidden"])
    assert list(policy.model.state_dict()) == names
    again = gradients(policy)
    assert all(torch.equal(again[name], fused[name]) for name in fused), "same input, same bits"


class _ScaledBefore(nn.Module):
    """Looks like a norm, is none: the weight comes before the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.variance_epsilon = nn.Parameter(torch.ones(8)), 1e-6

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.weight
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)


class _Gated(nn.RMSNorm):
    """A norm whose caller may hand it more than one tensor."""

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        return super().forward(x if gate is None else x * gate)


def test_what_computes_something_else_is_left_alone() -> None:
    for module in (_ScaledBefore(), _Gated(8, eps=1e-6), nn.LayerNorm(8), nn.Linear(8, 8)):
        assert fuse(module) == []
        assert "forward" not in vars(module)


def test_a_copy_has_its_own_parameters() -> None:
    policy = tiny_policy()
    fuse(policy.model)
    before = gradients(policy)["hidden"]
    reference = policy.frozen_copy()
    with torch.no_grad():
        for p in policy.model.parameters():
            p.mul_(1.1)
    ids = torch.randint(7, 200, (3, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(reference.hidden_states(ids, use_cache=False), before)
        assert not torch.equal(policy.hidden_states(ids, use_cache=False), before)


def test_under_autocast_rounding_stays_the_model_s() -> None:
    policy = tiny_policy(dtype="bfloat16")
    plain = gradients(policy)["hidden"]
    fuse(policy.model)
    assert float((gradients(policy)["hidden"] - plain).abs().max()) <= 1e-6 * float(plain.abs().max())


def trainer(folder: Path, **model: object) -> Trainer:
    loss, optimizer = build_loss(GrpoLossConfig(off_policy_threshold=None), 1.0), OptimizerConfig(name="adamw", lr=1e-3)
    config = ModelConfig(path=str(folder), **model)  # type: ignore[arg-type]
    return Trainer(folder, config, optimizer, loss, num_steps=5, microbatch_tokens=200)


@pytest.mark.parametrize("model", [{}, {"activation_checkpointing": True}, {"lora": LoraConfig(rank=2)}])
def test_the_trainer_takes_it_up(
    model: dict[str, object], model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fused = trainer(model_folder, **model)
    assert len(fused.fused) == 11
    with monkeypatch.context() as without:
        without.setattr("rl.trainer.fuse", lambda _: [])
        plain = trainer(model_folder, **model)
    for _ in range(2):
        got, want = fused.train_step(SAMPLES), plain.train_step(SAMPLES)
        assert got["packed"] == 1.0
        assert got["loss"] == pytest.approx(want["loss"], rel=1e-3, abs=1e-5)
        assert got["grad_norm"] == pytest.approx(want["grad_norm"], rel=1e-3)
    fused.save(tmp_path / "saved", with_state=True)
    resumed = trainer(model_folder, **model)
    resumed.load_state(tmp_path / "saved")
    assert resumed.train_step(SAMPLES)["grad_norm"] == fused.train_step(SAMPLES)["grad_norm"]
