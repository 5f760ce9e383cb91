"""The tool `calculator`: arithmetic in exact fractions, bounded in size; roots and powers that are irrational to 15 digits."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Context, Decimal
from fractions import Fraction
from typing import Any

from rewards.parameters import nearest
from rewards.task import Task, ToolSpec
from rl.tools.config import ToolConfig
from rl.tools.tool import Run, Tool, ToolError
from sandbox.box import Box

MAX_CHARS = 1000  # of an expression
MAX_BITS = 4096  # of a numerator or a denominator
MAX_DEPTH = 60  # of brackets, signs and powers within each other
MAX_FACTORIAL = 400
_DIGITS = Context(prec=40)
_SHOWN_DIGITS = 15  # of a number that is not exact, or not a decimal
_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d[\d_]*(?:\.\d*)?(?:[eE][+-]?\d{1,4}(?![\w.]))?|\.\d+)|(?P<name>[A-Za-z]\w*)|(?P<sign>\*\*|//|[-+*/%^(),!×÷−·]))"
)
_SAME = {"^": "**", "×": "*", "·": "*", "÷": "/", "−": "-"}
_POWERS = {"+": 1, "-": 1, "*": 2, "/": 2, "//": 2, "%": 2}  # how strongly they bind; `**` and signs are read apart

SPEC = ToolSpec(
    "calculator",
    "Evaluates arithmetic exactly: + - * / // % ** ( ), abs, ceil, factorial, floor, gcd, lcm, max, min, round, sqrt.",
    {"type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]},
)


@dataclass(frozen=True)
class Number:
    value: Fraction
    exact: bool = True


class Calculator(Tool):
    """Keeps no state: one run serves all."""

    def __init__(self, config: ToolConfig) -> None:
        super().__init__(SPEC, config)

    def begin(self, task: Task) -> Run:
        return _run


async def _run(arguments: Mapping[str, Any], box: Box | None) -> str:
    return calculate(arguments["expression"])


def calculate(expression: str) -> str:
    """The value of an expression as text.

    >>> calculate("2/3 + 1/6"), calculate("0.1 + 0.2"), calculate("2^10 - sqrt(2)")
    ('5/6 (about 0.833333333333333)', '0.3', 'about 1022.58578643763')

    Raises:
        ToolError: it is none, or too large.
    """
    if len(expression) > MAX_CHARS:
        raise ToolError(f"the expression has {len(expression)} characters; at most {MAX_CHARS}")
    reader = _Reader(list(_tokens(expression)))
    number = reader.sum(0)
    if reader.ahead is not None:
        raise ToolError(f"cannot read the expression at {reader.ahead!r}")
    return _shown(number)


def _tokens(expression: str) -> Iterator[str]:
    at, end = 0, len(expression.rstrip())
    while at < end:
        found = _TOKEN.match(expression, at)
        if found is None:
            raise ToolError(f"cannot read the expression at {expression[at:].strip()[:20]!r}")
        at = found.end()
        token = found.group(found.lastgroup or 0)
        yield _SAME.get(token, token)


class _Reader:
    """Evaluates while it reads."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens, self._at, self._depth = tokens, 0, 0

    @property
    def ahead(self) -> str | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def take(self) -> str:
        token = self.ahead
        if token is None:
            raise ToolError("the expression ends too early")
        self._at += 1
        return token

    def sum(self, binds: int) -> Number:
        """All that binds more strongly."""
        left = self.signed()
        while (sign := self.ahead) in _POWERS and _POWERS[sign] > binds:
            self.take()
            left = _combine(sign, left, self.sum(_POWERS[sign]))
        return left

    def signed(self) -> Number:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ToolError(f"the expression is nested more than {MAX_DEPTH} levels deep")
        if self.ahead in ("+", "-"):
            sign, number = self.take(), self.signed()
            found = Number(-number.value, number.exact) if sign == "-" else number
        else:
            found = self.atom()
            while self.ahead == "!":
                self.take()
                found = _factorial(found)
            if self.ahead == "**":
                self.take()
                found = _power(found, self.signed())
        self._depth -= 1
        return found

    def atom(self) -> Number:
        token = self.take()
        if token == "(":
            found = self.sum(0)
            self.close()
            return found
        if token[0].isdigit() or token[0] == ".":
            return _bounded(Number(Fraction(token.replace("_", "").rstrip("."))))
        if token in ("pi", "e"):
            return Number(Fraction(str(math.pi if token == "pi" else math.e)), exact=False)
        if not token[0].isalpha():
            raise ToolError(f"cannot read the expression at {token!r}")
        if token not in FUNCTIONS:
            raise ToolError(
                f"no function or constant {token!r:.50}{nearest(token, FUNCTIONS)}; there are: {', '.join(FUNCTIONS)}, pi, e"
            )
        if self.ahead != "(":
            raise ToolError(f"{token} needs brackets: {token}(...)")
        self.take()
        given = [self.sum(0)]
        while self.ahead == ",":
            self.take()
            given.append(self.sum(0))
        self.close()
        return _bounded(FUNCTIONS[token](token, given))

    def close(self) -> None:
        if self.ahead != ")":
            raise ToolError("a bracket is not closed" if self.ahead is None else f"`)` is expected before {self.ahead!r}")
        self.take()


def _combine(sign: str, left: Number, right: Number) -> Number:
    a, b = left.value, right.value
    if sign in ("/", "//", "%") and b == 0:
        raise ToolError("division by zero")
    value = {"+": lambda: a + b, "-": lambda: a - b, "*": lambda: a * b, "/": lambda: a / b}.get(sign)
    found = value() if value is not None else Fraction(a // b) if sign == "//" else a % b
    return _bounded(Number(found, left.exact and right.exact))


def _power(base: Number, exponent: Number) -> Number:
    a, b = base.value, exponent.value
    if a == 0 and b < 0:
        raise ToolError("division by zero")
    if b.denominator == 1:
        if _bits(a) * abs(b) > MAX_BITS and abs(a) not in (0, 1):
            raise _too_large()
        power = abs(a) ** abs(int(b)) if abs(a) not in (0, 1) else abs(a) if b else Fraction(1)
        signed = -power if a < 0 and b % 2 else power
        return Number(1 / signed if b < 0 else signed, base.exact and exponent.exact)
    if a < 0:
        raise ToolError(f"a negative number has no power of {_shown(exponent)}")
    if b.denominator == 2 and (root := _root(a)) is not None:
        return _power(Number(root, base.exact), Number(Fraction(b.numerator), exponent.exact))
    if abs(b) * max(1, _bits(a)) > MAX_BITS:
        raise _too_large()
    return Number(Fraction(_DIGITS.power(_decimal(a), _decimal(b))), exact=False)


def _root(value: Fraction) -> Fraction | None:
    """The square root where it is rational."""
    over, under = math.isqrt(value.numerator), math.isqrt(value.denominator)
    return Fraction(over, under) if over**2 == value.numerator and under**2 == value.denominator else None


def _factorial(number: Number) -> Number:
    if number.value.denominator != 1 or not 0 <= number.value <= MAX_FACTORIAL:
        raise ToolError(f"factorial: got {_shown(number)}; a whole number from 0 to {MAX_FACTORIAL} is expected")
    return _bounded(Number(Fraction(math.factorial(int(number.value))), number.exact))


Function = Callable[[str, list[Number]], Number]


def _of_one(compute: Callable[[Number], Number]) -> Function:
    def call(name: str, given: list[Number]) -> Number:
        if len(given) != 1:
            raise ToolError(f"{name} takes one number; got {len(given)}")
        return compute(given[0])

    return call


def _of_many(compute: Callable[[list[Fraction]], Fraction], *, whole: bool = False) -> Function:
    def call(name: str, given: list[Number]) -> Number:
        for number in given:
            if whole and number.value.denominator != 1:
                raise ToolError(f"{name}: got {_shown(number)}; whole numbers are expected")
        return Number(compute([number.value for number in given]), all(number.exact for number in given))

    return call


def _rounded(name: str, given: list[Number]) -> Number:
    """round(x) or round(x, digits), a half away from zero as at school."""
    digits = given[1].value if len(given) == 2 else Fraction(0)
    if len(given) > 2 or digits.denominator != 1 or abs(digits) > 100:
        raise ToolError(f"{name} takes a number and, if wanted, how many decimals")
    scale = Fraction(10) ** int(digits)
    scaled = abs(given[0].value) * scale
    whole = math.floor(scaled + Fraction(1, 2)) / scale
    return Number(-whole if given[0].value < 0 else whole, given[0].exact)


FUNCTIONS: Mapping[str, Function] = {
    "abs": _of_one(lambda x: Number(abs(x.value), x.exact)),
    "ceil": _of_one(lambda x: Number(Fraction(math.ceil(x.value)), x.exact)),
    "factorial": _of_one(_factorial),
    "floor": _of_one(lambda x: Number(Fraction(math.floor(x.value)), x.exact)),
    "gcd": _of_many(lambda values: Fraction(math.gcd(*map(int, values))), whole=True),
    "lcm": _of_many(lambda values: Fraction(math.lcm(*map(int, values))), whole=True),
    "max": _of_many(max),
    "min": _of_many(min),
    "round": _rounded,
    "sqrt": _of_one(lambda x: _power(x, Number(Fraction(1, 2)))),
}


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def _bounded(number: Number) -> Number:
    if _bits(number.value) > MAX_BITS:
        raise _too_large()
    return number


def _too_large() -> ToolError:
    return ToolError(f"a number becomes too large: more than {int(MAX_BITS * math.log10(2))} digits")


def _decimal(value: Fraction) -> Decimal:
    return _DIGITS.divide(Decimal(value.numerator), Decimal(value.denominator))


def _shown(number: Number) -> str:
    value = number.value
    if not number.exact:
        return f"about {_in_digits(value)}"
    if value.denominator == 1:
        return str(value.numerator)
    twos_and_fives = value.denominator
    for prime in (2, 5):
        while twos_and_fives % prime == 0:
            twos_and_fives //= prime
    if twos_and_fives == 1 and _bits(value) < 400:
        wide = Context(prec=500)
        return f"{wide.divide(Decimal(value.numerator), Decimal(value.denominator)):f}"
    return f"{value} (about {_in_digits(value)})"


def _in_digits(value: Fraction) -> str:
    found = Context(prec=_SHOWN_DIGITS).plus(_decimal(value))
    plain = f"{found:f}"
    text = plain if len(plain) < 40 else f"{found:E}"
    return text.rstrip("0").rstrip(".") if "." in text and "E" not in text else text
