"""An optimizer and its schedule from a recipe's settings, with the published parameter groups."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel

from rewards.errors import UserError
from rl.config import MUON_WITH_LORA, OptimizerConfig
from rl.lora import has_adapters
from rl.optim.muon import HybridMuon


class ChainedOptimizer(torch.optim.Optimizer):
    """Several optimizers over disjoint parameters as one; its groups are theirs, so a schedule reaches all of them."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self.parts = list(parts)
        super().__init__([g for part in parts for g in part.param_groups], {})
        self._share_groups()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        assert closure is None, "no closure is supported"
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._share_groups()  # loading gave each part new groups, which a schedule would no longer reach

    def _share_groups(self) -> None:
        self.param_groups = [group for part in self.parts for group in part.param_groups]


def split_parameters(model: PreTrainedModel) -> tuple[list[Tensor], list[Tensor]]:
    """(hidden matrices for Muon, all others for AdamW): embeddings, output head, norms and other 1-D go to AdamW."""
    vocabulary = {
        id(p) for m in (model.get_input_embeddings(), model.get_output_embeddings()) if m is not None for p in m.parameters()
    }
    vocabulary |= {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    hidden, others = list[Tensor](), list[Tensor]()
    for parameter in model.parameters():
        if parameter.requires_grad:
            (hidden if parameter.ndim >= 2 and id(parameter) not in vocabulary else others).append(parameter)
    return hidden, others


def build_optimizer(model: PreTrainedModel, config: OptimizerConfig, num_steps: int) -> tuple[torch.optim.Optimizer, LambdaLR]:
    """The optimizer, and the schedule that multiplies every group's learning rate; call `.step()` on each once an update."""
    adamw: dict[str, Any] = {
        "lr": config.lr,
        "betas": config.betas,
        "eps": config.eps,
        "weight_decay": config.weight_decay,
    }
    optimizer: torch.optim.Optimizer
    if config.name == "adamw":
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], **adamw)
    else:
        if has_adapters(model):
            raise UserError(f"optimizer.name: {MUON_WITH_LORA}")
        hidden, others = split_parameters(model)
        if config.newton_schulz == "quintic":
            others += [p for p in hidden if p.ndim != 2]
            hidden = [p for p in hidden if p.ndim == 2]
        muon: torch.optim.Optimizer
        if config.newton_schulz == "hybrid":
            muon = HybridMuon(hidden, config.lr, config.momentum, config.weight_decay)
        else:
            muon = torch.optim.Muon(
                hidden,
                lr=config.lr,
                momentum=config.momentum,
                weight_decay=config.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
        optimizer = ChainedOptimizer([muon, torch.optim.AdamW(others, **adamw)])
    return optimizer, LambdaLR(optimizer, lambda step: lr_share(config, step, num_steps))


def lr_share(config: OptimizerConfig, step: int, num_steps: int) -> float:
    """The learning rate of update `step` (from 0) as a share of `config.lr`; linear warm-up, then the schedule.

    >>> lr_share(OptimizerConfig(schedule="linear", warmup_steps=2), 0, 10)
    0.5
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    progress = (step - config.warmup_steps) / max(1, num_steps - config.warmup_steps)
    progress = min(1.0, progress)
    decay = 1 - progress if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return config.min_lr_share + (1 - config.min_lr_share) * decay
