"""Constraints on the whole of an answer: its parts, start, end, case and punctuation.

The published groups `combination:`, `startend:`, `change_case:`, `punctuation:` and `language:`.
"""

from __future__ import annotations

import re

from rewards.instructions.errors import InstructionError
from rewards.instructions.relation import Relation, holds
from rewards.language import UnknownLanguageError, is_in
from rewards.text import has_word, normal, words

COMMAS = frozenset(",،߸፣᠂᠈⸲⸴⹁⹌、︐︑﹐﹑，､꓾꘍꛵")
_SIX = re.compile(r"(?<!\*)\*{6}(?!\*)")
_QUOTES = {'"': '"', "“": "”"}


def response_language(response: str, *, language: str) -> bool:
    """All of it is in the language, given by its ISO 639-1 code."""
    try:
        return is_in(response, language)
    except UnknownLanguageError as error:
        raise InstructionError(f"cannot judge: {error}") from error


def two_responses(response: str) -> bool:
    """There are exactly two responses, not the same, parted by six asterisks."""
    parts = _SIX.split(response)
    if len(parts) > 2 and not parts[0].strip():
        parts = parts[1:]
    if len(parts) > 2 and not parts[-1].strip():
        parts = parts[:-1]
    return len(parts) == 2 and all(has_word(part) for part in parts) and normal(parts[0]) != normal(parts[1])


def repeat_prompt(response: str, *, prompt_to_repeat: str) -> bool:
    """It begins with the request, word for word, and an answer follows."""
    text, request = normal(response), normal(prompt_to_repeat)
    return text.startswith(request) and has_word(text[len(request) :])


def end_checker(response: str, *, end_phrase: str) -> bool:
    """Its last words are the phrase, and something stands before it."""
    text, phrase = normal(response.strip().strip('"“”*_')), normal(end_phrase.strip().strip('"'))
    return text.endswith(phrase) and has_word(text[: len(text) - len(phrase)])


def quotation(response: str) -> bool:
    """It is wrapped in double quotation marks."""
    text = response.strip()
    return _QUOTES.get(text[:1]) == text[-1:] and has_word(text)


def capital_word_frequency(response: str, *, capital_frequency: int, capital_relation: Relation) -> bool:
    """At least / less than `capital_frequency` words are in all capital letters; "I" and "A" are such words."""
    return holds(sum(word.isupper() for word in words(response)), capital_relation, capital_frequency)


def english_capital(response: str) -> bool:
    """All of it is English in capital letters."""
    return response.isupper() and is_in(response, "en")


def english_lowercase(response: str) -> bool:
    """All of it is English in lowercase letters."""
    return response.islower() and is_in(response, "en")


def no_comma(response: str) -> bool:
    """There is no comma, of any script."""
    return not COMMAS.intersection(response)
