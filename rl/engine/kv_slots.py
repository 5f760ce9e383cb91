"""A ragged KV cache for batched decoding: one slot a request, each row at its own length, no copying as sequences grow.

Serves any model whose attention layers keep plain keys and values; `rl/engine/kv_native.py` serves the others.
Shapes: _B rows, _H key-value heads, _L cache length, _D head dimension, _V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer

from rl.engine import decoder as decoding
from rl.engine.decoder import Decoder
from rl.engine.layers import Attend
from rl.engine.prefix import LayerKV, Prefix, SharedPrefixes

BUCKET = 64  # slots are allocated, and with fixed shapes attended, in multiples of this length
ATTEND = 16  # without fixed shapes the attended length is a multiple of this
TILE = 32  # rows of a fixed-shape call

FAR = 2**40  # the place of what lies after a shorter prefix: nobody sees that far


class _Plan:
    """Where the rows of the next forward call live: slots [B], positions [B], attended length, and what rows share.

    With shared prefixes a slot holds what comes after its row's prefix, and `length` counts that part alone.
    """

    def __init__(self, slots: Sequence[int], positions: Tensor, length: int, shared: SharedPrefixes | None = None) -> None:
        self.positions, self.length, self.shared = positions, length, shared
        self._in_slot = positions if shared is None else positions - shared.lengths
        self.slots = torch.tensor(slots, device=positions.device)
        first, count = slots[0], len(slots)
        # neighbouring slots are read where they lie, others are gathered; either way a row's products have one shape
        self.read: slice | Tensor = slice(first, first + count) if slots == range(first, first + count) else self.slots
        self._lines: dict[tuple[int, int], Tensor] = {}

    def lines(self, num_heads: int, capacity: int) -> Tensor:
        """The new tokens' lines [B * H] in a store seen as [slots * H * capacity, D]."""
        if (num_heads, capacity) not in self._lines:
            heads = torch.arange(num_heads, device=self.slots.device)
            lines = (self.slots[:, None] * num_heads + heads) * capacity + self._in_slot[:, None]
            self._lines[num_heads, capacity] = lines.flatten()
        return self._lines[num_heads, capacity]

    def places(self) -> Tensor:
        """The absolute places [1 or B, P + L] of what the rows attend to."""
        own = torch.arange(self.length, device=self.positions.device)[None]
        if self.shared is None:
            return own
        ends = self.shared.lengths[:, None]
        prefix = torch.arange(self.shared.length, device=own.device)[None]
        return torch.cat([torch.where(prefix < ends, prefix, FAR), ends + own], dim=1)


class _SlotLayer(DynamicLayer):  # type: ignore[misc]
    """One layer's slots, [num_slots, H, L, D]; `update` writes one token a row and returns what the rows attend to."""

    plan: _Plan

    def __init__(self, keys: Tensor, values: Tensor, rounded_to: torch.dtype) -> None:
        super().__init__()
        self.keys, self.values, self.rounded_to, self.is_initialized = keys, values, rounded_to, True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        plan = self.plan
        _, num_heads, capacity, _ = self.keys.shape
        lines = plan.lines(num_heads, capacity)
        for store, new in ((self.keys, key_states), (self.values, value_states)):
            width = store.shape[-1]
            store.view(-1, width).index_copy_(0, lines, self.rounded(new).reshape(-1, width))
        return self.keys[plan.read, :, : plan.length], self.values[plan.read, :, : plan.length]

    def rounded(self, states: Tensor) -> Tensor:
        """As the model's products would round them, in the store's dtype."""
        return states.to(self.rounded_to).to(self.keys.dtype)

    def get_seq_length(self) -> int:
        return self.plan.length - 1

    def grow(self, length: int) -> None:
        extra = length - self.keys.shape[2]
        self.keys = torch.nn.functional.pad(self.keys, (0, 0, 0, extra))
        self.values = torch.nn.functional.pad(self.values, (0, 0, 0, extra))


class SlotKV:
    """Prefill and decode over slots. With `fixed_shapes` every call has a shape that depends on its own rows alone."""

    def __init__(self, decoder: Decoder, num_slots: int, *, fixed_shapes: bool) -> None:
        self.decoder, self.policy, self.num_slots, self.fixed_shapes = decoder, decoder.policy, num_slots, fixed_shapes
        self.replays_turns = fixed_shapes  # an interrupted turn is decoded again, since a prefill has other bits
        self._cache: Cache | None = None
        self._shares = decoder.layers is not None and not fixed_shapes
        self._prefixes: list[Prefix | None] = [None] * (num_slots + 1)  # of each slot
        self._shared: tuple[list[Prefix | None], SharedPrefixes | None] = ([], None)  # of the rows of the last step

    def weights_changed(self) -> None:
        self.decoder.refresh()

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
        """Puts one sequence's cache into slots: a copy, or, where several rows can share it, once for all of them."""
        if self._cache is None:
            self._allocate(kv)
        prefix = None
        if self._shares and len(slots) > 1:
            rounded = ((layer.rounded(k), layer.rounded(v)) for layer, (k, v) in zip(self._layers, kv, strict=True))
            prefix = Prefix(tuple((k.clone(), v.clone()) for k, v in rounded))
        for slot in slots:
            self._prefixes[slot] = prefix
        if prefix is not None:
            return
        self._reserve(kv[0][0].shape[1])
        index = torch.tensor(list(slots), device=self.policy.device)
        for layer, (keys, values) in zip(self._layers, kv, strict=True):
            layer.keys[index, :, : keys.shape[1]] = layer.rounded(keys)
            layer.values[index, :, : values.shape[1]] = layer.rounded(values)

    def take(self, slot: int, length: int) -> LayerKV:
        """A copy of one slot's first `length` positions."""
        prefix = self._prefixes[slot]
        own = length - (prefix.length if prefix is not None else 0)
        kv = tuple((layer.keys[slot, :, :own].clone(), layer.values[slot, :, :own].clone()) for layer in self._layers)
        if prefix is None:
            return kv
        both = zip(prefix.kv, kv, strict=True)
        return tuple((torch.cat([pk, k], dim=1), torch.cat([pv, v], dim=1)) for (pk, pv), (k, v) in both)

    def move(self, source: int, target: int, length: int) -> None:
        prefix = self._prefixes[target] = self._prefixes[source]
        length -= prefix.length if prefix is not None else 0
        for layer in self._layers:
            layer.keys[target, :, :length] = layer.keys[source, :, :length]
            layer.values[target, :, :length] = layer.values[source, :, :length]

    def decode(self, token_ids: Sequence[int], positions: Sequence[int]) -> Tensor:
        """Logits [B, V] after one more token in each of the slots 0..B-1; `positions` are the tokens' absolute places."""
        if not self.fixed_shapes:
            prefixes = self._prefixes[: len(token_ids)]
            longest = max(n + 1 - (p.length if p is not None else 0) for n, p in zip(positions, prefixes, strict=True))
            self._reserve(longest)
            return self._forward(range(len(token_ids)), token_ids, positions, _rounded(longest, ATTEND))
        self._reserve(max(positions) + 1)
        rows_by_length: dict[int, list[int]] = {}
        for row, position in enumerate(positions):
            rows_by_length.setdefault(_rounded(position + 1), []).append(row)
        logits: list[Tensor | None] = [None] * len(token_ids)
        for length, rows in rows_by_length.items():
            for start in range(0, len(rows), TILE):
                tile = rows[start : start + TILE]
                pad = TILE - len(tile)
                # the spare slot takes the padding; rows that are neighbours are read without gathering
                whole = not pad and tile[-1] - tile[0] == TILE - 1
                slots = range(tile[0], tile[0] + TILE) if whole else [*tile, *[self.num_slots] * pad]
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
        """float32 for the attention of `rl/engine/decoder.py`, else what the model's own attention computes with."""
        dtype = torch.float32 if self.decoder.one_query else self.policy.dtype

        def store(like: Tensor) -> Tensor:
            return like.new_zeros(self.num_slots + 1, like.shape[0], BUCKET, like.shape[2], dtype=dtype)

        self._cache = Cache(layers=[_SlotLayer(store(keys), store(values), self.policy.dtype) for keys, values in kv])

    def _reserve(self, length: int) -> None:
        if self._layers[0].keys.shape[2] < length:
            for layer in self._layers:
                layer.grow(max(_rounded(length), 2 * layer.keys.shape[2]))

    def _forward(self, slots: Sequence[int], token_ids: Sequence[int], positions: Sequence[int], length: int) -> Tensor:
        device = self.policy.device
        plan = _Plan(slots, torch.tensor(positions, device=device), length, self._shared_by(slots))
        for layer in self._layers:
            layer.plan = plan
        if self.decoder.layers is not None:
            hidden = self.decoder.layers.hidden_states(
                torch.tensor(token_ids, device=device), plan.positions, self._attend(plan)
            )
            return self.policy.head.logits(hidden)
        hidden = self.decoder.stepper.hidden_states(
            torch.tensor(token_ids, device=device)[:, None],
            position_ids=plan.positions[:, None],
            attention_mask=self._mask(plan),
            past_key_values=self._cache,
            use_cache=True,
        )
        return self.policy.head.logits(hidden[:, 0])

    def _shared_by(self, slots: Sequence[int]) -> SharedPrefixes | None:
        rows = [self._prefixes[slot] for slot in slots]
        if rows != self._shared[0]:
            self._shared = rows, SharedPrefixes(rows) if any(rows) else None
        return self._shared[1]

    def _attend(self, plan: _Plan) -> Attend:
        masks = self._mask(plan)
        types = self.policy.model.config.get_text_config().layer_types if isinstance(masks, dict) else ()

        def attend(index: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            keys, values = self._layers[index].update(key, value)
            mask = masks[types[index]] if types else masks
            if plan.shared is not None:
                return plan.shared.attend(index, query, keys, values, mask[:, 0])
            attended, _ = decoding.one_query_attention(None, query[:, :, None], keys, values, mask)
            return attended.view(len(query), -1)

        return attend

    def _mask(self, plan: _Plan) -> Any:
        """Additive masks [B, 1, 1, L]; a mapping by layer type where a model mixes full and sliding attention."""
        config = self.policy.model.config.get_text_config()
        place, position = plan.places(), plan.positions[:, None]
        visible = place <= position
        window = getattr(config, "sliding_window", None)
        types = set(getattr(config, "layer_types", None) or ())
        near = visible & (place > position - window) if window else visible
        if len(types) > 1:
            return {"full_attention": self._additive(visible), "sliding_attention": self._additive(near)}
        sliding_only = types == {"sliding_attention"} or (window and not types)
        return self._additive(near if sliding_only else visible)

    def _additive(self, visible: Tensor) -> Tensor:
        dtype = self._layers[0].keys.dtype
        return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill(~visible, torch.finfo(dtype).min)[
            :, None, None
        ]


def _rounded(length: int, multiple: int = BUCKET) -> int:
    return -(-length // multiple) * multiple
