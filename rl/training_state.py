"""What training depends on beyond the weights: optimizer, schedule, random state. Saved and loaded bit by bit.

Both trainers (rl/trainer.py, and TRL's in specialists/trl_trainer.py) write it into their checkpoints as `trainer.pt`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR

FILE = "trainer.pt"


def save_training_state(
    folder: Path, optimizer: torch.optim.Optimizer, schedule: LambdaLR, extra: Mapping[str, Any] | None = None
) -> None:
    """Writes `folder/trainer.pt`; `extra` may hold tensors, numbers, text, and dicts and lists of them."""
    state = {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict(), "rng": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda_rng"] = torch.cuda.get_rng_state_all()
    torch.save({**state, "extra": dict(extra or {})}, folder / FILE)


def load_training_state(folder: Path, optimizer: torch.optim.Optimizer, schedule: LambdaLR) -> dict[str, Any]:
    """Puts optimizer, schedule and torch's random generators back as they were; returns `extra`."""
    state = torch.load(folder / FILE, map_location="cpu", weights_only=True)
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    torch.set_rng_state(state["rng"])
    if "cuda_rng" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda_rng"])
    extra: dict[str, Any] = state["extra"]
    return extra
