"""What an answer can be: one value, a set, list, tuple, interval or union, an equation, an inequality, a matrix, or words."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from rewards.equality.tree import Node, Op


class Kind(StrEnum):
    LIST = "list"  # a, b without brackets
    SET = "set"  # {a, b}, also what ± makes
    ROUND = "()"  # a tuple or an open interval, which look the same
    SQUARE = "[]"
    LEFT_OPEN = "(]"
    RIGHT_OPEN = "[)"
    UNION = "union"
    RATIO = "ratio"  # a:b


@dataclass(frozen=True)
class Scalar:
    """One value and, apart from it, its unit."""

    parts: tuple[str, ...]
    node: Node
    unit: str = ""


@dataclass(frozen=True)
class Items:
    kind: Kind
    items: tuple[Answer, ...]


@dataclass(frozen=True)
class Named:
    """x = 5, x ∈ (1, 2), or 1 < x < 2, which is the same; `name` is "" where it is a phrase."""

    name: str
    value: Answer


@dataclass(frozen=True)
class Relation:
    """Two sides that are no name and its value; `sign` is one of = < ≤ ≠."""

    sign: str
    left: Node
    right: Node
    value: Answer  # of the right side


@dataclass(frozen=True)
class Approximation:
    """a ≈ b: an exact value and its decimals."""

    sides: tuple[Answer, ...]


@dataclass(frozen=True)
class Matrix:
    rows: tuple[tuple[Answer, ...], ...]


@dataclass(frozen=True)
class Words:
    text: str  # without case and punctuation


@dataclass(frozen=True)
class Other:
    parts: tuple[str, ...]


Answer: TypeAlias = Scalar | Items | Named | Relation | Approximation | Matrix | Words | Other


INTERVALS = {  # (whether it is open on the left, on the right)
    (True, True): Kind.ROUND,
    (False, False): Kind.SQUARE,
    (True, False): Kind.LEFT_OPEN,
    (False, True): Kind.RIGHT_OPEN,
}
INFINITE = {
    -1: Scalar(("-", "∞"), Node(Op.NEG, (Node(Op.CONST, name="inf"),))),
    1: Scalar(("∞",), Node(Op.CONST, name="inf")),
}
REALS = Items(Kind.ROUND, (INFINITE[-1], INFINITE[1]))
