r"""LaTeX and plain-text mathematics as a flat list of tokens with one spelling for each thing.

A token is a string: a number ("12.5"), a letter or symbol ("x", "+", "≤"), a command ("\frac", "\{"), a word of several
letters ("apples"), or the content of a \text{...} with a double quote before it ('"cm'). Nothing is judged here.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from rewards.equality.vocabulary import CHARS, DROPPED, ESCAPES, FUNCTIONS, GREEK, SAME, WORDS

MAX_TOKENS = 600  # of an answer; the longest gold answers of MATH have about 150

_INNER = r"\s*\{(?P<inner>[^{}]*)\}"
_NUMBER = r"(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3}(?![0-9A-Za-z]))?"
_THOUSANDS = r"[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?"
_REST = (
    rf"|\\(?P<texty>text|textbf|textit|textrm|textnormal|textsf|texttt|mathrm|mathsf|mathtt|mbox|hbox|operatorname\*?){_INNER}"
    r"|(?P<env>\\(?:begin|end)\s*\{[A-Za-z]+\*?\})(?:\{[lcr| ]*\})?"
    r"|\\mathbb\s*\{?(?P<field>[A-Z])\}?"
    r"|\\(?P<command>[A-Za-z]+)\*?"
    r"|(?P<escape>\\[^A-Za-z])"
    r"|(?P<word>[^\W\d_]+)"
    r"|(?P<space>\s+|~)"
    r"|(?P<char>.)"
)
_PLAIN = re.compile(rf"(?P<number>{_NUMBER}){_REST}", re.DOTALL)
_GROUPED = re.compile(rf"(?P<number>{_THOUSANDS}|{_NUMBER}){_REST}", re.DOTALL)
_GROUP_MARK = re.compile(r"(?<=[0-9])(?:\{,\}|\\[,!;: ]\{?,?\}?|[\u00a0\u2009\u202f'])(?=[0-9]{3}(?![0-9]))")
_SPACED_GROUPS = re.compile(r"(?<![0-9.,] )(?<![0-9.,])[1-9][0-9]{0,2}(?: [0-9]{3}){2,}(?![0-9]| [0-9])")
_REPEATING = re.compile(r"(?<![0-9.])([0-9]*)\.([0-9]*)\\(?:overline|bar)\s*\{([0-9]{1,30})\}")
_DIGITS = re.compile(r"\d+")
_OTHERS = re.compile(r"[\uff01-\uff5e¼-¾⅐-⅞↉]")
_POWER = re.compile(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+")
_INDEX = re.compile(r"[₀₁₂₃₄₅₆₇₈₉]+")
_ONE_LETTER_UNIT = re.compile(r"(?<=[0-9}])\s+([mgshLlVAWNJKCF])\s*\Z")


@lru_cache(maxsize=512)
def tokens(text: str) -> tuple[str, ...]:
    r"""The tokens of an answer; () where it has more than `MAX_TOKENS`.

    >>> tokens("\\dfrac{1}{2}\\text{ cm}")
    ('\\frac', '{', '1', '}', '{', '2', '}', '"cm')
    >>> tokens("x² ≤ 1,500")
    ('x', '^', '{', '2', '}', '≤', '1500')
    """
    text = _ONE_LETTER_UNIT.sub(r"\\text{\1}", _plain(text)).strip()
    bracketed = any(mark in text for mark in ("(", "[", "\\{", "⟨"))
    pattern = _PLAIN if bracketed and not re.search(r",\s", text) else _GROUPED
    out: list[str] = []
    for match in pattern.finditer(text):
        _append(out, match)
        if len(out) > MAX_TOKENS:
            return ()
    while out and (out[-1] in ".,;:" or out[-1] == '"') and len(out) > 1:
        out.pop()
    return tuple(out)


def is_number(part: str) -> bool:
    return part[0] in "0123456789" or (part[0] == "." and len(part) > 1)


def is_whole(part: str) -> bool:
    return part.isascii() and part.isdigit()


def spelled(parts: tuple[str, ...] | list[str]) -> str:
    """Tokens as one line, the same for all spellings of an answer that mean the same piece by piece."""
    return "".join(part.removeprefix('"') if part[0] == '"' else part for part in parts)


def _plain(text: str) -> str:
    """Characters of one meaning made one: digits of other scripts, powers, fractions, signs; separators of thousands go."""
    if not text.isascii():
        text = ascii_digits(text)
        text = _POWER.sub(lambda m: "^{" + unicodedata.normalize("NFKC", m[0]).replace("−", "-") + "}", text)
        text = _INDEX.sub(lambda m: "_{" + unicodedata.normalize("NFKC", m[0]) + "}", text)
        text = text.translate(CHARS)
    text = _GROUP_MARK.sub("", text)
    text = _SPACED_GROUPS.sub(lambda m: m[0].replace(" ", ""), text)
    return _REPEATING.sub(_repeating_fraction, text)


def ascii_digits(text: str) -> str:
    """`text` with decimal digits in ASCII, fractions like ½ in LaTeX and full-width forms as plain ones.

    A number whose digits are of two scripts is left as it is, and so is no number.
    """
    return _OTHERS.sub(_one_form, _DIGITS.sub(_one_script, text)).replace("٫", ".").replace("٬", ",")


def _one_script(match: re.Match[str]) -> str:
    digits = [unicodedata.decimal(char) for char in match[0]]
    scripts = {ord(char) - digit for char, digit in zip(match[0], digits, strict=True)}
    return "".join(map(str, digits)) if len(scripts) == 1 else match[0]


def _one_form(match: re.Match[str]) -> str:
    char = match[0]
    if "\uff01" <= char <= "\uff5e":
        return char if char.isdigit() else chr(ord(char) - 0xFEE0)
    parts = unicodedata.normalize("NFKC", char).split("⁄")
    if len(parts) == 2 and all(part.isdigit() for part in parts):
        return f"\\frac{{{parts[0]}}}{{{parts[1]}}}"
    return char


def _repeating_fraction(match: re.Match[str]) -> str:
    whole, fixed, period = match[1] or "0", match[2], match[3]
    top = int(whole + fixed + period) - int(whole + fixed)
    return rf"\frac{{{top}}}{{{(10 ** len(period) - 1) * 10 ** len(fixed)}}}"


def _append(out: list[str], match: re.Match[str]) -> None:
    kind = match.lastgroup
    text = match[0]
    if kind == "number":
        number = text.replace(",", "")
        for piece in _fraction_digits(out, number):
            out.append(piece)
    elif match["texty"] is not None:
        out.extend(_text(match["texty"], match["inner"]))
    elif kind == "env":
        out.append(re.sub(r"\s", "", match["env"]))
    elif kind == "field":
        out.append(f"\\{match['field']}")
    elif kind == "command":
        name = match["command"]
        if name not in DROPPED:
            _append_symbol(out, SAME.get(name, f"\\{name}"))
    elif kind == "escape":
        if (meaning := ESCAPES.get(text)) is not None:
            out.append(meaning)
    elif kind == "word":
        out.append(_word(text))
    elif kind == "char":
        _append_symbol(out, text)


def _append_symbol(out: list[str], symbol: str) -> None:
    """Adds a symbol; 90^\\circ becomes 90°, and the U between two intervals a union."""
    if symbol == "\\circ" and out and out[-1] == "^":
        out[-1] = "°"
    elif symbol == "}" and out[-3:-1] == ["^", "{"] and out[-1] in ("\\circ", "°"):
        out[-3:] = ["°"]
    elif symbol == "°" and out and out[-1] == "^":
        out[-1] = "°"
    elif symbol in "([" and out[-1:] == ["U"] and out[-2:-1] and out[-2] in ")]":
        out[-1:] = ["∪", symbol]
    elif symbol == "*" and out[-1:] == ["*"]:  # 2**3
        out[-1] = "^"
    elif symbol == "=" and out[-1:] and out[-1] in ("<", ">", "!"):
        out[-1] = {"<": "≤", ">": "≥", "!": "≠"}[out[-1]]
    elif symbol != "$" or not out or out[-1] != "$":
        out.append(symbol)


def _fraction_digits(out: list[str], number: str) -> list[str]:
    r"""`number` cut into the single digits that \frac12, \frac1{2} and \sqrt2 take as arguments."""
    wanted = 0
    if out[-1:] == ["\\frac"] or out[-1:] == ["\\binom"]:
        wanted = 2
    elif out[-1:] == ["\\sqrt"] or (len(out) > 1 and out[-2] in ("\\frac", "\\binom") and is_whole(out[-1])):
        wanted = 1
    if wanted == 0 or not is_whole(number) or len(number) == 1:
        return [number]
    return [*number[:wanted], *([number[wanted:]] if number[wanted:] else [])]


def _word(text: str) -> str:
    if len(text) == 1:
        return text
    lower = text.lower()
    if text in FUNCTIONS:
        return f"\\{text}"
    if lower in WORDS:
        return WORDS[lower]
    return f"\\{text}" if text in GREEK and len(text) > 2 else text


def _text(command: str, inner: str) -> list[str]:
    r"""What a \text{...} or \mathrm{...} says: words, or plain mathematics where there are none."""
    inner = " ".join(inner.replace("~", " ").split())
    if not inner:
        return []
    if inner.lower() in ("or", "and", ", or", ", and"):
        return [inner.lower().removeprefix(", ")]
    if inner in FUNCTIONS:
        return [f"\\{inner}"]
    if inner.lower() in ("percent", "per cent", "pct"):
        return ["%"]
    if command.startswith("math") and inner in ("e", "i", "d"):
        return [inner]
    if not any(char.isalpha() for char in inner) and "\\" not in inner:
        return list(tokens(inner))
    if (single := re.fullmatch(r"(or|and)\s+(.*)|(.*)\s+(or|and)", inner)) is not None and len(inner) < 40:
        return [single[1], f'"{single[2]}'] if single[1] else [f'"{single[3]}', single[4]]
    return [f'"{inner}']
