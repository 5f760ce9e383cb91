"""The value of an expression in floating point, with a radius that bounds every rounding error.

Balls that lie apart prove that two values differ; balls that meet prove nothing.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from rewards.equality.tree import Node, Op, UndefinedError, rational

_EPS = 2.0**-50


@dataclass(frozen=True, slots=True)
class Ball:
    """All complex numbers within `radius` of `mid`; an expression's value is one of them."""

    mid: complex
    radius: float


def ball(node: Node, point: Mapping[str, complex], *, is_complex: bool = False) -> Ball:
    """The value of an expression where its variables are those of `point`; roots of negative numbers only if `is_complex`.

    Raises:
        UndefinedError: it has none, or its ball is unbounded.
    """
    try:
        value = _ball(node, point, is_complex=is_complex)
    except (OverflowError, ZeroDivisionError, ValueError) as error:
        raise UndefinedError from error
    if not (cmath.isfinite(value.mid) and math.isfinite(value.radius)):
        raise UndefinedError
    return value


def _ball(node: Node, point: Mapping[str, complex], *, is_complex: bool) -> Ball:
    match node.op:
        case Op.NUM:
            value = float(node.value)
            return Ball(value, abs(value) * _EPS)
        case Op.VAR:
            return Ball(point[node.name], 0.0)
        case Op.CONST:
            if node.name == "inf":
                raise UndefinedError
            return Ball({"pi": math.pi, "e": math.e, "i": 1j}[node.name], _EPS * 4)
    args = [ball(arg, point, is_complex=is_complex) for arg in node.args]
    first = args[0]
    match node.op:
        case Op.ADD:
            return Ball(
                mid := sum(arg.mid for arg in args),
                sum(arg.radius for arg in args) + sum(abs(arg.mid) for arg in args) * _EPS + abs(mid) * _EPS,
            )
        case Op.MUL:
            product = first
            for factor in args[1:]:
                product = _multiplied(product, factor)
            return product
        case Op.DIV:
            return _multiplied(first, _inverted(args[1]))
        case Op.NEG:
            return Ball(-first.mid, first.radius)
        case Op.FACTORIAL:
            return _factorial(first)
        case Op.ABS:
            return Ball(abs(first.mid), first.radius + abs(first.mid) * _EPS)
        case Op.ROOT:
            return _rooted(first, int(node.value), is_complex=is_complex)
        case Op.POW:
            return _raised(first, args[1], rational(node.args[1]))
    return _called(node.name, args)


def _multiplied(a: Ball, b: Ball) -> Ball:
    mid = a.mid * b.mid
    return Ball(mid, abs(a.mid) * b.radius + abs(b.mid) * a.radius + a.radius * b.radius + abs(mid) * _EPS)


def _inverted(a: Ball) -> Ball:
    if abs(a.mid) <= a.radius:
        raise UndefinedError
    mid = 1 / a.mid
    return Ball(mid, a.radius / (abs(a.mid) * (abs(a.mid) - a.radius)) + abs(mid) * _EPS)


def _raised(base: Ball, exponent: Ball, exact: Fraction | None) -> Ball:
    if exact is not None and exact.denominator == 1 and abs(exact) <= 10_000:
        if exact < 0:
            return _inverted(_raised(base, exponent, -exact))
        result, square, left = Ball(1.0, 0.0), base, exact.numerator
        if left == 0 and abs(base.mid) <= base.radius:
            raise UndefinedError
        while left:
            if left & 1:
                result = _multiplied(result, square)
            left >>= 1
            if left:
                square = _multiplied(square, square)
        return result
    return _exponential(_multiplied(exponent, _logarithm(base)))


def _rooted(a: Ball, degree: int, *, is_complex: bool) -> Ball:
    if a.mid.imag == 0 and abs(a.mid.real) <= a.radius:  # a root of zero, as good as
        return Ball(0.0, (abs(a.mid.real) + a.radius) ** (1 / degree))
    if a.mid.imag == 0 and a.mid.real < 0:
        turned = _rooted(Ball(-a.mid.real, a.radius), degree, is_complex=False)
        if degree % 2:
            return Ball(-turned.mid, turned.radius)
        if degree == 2 and is_complex:
            return Ball(turned.mid * 1j, turned.radius)
        raise UndefinedError
    if a.mid.imag != 0 and (degree != 2 or (a.mid.real < 0 and abs(a.mid.imag) <= a.radius)):
        raise UndefinedError  # across the cut
    if abs(a.mid) <= a.radius:
        raise UndefinedError
    mid = cmath.sqrt(a.mid) if degree == 2 else a.mid.real ** (1 / degree)
    lower = (abs(a.mid) - a.radius) ** (1 / degree - 1)
    return Ball(mid, a.radius * lower / degree + abs(mid) * 8 * _EPS)


def _real(a: Ball) -> float:
    if abs(a.mid.imag) > 0:
        raise UndefinedError
    return a.mid.real


def _logarithm(a: Ball) -> Ball:
    value = _real(a)
    if value <= a.radius:
        raise UndefinedError
    mid = math.log(value)
    return Ball(mid, a.radius / (value - a.radius) + (abs(mid) + 1) * 4 * _EPS)


def _exponential(a: Ball) -> Ball:
    mid = cmath.exp(a.mid)
    return Ball(mid, abs(mid) * (math.expm1(a.radius) + 8 * _EPS * (1 + abs(a.mid))))


def _factorial(a: Ball) -> Ball:
    """By the gamma function, whose logarithm grows by less than log(x + 2) + 2 here."""
    value = _real(a)
    if value < 0 or a.radius > 0.1:
        raise UndefinedError
    mid = math.gamma(value + 1)
    return Ball(mid, mid * (math.expm1((math.log(value + 2) + 2) * a.radius) + 2.0**-40))


def _called(name: str, args: list[Ball]) -> Ball:
    a = args[0]
    match name:
        case "ln":
            return _logarithm(a)
        case "log" if len(args) == 2:
            return _multiplied(_logarithm(a), _inverted(_logarithm(args[1])))
        case "sin" | "cos":
            mid = cmath.sin(a.mid) if name == "sin" else cmath.cos(a.mid)
            return Ball(mid, math.cosh(abs(a.mid.imag) + a.radius) * (a.radius + 8 * _EPS * (1 + abs(a.mid))))
        case "tan":
            return _multiplied(_called("sin", args), _inverted(_called("cos", args)))
        case "cot":
            return _multiplied(_called("cos", args), _inverted(_called("sin", args)))
        case "sec" | "csc":
            return _inverted(_called("cos" if name == "sec" else "sin", args))
        case "sinh" | "cosh":
            up, down = _exponential(a), _exponential(Ball(-a.mid, a.radius))
            sign = 1 if name == "cosh" else -1
            return Ball((up.mid + sign * down.mid) / 2, (up.radius + down.radius) / 2 + abs(up.mid) * _EPS)
        case "tanh":
            return _multiplied(_called("sinh", args), _inverted(_called("cosh", args)))
        case "arctan":
            mid = math.atan(_real(a))
            return Ball(mid, a.radius + 8 * _EPS)
        case "arcsin" | "arccos":
            value = _real(a)
            edge = 1 - abs(value) - a.radius
            if abs(value) > 1 + a.radius:
                raise UndefinedError
            clipped = max(-1.0, min(1.0, value))
            mid = math.asin(clipped) if name == "arcsin" else math.acos(clipped)
            slope = a.radius / math.sqrt(edge) if edge > 1e-6 else 2 * math.sqrt(2 * (abs(1 - abs(value)) + a.radius))
            return Ball(mid, slope + 8 * _EPS)
    raise UndefinedError  # log without a base: of ten or of e, as its author meant
