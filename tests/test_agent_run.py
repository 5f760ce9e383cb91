"""A whole run with a tool of the user's own: learned from data in OpenAI's shape, called in rollouts, recorded to the token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.test_run import polymath, rows

pytestmark = pytest.mark.slow

TOOL = '''
def price(item: str) -> int:
    """What an item costs.

    item: its name
    """
    return sum(map(ord, item)) % 50
'''
RECIPE = """
name: prices
domain: agent
model:
  init:
    config: {hidden_size: 64, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2, head_dim: 16,
             intermediate_size: 128, tie_word_embeddings: true, max_position_embeddings: 512}
    tokenizer_vocab_size: 400
  chat: {wording: words.yaml}
data:
  sources: [{dataset: tasks.jsonl, columns: {messages: messages}}]
  held_out_share: 0.2
tools: [{use: "tools.py:price"}]
rollout: {max_turns: 4, max_tokens: 80}
stages:
  - {kind: sft, name: sft, steps: 120, batch_size: 16, max_length: 128, optimizer: {lr: 1e-2, schedule: cosine}}
  - kind: grpo
    name: grpo
    steps: 2
    num_prompts: 4
    group_size: 6
    sampling: {max_tokens: 40}
    optimizer: {lr: 1e-4}
rewards: [{use: "rewards.math:verify"}]
evaluation: {num_tasks: 20, num_tasks_during: 8, sampling: {max_tokens: 40}}
engine: {max_seq_len: 256}
runtime: {mode: inline, num_threads: 1}
"""
WORDS = "tools: 'Tools: {names}.'\nmax: Think long.\nscalar: 'Effort {effort}.'\n"
CONSONANTS, VOWELS = "bdfgklmnprst", "aeiou"


def row(item: str) -> dict[str, Any]:
    cost = str(sum(map(ord, item)) % 50)
    call = {"id": "1", "type": "function", "function": {"name": "price", "arguments": json.dumps({"item": item})}}
    asked = {"role": "assistant", "content": "", "reasoning_content": f"look {item}", "tool_calls": [call]}
    said = {"role": "assistant", "content": cost, "reasoning_content": "so"}
    result = {"role": "tool", "tool_call_id": "1", "content": cost}
    return {"messages": [{"role": "user", "content": f"{item}?"}, asked, result, said], "answer": cost}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("agent")
    items = [a + b for a in CONSONANTS for b in VOWELS]
    (folder / "tasks.jsonl").write_text("".join(json.dumps(row(item)) + "\n" for item in items))
    (folder / "tools.py").write_text(TOOL)
    (folder / "words.yaml").write_text(WORDS)
    (folder / "prices.yaml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    polymath(folder, "run", "prices.yaml")
    return folder / "runs" / "prices"


def test_tools_are_called_and_what_was_sampled_is_trained(run: Path) -> None:
    steps = [r for r in rows(run, "metrics.jsonl") if r["stage"] == "grpo"]
    assert len(steps) == 2
    for step in steps:
        assert step["agent/calls_mean"] > 0.3
        assert step["agent/reasoning_kept_share"] == 1.0
        assert step["agent/failed_share"] == 0
    gaps = [step["sampler_gap_max"] for step in steps if "sampler_gap_max" in step]  # of steps that trained
    assert gaps, "the case needs one"
    assert max(gaps) < 1e-4  # in float32, over all turns and the results between them


def test_a_run_says_what_it_thought_called_and_got(run: Path) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    assert (manifest["thinking"], manifest["tools"], manifest["effort"]) == ("interleaved", ["price"], "high")
    last = rows(run, "events.jsonl")
    evaluation = [r for r in last if r["event"] == "evaluation"][-1]
    assert evaluation["agent"]["calls_mean"] > 0.3
    shown = [r for path in (run / "evaluations").iterdir() for r in rows(path.parent, path.name)]
    called = next(r for r in shown if any(m.get("tool_calls") for m in r.get("messages", ())))
    assert {m["role"] for m in called["messages"]} == {"assistant", "tool"}
    assert "Tools and thinking" in (run / "report.html").read_text()


def test_the_trained_model_is_measured_and_talked_to_with_its_tools(run: Path, folder: Path) -> None:
    out = polymath(folder, "eval", str(run), "prices.yaml", "--json")
    found, _ = json.JSONDecoder().raw_decode(out[out.index("{") :])
    assert found["agent"]["calls_mean"] > 0.3
    out = polymath(folder, "chat", "prices", "--max-tokens", "40")
    assert "tools price" in out


def test_bfloat16_agrees_less_but_agrees(folder: Path) -> None:
    polymath(folder, "run", "prices.yaml", "model.dtype=bfloat16", "--name", "narrow", "stages.sft.steps=60")
    steps = [r for r in rows(folder / "runs" / "narrow", "metrics.jsonl") if "sampler_gap" in r]
    assert steps
    assert all(step["sampler_gap"] < 0.02 for step in steps)


def test_the_same_run_on_ray(folder: Path) -> None:
    polymath(folder, "run", "prices.yaml", "runtime=ray", "--name", "spread", "stages.sft.steps=40", "stages.grpo.steps=1")
    steps = [r for r in rows(folder / "runs" / "spread", "metrics.jsonl") if r["stage"] == "grpo"]
    assert steps[0]["agent/failed_share"] == 0
