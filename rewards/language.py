"""Which language a text is in: by script, then by the commonest words and letters of the languages that share the script.

Without a model or a dependency, the same answer every time. A short text without common words has no known language.
Used by `rewards.instructions` and `rewards.shaping`.
"""

from __future__ import annotations

import difflib
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

from rewards.language_words import COMMON, ENDINGS, LETTERS, RANGES, SCRIPTS
from rewards.text import sentences, words

_ALIASES = {"zh-cn": "zh", "zh-tw": "zh", "nb": "no", "iw": "he"}
_STARTS = [start for start, _, _ in RANGES]
WORD, ENDING, LETTER = 1.0, 0.5, 1.0  # how much each says
PLAIN = 2.0  # how much must speak for a sentence's language
MAX_ENDING = 6
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


def share(text: str, language: str) -> float | None:
    """The share of the text's words that are in the language; None where it has no words.

    A sentence that plainly is in one language counts for that one, any other for the language of the whole text. Where
    nothing tells of a long text, it is in no language. A word in another script is in another language, whatever is around
    it. In scripts without spaces each character is a word.

    Raises:
        UnknownLanguageError: it is not known here.

    >>> share("The river is long. 河流很长。", "en")
    0.5
    """
    language = code_of(language)
    total = len(words_of_letters(text))
    if not total:
        return None
    whole = detect(text)
    if whole is None and total < 2 * LONG:
        whole = language
    own = 0
    for sentence in sentences(text):
        if (_plainly(sentence) or whole) == language:
            own += sum(share_of_script(word, language) > 0.5 for word in words_of_letters(sentence))
    return own / total


def words_of_letters(text: str) -> list[str]:
    """The words without those that are numbers."""
    return [word for word in words(text) if any(map(str.isalpha, word))]


def _plainly(sentence: str) -> str | None:
    """The language that more than a word or two of a sentence speak for, and a quarter more than for any other."""
    ranked = [("", 0.0), *sorted(scores(sentence).items(), key=lambda item: item[1])][-2:]
    (_, second), (language, first) = ranked if len(ranked) == 2 else (("", 0.0), ranked[0])
    return language if first >= max(PLAIN, 1.25 * second) else None


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
    if not _evidence(script).words:
        only = next(language for language, of in SCRIPTS.items() if of == script)
        return {only: float(scripts[script])}
    found: dict[str, float] = defaultdict(float)
    for word in words(text.casefold()):
        for language, weight in _evidence_of(word, script):
            found[language] += weight
    return found


@lru_cache(maxsize=20_000)
def _evidence_of(word: str, script: str) -> Sequence[tuple[str, float]]:
    """The languages that a word speaks for, and how much. What few languages have says more for each of them."""
    evidence = _evidence(script)
    endings = (evidence.endings.get(word[-size:], ()) for size in range(min(MAX_ENDING, len(word) - 2), 0, -1))
    found = [
        (evidence.words.get(word.replace("’", "'"), ()), WORD),
        (next((owners for owners in endings if owners), ()), ENDING),
        *((evidence.letters[letter], LETTER) for letter in sorted(set(word) & evidence.letters.keys())),
    ]
    return [(language, weight / len(owners) ** 0.5) for owners, weight in found for language in owners]


def share_of_script(text: str, language: str) -> float:
    """The share of the text's letters that are in the script of the language (for Japanese kana and Han); 0 without letters."""
    scripts = _scripts(text)
    script = SCRIPTS[language]
    own = scripts[script] + (scripts["han"] if script == "kana" else 0)
    return own / max(1, scripts.total())


@lru_cache(maxsize=20_000)
def script_of(char: str) -> str | None:
    """The script of a letter; "other" for scripts of no language known here, None for what is no letter."""
    at = bisect_right(_STARTS, ord(char)) - 1
    if at >= 0 and ord(char) <= RANGES[at][1]:
        return RANGES[at][2] if char.isalpha() else None
    return "other" if char.isalpha() else None


def _scripts(text: str) -> Counter[str]:
    return Counter(script for char in text if (script := script_of(char)) is not None)


@dataclass(frozen=True)
class _Evidence:
    """Which languages of a script have each word, ending and letter."""

    words: Mapping[str, Sequence[str]]
    endings: Mapping[str, Sequence[str]]
    letters: Mapping[str, Sequence[str]]


@cache
def _evidence(script: str) -> _Evidence:
    languages = [language for language, of in SCRIPTS.items() if of == script]
    return _Evidence(
        _owners({language: COMMON.get(language, "").split() for language in languages}),
        _owners({language: ENDINGS.get(language, "").split() for language in languages}),
        _owners({language: LETTERS.get(language, "") for language in languages}),
    )


def _owners(items: Mapping[str, Iterable[str]]) -> Mapping[str, Sequence[str]]:
    owners: dict[str, list[str]] = {}
    for language, of in items.items():
        for item in dict.fromkeys(of):
            owners.setdefault(item, []).append(language)
    return owners
