"""Making, loading and splitting models: many architectures, wrong configs, folders that cannot be used."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from rewards.errors import UserError
from rl.config import InitConfig, ModelConfig
from rl.head import Head
from rl.policy import Policy, init_policy, load_policy
from rl.tokenizer import fingerprint, load_tokenizer, train_tokenizer
from tests.conftest import TEXTS, TINY, tiny_policy

CONFIGS: dict[str, dict[str, Any]] = {
    "qwen3": {},
    "llama": {},
    "gemma3_text": {"sliding_window": 8},
    "gemma2": {"final_logit_softcapping": 4.0},
    "mixtral": {"num_local_experts": 4},
    "granite": {"logits_scaling": 3.0},
    "cohere": {"logit_scale": 0.25},
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4},
    "phi": {"tie_word_embeddings": False},  # its head has a bias
}


@pytest.mark.parametrize("architecture", CONFIGS)
def test_body_and_head_are_the_model(architecture: str) -> None:
    """Also with weights that are not as at the start: every bias and scale away from its neutral value."""
    policy = tiny_policy(architecture, **CONFIGS[architecture])
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        ids = torch.randint(0, 256, (2, 11), generator=generator)
        expected = policy.model(input_ids=ids).logits
        got = policy.head.logits(policy.hidden_states(ids, use_cache=False))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    head = policy.head
    found = head.scale, head.softcap, head.bias_V is not None
    assert found == {
        "granite": (1 / 3, None, False),
        "cohere": (0.25, None, False),
        "gemma2": (1.0, 4.0, False),
        "phi": (1.0, None, True),
    }.get(architecture, (1.0, None, False))


@pytest.mark.parametrize("architecture", ["qwen3", "llama", "gemma3_text", "mixtral"])
def test_a_local_folder_in_hub_layout_loads(architecture: str, tmp_path: Path) -> None:
    """Written by transformers alone, in bfloat16 as most hub models are; it comes up in float32 with the same weights."""
    made = tiny_policy(architecture, **CONFIGS[architecture])
    made.model.to(torch.bfloat16).save_pretrained(tmp_path)
    made.tokenizer.save_pretrained(tmp_path)
    policy = load_policy(tmp_path, ModelConfig(path=str(tmp_path)))
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert {p.dtype for p in policy.model.parameters()} == {torch.float32}
    for name, parameter in plain.named_parameters():
        assert torch.equal(policy.weights()[name], parameter.detach()), name
    assert policy.chat.stop_ids == {policy.tokenizer.eos_token_id}
    assert fingerprint(policy.tokenizer) == fingerprint(made.tokenizer)


def test_threads_may_load_side_by_side(model_folder: Path) -> None:
    """As the rollout workers of an inline run do."""
    with ThreadPoolExecutor(4) as pool:
        loaded = list(pool.map(lambda _: load_policy(model_folder, ModelConfig(path=str(model_folder))).weights(), range(8)))
    assert all(torch.equal(loaded[0][name], weights[name]) for weights in loaded for name in loaded[0])


def test_all_declared_ends_of_a_turn_stop(tmp_path: Path) -> None:
    made = tiny_policy()
    made.model.generation_config.eos_token_id = [1, 5]
    made.save(tmp_path)
    assert load_policy(tmp_path, ModelConfig(path=str(tmp_path))).chat.stop_ids == {1, 5}


@pytest.mark.parametrize(
    ("architecture", "config"),
    [
        ("nope", {}),
        ("vit", {}),  # no causal language model
        ("t5", {}),
        ("bert", {}),  # something else between body and logits
        ("qwen3", {"hidden_size": "abc"}),
        ("qwen3", {"hidden_size": -4}),
        ("qwen3", {"head_dim": 15}),
        ("qwen3", {"num_attention_heads": 0}),
        ("qwen3", {"num_key_value_heads": 3}),  # fails only when the model runs
        ("qwen3", {"hidden_act": "zzz"}),
        ("qwen3", {"rope_parameters": 3}),
        ("llama", {"num_attention_heads": 5, "head_dim": None}),
        ("mixtral", {"num_local_experts": 0}),
    ],
)
def test_a_config_that_makes_no_model_is_the_users_error(architecture: str, config: dict[str, Any]) -> None:
    init = InitConfig(architecture=architecture, config={**TINY, **config})
    with pytest.raises(UserError, match=architecture):
        init_policy(init, train_tokenizer(TEXTS, 512), ModelConfig(path="-"), seed=0)


def test_the_seed_makes_the_weights() -> None:
    a, b, c = tiny_policy(seed=1).weights(), tiny_policy(seed=1).weights(), tiny_policy(seed=2).weights()
    assert all(torch.equal(a[n], b[n]) for n in a)
    assert any(not torch.equal(a[n], c[n]) for n in a)


def test_an_architecture_whose_logits_differ_is_refused(monkeypatch: pytest.MonkeyPatch, model_folder: Path) -> None:
    true_head = Policy.head.fget  # type: ignore[attr-defined]

    def scaled(policy: Policy) -> Head:
        head: Head = true_head(policy)
        return Head(head.weight_VD, head.bias_V, 1.5, head.softcap)

    monkeypatch.setattr(Policy, "head", property(scaled))
    with pytest.raises(UserError, match="'qwen3' computes its logits"):
        load_policy(model_folder, ModelConfig(path=str(model_folder)))


def test_a_tokenizer_without_a_chat_template_is_the_users_error(model_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(model_folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="no chat template"):
        load_policy(tmp_path, ModelConfig(path=str(tmp_path)))


def test_a_tokenizer_without_an_end_token_is_the_users_error(model_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(model_folder, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in config.items() if k not in ("eos_token", "pad_token")}))
    with pytest.raises(UserError, match="eos_token"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "config"])
def test_a_folder_that_holds_no_usable_model_is_the_users_error(damage: str, model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    if damage == "empty":
        folder.mkdir()
    elif damage != "missing":
        shutil.copytree(model_folder, folder)
    if damage == "truncated":
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:1000])
    if damage == "config":
        (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_policy(folder, ModelConfig(path=str(folder)))


def test_weights_of_another_model_change_nothing() -> None:
    policy = tiny_policy()
    before = {n: t.clone() for n, t in policy.weights().items()}
    broken = {n: torch.zeros_like(t) for n, t in before.items() if "norm" not in n}
    with pytest.raises(ValueError, match="differing names"):
        policy.load_weights(broken)
    assert all(torch.equal(before[n], t) for n, t in policy.weights().items())


@pytest.mark.parametrize(
    ("init", "named"),
    [
        (InitConfig(config={"hiden_size": 64}), "got 'hiden_size'.*did you mean 'hidden_size'"),
        (InitConfig(architecture="qwen33"), "got 'qwen33'.*did you mean 'qwen3'"),
    ],
)
def test_a_misspelt_config_is_named_with_its_nearest(init: InitConfig, named: str) -> None:
    with pytest.raises(UserError, match=named):
        init_policy(init, train_tokenizer(TEXTS, 512), ModelConfig(path="-"), seed=0)
