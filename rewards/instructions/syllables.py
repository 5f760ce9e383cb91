"""How many syllables an English word may have, by rules and a list of exceptions; several numbers where speakers differ."""

from __future__ import annotations

import re

_GROUP = re.compile(r"[aeiouy]+")
_PARTED = re.compile(  # two vowels that belong to two syllables
    r"(?<![cgtsx])i(?:a|o)|(?<=[cgtsx])ia(?=t)|iu|eo(?!n\b|u|p)|[aeiouy]ing\b|u(?:al|ou|ity|ate)|(?<=cr)ea|iet|ii|(?<=sc)ie|uo|ao|oe[mt]"
)
_SECOND = "ly|less|ful|ment|ness|some|where|thing|by|way|work|page|zone|of|mark|book|name|line|fore|ty"  # after a silent e
_SILENT_E = re.compile(rf"(?<=[^aeiouy])e\b|(?<=[aeiouy][^aeiouy])e(?=(?:{_SECOND})s?\b|fully)")
_SILENT_ED = re.compile(r"(?<=[^aeiouytd])ed\b")
_SILENT_ES = re.compile(r"(?<=[^aeiouyszxcg])(?<!sh)(?<!ch)es\b")
_SYLLABIC = re.compile(r"[^aeiouylr]l(?:e|es|ed)\b|[^aeiouylr]re\b|sms?\b|thms?\b")
_KNOWN = {
    (1,): "eye eyes",
    (
        2,
    ): "being business beyond client clients create easier earlier kwiet maybe ocean people player science someone something "
    "sometimes union wednesday",
    (3,): "anyone area audience beautiful behavior created element elements everyone everything recipe recipes",
    (4,): "evaluate experience",
    (1, 2): "choir cruel fire flower fuel hire hour layer oil our poem power prayer real royal shower squirrel tire tower wire",
    (
        2,
        3,
    ): "average beverage camera chocolate corporate desire different entire evening every family favorite general generally "
    "history idea interest memory mystery natural opera separate several temperate",
    (3, 4): "actually comfortable interesting literature naturally temperature usually vegetable",
}
_EXCEPTIONS = {word: counts for counts, words in _KNOWN.items() for word in words.split()}


def syllables(word: str) -> tuple[int, ...]:
    """The numbers of syllables that a word may have; 1 for what has no vowel.

    >>> syllables("river"), syllables("planted"), syllables("every"), syllables("stream")
    ((2,), (2,), (2, 3), (1,))
    """
    word = re.sub(r"[^a-z]", "", word.casefold()).replace("qu", "kw")
    if word in _EXCEPTIONS:
        return _EXCEPTIONS[word]
    count = len(_GROUP.findall(word)) + len(_PARTED.findall(word))
    if _SYLLABIC.search(word) is None:
        count -= len(_SILENT_E.findall(word)) + len(_SILENT_ES.findall(word)) + len(_SILENT_ED.findall(word))
    elif word.rstrip("s").endswith("m"):
        count += 1
    count -= word.endswith("ically")
    return (max(1, count),)
