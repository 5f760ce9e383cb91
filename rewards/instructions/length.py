"""Constraints on how many words, sentences and paragraphs there are (`length_constraints:`)."""

from __future__ import annotations

import re

from rewards.instructions.errors import InstructionError
from rewards.instructions.relation import Relation, holds
from rewards.text import has_word, paragraphs, sentences, words

_DIVIDER = re.compile(r"(?:^|(?<=\s))\*{3}(?=\s|\Z)")


def number_words(response: str, *, num_words: int, relation: Relation) -> bool:
    """There are at least / less than `num_words` words."""
    return holds(len(words(response)), relation, num_words)


def number_sentences(response: str, *, num_sentences: int, relation: Relation) -> bool:
    """There are at least / less than `num_sentences` sentences."""
    return holds(len(sentences(response)), relation, num_sentences)


def number_paragraphs(response: str, *, num_paragraphs: int) -> bool:
    """There are exactly `num_paragraphs` paragraphs with the markdown divider *** between them, none empty."""
    parts = _DIVIDER.split(response)
    if not parts[0].strip():
        parts = parts[1:]
    if parts and not parts[-1].strip():
        parts = parts[:-1]
    return len(parts) == num_paragraphs and all(has_word(part) for part in parts)


def nth_paragraph_first_word(response: str, *, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """There are exactly `num_paragraphs` paragraphs, parted by empty lines, and number `nth_paragraph` begins with the word."""
    found = paragraphs(response)
    if not 1 <= nth_paragraph <= num_paragraphs:
        raise InstructionError(
            f"cannot judge: nth_paragraph is {nth_paragraph}; 1 to num_paragraphs ({num_paragraphs}) is expected"
        )
    if len(found) != num_paragraphs:
        return False
    paragraph = re.sub(r"\A[\W_]+", "", found[nth_paragraph - 1]).casefold()
    word = first_word.strip().casefold()
    return paragraph.startswith(word) and not re.match(r"\w|[-'’]\w", paragraph[len(word) :])
