"""Constraints on how many of something there are (`count:`, `ratio:`, `letters:`)."""

from __future__ import annotations

import re
import unicodedata

from rewards.instructions.errors import InstructionError
from rewards.instructions.lexicon import CONJUNCTIONS, PERSON_NAMES, PRONOUNS, STOP_WORDS
from rewards.instructions.relation import Relation, holds
from rewards.text import count_of, sentences, words

OVERLAP_TOLERANCE = 2.0  # percentage points
_NUMBER = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?(?!\d)|\d+(?:\.\d+)?")
_MARKS = ".,!?;:"
_KANA_OR_HAN = re.compile(r"[\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+")


def word_count_range(response: str, *, min_words: int, max_words: int) -> bool:
    """There are `min_words` to `max_words` words."""
    return min_words <= len(words(response)) <= max_words


def unique_word_count(response: str, *, N: int) -> bool:
    """There are at least N different words."""
    return len(_different(response)) >= N


def count_unique(response: str) -> bool:
    """No word is used twice."""
    return len(_different(response)) == len(words(response))


def conjunctions(response: str, *, small_n: int) -> bool:
    """There are at least `small_n` different coordinating conjunctions: and, but, for, nor, or, so, yet."""
    return len(CONJUNCTIONS & _different(response)) >= small_n


def person_names(response: str, *, N: int) -> bool:
    """At least N different names of the published list of fifty (Emma, Liam, Sophia, ...) are mentioned."""
    return len(set(PERSON_NAMES) & set(words(response))) >= N


def pronouns(response: str, *, N: int) -> bool:
    """There are at least N personal, possessive or reflexive pronouns; "I'm" has one."""
    return sum(re.split("['’]", word.casefold())[0] in PRONOUNS for word in words(response)) >= N


def numbers(response: str, *, N: int) -> bool:
    """There are exactly N numbers in digits; 1,000 and 3.14 are one each."""
    return len(_NUMBER.findall(response)) == N


def punctuation(response: str) -> bool:
    """Every one of . , ! ? ; : is used, and besides an interrobang (?!, !? or ‽)."""
    interrobang = re.search(r"\?!|!\?|‽", response)
    if interrobang is None:
        return False
    rest = response[: interrobang.start()] + response[interrobang.end() :]
    return all(mark in rest for mark in _MARKS)


def words_japanese(response: str, *, N: int) -> bool:
    """Every Nth word (between white space) is Japanese: all its letters are kana or Han; there is at least one such place."""
    if N == 0:
        raise InstructionError("cannot judge: N is 0; 1 or more is expected")
    found = [word for word in response.split() if any(char.isalnum() for char in word)]
    places = found[N - 1 :: N]
    return bool(places) and all(_KANA_OR_HAN.fullmatch("".join(filter(str.isalnum, word))) for word in places)


def keywords_multiple(response: str, *, keyword1: str, keyword2: str, keyword3: str, keyword4: str, keyword5: str) -> bool:
    """The keywords appear, as words of their own, exactly 1, 2, 3, 5 and 7 times."""
    wanted = ((keyword1, 1), (keyword2, 2), (keyword3, 3), (keyword4, 5), (keyword5, 7))
    return all(count_of(keyword, response) == times for keyword, times in wanted)


def count_increment_word(response: str, *, keyword1: str, keyword2: str) -> bool:
    """The first keyword appears exactly once, the second exactly twice, as words of their own."""
    return count_of(keyword1, response) == 1 and count_of(keyword2, response) == 2


def lowercase_counting(response: str, *, N: int) -> bool:
    """There are at most N words all in lowercase."""
    return sum(word.islower() for word in words(response)) <= N


def letter_counting(response: str, *, N: int, relation: Relation) -> bool:
    """There are at least / less than N letters, of any script."""
    return holds(sum(char.isalpha() for char in response), relation, N)


def stop_words(response: str, *, percentage: int) -> bool:
    """At most `percentage` percent of the words are stop words (articles, pronouns, prepositions, auxiliaries, ...)."""
    found = [word.casefold().replace("’", "'") for word in words(response)]
    return sum(word in STOP_WORDS for word in found) * 100 <= percentage * len(found)


def overlap(response: str, *, reference_text: str, percentage: int) -> bool:
    """Of the different trigrams of characters, `percentage` percent (give or take 2) are in the reference text too."""
    own, reference = _trigrams(response), _trigrams(reference_text)
    return bool(own) and abs(100 * len(own & reference) / len(own) - percentage) <= OVERLAP_TOLERANCE


def sentence_type(response: str) -> bool:
    """There are twice as many sentences that end in a full stop as in a question mark, and at least one of these."""
    ends = _ends(response)
    return 0 < 2 * ends.count("?") == ends.count(".")


def sentence_balance(response: str) -> bool:
    """As many sentences end in a full stop as in a question mark as in an exclamation mark, and at least one each."""
    ends = _ends(response)
    return 0 < ends.count(".") == ends.count("?") == ends.count("!")


def sentence_words(response: str) -> bool:
    """There are three sentences of the same number of characters, and no word is in two of them."""
    found = sentences(response)
    if len(found) != 3 or len({len(sentence) for sentence in found}) != 1:
        return False
    each = [_different(sentence) for sentence in found]
    return len(set.union(*each)) == sum(map(len, each))


def _different(text: str) -> set[str]:
    return {word.casefold().replace("’", "'") for word in words(text)}


def _trigrams(text: str) -> set[str]:
    text = unicodedata.normalize("NFC", text)
    return {text[at : at + 3] for at in range(len(text) - 2)}


def _ends(text: str) -> list[str]:
    """The last mark of each sentence, without quotes, brackets and emphasis around it."""
    return [sentence.rstrip("\"'”’»)]*_` ")[-1:] for sentence in sentences(text)]
