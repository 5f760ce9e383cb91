"""A ragged KV cache for batched decoding: one slot a request, each row at its own length, no copying as sequences grow.

Serves any model whose attention layers keep plain keys and values; `rl/engine/kv_native.py` serves the others.
Shapes: _B rows, _P prompt tokens, _H key-value heads, _L cache length, _D head dimension, _V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer

from rl.policy import Policy

BUCKET = 64  # cache lengths are rounded up to a multiple of this
TILE = 16  # rows of a fixed-shape call

LayerKV = tuple[tuple[Tensor, Tensor], ...]  # per layer: keys and values [H, L, D] of one sequence


@dataclass
class _Plan:
    """Where the rows of the next forward call live: slot numbers [B], positions [B], attended length."""

    slots: Tensor
    positions: Tensor
    length: int
    dense: bool  # the slots are exactly 0..B-1, so that reading needs no gather


class _SlotLayer(DynamicLayer):  # type: ignore[misc]
    """One layer's slots, [num_slots, H, L, D]; `update` writes one token a row and returns what the rows attend to."""

    def __init__(self, plan: _Plan, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.plan, self.keys, self.values, self.is_initialized = plan, keys, values, True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        plan = self.plan
        for store, new in ((self.keys, key_states), (self.values, value_states)):
            store[plan.slots, :, plan.positions] = new[:, :, 0].to(store.dtype)
        if plan.dense:
            rows = slice(0, len(plan.slots))
            return self.keys[rows, :, : plan.length], self.values[rows, :, : plan.length]
        return self.keys[plan.slots, :, : plan.length], self.values[plan.slots, :, : plan.length]

    def get_seq_length(self) -> int:
        return self.plan.length - 1

    def grow(self, length: int) -> None:
        extra = length - self.keys.shape[2]
        self.keys = torch.nn.functional.pad(self.keys, (0, 0, 0, extra))
        self.values = torch.nn.functional.pad(self.values, (0, 0, 0, extra))


class SlotKV:
    """Prefill and decode over slots. With `fixed_shapes` every call has a shape that depends on its own rows alone."""

    def __init__(self, policy: Policy, num_slots: int, *, fixed_shapes: bool) -> None:
        self.policy, self.num_slots, self.fixed_shapes = policy, num_slots, fixed_shapes
        self.replays_turns = fixed_shapes  # an interrupted turn is decoded again, since a prefill has other bits
        empty = torch.zeros(0, dtype=torch.long)
        self._plan = _Plan(empty, empty, 0, True)
        self._cache: Cache | None = None

    def prefill(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, list[LayerKV]]:
        """Logits [n, V] after each prompt, and each prompt's keys and values. Prompts are padded on the right."""
        if self.fixed_shapes and len(prompts) > 1:
            parts = [self.prefill([p]) for p in prompts]
            return torch.cat([logits for logits, _ in parts]), [kv for _, kvs in parts for kv in kvs]
        longest = max(map(len, prompts))
        ids = torch.tensor([[*p, *[0] * (longest - len(p))] for p in prompts], device=self.policy.device)
        cache = DynamicCache()
        hidden = self.policy.hidden_states(ids, past_key_values=cache, use_cache=True)
        last = torch.tensor([len(p) - 1 for p in prompts], device=ids.device)
        logits = self.policy.head.logits(hidden[torch.arange(len(prompts), device=ids.device), last])
        kvs = [
            tuple((layer.keys[i, :, : len(p)], layer.values[i, :, : len(p)]) for layer in cache.layers)
            for i, p in enumerate(prompts)
        ]
        return logits, kvs

    def place(self, slots: Sequence[int], kv: LayerKV) -> None:
        """Copies one sequence's cache into slots."""
        if self._cache is None:
            self._allocate(kv)
        self._reserve(kv[0][0].shape[1])
        index = torch.tensor(list(slots), device=self.policy.device)
        for layer, (keys, values) in zip(self._layers, kv, strict=True):
            layer.keys[index, :, : keys.shape[1]] = keys
            layer.values[index, :, : values.shape[1]] = values

    def take(self, slot: int, length: int) -> LayerKV:
        """A copy of one slot's first `length` positions."""
        return tuple((layer.keys[slot, :, :length].clone(), layer.values[slot, :, :length].clone()) for layer in self._layers)

    def move(self, source: int, target: int, length: int) -> None:
        for layer in self._layers:
            layer.keys[target, :, :length] = layer.keys[source, :, :length]
            layer.values[target, :, :length] = layer.values[source, :, :length]

    def decode(self, token_ids: Sequence[int], positions: Sequence[int]) -> Tensor:
        """Logits [B, V] after one more token in each of the slots 0..B-1; `positions` are the tokens' absolute places."""
        self._reserve(max(positions) + 1)
        if not self.fixed_shapes:
            return self._forward(list(range(len(token_ids))), token_ids, positions, _rounded(max(positions) + 1))
        rows_by_length: dict[int, list[int]] = {}
        for row, position in enumerate(positions):
            rows_by_length.setdefault(_rounded(position + 1), []).append(row)
        logits: list[Tensor | None] = [None] * len(token_ids)
        for length, rows in rows_by_length.items():
            for start in range(0, len(rows), TILE):
                tile = rows[start : start + TILE]
                pad = TILE - len(tile)
                slots = [*tile, *[self.num_slots] * pad]  # the spare slot takes the padding
                out = self._forward(
                    slots,
                    [*(token_ids[r] for r in tile), *[0] * pad],
                    [*(positions[r] for r in tile), *[0] * pad],
                    length,
                )
                for row, line in zip(tile, out, strict=False):
                    logits[row] = line
        return torch.stack([line for line in logits if line is not None])

    @property
    def _layers(self) -> list[_SlotLayer]:
        assert self._cache is not None, "place() comes before any other use"
        return self._cache.layers  # type: ignore[no-any-return]

    def _allocate(self, kv: LayerKV) -> None:
        def room(like: Tensor) -> Tensor:
            return like.new_zeros(self.num_slots + 1, like.shape[0], BUCKET, like.shape[2])

        self._cache = Cache(layers=[_SlotLayer(self._plan, room(keys), room(values)) for keys, values in kv])

    def _reserve(self, length: int) -> None:
        if self._layers[0].keys.shape[2] < length:
            for layer in self._layers:
                layer.grow(max(_rounded(length), 2 * layer.keys.shape[2]))

    def _forward(self, slots: Sequence[int], token_ids: Sequence[int], positions: Sequence[int], length: int) -> Tensor:
        device = self.policy.device
        plan = self._plan
        plan.slots, plan.positions = torch.tensor(slots, device=device), torch.tensor(positions, device=device)
        plan.length, plan.dense = length, not self.fixed_shapes
        hidden = self.policy.hidden_states(
            torch.tensor(token_ids, device=device)[:, None],
            position_ids=plan.positions[:, None],
            attention_mask=self._mask(plan.positions, length),
            past_key_values=self._cache,
            use_cache=True,
        )
        return self.policy.head.logits(hidden[:, 0])

    def _mask(self, positions: Tensor, length: int) -> Any:
        """Additive masks [B, 1, 1, L]; a mapping by layer type where a model mixes full and sliding attention."""
        config = self.policy.model.config.get_text_config()
        place = torch.arange(length, device=positions.device)[None]
        visible = place <= positions[:, None]
        window = getattr(config, "sliding_window", None)
        types = set(getattr(config, "layer_types", None) or ())
        near = visible & (place > positions[:, None] - window) if window else visible
        if len(types) > 1:
            return {"full_attention": self._additive(visible), "sliding_attention": self._additive(near)}
        sliding_only = types == {"sliding_attention"} or (window and not types)
        return self._additive(near if sliding_only else visible)

    def _additive(self, visible: Tensor) -> Tensor:
        dtype = self._layers[0].keys.dtype
        return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill(~visible, torch.finfo(dtype).min)[
            :, None, None
        ]


def _rounded(length: int) -> int:
    return -(-length // BUCKET) * BUCKET
