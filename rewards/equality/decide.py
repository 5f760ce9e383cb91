"""Whether two expression trees are equal, decided without sympy wherever that can be done soundly."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import lru_cache

from rewards.equality.balls import Ball, ball
from rewards.equality.residues import P, residue
from rewards.equality.tree import Node, Op, UndefinedError, has, names, rational

NUM_RESIDUES = 2  # points; a wrong "equal" needs a coincidence of chance below 2^-50 at each
_RANGES = ((0.5, 1.5), (1.5, 4.0), (5.0, 20.0), (-3.0, -0.3), (0.05, 0.45))  # that variables are drawn from; a point each
_NUM_SAMPLES = 60  # points at which the truth of two inequalities is compared
_NUM_SEARCHES = 8  # for a root of one equation that is none of another
_NEAR = 1e-6  # how near, relatively, a root that is found may lie to the true one


def decide(a: Node, b: Node) -> bool | None:
    """Whether two expressions are equal wherever both are defined in the real numbers (in the complex ones, where i occurs).

    None: not known; they agree as far as floating point can tell, but no algebra of this module shows it.
    """
    exact = rational(a), rational(b)
    if exact[0] is not None and exact[1] is not None:
        return exact[0] == exact[1]
    same = _same_residues(a, b)
    if same is not None:
        return same
    return False if are_apart(a, b) else None


def are_apart(a: Node, b: Node) -> bool:
    """Whether there is a point where the two expressions have provably different values."""
    is_complex = has(a, Op.CONST, "i") or has(b, Op.CONST, "i")
    variables = names(a) | names(b)
    for k in range(len(_RANGES) if variables else 1):
        point = {name: _coordinate(name, k) for name in variables}
        try:
            left, right = ball(a, point, is_complex=is_complex), ball(b, point, is_complex=is_complex)
        except UndefinedError:  # outside the natural domain
            continue
        if abs(left.mid - right.mid) > left.radius + right.radius:
            return True
    return False


def are_proportional(a: Node, b: Node) -> bool:
    """Whether a = c * b for a number c other than 0, as far as residues show it."""
    try:
        values = [(residue(a, k)[0], residue(b, k)[0]) for k in range(NUM_RESIDUES + 1)]
    except UndefinedError:
        return False
    if any(left == 0 or right == 0 for left, right in values):
        return False
    return len({left * pow(right, -1, P) % P for left, right in values}) == 1


def differ_in_sign(a: Node, b: Node) -> bool | None:
    """Whether there is a point where one of two expressions is provably positive and the other negative.

    None: neither was ever seen to have a sign.
    """
    variables = sorted(names(a) | names(b))
    seen = None
    for k in range(_NUM_SAMPLES):
        draw = random.Random(k)
        width = 10.0 ** draw.uniform(-1, 2)
        point = {name: draw.uniform(-width, width) for name in variables}
        try:
            signs = _sign(ball(a, point)), _sign(ball(b, point))
        except UndefinedError:
            continue
        if 0 not in signs:
            seen = False
            if signs[0] != signs[1]:
                return True
    return seen


def has_other_root(a: Node, b: Node) -> bool:
    """Whether a root of `a` was found that is no root of `b`; complex roots count."""
    for k in range(_NUM_SEARCHES if names(a) else 0):
        for point in _roots(a, sorted(names(a) | names(b)), random.Random(k)):
            near = {name: value * (1 + _NEAR) for name, value in point.items()}
            try:
                here, there = ball(b, point, is_complex=True).mid, ball(b, near, is_complex=True).mid
            except UndefinedError:
                continue
            if abs(here) > 10 * abs(there - here):  # no root of b anywhere near
                return True
    return False


def _roots(a: Node, variables: list[str], draw: random.Random) -> Iterator[dict[str, complex]]:
    """A point where `a` is zero: the secant method in one variable, the others as they fall."""
    point: dict[str, complex] = {name: draw.uniform(0.5, 3.0) for name in variables}
    solved = draw.choice(sorted(names(a)))

    def value(at: complex) -> complex:
        return ball(a, {**point, solved: at}, is_complex=True).mid

    try:
        root = _secant(value, complex(draw.uniform(-3, 3), draw.uniform(-2, 2)))
    except (UndefinedError, ZeroDivisionError, OverflowError):
        return
    if root is not None:
        yield {**point, solved: root}


def _secant(value: Callable[[complex], complex], start: complex) -> complex | None:
    before, now = start, start * 1.1 + 0.05
    value_before, value_now = value(before), value(now)
    for _ in range(60):
        if value_now == value_before:
            return None
        step = value_now * (now - before) / (value_now - value_before)
        before, value_before = now, value_now
        now -= step
        value_now = value(now)
        if abs(step) <= 1e-12 * (1 + abs(now)):
            return now
    return None


def _sign(value: Ball) -> int:
    if abs(value.mid.real) <= value.radius:
        return 0
    return 1 if value.mid.real > 0 else -1


def _same_residues(a: Node, b: Node) -> bool | None:
    """True: equal at every point. False: different, and for certain. None: different, or undefined, which says nothing."""
    compared = 0
    for k in range(NUM_RESIDUES):
        try:
            (left, left_proves), (right, right_proves) = residue(a, k), residue(b, k)
        except UndefinedError:
            continue
        if left != right:  # whether pi and e are independent of each other nobody knows
            both = all(has(a, Op.CONST, name) or has(b, Op.CONST, name) for name in ("pi", "e"))
            return False if left_proves and right_proves and not both else None
        compared += 1
    return True if compared else None


@lru_cache(maxsize=4096)
def _coordinate(name: str, k: int) -> float:
    return random.Random(f"{name}/{k}").uniform(*_RANGES[k])
