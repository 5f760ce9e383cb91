"""Packed rows: where tokens lie, and that a model gives the same losses and gradients as on padded rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import rl.attention
import rl.packing
from rl.attention import BlockMasks, enable_packing
from rl.batch import Batch, Sample, make_batches
from rl.config import ModelConfig, OptimizerConfig
from rl.losses.build import build_loss
from rl.losses.config import GrpoLossConfig
from rl.packing import lay_out, plan
from rl.policy import Policy
from rl.trainer import Trainer
from tests.conftest import tiny_policy

CPU = torch.device("cpu")
LOSS = build_loss(GrpoLossConfig(off_policy_threshold=None), temperature=1.0)
WINDOW = {"sliding_window": 16}
ARCHITECTURES = {
    "qwen3": {},
    "llama": {},
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4},
    "gemma2": WINDOW,
    "gemma3_text": WINDOW,
    "mistral": WINDOW,
    "mixtral": {"num_local_experts": 4},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64},
    "gpt_oss": {"num_local_experts": 4, **WINDOW},
}


def group(prompt_length: int, lengths: Sequence[int], *, seed: int = 0, turns: bool = False) -> list[Sample]:
    """Completions of these lengths after one random prompt."""
    rng = np.random.default_rng([seed, prompt_length])
    prompt, made = rng.integers(7, 200, prompt_length), list[Sample]()
    for i, length in enumerate(lengths):
        ids = np.concatenate([prompt, rng.integers(7, 200, length)]).astype(np.int32)
        mask = np.arange(len(ids)) >= prompt_length
        if turns:
            mask[prompt_length + 3 : prompt_length + 6] = False  # a tool's result between two turns
        made.append(Sample(ids, mask, np.where(mask, -5.0, 0).astype(np.float32), 0.5 - i % 3))
    return made


SAMPLES = [*group(9, [21, 30, 4, 25]), *group(40, [12, 12, 12], turns=True), *group(5, [33], seed=1)]


def loss_and_gradients(policy: Policy, batches: Sequence[Batch]) -> tuple[float, list[Tensor]]:
    policy.model.zero_grad()
    policy.model.eval()
    total, count = 0.0, sum(b.num_loss_tokens for b in batches)
    for batch in batches:
        inputs = {} if batch.packing is None else {"position_ids": batch.position_ids_BL, "attention_mask": batch.packing}
        hidden = policy.hidden_states(batch.input_ids_BL, use_cache=False, **inputs).flatten(0, 1)[batch.source_T]
        loss = LOSS(hidden, policy.head, batch, None).total / count
        loss.backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    return total, [p.grad.clone() for p in policy.model.parameters() if p.grad is not None]


def assert_packed_equals_padded(policy: Policy, microbatch_tokens: int = 1000, tolerance: float = 1e-5) -> None:
    expected, wanted = loss_and_gradients(policy, make_batches(SAMPLES, 1000, CPU))
    loss, gradients = loss_and_gradients(policy, make_batches(SAMPLES, microbatch_tokens, CPU, packed=True))
    assert loss == pytest.approx(expected, rel=tolerance)
    assert len(gradients) == len(wanted) > 10
    for got, want in zip(gradients, wanted, strict=True):
        assert float((got - want).abs().max()) <= tolerance * max(1e-3, float(want.abs().max()))


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_losses_and_gradients_are_those_of_padded_rows(architecture: str) -> None:
    policy = tiny_policy(architecture, **ARCHITECTURES[architecture])
    assert enable_packing(policy.model) is None
    assert_packed_equals_padded(policy)
    assert_packed_equals_padded(policy, microbatch_tokens=60)


def test_eager_attention_is_packed_too() -> None:
    policy = tiny_policy("gemma2", attn_logit_softcapping=0.5, query_pre_attn_scalar=1, **WINDOW)
    policy.model.set_attn_implementation("eager")
    assert enable_packing(policy.model) is None
    assert_packed_equals_padded(policy)


def test_bfloat16_products_are_packed_too() -> None:
    """Under autocast both layouts round, differently: they agree to bfloat16's precision."""
    policy = tiny_policy(dtype="bfloat16")
    assert enable_packing(policy.model) is None
    assert_packed_equals_padded(policy, tolerance=3e-2)


@pytest.mark.parametrize("max_mask", [1, 300, 4000])
def test_large_masks_are_avoided_and_nothing_changes(monkeypatch: pytest.MonkeyPatch, max_mask: int) -> None:
    """At 1 every block is one sequence with its whole prompt, causal without a mask."""
    monkeypatch.setattr(rl.packing, "MAX_MASK", max_mask)
    policy = tiny_policy()
    assert enable_packing(policy.model) is None
    [batch] = make_batches(SAMPLES, 1000, CPU, packed=True)
    assert batch.packing is not None
    rectangles = [b for b in batch.packing.blocks if not b.is_square]
    assert all(np.prod(b.shape) <= max_mask for b in rectangles)
    assert (len(rectangles) == 0) == (max_mask == 1)
    assert_packed_equals_padded(policy)


def test_a_shared_prompt_appears_once_and_predicts_each_first_token() -> None:
    [batch] = make_batches(SAMPLES, 1000, CPU, packed=True)
    assert batch.input_ids_BL.shape == (1, sum(len(s.token_ids) for s in SAMPLES) - 3 * 9 - 2 * 40)
    assert batch.position_ids_BL is not None
    flat, positions = batch.input_ids_BL[0], batch.position_ids_BL[0]
    firsts = torch.stack([batch.source_T[batch.sequence_T == i][0] for i in range(batch.num_sequences)])
    assert len(set(firsts.tolist())) == 3  # one hidden state for all completions of a prompt
    assert sorted(positions[firsts].tolist()) == [4, 8, 8, 8, 8, 39, 39, 39]
    rows = [tuple(s.token_ids[s.loss_mask].tolist()) for s in SAMPLES]
    assert sorted(tuple(batch.target_T[batch.sequence_T == i].tolist()) for i in range(8)) == sorted(rows)
    later = batch.source_T[1:][batch.sequence_T[1:] == batch.sequence_T[:-1]]
    follows = batch.source_T[:-1][batch.sequence_T[1:] == batch.sequence_T[:-1]] == later - 1
    assert torch.equal(flat[later][follows], batch.target_T[:-1][batch.sequence_T[1:] == batch.sequence_T[:-1]][follows])


def test_only_equal_prompts_are_shared() -> None:
    """One token's difference, or a prompt that is the beginning of another, shares nothing."""
    a, b, c = np.arange(8), np.array([0, 1, 9, 3, 4]), np.arange(12)
    row = lay_out([a, b, c, c + 0], [4, 4, 6, 6])
    assert row.num_shared == [0, 0, 0, 6]
    assert len(row.token_ids_N) == 8 + 5 + 12 + 6
    for sequence, places in zip([a, b, c, c], row.places, strict=True):
        assert row.token_ids_N[places].tolist() == sequence.tolist()
        assert row.position_ids_N[places].tolist() == list(range(len(sequence)))


@pytest.mark.parametrize("limit", [1, 60, 90, 10_000])
def test_packed_limits_count_what_the_model_computes(limit: int) -> None:
    batches = make_batches(SAMPLES, limit, CPU, packed=True)
    for batch in batches:
        assert batch.input_ids_BL.numel() <= limit or batch.num_sequences == 1
    assert sum(b.num_sequences for b in batches) == len(SAMPLES)
    assert sum(b.num_loss_tokens for b in batches) == sum(s.num_loss_tokens for s in SAMPLES)
    again = make_batches(SAMPLES, limit, CPU, packed=True)
    assert [b.input_ids_BL.tolist() for b in batches] == [b.input_ids_BL.tolist() for b in again]


def test_padding_of_blocks_stays_small() -> None:
    """Lengths from 20 to 2,000: the blocks' queries are at most a quarter more than the tokens."""
    rng = np.random.default_rng(0)
    row = lay_out([rng.integers(0, 9, n).astype(np.int32) for n in rng.integers(20, 2000, 200)], [1] * 200)
    packing = plan(row, CPU)
    assert len(packing.query_index) < 1.25 * len(row.token_ids_N)
    assert len(packing.blocks) < 60


def test_a_model_that_can_pack_runs_padded_rows_as_before() -> None:
    before, after = tiny_policy("mistral", **WINDOW), tiny_policy("mistral", **WINDOW)
    assert enable_packing(after.model) is None
    ids = torch.randint(7, 200, (3, 40))
    mask = torch.arange(40) < torch.tensor([[40], [33], [12]])
    for inputs in ({}, {"attention_mask": mask.long()}):
        with torch.no_grad():
            assert torch.equal(before.hidden_states(ids, **inputs), after.hidden_states(ids, **inputs))


@pytest.mark.parametrize(
    ("architecture", "config", "reason"),
    [
        ("mamba2", {"num_heads": 8, "head_dim": 16, "n_groups": 1, "state_size": 16}, "know no borders"),
        ("deepseek_v4", {}, "know no borders"),
        ("falcon", {}, "not reached through transformers' attention interface"),
    ],
)
def test_models_that_cannot_pack_say_why_and_train_padded(
    architecture: str, config: dict[str, object], reason: str, tmp_path: Path
) -> None:
    tiny_policy(architecture, **config).save(tmp_path)
    attention = "sdpa" if architecture == "falcon" else "eager"
    trainer = trainer_of(tmp_path, ModelConfig(path=str(tmp_path), attention=attention))  # type: ignore[arg-type]
    assert trainer.padded_because is not None
    assert reason in trainer.padded_because
    metrics = trainer.train_step(group(6, [5, 9]))
    assert (metrics["packed"], metrics["num_model_tokens"]) == (0, 2 * 15)


def test_a_wrong_packing_is_found_by_the_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the masks of shared prompts hidden states differ: the model is left as it was, with the reason."""

    def none(**request: Any) -> BlockMasks:
        packing = request["attention_mask"]
        return BlockMasks(packing, [None] * len(packing.blocks))

    monkeypatch.setattr(rl.attention, "_sdpa_masks", none)
    policy = tiny_policy()
    reason = enable_packing(policy.model)
    assert reason is not None
    assert "hidden states differ from padded ones" in reason
    assert policy.model.config._attn_implementation == "sdpa"


def trainer_of(folder: Path, model: ModelConfig | None = None, *, packing: bool = True) -> Trainer:
    return Trainer(
        folder,
        model or ModelConfig(path=str(folder)),
        OptimizerConfig(name="adamw", lr=1e-3),
        LOSS,
        num_steps=10,
        microbatch_tokens=100,
        packing=packing,
    )


def test_training_packed_gives_the_metrics_and_weights_of_training_padded(model_folder: Path, tmp_path: Path) -> None:
    packed, padded = trainer_of(model_folder), trainer_of(model_folder, packing=False)
    assert packed.padded_because is None
    assert padded.padded_because == "packing is switched off"
    a, b = packed.train_step(SAMPLES), padded.train_step(SAMPLES)
    for name in ("loss", "surprisal", "grad_norm", "num_loss_tokens", "sampler_gap"):
        assert a[name] == pytest.approx(b[name], rel=1e-5), name
    assert (a["packed"], b["packed"]) == (1, 0)
    assert a["num_model_tokens"] < 0.7 * b["num_model_tokens"]
    packed.save(tmp_path, with_state=False)
    assert "packed" not in json.dumps(json.loads((tmp_path / "config.json").read_text()))
