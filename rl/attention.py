"""Attention over packed rows: queries, keys and values are gathered into small padded batches, and the model's own
attention function runs on those.

Reached through transformers' attention interface. The packing travels to the layers as the attention mask does, so each
layer gets the kind of mask (full, sliding window) that transformers chose for it, and nothing is kept between calls.
Whether a model gives the same hidden states packed as padded is probed, never assumed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask, sdpa_mask

from rl.packing import Block, Packing, lay_out, plan

NAMES = {"sdpa": "packed", "eager": "packed_reference"}  # no "sdpa" in them: transformers takes that for its own
PROBE_LENGTHS, PROBE_PROMPT, TOLERANCE = (61, 23, 40, 9, 58), 7, 1e-4


@dataclass(frozen=True)
class BlockMasks:
    """What layers of one kind get as their mask: for each block bool or float [S or 1, 1, Q, K], None for plain causal."""

    packing: Packing
    masks: Sequence[Tensor | None]


def enable_packing(model: PreTrainedModel) -> str | None:
    """Lets a model take packed rows (a `Packing` as attention mask, and position ids); anything else runs as before.

    Returns None, or why this model cannot, and then it is as it was.
    """
    config = model.config.get_text_config()
    original = config._attn_implementation
    if original not in NAMES:
        return f"attention implementation {original!r} is neither of {sorted(NAMES)}"
    if not model._can_set_attn_implementation():
        return "its attention is not reached through transformers' attention interface"
    if others := set(getattr(config, "layer_types", None) or []) - {"full_attention", "sliding_attention"}:
        return f"its layers of type {', '.join(sorted(others))} know no borders between sequences"
    _register()
    try:
        expected = _probe(model, packed=False)
        model.set_attn_implementation(NAMES[original])
        got = _probe(model, packed=True)
        difference = float((got - expected).abs().max() / expected.abs().max())
        reason = None if difference <= TOLERANCE else f"hidden states differ from padded ones by {difference:.1g} of their size"
    except Exception as error:  # noqa: BLE001 - a model's own code may fail in any way on a mask that is no tensor
        reason = f"it does not run on packed rows: {type(error).__name__}: {str(error)[:200]}"
    if reason is not None:
        model.set_attn_implementation(original)
    return reason


@torch.no_grad()
def _probe(model: PreTrainedModel, *, packed: bool) -> Tensor:
    """Hidden states, one after another, of sequences of several lengths, some with a common prompt."""
    device, vocab_size = next(model.parameters()).device, model.config.get_text_config().vocab_size
    rng = np.random.default_rng(0)
    sequences = [rng.integers(0, vocab_size, n).astype(np.int32) for n in PROBE_LENGTHS]
    for other in sequences[1::2]:
        other[:PROBE_PROMPT] = sequences[0][:PROBE_PROMPT]
    training = model.training
    model.eval()
    try:
        if packed:
            row = lay_out(sequences, [PROBE_PROMPT] * len(sequences))
            ids, positions = (torch.from_numpy(x)[None].to(device) for x in (row.token_ids_N, row.position_ids_N))
            body = model.base_model
            hidden = body(input_ids=ids, position_ids=positions, attention_mask=plan(row, device), use_cache=False)[0][0]
            return torch.cat([hidden[torch.from_numpy(places).to(device)] for places in row.places])
        ids = torch.zeros(len(sequences), max(PROBE_LENGTHS), dtype=torch.int64)
        for i, sequence in enumerate(sequences):
            ids[i, : len(sequence)] = torch.from_numpy(sequence.astype(np.int64))
        hidden = model.base_model(input_ids=ids.to(device), use_cache=False)[0]
        return torch.cat([hidden[i, :n] for i, n in enumerate(PROBE_LENGTHS)])
    finally:
        model.train(training)


def _register() -> None:
    """Both names in transformers' two tables: attention functions, and what makes their masks."""
    AttentionInterface.register(NAMES["sdpa"], _packed_sdpa)
    AttentionInterface.register(NAMES["eager"], _packed_eager)
    AttentionMaskInterface.register(NAMES["sdpa"], _sdpa_masks)
    AttentionMaskInterface.register(NAMES["eager"], _eager_masks)


def _packed_sdpa(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **settings: Any
) -> tuple[Tensor, Tensor | None]:
    return _attend(_sdpa, module, query, key, value, attention_mask, settings)


def _sdpa(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **settings: Any
) -> tuple[Tensor, Tensor | None]:
    """transformers' function; but under a mask it would repeat keys and values a query head, which a CPU need not do."""
    grouped = query.shape[1] != key.shape[1]
    if mask is None or not grouped or query.device.type != "cpu" or settings.get("position_bias") is not None:
        output, weights = sdpa_attention_forward(module, query, key, value, mask, **settings)
        return output, weights
    dropout, scale = settings.get("dropout", 0.0), settings.get("scaling")
    attend = torch.nn.functional.scaled_dot_product_attention
    attended: Tensor = attend(query, key, value, mask, dropout, scale=scale, enable_gqa=True)
    return attended.transpose(1, 2), None


def _packed_eager(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **settings: Any
) -> tuple[Tensor, Tensor | None]:
    own = sys.modules[type(module).__module__].eager_attention_forward
    return _attend(own, module, query, key, value, attention_mask, settings)


def _attend(
    function: Callable[..., tuple[Tensor, Tensor | None]],
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    settings: dict[str, Any],
) -> tuple[Tensor, Tensor | None]:
    """transformers' attention function over [1, heads, N, size] tensors, block by block where the mask is `BlockMasks`."""
    if not isinstance(attention_mask, BlockMasks):
        return function(module, query, key, value, attention_mask, **settings)
    packing = attention_mask.packing
    blocks = packing.blocks
    queries: Tensor = _Gather.apply(_rows(query), packing.query_index, packing.output_index_N)  # type: ignore[no-untyped-call]
    keys, values = (_rows(x).index_select(0, packing.key_index) for x in (key, value))
    outputs = []
    for block, q, k, v, mask in zip(
        blocks,
        torch.split(queries, [b.shape[0] * b.shape[1] for b in blocks]),
        torch.split(keys, [b.shape[0] * b.shape[2] for b in blocks]),
        torch.split(values, [b.shape[0] * b.shape[2] for b in blocks]),
        attention_mask.masks,
        strict=True,
    ):
        batch = (x.view(block.shape[0], -1, *x.shape[1:]).transpose(1, 2) for x in (q, k, v))
        outputs.append(function(module, *batch, mask, **settings)[0].flatten(0, 1))
    output = torch.cat(outputs) if len(outputs) > 1 else outputs[0]
    return _Scatter.apply(output, packing.output_index_N, packing.query_index, packing.dropped).unsqueeze(0), None  # type: ignore[no-untyped-call]


def _rows(x: Tensor) -> Tensor:
    """[1, heads, N, size] as [N, heads, size]."""
    return x.transpose(1, 2).squeeze(0)


class _Gather(torch.autograd.Function):
    """rows[index], where each row is used once, at `inverse`, and gradients of its other appearances are zero.

    A gather in the backward pass too, several times faster than the scattered sum of index_select's own.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return rows.index_select(0, index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad.index_select(0, ctx.saved_tensors[0]), None, None


class _Scatter(torch.autograd.Function):
    """The inverse of `_Gather`: rows[index], whose gradient is zero at `dropped`."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor, inverse: Tensor, dropped: Tensor) -> Tensor:
        ctx.save_for_backward(inverse, dropped)
        return rows.index_select(0, index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        inverse, dropped = ctx.saved_tensors
        return grad.index_select(0, inverse).index_fill_(0, dropped, 0), None, None, None


def _sdpa_masks(**request: Any) -> Any:
    """transformers' request for a mask: a plain causal one needs no tensor where queries and keys are the same tokens."""
    packing = request["attention_mask"]
    if not isinstance(packing, Packing):
        return sdpa_mask(**request)
    window = request.get("local_size")
    causal = request["allow_is_causal_skip"] and (window is None or packing.longest <= window)
    masks = [None if causal and block.is_square else _allowed(block, request["mask_function"]) for block in packing.blocks]
    return BlockMasks(packing, masks)


def _eager_masks(**request: Any) -> Any:
    packing = request["attention_mask"]
    if not isinstance(packing, Packing):
        return eager_mask(**request)
    dtype = request["dtype"]
    masks = []
    for block in packing.blocks:
        allowed = _allowed(block, request["mask_function"])
        zero = torch.zeros((), dtype=dtype, device=allowed.device)
        masks.append(torch.where(allowed, zero, torch.finfo(dtype).min))
    return BlockMasks(packing, masks)


def _allowed(block: Block, mask_function: Callable[..., Tensor]) -> Tensor:
    """bool [S, 1, Q, K], from transformers' rule over positions; S is 1 where all sequences have the same positions."""
    query, key = block.query_positions_SQ, block.key_positions_SK
    if bool((query == query[:1]).all()) and bool((key == key[:1]).all()):
        query, key = query[:1], key[:1]
    zero = torch.zeros((), dtype=torch.int64, device=query.device)
    return mask_function(zero, zero, query[:, None, :, None], key[:, None, None, :])
