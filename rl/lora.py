"""LoRA (arXiv 2106.09685) through peft: trained low-rank adapters beside frozen linear layers.

Adapters are put into the model in place, so it keeps its class; `merged` gives its tensors as a model without adapters would
have them. Only the trainer's policy carries adapters. `rl/policy.py` calls this.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from pathlib import Path

import peft
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from rewards.errors import UserError
from rl.config import LoraConfig

NAME = "default"  # of the one adapter, as peft calls it
BASE = ".base_layer."  # peft puts the frozen layer below its own place
# In a mixture of experts peft takes these names for the experts' stacked weights, be they linear layers elsewhere in it.
EXPERT_NAMES = frozenset({"gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"})


def has_adapters(model: PreTrainedModel) -> bool:
    return any(isinstance(module, LoraLayer) for module in model.modules())


def add_adapters(model: PreTrainedModel, config: LoraConfig, source: str) -> None:
    """Puts an adapter beside each targeted layer of a model in host memory and freezes everything else.

    An adapter begins as zero: the model computes what it did before. Its first factor is the same in every process.

    Raises:
        UserError: a name that is no linear layer, or the output head, or that peft would read as another layer.
    """
    targets = _targets(model, config.target_modules)
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        target_modules=sorted(targets),
        fan_in_fan_out=all(isinstance(module, Conv1D) for module in targets.values()),
        base_model_name_or_path=source,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        peft.inject_adapter_in_model(settings, model, NAME)
    found = {name for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    if found != targets.keys():
        raise UserError(
            f"model.lora.target_modules: peft would adapt {', '.join(sorted(found ^ targets.keys())[:3])} otherwise than "
            f"asked in model type {model.config.model_type!r}; name the attention's layers alone"
        )


def narrow_frozen(model: PreTrainedModel) -> None:
    """Keeps the frozen weights beside adapters in bfloat16, which is what autocast would make of them at every product."""
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.get_base_layer().to(torch.bfloat16)


def merged(model: PreTrainedModel, tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """The named parameters or state of `model` as they are without adapters: W + alpha / rank * B A, under W's own name.

    Without adapters in the model they pass through as they are. Merged weights are float32.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    adapters = tuple(f"{name}.lora_" for name in layers)
    for name, tensor in tensors:
        owner, base, leaf = name.rpartition(BASE)
        if base and owner in layers:
            delta = layers[owner].get_delta_weight(NAME) if leaf == "weight" else 0.0
            yield f"{owner}.{leaf}", tensor.float() + delta
        elif not name.startswith(adapters):
            yield name, tensor


def save_adapters(model: PreTrainedModel, folder: Path) -> None:
    """The adapters alone, as `PeftModel.from_pretrained(base, folder)` reads them."""
    folder.mkdir()
    state = peft.get_peft_model_state_dict(model, adapter_name=NAME, save_embedding_layers=False)
    state = {f"base_model.model.{name}": tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    model.peft_config[NAME].save_pretrained(folder)


def _targets(model: PreTrainedModel, names: tuple[str, ...] | None) -> dict[str, nn.Module]:
    """The layers to adapt, by full name."""
    modules = {name: module for name, module in model.named_modules() if name}
    head = model.get_output_embeddings()
    linear = {n: m for n, m in modules.items() if isinstance(m, nn.Linear | Conv1D) and m is not head}
    if any(p.ndim == 3 for p in model.parameters()):
        linear = {n: m for n, m in linear.items() if _last(n) not in EXPERT_NAMES}
    if names is None:
        return linear
    allowed = sorted({_last(name) for name in linear})
    found: dict[str, nn.Module] = {}
    for name in names:
        matching = {n: m for n, m in modules.items() if n == name or n.endswith(f".{name}")}
        wrong = next((m for n, m in matching.items() if n not in linear), None)
        if wrong is None and matching:
            found |= matching
            continue
        close = difflib.get_close_matches(name, allowed, n=1)
        raise UserError(
            f"model.lora.target_modules: got {name!r}, {_why_not(model, wrong)}; allowed: {', '.join(allowed)}"
            + (f"; did you mean {close[0]!r}?" if close else "")
        )
    return found


def _why_not(model: PreTrainedModel, module: nn.Module | None) -> str:
    if module is None:
        return "which the model does not have"
    if module is model.get_output_embeddings():
        return "the output head, whose own weight the losses project with"
    if isinstance(module, nn.Embedding):
        return "an embedding, which stays frozen"
    return f"a {type(module).__name__}, which can carry no adapter here"


def _last(name: str) -> str:
    return name.rpartition(".")[2]
