"""Families of pairs written after the verifier was mended; what `math_verifier.py` shows of them are first figures."""

from __future__ import annotations

import math
import random
from fractions import Fraction

from tests.bench.math_pairs import Family, frac, fraction, off, polynomial, product, term


def repeating(rng: random.Random, is_equal: bool) -> tuple[str, str]:
    digits = rng.choice(("3", "6", "12", "27", "142857", "09"))
    value = Fraction(int(digits), 10 ** len(digits) - 1)
    other = value if is_equal else rng.choice((Fraction(int(digits), 10 ** len(digits)), value + Fraction(1, 9)))
    return frac(value, rng), f"0.\\overline{{{digits}}}" if is_equal else frac(other, rng)


def nested_radicals(rng: random.Random, is_equal: bool) -> tuple[str, str]:
    a, b = rng.sample((2, 3, 5, 7, 11), 2)
    c = a * b if is_equal else a * b + rng.choice((1, 4))
    return f"\\sqrt{{{a}}}+\\sqrt{{{b}}}", f"\\sqrt{{{a + b}+2\\sqrt{{{c}}}}}"


def set_builders(rng: random.Random, is_equal: bool) -> tuple[str, str]:
    a = rng.randint(-9, 5)
    b = a + rng.randint(1, 9)
    upper = "<" if is_equal else "\\le"
    bar = rng.choice(("\\mid", ":", "|"))
    return f"({a}, {b})", f"\\{{x {bar} {a} < x {upper} {b}\\}}"


def trig_identities(rng: random.Random, is_equal: bool) -> tuple[str, str]:
    pairs = (
        ("\\sin 2x", "2\\sin x\\cos x"),
        ("\\cos^2 x", "1-\\sin^2 x"),
        ("\\tan x", "\\frac{\\sin x}{\\cos x}"),
        ("\\cos 2x", "1-2\\sin^2 x"),
    )
    gold, same = rng.choice(pairs)
    wrong = {
        "\\sin 2x": "2\\sin x",
        "\\cos^2 x": "1-\\sin x",
        "\\tan x": "\\frac{\\cos x}{\\sin x}",
        "\\cos 2x": "2\\sin^2 x - 1",
    }
    return gold, same if is_equal else wrong[gold]


def log_values(rng: random.Random, is_equal: bool) -> tuple[str, str]:
    base, k = rng.randint(2, 7), rng.randint(2, 4)
    n = base**k if is_equal else base ** (k + 1)
    return str(k), rng.choice((f"\\log_{{{base}}} {n}", f"\\log_{base} {n}", f"\\log_{{{base}}}({n})"))


def two_variables(rng: random.Random, is_equal: bool) -> tuple[str, str]:
    a, b = rng.choice((2, 3, 4, 5)), rng.choice((-5, -4, -3, 2, 3))
    middle = 2 * a * b if is_equal else 2 * a * b + off(rng)
    return f"({a}x{b:+d}y)^2", f"{a * a}x^2{middle:+d}xy+{b * b}y^2"


def circles(rng: random.Random, is_equal: bool) -> tuple[str, str]:
    a, b, r = rng.randint(1, 6), rng.randint(1, 6), rng.randint(2, 7)
    constant = a * a + b * b - r * r if is_equal else a * a + b * b - r * r + off(rng)
    tail = term(constant, "", first=False)
    return f"(x-{a})^2+(y-{b})^2={r * r}", f"x^2+y^2-{2 * a}x-{2 * b}y{tail}=0"


def vectors(rng: random.Random, is_equal: bool) -> tuple[str, str]:
    values = rng.sample(range(-9, 10), 3)
    other = values if is_equal else [values[1], values[0], values[2]]
    column = "\\begin{pmatrix}" + " \\\\ ".join(map(str, other)) + "\\end{pmatrix}"
    inner = ", ".join(map(str, other))
    return f"\\langle {', '.join(map(str, values))} \\rangle", rng.choice((column, f"({inner})", f"\\langle {inner}\\rangle"))


def absolute_values(rng: random.Random, is_equal: bool) -> tuple[str, str]:
    a = rng.randint(1, 9)
    return f"|x-{a}|", rng.choice((f"|{a}-x|", f"\\left|x-{a}\\right|", f"\\sqrt{{(x-{a})^2}}")) if is_equal else f"x-{a}"


def number_words(rng: random.Random, is_equal: bool) -> tuple[str, str]:
    names = ("two", "three", "seven", "eleven", "twelve", "fifteen", "nineteen", "twenty", "thirty-five", "ninety-nine")
    values = (2, 3, 7, 11, 12, 15, 19, 20, 35, 99)
    i = rng.randrange(len(names))
    j = i if is_equal else (i + 1) % len(names)
    return str(values[i]), rng.choice((names[j], f"\\text{{{names[j]}}}"))


def ratios(rng: random.Random, is_equal: bool) -> tuple[str, str]:
    a, b = rng.choice(((2, 3), (3, 4), (5, 2), (7, 5), (1, 4)))
    c, d = (a, b) if is_equal else rng.choice(((b, a), (a + 1, b + 1)))
    return f"{a}:{b}", rng.choice((f"{c}:{d}", f"{c} : {d}", f"\\frac{{{c}}}{{{d}}}"))


def factored_integers(rng: random.Random, is_equal: bool) -> tuple[str, str]:
    a, b, c = rng.randint(2, 6), rng.randint(1, 4), rng.choice((5, 7, 11))
    d = a if is_equal else a + 1
    power = "" if b == 1 else f"^{b}"
    return f"2^{a} \\cdot 3{power} \\cdot {c}", f"{c} \\cdot 2^{{{d}}} \\times 3^{{{b}}}" if rng.random() < 0.5 else str(
        2**d * 3**b * c
    )


def compound_units(rng: random.Random, is_equal: bool) -> tuple[str, str]:
    value = rng.randint(2, 90)
    gold, same, wrong = rng.choice((
        ("m/s", ("\\text{ m/s}", "\\text{ meters per second}", "\\,\\mathrm{m/s}"), "\\text{ km/h}"),
        ("cm^2", ("\\text{ cm}^2", "\\text{ square centimeters}", "\\text{ cm}^{2}"), "\\text{ cm}^3"),
        ("miles per hour", ("\\text{ mph}", "\\text{ miles per hour}", "\\text{ mi/h}"), "\\text{ km/h}"),
    ))  # fmt: skip
    shown = gold if "^" not in gold else "cm}^2"
    return f"{value}\\text{{ {shown}" + (
        "" if shown.endswith("2") else "}"
    ), f"{value}{rng.choice(same) if is_equal else wrong}"


def unions_with_points(rng: random.Random, is_equal: bool) -> tuple[str, str]:
    a = rng.randint(-9, 0)
    b, c = a + rng.randint(1, 4), a + rng.randint(6, 9)
    point = c if is_equal else c + 1
    return f"[{a}, {b}) \\cup \\{{{c}\\}}", rng.choice(
        (f"\\{{{point}\\}} \\cup [{a},{b})", f"\\left[{a}, {b}\\right) \\cup \\{{{point}\\}}")
    )


def sums_of_fractions(rng: random.Random, is_equal: bool) -> tuple[str, str]:
    a, b = rng.randint(1, 5), rng.randint(1, 5)
    c = b if is_equal else b + 1
    return f"\\frac{{{a}}}{{x}}+\\frac{{{b}}}{{y}}", f"\\frac{{{a}y+{c}x}}{{xy}}"


def exponent_rules(rng: random.Random, is_equal: bool) -> tuple[str, str]:
    base, k = rng.randint(2, 5), rng.randint(2, 4)
    j = k if is_equal else k + 1
    return f"{base**k} \\cdot {base}^n", rng.choice(
        (f"{base}^{{n+{j}}}", f"{base}^{{{j}+n}}", f"{base}^{{n}} \\cdot {base}^{{{j}}}")
    )


def conjugates(rng: random.Random, is_equal: bool) -> tuple[str, str]:
    a, n = rng.randint(2, 6), rng.choice((2, 3, 5, 7))
    d = a * a - n
    if d == 0:
        a, d = a + 1, (a + 1) ** 2 - n
    b = a if is_equal else a + 1
    return f"\\frac{{1}}{{{a}-\\sqrt{{{n}}}}}", f"\\frac{{{b}+\\sqrt{{{n}}}}}{{{d}}}"


def triples(rng: random.Random, is_equal: bool) -> tuple[str, str]:
    n, k = rng.choice((2, 3, 5, 7)), rng.randint(2, 6)
    m = k if is_equal else k + 1
    return f"(1, \\sqrt{{{k * k * n}}}, \\frac{{\\pi}}{{{k}}})", f"\\left(1, {m}\\sqrt{{{n}}}, \\frac{{\\pi}}{{{m}}}\\right)"


def small_numbers(rng: random.Random, is_equal: bool) -> tuple[str, str]:
    digits, power = rng.randint(11, 99), rng.randint(2, 7)
    other = power if is_equal else power + rng.choice((-1, 1))
    value = f"{Fraction(digits, 10 ** (power + 1)).numerator / Fraction(digits, 10 ** (power + 1)).denominator:.{power + 1}f}"
    return value, rng.choice((f"{digits / 10} \\times 10^{{-{other}}}", f"{digits / 10}\\cdot 10^{{-{other}}}"))


def times(rng: random.Random, is_equal: bool) -> tuple[str, str]:
    hour, minute = rng.randint(1, 12), rng.randint(10, 59)
    other = minute if is_equal else (minute + 1 if minute < 59 else 10)
    return f"{hour}:{minute}", rng.choice((f"{hour}:{other}", f"{hour}:{other}\\text{{ PM}}", f"\\text{{{hour}:{other}}}"))


def binomials(rng: random.Random, is_equal: bool) -> tuple[str, str]:
    n = rng.randint(4, 12)
    k = rng.randint(1, n - 1)
    other = math.comb(n, k) if is_equal else math.comb(n, k) + off(rng)
    return f"\\binom{{{n}}}{{{k}}}", str(other)


def functions(rng: random.Random, is_equal: bool) -> tuple[str, str]:
    coefficients = [rng.randint(-9, 9), rng.randint(1, 9), rng.randint(1, 5)]
    other = list(coefficients)
    if not is_equal:
        other[rng.randrange(3)] += off(rng)
    return f"f(x) = {polynomial(coefficients)}", rng.choice(
        (polynomial(other), f"f(x)={polynomial(other, ascending=True)}", f"y = {polynomial(other)}")
    )


def sets_of_values(rng: random.Random, is_equal: bool) -> tuple[str, str]:
    n, value = rng.choice((2, 3, 5)), fraction(rng)
    other = value if is_equal else -value
    gold = f"\\{{{frac(value, rng)}, \\sqrt{{{n}}}\\}}"
    return gold, rng.choice(
        (f"\\left\\{{\\frac{{{n}}}{{\\sqrt{{{n}}}}}, {frac(other, rng)}\\right\\}}", f"\\{{\\sqrt{n}, {frac(other, rng)}\\}}")
    )


def factored_sums(rng: random.Random, is_equal: bool) -> tuple[str, str]:
    a, b = rng.sample(range(1, 9), 2)
    value = product([a, 1], [b, 1])
    common = rng.randint(2, 5)
    inner = polynomial(value if is_equal else [value[0] + 1, *value[1:]])
    return polynomial([common * c for c in value]), rng.choice(
        (f"{common}({inner})", f"{common} \\left({inner}\\right)", f"({inner}) \\cdot {common}")
    )


HELD_OUT: dict[str, Family] = {
    family.__name__.replace("_", " "): family
    for family in (
        repeating, nested_radicals, set_builders, trig_identities, log_values, two_variables, circles, vectors, absolute_values,
        number_words, ratios, factored_integers, compound_units, unions_with_points, sums_of_fractions, exponent_rules,
        conjugates, triples, small_numbers, times, binomials, functions, sets_of_values, factored_sums,
    )
}  # fmt: skip
