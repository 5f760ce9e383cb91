"""Constraints on which words and letters appear (`keywords:`)."""

from __future__ import annotations

from collections.abc import Sequence

from rewards.instructions.errors import InstructionError
from rewards.instructions.relation import Relation, holds
from rewards.text import count_of


def existence(response: str, *, keywords: Sequence[str]) -> bool:
    """Every keyword appears as a word or phrase of its own, in any case."""
    return all(count_of(keyword, response) for keyword in keywords)


def frequency(response: str, *, keyword: str, frequency: int, relation: Relation) -> bool:
    """The keyword appears, as a word of its own, at least / less than `frequency` times."""
    return holds(count_of(keyword, response), relation, frequency)


def forbidden_words(response: str, *, forbidden_words: Sequence[str]) -> bool:
    """None of the words appears as a word of its own, in any case."""
    return not any(count_of(word, response) for word in forbidden_words)


def letter_frequency(response: str, *, letter: str, let_frequency: int, let_relation: Relation) -> bool:
    """The letter (or any other single character), in any case, appears at least / less than `let_frequency` times."""
    if len(letter) != 1:
        raise InstructionError(f"cannot judge: letter is {letter!r}; a single character is expected")
    return holds(response.casefold().count(letter.casefold()), let_relation, let_frequency)
