"""A request's running turn: its tokens, those not handed out yet, and the rules by which it ends. The same in every engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from rl.engine.protocol import GenerateRequest, TokenChunk
from rl.trajectory import FinishReason


@dataclass(eq=False, slots=True)
class RunningTurn:
    """All tokens of a request so far, and sampled ones that were not handed out yet."""

    request: GenerateRequest
    token_ids: list[int]  # prompt, then everything after it
    turn_start: int  # index in token_ids of this turn's first sampled token
    turn_end: int  # len(token_ids) at which the turn is cut
    max_tokens: int  # of this turn
    fresh: list[tuple[int, float, int, NDArray[np.int32] | None]] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    @classmethod
    def first(cls, request: GenerateRequest, max_seq_len: int) -> Self:
        """The first turn of a request, before the tokens in its `generated_ids`.

        Raises:
            ValueError: it has no prompt, no room, or nothing left to sample.
        """
        if not len(request.prompt_ids):
            raise ValueError(f"request {request.request_id}: got no prompt tokens; allowed: at least 1")
        window = min(request.window or max_seq_len, max_seq_len)
        _check_room(request.request_id, len(request.prompt_ids) + len(request.generated_ids), window)
        if len(request.generated_ids) >= request.sampling.max_tokens:
            raise ValueError(
                f"request {request.request_id}: got {len(request.generated_ids)} generated tokens; allowed: fewer than its "
                f"max_tokens {request.sampling.max_tokens}"
            )
        start, max_tokens = len(request.prompt_ids), request.sampling.max_tokens
        return cls(request, list(request.prompt_ids), start, min(start + max_tokens, window), max_tokens)

    def next(self, num_forced: int, max_seq_len: int, max_tokens: int | None) -> None:
        """Begins the turn after so many forced tokens.

        Raises:
            ValueError: they leave no room.
        """
        start, window = len(self.token_ids) + num_forced, min(self.request.window or max_seq_len, max_seq_len)
        _check_room(self.request.request_id, start, window)
        self.max_tokens = self.request.sampling.max_tokens if max_tokens is None else max_tokens
        self.turn_start, self.turn_end = start, min(start + self.max_tokens, window)
        self.finish_reason = None

    def take(
        self,
        token: int,
        logprob: float,
        policy_version: int,
        kept: NDArray[np.int32] | None,
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        """Appends a sampled token; sets the finish reason where it ends the turn."""
        request = self.request
        self.token_ids.append(token)
        self.fresh.append((token, logprob, policy_version, kept))
        if token in request.stop_ids or (request.sampling.stop and self._at_stop_string(request.sampling.stop, tokenizer)):
            self.finish_reason = FinishReason.STOP
        elif len(self.token_ids) >= self.turn_end:
            at_limit = len(self.token_ids) - self.turn_start >= self.max_tokens
            self.finish_reason = FinishReason.LENGTH if at_limit else FinishReason.CONTEXT

    def _at_stop_string(self, stops: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> bool:
        longest = max(len(s.encode()) for s in stops)
        text = str(tokenizer.decode(self.token_ids[max(self.turn_start, len(self.token_ids) - longest - 1) :]))
        return any(stop in text for stop in stops)

    @property
    def is_due(self) -> bool:
        """Whether there is something to hand out: the turn's end, or a full chunk."""
        return self.finish_reason is not None or len(self.fresh) >= self.request.stream_interval

    def chunk(self) -> TokenChunk:
        """What was sampled since the last chunk."""
        fresh, self.fresh = self.fresh, []
        return TokenChunk(
            token_ids=np.array([f[0] for f in fresh], np.int32),
            logprobs=np.array([f[1] for f in fresh], np.float32),
            policy_version=np.array([f[2] for f in fresh], np.int32),
            kept=[f[3] for f in fresh],
            finish_reason=self.finish_reason,
        )


def _check_room(request_id: str, num_tokens: int, max_seq_len: int) -> None:
    if num_tokens >= max_seq_len:
        raise ValueError(
            f"request {request_id}: got {num_tokens} tokens before sampling; allowed: at most {max_seq_len - 1} "
            "(engine.max_seq_len leaves room for the completion)"
        )
