"""A supervised stage as a job that can be sent to a worker. The training itself is in `specialists/trl_trainer.py`.

Light on purpose: the driver of a run makes jobs and never imports TRL.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rewards.task import Demonstration
from rl.config import ModelConfig, OptimizerConfig
from rl.rollout import AgentSpec
from rl.workers import Event
from specialists.config import SftConfig


@dataclass(frozen=True)
class SftJob:
    """Reads the model in `source`, trains it on the demonstrations in their order, writes model folders `TARGET-STEP`."""

    source: str
    target: str
    model: ModelConfig
    optimizer: OptimizerConfig
    stage: SftConfig
    demonstrations: Sequence[Demonstration]  # stage.steps * stage.batch_size, in training order
    seed: int
    agent: AgentSpec = field(default_factory=AgentSpec)  # whose tools the model is shown
    resume_from: str | None = None  # a checkpoint of this stage, with the trainer's state, `first_step` steps into it
    first_step: int = 0

    def run(self, report: Callable[[Event], None], stopped: Callable[[], bool]) -> int:
        """Trains until the end or a stop; returns the steps that are done.

        Reports {"step", "loss", "lr", ...} for each step, and {"step", "saved": folder} for each model folder: every
        `save_every` steps and at a stop, with the trainer's state; at the end of the stage, without.
        """
        from specialists.trl_trainer import train

        return train(self, report, stopped)
