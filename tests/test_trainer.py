"""The trainer: what an update does to log-probabilities, microbatches, versions, reference, saving."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from rl.batch import Sample, make_batches
from rl.config import ModelConfig, OptimizerConfig
from rl.head import token_logprobs
from rl.losses.build import build_loss
from rl.losses.config import GrpoLossConfig
from rl.policy import Policy
from rl.trainer import Trainer, gap_metrics
from tests.conftest import tiny_policy

ADAMW = OptimizerConfig(name="adamw", lr=1e-3, weight_decay=0.0)


def trainer_of(folder: Path, *, kl_coef: float = 0.0, microbatch_tokens: int = 4096, **changes: object) -> Trainer:
    optimizer = replace(ADAMW, **changes)  # type: ignore[arg-type]
    loss = build_loss(GrpoLossConfig(kl_coef=kl_coef), temperature=1.0)
    return Trainer(
        folder,
        ModelConfig(path=str(folder)),
        optimizer,
        loss,
        num_steps=10,
        microbatch_tokens=microbatch_tokens,
        reference_refresh_steps=3 if kl_coef else None,
    )


def logprobs(policy: Policy, sample: Sample) -> Tensor:
    [batch] = make_batches([sample], 10_000, policy.device)
    policy.model.eval()
    with torch.no_grad():
        hidden = policy.hidden_states(batch.input_ids_BL).flatten(0, 1)[batch.source_T]
        return token_logprobs(hidden, policy.head, batch.target_T)


def on_policy(policy: Policy, advantages: Sequence[float], *, seed: int = 0) -> list[Sample]:
    """Completions of different lengths after one prompt, with this policy's own log-probabilities as the sampler's."""
    rng = np.random.default_rng(seed)
    made = []
    for i, advantage in enumerate(advantages):
        ids = np.array([0, 2, 40, 41, 3, 4, *rng.integers(7, 250, 4 + 3 * i)], np.int32)
        mask = np.arange(len(ids)) >= 6
        bare = Sample(ids, mask, np.zeros(len(ids), np.float32), advantage)
        old = np.zeros(len(ids), np.float32)
        old[mask] = logprobs(policy, bare).numpy()
        made.append(replace(bare, sampler_logprobs=old))
    return made


def test_an_update_moves_log_probabilities_towards_the_advantages(model_folder: Path) -> None:
    trainer = trainer_of(model_folder)
    samples = on_policy(trainer.policy, [0.5, -0.5, 0.5, -0.5])
    before = [float(logprobs(trainer.policy, s).sum()) for s in samples]
    metrics = trainer.train_step(samples)
    after = [float(logprobs(trainer.policy, s).sum()) for s in samples]
    for sample, old, new in zip(samples, before, after, strict=True):
        assert (new - old) * sample.advantage > 0.05, (sample.advantage, old, new)
    assert metrics["sampler_gap"] < 1e-5  # the first step is on-policy
    assert metrics["clipped_share"] == metrics["masked_share"] == 0
    assert metrics["num_loss_tokens"] == sum(s.num_loss_tokens for s in samples)
    assert metrics["loss"] == pytest.approx(0, abs=1e-5)  # -mean of the advantages at ratio 1
    assert metrics["grad_norm"] > 0


def gradients(folder: Path, microbatch_tokens: int) -> tuple[int, list[Tensor]]:
    trainer = trainer_of(folder, microbatch_tokens=microbatch_tokens, kl_coef=0.1)
    batches = make_batches(on_policy(trainer.policy, [0.5, -0.5, 0.3, -0.3, 0.1, -0.1]), microbatch_tokens, torch.device("cpu"))
    count = sum(b.num_loss_tokens for b in batches)
    for batch in batches:
        trainer.forward_backward(batch, trainer.loss, count)
    return len(batches), [p.grad for p in trainer.policy.model.parameters() if p.grad is not None]


def test_gradients_do_not_depend_on_the_split_in_microbatches(model_folder: Path) -> None:
    (one, whole), (many, parts) = gradients(model_folder, 10_000), gradients(model_folder, 30)
    assert (one, many) == (1, 5)
    assert len(whole) == len(parts) > 10
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


def test_metrics_do_not_depend_on_the_split_in_microbatches(model_folder: Path) -> None:
    results = []
    for limit in (10_000, 30):
        trainer = trainer_of(model_folder, microbatch_tokens=limit, kl_coef=0.1)
        samples = on_policy(tiny_policy(seed=5), [0.5, -0.5, 0.3, -0.3])
        results.append(trainer.train_step(samples))
    assert results[0]["sampler_gap"] > 0.01
    names = ("loss", "kl", "surprisal", "clipped_share", "masked_share", "grad_norm", "num_loss_tokens")
    for name in (*names, "sampler_gap", "sampler_gap_p99", "sampler_gap_max"):
        assert results[0][name] == pytest.approx(results[1][name], abs=2e-6, rel=1e-5), name


def test_the_gap_is_the_percentile_of_every_token_over_all_microbatches(model_folder: Path) -> None:
    """Tokens shifted by known amounts, unlike ones in different microbatches: no mean of the microbatches' own is right."""
    trainer = trainer_of(model_folder, microbatch_tokens=30)
    rng, shifts, shifted = np.random.default_rng(1), list[float](), list[Sample]()
    for i, sample in enumerate(on_policy(trainer.policy, [0.5, -0.5, 0.3, -0.3, 0.1, -0.1])):
        shift = np.where(sample.loss_mask, rng.normal(scale=0.01 * (1 + i), size=len(sample.token_ids)), 0)
        shifts += shift[sample.loss_mask].tolist()
        shifted.append(replace(sample, sampler_logprobs=(sample.sampler_logprobs + shift).astype(np.float32)))
    assert len(make_batches(shifted, 30, torch.device("cpu"), packed=trainer.padded_because is None)) > 2
    metrics = trainer.train_step(shifted)
    sizes = np.abs(shifts)
    assert metrics["num_loss_tokens"] == len(sizes) == 69
    assert metrics["sampler_gap"] == pytest.approx(sizes.mean(), abs=1e-6)
    assert metrics["sampler_gap_p99"] == pytest.approx(np.percentile(sizes, 99), abs=2e-6)
    assert metrics["sampler_gap_max"] == pytest.approx(sizes.max(), abs=2e-6)
    assert metrics["sampler_gap_p99"] < 0.99 * metrics["sampler_gap_max"]


@pytest.mark.parametrize("shift", [0.25, -0.25])
def test_a_sampler_that_is_off_by_a_constant(model_folder: Path, shift: float) -> None:
    trainer = trainer_of(model_folder)
    samples = on_policy(trainer.policy, [0.5, -0.5])
    metrics = trainer.train_step(
        [replace(s, sampler_logprobs=s.sampler_logprobs + np.where(s.loss_mask, np.float32(shift), 0)) for s in samples]
    )
    assert [metrics[key] for key in ("sampler_gap", "sampler_gap_p99", "sampler_gap_max")] == pytest.approx(
        [0.25] * 3, abs=5e-6
    )


def test_the_figures_of_a_gap() -> None:
    values = np.random.default_rng(0).permutation(1001).astype(np.float32)
    assert gap_metrics(values) == {"sampler_gap": 500.0, "sampler_gap_p99": 990.0, "sampler_gap_max": 1000.0}
    assert gap_metrics(np.array([0, 1], np.float32))["sampler_gap_p99"] == pytest.approx(0.99)  # linear between neighbours
    assert gap_metrics(np.array([2.5], np.float32))["sampler_gap_p99"] == 2.5


def test_publish_counts_versions_and_copies(model_folder: Path) -> None:
    trainer = trainer_of(model_folder)
    samples = on_policy(trainer.policy, [0.5, -0.5])
    first = trainer.publish()
    kept = {name: tensor.clone() for name, tensor in first.tensors.items()}
    trainer.train_step(samples)
    second = trainer.publish()
    assert (first.version, second.version, trainer.version) == (0, 1, 1)
    assert all(torch.equal(first.tensors[n], kept[n]) for n in kept), "published weights never change afterwards"
    assert any(not torch.equal(first.tensors[n], second.tensors[n]) for n in kept)
    other = tiny_policy(seed=3)
    other.load_weights(second.tensors)
    torch.testing.assert_close(logprobs(other, samples[0]), logprobs(trainer.policy, samples[0]), atol=0, rtol=0)


def test_a_gradient_that_is_not_finite_stops_before_the_update(model_folder: Path) -> None:
    trainer = trainer_of(model_folder)
    samples = on_policy(trainer.policy, [0.5, -0.5])
    before = {n: t.clone() for n, t in trainer.policy.weights().items()}
    with pytest.raises(FloatingPointError, match="not finite: advantage at 4 tokens"):
        trainer.train_step([replace(samples[0], advantage=float("nan")), samples[1]])
    with pytest.raises(FloatingPointError, match="policy version 0"):  # a finite loss whose gradient's norm overflows
        trainer.train_step([replace(samples[0], advantage=1e30), samples[1]])
    assert trainer.version == 0
    assert all(torch.equal(before[n], t) for n, t in trainer.policy.weights().items())


def test_kl_to_the_reference(model_folder: Path) -> None:
    """Zero at the first step, then above; the reference stays until it is refreshed, and never moves by itself."""
    trainer = trainer_of(model_folder, kl_coef=0.01, lr=3e-3)
    samples = on_policy(trainer.policy, [0.5, -0.5, 0.5, -0.5])
    assert trainer.reference is not None
    start = {n: t.clone() for n, t in trainer.reference.weights().items()}
    kls = []
    for step in range(4):
        kls.append(trainer.train_step(samples)["kl"])
        held = all(torch.equal(start[n], t) for n, t in trainer.reference.weights().items())
        assert held == (step < 2), "refreshed after three updates"
    assert kls[0] == pytest.approx(0, abs=1e-9)
    assert 1e-4 < kls[1] < kls[2]
    assert kls[3] == pytest.approx(0, abs=1e-9)  # measured against the policy as it was then: itself
    assert all(not p.requires_grad for p in trainer.reference.model.parameters())


def test_a_strong_kl_term_holds_the_policy_near_the_reference(model_folder: Path) -> None:
    def drift(kl_coef: float) -> float:
        trainer = trainer_of(model_folder, kl_coef=kl_coef, lr=1e-3)
        samples = on_policy(trainer.policy, [0.05, -0.05, 0.05, -0.05])
        for _ in range(3):
            metrics = trainer.train_step(samples)
        return metrics["kl"]

    assert drift(30.0) < 0.5 * drift(1e-6)


def test_dropout_is_off_in_training(tmp_path: Path) -> None:
    """The sampler has none, so with dropout the first step's ratio and KL would be off by noise."""
    tiny_policy("gpt2", n_embd=64, n_layer=2, n_head=4).save(tmp_path)
    trainer = trainer_of(tmp_path, kl_coef=0.01)
    assert trainer.policy.model.config.resid_pdrop == 0.1
    metrics = trainer.train_step(on_policy(trainer.policy, [0.5, -0.5]))
    assert metrics["sampler_gap"] < 1e-5
    assert metrics["kl"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_a_trainer_goes_on_from_its_state_bit_by_bit(model_folder: Path, tmp_path: Path, name: str) -> None:
    """Across a refresh of the reference, and with a schedule."""

    def make() -> Trainer:
        return trainer_of(model_folder, kl_coef=0.1, name=name, schedule="cosine", warmup_steps=2)

    whole, first = make(), make()
    samples = on_policy(whole.policy, [0.5, -0.5])
    steps = [whole.train_step(samples) for _ in range(7)]
    for _ in range(4):
        first.train_step(samples)
    first.save(tmp_path / "middle", with_state=True)
    second = make()
    second.load_state(tmp_path / "middle")
    again = [second.train_step(samples) for _ in range(3)]
    assert [untimed(s) for s in again] == [untimed(s) for s in steps[4:]]
    assert second.version == 7
    ends = whole.publish().tensors, second.publish().tensors
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def untimed(metrics: dict[str, float]) -> dict[str, float]:
    return {key: value for key, value in metrics.items() if not key.endswith("_s")}


@pytest.mark.parametrize("case", ["tied", "untied", "gemma2"])
def test_a_saved_folder_loads_with_transformers_and_gives_identical_logits(case: str, tmp_path: Path) -> None:
    config = {"untied": {"tie_word_embeddings": False}, "gemma2": {"final_logit_softcapping": 5.0}}.get(case, {})
    tiny_policy("gemma2" if case == "gemma2" else "qwen3", **config).save(tmp_path / "start")
    trainer = trainer_of(tmp_path / "start")
    samples = on_policy(trainer.policy, [0.5, -0.5])
    trainer.train_step(samples)
    trainer.save(tmp_path / "end", with_state=False)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "end")
    assert plain.config.tie_word_embeddings == (case != "untied")
    ids = torch.from_numpy(samples[1].token_ids[None].astype(np.int64))
    trainer.policy.model.eval()
    with torch.no_grad():
        expected = trainer.policy.model(input_ids=ids).logits
        assert torch.equal(plain(input_ids=ids).logits, expected)
        torch.testing.assert_close(trainer.policy.head.logits(trainer.policy.hidden_states(ids)), expected)
    assert case != "gemma2" or (trainer.policy.head.softcap == 5.0 and float(expected.abs().max()) < 5.0)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "end")
    assert tokenizer.chat_template == trainer.policy.tokenizer.chat_template
