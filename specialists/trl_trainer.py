"""Supervised training through TRL's SFTTrainer, with our optimizer, our order of the data and our checkpoints.

Token ids and labels are made here by `rl/chat.py`, so TRL prepares nothing: loss falls on the assistant's tokens alone.
Called by `SftJob.run` in the process that trains.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import SFTConfig, SFTTrainer

from rewards.errors import UserError
from rewards.task import Demonstration
from rl.chat import ChatFormat
from rl.optim.build import build_optimizer
from rl.policy import Policy, load_policy
from rl.workers import Event
from specialists.sft import SftJob

IGNORED = -100  # label of tokens without loss


def train(job: SftJob, report: Callable[[Event], None], stopped: Callable[[], bool]) -> int:
    """Runs the job and returns the steps taken; what was learned until a stop is saved too."""
    policy = load_policy(job.source, job.model)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = SFTTrainer(
            model=policy.model,
            args=_arguments(job, policy, scratch),
            train_dataset=encode(job.demonstrations, policy.chat, job.stage.max_length),
            processing_class=policy.tokenizer,
            optimizers=build_optimizer(policy.model, job.optimizer, job.stage.steps),
            callbacks=[_Reporter(report, stopped)],
        )
        trainer.remove_callback(PrinterCallback)  # it would print every log
        trainer.train()
    policy.save(Path(job.target))
    return int(trainer.state.global_step)


def _arguments(job: SftJob, policy: Policy, scratch: str) -> SFTConfig:
    arguments = SFTConfig(
        output_dir=scratch,
        max_steps=job.stage.steps,
        per_device_train_batch_size=job.stage.batch_size,
        train_sampling_strategy="sequential",  # the rows are in training order already
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        max_grad_norm=job.optimizer.max_grad_norm,
        logging_steps=job.stage.logging_steps,
        bf16=policy.dtype is torch.bfloat16,
        use_cpu=policy.device.type == "cpu",
        gradient_checkpointing=False,
        dataloader_pin_memory=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=job.seed,
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # several visible GPUs would each get a batch, silently
    return arguments


def encode(demonstrations: Sequence[Demonstration], chat: ChatFormat, max_length: int) -> Dataset:
    """Rows of input_ids and labels. A demonstration longer than `max_length` is an error: cutting it would lose its answer."""
    known: dict[int, dict[str, list[int]]] = {}
    rows = []
    for demonstration in demonstrations:
        row = known.get(id(demonstration))
        if row is None:
            encoded = chat.demonstration(demonstration)
            if len(encoded.token_ids) > max_length:
                raise UserError(
                    f"task {demonstration.task.id}: its demonstration has {len(encoded.token_ids)} tokens; allowed: max_length "
                    f"{max_length}; raise the stage's max_length or leave the task out"
                )
            labels = [t if m else IGNORED for t, m in zip(encoded.token_ids, encoded.loss_mask, strict=True)]
            row = known[id(demonstration)] = {"input_ids": encoded.token_ids, "labels": labels}
        rows.append(row)
    return Dataset.from_list(rows)


class _Reporter(TrainerCallback):  # type: ignore[misc]
    """Hands TRL's logs over and stops the training when asked to."""

    def __init__(self, report: Callable[[Event], None], stopped: Callable[[], bool]) -> None:
        self.report, self.stopped = report, stopped

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **_: Any
    ) -> None:
        if "loss" in logs:
            names = {"loss": "loss", "learning_rate": "lr", "grad_norm": "grad_norm", "mean_token_accuracy": "token_accuracy"}
            self.report({"step": state.global_step, **{ours: float(logs[k]) for k, ours in names.items() if k in logs}})

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.stopped() and state.global_step < state.max_steps:
            control.should_training_stop = True
