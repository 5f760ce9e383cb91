"""Activation checkpointing: a layer keeps its input alone and is computed again in the backward pass.

transformers does so in training mode only, where dropout is on as well, which would part trainer and sampler. So the model
stays in evaluation mode and only the layers' own flags say "training"; their submodules, where dropout lives, never do.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from rewards.errors import UserError


def enable_recompute(model: PreTrainedModel) -> None:
    """Switches it on for the forward passes after `evaluation_mode`.

    Raises:
        UserError: the model cannot, or a layer computes something else (drops out by its own flag) when it does.
    """
    what = f"model.activation_checkpointing: got true, which model type {model.config.model_type!r} cannot do"
    hint = "; allowed for it: false"
    if not model.supports_gradient_checkpointing:
        raise UserError(what + hint)
    evaluation_mode(model)
    expected = _probe(model)
    settings = {"use_reentrant": False, "preserve_rng_state": False}  # nothing in evaluation mode is random
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings)
    evaluation_mode(model)
    if not any(layer.training for layer in model.modules()):
        raise UserError(f"{what}: none of its layers is made for it{hint}")
    if not torch.equal(_probe(model), expected):
        raise UserError(f"{what} without dropout{hint}, or a model whose dropout probabilities are 0")


def evaluation_mode(model: PreTrainedModel) -> None:
    """No dropout anywhere; layers that recompute their activations do so."""
    model.eval()
    for layer in model.modules():
        if isinstance(layer, GradientCheckpointingLayer) and layer.gradient_checkpointing:
            layer.training = True


@torch.no_grad()
def _probe(model: PreTrainedModel) -> Tensor:
    ids = torch.arange(1, 33, device=next(model.parameters()).device)[None] % model.config.get_text_config().vocab_size
    return torch.as_tensor(model.base_model(input_ids=ids, use_cache=False)[0])
