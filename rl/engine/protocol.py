"""What every rollout engine offers, whatever runs behind it.

Callers: `rl/rollout.py` (training and evaluation) and chat. Implementations: `rl/engine/torch_engine.py`,
`rl/engine/vllm_engine.py`; `rl/engine/build.py` makes the one that a recipe names.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rl.config import SamplingConfig
from rl.engine.capabilities import Capabilities
from rl.trajectory import FinishReason


@dataclass(frozen=True)
class GenerateRequest:
    """One turn of one rollout.

    The draw for the token at absolute position p (prompt included) uses (seed_key, rollout_key, p). To go on with an
    interrupted turn, put the tokens it had sampled in `generated_ids`: they count towards max_tokens and are not streamed.
    With `keep` the request stays open after its turn, for `extend`, until `release` or `abort`.
    """

    request_id: str
    prompt_ids: Sequence[int]
    sampling: SamplingConfig
    stop_ids: frozenset[int]
    seed_key: int
    rollout_key: int
    generated_ids: Sequence[int] = ()
    keep: bool = False
    window: int | None = None  # tokens that it may have in all, prompt included; None: the engine's max_seq_len
    stream_interval: int = 32  # tokens per chunk; the last chunk comes at once


@dataclass(frozen=True)
class TokenChunk:
    """Newly sampled tokens of one request; n tokens, in order. `finish_reason` is set on a turn's last chunk."""

    token_ids: NDArray[np.int32]  # [n]
    logprobs: NDArray[np.float32]  # [n], of the distribution actually sampled from
    policy_version: NDArray[np.int32]  # [n]
    kept: Sequence[NDArray[np.int32] | None]  # [n], ids that top-p and top-k kept; None where nothing was cut
    finish_reason: FinishReason | None = None


@dataclass(frozen=True)
class SavedKV:
    """The KV cache of one request after `token_ids`. `cache` is the engine's own value and can be pickled.

    The torch engine keeps keys and values [heads, tokens - 1, head_dim] per layer (the newest token has not been fed yet).
    """

    token_ids: tuple[int, ...]
    policy_version: int
    cache: Any


@dataclass(frozen=True)
class Weights:
    """Parameters by name, in host memory, and the number of the policy they make.

    `probe`: what the trainer's model says of a few tokens, by which an engine checks that it has all of the new weights.
    """

    version: int
    tensors: Mapping[str, Tensor]
    probe: Probe | None = None


@dataclass(frozen=True)
class Probe:
    """Token ids [n], and the log-probabilities of all but the first given those before them, [n - 1], at temperature 1."""

    token_ids: Sequence[int]
    logprobs: NDArray[np.float32]


class WeightsError(RuntimeError):
    """An engine's weights are not those that it was given."""


class Engine(Protocol):
    """Methods may be called from any asyncio task; pause and abort take effect before the next decoding step."""

    @property
    def capabilities(self) -> Capabilities: ...

    def generate(self, request: GenerateRequest) -> AsyncIterator[TokenChunk]:
        """Streams one turn. Ends after the chunk with a finish reason."""
        ...

    def extend(self, request_id: str, forced_ids: Sequence[int], max_tokens: int | None = None) -> AsyncIterator[TokenChunk]:
        """Appends forced tokens (tool results) to a kept request and streams its next turn. Forced ids are not streamed.

        `max_tokens`: of this turn; None: as the request's sampling says.
        """
        ...

    async def release(self, request_id: str) -> list[int]:
        """Ends a kept request; returns all of its tokens as the engine has them, by which a caller checks its own record."""
        ...

    async def abort(self, request_id: str) -> None:
        """Ends a request; its stream closes with FinishReason.ABORTED. Unknown ids are ignored: it may just have ended."""
        ...

    async def pause(self) -> None:
        """Returns when no step is running; requests stay."""
        ...

    async def resume(self) -> None: ...

    async def save_kv(self, request_id: str) -> SavedKV:
        """Copies a request's cache at a token boundary. The engine must be paused or the request kept."""
        ...

    async def restore_kv(self, saved: SavedKV) -> None:
        """Hands a cache back: the next `generate` whose tokens begin with `saved.token_ids` decodes on from it."""
        ...

    async def load_weights(self, weights: Weights) -> None:
        """Replaces the weights between two steps; tokens sampled afterwards carry their version.

        Raises:
            WeightsError: afterwards the engine does not compute what the probe says.
        """
        ...

    @property
    def policy_version(self) -> int: ...

    def close(self) -> None: ...
