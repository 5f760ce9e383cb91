"""LoRA: adapters alone are trained, and whatever leaves the trainer is the merged model, as peft itself would merge it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from rewards.errors import UserError
from rl.config import GrpoConfig, LoraConfig, ModelConfig, OptimizerConfig
from rl.policy import Policy, load_policy
from rl.rounded import with_fast_products
from rl.trainer import Trainer
from rl.workers import TrainerSpec
from tests.conftest import tiny_policy
from tests.test_policy import CONFIGS
from tests.test_sft import demonstration, job_of, run
from tests.test_trainer import on_policy

LORA = ModelConfig(path="-", lora=LoraConfig(rank=4))
PLAIN = ModelConfig(path="-")
ADAMW = OptimizerConfig(name="adamw", lr=1e-2)
MODELS: dict[str, dict[str, Any]] = {
    **{name: CONFIGS[name] for name in ("qwen3", "gemma2", "mixtral", "gpt2", "phi")},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
}
ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
IDS = torch.arange(5, 25)[None]


def made(folder: Path, architecture: str = "qwen3") -> Path:
    tiny_policy(architecture, **MODELS[architecture]).save(folder)
    return folder


def trainer_of(folder: Path, model: ModelConfig = LORA) -> Trainer:
    return TrainerSpec(str(folder), model, ADAMW, GrpoConfig(steps=10)).build()


def trained(folder: Path, model: ModelConfig = LORA, steps: int = 2) -> Trainer:
    trainer = trainer_of(folder, model)
    for seed in range(steps):
        trainer.train_step(on_policy(trainer.policy, [0.5, -0.5, 0.5, -0.5], seed=seed))
    return trainer


@torch.no_grad()
def logits(model: torch.nn.Module) -> Tensor:
    found: Tensor = model.eval()(input_ids=IDS).logits
    return found


def targets(policy: Policy) -> set[str]:
    return {name.split(".lora_")[0].rpartition(".")[2] for name in policy.trainable_state()}


@pytest.mark.parametrize("architecture", MODELS)
def test_adapters_alone_are_trained_and_weights_and_checkpoints_are_merged(architecture: str, tmp_path: Path) -> None:
    base = made(tmp_path / "base", architecture)
    start = load_policy(base, PLAIN)
    trainer = trained(base)
    policy = trainer.policy
    assert all(".lora_" in name for name in policy.trainable_state())
    assert len({id(p) for p in policy.model.parameters() if p.requires_grad}) == len(policy.trainable_state()) > 8
    expected = logits(policy.model)
    assert not torch.allclose(expected, logits(start.model), atol=1e-3)

    engine = load_policy(base, PLAIN)
    engine.load_weights(trainer.publish().tensors)  # refuses any other set of names
    torch.testing.assert_close(logits(engine.model), expected, atol=1e-5, rtol=1e-5)
    changed = {name for name, tensor in engine.weights().items() if not torch.equal(tensor, start.weights()[name])}
    assert {name.split(".")[-2] for name in changed} == targets(policy)

    trainer.save(tmp_path / "saved", with_state=False)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    torch.testing.assert_close(logits(plain), expected, atol=1e-5, rtol=1e-5)
    assert all(torch.equal(tensor, engine.weights()[name]) for name, tensor in plain.named_parameters())
    peft_model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "saved" / "adapter")
    torch.testing.assert_close(logits(peft_model), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("architecture", "found"),
    [
        ("qwen3", ATTENTION | {"gate_proj", "up_proj", "down_proj"}),
        ("gpt2", {"c_attn", "c_proj", "c_fc"}),
        ("mixtral", ATTENTION),  # not the experts' stacked weights, nor the router
        ("qwen3_moe", ATTENTION),
        ("phi", {"q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"}),
    ],
)
def test_every_linear_layer_but_the_head_is_adapted(architecture: str, found: set[str], tmp_path: Path) -> None:
    policy = load_policy(made(tmp_path, architecture), LORA)
    assert targets(policy) == found
    named = replace(LORA, lora=LoraConfig(rank=2, target_modules=(min(found),)))
    assert targets(load_policy(tmp_path, named)) == {min(found)}


@pytest.mark.parametrize(
    ("architecture", "name", "wanted"),
    [
        ("qwen3", "lm_head", "the output head, whose own weight"),
        ("qwen3", "embed_tokens", "an embedding, which stays frozen"),
        ("qwen3", "q_norm", "a Qwen3RMSNorm"),
        ("qwen3", "q_porj", "does not have; allowed: .*did you mean 'q_proj'"),
        ("qwen3_moe", "experts", "a Qwen3MoeExperts, which can carry no adapter here; allowed: k_proj, o_proj, q_proj, v_proj"),
        ("qwen3_moe", "gate_up_proj", "which the model does not have"),
        ("qwen3_moe", "gate", "a Qwen3MoeTopKRouter"),
    ],
)
def test_what_can_carry_no_adapter_is_named(architecture: str, name: str, wanted: str, tmp_path: Path) -> None:
    config = replace(LORA, lora=LoraConfig(target_modules=("q_proj", name)))
    with pytest.raises(UserError, match=f"model.lora.target_modules: got '{name}', .*{wanted}"):
        load_policy(made(tmp_path, architecture), config)


def test_linear_layers_that_peft_takes_for_experts_are_left_alone(tmp_path: Path) -> None:
    """A model with one dense layer below its experts: peft would read `gate_proj` as the experts' stacked weights."""
    tiny_policy("qwen3_moe", **MODELS["qwen3_moe"], mlp_only_layers=[0]).save(tmp_path)
    assert targets(load_policy(tmp_path, LORA)) == ATTENTION
    with pytest.raises(UserError, match="got 'gate_proj'"):
        load_policy(tmp_path, replace(LORA, lora=LoraConfig(target_modules=("gate_proj",))))


def test_every_process_starts_from_the_same_adapters_and_the_models_own_output(model_folder: Path) -> None:
    torch.manual_seed(1)
    a = load_policy(model_folder, LORA)
    before = torch.random.get_rng_state()
    b = load_policy(model_folder, LORA)
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(tensor, b.trainable_state()[name]) for name, tensor in a.trainable_state().items())
    assert torch.equal(logits(a.model), logits(load_policy(model_folder, PLAIN).model))


def test_muon_is_refused_and_names_adamw(model_folder: Path) -> None:
    with pytest.raises(UserError, match=r"optimizer\.name: got muon.*allowed: adamw"):
        TrainerSpec(str(model_folder), LORA, OptimizerConfig(), GrpoConfig()).build()


def test_a_frozen_copy_keeps_still_and_shares_the_base(model_folder: Path) -> None:
    trainer = trained(model_folder)
    reference, expected = trainer.policy.frozen_copy(), logits(trainer.policy.model)
    trainer.train_step(on_policy(trainer.policy, [0.5, -0.5], seed=7))
    assert torch.equal(logits(reference.model), expected)
    assert not torch.equal(logits(trainer.policy.model), expected)
    assert not any(p.requires_grad for p in reference.model.parameters())
    mine = {p.data_ptr() for p in trainer.policy.model.parameters()}
    own = {name for name, p in reference.model.named_parameters() if p.data_ptr() not in mine}
    assert own == trainer.policy.trainable_state().keys()
    full = trainer_of(model_folder, PLAIN).policy
    assert not {p.data_ptr() for p in full.model.parameters()} & {p.data_ptr() for p in full.frozen_copy().model.parameters()}


@pytest.mark.parametrize("model", [LORA, PLAIN], ids=["lora", "plain"])
def test_the_trained_state_over_the_same_source_is_the_policy(model: ModelConfig, model_folder: Path) -> None:
    policy = trained(model_folder, model).policy
    again = load_policy(policy.source, model)
    again.load_trainable_state({name: tensor.clone() for name, tensor in policy.trainable_state().items()})
    assert torch.equal(logits(again.model), logits(policy.model))
    with pytest.raises(ValueError, match="differing names"):
        again.load_trainable_state({})


def test_frozen_layers_in_bfloat16_change_nothing_that_autocast_computes(model_folder: Path) -> None:
    """They take half the memory; what is trained stays in float32, and so do the merged weights."""
    wide = with_fast_products(load_policy(model_folder, replace(PLAIN, dtype="bfloat16")))
    trainer = trainer_of(model_folder, replace(LORA, dtype="bfloat16"))
    policy = trainer.policy
    dtypes = {name: p.dtype for name, p in policy.model.named_parameters()}
    assert {d for n, d in dtypes.items() if ".base_layer." in n} == {torch.bfloat16}
    assert {d for n, d in dtypes.items() if ".base_layer." not in n} == {torch.float32}
    with torch.no_grad():
        assert torch.equal(policy.hidden_states(IDS), wide.hidden_states(IDS))
    metrics = trainer.train_step(on_policy(policy, [0.5, -0.5]))
    assert metrics["grad_norm"] > 0
    assert {tensor.dtype for tensor in policy.weights().values()} == {torch.float32}


def test_a_supervised_stage_trains_adapters_and_the_next_begins_with_fresh_ones(model_folder: Path, tmp_path: Path) -> None:
    shown = [demonstration(i % 4) for i in range(20)]
    job = job_of(model_folder, tmp_path / "sft", shown, batch_size=4)
    _, rows, folders = run(replace(job, model=LORA))
    end = folders[5]
    assert rows[-1]["loss"] < rows[0]["loss"]
    start, saved = load_policy(model_folder, PLAIN).weights(), load_policy(end, PLAIN)
    changed = {name.split(".")[-2] for name, tensor in saved.weights().items() if not torch.equal(tensor, start[name])}
    assert changed == ATTENTION | {"gate_proj", "up_proj", "down_proj"}
    following = load_policy(end, LORA)
    assert not any(tensor.any() for name, tensor in following.trainable_state().items() if ".lora_B." in name)
    assert torch.equal(logits(following.model), logits(saved.model))
    assert following.source == str(end)


def test_adapters_resume_bit_by_bit(model_folder: Path, tmp_path: Path) -> None:
    """Over a bfloat16 base, where going on from merged weights would round."""
    model = replace(LORA, dtype="bfloat16")
    whole, first = trained(model_folder, model, steps=4), trained(model_folder, model)
    first.save(tmp_path / "middle", with_state=True)
    second = trainer_of(model_folder, model)
    second.load_state(tmp_path / "middle")
    for seed in (2, 3):
        second.train_step(on_policy(second.policy, [0.5, -0.5, 0.5, -0.5], seed=seed))
    ends = whole.publish().tensors, second.publish().tensors
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
