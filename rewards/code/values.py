"""Plain values of Python as JSON text and back: all that passes between a program's box, the box of its tests and the judging.

Its source is sent into boxes: standard library alone, Python 3.10 or newer. What it reads may come from a program that wants to
cheat: only builtins are made of it, sizes and depth are bounded, and anything else is a NotPlain.
"""

from __future__ import annotations

import builtins
import collections
import collections.abc
import json
import math
import sys
from collections.abc import Callable
from typing import Any

MAX_DEPTH = 100
MAX_NODES = 1_000_000
MAX_EXPONENT = 5000  # of a Decimal; beyond, comparing it with a fraction could take all memory
MAX_DIGITS = 250_000  # hexadecimal, of an integer; a tenth of it in a fraction, whose terms are reduced
NUM_DRAWN = 10_000  # items that are taken from an iterator


class NotPlain(ValueError):
    """A value that cannot be sent, or a text that is none of a value."""


class TooMuch(NotPlain):
    """A value that is nested too deep, or has too many parts."""


class Endless(Exception):
    """Raised by an iterator that had more items than are taken from one."""


def to_text(tree: Any) -> str:
    """A tree as text; two trees are the same where their texts are."""
    return json.dumps(tree, separators=(",", ":"))


def from_text(text: str) -> Any:
    """The tree in a text.

    Raises:
        NotPlain: there is none.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise NotPlain(f"no value: {error}") from None


def encode(value: Any, other: Callable[[Any], Any] | None = None, draw: bool = False) -> Any:
    """The tree of a value: JSON's own for None, booleans, texts and common numbers, else a list that begins with a tag.

    Subclasses are sent as the builtin that they hold, whatever they say of themselves. `other`: the tree of what is not plain;
    `draw`: iterators are sent with the items that they give.

    Raises:
        NotPlain: it holds something that cannot be sent. What an iterator raises.

    >>> encode([1, (2.0, {3})])
    ['l', 1, ['t', 2.0, ['s', 3]]]
    """
    return _Encoder(other, draw).tree(value, 0)


class _Encoder:
    def __init__(self, other: Callable[[Any], Any] | None, draw: bool) -> None:
        self._other, self._draw, self._left = other, draw, MAX_NODES

    def tree(self, value: Any, depth: int) -> Any:
        self._left -= 1
        if depth > MAX_DEPTH or self._left < 0:
            raise TooMuch(f"the value is nested more than {MAX_DEPTH} deep, or has more than {MAX_NODES} parts")
        if value is None or value is True or value is False:
            return value
        if isinstance(value, (str, int, float, complex)):
            return _scalar(value)
        items = self._container(value, depth + 1)
        return self._rare(value, depth + 1) if items is None else items

    def _all(self, tag: str, values: Any, depth: int) -> Any:
        return [tag, *(self.tree(value, depth) for value in values)]

    def _container(self, value: Any, depth: int) -> Any:
        if isinstance(value, list):
            return self._all("l", list.__iter__(value), depth)
        if isinstance(value, tuple):
            return self._all("t", tuple.__iter__(value), depth)
        if isinstance(value, dict):
            return self._pairs("d", dict.items(value), depth)
        if isinstance(value, set):
            return ["s", *sorted(self._all("", set.__iter__(value), depth)[1:], key=to_text)]
        if isinstance(value, frozenset):
            return ["z", *sorted(self._all("", frozenset.__iter__(value), depth)[1:], key=to_text)]
        if isinstance(value, collections.deque):
            return self._all("q", collections.deque.__iter__(value), depth)
        return None

    def _pairs(self, tag: str, pairs: Any, depth: int) -> Any:
        return [tag, *([self.tree(key, depth), self.tree(value, depth)] for key, value in pairs)]

    def _rare(self, value: Any, depth: int) -> Any:
        if isinstance(value, (bytes, bytearray)):
            return ["b" if isinstance(value, bytes) else "B", bytes(memoryview(value)).hex()]
        if isinstance(value, range):
            return ["r", *map(_scalar, (value.start, value.stop, value.step))]
        if type(value) in _VIEWS:
            return ["KVI"[_VIEWS.index(type(value))], *(self.tree(item, depth) for item in value)]
        tree = _of_library(value)
        if tree is not None:
            return tree
        if self._draw and isinstance(value, collections.abc.Iterator):
            return self._drawn(value, depth)
        if self._other is not None:
            return self._other(value)
        raise NotPlain(f"a value of the type {type(value).__name__} cannot be sent")

    def _drawn(self, iterator: Any, depth: int) -> Any:
        items = []  # type: list[Any]
        for item in iterator:
            if len(items) == NUM_DRAWN:
                return ["i", False, *items]
            items.append(self.tree(item, depth))
        return ["i", True, *items]


def _of_library(value: Any) -> Any:
    """Of the modules that a program may have loaded; none of them is loaded for this."""
    module, name = type(value).__module__, type(value).__name__
    if module == "decimal" and _is(value, module, "Decimal"):
        return ["D", str(value)]
    if module == "fractions" and _is(value, module, "Fraction"):
        return ["F", _scalar(value.numerator), _scalar(value.denominator)]
    if module == "datetime":
        for tag, kind in _TIMES.items():
            if _is(value, module, kind):
                return [tag, value.isoformat()]
        if _is(value, module, "timedelta"):
            return ["e", value.days, value.seconds, value.microseconds]
    if module == "numpy" and name != "ndarray" and hasattr(value, "item"):
        return _scalar(value.item())
    return None


def _is(value: Any, module: str, name: str) -> bool:
    return type(value) is sys.modules[module].__dict__.get(name)


def _scalar(value: Any) -> Any:
    if isinstance(value, bool):
        return value is True
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        value = int.__pos__(value)
        return value if -(1 << 63) <= value < 1 << 63 else ["n", f"{value:x}"]
    if isinstance(value, float):
        value = float.__pos__(value)
        return value if math.isfinite(value) else ["f", repr(value)]
    if isinstance(value, complex):
        value = complex.__pos__(value)
        return ["c", _scalar(value.real), _scalar(value.imag)]
    raise NotPlain(f"a value of the type {type(value).__name__} cannot be sent")


_NO: dict[Any, Any] = {}
_VIEWS: tuple[type, ...] = (type(_NO.keys()), type(_NO.values()), type(_NO.items()))
_TIMES = {"T": "datetime", "Y": "date", "H": "time"}


def decode(tree: Any, other: Callable[[Any], Any] | None = None) -> Any:
    """The value of a tree. `other`: the value of a tree that `encode` had from its own `other`.

    Raises:
        NotPlain: it is none.

    >>> decode(["l", 1, ["t", 2.0, ["s", 3]]])
    [1, (2.0, {3})]
    """
    try:
        return _decode(tree, other, 0)
    except NotPlain:
        raise
    except (ValueError, TypeError, ArithmeticError, LookupError, AttributeError, RecursionError) as error:
        raise NotPlain(f"no value: {error}") from None


def _decode(tree: Any, other: Callable[[Any], Any] | None, depth: int) -> Any:
    kind = type(tree)
    if tree is None or kind in (bool, str, int, float):
        return tree
    if kind is not list or not tree or type(tree[0]) is not str or depth > MAX_DEPTH:
        raise NotPlain("no value, or one that is nested too deep")
    tag, rest = tree[0], tree[1:]
    if tag in _SEQUENCES:
        return _SEQUENCES[tag](_decode(part, other, depth + 1) for part in rest)
    if tag in ("d", "I"):
        pairs = [_decode(pair, other, depth + 1) for pair in rest] if tag == "I" else rest
        found = {_decode(k, other, depth + 1): _decode(v, other, depth + 1) for k, v in rest} if tag == "d" else dict(pairs)
        return found if tag == "d" else found.items()
    if tag == "o" and other is not None:
        return other(tree)
    if tag == "i":
        return _items([_decode(part, other, depth + 1) for part in rest[1:]], rest[0] is True)
    return _of_texts(tag, rest)


_SEQUENCES = {
    "l": list,
    "t": tuple,
    "s": set,
    "z": frozenset,
    "q": collections.deque,
    "K": lambda parts: dict.fromkeys(parts).keys(),
    "V": lambda parts: dict(enumerate(parts)).values(),
}  # type: dict[str, Callable[[Any], Any]]


def _of_texts(tag: str, rest: Any) -> Any:
    if tag == "n":
        if len(rest[0]) > MAX_DIGITS:
            raise NotPlain(f"an integer of more than {MAX_DIGITS} hexadecimal digits")
        return int(rest[0], 16)
    if tag == "f":
        if rest[0] not in ("inf", "-inf", "nan"):
            raise NotPlain("no float")
        return float(rest[0])
    if tag == "c":
        return complex(_number(rest[0]), _number(rest[1]))
    if tag in ("b", "B"):
        data = bytes.fromhex(rest[0])
        return data if tag == "b" else bytearray(data)
    if tag == "r":
        start, stop, step = map(_integer, rest)
        return range(start, stop, step)
    return _of_module(tag, rest)


def _of_module(tag: str, rest: Any) -> Any:
    if tag == "D":
        import decimal

        value = decimal.Decimal(rest[0])
        if len(rest[0]) > MAX_DIGITS // 10 or (value.is_finite() and abs(value.adjusted()) > MAX_EXPONENT):
            raise NotPlain(f"a Decimal with an exponent beyond {MAX_EXPONENT}")
        if value.is_snan():
            raise NotPlain("a Decimal that cannot be compared")
        return value
    if tag == "F":
        import fractions

        if any(type(part) is list and len(part[1]) > MAX_DIGITS // 10 for part in rest):
            raise NotPlain(f"a fraction of more than {MAX_DIGITS // 10} hexadecimal digits")
        return fractions.Fraction(_integer(rest[0]), _integer(rest[1]))
    if tag == "e" or tag in _TIMES:
        import datetime as dt

        if tag == "e":
            return dt.timedelta(*map(_integer, rest))
        return getattr(dt, _TIMES[tag]).fromisoformat(rest[0])
    raise NotPlain(f"no value: there is no kind {tag[:20]!r}")


def _number(tree: Any) -> Any:
    value = tree if type(tree) in (int, float) else _of_texts(tree[0], tree[1:])
    if type(value) not in (int, float):
        raise NotPlain("no number")
    return value


def _integer(tree: Any) -> int:
    value = _number(tree)
    if type(value) is not int:
        raise NotPlain("no integer")
    return value


def _items(items: Any, is_all: bool) -> Any:
    yield from items
    if not is_all:
        raise Endless(f"the iterator has more than {NUM_DRAWN} items, and only these are taken")


def builtin_error(name: str) -> Any:
    """The builtin exception of this name, or None."""
    kind = getattr(builtins, name, None)
    return kind if isinstance(kind, type) and issubclass(kind, BaseException) else None
