"""One instruction, one answer: ids to functions, keyword arguments checked against the function's signature.

The ids and the names of their keyword arguments are the published ones, so that public data sets work as they are.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any, get_args, get_type_hints

from rewards.instructions import content, format, keywords, length, whole
from rewards.text import has_word

IFEVAL: Mapping[str, Callable[..., bool]] = MappingProxyType(
    {
        "keywords:existence": keywords.existence,
        "keywords:frequency": keywords.frequency,
        "keywords:forbidden_words": keywords.forbidden_words,
        "keywords:letter_frequency": keywords.letter_frequency,
        "language:response_language": whole.response_language,
        "length_constraints:number_sentences": length.number_sentences,
        "length_constraints:number_paragraphs": length.number_paragraphs,
        "length_constraints:number_words": length.number_words,
        "length_constraints:nth_paragraph_first_word": length.nth_paragraph_first_word,
        "detectable_content:number_placeholders": content.number_placeholders,
        "detectable_content:postscript": content.postscript,
        "detectable_format:number_bullet_lists": format.number_bullet_lists,
        "detectable_format:constrained_response": format.constrained_response,
        "detectable_format:number_highlighted_sections": format.number_highlighted_sections,
        "detectable_format:multiple_sections": format.multiple_sections,
        "detectable_format:json_format": format.json_format,
        "detectable_format:title": format.title,
        "combination:two_responses": whole.two_responses,
        "combination:repeat_prompt": whole.repeat_prompt,
        "startend:end_checker": whole.end_checker,
        "startend:quotation": whole.quotation,
        "change_case:capital_word_frequency": whole.capital_word_frequency,
        "change_case:english_capital": whole.english_capital,
        "change_case:english_lowercase": whole.english_lowercase,
        "punctuation:no_comma": whole.no_comma,
    }
)
CHECKS: Mapping[str, Callable[..., bool]] = IFEVAL


def check(instruction: str, response: str, kwargs: Mapping[str, Any] | None = None) -> bool:
    """Whether `response`, all of it, follows the instruction with this id. A response without a word follows none.

    Keyword arguments that are None count as not given: data sets have a column for every name.

    Raises:
        ValueError: the id is unknown, or a keyword argument is missing, unknown, or of a value that cannot be meant.

    >>> check("length_constraints:number_words", "Three short words.", {"relation": "less than", "num_words": 4})
    True
    """
    function = function_of(instruction)
    arguments = _checked(instruction, function, kwargs or {})
    return has_word(response) and function(response, **arguments)


def function_of(instruction: str) -> Callable[..., bool]:
    """The function with this id.

    Raises:
        ValueError: the id is unknown.
    """
    if instruction not in CHECKS:
        raise ValueError(f"unknown instruction id {instruction!r}{_nearest(instruction, list(CHECKS))}")
    return CHECKS[instruction]


@cache
def arguments_of(function: Callable[..., bool]) -> Mapping[str, Any]:
    """The names of a function's keyword arguments, with their types."""
    hints = get_type_hints(function)
    return {name: hints[name] for name in list(inspect.signature(function).parameters)[1:]}


def _checked(instruction: str, function: Callable[..., bool], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    wanted = arguments_of(function)
    given = {name: value for name, value in kwargs.items() if value is not None}
    for name in given:
        if name not in wanted:
            allowed = ", ".join(wanted) or "no keyword arguments"
            raise ValueError(
                f"{instruction} has no keyword argument {name!r}{_nearest(name, list(wanted))}; it takes {allowed}"
            )
    missing = [name for name in wanted if name not in given]
    if missing:
        raise ValueError(f"{instruction} needs the keyword argument {missing[0]!r}, which is not given")
    return {name: _value(instruction, name, value, wanted[name]) for name, value in given.items()}


def _value(instruction: str, name: str, value: Any, wanted: Any) -> Any:
    """`value` as the function wants it. Whole floats count as integers: data sets with gaps have floats for them."""
    if wanted is int:
        whole_number = not isinstance(value, bool) and isinstance(value, int | float) and float(value).is_integer()
        if whole_number and value >= 0:
            return int(value)
        allowed = "a whole number, 0 or more"
    elif wanted is str:
        if isinstance(value, str) and value.strip():
            return value
        allowed = "a string that is not empty"
    elif wanted == Sequence[str]:
        if (
            isinstance(value, Sequence)
            and not isinstance(value, str)
            and value
            and all(isinstance(v, str) and v.strip() for v in value)
        ):
            return value
        allowed = "a list of strings, none empty"
    else:
        if value in get_args(wanted):
            return value
        allowed = " or ".join(repr(choice) for choice in get_args(wanted))
    raise ValueError(f"{instruction}: {name} is {value!r:.200}; {allowed} is expected")


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
