"""What constraints count in a text: words, sentences, paragraphs, lines, list items. Used by every family of constraints.

English first; full stops of other scripts end sentences too, and where a script has no spaces each ideograph or kana is a word.
"""

from __future__ import annotations

import re

_UNSPACED = "\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # kana and Han
# What joins the letters of a word: combining marks, vowel signs, joiners.
_MARKS = "\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0900-\u0963\u0971-\u0dff\u0e31-\u0e4e\u200c\u200d"
_LETTERS = rf"[^\W_{_UNSPACED}][{_MARKS}]*"
_NUMBER = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?(?!\w)|\d+\.\d+(?!\w)"
_INITIALS = r"(?:(?<!\w)[^\W\d_]\.){2,4}(?!\w)"  # U.S., e.g.
_WORD = re.compile(rf"[{_UNSPACED}]|{_NUMBER}|{_INITIALS}|(?:{_LETTERS})+(?:['’](?:{_LETTERS})+)*")
_BREAK = re.compile(r"\n[ \t]*\n|\n(?=[ \t]*(?:[-*+•][ \t]|\d+[.)][ \t]|#{1,6}[ \t]))")
_CLOSERS = r"[\"'”’»)\]*_`]*"
_END = re.compile(rf"(?:[.!?…]+{_CLOSERS}(?=\s|\Z)|[。！？।॥؟۔]+{_CLOSERS}|(?<=[a-zß-ÿ])[.!?]+(?=[A-ZÀ-Þ]))")
_TITLES = "mr mrs ms dr prof st gen capt lt col sgt rev hon mt fig figs vol nos eq cf vs viz approx e.g i.e"
_SHORT = "inc ltd co corp jr sr etc a.m p.m u.s u.k ph.d b.a m.a m.d dept est jan feb mar apr jun jul aug sept sep oct nov dec"
_NEVER_LAST, _SELDOM_LAST = frozenset(_TITLES.split()), frozenset(_SHORT.split())
_NEAR = 50  # characters around a mark that are looked at
_ITEM = re.compile(r"^[ \t]*[-*+][ \t]+(?=\S)(?![-* \t]+$)", re.MULTILINE)


def has_word(text: str) -> bool:
    """Whether anything can be read: a letter or digit of any script."""
    return any(char.isalnum() for char in text)


def words(text: str) -> list[str]:
    """The words in order. Apostrophes, the marks in 3.5 and 1,200 and the dots of U.S. are inside words; all else parts them.

    >>> words("Don't pay the U.S. 3.5 times, well-known snake_case!")
    ["Don't", 'pay', 'the', 'U.S.', '3.5', 'times', 'well', 'known', 'snake', 'case']
    """
    return _WORD.findall(text)


def sentences(text: str) -> list[str]:
    """The sentences in order; each has a word in it.

    One ends at a full stop, question or exclamation mark, at an empty line, and before a list item or heading. The dots of
    titles, initials, abbreviations inside a sentence, numbers and the numbers of lists end none.

    >>> sentences("Dr. Lee paid $3.50. Was it fair? 'Yes!' she said.")
    ['Dr. Lee paid $3.50.', 'Was it fair?', "'Yes!' she said."]
    """
    found = []
    for block in _BREAK.split(text):
        start = 0
        for match in _END.finditer(block):
            if _ends_sentence(block, match):
                found.append(block[start : match.end()])
                start = match.end()
        found.append(block[start:])
    return [sentence.strip() for sentence in found if has_word(sentence)]


def _ends_sentence(text: str, end: re.Match[str]) -> bool:
    following = text[end.end() : end.end() + _NEAR].lstrip().lstrip("\"'“‘(*_")[:1]
    mark = end[0].rstrip("\"'”’»)]*_`")
    if not following:
        return True
    if mark != ".":
        quoted = len(mark) < len(end[0])
        return not (following.islower() and (quoted or set(mark) <= {".", "…"}))
    before = re.split(r"[\s(\[\"'“‘*_]", text[max(0, end.start() - _NEAR) : end.start()])[-1]
    if before.casefold() in _NEVER_LAST or re.fullmatch(r"(?:[A-Z]\.)*[A-HJ-Z]", before):
        return False
    if before.casefold() in _SELDOM_LAST or re.fullmatch(r"(?:[a-z]\.)+[a-z]", before):
        return following.isupper()
    line = text[text.rfind("\n", 0, end.start()) + 1 : end.start() - len(before)]
    number_of_item = before.isdigit() and not line.strip(" \t*_#>")
    return not (number_of_item or (before.casefold() == "no" and following.isdigit()))


def paragraphs(text: str) -> list[str]:
    """What stands between empty lines, without what has no word in it."""
    return [part.strip() for part in re.split(r"\n[ \t]*\n", text) if has_word(part)]


def lines(text: str) -> list[str]:
    """The lines that have a word in them."""
    return [line.strip() for line in text.splitlines() if has_word(line)]


def list_items(text: str) -> list[str]:
    """The markdown bullet points: lines that begin with `-`, `*` or `+` and a space. A divider is none."""
    return [text[match.end() :].partition("\n")[0].strip() for match in _ITEM.finditer(text)]


def normal(text: str) -> str:
    """`text` without differences of case and white space."""
    return " ".join(text.split()).casefold()


def count_of(term: str, text: str) -> int:
    """How often `term` stands in `text` as a word or phrase of its own, whatever its case and white space."""
    if not term.strip():
        return 0
    body = r"\s+".join(re.escape(part) for part in term.split())
    left = r"(?<!\w)" if re.match(r"\w", term.strip()) else ""
    right = r"(?!\w)" if re.search(r"\w\Z", term.strip()) else ""
    return len(re.findall(left + body + right, text, re.IGNORECASE))
