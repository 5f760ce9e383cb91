"""Supervised training through TRL's SFTTrainer, with our optimizer, our order of the data and our checkpoints.

Token ids and labels are made here by `rl/chat.py`, so TRL prepares nothing: loss falls on the assistant's tokens alone.
Called by `SftJob.run` in the process that trains.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.optim.lr_scheduler import LambdaLR
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import SFTConfig, SFTTrainer

from rewards.errors import UserError
from rewards.task import Demonstration
from rl.chat import ChatFormat
from rl.judging import is_judging
from rl.optim.build import build_optimizer
from rl.policy import Policy, load_policy
from rl.products import use_fast_products
from rl.rollout import AgentSpec
from rl.rounded import with_fast_products
from rl.training_state import load_training_state, save_training_state
from rl.workers import Event
from specialists.sft import SftJob

IGNORED = -100  # label of tokens without loss


def train(job: SftJob, report: Callable[[Event], None], stopped: Callable[[], bool]) -> int:
    """Runs the job and returns the steps done; what was learned until a stop is saved too."""
    use_fast_products()
    policy = with_fast_products(load_policy(job.source, job.model))
    optimizer, schedule = build_optimizer(policy.model, job.optimizer, job.stage.steps)
    recorder = _Recorder(job, policy, optimizer, schedule, report, stopped)
    rows = job.demonstrations[job.first_step * job.stage.batch_size :]
    with tempfile.TemporaryDirectory() as scratch:
        trainer = SFTTrainer(
            model=policy.model,
            args=_arguments(job, policy, scratch),
            train_dataset=encode(rows, policy.chat, job.stage.max_length, job.agent),
            processing_class=policy.tokenizer,
            optimizers=(optimizer, schedule),
            callbacks=[recorder],
        )
        trainer.remove_callback(PrinterCallback)  # it would print every log
        trainer.train()
    return recorder.step


def _arguments(job: SftJob, policy: Policy, scratch: str) -> SFTConfig:
    arguments = SFTConfig(
        output_dir=scratch,
        max_steps=job.stage.steps - job.first_step,
        per_device_train_batch_size=job.stage.batch_size,
        train_sampling_strategy="sequential",  # the rows are in training order already
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        max_grad_norm=job.optimizer.max_grad_norm,
        logging_steps=1,
        logging_nan_inf_filter=False,  # it would show 0 for a loss that is not finite
        bf16=policy.dtype is torch.bfloat16 and not policy.rounds,
        use_cpu=policy.device.type == "cpu",
        gradient_checkpointing=job.model.activation_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if job.model.activation_checkpointing else None,
        dataloader_pin_memory=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=job.seed,
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # several visible GPUs would each get a batch, silently
    return arguments


def encode(
    demonstrations: Sequence[Demonstration], chat: ChatFormat, max_length: int, agent: AgentSpec | None = None
) -> Dataset:
    """Rows of input_ids and labels. A demonstration longer than `max_length` is an error: cutting it would lose its answer."""
    with_tools = chat if agent is None else chat.with_tools(agent.specs, agent.thinking)
    known: dict[int, dict[str, list[int]]] = {}
    rows = []
    for demonstration in demonstrations:
        row = known.get(id(demonstration))
        if row is None:
            encoded = (chat if is_judging(demonstration.task) else with_tools).demonstration(demonstration)
            if len(encoded.token_ids) > max_length:
                raise UserError(
                    f"task {demonstration.task.id}: its demonstration has {len(encoded.token_ids)} tokens; allowed: max_length "
                    f"{max_length}; raise the stage's max_length or leave the task out"
                )
            labels = [t if m else IGNORED for t, m in zip(encoded.token_ids, encoded.loss_mask, strict=True)]
            row = known[id(demonstration)] = {"input_ids": encoded.token_ids, "labels": labels}
        rows.append(row)
    return Dataset.from_list(rows)


class _Recorder(TrainerCallback):  # type: ignore[misc]
    """Reports every step, saves when it is time, and stops the training when asked to.

    TRL counts from 0 after a resume; `step` counts from the stage's beginning.
    """

    def __init__(
        self,
        job: SftJob,
        policy: Policy,
        optimizer: torch.optim.Optimizer,
        schedule: LambdaLR,
        report: Callable[[Event], None],
        stopped: Callable[[], bool],
    ) -> None:
        self.job, self.policy, self.optimizer, self.schedule = job, policy, optimizer, schedule
        self.report, self.stopped = report, stopped
        self.step = job.first_step

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.job.resume_from is not None and state.global_step == 0:  # by now TRL has drawn all that it draws at the start
            folder = Path(self.job.resume_from)
            load_training_state(folder, self.policy, self.job.model, self.optimizer, self.schedule)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **_: Any
    ) -> None:
        """Comes after every step, once its loss is known."""
        if "loss" not in logs:
            return
        self.step = self.job.first_step + state.global_step
        names = {"loss": "loss", "learning_rate": "lr", "grad_norm": "grad_norm", "mean_token_accuracy": "token_accuracy"}
        values = {ours: float(logs[k]) for k, ours in names.items() if k in logs}
        if not all(math.isfinite(values.get(name, 0.0)) for name in ("loss", "grad_norm")):
            found = ", ".join(f"{name} {value}" for name, value in values.items())
            raise FloatingPointError(f"stage {self.job.stage.name}, step {self.step}: {found}; lower the learning rate")
        self.report({"step": self.step, **values})
        every, over, stopping = self.job.stage.save_every, self.step == self.job.stage.steps, self.stopped()
        if over or stopping or (every and self.step % every == 0):
            self._save(with_state=not over)
        control.should_training_stop = control.should_training_stop or stopping

    def _save(self, *, with_state: bool) -> None:
        folder = Path(f"{self.job.target}-{self.step}")
        shutil.rmtree(folder, ignore_errors=True)
        self.policy.save(folder)
        if with_state:
            save_training_state(folder, self.policy, self.optimizer, self.schedule)
        self.report({"step": self.step, "saved": str(folder)})
