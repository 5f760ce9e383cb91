"""Decoding with a model's own cache object, one sequence a call: slow, right for every architecture, invariant by design.

Serves models whose cache is not plain keys and values (state spaces, linear attention, compressed attention).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rl.policy import Policy


@dataclass
class NativeState:
    """One sequence's cache, under the keyword that its model uses for it."""

    keyword: str
    cache: Any


class NativeKV:
    """The same surface as SlotKV; a sequence's cache is an opaque object that is copied when a group shares a prompt."""

    replays_turns = True  # see SlotKV

    def __init__(self, policy: Policy, num_slots: int) -> None:
        self.policy = policy
        self._slots: list[NativeState | None] = [None] * num_slots

    def weights_changed(self) -> None:
        """Nothing of the weights is kept here."""

    def prefill(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, list[NativeState]]:
        outputs = [self._run(NativeState("past_key_values", None), list(prompt)) for prompt in prompts]
        return torch.stack([logits for logits, _ in outputs]), [state for _, state in outputs]

    def place(self, slots: Sequence[int], state: NativeState) -> None:
        for slot in slots:
            self._slots[slot] = copy.deepcopy(state)

    def take(self, slot: int, length: int) -> NativeState:
        return copy.deepcopy(self._state(slot))

    def move(self, source: int, target: int, length: int) -> None:
        self._slots[target], self._slots[source] = self._slots[source], None

    def decode(self, token_ids: Sequence[int], positions: Sequence[int]) -> Tensor:
        lines = []
        for slot, token in enumerate(token_ids):
            logits, self._slots[slot] = self._run(self._state(slot), [token])
            lines.append(logits)
        return torch.stack(lines)

    def _state(self, slot: int) -> NativeState:
        state = self._slots[slot]
        assert state is not None, f"slot {slot} is empty"
        return state

    def _run(self, state: NativeState, token_ids: list[int]) -> tuple[Tensor, NativeState]:
        ids = torch.tensor([token_ids], device=self.policy.device)
        inputs = {state.keyword: state.cache} if state.cache is not None else {}
        with self.policy.autocast():
            output = self.policy.model(input_ids=ids, use_cache=True, **inputs)
        keyword = "past_key_values" if output.get("past_key_values") is not None else "cache_params"
        return output.logits[0, -1].float(), NativeState(keyword, output[keyword])
