"""The value of an expression modulo a prime, at points drawn once and for all.

Equal expressions have equal values, unequal ones almost never do (Schwartz 1980, Zippel 1979). Square roots of rational
numbers have values that multiply as the roots do, so that radicals are compared exactly too.
"""

from __future__ import annotations

import math
import random
from fractions import Fraction
from functools import lru_cache

from rewards.equality.tree import Node, Op, UndefinedError, rational

# A prime for which -1 and every prime below 100 are squares, so that radicals of them have residues; 8 divides P - 1 once.
P = 2306937476852288281
_SMALL_PRIMES = [n for n in range(2, 100) if all(n % q for q in range(2, n))]


def residue(node: Node, k: int) -> tuple[int, bool]:
    """(value modulo P at the k-th point, whether different values prove that expressions differ).

    Functions, and roots of anything but rational numbers, get a value by chance for each value of their argument: then equal
    values still mean equal expressions, different ones mean nothing.

    Raises:
        UndefinedError: a division by zero, infinity.
    """
    args = node.args
    match node.op:
        case Op.NUM:
            return node.value.numerator * _inverse(node.value.denominator) % P, True
        case Op.VAR:
            return _residue_of(node.name, k), True
        case Op.CONST:
            return _constant(node.name, k), True
        case Op.POW:
            return _power(node, k)
        case Op.ROOT:
            return _root(node, k)
    values = [residue(arg, k) for arg in args]
    proves = all(value[1] for value in values)
    first = values[0][0]
    match node.op:
        case Op.ADD:
            return sum(value for value, _ in values) % P, proves
        case Op.MUL:
            product = 1
            for value, _ in values:
                product = product * value % P
            return product, proves
        case Op.DIV:
            return first * _inverse(values[1][0]) % P, proves
        case Op.NEG:
            return -first % P, proves
    return _opaque(f"{node.op}/{node.name}", *(value for value, _ in values)), False


def _power(node: Node, k: int) -> tuple[int, bool]:
    base, exponent = node.args
    power = rational(exponent)
    value, proves = residue(base, k)
    if power is None:
        return _opaque("pow", value, residue(exponent, k)[0]), False
    if power.denominator == 1:
        if value == 0 and power <= 0:
            raise UndefinedError
        return pow(value, power.numerator % (P - 1) if value else power.numerator, P), proves
    root, proves = _root(Node(Op.ROOT, (base,), value=Fraction(power.denominator)), k)
    return pow(root, power.numerator % (P - 1), P), proves


def _root(node: Node, k: int) -> tuple[int, bool]:
    """The square root of a rational number, by its prime factors; any other root is a value by chance."""
    inside = rational(node.args[0])
    if node.value == 2 and inside is not None:
        value = 1 if inside >= 0 else _square_root(P - 1)
        for part, sign in ((abs(inside.numerator), 1), (inside.denominator, -1)):
            root = _integer_root(part)
            if root is None:
                break
            value = value * pow(root, sign, P) % P if root else 0
        else:
            return value, True
    return _opaque(f"root/{node.value}", residue(node.args[0], k)[0]), False


@lru_cache(maxsize=1024)
def _integer_root(n: int) -> int | None:
    """A residue whose square is n, chosen so that roots multiply; None where n's factors are too large to know."""
    root = math.isqrt(n)
    if root * root == n:
        return root % P
    value = 1
    for prime in _SMALL_PRIMES:
        exponent = 0
        while n % prime == 0:
            n //= prime
            exponent += 1
        value = value * pow(_square_root(prime), exponent, P) % P
    rest = math.isqrt(n)
    return value * rest % P if rest * rest == n else None


@lru_cache(maxsize=128)
def _square_root(n: int) -> int:
    """A square root of n modulo P (Tonelli and Shanks); n is a square."""
    odd, twos = (P - 1) // 8, 3
    generator = next(g for g in range(2, 1000) if pow(g, (P - 1) // 2, P) == P - 1)
    root, rest, step = pow(n, (odd + 1) // 2, P), pow(n, odd, P), pow(generator, odd, P)
    while rest != 1:
        order, square = 0, rest
        while square != 1:
            square, order = square * square % P, order + 1
        factor = pow(step, 1 << (twos - order - 1), P)
        root, step, twos = root * factor % P, factor * factor % P, order
        rest = rest * step % P
    return root


def _constant(name: str, k: int) -> int:
    if name == "inf":
        raise UndefinedError
    return _square_root(P - 1) if name == "i" else _residue_of(f"constant {name}", k)


@lru_cache(maxsize=4096)
def _residue_of(name: str, k: int) -> int:
    return random.Random(f"{name}/{k}").randrange(P)


def _opaque(name: str, *values: int) -> int:
    return random.Random(f"{name}{values}").randrange(P)


def _inverse(value: int) -> int:
    if value % P == 0:
        raise UndefinedError
    return pow(value, -1, P)
