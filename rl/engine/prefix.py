"""Attention of rows that share prompts: a prompt's keys and values lie once, and its rows attend to them in one product.

The mathematics is that of attention over the prompt and a row's own tokens together: one softmax over both parts' scores.
Shapes: _B rows, _N distinct prefixes, _M rows of the largest group, _H query heads, _K key-value heads, _G = H / K,
_P longest prefix, _L attended length of the rows' own part, _W head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LayerKV = tuple[tuple[Tensor, Tensor], ...]  # per layer: keys and values [K, length, W] of one sequence


@dataclass(frozen=True, eq=False)
class Prefix:
    """The beginning of several rows, as the store would hold it."""

    kv: LayerKV

    @property
    def length(self) -> int:
        return self.kv[0][0].shape[1]


class SharedPrefixes:
    """The prefixes of a batch's rows, stacked, and which row belongs to which; valid while these rows stay as they are."""

    def __init__(self, row_prefixes: Sequence[Prefix | None]) -> None:
        """At least one row has a prefix; a row without one reads another row's scores, which the mask hides."""
        members: dict[Prefix, list[int]] = {}
        for row, prefix in enumerate(row_prefixes):
            if prefix is not None:
                members.setdefault(prefix, []).append(row)
        self._num, self._most = len(members), max(map(len, members.values()))
        self.length = max(prefix.length for prefix in members)
        device = next(iter(members)).kv[0][0].device
        lengths = [0 if prefix is None else prefix.length for prefix in row_prefixes]
        self.lengths = torch.tensor(lengths, device=device)  # [B]
        gathered, places = [0] * (self._num * self._most), [0] * len(row_prefixes)
        for group, rows in enumerate(members.values()):
            for member, row in enumerate(rows):
                places[row] = group * self._most + member
                gathered[places[row]] = row
        alone = [row for row, prefix in enumerate(row_prefixes) if prefix is None]
        self._alone = torch.tensor(alone, device=device) if alone else None
        self._aligned = gathered == list(range(len(row_prefixes)))
        self._gathered, self._places = torch.tensor(gathered, device=device), torch.tensor(places, device=device)
        self._kv = tuple(
            tuple(self._stacked([p.kv[layer][part] for p in members]) for part in (0, 1))
            for layer in range(len(next(iter(members)).kv))
        )

    def _stacked(self, states: Sequence[Tensor]) -> Tensor:
        """[N * K, P, W], zeros after a shorter prefix."""
        first = states[0]
        out = first.new_zeros(len(states), first.shape[0], self.length, first.shape[2])
        for line, state in zip(out, states, strict=True):
            line[:, : state.shape[1]] = state
        return out.flatten(0, 1)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """query: [B, H, W]; key, value: the rows' own part [B, K, L, W]; mask: additive [B, 1, P + L]. Returns [B, H * W]."""
        rows, heads, length, width = key.shape
        query = (query * width**-0.5).contiguous()
        own = torch.bmm(query.view(rows * heads, -1, width), key.view(rows * heads, length, width).transpose(1, 2))
        shared_key, shared_value = self._kv[layer]
        shared = self._spread(torch.bmm(self._grouped(query, heads), shared_key.transpose(1, 2)), heads)
        scores = torch.cat([shared, own.view(rows, -1, length)], dim=-1).add_(mask)
        weights = torch.softmax(scores, dim=-1)
        own_weights = weights[..., self.length :].view(rows, heads, -1, length).flatten(0, 1)
        output = torch.bmm(own_weights, value.view(rows * heads, length, width))
        of_prefix = self._spread(torch.bmm(self._grouped(weights[..., : self.length], heads), shared_value), heads)
        if self._alone is not None:
            of_prefix.index_fill_(0, self._alone, 0.0)
        return output.view(of_prefix.shape).add_(of_prefix).flatten(1)

    def _grouped(self, states_BHx: Tensor, heads: int) -> Tensor:
        """[B, H, x] of all rows as [N * K, M * G, x]: a group's rows side by side."""
        states = states_BHx if self._aligned else states_BHx.index_select(0, self._gathered)
        parts = states.view(self._num, self._most, heads, -1, states.shape[-1]).transpose(1, 2)
        return parts.reshape(self._num * heads, -1, states.shape[-1])

    def _spread(self, states: Tensor, heads: int) -> Tensor:
        """The way back of `_grouped`."""
        parts = states.view(self._num, heads, self._most, -1, states.shape[-1]).transpose(1, 2)
        out = parts.reshape(self._num * self._most, -1, states.shape[-1])
        return out if self._aligned else out.index_select(0, self._places)
