"""Counter-based random numbers: the draw for a token depends on (run seed, rollout, absolute position) and nothing else.

Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011), vectorised over numpy arrays.
A rollout that is interrupted and continued, moved to another worker or batched differently therefore draws the same.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)


def key_of(*parts: object) -> int:
    """A 64-bit key from any printable parts; the same in every process and on every machine.

    >>> key_of("run", 0) == key_of("run", 0)
    True
    """
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little")


def philox4x32(counter: NDArray[np.uint64], key: tuple[int, int]) -> NDArray[np.uint64]:
    """Ten Philox rounds. `counter`: [..., 4] words of 32 bits in uint64; returns the same shape."""
    c0, c1, c2, c3 = (counter[..., i] for i in range(4))
    k0, k1 = key
    for _ in range(10):
        p0, p1 = _M0 * c0, _M1 * c2
        c0, c1, c2, c3 = (p1 >> _SHIFT) ^ c1 ^ np.uint64(k0), p1 & _LOW, (p0 >> _SHIFT) ^ c3 ^ np.uint64(k1), p0 & _LOW
        k0, k1 = (k0 + _W0) & 0xFFFFFFFF, (k1 + _W1) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=-1)


def uniforms(seed_key: int, rollout_keys: NDArray[np.uint64], positions: NDArray[np.uint64]) -> NDArray[np.float64]:
    """One uniform in [0, 1) for each (rollout, position) pair. Both arrays have shape [B]; so has the result."""
    rollouts, places = rollout_keys.astype(np.uint64), positions.astype(np.uint64)
    counter = np.stack([places & _LOW, places >> _SHIFT, rollouts & _LOW, rollouts >> _SHIFT], axis=-1)
    words = philox4x32(counter, (seed_key & 0xFFFFFFFF, (seed_key >> 32) & 0xFFFFFFFF))
    bits = (words[..., 0] << _SHIFT) | words[..., 1]
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
