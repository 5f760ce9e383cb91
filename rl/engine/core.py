"""The decoding loop of the torch engine, without threads: admit waiting requests, run one step, hand out what is new.

`step()` is schedule -> run -> postprocess. Rows 0..n-1 of the KV cache are the active requests; when one ends, the next
waiting request or the last row takes its place, so that a batch has no holes. `rl/engine/torch_engine.py` drives it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rl.config import EngineConfig
from rl.engine.kv_native import NativeKV
from rl.engine.kv_slots import SlotKV
from rl.engine.protocol import GenerateRequest, SavedKV, TokenChunk, Weights
from rl.engine.sampling import draw_next
from rl.engine.turn import RunningTurn
from rl.policy import Policy
from rl.trajectory import FinishReason

PREFILL_TOKENS = 4096  # of one padded prefill call


@dataclass(eq=False, slots=True)
class ActiveRequest(RunningTurn):
    """A request in the engine: its turn, and the tokens that are still to be forced."""

    forced: deque[int] = field(default_factory=deque)
    parked: Any = None  # cache of a kept request between its turns


class EngineCore:
    """Not thread-safe: one thread calls everything."""

    def __init__(self, policy: Policy, config: EngineConfig, kv: SlotKV | NativeKV) -> None:
        self.policy, self.config, self.kv = policy, config, kv
        self.policy_version = 0
        self.num_prefill_tokens = 0
        self.waiting: deque[ActiveRequest] = deque()
        self.active: list[ActiveRequest] = []
        self.kept: dict[str, ActiveRequest] = {}
        self._restored: dict[tuple[int, ...], SavedKV] = {}

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.active)

    # ---- requests

    def add(self, request: GenerateRequest) -> None:
        if request.request_id in self.kept:
            raise ValueError(f"request {request.request_id}: this id is open already; allowed: a new one, or extend")
        sequence = ActiveRequest.first(request, self.config.max_seq_len)
        sequence.forced.extend(request.generated_ids)
        self.waiting.append(sequence)

    def extend(self, request_id: str, forced_ids: Sequence[int], max_tokens: int | None = None) -> None:
        """Appends forced tokens to a kept request and puts it back into the batch."""
        sequence = self.kept[request_id]
        sequence.next(len(forced_ids), self.config.max_seq_len, max_tokens)
        del self.kept[request_id]
        sequence.forced.extend(forced_ids)
        self.waiting.append(sequence)

    def release(self, request_id: str) -> list[int]:
        """Ends a kept request; returns all of its tokens."""
        return self.kept.pop(request_id).token_ids

    def abort(self, request_id: str) -> list[tuple[str, TokenChunk]]:
        """Removes a request wherever it is; its last chunk says ABORTED and holds what had not been handed out."""
        self.kept.pop(request_id, None)
        for sequence in [*self.waiting, *self.active]:
            if sequence.request.request_id == request_id:
                sequence.finish_reason = FinishReason.ABORTED
                if sequence in self.waiting:
                    self.waiting.remove(sequence)
                else:
                    self._leave(self.active.index(sequence))
                return [(request_id, sequence.chunk())]
        return []

    # ---- one step

    @torch.inference_mode()
    def step(self) -> list[tuple[str, TokenChunk]]:
        """Admits what fits, decodes one token for every active row, and returns the chunks that are due."""
        newly = self._admit()
        if not newly and self.active:
            logits = self.kv.decode([s.token_ids[-1] for s in self.active], [len(s.token_ids) - 1 for s in self.active])
            self._append(self.active, logits)
        return self._collect()

    def _admit(self) -> bool:
        """Moves waiting requests into free rows, one prefill for each distinct prompt. True when any came in."""
        free = self.config.max_batch_size - len(self.active)
        prompts: dict[tuple[int, ...], list[ActiveRequest]] = {}
        longest = 0
        while self.waiting and free > 0:
            sequence = self.waiting[0]
            if sequence.parked is not None or self._adopt_restored(sequence):
                self._readmit(self.waiting.popleft())
            else:
                prefix = self._prefix(sequence)
                longest = max(longest, len(prefix))
                if prefix not in prompts and prompts and longest * (len(prompts) + 1) > PREFILL_TOKENS:
                    break
                prompts.setdefault(prefix, []).append(self.waiting.popleft())
            free -= 1
        if prompts:
            self._prefill(prompts)
        return bool(prompts)

    def _prefix(self, sequence: ActiveRequest) -> tuple[int, ...]:
        """What to prefill: the prompt, and the tokens of an interrupted turn too where shapes do not matter.

        Where they do, those tokens are decoded again one by one, as they were the first time, to give the same bits.
        """
        if sequence.forced and not self.kv.replays_turns:
            return (*sequence.token_ids, *sequence.forced)
        return tuple(sequence.token_ids)

    def _prefill(self, prompts: Mapping[tuple[int, ...], list[ActiveRequest]]) -> None:
        self.num_prefill_tokens += sum(map(len, prompts))
        logits, caches = self.kv.prefill(list(prompts))
        owners, rows = [], []
        for row, (prefix, members) in enumerate(prompts.items()):
            slots = range(len(self.active), len(self.active) + len(members))
            self.kv.place(slots, caches[row])  # type: ignore[arg-type]
            for sequence in members:
                consumed = len(prefix) - len(sequence.token_ids)
                sequence.token_ids.extend(sequence.forced.popleft() for _ in range(consumed))
                self.active.append(sequence)
                owners.append(sequence)
                rows.append(row)
        self._append(owners, logits[rows])

    def _adopt_restored(self, sequence: ActiveRequest) -> bool:
        """Gives a new request the cache that was handed back for the beginning of its tokens, if there is one."""
        tokens = (*sequence.token_ids, *sequence.forced)
        for known in self._restored:
            if tokens[: len(known)] == known and len(known) >= len(sequence.token_ids):
                sequence.parked = self._restored.pop(known).cache
                sequence.token_ids = list(known)
                sequence.forced = deque(tokens[len(known) :])
                return True
        return False

    def _readmit(self, sequence: ActiveRequest) -> None:
        """A kept or restored request: its cache exists, and its newest token has not been fed yet."""
        self.kv.place([len(self.active)], sequence.parked)
        sequence.parked = None
        self.active.append(sequence)

    def _append(self, sequences: Sequence[ActiveRequest], logits_BV: Tensor) -> None:
        """Gives each sequence its next token: a forced one if any is due, else a draw."""
        draws = draw_next(logits_BV, [s.request for s in sequences], [len(s.token_ids) for s in sequences])
        drawn = zip(sequences, draws.token_ids.tolist(), draws.logprobs.tolist(), draws.kept, strict=True)
        for sequence, token, logprob, kept in drawn:
            if sequence.forced:
                sequence.token_ids.append(sequence.forced.popleft())
                continue
            sequence.take(token, logprob, self.policy_version, kept, self.policy.tokenizer)

    def _collect(self) -> list[tuple[str, TokenChunk]]:
        """Chunks of finished requests and of those that reached their stream interval; finished rows leave the batch."""
        out = []
        for row in reversed(range(len(self.active))):
            sequence = self.active[row]
            if sequence.is_due:
                out.append((sequence.request.request_id, sequence.chunk()))
            if sequence.finish_reason is not None:
                if sequence.request.keep:
                    sequence.parked = self.kv.take(row, len(sequence.token_ids) - 1)
                    self.kept[sequence.request.request_id] = sequence
                self._leave(row)
        return out

    def _leave(self, row: int) -> None:
        """Takes a row out of the batch; the last row moves into its place."""
        last = len(self.active) - 1
        if row != last:
            self.kv.move(last, row, len(self.active[last].token_ids))
            self.active[row] = self.active[last]
        self.active.pop()

    # ---- caches and weights

    def save_kv(self, request_id: str) -> SavedKV:
        sequence = self.kept.get(request_id)
        if sequence is not None:
            cache = sequence.parked
        else:
            row = next(i for i, s in enumerate(self.active) if s.request.request_id == request_id)
            sequence, cache = self.active[row], self.kv.take(row, len(self.active[row].token_ids) - 1)
        return SavedKV(tuple(sequence.token_ids), self.policy_version, cache)

    def restore_kv(self, saved: SavedKV) -> None:
        self._restored[saved.token_ids] = saved

    def load_weights(self, weights: Weights) -> None:
        """A copy into the same parameters, all of them or an error: there is no stale part that a probe could find."""
        self.policy.load_weights(weights.tensors)
        self.kv.weights_changed()
        self.policy_version = weights.version
        self._restored.clear()
