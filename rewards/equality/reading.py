"""The shape of an answer, from its tokens, without judging; what has no shape of `shapes.py` is `Other`."""

from __future__ import annotations

from functools import lru_cache

from rewards.equality.reader import NotUnderstoodError, parse
from rewards.equality.shapes import (
    INFINITE,
    INTERVALS,
    REALS,
    Answer,
    Approximation,
    Items,
    Kind,
    Matrix,
    Named,
    Other,
    Relation,
    Scalar,
)
from rewards.equality.tokens import is_number, spelled
from rewards.equality.tree import Node, Op, number
from rewards.equality.units import scale, split_unit
from rewards.equality.words import words

MAX_ITEMS = 64  # of a set or list; longer ones equal only what is spelled as they are
MAX_DEPTH = 6  # of sets in sets
RELATIONS = frozenset("=<>≤≥≠∈≈")
_FLIPPED = {">": "<", "≥": "≤", "<": ">", "≤": "≥"}
_OPENING, _CLOSING = frozenset(("(", "[", "{", "\\{", "⟨")), frozenset((")", "]", "}", "\\}", "⟩"))
_MATRICES = ("pmatrix", "bmatrix", "Bmatrix", "matrix", "smallmatrix", "array")
_KINDS = {
    ("(", ")"): Kind.ROUND,
    ("⟨", "⟩"): Kind.ROUND,
    ("[", "]"): Kind.SQUARE,
    ("(", "]"): Kind.LEFT_OPEN,
    ("[", ")"): Kind.RIGHT_OPEN,
    ("\\{", "\\}"): Kind.SET,
}


@lru_cache(maxsize=512)
def read(parts: tuple[str, ...], *, percent: bool, depth: int = 0) -> Answer:
    """The shape of an answer. `percent`: whether "%" divides by 100, or is a unit.

    >>> read(tokens("x \\in [1, 2)"), percent=False).value.kind
    <Kind.RIGHT_OPEN: '[)'>
    """
    parts = _bare(parts)
    if not parts or depth > MAX_DEPTH:
        return Other(parts)
    if (said := words(parts)) is not None:
        return said
    if parts[0][0] == '"' and parts[0].endswith((":", " is", " are", " equals")):  # "The answer is" 42
        return read(parts[1:], percent=percent, depth=depth + 1)
    reader = _Shapes(percent=percent, depth=depth)
    for shape in (
        reader.listed,
        reader.related,
        reader.united,
        reader.alternated,
        reader.bracketed,
        reader.tabular,
        reader.ratio,
    ):
        if (found := shape(parts)) is not None:
            return found
    return reader.scalar(parts)


class _Shapes:
    """One method for each shape: what the tokens are, or None where they are something else."""

    def __init__(self, *, percent: bool, depth: int) -> None:
        self._percent = percent
        self._depth = depth

    def read(self, parts: tuple[str, ...]) -> Answer:
        return read(parts, percent=self._percent, depth=self._depth + 1)

    def listed(self, parts: tuple[str, ...]) -> Answer | None:
        pieces, signs = split(parts, frozenset((",", ";", "or", "and")))
        if not signs:
            return None
        pieces = [piece for piece in pieces if piece]
        if len(pieces) > MAX_ITEMS:
            return Other(parts)
        items = tuple(self.read(piece) for piece in pieces)
        if len(items) == 1:
            return items[0]
        joined = _joined(items, is_union="or" in signs)
        return Items(Kind.LIST, items) if joined is None else joined

    def related(self, parts: tuple[str, ...]) -> Answer | None:
        sides, signs = split(parts, RELATIONS)
        if not signs:
            return None
        if not all(sides) or len(sides) > 6:
            return Other(parts)
        if set(signs) <= {"=", "≈"}:
            return self._equation(parts, sides, signs)
        if signs == ["∈"]:
            return Named(_name(sides[0]) or spelled(sides[0]), self.read(sides[1]))
        return self._inequality(parts, sides, signs)

    def _equation(self, parts: tuple[str, ...], sides: list[tuple[str, ...]], signs: list[str]) -> Answer:
        if "≈" in signs:
            at = signs.index("≈")
            return Approximation((self.read(sides[at]), self.read(sides[-1])))
        first, last = sides[0], sides[-1]
        if _name(first) is None and _name(last) is not None and len(sides) == 2:
            first, last = last, first
        value = self.read(last)
        if (name := _name(first)) is not None:
            return Named(name, value)
        left, right = _tree(first), _tree(last)
        if left is None:
            return Named("", value) if not any(is_number(part) for part in first) else Other(parts)
        return Relation("=", left, right, value) if right is not None else Named("", value)

    def _inequality(self, parts: tuple[str, ...], sides: list[tuple[str, ...]], signs: list[str]) -> Answer:
        """1 < x < 2 as the interval that it describes, else two sides and a sign."""
        if ("≠" not in signs and set(signs) <= {"<", "≤"}) or set(signs) <= {">", "≥"}:
            if signs[0] in (">", "≥"):
                sides, signs = sides[::-1], [_FLIPPED[sign] for sign in reversed(signs)]
            at = next((i for i, side in enumerate(sides) if _name(side)), None)
            if at is not None and (len(sides), at) in ((2, 0), (2, 1), (3, 1)):
                low = self.read(sides[0]) if at == 1 else INFINITE[-1]
                high = self.read(sides[-1]) if at == len(sides) - 2 else INFINITE[1]
                bounds = (low, high)
                if all(isinstance(bound, Scalar) for bound in bounds):
                    opens = (at == 0 or signs[0] == "<", at == len(sides) - 1 or signs[-1] == "<")
                    return Named(_name(sides[at]) or "", Items(INTERVALS[opens], bounds))
        if len(sides) == 2:
            left, right = _tree(sides[0]), _tree(sides[1])
            if left is not None and right is not None:
                if signs[0] in (">", "≥"):
                    left, right, signs = right, left, [_FLIPPED[signs[0]]]
                return Relation(signs[0], left, right, Other(parts))
        return Other(parts)

    def united(self, parts: tuple[str, ...]) -> Answer | None:
        pieces, signs = split(parts, frozenset("∪"))
        if not signs:
            return None
        return Items(Kind.UNION, tuple(self.read(piece) for piece in pieces)) if all(pieces) else Other(parts)

    def alternated(self, parts: tuple[str, ...]) -> Answer | None:
        """2 ± 3 as the set {5, -1}."""
        if "±" not in parts:
            return None
        upper = tuple({"±": "+", "∓": "-"}.get(part, part) for part in parts)
        lower = tuple({"±": "-", "∓": "+"}.get(part, part) for part in parts)
        return Items(Kind.SET, (self.read(upper), self.read(lower)))

    def bracketed(self, parts: tuple[str, ...]) -> Answer | None:
        if parts == ("∅",):
            return Items(Kind.SET, ())
        if parts == ("\\R",):
            return REALS
        kind = _KINDS.get((parts[0], parts[-1]))
        if kind is None or len(parts) < 2 or not _is_enclosed(parts):
            return None
        inside = parts[1:-1]
        if kind is Kind.SET and (built := self._built(inside)) is not None:
            return built
        pieces = [piece for piece in split(inside, frozenset(",;"))[0] if piece]
        if len(pieces) > MAX_ITEMS:
            return Other(parts)
        if len(pieces) == 1 and kind is not Kind.SET:
            inner = self.read(pieces[0])
            return inner if kind in (Kind.ROUND, Kind.SQUARE) and not isinstance(inner, Scalar) else None
        return Items(kind, tuple(self.read(piece) for piece in pieces))

    def _built(self, inside: tuple[str, ...]) -> Answer | None:
        """{x | x > 2} as what stands behind the bar."""
        sides, signs = split(inside, frozenset("|:"))
        if len(signs) != 1 or not all(sides):
            return None
        named = self.read(sides[0])
        name = named.name if isinstance(named, Named) else _name(sides[0])
        condition = self.read(sides[1])
        return condition if name and isinstance(condition, Named) and condition.name == name else None

    def tabular(self, parts: tuple[str, ...]) -> Answer | None:
        if (parts[0], parts[-1]) in (("(", ")"), ("[", "]")) and parts[1:2] == ("\\begin{array}",):
            parts = parts[1:-1]
        env = parts[0].removeprefix("\\begin{").removesuffix("}")
        if not parts[0].startswith("\\begin{") or parts[-1] != f"\\end{{{env}}}" or env not in _MATRICES:
            return None
        rows = [row for row in split(parts[1:-1], frozenset(("\\\\",)))[0] if row]
        cells = tuple(tuple(self.read(cell) for cell in split(row, frozenset("&"))[0]) for row in rows)
        if sum(map(len, cells)) > MAX_ITEMS or len({len(row) for row in cells}) != 1:
            return Other(parts)
        return Matrix(cells)

    def ratio(self, parts: tuple[str, ...]) -> Answer | None:
        pieces, signs = split(parts, frozenset(":"))
        if not signs or not all(pieces) or len(pieces) > MAX_ITEMS:
            return None
        return Items(Kind.RATIO, tuple(self.read(piece) for piece in pieces))

    def scalar(self, parts: tuple[str, ...]) -> Answer:
        core, unit = split_unit(parts, percent=self._percent)
        factor, unit = scale(unit)
        bare = _bare(core)
        if unit and bare and (node := _tree(bare, percent=self._percent)) is None:
            inner = self.read(bare)
            return Other(parts) if isinstance(inner, Scalar | Other) else inner
        node = _tree(bare, percent=self._percent)
        if node is None:
            return Other(parts)
        if factor != 1:
            node = number(node.value * factor) if node.op is Op.NUM else Node(Op.MUL, (node, number(factor)))
        return Scalar(parts, node, unit)


def split(parts: tuple[str, ...], separators: frozenset[str]) -> tuple[list[tuple[str, ...]], list[str]]:
    """(the pieces between separators that stand outside of all brackets, those separators)."""
    if separators.isdisjoint(parts):
        return [parts], []
    pieces: list[tuple[str, ...]] = []
    signs: list[str] = []
    depth = begin = 0
    for at, part in enumerate(parts):
        if part in _OPENING or part.startswith("\\begin"):
            depth += 1
        elif part in _CLOSING or part.startswith("\\end"):
            depth -= 1
        elif depth == 0 and part in separators:
            pieces.append(parts[begin:at])
            signs.append(part)
            begin = at + 1
    return [*pieces, parts[begin:]], signs


def _joined(items: tuple[Answer, ...], *, is_union: bool) -> Answer | None:
    """Inequalities of one variable as one answer: x < 1 or x > 2 as a union, x > 1 and x < 2 as an interval."""
    named = [
        item
        for item in items
        if isinstance(item, Named) and isinstance(item.value, Items) and item.value.kind in INTERVALS.values()
    ]
    if len(named) < len(items) or len({item.name for item in named}) != 1:
        return None
    if is_union:
        return Named(named[0].name, Items(Kind.UNION, tuple(item.value for item in named)))
    if len(named) != 2:
        return None
    ends = [item.value.items for item in named if isinstance(item.value, Items)]
    lower = [i for i in (0, 1) if ends[i][1] == INFINITE[1]]
    upper = [i for i in (0, 1) if ends[i][0] == INFINITE[-1]]
    if len(lower) != 1 or len(upper) != 1 or lower == upper:
        return None
    opens = (_is_open(named[lower[0]].value, 0), _is_open(named[upper[0]].value, 1))
    return Named(named[0].name, Items(INTERVALS[opens], (ends[lower[0]][0], ends[upper[0]][1])))


def _is_open(value: Answer, side: int) -> bool:
    assert isinstance(value, Items)
    return next(opens for opens, kind in INTERVALS.items() if kind is value.kind)[side]


def _bare(parts: tuple[str, ...]) -> tuple[str, ...]:
    """Without braces around everything and punctuation at the end."""
    while True:
        if len(parts) > 1 and parts[-1] in (".", ",", ";", "!") and not (parts[-1] == "!" and parts[-2][-1:].isalnum()):
            parts = parts[:-1]
        elif len(parts) > 1 and parts[0] == "{" and parts[-1] == "}" and _is_enclosed(parts):
            parts = parts[1:-1]
        else:
            return parts


def is_balanced(parts: tuple[str, ...]) -> bool:
    """Whether brackets and environments close as often as they open, an interval's of either kind, and not too deep."""
    depth = 0
    for part in parts:
        depth += (part in _OPENING or part.startswith("\\begin")) - (part in _CLOSING or part.startswith("\\end"))
        if not 0 <= depth <= 20:
            return False
    return depth == 0


def _is_enclosed(parts: tuple[str, ...]) -> bool:
    """Whether the bracket at the start is closed by the one at the end."""
    depth = 0
    for at, part in enumerate(parts):
        depth += (part in _OPENING) - (part in _CLOSING)
        if depth == 0:
            return at == len(parts) - 1
    return False


def _tree(parts: tuple[str, ...], *, percent: bool = False) -> Node | None:
    if not parts:
        return None
    try:
        return parse(parts, percent=percent)
    except NotUnderstoodError:
        return None


def _name(parts: tuple[str, ...]) -> str | None:
    """What an equation gives a value to: x, x_1, f(x), AB, "Area"; None for anything else."""
    if len(parts) == 1 and (parts[0][0] == '"' or (parts[0].isalpha() and len(parts[0]) > 3)):
        return ""
    if len(parts) == 1 and parts[0].isalpha() and (len(parts[0]) == 1 or parts[0].isupper()):
        return None if parts[0] in ("e", "i", "or", "and") else parts[0]
    if (
        len(parts) >= 4
        and parts[0].isalpha()
        and len(parts[0]) == 1
        and parts[1] == "("
        and parts[-1] == ")"
        and _is_enclosed(parts[1:])
    ):
        return spelled(parts) if all(part.isalpha() or part == "," for part in parts[2:-1]) else None
    node = _tree(parts)
    if node is not None and node.op is Op.VAR and "base" not in node.name:
        return node.name
    return None
