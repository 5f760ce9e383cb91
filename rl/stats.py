"""Small statistics that reports use."""

from __future__ import annotations

import math


def wilson_interval(successes: float, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's 95 % confidence interval of a proportion (E. B. Wilson, JASA 1927); (0, 1) without trials.

    >>> low, high = wilson_interval(90, 100)
    >>> round(low, 3), round(high, 3)
    (0.826, 0.945)
    """
    if trials == 0:
        return 0.0, 1.0
    share, shift = successes / trials, z * z / trials
    centre = (share + shift / 2) / (1 + shift)
    half = z / (1 + shift) * math.sqrt(share * (1 - share) / trials + shift / (4 * trials))
    return max(0.0, centre - half), min(1.0, centre + half)


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Unbiased estimate of the chance that one of k samples is right (Chen et al., arXiv 2107.03374, equation 1)."""
    if num_samples - num_correct < k:
        return 1.0
    return 1.0 - math.comb(num_samples - num_correct, k) / math.comb(num_samples, k)
