"""Pairs of mathematical answers whose equality is known by construction, drawn from families of ways to write values.

Each family draws a value and writes it in two ways, or writes a second value that differs from it. `DEVELOPED` were looked at
while the verifier was mended, with seeds below 1000; `HELD_OUT` were written afterwards and were never mended against.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

UNITS = (
    ("cm", "\\text{ cm}", "\\,\\mathrm{cm}"),
    ("km", "\\text{ km}", " kilometers"),
    ("hours", "\\text{ hours}", "\\text{ h}"),
)
OTHER_UNITS = ("\\text{ m}", "\\text{ mm}", "\\text{ minutes}")
TRIG = {  # exact values of sines at multiples of pi / 12 that schools teach
    "\\frac{\\pi}{6}": "\\frac{1}{2}", "\\frac{\\pi}{4}": "\\frac{\\sqrt{2}}{2}", "\\frac{\\pi}{3}": "\\frac{\\sqrt{3}}{2}",
    "\\frac{2\\pi}{3}": "\\frac{\\sqrt{3}}{2}", "\\frac{5\\pi}{6}": "\\frac{1}{2}", "\\frac{7\\pi}{6}": "-\\frac{1}{2}",
}  # fmt: skip


@dataclass(frozen=True)
class Pair:
    family: str
    gold: str
    candidate: str
    is_equal: bool


Family: TypeAlias = Callable[[random.Random, bool], tuple[str, str]]


def draw(families: dict[str, Family], per_family: int, seed: int) -> list[Pair]:
    """`per_family` pairs of each family, half of them equal."""
    pairs = []
    for name, family in families.items():
        rng = random.Random(f"{name}/{seed}")
        for i in range(per_family):
            is_equal = i % 2 == 0
            gold, candidate = family(rng, is_equal)
            pairs.append(Pair(name, gold, candidate, is_equal))
    return pairs


# ---- ways to write ----


def frac(value: Fraction, rng: random.Random, *, plain: bool = True) -> str:
    """A fraction in one of its forms."""
    sign, value = ("-" if value < 0 else ""), abs(value)
    if value.denominator == 1:
        return f"{sign}{value.numerator}"
    forms = [f"\\frac{{{value.numerator}}}{{{value.denominator}}}", f"\\dfrac{{{value.numerator}}}{{{value.denominator}}}"]
    if plain:
        forms.append(f"{value.numerator}/{value.denominator}")
    return sign + rng.choice(forms)


def fraction(rng: random.Random) -> Fraction:
    while (value := Fraction(rng.randint(-30, 30), rng.randint(2, 15))).denominator == 1:
        pass
    return value


def off(rng: random.Random) -> int:
    """A small difference, never zero."""
    return rng.choice((-3, -2, -1, 1, 2, 3))


def term(coefficient: int, symbol: str, *, first: bool) -> str:
    """A term of a sum with its sign; "" for zero."""
    if coefficient == 0:
        return ""
    size = "" if abs(coefficient) == 1 and symbol else str(abs(coefficient))
    sign = "-" if coefficient < 0 else "" if first else "+"
    return f"{sign}{size}{symbol}"


def polynomial(coefficients: list[int], x: str = "x", *, ascending: bool = False) -> str:
    """Coefficients, the constant first, as LaTeX; highest power first unless `ascending`."""
    order = range(len(coefficients)) if ascending else range(len(coefficients) - 1, -1, -1)
    out = ""
    for power in order:
        symbol = "" if power == 0 else x if power == 1 else f"{x}^{power}" if power < 10 else f"{x}^{{{power}}}"
        out += term(coefficients[power], symbol, first=not out)
    return out or "0"


def product(a: list[int], b: list[int]) -> list[int]:
    out = [0] * (len(a) + len(b) - 1)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            out[i + j] += x * y
    return out


def spaced(text: str, rng: random.Random) -> str:
    """The same LaTeX with other spaces and delimiters."""
    for old, new in (("+", " + "), (",", ", "), ("=", " = "), ("(", "\\left("), (")", "\\right)")):
        if rng.random() < 0.5:
            text = text.replace(old, new)
    return text


# ---- families that were looked at while mending ----


def integers(rng: random.Random, is_equal: bool) -> tuple[str, str]:
    value = rng.randint(-(10 ** rng.randint(1, 12)), 10 ** rng.randint(1, 12))
    other = value if is_equal else value + off(rng)
    return str(value), rng.choice((f"{other}", f"{other:,}", f"{other}.0", f"{other:,}".replace(",", "{,}"), f"x = {other}"))


def decimals(rng: random.Random, is_equal: bool) -> tuple[str, str]:
    value = Fraction(rng.randint(-9999, 9999), 10 ** rng.randint(1, 4))
    other = value if is_equal else value + rng.choice((Fraction(1, 100), Fraction(1, 10), Fraction(-1, 1000), -2 * value))
    return f"{float(value):.4f}", rng.choice((f"{float(other):.5f}", frac(other, rng), f"{float(other):.6f}0"))


def fractions(rng: random.Random, is_equal: bool) -> tuple[str, str]:
    value = fraction(rng)
    other = value if is_equal else rng.choice((1 / value, -value, value + Fraction(1, value.denominator)))
    return frac(value, rng), frac(other, rng)


def mixed(rng: random.Random, is_equal: bool) -> tuple[str, str]:
    part = Fraction(rng.randint(1, 6), 7)
    whole = rng.randint(1, 9)
    other = whole if is_equal else whole + rng.choice((-1, 1))
    form = rng.choice((f"{other}\\frac{{{part.numerator}}}{{7}}", f"{other} {part.numerator}/7"))
    return frac(whole + part, rng), form


def percents(rng: random.Random, is_equal: bool) -> tuple[str, str]:
    value = rng.randint(1, 400)
    other = value if is_equal else value + off(rng)
    share = Fraction(other, 100)
    return f"{value}\\%", rng.choice(
        (f"{other}\\%", f"{other} \\%", f"{other}\\text{{ percent}}", f"{float(share)}", frac(share, rng))
    )


def scientific(rng: random.Random, is_equal: bool) -> tuple[str, str]:
    digits, power = rng.randint(11, 99), rng.randint(3, 9)
    other = power if is_equal else power + rng.choice((-1, 1))
    value = digits * 10 ** (power - 1)
    forms = (f"{digits / 10} \\times 10^{other}", f"{digits / 10} \\cdot 10^{{{other}}}", f"{digits / 10}\\times10^{{{other}}}")
    return rng.choice((str(value), f"{value:,}")), rng.choice(forms)


def sets(rng: random.Random, is_equal: bool) -> tuple[str, str]:
    values = rng.sample(range(-20, 21), rng.randint(2, 5))
    other = rng.sample(values, len(values))
    if not is_equal:
        other[0] = next(v for v in iter(lambda: rng.randint(-20, 20), None) if v not in values)
    inner = ", ".join(map(str, other))
    forms = (f"\\{{{inner}\\}}", f"\\left\\{{{inner}\\right\\}}", inner)
    return f"\\{{{','.join(map(str, values))}\\}}", rng.choice(forms)


def lists(rng: random.Random, is_equal: bool) -> tuple[str, str]:
    a, b = rng.sample(range(-9, 10), 2)
    c, d = (b, a) if is_equal else (a, b + off(rng))
    if not is_equal and c == d:
        d = 17
    return f"{a}, {b}", rng.choice(
        (f"{c}, {d}", f"x = {c} \\text{{ or }} x = {d}", f"{c} \\text{{ and }} {d}", f"x={c}, x={d}")
    )


def intervals(rng: random.Random, is_equal: bool) -> tuple[str, str]:
    a = rng.randint(-9, 5)
    b = a + rng.randint(1, 9)
    left, right = rng.choice("(["), rng.choice(")]")
    kind, low, high = left + right, str(a), str(b)
    if not is_equal:
        change = rng.randrange(3)
        kind = kind if change else {"()": "[)", "[]": "(]", "[)": "(]", "(]": "[]"}[kind]
        low, high = (str(a - 1), high) if change == 1 else (low, str(b + 1)) if change == 2 else (low, high)
    lower = "<" if kind[0] == "(" else "\\le"
    upper = "<" if kind[1] == ")" else "\\le"
    forms = (
        f"{kind[0]}{low}, {high}{kind[1]}",
        f"\\left{kind[0]}{low},{high}\\right{kind[1]}",
        f"{low} {lower} x {upper} {high}",
    )
    return f"{left}{a},{b}{right}", rng.choice(forms)


def rays(rng: random.Random, is_equal: bool) -> tuple[str, str]:
    a = frac(fraction(rng), rng, plain=False)
    strict = rng.random() < 0.5
    gold = f"({a}, \\infty)" if strict else f"[{a}, \\infty)"
    sign = (">" if strict else "\\ge") if is_equal else rng.choice(("\\ge" if strict else ">", "<", "\\le"))
    return gold, f"x {sign} {a}"


def unions(rng: random.Random, is_equal: bool) -> tuple[str, str]:
    a = rng.randint(-9, 0)
    b = a + rng.randint(1, 9)
    c = b if is_equal else b + off(rng)
    gold = f"(-\\infty, {a}) \\cup ({b}, \\infty)"
    forms = (
        f"({c},\\infty)\\cup(-\\infty,{a})",
        f"x < {a} \\text{{ or }} x > {c}",
        f"\\left(-\\infty, {a}\\right) \\cup \\left({c}, \\infty\\right)",
    )
    return gold, rng.choice(forms)


def tuples(rng: random.Random, is_equal: bool) -> tuple[str, str]:
    values = [rng.randint(-9, 9) for _ in range(rng.randint(2, 4))]
    other = list(values)
    if not is_equal:
        other = values[::-1] if values != values[::-1] and rng.random() < 0.5 else [*values[:-1], values[-1] + off(rng)]
    return f"({','.join(map(str, values))})", rng.choice(
        (f"({', '.join(map(str, other))})", f"\\left({', '.join(map(str, other))}\\right)")
    )


def points(rng: random.Random, is_equal: bool) -> tuple[str, str]:
    value, k = fraction(rng), rng.randint(2, 7)
    other = value if is_equal else -value
    return f"({k}, {frac(value, rng)})", f"\\left({k}, {frac(other, rng)}\\right)"


def polynomials(rng: random.Random, is_equal: bool) -> tuple[str, str]:
    roots = [[rng.randint(-6, 6), rng.choice((1, 1, 2, 3))] for _ in range(rng.randint(2, 3))]
    value = [1]
    for root in roots:
        value = product(value, root)
    other = list(value)
    if not is_equal:
        other[rng.randrange(len(other))] += off(rng)
        return polynomial(value), polynomial(other)
    factored = "".join(f"({polynomial(root)})" for root in roots)
    return polynomial(value), rng.choice((factored, polynomial(value, ascending=True), spaced(factored, rng)))


def quotients(rng: random.Random, is_equal: bool) -> tuple[str, str]:
    a, b = rng.sample(range(1, 9), 2)
    c = b if is_equal else b + rng.choice((1, 2))
    gold = f"\\frac{{x+{a}}}{{x+{b}}}"
    forms = (
        f"\\frac{{2x+{2 * a}}}{{2x+{2 * c}}}",
        f"(x+{a})/(x+{c})",
        f"\\dfrac{{{a}+x}}{{{c}+x}}",
        f"1 + \\frac{{{a - c}}}{{x+{c}}}",
    )
    return gold, rng.choice(forms)


def radicals(rng: random.Random, is_equal: bool) -> tuple[str, str]:
    a, n = rng.randint(2, 9), rng.choice((2, 3, 5, 6, 7, 10))
    b = a if is_equal else a + rng.choice((-1, 1))
    whole = rng.randint(1, 9)
    gold = f"{a}\\sqrt{{{n}}}"
    if rng.random() < 0.4:
        return f"{whole} + {gold}", rng.choice((f"{b}\\sqrt{{{n}}}+{whole}", f"{whole}+\\sqrt{{{b * b * n}}}"))
    return gold, rng.choice(
        (f"\\sqrt{{{b * b * n}}}", f"{b}\\sqrt{n}" if n < 10 else f"{b}\\sqrt{{{n}}}", f"\\frac{{{b * n}}}{{\\sqrt{{{n}}}}}")
    )


def trigonometric(rng: random.Random, is_equal: bool) -> tuple[str, str]:
    angle = rng.choice(sorted(TRIG))
    value = TRIG[angle]
    if is_equal:
        return value, rng.choice((f"\\sin{{{angle}}}", f"\\sin\\left({angle}\\right)", f"\\sin {angle}"))
    return value, f"\\sin\\left({rng.choice([other for other in sorted(TRIG) if TRIG[other] != value])}\\right)"


def multiples_of_pi(rng: random.Random, is_equal: bool) -> tuple[str, str]:
    value = Fraction(rng.randint(1, 20), rng.randint(2, 9))
    other = value if is_equal else value + Fraction(1, 9)
    n, d = other.numerator, other.denominator
    gold = f"\\frac{{{value.numerator}\\pi}}{{{value.denominator}}}"
    return gold, rng.choice(
        (f"\\frac{{{n}}}{{{d}}}\\pi", f"\\dfrac{{{n} \\pi}}{{{d}}}", f"{n}\\pi/{d}", f"\\pi \\cdot \\frac{{{n}}}{{{d}}}")
    )


def logarithms(rng: random.Random, is_equal: bool) -> tuple[str, str]:
    a, k = rng.randint(2, 5), rng.randint(2, 5)
    other = a**k if is_equal else a**k + 1
    return f"{k}\\ln {a}", rng.choice((f"\\ln {other}", f"\\ln({other})", f"\\ln\\left({other}\\right)"))


def complexes(rng: random.Random, is_equal: bool) -> tuple[str, str]:
    a, b = rng.randint(-9, 9), rng.choice((-4, -3, -2, 2, 3, 5))
    c, d = (a, b) if is_equal else rng.choice(((a, -b), (a + off(rng), b)))
    second = rng.choice((f"{d}i{c:+d}", f"{c}{d:+d}i", f"{c} {'+' if d > 0 else '-'} {abs(d)} i"))
    return f"{a}{b:+d}i", second


def units(rng: random.Random, is_equal: bool) -> tuple[str, str]:
    value, names = rng.randint(2, 99), rng.choice(UNITS)
    if is_equal:
        unit = rng.choice(names)
        return (
            f"{value}\\text{{ {names[0]}}}",
            f"{value}{' ' if unit.isalpha() else ''}{unit}" if rng.random() < 0.8 else f"{value}",
        )
    if rng.random() < 0.5:
        return f"{value}\\text{{ {names[0]}}}", f"{value + off(rng)}{names[1]}"
    return f"{value}\\text{{ {names[0]}}}", f"{value}{rng.choice(OTHER_UNITS)}"


def degrees(rng: random.Random, is_equal: bool) -> tuple[str, str]:
    value = rng.randint(1, 179)
    other = value if is_equal else value + off(rng)
    return f"{value}^\\circ", rng.choice(
        (f"{other}^\\circ", f"{other}^{{\\circ}}", f"{other}°", f"{other}\\text{{ degrees}}", f"{other}")
    )


def currency(rng: random.Random, is_equal: bool) -> tuple[str, str]:
    cents = rng.randint(100, 99999)
    other = cents if is_equal else cents + rng.choice((-100, -5, 5, 50))
    amount = f"{other / 100:.2f}"
    return f"\\${cents / 100:.2f}", rng.choice(
        (f"\\${amount}", amount, f"{amount}\\text{{ dollars}}", f"\\${other / 100:,.2f}")
    )


def assignments(rng: random.Random, is_equal: bool) -> tuple[str, str]:
    value = frac(fraction(rng), rng, plain=False)
    if is_equal:
        return f"x = {value}", rng.choice((f"x={value}", value, f"x = {value}."))
    return f"x = {value}", rng.choice((f"y = {value}", f"x = {value}+1", f"x = -{value}".replace("--", "")))


def lines(rng: random.Random, is_equal: bool) -> tuple[str, str]:
    m, b = rng.choice((-4, -3, -2, 2, 3, 4)), rng.choice((-7, -5, -3, 1, 2, 6))
    gold = f"y = {m}x {b:+d}"
    if not is_equal:
        b += off(rng)
    forms = (f"y = {m}x {b:+d}", f"{m}x - y {b:+d} = 0", f"y {-b:+d} = {m}x", f"2y = {2 * m}x {2 * b:+d}")
    return gold, rng.choice(forms)


def inequalities(rng: random.Random, is_equal: bool) -> tuple[str, str]:
    a = rng.randint(-9, 9)
    sign, flipped, word = rng.choice((("<", ">", "<"), (">", "<", ">"), ("\\le", "\\ge", "\\leq"), ("\\ge", "\\le", "\\geq")))
    if is_equal:
        return f"x {sign} {a}", rng.choice((f"{a} {flipped} x", f"x {word} {a}", f"x{sign}{a}".replace("e", "e ")))
    return f"x {sign} {a}", rng.choice((f"x {flipped} {a}", f"x {sign} {a + off(rng)}", f"{a} {sign} x"))


def matrices(rng: random.Random, is_equal: bool) -> tuple[str, str]:
    cells = [rng.randint(-9, 9) for _ in range(4)]
    other = list(cells)
    if not is_equal:
        other[rng.randrange(4)] += off(rng)
    env = rng.choice(("pmatrix", "bmatrix"))
    a, b = ("{} & {} \\\\ {} & {}".format(*each) for each in (cells, other))
    return f"\\begin{{pmatrix}} {a} \\end{{pmatrix}}", f"\\begin{{{env}}}{b.replace(' ', '')}\\end{{{env}}}"


def plus_minus(rng: random.Random, is_equal: bool) -> tuple[str, str]:
    a, n = rng.randint(1, 9), rng.choice((2, 3, 5, 7))
    b = a if is_equal else a + 1
    return f"{a} \\pm \\sqrt{{{n}}}", rng.choice(
        (f"{b}+\\sqrt{{{n}}}, {b}-\\sqrt{{{n}}}", f"{b}\\pm\\sqrt{n}", f"x = {b} \\pm \\sqrt{{{n}}}")
    )


def words(rng: random.Random, is_equal: bool) -> tuple[str, str]:
    options = ("Monday", "Tuesday", "even", "odd", "yes", "no", "Evelyn", "undefined", "parabola", "ellipse")
    word = rng.choice(options)
    other = word if is_equal else rng.choice([option for option in options if option != word])
    return rng.choice((word, f"\\text{{{word}}}")), rng.choice(
        (other, f"\\text{{{other}}}", other.capitalize(), f"\\text{{{other}}}.")
    )


def choices(rng: random.Random, is_equal: bool) -> tuple[str, str]:
    letter = rng.choice("ABCDE")
    other = letter if is_equal else rng.choice([c for c in "ABCDE" if c != letter])
    return rng.choice((letter, f"\\text{{{letter}}}", f"\\text{{({letter})}}")), rng.choice(
        (other, f"({other})", f"\\text{{{other}}}", f"\\textbf{{({other})}}")
    )


def bases(rng: random.Random, is_equal: bool) -> tuple[str, str]:
    digits = "".join(rng.choice("01") for _ in range(5))
    digits = f"1{digits}"
    if is_equal:
        return f"{digits}_2", rng.choice((f"{digits}_{{2}}", f"{digits}_2"))
    return f"{digits}_2", rng.choice((f"{digits}0_2", f"{digits}_3", f"{digits}_{{8}}"))


def exponentials(rng: random.Random, is_equal: bool) -> tuple[str, str]:
    a, b = rng.sample(range(2, 9), 2)
    k = b if is_equal else b + 1
    gold = f"{a}e^{{{b}x}}"
    return gold, rng.choice((f"{a} e^{{{k}x}}", f"{a}\\exp({k}x)", f"e^{{{k}x}} \\cdot {a}", f"{a}(e^{{x}})^{{{k}}}"))


DEVELOPED: dict[str, Family] = {
    family.__name__.replace("_", " "): family
    for family in (
        integers, decimals, fractions, mixed, percents, scientific, sets, lists, intervals, rays, unions, tuples, points,
        polynomials, quotients, radicals, trigonometric, multiples_of_pi, logarithms, complexes, units, degrees, currency,
        assignments, lines, inequalities, matrices, plus_minus, words, choices, bases, exponentials,
    )
}  # fmt: skip
