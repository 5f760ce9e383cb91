"""Plain numbers as they are written: integers, decimals, fractions and percentages, with their exact values."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

MAX_CHARS = 2_000  # of an answer
NUMBER = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
FRACTION = r"\\[dt]?frac\s*\{\s*-?[0-9]+\s*\}\s*\{\s*-?[0-9]+\s*\}"
PERCENT = r"(?:\s*(?P<percent>\\?%|percent\b|per cent\b))"
_LITERAL = re.compile(rf"(?P<sign>[-+]?)(?:(?P<frac>{FRACTION})|(?P<num>{NUMBER})(?:/(?P<den>{NUMBER}))?){PERCENT}?")
_LATEX_SPACE = re.compile(r"(?<!\\)\\(?:[,!;: ]|quad\b|left\b|right\b|displaystyle\b|(?=\$))|~")
_LOOSE = re.compile(r"(?<=[-+/])\s+|\s+(?=/)")
_EQUALS = re.compile(r"(?<![<>!:\\])=")
_WHOLE = re.compile(r"-?[0-9]+")


@lru_cache(maxsize=4096)
def literal(text: str, percent: bool) -> Fraction | None:
    """The value of a literal; None where `text` is anything else. `percent`: whether a percent sign divides by 100.

    >>> literal("\\$1,234.50", False), literal("\\frac{1}{2}", False), literal("50\\%", True), literal("x", False)
    (Fraction(2469, 2), Fraction(1, 2), Fraction(1, 2), None)
    """
    if len(text) > MAX_CHARS:
        return None
    match = _LITERAL.fullmatch(_LOOSE.sub("", clean(text)))
    if match is None:
        return None
    if match["frac"]:
        top, bottom = (Fraction(part) for part in _WHOLE.findall(match["frac"]))
    else:
        top, bottom = (Fraction((part or "1").replace(",", "")) for part in (match["num"], match["den"]))
    if bottom == 0:
        return None
    value = top / bottom * (-1 if match["sign"] == "-" else 1)
    return value / 100 if match["percent"] and percent else value


def clean(text: str) -> str:
    """`text` without delimiters, LaTeX spacing, currency, a final full stop and outer emphasis."""
    return re.sub(r"[$€£]", "", undelimited(_LATEX_SPACE.sub("", text.replace("{,}", ",").replace("−", "-")))).strip()


def undelimited(text: str) -> str:
    """`text` without a final full stop, and without the delimiters of a formula or of emphasis around all of it."""
    text = text.strip().removesuffix(".").strip()
    for opening, closing in (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("**", "**")):
        if text.startswith(opening) and text.endswith(closing) and len(text) > len(opening + closing):
            text = text[len(opening) : -len(closing)].strip()
    return text


def last_side(text: str) -> str:
    """The right-hand side of "x = 7"; the whole text where two sides are different numbers."""
    parts = [part.strip() for part in _EQUALS.split(text)]
    values = {value for part in parts if (value := literal(part, True)) is not None}
    return text if len(values) > 1 else parts[-1]
