"""Texts of one to three short sentences about a topic, written to a wish: what `specialists.following` demonstrates with.

The vocabulary is closed and small, so that every word of it, in each case that is asked for, becomes a token of its own.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import count

MIN_WORDS, MAX_WORDS = 5, 12  # of a text that keeps its wish; a tiny model counts that far
_WORD = re.compile(r"p\.s\.|\w+", re.IGNORECASE)


class Case(StrEnum):
    SENTENCE = "sentence"
    LOWER = "lower"
    CAPITAL = "capital"


class Layout(StrEnum):
    PLAIN = "plain"
    TITLE = "title"
    BULLETS = "bullets"
    QUOTATION = "quotation"
    POSTSCRIPT = "postscript"


@dataclass(frozen=True)
class Wish:
    """What a text shall be, as far as its writer knows; a default means that nothing was asked.

    >>> write(random.Random(0), Wish(use="slow", layout=Layout.TITLE, case=Case.CAPITAL), "fox", "stone")
    '<<THE FOX>>\\nLATER, THE SLOW FOX HAS THE STONE.'
    """

    use: str = ""  # an adjective that must be there
    avoid: tuple[str, ...] = ()  # verbs and adverbs that must not
    topic_times: int = 1  # at least
    num_sentences: int = 1  # at least
    placeholder: bool = False
    ending: str = ""
    case: Case = Case.SENTENCE
    commas: bool = True
    layout: Layout = Layout.PLAIN
    num_bullets: int = 0  # exactly, where the layout is bullets


def write_fitting(rng: random.Random, wish: Wish, topic: str, thing: str) -> str:
    """A text that keeps the wish and has at most MAX_WORDS words."""
    for _ in range(1000):
        text = write(rng, wish, topic, thing)
        if num_words(text) <= MAX_WORDS:
            return text
    raise AssertionError(f"no text of {MAX_WORDS} words keeps {wish}")


def write(rng: random.Random, wish: Wish, topic: str, thing: str) -> str:
    """A text of any length that keeps the wish: one sentence with both words, and others about the topic."""
    least = 2 if wish.layout is Layout.POSTSCRIPT and not wish.ending else 1
    number = max(least, wish.num_sentences, wish.topic_times, wish.num_bullets)
    if not wish.num_bullets and rng.random() < 0.25:
        number += 1
    sentences = [_first_sentence(rng, wish, topic, thing)]
    for index in range(1, number):
        subject = f"the {topic}" if index < wish.topic_times else "it"
        sentences.append(_sentence(rng, wish, [subject, _word(rng, ACTS, wish)]))
    return _laid_out(wish, topic, sentences)


def num_words(text: str) -> int:
    """How many words a reader counts: P.S. is one.

    >>> num_words("It waits. P.S. It sings.")
    5
    """
    return len(_WORD.findall(text))


def numbered(text: str) -> str:
    """The text with every word's number behind it.

    >>> numbered("It waits. P.S. It sings.")
    'It1 waits2. P.S.3 It4 sings5.'
    """
    numbers = count(1)
    return _WORD.sub(lambda word: f"{word.group()}{next(numbers)}", text)


def _first_sentence(rng: random.Random, wish: Wish, topic: str, thing: str) -> str:
    adjectives = [wish.use or (rng.choice(ADJECTIVES) if rng.random() < 0.3 else ""), ""]
    rng.shuffle(adjectives)
    words = ["the", adjectives[0], topic, _word(rng, VERBS, wish), "the", adjectives[1], thing]
    if wish.placeholder:
        words += ["with", "[name]"]
    if rng.random() < 0.4:
        words = [rng.choice(OPENERS) + ("," if wish.commas else ""), *words]
    return _sentence(rng, wish, words)


def _sentence(rng: random.Random, wish: Wish, words: list[str]) -> str:
    if rng.random() < 0.3:
        words = [*words, _word(rng, ADVERBS, wish)]
    sentence = " ".join(filter(None, words)) + "."
    return sentence[0].upper() + sentence[1:]


def _laid_out(wish: Wish, topic: str, sentences: list[str]) -> str:
    if wish.ending and wish.layout is Layout.BULLETS:
        sentences = [*sentences[:-1], f"{sentences[-1]} {wish.ending}"]
    elif wish.ending:
        sentences = [*sentences, wish.ending]
    text = " ".join(sentences)
    match wish.layout:
        case Layout.TITLE:
            text = f"<<The {topic}>>\n{text}"
        case Layout.BULLETS:
            text = "\n".join(f"* {sentence}" for sentence in sentences)
        case Layout.QUOTATION:
            text = f'"{text}"'
        case Layout.POSTSCRIPT:
            text = " ".join(sentences[:-1]) + f"\nP.S. {sentences[-1]}"
    return {Case.LOWER: text.lower(), Case.CAPITAL: text.upper(), Case.SENTENCE: text}[wish.case]


def _word(rng: random.Random, words: Sequence[str], wish: Wish) -> str:
    return rng.choice([word for word in words if word not in wish.avoid])


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# No word is part of another, since the published check for keywords finds them inside longer words too.
TOPICS = _words(
    "fox river train garden king storm baker cat ship goat farm city lake horse clock tree bear piano bridge moon "
    "school market castle doctor robot desert winter dragon painter teacher forest pirate"
)
THINGS = _words("stone window song letter apple lamp road door bell glove cup flag map coin rope star book key cake drum")
ADJECTIVES = _words("soft cold small dark quiet bright happy green strange warm tall brave slow wild golden lonely")
VERBS = _words("has sees finds likes wants needs keeps loves hears follows")
ACTS = _words("waits sings sleeps smiles dances moves grows listens")
ADVERBS = _words("again here alone often today gladly")
OPENERS = _words("then now once later")
ENDINGS = ("The end.", "All done.", "Good night.", "So long.")
