"""Whether what a program gave is what was expected: values as Python's `==` judges them, output line by line.

The values are trees (`rewards.code.values`) of which no set or dictionary is made here: a program could choose numbers that all
collide in one, and a comparison would never end. Called by `rewards.code.run`.
"""

from __future__ import annotations

import itertools
import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

from rewards.code.values import NotPlain, decode

_NUMBERS = ("n", "f", "c", "D", "F")
_unequal = itertools.count()  # a NaN equals nothing, not even another


def same_value(found: Any, expected: Any, *, tolerance: float = 0.0, tuples_as_lists: bool = False) -> bool:
    """Whether Python would say `found == expected` of the values of two trees; NaN equals nothing.

    Args:
        tolerance: numbers may differ by so much, absolutely or as a part of the expected one, outside of sets and keys.
        tuples_as_lists: data in JSON has no tuples; then a tuple equals the list of its items.

    Raises:
        NotPlain: `found` is the tree of no value.

    >>> same_value(["l", 1, 2.0], ["l", True, 2]), same_value(["t", 1], ["l", 1])
    (True, False)
    """
    return _Comparison(tolerance, tuples_as_lists).same(found, expected)


class _Comparison:
    def __init__(self, tolerance: float, tuples_as_lists: bool) -> None:
        self._tolerance = tolerance
        self._classes = {
            "l": "l",
            "t": "l" if tuples_as_lists else "t",
            "s": "s",
            "z": "s",
            "d": "d",
            "K": "s",
            "q": "q",
            "B": "b",
        }

    def same(self, found: Any, expected: Any) -> bool:
        kind = self._kind(found)
        if kind != self._kind(expected):
            return False
        if kind == "number":
            return self._same_number(_number(found), _number(expected))
        if kind in ("l", "t", "q"):
            return len(found) == len(expected) and all(map(self.same, found[1:], expected[1:]))
        if kind == "d":
            mine, theirs = self._by_key(found), self._by_key(expected)
            return mine.keys() == theirs.keys() and all(self.same(value, theirs[key]) for key, value in mine.items())
        if kind == "r":
            return bool(decode(found) == decode(expected))
        return self._key(found) == self._key(expected)

    def _kind(self, tree: Any) -> str:
        if not isinstance(tree, list):
            return "number" if isinstance(tree, bool | int | float) else type(tree).__name__
        if not tree or not isinstance(tree[0], str):
            raise NotPlain("no value")
        return "number" if tree[0] in _NUMBERS else self._classes.get(tree[0], tree[0])

    def _same_number(self, found: Any, expected: Any) -> bool:
        if found == expected:
            return True
        if not self._tolerance or isinstance(found, complex) or isinstance(expected, complex):
            return False
        try:
            return math.isclose(found, expected, rel_tol=self._tolerance, abs_tol=self._tolerance)
        except OverflowError:  # an integer that no float can hold
            return False

    def _by_key(self, tree: Any) -> dict[str, Any]:
        try:
            return {self._key(key): value for key, value in tree[1:]}
        except (ValueError, TypeError) as error:
            raise NotPlain("no dictionary") from error

    def _key(self, tree: Any) -> str:
        """A text that equal values share, and others do not."""
        kind = self._kind(tree)
        if kind == "number":
            return _number_key(_number(tree))
        if kind == "s":
            return f"s{sorted({self._key(part) for part in tree[1:]})}"
        if kind in ("l", "t", "q"):
            return f"{kind}{[self._key(part) for part in tree[1:]]}"
        if kind == "d":
            return f"d{sorted((key, self._key(value)) for key, value in self._by_key(tree).items())}"
        if kind in ("i", "V", "I"):
            return f"unequal {next(_unequal)}"  # iterators and views of values equal themselves alone
        value = decode(tree)
        return f"{kind} {(bytes(value) if isinstance(value, bytearray) else value)!r}"


def _number(tree: Any) -> Any:
    return decode(tree) if isinstance(tree, list) else tree


def _number_key(value: complex | Fraction | Decimal) -> str:
    if isinstance(value, complex):
        if value.imag:
            return f"complex {_number_key(value.real)} {_number_key(value.imag)}"
        value = value.real
    if value != value:
        return f"unequal {next(_unequal)}"
    if value in (math.inf, -math.inf):
        return f"number {'inf' if value > 0 else '-inf'}"
    numerator, denominator = value.as_integer_ratio()
    return f"number {numerator:x}/{denominator:x}"


def same_output(found: str, expected: str, *, tolerance: float = 0.0) -> bool:
    """Whether two outputs have the same lines; blanks at the end of lines and blank lines at the end do not count.

    `tolerance`: words of a line that are numbers in both may differ by so much, absolutely or as a part of the expected one.

    >>> same_output("1 2  \\n\\n", "1 2"), same_output("0.333", "0.3333"), same_output("0.333", "0.3333", tolerance=1e-2)
    (True, False, True)
    """
    mine, theirs = _lines(found), _lines(expected)
    if mine == theirs or not tolerance or len(mine) != len(theirs):
        return mine == theirs
    return all(_same_words(line.split(), other.split(), tolerance) for line, other in zip(mine, theirs, strict=True))


def _lines(text: str) -> list[str]:
    lines = [line.rstrip() for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _same_words(found: list[str], expected: list[str], tolerance: float) -> bool:
    return len(found) == len(expected) and all(
        word == other or _is_close(word, other, tolerance) for word, other in zip(found, expected, strict=True)
    )


def _is_close(word: str, other: str, tolerance: float) -> bool:
    try:
        return math.isclose(float(word), float(other), rel_tol=tolerance, abs_tol=tolerance)
    except ValueError:
        return False
