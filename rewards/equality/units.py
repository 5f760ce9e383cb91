"""Units of measure behind a number: which tokens they are, and whether two of them contradict each other.

Nothing is converted: 5 cm and 50 mm are different answers, and so are 5 cm and 5 km; a unit on one side alone is no difference.
"""

from __future__ import annotations

import re
from fractions import Fraction

SCALES = {
    "hundred": Fraction(100),
    "thousand": Fraction(1000),
    "million": Fraction(10**6),
    "billion": Fraction(10**9),
    "trillion": Fraction(10**12),
    "dozen": Fraction(12),
}
CURRENCY = {"$": "dollar", "€": "euro", "£": "pound sterling", "¥": "yen", "₹": "rupee"}
_SPELLINGS = {
    "mm": "millimeter millimetre", "cm": "centimeter centimetre", "dm": "decimeter decimetre", "m": "meter metre",
    "km": "kilometer kilometre kms", "in": "inch inches", "ft": "foot feet", "yd": "yard", "mi": "mile",
    "s": "second sec", "min": "minute mins", "h": "hour hr hrs", "day": "", "week": "wk", "month": "", "year": "yr yrs",
    "mg": "milligram", "g": "gram gm", "kg": "kilogram kilo kgs", "lb": "pound lbs", "oz": "ounce", "t": "tonne ton",
    "ml": "milliliter millilitre", "l": "liter litre", "gal": "gallon", "mph": "", "kmh": "kph kmph",
    "dollar": "usd buck", "cent": "", "euro": "eur", "pound sterling": "gbp", "yen": "jpy", "rupee": "rs inr",
    "degree": "deg degrees", "radian": "rad", "°c": "celsius", "°f": "fahrenheit", "k": "kelvin",
    "n": "newton", "j": "joule", "kj": "kilojoule", "w": "watt", "kw": "kilowatt", "v": "volt", "hz": "hertz",
    "pa": "pascal", "mol": "mole", "am": "", "pm": "", "unit": "", "percent": "% pct percentage",
}  # fmt: skip
_NAMES = {spelling: name for name, others in _SPELLINGS.items() for spelling in (name, *others.split())}
_MEASURES = frozenset(_SPELLINGS) - {"unit"}
_WORD = re.compile(r"[^\W\d_]+|[%°$€£¥₹]|\^\{?-?[0-9]\}?|/")


def split_unit(parts: tuple[str, ...], *, percent: bool) -> tuple[tuple[str, ...], str]:
    """(the tokens of the number, its unit in one spelling); "" where there is none. `percent`: "%" belongs to the number.

    >>> split_unit(("5", '"km', "/", '"h'), percent=False), split_unit(("$", "5"), percent=False)
    ((('5',), 'km/h'), (('5',), 'dollar'))
    """
    sign = parts[:1] if parts[:1] in (("-",), ("+",)) else ()
    first = parts[len(sign) :]
    if len(first) > 1 and first[0] in CURRENCY:
        core, unit = split_unit((*sign, *first[1:]), percent=percent)
        return core, unit if unit in _MEASURES else f"{unit} {CURRENCY[first[0]]}".strip()
    for at in range(1, len(parts)):
        if _begins_unit(parts[at], percent=percent) and all(_continues_unit(part) for part in parts[at + 1 :]):
            if parts[at] == "°" and any(part.startswith("\\") and len(part) > 2 for part in parts[:at]):
                continue  # of an angle inside a function
            return parts[:at], unit_name(parts[at:])
    return parts, ""


def unit_name(parts: tuple[str, ...]) -> str:
    """Tokens of a unit in one spelling: km/h for "kilometers per hour", cm^2 for "square cm"."""
    text = " ".join(part.removeprefix('"') for part in parts).replace("{ ", "{").replace(" }", "}").replace("^ ", "^")
    out: list[str] = []
    power = ""
    for word in _WORD.findall(text):
        lower = word.lower()
        if lower in ("square", "sq", "squared", "cubic", "cubed", "cu"):
            power = "^3" if lower.startswith("cu") else "^2"
            if lower.endswith("d"):  # centimeters squared
                out.append(power)
                power = ""
        elif lower in ("per", "/"):
            out.append("/")
        elif word[0] == "^":
            out.append(word.replace("{", "").replace("}", ""))
        elif lower in ("c", "f") and out[-1:] == ["degree"]:
            out[-1] = f"°{lower}"
        else:
            out.append(_singular(word) + power)
            power = ""
    name = " ".join(out).replace(" / ", "/").replace(" ^", "^")
    name = name.replace("degree °", "°").replace("degree k", "k")
    return {"km/h": "kmh", "mi/h": "mph"}.get(name, name)


def agree(a: str, b: str) -> bool:
    """Whether two units do not contradict each other: only measures do, things that are counted may be named differently."""
    return not a or not b or a == b or not (_is_measure(a) and _is_measure(b))


def scale(unit: str) -> tuple[Fraction, str]:
    """The factor that a unit begins with, and the rest of it: (1000000, "dollar") for "million dollar"."""
    first, _, rest = unit.partition(" ")
    return (SCALES[first], scale(rest)[1]) if first in SCALES else (Fraction(1), unit)


def is_unit(text: str) -> bool:
    """Whether a word is a unit of measure."""
    return _NAMES.get(text.lower(), text) in _MEASURES


def _begins_unit(part: str, *, percent: bool) -> bool:
    if part in ("°", "%"):
        return part == "°" or not percent
    if part[0] == '"' or part in CURRENCY:
        return True
    return part.isalpha() and len(part) > 1 and part not in ("or", "and") and (len(part) > 3 or part == "sq" or is_unit(part))


def _continues_unit(part: str) -> bool:
    return (
        part[0] == '"' or part.isalpha() or part in CURRENCY or part in ("^", "/", "*", "2", "3", "{", "}", "°", "%", ".", "-")
    )


def _singular(word: str) -> str:
    lower = word.lower()
    if lower in _NAMES:
        return _NAMES[lower]
    singular = lower.removesuffix("s") if len(lower) > 3 else lower
    return _NAMES.get(singular, {"°": "degree", **CURRENCY}.get(word, singular))


def _is_measure(unit: str) -> bool:
    words = re.split(r"[ /]|\^-?[0-9]", unit)
    return all(word in _MEASURES for word in words if word)
