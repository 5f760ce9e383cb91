"""Whether a candidate's answer equals the gold answer, shape by shape; `rewards.math` finds the candidate in a text.

Values are compared exactly: numbers as fractions, expressions by `decide.py`, and by math-verify (`rewards.symbolic`) where
that leaves a doubt. What is approximate, unfinished (6*7), or ambiguous equals nothing but its own spelling.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

from rewards import symbolic
from rewards.equality.decide import are_proportional, decide, differ_in_sign, has_other_root
from rewards.equality.reading import is_balanced, read
from rewards.equality.shapes import Answer, Approximation, Items, Kind, Matrix, Named, Other, Relation, Scalar, Words
from rewards.equality.tokens import is_number, is_whole, spelled, tokens
from rewards.equality.tree import Node, Op, has, is_unevaluated, latex, names, number, rational
from rewards.equality.units import agree
from rewards.equality.vocabulary import FUNCTIONS, GREEK

MAX_COMPARISONS = 5_000  # of pieces, in one answer
MAX_ASKED = 4  # questions to math-verify, for one answer
MAX_UNKNOWN = 150  # tokens of what only math-verify may understand
_SIMPLE = FUNCTIONS | GREEK | {"frac", "sqrt", "pi", "binom", "{", "}", "R", "overline", "lfloor", "rfloor", "lceil", "rceil"}
_NEAR = Fraction(99, 100), Fraction(101, 100)
_CHOICE = re.compile(r"\s*\(?([A-J])[).:](?:\s|\\|$)")
_SYMBOLS = {"*": "\\cdot ", "≤": "\\le ", "≥": "\\ge ", "≠": "\\ne ", "∈": "\\in ", "∪": "\\cup ", "∩": "\\cap ",
            "∞": "\\infty ", "±": "\\pm ", "∓": "\\mp ", "∅": "\\emptyset ", "°": "^{\\circ}"}  # fmt: skip


class _TooCostlyError(Exception):
    """An answer took more comparisons than any honest one."""


@lru_cache(maxsize=8192)
def equal(gold: str, candidate: str, *, percent: bool) -> bool:
    """Whether two answers, in LaTeX or as plain text, are equal. `percent`: 50% is 1/2; otherwise "%" is a unit.

    Raises:
        ChildProcessError: see `rewards.symbolic.compare`.

    >>> equal("\\{1, 2\\}", "x = 2 \\text{ or } x = 1", percent=False), equal("[1, 2)", "[1, 2]", percent=False)
    (True, False)
    """
    wanted, given = tokens(gold), tokens(candidate)
    if not wanted or not given:
        return False
    if spelled(wanted) == spelled(given):
        return True
    try:
        gold_shape, given_shape = (_opened(read(parts, percent=percent)) for parts in (wanted, given))
        return _Comparison().equal(gold_shape, given_shape) or _same_choice(wanted, candidate)
    except _TooCostlyError:
        return False


class _Comparison:
    """Of one answer, which has limits on how much may be compared and asked."""

    def __init__(self) -> None:
        self._left = MAX_COMPARISONS
        self._asked = 0

    def equal(self, gold: Answer, given: Answer) -> bool:
        self._left -= 1
        if self._left < 0:
            raise _TooCostlyError
        if isinstance(gold, Approximation) or isinstance(given, Approximation):
            return self._approximations(gold, given)
        if isinstance(gold, Named | Relation) or isinstance(given, Named | Relation):
            return self._relations(gold, given)
        if isinstance(gold, Other) or isinstance(given, Other):
            return self._others(gold, given)
        if isinstance(gold, Words) or isinstance(given, Words):
            return gold == given
        if isinstance(gold, Scalar) and isinstance(given, Scalar):
            return self._scalars(gold, given)
        if isinstance(gold, Matrix) or isinstance(given, Matrix):
            return self._matrices(gold, given)
        return self._items(gold, given)

    def _scalars(self, gold: Scalar, given: Scalar) -> bool:
        a, b = gold.node, given.node
        if not agree(gold.unit, given.unit):
            return False
        if has(a, Op.CONST, "inf") or has(b, Op.CONST, "inf"):
            return _infinity(a) == _infinity(b) != 0
        value = rational(a)
        if value is not None and is_unevaluated(b) and not is_unevaluated(a):
            return False
        verdict = decide(a, b)
        if verdict is None:
            return self._ask(latex(a), latex(b))
        return verdict

    def _items(self, gold: Answer, given: Answer) -> bool:
        if isinstance(gold, Items) and gold.kind is Kind.RATIO and isinstance(given, Scalar):
            return self._ratio(gold, given, flip=False)
        if isinstance(given, Items) and given.kind is Kind.RATIO and isinstance(gold, Scalar):
            return self._ratio(given, gold, flip=True)
        if not isinstance(gold, Items) or not isinstance(given, Items):
            return False
        a, b = gold, given
        if (a.kind, b.kind) in ((Kind.SET, Kind.SET), (Kind.UNION, Kind.UNION)):
            return all(any(self.equal(x, y) for y in b.items) for x in a.items) and all(
                any(self.equal(x, y) for x in a.items) for y in b.items
            )
        if a.kind in (Kind.SET, Kind.LIST) and b.kind in (Kind.SET, Kind.LIST):
            return self._matches(a, b)
        if len(a.items) != len(b.items):
            return False
        plain = Kind.ROUND, Kind.LIST
        vectors = len(a.items) > 2 and {a.kind, b.kind} <= {*plain, Kind.SQUARE}
        if a.kind is b.kind or (a.kind in plain and b.kind in plain) or vectors:
            return all(self.equal(x, y) for x, y in zip(a.items, _by_name(b.items), strict=True))
        return False

    def _matches(self, a: Items, b: Items) -> bool:
        """Whether the items are the same but for their order."""
        left = list(b.items)
        if len(left) != len(a.items):
            return False
        for item in a.items:
            found = next((i for i, other in enumerate(left) if self.equal(item, other)), None)
            if found is None:
                return False
            del left[found]
        return True

    def _ratio(self, ratio: Items, other: Scalar, *, flip: bool) -> bool:
        sides = [side.node for side in ratio.items if isinstance(side, Scalar)]
        if len(sides) != 2 or len(ratio.items) != 2:
            return False
        whole = Scalar((), Node(Op.DIV, (sides[0], sides[1])))
        return self._scalars(other, whole) if flip else self._scalars(whole, other)

    def _matrices(self, gold: Answer, given: Answer) -> bool:
        if isinstance(gold, Matrix) and isinstance(given, Matrix):
            if [len(row) for row in gold.rows] != [len(row) for row in given.rows]:
                return False
            pairs = zip(gold.rows, given.rows, strict=True)
            return all(self.equal(x, y) for row, other in pairs for x, y in zip(row, other, strict=True))
        vectors = [_vector(side) if isinstance(side, Matrix) else side for side in (gold, given)]
        if not all(isinstance(side, Items) and side.kind in (Kind.ROUND, Kind.SQUARE, Kind.LIST) for side in vectors):
            return False
        a, b = (Items(Kind.ROUND, side.items) for side in vectors if isinstance(side, Items))
        return self._items(a, b)

    def _approximations(self, gold: Answer, given: Answer) -> bool:
        """An exact value and its decimals: either may be meant, but they must belong together."""
        for side in (gold, given):
            if isinstance(side, Approximation):
                exact, rough = (_value(value) for value in side.sides)
                if exact is None or rough is None or not _is_near(exact, rough):
                    return False
        golds = gold.sides if isinstance(gold, Approximation) else (gold,)
        givens = given.sides if isinstance(given, Approximation) else (given,)
        return any(self.equal(x, y) for x in golds for y in givens)

    def _relations(self, gold: Answer, given: Answer) -> bool:
        if isinstance(gold, Named) and isinstance(given, Named):
            if gold.name == given.name or not gold.name or not given.name:
                return self.equal(gold.value, given.value)
        elif isinstance(gold, Named) and not isinstance(given, Relation):
            return self.equal(gold.value, given)
        elif isinstance(given, Named) and not isinstance(gold, Relation):
            return self.equal(gold, given.value)
        elif isinstance(given, Relation) and not isinstance(gold, Named | Relation):
            if given.sign != "=" or (not names(given.left) and decide(given.left, given.right) is False):
                return False  # 41 = 42
            return self.equal(gold, given.value)
        a, b = _as_relation(gold), _as_relation(given)
        return a is not None and b is not None and self._same_relation(a, b)

    def _same_relation(self, a: Relation, b: Relation) -> bool:
        if a.sign != b.sign:
            return False
        f, g = _difference(a), _difference(b)
        if a.sign in ("<", "≤"):
            signs_differ = differ_in_sign(f, g)
            if signs_differ is not False:
                return False
        elif has_other_root(f, g) or has_other_root(g, f):
            return False
        if are_proportional(f, g):
            return True
        if a.sign == "≠":
            return False
        sign = {"<": "<", "≤": "\\le"}.get(a.sign, "=")
        return self._ask(*(f"{latex(side.left)} {sign} {latex(side.right)}" for side in (a, b)))

    def _others(self, gold: Answer, given: Answer) -> bool:
        """What is not understood here, as math-verify sees it, where nothing but mathematics stands in it."""
        wanted, written = _parts(gold), _parts(given)
        if wanted is None or written is None:
            return False
        if any(part[0] == '"' or (part.isalpha() and len(part) > 1) for part in (*wanted, *written)):
            return spelled(wanted).casefold() == spelled(written).casefold()
        if isinstance(gold, Scalar) and rational(gold.node) is not None:
            return False
        allowed = _SIMPLE | {part[1:] for part in wanted if part[0] == "\\"}
        if any(part[0] == "\\" and part[1:] not in allowed for part in written):
            return False  # the integral that was asked for is no answer
        if any(not part.isascii() and part not in _SYMBOLS for part in (*wanted, *written)):
            return False
        if not (is_balanced(wanted) and is_balanced(written)) or max(len(wanted), len(written)) > MAX_UNKNOWN:
            return False
        return self._ask(_raw(wanted), _raw(written))

    def _ask(self, gold: str, given: str) -> bool:
        self._asked += 1
        if self._asked > MAX_ASKED:
            raise _TooCostlyError
        verdict = symbolic.compare(gold, given)
        if verdict is symbolic.Verdict.TOO_COSTLY:
            raise _TooCostlyError
        return verdict is symbolic.Verdict.EQUAL


def _opened(answer: Answer) -> Answer:
    """The value of a set that has no other: {7} solves an equation as x = 7 does."""
    if isinstance(answer, Named):
        return Named(answer.name, _opened(answer.value))
    is_single = isinstance(answer, Items) and answer.kind is Kind.SET and len(answer.items) == 1
    return answer.items[0] if isinstance(answer, Items) and is_single else answer


def _same_choice(wanted: tuple[str, ...], candidate: str) -> bool:
    """Whether the gold answer is the letter of a choice, and the candidate that choice in full: (B) 42."""
    if len(wanted) != 1 or wanted[0] not in "ABCDEFGHIJ":
        return False
    text = re.sub(r"\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}", r"\1 ", candidate)
    match = _CHOICE.match(text)
    return match is not None and match[1] == wanted[0] and len(re.findall(r"\(?\b[A-J]\b[).:]", text)) == 1


def _by_name(items: tuple[Answer, ...]) -> tuple[Answer, ...]:
    """x = 1, y = 2 in the order of the names."""
    named = {item.name: item for item in items if isinstance(item, Named) and item.name}
    return tuple(named[name] for name in sorted(named)) if len(named) == len(items) else items


def _vector(matrix: Matrix) -> Answer:
    if len(matrix.rows) == 1:
        return Items(Kind.ROUND, matrix.rows[0])
    if len(matrix.rows[0]) == 1:
        return Items(Kind.ROUND, tuple(row[0] for row in matrix.rows))
    return matrix


def _value(answer: Answer) -> Node | None:
    while isinstance(answer, Named):
        answer = answer.value
    return answer.node if isinstance(answer, Scalar) else None


def _is_near(exact: Node, rough: Node) -> bool:
    """Whether two values differ by less than a hundredth of them."""
    bounds = [Node(Op.MUL, (rough, number(factor))) for factor in _NEAR]
    return differ_in_sign(_minus(exact, bounds[0]), _minus(bounds[1], exact)) is False


def _minus(a: Node, b: Node) -> Node:
    return Node(Op.ADD, (a, Node(Op.NEG, (b,))))


def _difference(relation: Relation) -> Node:
    return _minus(relation.left, relation.right)


def _as_relation(answer: Answer) -> Relation | None:
    if isinstance(answer, Relation):
        return answer
    if isinstance(answer, Named) and answer.name and (node := _value(answer)) is not None and answer.name.isalnum():
        return Relation("=", Node(Op.VAR, name=answer.name), node, answer.value)
    return None


def _infinity(node: Node) -> int:
    """1 for infinity, -1 for its negative, 0 for anything else."""
    if node.op is Op.NEG:
        return -_infinity(node.args[0])
    return int(node.op is Op.CONST and node.name == "inf")


def _parts(answer: Answer) -> tuple[str, ...] | None:
    return answer.parts if isinstance(answer, Scalar | Other) else None


def _raw(parts: tuple[str, ...]) -> str:
    """Tokens as LaTeX, decimals as fractions."""
    out: list[str] = []
    for part in parts:
        is_decimal = is_number(part) and not is_whole(part)
        out.append(latex(number(Fraction(part))) if is_decimal else part)
    return " ".join(_SYMBOLS.get(part, part) for part in out)
