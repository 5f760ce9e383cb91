"""Constraints on pieces that must be there (`detectable_content:`)."""

from __future__ import annotations

import re

from rewards.text import has_word

_PLACEHOLDER = re.compile(r"\[([^\[\]\n]+)\](?!\()")


def number_placeholders(response: str, *, num_placeholders: int) -> bool:
    """There are at least `num_placeholders` placeholders in square brackets, such as [address]; links and [ ] are none."""
    return sum(has_word(content) for content in _PLACEHOLDER.findall(response)) >= num_placeholders


def postscript(response: str, *, postscript_marker: str) -> bool:
    """After the answer a line or sentence begins with the marker, such as P.S., and says something."""
    marker = r"\s?".join(re.escape(letter) + r"\.?" for letter in postscript_marker.replace(".", "").strip())
    if "." not in postscript_marker:
        marker = re.escape(postscript_marker.strip())
    found = re.search(
        rf"(?:^|(?<=[.!?…\"”)]) )[ \t>*_#\"“(]*{marker}(?!\w)(?P<text>.*)", response, re.IGNORECASE | re.MULTILINE | re.DOTALL
    )
    return found is not None and has_word(response[: found.start()]) and has_word(found["text"])
