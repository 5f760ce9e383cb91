"""Which language a text is in: by script, then by the commonest words and letters of the languages that share the script.

Without a model or a dependency, the same answer every time. A short text without common words has no known language.
Used by `rewards.instructions` and `rewards.shaping`.
"""

from __future__ import annotations

import difflib
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping
from functools import cache

from rewards.language_words import COMMON, LETTERS, RANGES, SCRIPTS
from rewards.text import words

_ALIASES = {"zh-cn": "zh", "zh-tw": "zh", "nb": "no", "iw": "he"}
_STARTS = [start for start, _, _ in RANGES]
MIN_SHARE = 0.75  # of the letters that must be in the language's script: names and terms may stay in their own
LONG = 10  # words of a line that can be asked for its language


class UnknownLanguageError(ValueError):
    """A language that nothing is known of here; the text names those that are."""


def detect(text: str) -> str | None:
    """The ISO 639-1 code of the text's language; None where nothing tells.

    >>> detect("Das ist der Anfang, und hier ist das Ende."), detect("Это начало, а вот и конец."), detect("42")
    ('de', 'ru', None)
    """
    found = scores(text)
    best = max(found.values(), default=0.0)
    first = [language for language, score in found.items() if score == best]
    return first[0] if len(first) == 1 else None


def is_in(text: str, language: str) -> bool:
    """Whether all of the text is in the language: the whole of it, and each line that is long enough to tell.

    A text that nothing tells about passes as English where it is short and has plain Latin letters alone.

    Raises:
        UnknownLanguageError: it is not known here.
    """
    language = code_of(language)
    if share_of_script(text, language) < MIN_SHARE:
        return False
    found = detect(text)
    if found is None:
        return language == "en" and not scores(text) and text.isascii() and len(words(text)) < LONG
    long_lines = (line for line in text.splitlines() if len(words(line)) >= LONG)
    return found == language and all(detect(line) in (language, None) for line in long_lines)


def code_of(language: str) -> str:
    """The code that this module uses for a language.

    Raises:
        UnknownLanguageError: it is not known here.
    """
    code = language.strip().lower()
    code = _ALIASES.get(code, code)
    if code not in SCRIPTS:
        close = difflib.get_close_matches(code, SCRIPTS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise UnknownLanguageError(f"unknown language {language!r}{hint}; known are {', '.join(sorted(SCRIPTS))}")
    return code


def scores(text: str) -> Mapping[str, float]:
    """How much speaks for each language of the script that most letters are in; languages without any evidence are left out."""
    scripts = _scripts(text)
    if not scripts:
        return {}
    script = scripts.most_common(1)[0][0]
    if script == "han" and scripts["kana"] * 20 >= scripts["han"]:  # Japanese
        script = "kana"
    common, letters = _evidence(script)
    if not common:
        only = next(language for language, of in SCRIPTS.items() if of == script)
        return {only: float(scripts[script])}
    found: Counter[str] = Counter()
    for word in words(text.casefold()):
        for owners in (common.get(word.replace("’", "'"), ()), *(letters[letter] for letter in set(word) & letters.keys())):
            for language in owners:
                found[language] += 1 / len(owners) ** 0.5
    return found


def share_of_script(text: str, language: str) -> float:
    """The share of the text's letters that are in the script of the language (for Japanese kana and Han); 0 without letters."""
    scripts = _scripts(text)
    script = SCRIPTS[language]
    own = scripts[script] + (scripts["han"] if script == "kana" else 0)
    return own / max(1, scripts.total())


def script_of(char: str) -> str | None:
    """The script of a letter; "other" for scripts of no language known here, None for what is no letter."""
    at = bisect_right(_STARTS, ord(char)) - 1
    if at >= 0 and ord(char) <= RANGES[at][1]:
        return RANGES[at][2] if char.isalpha() else None
    return "other" if char.isalpha() else None


def _scripts(text: str) -> Counter[str]:
    return Counter(script for char in text if (script := script_of(char)) is not None)


@cache
def _evidence(script: str) -> tuple[Mapping[str, tuple[str, ...]], Mapping[str, tuple[str, ...]]]:
    """For the words, and for the letters, that tell languages of this script apart: which languages have them."""
    common: dict[str, list[str]] = {}
    letters: dict[str, list[str]] = {}
    for language in (language for language, of in SCRIPTS.items() if of == script):
        for word in dict.fromkeys(COMMON.get(language, "").split()):
            common.setdefault(word, []).append(language)
        for letter in LETTERS.get(language, ""):
            letters.setdefault(letter, []).append(language)
    return {k: tuple(v) for k, v in common.items()}, {k: tuple(v) for k, v in letters.items()}
