"""A supervised stage through TRL on the tiny model: loss falls on the assistant's tokens alone, in the data's order."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from rewards.errors import UserError
from rewards.task import Demonstration, Message, Role, Task
from rl.config import ModelConfig, OptimizerConfig
from rl.policy import Policy, load_policy
from rl.training_state import FILE as TRAINING_STATE
from rl.workers import Event
from specialists.config import SftConfig
from specialists.sft import SftJob
from specialists.trl_trainer import IGNORED, encode
from tests.conftest import tiny_policy

ADAMW = OptimizerConfig(name="adamw", lr=1e-2, weight_decay=0.0)


def demonstration(i: int) -> Demonstration:
    task = Task(f"t{i}", "math", (Message(Role.USER, f"What is {i} + {i}?"),))
    return Demonstration(task, Message(Role.ASSISTANT, str(2 * i), f"{i}+{i}={2 * i}"))


def job_of(source: Path, target: Path, shown: Sequence[Demonstration], *, batch_size: int, **stage: object) -> SftJob:
    settings = {"kind": "sft", "steps": len(shown) // batch_size, "batch_size": batch_size, **stage}
    model = ModelConfig(path=str(source))
    return SftJob(str(source), str(target), model, ADAMW, SftConfig(**settings), shown, seed=0)  # type: ignore[arg-type]


def run(job: SftJob, stopped: Callable[[], bool] = lambda: False) -> tuple[int, list[Event], dict[int, Path]]:
    """The steps done, the rows of metrics, and the folders that were saved, by step."""
    events: list[Event] = []
    num_steps = job.run(events.append, stopped)
    saved = {e["step"]: Path(e["saved"]) for e in events if "saved" in e}
    return num_steps, [e for e in events if "saved" not in e], saved


def mean_loss(policy: Policy, shown: Sequence[Demonstration]) -> float:
    """Cross-entropy over the assistant's tokens, one plain forward for each demonstration."""
    losses: list[float] = []
    for one in shown:
        encoded = policy.chat.demonstration(one)
        ids = torch.tensor([encoded.token_ids])
        with torch.no_grad():
            logprobs = policy.model(input_ids=ids).logits[0].log_softmax(-1)
        losses += [-float(logprobs[t - 1, ids[0, t]]) for t in range(1, ids.shape[1]) if encoded.loss_mask[t]]
    return float(np.mean(losses))


def test_a_stage_learns_reports_and_saves(model_folder: Path, tmp_path: Path) -> None:
    shown = [demonstration(i % 4) for i in range(15 * 4)]
    job = pickle.loads(pickle.dumps(job_of(model_folder, tmp_path / "out", shown, batch_size=4)))  # as it travels
    num_steps, rows, folders = run(job)
    assert num_steps == job.stage.steps
    assert [row["step"] for row in rows] == list(range(1, 16))
    assert rows[-1]["loss"] < 0.6 * rows[0]["loss"]
    assert rows[0]["lr"] == 1e-2
    assert all({"loss", "lr", "grad_norm"} <= row.keys() for row in rows)
    assert list(folders) == [15]
    saved = load_policy(folders[15], ModelConfig(path="-"))
    start = load_policy(model_folder, ModelConfig(path="-"))
    assert mean_loss(saved, shown[:4]) < 0.6 * mean_loss(start, shown[:4])
    assert saved.tokenizer.chat_template == start.tokenizer.chat_template
    assert AutoModelForCausalLM.from_pretrained(folders[15]).dtype is torch.float32


def test_the_first_loss_is_the_assistants_tokens_alone(model_folder: Path, tmp_path: Path) -> None:
    """Of demonstrations of different lengths, so that padding is there too; equal to a plain computation."""
    shown = [demonstration(i) for i in (1, 12345, 7, 678)]
    _, rows, _ = run(job_of(model_folder, tmp_path / "out", shown, batch_size=4))
    policy = load_policy(model_folder, ModelConfig(path="-"))
    assert rows[0]["loss"] == pytest.approx(mean_loss(policy, shown), abs=1e-4)


def test_batches_come_in_the_datas_order(model_folder: Path, tmp_path: Path) -> None:
    """With a vanishing learning rate every step's loss is that of its own demonstrations under the start's weights."""
    shown = [demonstration(i) for i in (3, 55555, 1, 424, 98, 7, 12, 31415)]
    job = job_of(model_folder, tmp_path / "out", shown, batch_size=2)
    _, rows, _ = run(replace(job, optimizer=replace(ADAMW, lr=1e-12)))
    policy = load_policy(model_folder, ModelConfig(path="-"))
    expected = [mean_loss(policy, shown[i : i + 2]) for i in range(0, 8, 2)]
    assert len({round(e, 4) for e in expected}) == 4
    assert [row["loss"] for row in rows] == pytest.approx(expected, abs=1e-4)


def test_labels_are_the_assistants_tokens(policy: Policy) -> None:
    [row] = encode([demonstration(2)], policy.chat, 100)
    decode = policy.tokenizer.decode
    assert decode(row["input_ids"]).endswith("<think>2+2=4</think>4<｜end▁of▁sentence｜>")
    assert decode([t for t in row["labels"] if t != IGNORED]) == "2+2=4</think>4<｜end▁of▁sentence｜>"
    assert [t for t, label in zip(row["input_ids"], row["labels"], strict=True) if label not in (IGNORED, t)] == []


def test_the_same_job_gives_the_same_weights(model_folder: Path, tmp_path: Path) -> None:
    shown = [demonstration(i) for i in range(6)]
    ends = [run(job_of(model_folder, tmp_path / name, shown, batch_size=2))[2][3] for name in ("a", "b")]
    a, b = (load_policy(end, ModelConfig(path="-")).weights() for end in ends)
    assert all(torch.equal(a[n], b[n]) for n in a)


def test_a_demonstration_that_is_too_long_is_the_users_error(model_folder: Path, tmp_path: Path) -> None:
    shown = [demonstration(1), demonstration(10**30)]
    with pytest.raises(UserError, match=r"task t10+: its demonstration has \d+ tokens; allowed: max_length 30"):
        run(job_of(model_folder, tmp_path / "out", shown, batch_size=1, max_length=30))
    assert not list(tmp_path.iterdir())


def test_stopping_ends_early_and_saves_what_was_learned(model_folder: Path, tmp_path: Path) -> None:
    shown = [demonstration(i) for i in range(20)]
    asked: list[None] = []

    def stopped() -> bool:
        asked.append(None)
        return len(asked) >= 3

    num_steps, rows, folders = run(job_of(model_folder, tmp_path / "out", shown, batch_size=2), stopped)
    assert num_steps == 3
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert (folders[3] / TRAINING_STATE).exists()


@pytest.mark.parametrize("optimizer", [ADAMW, OptimizerConfig(lr=3e-3, schedule="cosine", warmup_steps=2)])
def test_a_stage_resumed_in_its_middle_ends_in_the_same_bits(
    model_folder: Path, tmp_path: Path, optimizer: OptimizerConfig
) -> None:
    shown = [demonstration(i) for i in range(20)]
    job = replace(job_of(model_folder, tmp_path / "a", shown, batch_size=2, save_every=4), optimizer=optimizer)
    _, rows, folders = run(job)
    assert list(folders) == [4, 8, 10]
    resumed = replace(job, target=str(tmp_path / "b"), resume_from=str(folders[4]), first_step=4)
    num_steps, later, again = run(resumed)
    assert num_steps == 10
    assert later == rows[4:]
    assert not (again[10] / TRAINING_STATE).exists()  # the next stage has a new optimizer
    a, b = (load_policy(folder, ModelConfig(path="-")).weights() for folder in (folders[10], again[10]))
    assert all(torch.equal(a[n], b[n]) for n in a)


def test_dropout_goes_on_where_it_was(tmp_path: Path) -> None:
    tiny_policy("gpt2", n_embd=64, n_layer=2, n_head=4, resid_pdrop=0.1).save(tmp_path / "model")
    job = job_of(tmp_path / "model", tmp_path / "a", [demonstration(i) for i in range(12)], batch_size=2, save_every=3)
    _, rows, folders = run(job)
    _, later, _ = run(replace(job, target=str(tmp_path / "b"), resume_from=str(folders[3]), first_step=3))
    assert later == rows[3:]


def test_a_loss_that_is_not_finite_ends_the_stage_unsaved(model_folder: Path, tmp_path: Path) -> None:
    job = job_of(model_folder, tmp_path / "a", [demonstration(i) for i in range(12)], batch_size=2, save_every=1)
    events: list[Event] = []
    with pytest.raises(FloatingPointError, match=r"stage sft, step \d: .*nan.*; lower the learning rate"):
        replace(job, optimizer=replace(ADAMW, lr=1e30)).run(events.append, lambda: False)
    assert all(np.isfinite(e.get("loss", 0.0)) for e in events)
