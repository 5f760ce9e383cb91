"""Constraints on the form of an answer (`detectable_format:`)."""

from __future__ import annotations

import json
import re

from rewards.text import has_word, list_items

OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_HIGHLIGHT = re.compile(r"(?<![*\\])(\*{1,3})(?=[^\s*])([^*\n]*[^\s*\\])\1(?!\*)")
_TITLE = re.compile(r"<<([^<>\n]+)>>")
_FENCE = re.compile(r"\A```(?:json)?[ \t]*\n?(.*?)\n?[ \t]*```\Z", re.DOTALL | re.IGNORECASE)


def number_bullet_lists(response: str, *, num_bullets: int) -> bool:
    """There are exactly `num_bullets` markdown bullet points, lines that begin with `* `, `- ` or `+ `."""
    return len(list_items(response)) == num_bullets


def constrained_response(response: str) -> bool:
    """Exactly one of "My answer is yes.", "My answer is no." and "My answer is maybe." is said."""
    return sum(option in response for option in OPTIONS) == 1


def number_highlighted_sections(response: str, *, num_highlights: int) -> bool:
    """At least `num_highlights` pieces are highlighted by markdown, as *this* or **this**."""
    return sum(has_word(text) for _, text in _HIGHLIGHT.findall(response)) >= num_highlights


def multiple_sections(response: str, *, section_spliter: str, num_sections: int) -> bool:
    """At least `num_sections` sections, each begun by a line such as "Section 1" with a number of its own, none empty."""
    mark = re.compile(rf"^[ \t#*_>-]*{re.escape(section_spliter.strip())}[ \t]?(\d+)", re.MULTILINE)
    _, *found = mark.split(response)
    numbers, bodies = found[::2], found[1::2]
    return len({number for number, body in zip(numbers, bodies, strict=True) if has_word(body)}) >= num_sections


def json_format(response: str) -> bool:
    """The whole answer is a JSON object or list with something in it, bare or in a fenced block."""
    text = response.strip()
    fenced = _FENCE.match(text)
    try:
        value = json.loads(fenced[1] if fenced else text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict | list) and bool(value)


def title(response: str) -> bool:
    """There is a title in double angular brackets, such as <<poem of joy>>."""
    return any(has_word(text) for text in _TITLE.findall(response))


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")
