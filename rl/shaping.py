"""What a completion's length does to its score and to its place in the batch. Pure functions; `rl/advantage.py` calls them."""

from __future__ import annotations

from rl.config import OverlongConfig
from rl.trajectory import FinishReason, Trajectory


def length_penalty(num_tokens: int, config: OverlongConfig, max_tokens: int) -> float:
    """What to add to the score of a completion of `num_tokens` sampled tokens (DAPO, arXiv 2503.14476, equation 13).

    0 up to `max_tokens - buffer_tokens`, then falling linearly to `-penalty` at `max_tokens`, and `-penalty` beyond.

    >>> [length_penalty(n, OverlongConfig(buffer_tokens=20), 100) for n in (80, 90, 100, 130)]
    [0.0, -0.5, -1.0, -1.0]
    """
    excess = num_tokens - (max_tokens - config.buffer_tokens)
    return -config.penalty * min(max(excess / config.buffer_tokens, 0.0), 1.0) + 0.0  # no -0.0


def is_truncated(trajectory: Trajectory) -> bool:
    """Whether a bound ended it before the model did: of a turn's tokens, of the context, or of the whole rollout."""
    return trajectory.finish_reason not in (FinishReason.STOP, FinishReason.ABORTED)
