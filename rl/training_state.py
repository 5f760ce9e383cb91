"""What training depends on beyond the model's folder: optimizer, schedule, adapters, random state; bit by bit.

Both trainers (rl/trainer.py, and TRL's in specialists/trl_trainer.py) write it into their checkpoints as `trainer.pt`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR

from rl.config import ModelConfig
from rl.lora import has_adapters
from rl.policy import Policy, load_policy

FILE = "trainer.pt"


def save_training_state(
    folder: Path,
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    schedule: LambdaLR,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Writes `folder/trainer.pt` beside the model that `policy.save` wrote, whose weights are merged with any adapters.

    `extra` may hold tensors, numbers, text, and dicts and lists of them.
    """
    state = {
        "adapters": policy.trainable_state() if has_adapters(policy.model) else None,
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "extra": dict(extra or {}),
    }
    torch.save(state, folder / FILE)


def load_training_state(
    folder: Path, policy: Policy, model: ModelConfig, optimizer: torch.optim.Optimizer, schedule: LambdaLR
) -> dict[str, Any]:
    """Puts everything back as it was and returns `extra`. `policy` was made from the model that the stage began with."""
    state = torch.load(folder / FILE, map_location="cpu", weights_only=True)
    if state["adapters"] is not None:
        policy.load_trainable_state(state["adapters"])
    else:
        policy.load_weights(load_policy(folder, model).weights())
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    torch.set_rng_state(state["rng"])
    if state["cuda_rng"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda_rng"])
    extra: dict[str, Any] = state["extra"]
    return extra
