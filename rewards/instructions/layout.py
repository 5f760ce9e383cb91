"""Constraints on layout, nesting and marks around words (`format:` and some of `detectable_format:`)."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

from rewards.instructions.lexicon import MINOR_WORDS
from rewards.text import has_word, list_items, sentences, words

MIN_PARENTHESES = 5
MIN_QUOTES = 3
_CLOSES = {")": "(", "]": "[", "}": "{"}
_EMOJI = "[\u203c\u2049\u2139\u2194-\u21aa\u231a-\u23ff\u25aa-\u25fe\u2600-\u27bf\u2934-\u2b55\u3030\U0001f000-\U0001faff]"
_EMOJIS = rf"(?:{_EMOJI}[\ufe0e\ufe0f\u200d\u20e3\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]*)"
_EMOJI_AFTER = re.compile(rf"(?<![.!?…])([.!?…]+[\"'”’)]*)[ \t]*({_EMOJIS}(?:[ \t]*{_EMOJIS})*)")
_EMOJI_AT_END = re.compile(rf"{_EMOJIS}[\s.!?…\"'”’)*_]*\Z")
_HEADING = re.compile(r"^[ \t]*(?:#{1,6}[ \t].*|<h[1-6][^>]*>.*?</h[1-6]>[ \t]*)$", re.MULTILINE | re.IGNORECASE)
_THESIS = re.compile(r"\s*(?:<p>\s*)?<(i|em)>(?P<thesis>.*?)</\1>(?P<rest>.*)", re.DOTALL | re.IGNORECASE)
_STAR = re.compile(r"^[ \t]*\*[ \t]+\S.*$", re.MULTILINE)
_TEMPLATE = ("My Answer:", "My Conclusion:", "Future Outlook:")


def parentheses(response: str) -> bool:
    """Parentheses, brackets or braces with a word in them are nested, and closed again, at least 5 levels deep."""
    opened: list[_Level] = []
    letters = 0
    for char in response:
        letters += char.isalnum()
        if char in "([{":
            opened.append(_Level(char, letters))
        elif char in _CLOSES:
            if not opened or opened[-1].mark != _CLOSES[char]:
                opened.clear()
            elif _close(opened, letters) >= MIN_PARENTHESES:
                return True
    return False


def quotes(response: str) -> bool:
    """Quotes within quotes within quotes, double and single in turn, with words in the innermost; apostrophes are none."""
    opened: list[_Level] = []
    letters = 0
    for char in re.sub(r"(?<=\w)['’](?=\w)", "", response).translate(str.maketrans("“”‘’", "\"\"''")):
        letters += char.isalnum()
        if char in "\"'":
            if not opened or opened[-1].mark != char:
                opened.append(_Level(char, letters))
            elif _close(opened, letters) >= MIN_QUOTES:
                return True
    return False


def options(response: str, *, options: str) -> bool:
    """It is one of the options (parted by "/", "or" or commas) and nothing else."""
    separator = "/" if "/" in options else r"\bor\b" if re.search(r"\bor\b", options) else ","
    allowed = {_bare(option) for option in re.split(separator, options)}
    return _bare(response) in allowed - {""}


def newline(response: str) -> bool:
    """Each word is on a line of its own; at least two words."""
    each = [line.split() for line in response.splitlines() if line.strip()]
    return all(len(found) == 1 for found in each) and sum(has_word(found[0]) for found in each) > 1


def emoji(response: str) -> bool:
    """Every sentence has an emoji at its end, before or after the mark that ends it."""
    moved = _EMOJI_AFTER.sub(r" \2\1", response)
    return all(_EMOJI_AT_END.search(sentence) for sentence in sentences(moved))


def line_indent(response: str) -> bool:
    """Each line is indented further than the one before; at least two lines."""
    indents = [len(line) - len(line.lstrip()) for line in response.expandtabs(4).splitlines() if line.strip()]
    return len(indents) > 1 and all(one < two for one, two in itertools.pairwise(indents))


def quote_unquote(response: str) -> bool:
    """There is a phrase in double quotes, and after each one words without quotes before the next."""
    _, *pieces = response.translate(str.maketrans("“”", '""')).split('"')
    phrases, explanations = pieces[::2], pieces[1::2]
    return len(phrases) == len(explanations) > 0 and all(map(has_word, phrases + explanations))


def special_list(response: str, *, sep: str) -> bool:
    """There is a list of at least two items, each after the separator, and no markdown bullet points."""
    if sep.strip() in ("-", "*", "+"):
        return len(list_items(response)) > 1
    _, *items = response.split(sep.strip())
    return sum(map(has_word, items)) > 1 and not list_items(response)


def thesis(response: str) -> bool:
    """Each section (or, without headings, the whole) starts with <i>words</i> or <em>words</em>, and text follows."""
    found = [_THESIS.match(section) for section in _HEADING.split(response) if has_word(section)]
    return bool(found) and all(match and has_word(match["thesis"]) and has_word(match["rest"]) for match in found)


def sub_bullets(response: str) -> bool:
    """There are bullet points `* ...`, and after each, before the next, at least one sub-bullet `- ...`."""
    _, *after = _STAR.split(response)
    return bool(after) and all(re.search(r"^[ \t]*-[ \t]+\S", text, re.MULTILINE) for text in after)


def no_bullets_bullets(response: str) -> bool:
    """At least two sentences that end in a full stop, then at least two bullet points `* ...`."""
    before, *after = _STAR.split(response)
    return len(after) > 1 and sum(sentence.rstrip("\"'”’)*_ ").endswith(".") for sentence in sentences(before)) > 1


def title_case(response: str) -> bool:
    """Every word begins with a capital letter; short function words inside may begin with a small one."""
    found = [re.split("['’]", word)[0] for word in words(response)]
    inner = range(1, len(found) - 1)
    return any(word[0].isupper() for word in found) and all(
        not word[0].islower() or (at in inner and word in MINOR_WORDS) for at, word in enumerate(found)
    )


def output_template(response: str) -> bool:
    """It is "My Answer: ... My Conclusion: ... Future Outlook: ..." in this order, with words after each."""
    parts = re.split("|".join(_TEMPLATE), response)
    return re.findall("|".join(_TEMPLATE), response) == list(_TEMPLATE) and [has_word(part) for part in parts] == [
        False,
        True,
        True,
        True,
    ]


def no_whitespace(response: str) -> bool:
    """There is no white space in it."""
    return not any(char.isspace() for char in response.strip())


def square_brackets(response: str) -> bool:
    """Every word is in square brackets of its own, as [this] [is]."""
    return has_word(response) and not has_word(re.sub(r"\[[^\[\]\s]+\]", " ", response))


def bigram_wrapping(response: str) -> bool:
    """Every two words are in double angular brackets, as <<this is>> <<an example>>; an odd last word may stand alone."""
    groups = re.findall(r"<<([^<>]+)>>", response)
    left = words(re.sub(r"<<[^<>]+>>", " ", response))
    sizes = [len(group.split()) for group in groups]
    full = sizes[:-1] if sizes[-1:] == [1] and not left else sizes
    return bool(full) and set(full) == {2} and (not left or (len(left) == 1 and words(response)[-1] == left[0]))


def no_dots(response: str) -> bool:
    """There is no full stop, of any script, nor an ellipsis."""
    return not set(".。．…‥․｡。۔").intersection(response)


def no_exclamation(response: str) -> bool:
    """There is no exclamation mark, of any kind."""
    return not set("!！¡‼⁉‽❗❕﹗").intersection(response)


@dataclass
class _Level:
    """A mark that was opened."""

    mark: str
    letters: int  # read before it
    inside: int = 0  # levels that were closed inside it


def _close(opened: list[_Level], letters: int) -> int:
    """Take the last level off; how many levels it closes, itself among them, or 0 where no letter is in it."""
    level = opened.pop()
    levels = level.inside + 1 if letters > level.letters else 0
    if opened:
        opened[-1].inside = max(opened[-1].inside, levels)
    return levels


def _bare(text: str) -> str:
    """`text` in lowercase without white space and marks around it."""
    return re.sub(r"\A[\W_]+|[\W_]+\Z", "", " ".join(text.split()).casefold().replace("’", "'"))
