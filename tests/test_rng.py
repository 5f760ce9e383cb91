"""Counter-based random numbers: published test vectors, uniformity, and independence of batching."""

from __future__ import annotations

import numpy as np

from rl.rng import key_of, philox4x32, uniforms


def test_philox_known_answers() -> None:
    """Random123's published vectors for philox4x32, 10 rounds."""
    zeros, ones = np.zeros(4, np.uint64), np.full(4, 0xFFFFFFFF, np.uint64)
    assert [int(w) for w in philox4x32(zeros, (0, 0))] == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert [int(w) for w in philox4x32(ones, (0xFFFFFFFF, 0xFFFFFFFF))] == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    counter = np.array([0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], np.uint64)
    got = [int(w) for w in philox4x32(counter, (0xA4093822, 0x299F31D0))]
    assert got == [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]


def test_uniforms_depend_on_key_rollout_and_position_only() -> None:
    keys = np.array([key_of("r", i) for i in range(50)], np.uint64)
    places = np.arange(50, dtype=np.uint64)
    together = uniforms(7, keys, places)
    alone = [uniforms(7, keys[i : i + 1], places[i : i + 1])[0] for i in range(50)]
    assert together.tolist() == alone
    assert len({*together, *uniforms(8, keys, places), *uniforms(7, keys, places + np.uint64(1))}) == 150


def test_uniforms_are_uniform() -> None:
    draws = uniforms(1, np.full(200_000, key_of("x"), np.uint64), np.arange(200_000, dtype=np.uint64))
    counts, _ = np.histogram(draws, bins=100, range=(0, 1))
    assert draws.min() >= 0
    assert draws.max() < 1
    chi_square = float(((counts - 2000) ** 2 / 2000).sum())
    assert 50 < chi_square < 160  # 99 degrees of freedom: far outside the 0.1 % tails otherwise
