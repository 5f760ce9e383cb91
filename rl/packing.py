"""Sequences laid out in one row without padding; those that begin with the same prompt share it, laid out once.

Token indices only: `rl/batch.py` fills rows with samples, `rl/attention.py` attends over them. Exact wherever tokens meet
each other in attention alone.

Shapes: _N tokens of the row, _S sequences of a block, _Q and _K their queries and keys, padded to the longest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

NO_POSITION = 2**31 - 1  # of a padded key: later than every query, so no causal mask lets it be seen
MAX_MASK = 2**24  # elements of one block's mask
MIN_WASTE = 16  # tokens by which sequences of one block may differ whatever their length


@dataclass(frozen=True)
class Row:
    """The tokens of sequence i are `places[i]` of the row; the first `num_shared[i]` were laid out by an earlier one.

    >>> row = lay_out([np.array([5, 6, 7]), np.array([5, 6, 8, 9])], [2, 2])
    >>> row.token_ids_N.tolist(), row.position_ids_N.tolist()
    ([5, 6, 7, 8, 9], [0, 1, 2, 2, 3])
    >>> [p.tolist() for p in row.places], row.num_shared
    ([[0, 1, 2], [0, 1, 3, 4]], [0, 2])
    """

    token_ids_N: NDArray[np.int64]
    position_ids_N: NDArray[np.int64]
    places: list[NDArray[np.int64]]
    num_shared: list[int]


def prompt_key(token_ids: NDArray[np.int32], prompt_length: int) -> bytes:
    """Sequences share a prompt when these are equal."""
    return token_ids[:prompt_length].astype(np.int64).tobytes()


def lay_out(sequences: Sequence[NDArray[np.int32]], prompt_lengths: Sequence[int]) -> Row:
    """One row of these sequences in this order; an equal prompt (the first `prompt_lengths[i]` tokens) appears once."""
    prompts: dict[bytes, NDArray[np.int64]] = {}
    tokens, positions = list[NDArray[np.int64]](), list[NDArray[np.int64]]()
    places, num_shared, end = list[NDArray[np.int64]](), list[int](), 0
    for ids, length in zip(sequences, prompt_lengths, strict=True):
        key = prompt_key(ids, length)
        shared = prompts.get(key, np.zeros(0, np.int64))
        new = np.arange(end, end + len(ids) - len(shared))
        end += len(new)
        places.append(np.concatenate([shared, new]))
        prompts.setdefault(key, places[-1][:length])
        tokens.append(ids[len(shared) :].astype(np.int64))
        positions.append(np.arange(len(shared), len(ids)))
        num_shared.append(len(shared))
    return Row(np.concatenate(tokens), np.concatenate(positions), places, num_shared)


@dataclass(frozen=True)
class Block:
    """Sequences of similar length that attend in one call. A padded query repeats a real one and is dropped afterwards."""

    shape: tuple[int, int, int]  # S, Q, K
    query_positions_SQ: Tensor
    key_positions_SK: Tensor

    @property
    def is_square(self) -> bool:
        """Each sequence's queries are its keys, so that a causal mask needs no positions."""
        return self.shape[1] == self.shape[2]


@dataclass(frozen=True)
class Packing:
    """How a packed row's queries and keys are gathered into blocks, and the blocks' output scattered back.

    It is handed to a model as its attention mask, which is why it has a `shape` and four dimensions.
    """

    blocks: tuple[Block, ...]
    query_index: Tensor  # int64 [sum of S * Q]: the row's token that stands at each place of the blocks' queries
    key_index: Tensor  # int64 [sum of S * K]
    output_index_N: Tensor  # int64, where in the blocks' outputs each token of the row is
    dropped: Tensor  # int64, the places of `query_index` whose output is not used
    longest: int

    ndim = 4

    @property
    def shape(self) -> tuple[int, int, int, int]:
        length = len(self.output_index_N)
        return (1, 1, length, length)


def plan(row: Row, device: torch.device) -> Packing:
    """Groups the row's sequences into blocks such that little of them is padding and no mask is large."""

    def tensor(values: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(values).to(device)

    blocks, queries, keys = list[Block](), list[NDArray[np.int64]](), list[NDArray[np.int64]]()
    output, dropped, start = np.zeros(len(row.token_ids_N), np.int64), list[NDArray[np.int64]](), 0
    for members in _similar(row):
        # A mask over a rectangle that would be too large: take the shared queries too, and the mask is the causal one.
        longest = max(len(row.places[i]) for i in members)
        most_new = max(len(row.places[i]) - row.num_shared[i] for i in members)
        square = most_new == longest or most_new * longest * len(members) > MAX_MASK
        firsts = [0 if square else row.num_shared[i] for i in members]
        shape = (len(members), longest if square else most_new, longest)
        query, key = np.zeros(shape[:2], np.int64), np.zeros((shape[0], shape[2]), np.int64)
        query_positions, key_positions = np.zeros_like(query), np.full_like(key, NO_POSITION)
        used = np.zeros(shape[:2], bool)
        for s, (i, first) in enumerate(zip(members, firsts, strict=True)):
            places, new = row.places[i], len(row.places[i]) - first
            query[s], query_positions[s] = places[-1], len(places) - 1
            query[s, :new], query_positions[s, :new] = places[first:], np.arange(first, len(places))
            key[s], key[s, : len(places)] = places[-1], places
            key_positions[s, : len(places)] = np.arange(len(places))
            used[s, row.num_shared[i] - first : new] = True
        output[query[used]] = start + np.flatnonzero(used)
        dropped.append(start + np.flatnonzero(~used))
        start += query.size
        queries.append(query.ravel())
        keys.append(key.ravel())
        blocks.append(Block(shape, tensor(query_positions), tensor(key_positions)))
    return Packing(
        tuple(blocks),
        tensor(np.concatenate(queries)),
        tensor(np.concatenate(keys)),
        tensor(output),
        tensor(np.concatenate(dropped)),
        max(len(places) for places in row.places),
    )


def _similar(row: Row) -> list[list[int]]:
    """Sequence numbers in groups of like lengths; those that share their beginning apart from those that do not."""
    lengths = [len(places) for places in row.places]
    news = [length - shared for length, shared in zip(lengths, row.num_shared, strict=True)]
    groups = list[list[int]]()
    for i in sorted(range(len(lengths)), key=lambda i: (row.num_shared[i] > 0, -lengths[i], -news[i])):
        group = [*groups[-1], i] if groups else [i]
        longest, most_new = lengths[group[0]], max(news[j] for j in group)
        if (
            len(group) > 1
            and (row.num_shared[i] > 0) == (row.num_shared[group[0]] > 0)
            and longest - lengths[i] <= max(MIN_WASTE, longest // 4)
            and most_new - min(news[j] for j in group) <= max(MIN_WASTE, most_new // 4)
            and len(group) * longest * most_new <= MAX_MASK
        ):
            groups[-1] = group
        else:
            groups.append([i])
    return groups
