"""Equal and unequal answers of every shape, the algebra behind them, and inputs that are made to be costly."""

from __future__ import annotations

import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.equality.compare import equal
from rewards.equality.decide import are_apart, are_proportional, decide, has_other_root
from rewards.equality.reader import NotUnderstoodError, parse
from rewards.equality.reading import read
from rewards.equality.residues import P, residue
from rewards.equality.shapes import Items, Kind, Named, Other
from rewards.equality.tokens import MAX_TOKENS, tokens
from rewards.equality.tree import Node, Op, exact_root, is_unevaluated, latex, number, rational
from rewards.equality.units import agree, split_unit

EQUAL = [
    ("1500000", r"1.5\times 10^6"),
    ("1500000", "1.5e6"),
    (r"1.5 \times 10^{6}", "1500000"),
    ("3/2", "1 1/2"),
    ("7/2", "3½"),
    ("1/2", "½"),
    ("1/3", r"0.\overline{3}"),
    ("1/6", r"0.1\overline{6}"),
    ("5", r"5 \text{ apples}"),
    ("5", "5 cm"),
    ("5", r"5\,\mathrm{km/h}"),
    ("5 cm", "5"),
    (r"5\text{ cm}^2", "5 square centimeters"),
    (r"5\text{ cm}^2", r"5 \mathrm{cm}^2"),
    ("60 km/h", r"60\text{ kilometers per hour}"),
    (r"12\text{ ft}", "12 feet"),
    (r"90^\circ", "90°"),
    ("90", r"90\text{ degrees}"),
    (r"\$5.50", r"\$5.5"),
    ("5 dollars", r"\$5"),
    ("2000000", r"2\text{ million}"),
    (r"\$3{,}000{,}000", r"\$3 \text{ million}"),
    ("10", r"10\text{th}"),
    (r"12\text{ dozen}", "144"),
    ("[1,2]", "[1, 2]"),
    ("(1,2)", "1<x<2"),
    (r"(-\infty,2]", r"x\le 2"),
    ("x>3", r"(3,\infty)"),
    ("x>3", "3<x"),
    (r"x \in [1,2]", "[1,2]"),
    ("[1,2)", r"\{x \mid 1 \le x < 2\}"),
    ("(1,2)", "x>1 and x<2"),
    (r"(-\infty,1)\cup(2,\infty)", r"x<1 \text{ or } x>2"),
    (r"(-\infty,\infty)", r"\mathbb{R}"),
    (r"\mathbb{R}", r"\text{all real numbers}"),
    (r"\emptyset", r"\{\}"),
    (r"\emptyset", r"\text{no solution}"),
    ("1,2", "2,1"),
    ("1,2", r"x=1\text{ or }x=2"),
    (r"\{1,2\}", "1, 2"),
    (r"\pm 2", "-2,2"),
    (r"2 \pm \sqrt{3}", r"2+\sqrt3, 2-\sqrt3"),
    (r"\frac{1\pm\sqrt5}{2}", r"\frac{1+\sqrt5}{2},\frac{1-\sqrt5}{2}"),
    ("(1,2)", "x=1, y=2"),
    ("x=1,y=2", "y=2, x=1"),
    ("(1,2)", "1,2"),
    ("y=2x+1", "2x+1"),
    ("y=2x+1", "y-2x=1"),
    ("x^2+y^2=25", "y^2 = 25 - x^2"),
    ("xy=1", r"y=\frac{1}{x}"),
    ("f(x)=2x", "2x"),
    ("2x", "f(x)=2x"),
    (r"\sin^2 x", r"1-\cos^2 x"),
    (r"\sqrt{3+2\sqrt2}", r"1+\sqrt2"),
    (r"3\ln 2", r"\ln 8"),
    (r"\sqrt{x}\sqrt{y}", r"\sqrt{xy}"),
    (r"2\sin x\cos x", r"\sin 2x"),
    ("2", r"\log_2 4"),
    ("2", r"\log 100"),
    (r"\frac{\sqrt2}{2}", r"\frac{1}{\sqrt{2}}"),
    (r"2\sqrt3", r"\sqrt{12}"),
    ("1+2i", "2i+1"),
    (r"e^{i\pi}", "-1"),
    ("-1", "i^2"),
    (r"\sqrt[3]{2}", "2^{1/3}"),
    (r"\sqrt[3]{-8}", "-2"),
    ("π/3", r"\frac{\pi}{3}"),
    (r"\sqrt{3}", "√3"),
    ("x^2", "x²"),
    ("42", "٤٢"),
    ("42", "４２"),
    ("10^{6}", "10⁶"),
    ("x_1+x_2", "x_{2}+x_{1}"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\left[\begin{array}{c}1\\2\end{array}\right]"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", "(1,2)"),
    (r"\langle 1,2\rangle", "(1,2)"),
    (r"\begin{pmatrix}1/2&0\\0&1\end{pmatrix}", r"\begin{pmatrix}0.5&0\\0&1\end{pmatrix}"),
    ("1011_2", "1011_{2}"),
    ("3:2", "3:2"),
    ("3:2", r"\frac{3}{2}"),
    ("B", r"\text{(B)}"),
    ("B", "(B) 42"),
    ("B", r"\textbf{(B)}\ 42"),
    ("yes", "Yes."),
    (r"\text{Monday}", "monday"),
    ("5", r"\text{five}"),
    ("21", "twenty-one"),
    (r"\frac{\pi}{4}", r"\frac{\pi}{4}\approx 0.785"),
    ("1,234,567", r"1\,234\,567"),
    ("1234567", "1 234 567"),
    ("(1,234)", "(1, 234)"),
    ("(1,234, 5)", "(1234, 5)"),
    ("x^2+C", "C+x^2"),
    (r"\frac{x+1}{x-1}", "(x+1)/(x-1)"),
    ("|x|", r"\left|x\right|"),
    ("n!", "n!"),
    (r"\frac{n(n+1)}{2}", r"\frac{n^2+n}{2}"),
    ("2^{n+1}", r"2\cdot 2^n"),
    (r"-\frac12", r"\frac{1}{-2}"),
    (r"-\frac12", r"\frac{-1}{2}"),
    (r"3\text{ hours }20\text{ minutes}", "3 hours 20 minutes"),
    ("9:30", "9:30"),
    (r"2\cdot 3^5", "486"),
    (r"(2, \infty)", r"(2,+\infty)"),
    (r"x \neq 2", r"x\ne 2"),
    (r"\frac{a}{b}", "a/b"),
    (r"7\pi\text{ cm}^2", r"7\pi"),
    (r"\sin 30^\circ", r"\frac12"),
    (r"\arctan 1", r"\frac{\pi}{4}"),
    (r"\text{undefined}", r"\text{Undefined}"),
    ("42", "m+n=42"),
    ("12", "|AB| = 12"),
    (r"\frac12", r"\cos A=\frac{1}{2}"),
    (r"\{7\}", "7"),
    ("x=7", r"\{7\}"),
    ("4", r"\sqrt{16}"),
    ("4", "8^{2/3}"),
    (r"5\%", r"\frac{1}{20}"),
    (r"5\%", "5 percent"),
    (r"(50\%, 20\%)", "(0.5, 0.2)"),
]

UNEQUAL = [
    ("5", "."),
    ("2", "②"),
    ("2/3", r"\frac②3"),
    ("2", r"\sqrt[②]{4}"),
    ("5 cm", "5 km"),
    ("[1,2]", "(1,2)"),
    ("(1,2)", "[1,2]"),
    ("[1,2)", "(1,2]"),
    (r"\{1,2\}", "(2,1)"),
    (r"\{1,2\}", "[1,2]"),
    ("x>3", "x<3"),
    ("x>3", r"x\ge 3"),
    ("x^2+1=0", "x^2+2=0"),
    ("y=2x+1", "y=2x+2"),
    ("x=7", "y=7"),
    ("(1,0)", "(1,0.0000001)"),
    (r"\sqrt{2}", "1.414214"),
    (r"\sqrt2", "1.41421356237309504880"),
    (r"\frac{1}{3}", r"\int_0^1 x^2 dx"),
    ("120", r"\sum_{i=1}^{15} i"),
    (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{3}}"),
    ("1+2i", "1-2i"),
    ("3:2", "2:3"),
    ("abc", "abd"),
    ("(1,2,3)", "(1,2)"),
    ("x", "y"),
    ("x", "|x|"),
    ("x", r"\sqrt{x^2}"),
    ("3x+2c", "3x+2"),
    ("42", "41=42"),
    ("42", "42, 42"),
    ("42", r"\{41,42\}"),
    ("1,2", "1,2,2"),
    ("3/4", r"\frac12+\frac14"),
    ("(2,2)", "(1+1,2)"),
    ("50", r"\frac{100}{2}"),
    (r"\pi", "3.14159265358979"),
    (r"\pi", "22/7"),
    ("0", "10^{-20}"),
    ("0", r"\sqrt{2}\cdot 10^{-20}"),
    ("10^{-30}", "10^{-31}"),
    ("2^{100}", "2^{100}+1"),
    ("e", "2.718281828"),
    ("x^2<4", "x^2<5"),
    ("2x+3y=6", "2x+3y=7"),
    ("x^2=4", "x=2"),
    ("(x-1)(x-2)=0", "(x-1)(x-3)=0"),
    ("1011_2", "1011_3"),
    ("1011_2", "1011"),
    ("B", "A"),
    ("B", "b"),
    ("B", "(A) (B)"),
    ("B", "(A) 1 (B) 2"),
    ("yes", "no"),
    ("Monday", "Tuesday"),
    ("even", "event"),
    (r"\emptyset", "0"),
    (r"\emptyset", r"\{0\}"),
    (r"\mathbb{R}", r"\mathbb{Q}"),
    ("(1,2)", r"\{1,2\}"),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1&3\\2&4\end{pmatrix}"),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{vmatrix}1&2\\3&4\end{vmatrix}"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", "(2,1)"),
    ("5", "5!"),
    ("5", "-5"),
    ("5", "5i"),
    ("5", "5x"),
    ("5", "5^2"),
    ("x^2", "2x"),
    (r"\frac{d}{dx}x^2", "3x"),
    ("2x", r"\frac{d}{dx}x^2"),
    (r"\infty", r"-\infty"),
    (r"\infty", "1/0"),
    ("0", r"\infty-\infty"),
    (r"\text{undefined}", "0/0"),
    ("1", r"\frac{x}{x+1}"),
    ("2", r"2\text{ million}"),
    (r"\$5", "5 cents"),
    (r"\$5", "€5"),
    (r"90^\circ", r"\frac{\pi}{2}"),
    (r"90^\circ", r"90\text{ radians}"),
    (r"12\text{ cm}^2", r"12\text{ cm}"),
    ("60 km/h", "60 mph"),
    ("x<1", r"x<1 \text{ or } x>2"),
    (r"(0,1)\cup(2,3)", r"(0,1)\cup(2,4)"),
    (r"(0,1)\cup(2,3)", "(0,3)"),
    ("1", r"\{1,2\}"),
    (r"\{\{1\},2\}", r"\{1,2\}"),
    (r"2 \pm \sqrt3", r"2+\sqrt3"),
    (r"\pm 2", "2"),
    (r"x=\pm 2", "x=2"),
    ("0.333", r"\frac13"),
    ("0.3333333333", "1/3"),
    ("1/3", "0.333333"),
    ("9:30", "9:31"),
    ("f(x)", "g(x)"),
    ("f(x)=2x", "f(x)=3x"),
    ("x^{10}", "x^1"),
    (r"\frac{1}{2x}", r"\frac{1}{2}x"),
    (r"\sin x", r"\sin y"),
    (r"\sin x", r"\cos x"),
    (r"\log 2", r"\ln 2"),
    ("n", "N"),
    (r"\text{Alice}", r"\text{Bob}"),
    ("3", "three hundred"),
    ("x^2+1", "x^2+1, x^2"),
    ("7", "|x|=8"),
    ("4", "x^2=4, x=4, x=5"),
    ("42", r"x \in \{42\}, x\neq 41"),
    ("42", r"x\le 42"),
    ("42", r"x \neq 42"),
    ("50%", "0.51"),
    (r"\frac{\pi}{4}", r"\frac{\pi}{3}\approx 0.785"),
    (r"\frac{\pi}{4}", r"\frac{\pi}{4}\approx 5"),
    ("2", r"1 \approx 2"),
    ("5", "nan"),
    ("5", r"\text{any number}"),
    ("5", "5 or 6"),
    ("x+1", "x+1=0"),
    (r"5 \text{ apples}", r"6 \text{ apples}"),
    ("June 20", "June 21"),
    (r"2:30\text{ PM}", r"2:30\text{ AM}"),
    ("4", r"-\sqrt{16}"),
    (r"5\%", "5"),
    ("2x<10", "x<5"),
]


def same(gold: str, candidate: str) -> bool:
    return equal(gold, candidate, percent="%" in gold)


def tree(text: str) -> Node:
    return parse(tokens(text))


@pytest.mark.parametrize(("gold", "candidate"), EQUAL)
def test_equal_answers(gold: str, candidate: str) -> None:
    assert same(gold, candidate)


@pytest.mark.parametrize(("gold", "candidate"), UNEQUAL)
def test_unequal_answers(gold: str, candidate: str) -> None:
    assert not same(gold, candidate)


DISTINCT = [
    "0", "1", "-1", "0.333", r"\frac{1}{3}", r"\pi", "e", "i", r"\sqrt{2}", "1.414214", r"\infty", r"-\infty", "x", "y",
    "x^2", "2x", r"\sin x", r"\ln x", "e^x", "|x|", "n!", "(1,2)", "[1,2]", "(1,2]", r"\{1,2\}", "(2,1)", "(1,2,3)",
    r"\emptyset", r"\mathbb{R}", "x<1", r"x\le 1", "x>1", r"(0,1)\cup(2,3)", "y=3x+5", "x^2+y^2=7",
    r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\text{yes}", r"\text{no}", "A", "3:2", "101_2", r"5\text{ cm}",
    r"5\text{ km}", r"1+2i", r"1 \pm \sqrt{3}", "3, 4, 5", r"x \neq 1", "x_1", r"\log_2 x",
]  # fmt: skip


def test_no_answer_equals_another_one() -> None:
    assert [(a, b) for a in DISTINCT for b in DISTINCT if a != b and same(a, b)] == []


# ---- trees ----

NUMBERS = st.fractions(min_value=-9, max_value=9, max_denominator=6).map(number)
LEAVES = NUMBERS | st.sampled_from([Node(Op.VAR, name=name) for name in "xyz"] + [Node(Op.CONST, name="pi")])


def _larger(inner: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    pairs = st.tuples(inner, inner)
    return (
        st.lists(inner, min_size=2, max_size=3).map(lambda args: Node(Op.ADD, tuple(args)))
        | st.lists(inner, min_size=2, max_size=3).map(lambda args: Node(Op.MUL, tuple(args)))
        | pairs.map(lambda args: Node(Op.DIV, args))
        | inner.map(lambda arg: Node(Op.NEG, (arg,)))
        | st.tuples(inner, st.integers(-3, 4)).map(lambda args: Node(Op.POW, (args[0], number(args[1]))))
        | inner.map(lambda arg: Node(Op.ROOT, (arg,), value=Fraction(2)))
        | st.tuples(inner, st.sampled_from(["sin", "cos", "ln"])).map(lambda args: Node(Op.CALL, (args[0],), name=args[1]))
    )


TREES = st.recursive(LEAVES, _larger, max_leaves=8)


@settings(max_examples=60, deadline=None)
@given(TREES)
def test_a_tree_written_and_read_again_is_equal(node: Node) -> None:
    again = tree(latex(node))
    assert decide(node, again) is not False
    assert not are_apart(node, again)


@settings(max_examples=60, deadline=None)
@given(TREES, TREES, TREES)
def test_the_laws_of_algebra_are_never_denied(a: Node, b: Node, c: Node) -> None:
    distributed = Node(Op.ADD, (Node(Op.MUL, (a, b)), Node(Op.MUL, (a, c))))
    assert decide(Node(Op.MUL, (a, Node(Op.ADD, (b, c)))), distributed) is not False
    assert decide(Node(Op.ADD, (a, b)), Node(Op.ADD, (b, a))) is not False
    assert decide(Node(Op.ADD, (a, number(1))), a) is not True


@pytest.mark.parametrize(
    "text", ["1/2x", r"1/2\pi", "x2", "1 2", r"\sin(x)^2", "f(x)", "3!!", r"1\frac{3}{2}", "x'", "apples", "2+", "(1", "", "5%"]
)
def test_what_can_be_read_in_two_ways_is_refused(text: str) -> None:
    with pytest.raises(NotUnderstoodError):
        tree(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("-2^2", -4),
        ("2^3^2", 512),
        ("1-2-3", -4),
        ("8/2/2", 2),
        ("2+3*4", 14),
        ("3 1/2", Fraction(7, 2)),
        ("-1\\frac{1}{2}", Fraction(-3, 2)),
        ("5!/3!", 20),
        (r"\binom{5}{2}", 10),
        ("0.125", Fraction(1, 8)),
        (r"\sqrt[3]{-27}", -3),
        ("|2-5|", 3),
        ("2^{-1}", Fraction(1, 2)),
        ("--2", 2),
    ],
)
def test_precedence(text: str, value: Fraction) -> None:
    assert rational(tree(text)) == value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("6*7", True),
        ("84/2", True),
        (r"\frac12+\frac14", True),
        ("2^{10}", False),
        ("5!", False),
        ("3/4", False),
        ("-7", False),
        (r"1.5\cdot 10^6", False),
        (r"2\sqrt{3}", False),
        (r"1+\sqrt{2}", False),
    ],
)
def test_unevaluated(text: str, expected: bool) -> None:
    assert is_unevaluated(tree(text)) is expected


@settings(deadline=None)
@given(st.fractions(min_value=0, max_value=1000, max_denominator=50), st.integers(2, 7))
def test_exact_roots(value: Fraction, degree: int) -> None:
    assert exact_root(value**degree, degree) == value
    assert exact_root(value**degree + Fraction(2, 10**9), degree) is None


@settings(deadline=None)
@given(st.integers(1, 5000), st.integers(1, 5000))
def test_residues_of_roots_multiply(a: int, b: int) -> None:
    values = [residue(Node(Op.ROOT, (number(n),), value=Fraction(2)), 0) for n in (a, b, a * b)]
    if all(proves for _, proves in values):
        assert values[0][0] * values[1][0] % P == values[2][0]
        assert values[0][0] ** 2 % P == a


def test_equations_by_their_roots() -> None:
    assert has_other_root(tree("x^2+1"), tree("x^2+2"))
    assert has_other_root(tree("(x-1)(x-2)"), tree("x-1"))
    assert not has_other_root(tree("x-1"), tree("(x-1)(x-2)"))
    assert not has_other_root(tree("xy-1"), tree(r"y-\frac{1}{x}"))
    assert are_proportional(tree("2x-4y"), tree("2y-x"))
    assert not are_proportional(tree("2x-4y"), tree("2y+x"))


# ---- shapes and units ----


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("(1,2)", Kind.ROUND),
        ("[1,2)", Kind.RIGHT_OPEN),
        ("1, 2", Kind.LIST),
        (r"\{1\}", Kind.SET),
        (r"1\pm 2", Kind.SET),
        ("1:2", Kind.RATIO),
        (r"(1,2)\cup(3,4)", Kind.UNION),
        (r"\langle 1,2\rangle", Kind.ROUND),
        ("(1,2)U(3,4)", Kind.UNION),
    ],
)
def test_kinds(text: str, kind: Kind) -> None:
    shape = read(tokens(text), percent=False)
    assert isinstance(shape, Items)
    assert shape.kind is kind


def test_an_inequality_is_an_interval_with_a_name() -> None:
    shape = read(tokens(r"1 \le t < 2"), percent=False)
    assert isinstance(shape, Named)
    assert shape.name == "t"
    assert isinstance(shape.value, Items)
    assert shape.value.kind is Kind.RIGHT_OPEN


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("5 cm", "cm"),
        (r"5\text{ square centimeters}", "cm^2"),
        (r"5\,\mathrm{km/h}", "kmh"),
        ("$5 million", "million dollar"),
        ("2ab", ""),
        (r"37^\circ\text{C}", "°c"),
        (r"\sin 30^\circ", ""),
        ("12 sq. ft.", "ft^2"),
        ("5 m", "m"),
        ("5m", ""),
    ],
)
def test_units(text: str, unit: str) -> None:
    assert split_unit(tokens(text), percent=False)[1] == unit


def test_units_that_agree() -> None:
    assert agree("cm", "")
    assert agree("apple", "fruit")
    assert not agree("cm", "km")
    assert not agree("cm", "cm^2")


# ---- what is made to be costly ----

BOMBS = [
    "9" * 1900, "9^{9^{9^{9}}}", "9**9**9**9", "10^{10^{10}}", "1000!!!!", "99999!", "(" * 600,
    "((1+" * 200 + "1" + "))" * 200, "-" * 600 + "1", "x^" * 300 + "x", r"\frac" * 300, r"\sqrt" * 300 + "2",
    r"\sqrt{" * 200 + "2" + "}" * 200, "|" * 599, "1+" * 299 + "1", "x*" * 299 + "x", r"\{" * 300, r"\{1,2\}," * 90,
    "1," * 299 + "1", "[" * 300 + "1" + "]" * 300, "=".join("x" * 300), "<".join("x" * 300), r"\pm 1" * 150,
    r"\begin{pmatrix}" * 50, "1e999", "1e-999", "2^{1e99}", r"\binom{1000}{500}^{999}", "(((x^2+3)^{999}+7)^{999}+y)^{999}",
    "1/3^{9000}+" * 40 + "1", "\u0664" * 600, "\ud7ff" * 600, "½" * 500, "²" * 600, r"\text{" * 300, r"\text{a}" * 300,
    "a_{" * 200, r"\overline{" * 200, "0." + r"\overline{123456789}" * 90, "\u202e" * 600 + "5", "x\u0301" * 300,
    "5" + "\u0300" * 600, "%" * 600, "^" * 600, "_" * 600, "'" * 600, "°" * 600, "! " * 300, r"\sin" * 300 + "x",
]  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS, ids=range(len(BOMBS)))
def test_bombs_equal_nothing_and_cost_little(bomb: str) -> None:
    start = time.process_time()
    for gold in ("5", "x^2+1", "(1,2)", r"\{1,2\}", "y=x"):
        assert not same(gold, bomb)
        assert not same(bomb, gold)
    assert time.process_time() - start < 5  # of this process; quadratic or worse would be minutes


@settings(max_examples=150, deadline=None)
@given(
    st.text(st.sampled_from("0123456789 .,+-*/^(){}[]\\=<>!%|_xie±∪∞") | st.characters(), max_size=60),
    st.sampled_from(DISTINCT),
)
def test_reading_any_text_ends(text: str, gold: str) -> None:
    shape = read(tokens(text), percent=False)
    assert isinstance(shape, Other) or shape
    assert len(tokens(text)) <= MAX_TOKENS
    assert same(gold, text) in (True, False)
