"""The policy as decoding uses it: the same parameters, attention made for one query a row, bfloat16 weights cast once.

No model code is copied: attention goes in through transformers' attention interface, and the weights are those of the policy
or their bfloat16 values. Whether a model can be decoded this way is measured by `rl/engine/invariance.py`, never assumed.
Shapes: _B rows, _H key-value heads, _G query heads of one key-value head, _L cache length, _D head dimension.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from rl.policy import Policy

ONE_QUERY = "one_query"  # the attention's name in transformers' interface


@dataclass(frozen=True)
class Decoder:
    """`policy` prefills; `stepper` decodes one token a row: it shares the policy's parameters, or holds what `casts` pairs."""

    policy: Policy
    stepper: Policy
    one_query: bool  # the stepper's attention is `one_query_attention`
    casts: tuple[tuple[Tensor, Tensor], ...]  # (the stepper's bfloat16 weight, the policy's float32 weight)

    @torch.no_grad()
    def refresh(self) -> None:
        """Casts the weights again; to be called when the policy's have changed."""
        for mine, source in self.casts:
            mine.copy_(source)


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
    casts = tuple((half.data, p.data) for p, half in halves.items())
    return Decoder(policy, replace(policy, model=stepper), one_query, casts)


def one_query_attention(
    module: nn.Module,
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
    dtype = torch.get_autocast_dtype(query.device.type) if torch.is_autocast_enabled(query.device.type) else query.dtype
    rows, heads, length, width = key.shape
    with torch.autocast(query.device.type, enabled=False):
        scale = scaling if scaling is not None else query.shape[-1] ** -0.5
        query = query.to(dtype).float().view(rows * heads, -1, query.shape[-1]) * scale
        scores = torch.bmm(query, key.view(rows * heads, length, width).transpose(1, 2))
        weights = torch.softmax(scores.view(rows, -1, length).add_(attention_mask[:, 0]), dim=-1)
        output = torch.bmm(weights.view(rows * heads, -1, length), value.view(rows * heads, length, -1))
    return output.view(rows, 1, -1, value.shape[-1]).to(dtype), None
