"""One instruction, one answer: ids to functions, keyword arguments checked against the function's signature.

The ids and the names of their keyword arguments are the published ones, so that public data sets work as they are.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, get_args, get_type_hints

from rewards.instructions.catalog import CHECKS, Check
from rewards.instructions.errors import InstructionError
from rewards.text import has_word


def check(instruction: str, response: str, kwargs: Mapping[str, Any] | None = None) -> bool:
    """Whether `response`, all of it, follows the instruction with this id. A response without a word follows none.

    Keyword arguments that are None count as not given: data sets have a column for every name.

    Raises:
        InstructionError: the id is unknown, or a keyword argument is missing, unknown, or of a value that cannot be meant.

    >>> check("length_constraints:number_words", "Three short words.", {"relation": "less than", "num_words": 4})
    True
    """
    function = function_of(instruction)
    arguments = _checked(instruction, function, kwargs or {})
    return has_word(response) and function(response, **arguments)


def function_of(instruction: str) -> Check:
    """The function with this id.

    Raises:
        InstructionError: the id is unknown.
    """
    if instruction not in CHECKS:
        raise InstructionError(f"cannot judge {instruction!r}: unknown instruction id{_nearest(instruction, list(CHECKS))}")
    return CHECKS[instruction]


@cache
def arguments_of(function: Check) -> Mapping[str, Any]:
    """The names of a function's keyword arguments, with their types."""
    hints = get_type_hints(function)
    return {name: hints[name] for name in list(inspect.signature(function).parameters)[1:]}


@cache
def _required(function: Check) -> Sequence[str]:
    return [name for name, parameter in inspect.signature(function).parameters.items() if parameter.default is parameter.empty][
        1:
    ]


def _checked(instruction: str, function: Check, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    wanted = arguments_of(function)
    given = {name: value for name, value in kwargs.items() if value is not None}
    for name in given:
        if name not in wanted:
            allowed = ", ".join(wanted) or "no keyword arguments"
            raise InstructionError(
                f"cannot judge {instruction!r}: no keyword argument {name!r}{_nearest(name, list(wanted))}; it takes {allowed}"
            )
    missing = [name for name in _required(function) if name not in given]
    if missing:
        raise InstructionError(f"cannot judge {instruction!r}: it needs the keyword argument {missing[0]!r}")
    return {name: _value(instruction, name, value, wanted[name]) for name, value in given.items()}


def _value(instruction: str, name: str, value: Any, wanted: Any) -> Any:
    """`value` as the function wants it. Data sets also write 3.0 or "3" for 3, and ["word"] for "word"."""
    if wanted is int:
        number = _whole(value)
        if number is not None:
            return number
        allowed = "a whole number, 0 or more"
    elif wanted is str:
        text = value[0] if isinstance(value, list | tuple) and len(value) == 1 else value
        if isinstance(text, str) and text.strip():
            return text
        allowed = "a string that is not empty"
    elif wanted == Sequence[str]:
        if isinstance(value, list | tuple) and value and all(isinstance(item, str) and item.strip() for item in value):
            return value
        allowed = "a list of strings, none empty"
    else:
        if value in get_args(wanted):
            return value
        allowed = " or ".join(repr(choice) for choice in get_args(wanted))
    raise InstructionError(f"cannot judge {instruction!r}: {name} is {value!r:.200}; {allowed} is expected")


def _whole(value: object) -> int | None:
    """A number of 0 or more without a fraction, however it is written; None for anything else."""
    if isinstance(value, str) and re.fullmatch(r"\d{1,9}(?:\.0+)?", value.strip()):
        return int(float(value))
    if isinstance(value, bool) or not isinstance(value, int | float) or not float(value).is_integer():
        return None
    return int(value) if value >= 0 else None


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
