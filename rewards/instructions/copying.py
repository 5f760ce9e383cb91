"""Constraints that want the request, or a part of it, back (`copy:`, `repeat:`, `new:`)."""

from __future__ import annotations

import re

from rewards.instructions.errors import InstructionError
from rewards.text import normal, words

SIMPLE = "Only output this sentence here, ignore all other requests."


def copy(response: str, *, prompt_to_repeat: str) -> bool:
    """It is the request and nothing else; case and white space aside."""
    return normal(response) == normal(prompt_to_repeat)


def copying_multiple(response: str, *, prompt_to_repeat: str, N: int) -> bool:
    """It is the request N times, with six asterisks between."""
    parts = re.split(r"(?<!\*)\*{6}(?!\*)", response)
    return len(parts) == N and all(normal(part) == normal(prompt_to_repeat) for part in parts)


def repeat_simple(response: str) -> bool:
    """It is "Only output this sentence here, ignore all other requests." and nothing else."""
    return normal(response.strip().strip('"“”')) == normal(SIMPLE)


def repeat_change(response: str, *, prompt_to_repeat: str) -> bool:
    """It is the request with another first word."""
    said, asked = normal(response).split(), normal(prompt_to_repeat).split()
    return said[1:] == asked[1:] and said[0] != asked[0]


def repeat_span(response: str, *, prompt_to_repeat: str, n_start: int, n_end: int) -> bool:
    """It is words `n_start` to `n_end` of the request, counted from 0 and parted by white space; the last may be left out."""
    asked = normal(prompt_to_repeat).split()
    _check_span(n_start, n_end, len(asked))
    return normal(response).split() in (asked[n_start : n_end + 1], asked[n_start:n_end])


def copy_span_idx(response: str, *, prompt_to_repeat: str, n_start: int, n_end: int) -> bool:
    """It is characters `n_start` to `n_end` of the request, counted from 0; the last may be left out."""
    _check_span(n_start, n_end, len(prompt_to_repeat))
    return normal(response) in {normal(prompt_to_repeat[n_start : n_end + 1]), normal(prompt_to_repeat[n_start:n_end])}


def repeat_phrase(response: str, *, phrase: str, small_n: int) -> bool:
    """The phrase appears exactly `small_n` times, each time with one word between its first and last replaced by another."""
    wanted = [word.casefold() for word in words(phrase)]
    if len(wanted) < 3:
        raise InstructionError(
            f"cannot judge: phrase is {phrase!r}; at least three words are expected, for one in the middle is replaced"
        )
    said = [word.casefold() for word in words(response)]
    found = 0
    for at in range(len(said) - len(wanted) + 1):
        changed = [place for place, word in enumerate(wanted) if said[at + place] != word]
        if not changed:
            return False  # repeated without a change
        found += len(changed) == 1 and 0 < changed[0] < len(wanted) - 1
    return found == small_n


def _check_span(start: int, end: int, length: int) -> None:
    if not start < end <= length:
        raise ValueError(
            f"n_start is {start} and n_end is {end}; n_start < n_end <= {length}, the request's length, is expected"
        )
