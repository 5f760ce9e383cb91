"""JSON as the standard has it, read without ever throwing and in linear time, whatever a model wrote.

Python's own reader also takes NaN and Infinity, makes infinity of 1e999, fails on numbers of thousands of digits by a
ValueError of its own, on deep nesting at a depth that hangs on who calls it, and gives halves of characters, which no tool or
tokenizer takes.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

MAX_DEPTH = 100  # of arrays and objects; far above any tool's arguments, far below Python's limit on recursion
MAX_DIGITS = 4000  # of one number; turning longer ones into integers takes quadratic time, and Python refuses above 4300
_BRACKETS = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{}]', re.DOTALL)  # strings as wholes, closed or not
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")  # half of a character, or of a pair that makes one


@dataclass(frozen=True)
class Json:
    """A value, or in `problem` why there is none: "it is nested deeper than 100"."""

    value: Any = None
    problem: str = ""
    repeats: str | None = None  # a key that stands twice in the outermost object or in an object right inside of it


def dump(value: object) -> str:
    """The JSON text that formats write."""
    return json.dumps(value, ensure_ascii=False)


def read_json(text: str) -> Json:
    """The value of a text that is one JSON value, with white space around it or not."""
    if _end_of_brackets(text, 0) is None:
        return Json(problem=f"it is nested deeper than {MAX_DEPTH}")
    repeated: list[tuple[dict[str, Any], str]] = []

    def make(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            repeated.append((made, next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)))
        return made

    try:
        value = json.loads(text, object_pairs_hook=make, parse_int=_int, parse_float=_float, parse_constant=_constant)
    except json.JSONDecodeError as error:
        found = repr(text[error.pos : error.pos + 20]) if error.pos < len(text) else "the end"
        return Json(problem=f"{error.msg.removesuffix(' at')} at character {error.pos + 1}, found {found}")
    except (ValueError, RecursionError) as error:
        return Json(problem=str(error))
    if _SURROGATE.search(text) and not _encodes(value):
        return Json(problem="it has half of a character (a lone surrogate)")
    near = {id(one) for one in (value, *value.values())} if isinstance(value, dict) else set()
    return Json(value, repeats=next((key for made, key in repeated if id(made) in near), None))


def end_of_object(text: str, start: int) -> int | None:
    """The index behind the object or array that opens at `start`; None where it does not end, or is nested too deep."""
    return _end_of_brackets(text, start) or None


def _end_of_brackets(text: str, start: int) -> int | None:
    """Where brackets are balanced again, at the latest at the end of the text (0); None where they are nested too deep."""
    depth = 0
    for found in _BRACKETS.finditer(text, start):
        mark = found.group()
        if mark in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                return None
        elif mark in "]}":
            depth -= 1
            if depth <= 0:
                return found.end()
    return 0


def _encodes(value: object) -> bool:
    try:
        dump(value).encode()
    except UnicodeEncodeError:
        return False
    return True


def _int(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"it has a number of {len(digits)} digits, and at most {MAX_DIGITS} are read")
    return int(digits)


def _float(text: str) -> float:
    value = float(text) if len(text) <= MAX_DIGITS else math.inf
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is beyond any number that is read")
    return value


def _constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")
