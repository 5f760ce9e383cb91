"""One mathematical expression as a tree, and what can be said of it exactly; `reader.py` makes it from tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

MAX_BITS = 4_000  # of a whole number that is worked out


class UndefinedError(Exception):
    """An expression has no value at this point, or none that this way of evaluating can give."""


class Op(StrEnum):
    NUM = "num"  # value
    VAR = "var"  # name
    CONST = "const"  # name: pi, e, i, inf
    ADD = "add"
    MUL = "mul"
    DIV = "div"
    NEG = "neg"
    POW = "pow"
    ROOT = "root"  # value: the degree
    FACTORIAL = "factorial"
    ABS = "abs"
    CALL = "call"  # name: sin, ..., ln, log (without a base); log with one has two arguments: argument, base


@dataclass(frozen=True, slots=True)
class Node:
    """An operation and its arguments; numbers are exact.

    >>> Node(Op.MUL, (number(2), Node(Op.VAR, name="x"))).args[0].value
    Fraction(2, 1)
    """

    op: Op
    args: tuple[Node, ...] = ()
    value: Fraction = Fraction(0)
    name: str = ""


def latex(node: Node) -> str:
    r"""An expression as LaTeX that can be read in one way only, decimals as fractions.

    >>> latex(Node(Op.POW, (Node(Op.NEG, (number(Fraction(1, 2)),)), number(2))))
    '{\\left(-\\frac{1}{2}\\right)}^{2}'
    """
    args = [latex(arg) for arg in node.args]
    inner = [text if _is_atom(arg) else rf"\left({text}\right)" for text, arg in zip(args, node.args, strict=True)]
    match node.op:
        case Op.NUM:
            sign, value = "-" if node.value < 0 else "", abs(node.value)
            return sign + (str(value) if value.denominator == 1 else rf"\frac{{{value.numerator}}}{{{value.denominator}}}")
        case Op.VAR:
            name, _, index = node.name.partition("_")
            return f"{name}_{{{index}}}" if index else name
        case Op.CONST:
            return {"pi": "\\pi", "inf": "\\infty"}.get(node.name, node.name)
        case Op.ADD:
            return " + ".join(inner)
        case Op.MUL:
            return r" \cdot ".join(inner)
        case Op.DIV:
            return rf"\frac{{{args[0]}}}{{{args[1]}}}"
        case Op.NEG:
            return f"-{inner[0]}"
        case Op.POW:
            return f"{{{inner[0]}}}^{{{args[1]}}}"
        case Op.ROOT:
            return rf"\sqrt{{{args[0]}}}" if node.value == 2 else rf"\sqrt[{node.value}]{{{args[0]}}}"
        case Op.FACTORIAL:
            return f"{inner[0]}!"
        case Op.ABS:
            return rf"\left|{args[0]}\right|"
    base = f"_{{{args[1]}}}" if len(args) == 2 else ""
    return rf"\{node.name}{base}{{\left({args[0]}\right)}}"


def _is_atom(node: Node) -> bool:
    return node.op in (Op.VAR, Op.CONST, Op.DIV, Op.ROOT, Op.ABS) or (node.op is Op.NUM and node.value >= 0)


def number(value: int | Fraction) -> Node:
    return Node(Op.NUM, value=Fraction(value))


def names(node: Node) -> frozenset[str]:
    """The variables of an expression."""
    own = frozenset((node.name,)) if node.op is Op.VAR else frozenset()
    return own.union(*(names(arg) for arg in node.args))


def has(node: Node, op: Op, name: str = "") -> bool:
    """Whether an operation occurs in an expression, by name where one is given."""
    return (node.op is op and name in ("", node.name)) or any(has(arg, op, name) for arg in node.args)


def rational(node: Node) -> Fraction | None:
    """The exact value of an expression of rational numbers; None for any other, and for numbers of astronomic size."""
    if node.op is Op.NUM:
        return node.value
    if node.op in (Op.VAR, Op.CONST, Op.CALL):
        return None
    values = [rational(arg) for arg in node.args]
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    value = exact_root(known[0], int(node.value)) if node.op is Op.ROOT else _apply(node.op, known)
    if value is None or max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        return None
    return value


def _apply(op: Op, values: list[Fraction]) -> Fraction | None:
    first = values[0]
    match op:
        case Op.ADD | Op.MUL:
            for value in values[1:]:
                first = first + value if op is Op.ADD else first * value
                if first.denominator.bit_length() > MAX_BITS:
                    return None
            return first
        case Op.DIV:
            return first / values[1] if values[1] else None
        case Op.NEG:
            return -first
        case Op.ABS:
            return abs(first)
        case Op.FACTORIAL:
            return Fraction(math.factorial(first.numerator)) if first.denominator == 1 and 0 <= first <= 1000 else None
    power = values[1]
    root = exact_root(first, power.denominator) if power.denominator < 100 and (first >= 0 or power.denominator == 1) else None
    if root is None or (root == 0 and power <= 0):
        return None
    bits = max(root.numerator.bit_length(), root.denominator.bit_length())
    return root**power.numerator if bits * abs(power.numerator) <= MAX_BITS else None


def exact_root(value: Fraction, degree: int) -> Fraction | None:
    """The real root of a rational number where it is rational itself."""
    if degree == 1:
        return value
    if value < 0:
        root = exact_root(-value, degree) if degree % 2 else None
        return None if root is None else -root
    parts = [_integer_root(part, degree) for part in (value.numerator, value.denominator)]
    return Fraction(parts[0], parts[1]) if parts[0] is not None and parts[1] is not None else None


def _integer_root(n: int, degree: int) -> int | None:
    if degree == 2:
        root = math.isqrt(n)
        return root if root * root == n else None
    low, high = 0, 1 << (n.bit_length() // degree + 1)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if middle**degree < n else (low, middle)
    return low if low**degree == n else None


def is_unevaluated(node: Node) -> bool:
    """Whether a sum, product or quotient of rational numbers is still to be worked out, as in 6*7, 3/4 + 1/4 or 84/2."""
    if node.op is Op.NEG:
        return is_unevaluated(node.args[0])
    if node.op is Op.DIV and (value := rational(node)) is not None:
        return value.denominator == 1 and rational(node.args[1]) != 1
    if node.op is Op.MUL and _is_scientific(node):
        return False
    if node.op in (Op.ADD, Op.MUL) and sum(rational(arg) is not None for arg in node.args) > 1:
        return True
    return any(is_unevaluated(arg) for arg in node.args)


def _is_scientific(node: Node) -> bool:
    """Whether it is written like 1.5 * 10^6."""
    if len(node.args) != 2 or node.args[1].op is not Op.POW or node.args[0].op is not Op.NUM:
        return False
    return node.args[1].args[0] == number(10) and 1 <= node.args[0].value < 10
