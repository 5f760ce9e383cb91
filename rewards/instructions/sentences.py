"""Constraints on every sentence or paragraph (`sentence:`, `first_word:`, `last_word:` and others that speak of sentences)."""

from __future__ import annotations

import itertools
import re

from rewards.instructions.errors import InstructionError
from rewards.instructions.length import number_paragraphs
from rewards.text import count_of, has_word, lines, normal, paragraphs, sentences, words

_DIVIDER = re.compile(r"^[ \t]*\*[ \t]*\*[ \t]*\*[ \t]*$", re.MULTILINE)


def keyword(response: str, *, word: str, N: int) -> bool:
    """Sentence number N has the keyword as a word of its own."""
    if N == 0:
        raise InstructionError("cannot judge: N is 0; 1 or more is expected")
    found = sentences(response)
    return len(found) >= N and count_of(word, found[N - 1]) > 0


def increment(response: str, *, small_n: int) -> bool:
    """Each sentence has exactly `small_n` more words than the one before; at least two sentences."""
    counts = [len(words(sentence)) for sentence in sentences(response)]
    return len(counts) > 1 and all(two - one == small_n for one, two in itertools.pairwise(counts))


def alliteration_increment(response: str) -> bool:
    """The longest row of words with one first letter grows from sentence to sentence; at least two sentences."""
    rows = [_longest_row([word.casefold()[0] for word in words(sentence)]) for sentence in sentences(response)]
    return len(rows) > 1 and all(one < two for one, two in itertools.pairwise(rows))


def last_first(response: str) -> bool:
    """The last word of each sentence is the first one of the next; at least two sentences."""
    each = [words(sentence) for sentence in sentences(response)]
    return len(each) > 1 and all(normal(one[-1]) == normal(two[0]) for one, two in itertools.pairwise(each))


def paragraph_last_first(response: str) -> bool:
    """Each paragraph, on a line of its own, ends with the word that it begins with, and has at least two words."""
    each = [words(line) for line in lines(response)]
    return all(len(found) > 1 and normal(found[0]) == normal(found[-1]) for found in each)


def first_word_sent(response: str, *, first_word: str) -> bool:
    """The first word of every sentence is this one."""
    return all(normal(words(sentence)[0]) == normal(first_word) for sentence in sentences(response))


def last_word_sent(response: str, *, last_word: str) -> bool:
    """The last word of every sentence is this one."""
    return all(normal(words(sentence)[-1]) == normal(last_word) for sentence in sentences(response))


def sentence_hyphens(response: str) -> bool:
    """The sentences are joined by hyphens without white space; at least two."""
    parts = re.split(r"(?<=[.!?\"'”’)])-(?=\S)", response.strip())
    return len(parts) > 1 and all(part == part.strip() and len(sentences(part)) == 1 for part in parts)


def two_paragraphs(response: str) -> bool:
    """There are exactly two paragraphs with the markdown divider *** between them, none empty."""
    return number_paragraphs(response, num_paragraphs=2)


def two_paragraphs_by_lines(response: str) -> bool:
    """There are exactly two paragraphs with an empty line between them."""
    return len(paragraphs(response)) == 2


def counting_composition(response: str, *, n_sent: int, n_words: int) -> bool:
    """Three paragraphs, divided by lines of `* * *` or `***`, each of `n_sent` sentences, each of `n_words` words."""
    parts = _DIVIDER.split(response)
    each = [[len(words(sentence)) for sentence in sentences(part)] for part in parts if has_word(part)]
    return len(parts) == len(each) == 3 and all(counts == [n_words] * n_sent for counts in each)


def _longest_row(letters: list[str]) -> int:
    return max((len(list(row)) for _, row in itertools.groupby(letters)), default=0)
