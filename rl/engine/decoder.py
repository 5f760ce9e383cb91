"""The policy as decoding uses it: the same parameters, attention made for one query a row, bfloat16 weights cast once.

Plain transformers decode through `rl/engine/layers.py`. For others attention goes in through transformers' attention
interface, and the weights are the policy's or their bfloat16 values. Whether a model can be decoded in either way is measured
by `rl/engine/invariance.py`, never assumed.
Shapes: _B rows, _H key-value heads, _G query heads of one key-value head, _L cache length, _D head dimension.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from rl.engine.layers import LayerStack
from rl.policy import Policy

ONE_QUERY = "one_query"  # the attention's name in transformers' interface


@dataclass(frozen=True)
class Decoder:
    """`policy` prefills; `stepper` decodes one token a row: it shares the policy's parameters, or holds what `casts` pairs."""

    policy: Policy
    stepper: Policy
    one_query: bool  # the stepper's attention is `one_query_attention`
    casts: tuple[tuple[Tensor, Tensor], ...] = ()  # (the stepper's bfloat16 weight, the policy's float32 weight)
    layers: LayerStack | None = None  # decodes in the stepper's place, with `one_query_attention`

    @torch.no_grad()
    def refresh(self) -> None:
        """Casts the weights again; to be called when the policy's have changed."""
        if self.layers is not None:
            self.layers.refresh()
        for mine, source in self.casts:
            mine.copy_(source)


def make_layer_decoder(policy: Policy) -> Decoder:
    """TypeError or AttributeError where the model is none of those that `rl/engine/layers.py` knows."""
    return Decoder(policy, policy, one_query=True, layers=LayerStack(policy))


def make_decoder(policy: Policy, *, one_query: bool) -> Decoder:
    """`one_query` false keeps the model's own attention.

    Under autocast a linear layer's weight is rounded to bfloat16 in every call; here it is rounded once, to the same values.
    The output head stays as it is: it runs in float32 (`rl/head.py`).
    """
    model = policy.model
    halves: dict[nn.Parameter, nn.Parameter] = {}
    if policy.dtype is torch.bfloat16:
        head = model.get_output_embeddings()
        layers = [m for m in model.modules() if isinstance(m, nn.Linear) and m is not head]
        halves = {
            p: nn.Parameter(p.detach().to(torch.bfloat16), requires_grad=False)
            for layer in layers
            for p in layer.parameters(recurse=False)
        }
    shared: dict[int, Any] = {id(t): t for t in (*model.parameters(), *model.buffers())}
    shared |= {id(p): half for p, half in halves.items()}
    stepper = copy.deepcopy(model, shared)
    if one_query:
        AttentionInterface.register(ONE_QUERY, one_query_attention)
        stepper.config._attn_implementation = ONE_QUERY
    with torch.no_grad():
        _use_fused_norms(stepper)
    casts = tuple((half.data, p.data) for p, half in halves.items())
    return Decoder(policy, replace(policy, model=stepper), one_query, casts)


def one_query_attention(
    module: nn.Module | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    position_bias: Tensor | None = None,
    **_unused: Any,
) -> tuple[Tensor, None]:
    """Attention of one query a row, as two batched products over the cache where it lies.

    query: float [B, H * G, 1, D]; key, value: float32 [B, H, L, D], already rounded to the dtype of the model's products;
    attention_mask: additive float32 [B, 1, 1, L]. Returns [B, 1, H * G, D] in the query's dtype under autocast. The products
    and the softmax run in float32. What else the interface passes is ignored, as transformers' sdpa attention ignores it.
    """
    if position_bias is not None:
        raise TypeError("attention with a position bias needs the model's own implementation")
    device = query.device.type
    if not torch.is_autocast_enabled(device):
        return _attend(query, key, value, attention_mask, scaling), None
    dtype = torch.get_autocast_dtype(device)
    with torch.autocast(device, enabled=False):
        return _attend(query.to(dtype).float(), key, value, attention_mask, scaling).to(dtype), None


def _attend(query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, scaling: float | None) -> Tensor:
    rows, heads, length, width = key.shape
    query = query.reshape(rows * heads, -1, width) * (scaling if scaling is not None else width**-0.5)
    scores = torch.bmm(query, key.view(rows * heads, length, width).transpose(1, 2))
    weights = torch.softmax(scores.view(rows, -1, length).add_(attention_mask[:, 0]), dim=-1)
    output = torch.bmm(weights.view(rows * heads, -1, length), value.view(rows * heads, length, -1))
    return output.view(rows, 1, -1, value.shape[-1])


def _use_fused_norms(model: nn.Module) -> None:
    """Root-mean-square norms in one call instead of six, wherever that gives the bits of the module's own code."""
    for module in model.modules():
        weight, eps = getattr(module, "weight", None), getattr(module, "variance_epsilon", None)
        plain = len(inspect.signature(module.forward).parameters) == 1  # a gated norm takes its gate as well
        if plain and isinstance(weight, nn.Parameter) and isinstance(eps, float) and weight.dtype is torch.float32:
            probe = torch.linspace(-3, 3, 4 * weight.numel(), device=weight.device).view(4, -1)
            fused = _FusedNorm(module.forward, weight, eps)
            if torch.equal(fused(probe), module.forward(probe)):
                module.forward = fused


@dataclass(frozen=True, eq=False)
class _FusedNorm:
    own: Callable[[Tensor], Tensor]  # for other dtypes: under autocast the order of rounding is the module's affair
    weight: nn.Parameter
    eps: float

    def __call__(self, hidden: Tensor) -> Tensor:
        if hidden.dtype is not torch.float32:
            return self.own(hidden)
        return torch.nn.functional.rms_norm(hidden, self.weight.shape, self.weight, self.eps)
