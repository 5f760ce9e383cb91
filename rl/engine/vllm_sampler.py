"""Draws vLLM's tokens by our own rules: a token's own random number, cuts and log-probabilities as in rl/engine/sampling.py.

A custom logits processor, which vLLM hands the logits of every row before it samples. It draws, notes the draw with its
log-probability and the ids that cuts left, and leaves only the drawn token possible, which vLLM then takes greedily.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from vllm import SamplingParams
from vllm.config import VllmConfig
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

from rl.engine.protocol import GenerateRequest
from rl.engine.sampling import draw_next

KEY = "polymath_request"  # in SamplingParams.extra_args: the request's id, where its draws are to be noted


@dataclass(frozen=True)
class Draw:
    """The newest token drawn for a request."""

    token: int
    logprob: float
    kept: NDArray[np.int32] | None


@dataclass
class Ledger:
    """What the core and its sampler share: the requests by their vLLM id, and each one's newest draw."""

    requests: dict[str, GenerateRequest]
    draws: dict[str, Draw]


def sampler_of(ledger: Ledger) -> type[LogitsProcessor]:
    """A logits processor class that draws for the requests of this ledger; vLLM makes the object itself."""
    return type("LedgerSampler", (Sampler,), {"ledger": ledger})


class Sampler(LogitsProcessor):  # type: ignore[misc] # vLLM is not there for mypy
    """Rows follow vLLM's batch: a row is a request, its number of prompt tokens, and its output tokens, a list that grows."""

    ledger: Ledger

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        self._rows: dict[int, tuple[str | None, int, list[int]]] = {}

    def is_argmax_invariant(self) -> bool:
        return False  # so that it runs for greedy rows, which all of ours are to vLLM

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        if batch_update is None:
            return
        for row in batch_update.removed:
            self._rows.pop(row, None)
        for row, params, prompt_ids, output_ids in batch_update.added:
            self._rows[row] = (_request_id(params), len(prompt_ids or ()), output_ids)
        for source, target, direction in batch_update.moved:
            moved, other = self._rows.pop(source, None), self._rows.pop(target, None)
            if moved is not None:
                self._rows[target] = moved
            if other is not None and direction is MoveDirectionality.SWAP:
                self._rows[source] = other

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """`logits`: float32 [rows, V]; comes back with one finite value in each row of a request of ours."""
        ledger = self.ledger
        mine = [row for row in range(len(logits)) if self._name(row) in ledger.requests]
        if not mine:
            return logits
        names = [str(self._name(row)) for row in mine]
        requests = [ledger.requests[name] for name in names]
        positions = [self._rows[row][1] + len(self._rows[row][2]) for row in mine]
        draws = draw_next(logits if len(mine) == len(logits) else logits[mine], requests, positions)
        tokens = torch.from_numpy(draws.token_ids).to(logits.device, torch.int64)
        rows = torch.tensor(mine, device=logits.device)
        logits[rows] = float("-inf")
        logits[rows, tokens] = 0.0
        drawn = zip(names, draws.token_ids.tolist(), draws.logprobs.tolist(), draws.kept, strict=True)
        ledger.draws.update({name: Draw(token, logprob, kept) for name, token, logprob, kept in drawn})
        return logits

    def _name(self, row: int) -> str | None:
        return self._rows[row][0] if row in self._rows else None


def _request_id(params: SamplingParams) -> str | None:
    extra: dict[str, Any] = params.extra_args or {}
    return extra.get(KEY)
