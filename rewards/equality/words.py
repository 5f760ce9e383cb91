"""Answers in words, and the few phrases that say something mathematical."""

from __future__ import annotations

import re
from fractions import Fraction

from rewards.equality.shapes import REALS, Answer, Items, Kind, Scalar, Words
from rewards.equality.tree import Node, Op, number

_REALS = ("all real numbers", "all reals", "real numbers", "all real values", "set of all real numbers")
_NOTHING = ("no solution", "no solutions", "no real solution", "no real solutions", "empty set")
_SAME = {"does not exist": "dne", "not defined": "undefined", "none of the above": "none of these"}
_UNITS = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
nineteen
"""
_NUMBERS = {word: value for value, word in enumerate(_UNITS.split())}
_TENS = {word: 10 * value for value, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), 2)}  # noqa: SIM905


def words(parts: tuple[str, ...]) -> Answer | None:
    """What words say; None where the tokens are anything but words.

    >>> words(('"twenty-one',)).node.value, words(("Not", "defined")).text
    (Fraction(21, 1), 'undefined')
    """
    if not any(part[0] == '"' or (part.isalpha() and len(part) > 1) for part in parts):
        return None
    if not all(part[0] == '"' or part.isalpha() or part in (".", ",", "-", "'", "!", "?", ":") for part in parts):
        return None
    text = " ".join(part.removeprefix('"') for part in parts)
    if (letter := re.fullmatch(r"\(?([A-Za-z])\)?\.?", text.strip())) is not None:
        return Scalar((letter[1],), Node(Op.VAR, name=letter[1]))
    plain = " ".join(re.sub(r"[^\w%]+", " ", text).casefold().split())
    plain = re.sub(r"^(?:the|a|an) (?=\w)", "", plain)
    if plain in _REALS:
        return REALS
    if plain in _NOTHING:
        return Items(Kind.SET, ())
    if (value := _spoken(plain.split())) is not None:
        return Scalar(parts, number(value))
    if len(parts) == 1 and parts[0][0] != '"' and len(parts[0]) <= 2 and parts[0].islower() and parts[0] not in ("no", "on"):
        return None  # ab, a product
    return Words(_SAME.get(plain, plain))


def _spoken(said: list[str]) -> Fraction | None:
    """Twenty one as 21; whole numbers below a hundred."""
    if len(said) == 1 and said[0] in _NUMBERS:
        return Fraction(_NUMBERS[said[0]])
    if 1 <= len(said) <= 2 and said[0] in _TENS and all(1 <= _NUMBERS.get(word, 0) <= 9 for word in said[1:]):
        return Fraction(_TENS[said[0]] + sum(_NUMBERS[word] for word in said[1:]))
    return None
