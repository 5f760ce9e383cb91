r"""An expression's tree from its tokens.

What can be read in two ways (1/2x, x2, \sin(x)^2) or goes beyond school and first-year notation is refused, never guessed.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache

from rewards.equality.tokens import is_number, is_whole
from rewards.equality.tree import Node, Op, number, rational
from rewards.equality.vocabulary import GREEK

MAX_DEPTH = 40  # of brackets in brackets
_TRIG = frozenset(("sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh"))
_INVERSE = {"sin": "arcsin", "cos": "arccos", "tan": "arctan"}
_CLOSING = {"(": ")", "[": "]", "{": "}", "\\{": "\\}"}


class NotUnderstoodError(Exception):
    """The tokens are no expression, or one that could mean two things."""


@lru_cache(maxsize=512)
def parse(parts: tuple[str, ...], *, percent: bool = False) -> Node:
    """The tree of an expression. `percent`: whether "%" divides by 100; otherwise it is not understood.

    Raises:
        NotUnderstoodError: see the class.
    """
    reader = _Reader(parts, percent=percent)
    node = reader.sum()
    if reader.at < len(parts):
        raise NotUnderstoodError(parts[reader.at])
    return node


class _Reader:
    """Recursive descent over the tokens; `at` is the next one."""

    def __init__(self, parts: tuple[str, ...], *, percent: bool) -> None:
        self.parts = parts
        self.at = 0
        self._percent = percent
        self._depth = 0
        self._bars = 0

    def sum(self) -> Node:
        terms = [self._product()]
        while (sign := self._peek()) in ("+", "-"):
            self.at += 1
            term = self._product()
            terms.append(term if sign == "+" else _negative(term))
        return terms[0] if len(terms) == 1 else Node(Op.ADD, tuple(terms))

    def _product(self) -> Node:
        node = self._signed()
        slashed = False
        while True:
            following = self._peek()
            if following in ("*", "/"):
                self.at += 1
                factor = self._signed()
                slashed = following == "/"
                node = Node(Op.DIV, (node, factor)) if slashed else _times(node, factor)
            elif following is not None and self._starts_factor(following):
                if slashed or is_number(following):
                    raise NotUnderstoodError("1/2x, x2 or 1 2")
                node = _times(node, self._power())
            else:
                return node

    def _signed(self) -> Node:
        negative = False
        while (sign := self._peek()) in ("+", "-"):
            self.at += 1
            negative ^= sign == "-"
        node = self._power()
        return _negative(node) if negative else node

    def _power(self) -> Node:
        node = self._postfix()
        if self._peek() != "^":
            return node
        if node.op is Op.CALL and self.parts[self.at - 1] in (")", "}"):
            raise NotUnderstoodError("sin(x)^2")
        self.at += 1
        exponent = self._exponent()
        return Node(Op.ROOT, (node,), value=Fraction(2)) if exponent == _HALF else Node(Op.POW, (node, exponent))

    def _exponent(self) -> Node:
        self._enter()
        node = self._signed()
        self._depth -= 1
        return node

    def _postfix(self) -> Node:
        node = self._atom()
        while (mark := self._peek()) in ("!", "°", "%"):
            self.at += 1
            if mark == "!":
                if node.op is Op.FACTORIAL:
                    raise NotUnderstoodError("a double factorial, or a tower of them")
                node = Node(Op.FACTORIAL, (node,))
            elif mark == "°":
                node = Node(Op.DIV, (_times(node, Node(Op.CONST, name="pi")), number(180)))
            elif self._percent:
                node = Node(Op.DIV, (node, number(100)))
            else:
                raise NotUnderstoodError("%")
        return node

    def _atom(self) -> Node:
        self._enter()
        node = self._plain_atom()
        self._depth -= 1
        return node

    def _plain_atom(self) -> Node:
        part = self._next()
        if is_number(part):
            return self._number(part)
        if part in ("(", "[", "{"):
            return self._group(part)
        if part == "|":
            return self._absolute()
        if part in ("∞", "\\pi") or part in ("e", "i"):
            return Node(Op.CONST, name={"∞": "inf", "\\pi": "pi"}.get(part, part))
        if part.startswith("\\"):
            return self._command(part[1:])
        if part.isalpha() and part.isascii():
            return self._letters(part)
        raise NotUnderstoodError(part)

    def _number(self, part: str) -> Node:
        value = Fraction(part)
        if self._peek() == "_":
            self.at += 1
            return Node(Op.VAR, name=f"{part} in base {self._index()}")
        fraction = self._proper_fraction() if value.denominator == 1 else None
        return number(value if fraction is None else value + fraction)

    def _proper_fraction(self) -> Fraction | None:
        """The 1/2 of the mixed numbers 3 1/2 and 3\frac{1}{2}."""
        following = self.parts[self.at : self.at + 7]
        if following[:1] == ("\\frac",):
            digits = [part for part in following if is_whole(part)][:2]
            for shape in (("\\frac", "{", "#", "}", "{", "#", "}"), ("\\frac", "#", "#")):
                pattern = tuple("#" if is_whole(part) else part for part in following[: len(shape)])
                if pattern == shape and int(digits[0]) < int(digits[1]):
                    self.at += len(shape)
                    return Fraction(int(digits[0]), int(digits[1]))
            if len(digits) == 2 and all(is_whole(part) or part in ("\\frac", "{", "}") for part in following):
                raise NotUnderstoodError("a whole number before an improper fraction")
        elif len(following) > 2 and is_whole(following[0]) and following[1] == "/" and is_whole(following[2]):
            top, bottom = int(following[0]), int(following[2])
            if 0 < top < bottom:
                self.at += 3
                return Fraction(top, bottom)
        return None

    def _group(self, opening: str) -> Node:
        bars, self._bars = self._bars, 0
        node = self.sum()
        self._bars = bars
        self._expect(_CLOSING[opening])
        return node

    def _absolute(self) -> Node:
        self._bars += 1
        node = self.sum()
        self._expect("|")
        self._bars -= 1
        return Node(Op.ABS, (node,))

    def _command(self, name: str) -> Node:
        if name == "frac":
            top = self._argument()
            return Node(Op.DIV, (top, self._argument()))
        if name == "sqrt":
            degree = 2
            if self._peek() == "[":
                written = self.parts[self.at + 1 : self.at + 3]
                if len(written) < 2 or not is_whole(written[0]) or written[1] != "]" or not 2 <= int(written[0]) <= 99:
                    raise NotUnderstoodError("a root's degree")
                degree = int(written[0])
                self.at += 3
            return Node(Op.ROOT, (self._argument(),), value=Fraction(degree))
        if name == "binom":
            n, k = rational(self._argument()), rational(self._argument())
            if n is None or k is None or n.denominator != 1 or k.denominator != 1 or not 0 <= k <= n <= 1000:
                raise NotUnderstoodError("a binomial coefficient")
            return number(math.comb(n.numerator, k.numerator))
        if name in GREEK:
            return self._subscripted(f"\\{name}")
        if name in _TRIG or name in ("ln", "log", "lg", "exp"):
            return self._function(name)
        raise NotUnderstoodError(name)

    def _function(self, name: str) -> Node:
        power: Node | None = None
        base: Node | None = None
        if name == "log" and self._peek() == "_":
            self.at += 1
            base = self._argument()
        if self._peek() == "^":
            self.at += 1
            power = self._exponent_argument()
        if power == number(-1):
            if name not in _INVERSE:
                raise NotUnderstoodError("an inverse function")
            name, power = _INVERSE[name], None
        argument = self._function_argument()
        if name == "exp":
            node = Node(Op.POW, (Node(Op.CONST, name="e"), argument))
        elif name == "lg" or base is not None:
            node = Node(Op.CALL, (argument, base or number(10)), name="log")
        else:
            node = Node(Op.CALL, (argument,), name=name)
        return node if power is None else Node(Op.POW, (node, power))

    def _exponent_argument(self) -> Node:
        if self._peek() == "-":
            self.at += 1
            return _negative(self._argument())
        return self._argument()

    def _function_argument(self) -> Node:
        """(x + 1), {x}, or what follows up to the next sign or function: 2x in sin 2x cos x."""
        following = self._peek()
        if following in ("(", "{", "[", "|"):
            return self._atom()
        node = self._power()
        while (following := self._peek()) is not None and self._starts_factor(following):
            if following.startswith("\\") and following[1:] not in GREEK and following not in ("\\pi", "\\frac", "\\sqrt"):
                break
            if following == "(":
                raise NotUnderstoodError("sin x (x + 1)")
            if is_number(following):
                raise NotUnderstoodError("sin x 2")
            node = _times(node, self._power())
        return node

    def _letters(self, part: str) -> Node:
        """A variable, or the product that a run of up to three letters is."""
        if len(part) == 1:
            node = self._subscripted(part)
            if part in "fghFG" and self._peek() == "(":
                raise NotUnderstoodError("f(x)")
            return node
        if len(part) > 3:
            raise NotUnderstoodError(part)
        known = {"e": Node(Op.CONST, name="e"), "i": Node(Op.CONST, name="i")}
        if self._peek() == "_":
            raise NotUnderstoodError("ab_1")
        factors = tuple(known.get(letter, Node(Op.VAR, name=letter)) for letter in part)
        if self._peek() == "^":  # the power is the last letter's
            self.at += 1
            return Node(Op.MUL, (*factors[:-1], Node(Op.POW, (factors[-1], self._exponent()))))
        return Node(Op.MUL, factors)

    def _subscripted(self, name: str) -> Node:
        if self._peek() == "_":
            self.at += 1
            name = f"{name}_{self._index()}"
        if self._peek() == "'":
            raise NotUnderstoodError("a derivative")
        return Node(Op.VAR, name=name)

    def _index(self) -> str:
        part = self._next()
        if part == "{":
            start = self.at
            while self._next() != "}":
                pass
            part = "".join(self.parts[start : self.at - 1])
        if not part or not all(char.isalnum() or char in "+-,\\" for char in part):
            raise NotUnderstoodError("an index")
        return part

    def _argument(self) -> Node:
        """A command's argument: a group, or one token."""
        part = self._peek()
        if part is None:
            raise NotUnderstoodError("an argument is missing")
        if part == "\\frac" or part == "\\sqrt" or part == "(" or part == "{":
            return self._atom()
        if is_number(part):
            self.at += 1
            return number(Fraction(part))
        if len(part) == 1 or part[1:] in GREEK or part == "\\pi":
            return self._atom()
        raise NotUnderstoodError(part)

    def _starts_factor(self, part: str) -> bool:
        if part == "|":
            return self._bars == 0
        return part in ("(", "[", "{", "∞") or part[0].isalnum() or (part[0] == "\\" and part[1:].isalpha())

    def _enter(self) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise NotUnderstoodError("too deep")

    def _peek(self) -> str | None:
        return self.parts[self.at] if self.at < len(self.parts) else None

    def _next(self) -> str:
        if self.at >= len(self.parts):
            raise NotUnderstoodError("it ends too early")
        self.at += 1
        return self.parts[self.at - 1]

    def _expect(self, part: str) -> None:
        if self._next() != part:
            raise NotUnderstoodError(f"no {part}")


_HALF = Node(Op.DIV, (number(1), number(2)))


def _negative(node: Node) -> Node:
    return number(-node.value) if node.op is Op.NUM else Node(Op.NEG, (node,))


def _times(left: Node, right: Node) -> Node:
    return Node(Op.MUL, (*left.args, right)) if left.op is Op.MUL else Node(Op.MUL, (left, right))
