"""Models and data sets as the hub has them: folders of five families through loading, one SFT step, one GRPO step, saving."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from recipes.cli import main
from rewards.errors import UserError
from rewards.task import Demonstration, Effort, Message, Role, Task
from rewards.transcript import parse_completion
from rl.checkpoint import last_checkpoint
from rl.config import ModelConfig
from rl.policy import load_policy
from rl.tokenizer import fingerprint, load_tokenizer
from specialists.config import ColumnsConfig, SourceConfig
from specialists.datasets import load_dataset_examples
from tests.hub_folders import FAMILIES, TEXTS, write_data, write_model, write_problems

datasets.disable_progress_bars()
everywhere = pytest.mark.parametrize("name", FAMILIES)
RECIPE = """
name: tiny
model: {{path: {model}, {more}}}
data:
  sources:
    - dataset: {data}
      subset: main
      eval_split: test
      columns: {{prompt: question, response: answer, answer_after: "####"}}
stages:
  - {{kind: sft, steps: 1, batch_size: 4, evaluate: false}}
  - {{kind: grpo, steps: 1, num_prompts: 2, group_size: 4, sampling: {{max_tokens: 8}}}}
optimizer: {{name: adamw, lr: 1e-3}}
rewards:
  - use: varied.py:letters
engine: {{max_batch_size: 8, max_seq_len: 256}}
runtime: {{mode: inline, num_threads: 1}}
evaluation: {{num_tasks: 2, sampling: {{max_tokens: 4}}}}
"""
REWARD = "def letters(task, completion):\n    return len(set(completion)) / 10\n"
QUESTIONS: list[list[dict[str, str]]] = [
    [{"role": "user", "content": TEXTS[1]}],
    [
        {"role": "user", "content": " two\n\nlines "},
        {"role": "assistant", "content": "5"},
        {"role": "user", "content": "½ 数 🙂"},
    ],
]


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All families' folders and a data set's; datasets' own cache beside them."""
    root = tmp_path_factory.mktemp("hub")
    for name, family in FAMILIES.items():
        write_model(root / name, family)
    write_data(root / "data")
    return root


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def expected_ids(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], **settings: Any) -> list[int]:
    found = tokenizer.apply_chat_template(messages, add_generation_prompt=True, **settings)
    return list(found["input_ids"])


def as_messages(messages: list[dict[str, str]]) -> list[Message]:
    return [Message(Role(m["role"]), m["content"]) for m in messages]


@everywhere
def test_a_folder_loads_as_it_is(name: str, hub: Path) -> None:
    folder = hub / name
    policy = load_policy(folder, ModelConfig(path=str(folder)))
    plain, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    assert plain.dtype is torch.bfloat16  # what the folder says
    assert {p.dtype for p in policy.model.parameters()} == {torch.float32}
    weights = policy.weights()
    assert all(torch.equal(p.float(), weights[n]) for n, p in plain.named_parameters())
    raw = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text in [*TEXTS, "  a  b\n\n\tc 12345", "<|im_end|><eos></s> [INST]"]:
        assert policy.tokenizer(text, add_special_tokens=False)["input_ids"] == raw.encode(text, add_special_tokens=False).ids
    for messages in QUESTIONS:
        assert policy.chat.prompt_ids(as_messages(messages)) == expected_ids(tokenizer, messages)
    family = FAMILIES[name]
    ends = {*family.turn_ends, "<|im_end|>"} if name == "qwen3_base" else set(family.turn_ends)
    assert policy.chat.stop_ids == set(tokenizer.convert_tokens_to_ids(sorted(ends)))
    shown = policy.chat.demonstration(
        Demonstration(Task("t", "math", (Message(Role.USER, "2+3"),)), Message(Role.ASSISTANT, "5"))
    )
    answer = tokenizer.decode([t for t, m in zip(shown.token_ids, shown.loss_mask, strict=True) if m]).strip()
    assert answer.endswith("5" + tokenizer.convert_ids_to_tokens(shown.token_ids[-1]))


def test_thinking_templates_open_and_close_thinking_as_asked(hub: Path) -> None:
    chat = load_policy(hub / "qwen3", ModelConfig(path="-")).chat
    tokenizer = AutoTokenizer.from_pretrained(hub / "qwen3")
    question = QUESTIONS[0]
    closed = chat.prompt_ids(as_messages(question), Effort.NONE)
    assert closed == expected_ids(tokenizer, question, enable_thinking=False)
    assert chat.completion_text(closed, tokenizer("5")["input_ids"]) == "5"
    task = Task("t", "math", tuple(as_messages(question)))
    shown = chat.demonstration(Demonstration(task, Message(Role.ASSISTANT, "12-2=10", "3*4=12")))
    assert tokenizer.decode(shown.token_ids).endswith("<think>\n3*4=12\n</think>\n\n12-2=10<|im_end|>")
    prompt = chat.prompt_ids(task.messages)
    text = chat.completion_text(prompt, shown.token_ids[len(prompt) :])
    assert parse_completion(text) == Message(Role.ASSISTANT, "12-2=10", "3*4=12")


@pytest.mark.slow
def test_the_gpu_recipe_runs_on_folders_like_the_hubs(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["stages.grpo.steps=1", "stages.grpo.num_prompts=2", "stages.grpo.sampling.max_tokens=8", "evaluation.num_tasks=2"]
    small += ["evaluation.sampling.max_tokens=4", "runtime=inline", "runtime.num_threads=1", "engine.max_batch_size=8"]
    folders = [f"model.path={hub / 'qwen3_base'}", f"data.sources.0.dataset={hub / 'data'}"]
    assert main(["run", "gpu/math_qwen3", *folders, *small]) == 0
    events = [json.loads(line) for line in (tmp_path / "runs/math_qwen3/events.jsonl").read_text().splitlines()]
    [sample] = [e for e in events if e["event"] == "sample"]
    assert sample["prompt"].endswith("How many?\n\nReason step by step, and put your final answer within \\boxed{}.")
    assert sample["answer"].isdigit()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bubblewrap: apt-get install bubblewrap")
def test_the_coding_gpu_recipe_runs_on_folders_like_the_hubs(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    problems = write_problems(tmp_path / "problems")
    small = ["stages.grpo.steps=1", "stages.grpo.num_prompts=2", "stages.grpo.group_size=2", "evaluation.num_tasks=2"]
    small += [
        "stages.grpo.sampling.max_tokens=8",
        "evaluation.sampling.max_tokens=4",
        "runtime=inline",
        "runtime.num_threads=1",
    ]
    small += ["engine.max_batch_size=8", "rewards.0.timeout_s=280"]
    folders = [f"model.path={hub / 'qwen3_base'}", f"data.sources.0.dataset={problems}"]
    assert main(["run", "gpu/code_qwen3", *folders, *small]) == 0
    events = [json.loads(line) for line in (tmp_path / "runs/code_qwen3/events.jsonl").read_text().splitlines()]
    [sample] = [e for e in events if e["event"] == "sample"]
    assert re.search(r"tests such as this one:\nassert above_\d+\(\[\]\) == \(\)$", sample["prompt"])
    assert sample["answer"].startswith("def above_")
    assert sample["reward"] == 0.0  # a random model's text was run, and was no program
    assert [e["num_failed"] for e in events if e["event"] == "evaluation"] == [0, 0]


def test_ids_beyond_the_tokenizer_have_no_text(hub: Path) -> None:
    """Published embeddings are padded beyond the vocabulary, and a random model samples those rows too."""
    policy = load_policy(hub / "qwen3", ModelConfig(path="-"))
    size = policy.model.config.vocab_size
    assert size > len(policy.tokenizer)
    [five] = policy.tokenizer("5")["input_ids"]
    assert policy.chat.completion_text(policy.chat.prompt_ids(as_messages(QUESTIONS[0])), [size - 1, five, size - 2]) == "5"


def test_a_generation_config_that_transformers_would_not_save_again_loses_no_checkpoint(tmp_path: Path) -> None:
    """Some published ones set a temperature beside `do_sample: false`."""
    family = replace(FAMILIES["llama3"], sampling={"do_sample": False, "temperature": 0.6, "top_p": 0.9})
    policy = load_policy(write_model(tmp_path / "model", family), ModelConfig(path="-"))
    policy.save(tmp_path / "saved")
    declared, kept = (json.loads((tmp_path / f / "generation_config.json").read_text()) for f in ("model", "saved"))
    assert kept["eos_token_id"] == declared["eos_token_id"]
    assert "temperature" not in kept


def test_a_model_that_is_not_there_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="its tokenizer cannot be loaded"):
        load_tokenizer(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["gemma3", "mixtral"])
def test_a_role_that_the_template_does_not_know_is_the_users_error(name: str, hub: Path) -> None:
    chat = load_policy(hub / name, ModelConfig(path="-")).chat
    with pytest.raises(UserError, match="refuses a conversation of the roles system, user"):
        chat.prompt_ids([Message(Role.SYSTEM, "s"), Message(Role.USER, "u")])


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_a_data_sets_folder_gives_its_own_splits(kind: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = write_data(tmp_path_factory.mktemp("sums") / kind, kind)
    columns = ColumnsConfig(prompt="question", answer_after="####")
    source = SourceConfig(dataset=str(folder), subset="main", eval_split="test", columns=columns)
    train, held_out = load_dataset_examples(source, 0.1, domain="math")
    assert (len(train), len(held_out)) == (60, 60)
    assert train[9].task.answer == "7"
    assert held_out[0].prompt == "Tom has 60 apples and eats 4. How many?"


@pytest.mark.slow
@pytest.mark.parametrize("more", ["dtype: float32", "dtype: bfloat16, lora: {rank: 4}"], ids=["full", "lora"])
@everywhere
def test_one_step_of_each_kind_and_a_checkpoint_that_loads(
    name: str, more: str, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "varied.py").write_text(REWARD)
    (tmp_path / "tiny.yaml").write_text(RECIPE.format(model=hub / name, data=hub / "data", more=more))
    assert main(["run", "tiny.yaml"]) == 0
    run, original = tmp_path / "runs" / "tiny", hub / name
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["stage"] for row in rows] == ["sft", "grpo"]
    assert rows[1]["num_groups_without_signal"] == 0
    assert rows[1]["grad_norm"] > 0
    assert rows[1]["sampler_gap"] < (0.1 if "bfloat16" in more else 1e-4)

    saved = last_checkpoint(run)
    after_sft = saved.with_name("step-1")
    assert saved.name == "step-2"
    states = [AutoModelForCausalLM.from_pretrained(f, dtype=torch.float32).state_dict() for f in (original, after_sft, saved)]
    assert states[0].keys() == states[1].keys() == states[2].keys()
    for before, after in (states[:2], states[1:]):
        changed = {key.rpartition(".")[0].rpartition(".")[2] for key in before if not torch.equal(before[key], after[key])}
        assert {"q_proj", "o_proj"} <= changed
        assert ("embed_tokens" in changed) == ("lora" not in more)

    old, new = AutoTokenizer.from_pretrained(original), AutoTokenizer.from_pretrained(saved)
    assert new.chat_template == old.chat_template
    assert fingerprint(new) == fingerprint(old)
    assert (new.bos_token, new.eos_token) == (old.bos_token, old.eos_token)
    for messages in QUESTIONS:
        assert expected_ids(new, messages) == expected_ids(old, messages)
    declared, kept = (json.loads((f / "generation_config.json").read_text()) for f in (original, saved))
    if name == "qwen3_base":  # what ended turns in training ends them where the checkpoint is served
        declared["eos_token_id"] = sorted(old.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"]))
    kept["transformers_version"] = declared["transformers_version"]
    assert declared.items() <= kept.items()
    assert (saved / "adapter" / "adapter_config.json").is_file() == ("lora" in more)
