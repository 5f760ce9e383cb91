"""Constraints on every word, or on how words follow each other (`words:` and some of `keywords:`)."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections import Counter
from math import isqrt

from rewards.instructions.errors import InstructionError
from rewards.instructions.lexicon import can_be_verb
from rewards.instructions.relation import Relation
from rewards.instructions.syllables import syllables
from rewards.text import count_of, lines, normal, sentences, words

MIN_PALINDROMES = 10
_CLUSTER = re.compile(r"[bcdfghjklmnpqrstvwxyz]{2}")


def alphabet(response: str) -> bool:
    """Each word begins with the letter of the alphabet after that of the word before, with a after z; at least two words."""
    firsts = [ord(letter) - ord("a") for letter in _first_letters(response)]
    return len(firsts) > 1 and all(0 <= one < 26 and (one + 1) % 26 == two for one, two in itertools.pairwise(firsts))


def no_consecutive(response: str) -> bool:
    """No two neighbouring words begin with the same letter; at least two words."""
    firsts = _first_letters(response)
    return len(firsts) > 1 and all(one != two for one, two in itertools.pairwise(firsts))


def no_adjacent_consecutive(response: str) -> bool:
    """No word begins with the letter of the alphabet after that of the word before; at least two words."""
    firsts = _first_letters(response)
    return len(firsts) > 1 and all(ord(two) - ord(one) != 1 for one, two in itertools.pairwise(firsts))


def vowel(response: str) -> bool:
    """It is one paragraph on one line with at most three different vowels of a, e, i, o, u, accents aside."""
    letters = unicodedata.normalize("NFKD", response.casefold())
    return len(lines(response)) == 1 and len(set("aeiou").intersection(letters)) <= 3


def consonants(response: str) -> bool:
    """Every word has two consonants next to each other; y is one."""
    return all(_CLUSTER.search(word.casefold()) for word in words(response))


def palindrome(response: str) -> bool:
    """At least 10 different words of at least 5 letters read the same backwards."""
    return len({word.casefold() for word in words(response) if _is_palindrome(word, 5)}) >= MIN_PALINDROMES


def any_palindrome(response: str) -> bool:
    """A word of at least 3 letters, or a sentence or line of at least 5, reads the same backwards; "mmm" does not count."""
    longer = any(_is_palindrome(text, 5) for text in (*sentences(response), *lines(response)))
    return longer or any(_is_palindrome(word, 3) for word in words(response))


def prime_lengths(response: str) -> bool:
    """The number of letters and digits of every word is a prime number."""
    return all(_is_prime(sum(map(str.isalnum, word))) for word in words(response))


def repeats(response: str, *, small_n: int) -> bool:
    """No word is used more than `small_n` times."""
    return max(Counter(word.casefold() for word in words(response)).values()) <= small_n


def odd_even_syllables(response: str) -> bool:
    """Words with an odd and an even number of syllables take turns, for some way to speak them; at least two words."""
    parities = [{count % 2 for count in syllables(word)} for word in words(response)]
    turns = range(2)
    return len(parities) > 1 and any(all((first + at) % 2 in of for at, of in enumerate(parities)) for first in turns)


def start_verb(response: str) -> bool:
    """The first word can be a verb, in any form; of the common ones."""
    return can_be_verb(words(response)[0])


def words_position(response: str, *, keyword: str) -> bool:
    """The second word and the last but one are the keyword; at least three words."""
    found = [word.casefold() for word in words(response)]
    return len(found) > 2 and found[1] == found[-2] == keyword.strip().casefold()


def keyword_position(response: str, *, keyword: str, n: int, m: int) -> bool:
    """The keyword is word number `m` of sentence number `n`."""
    if min(n, m) < 1:
        raise InstructionError(f"cannot judge: n is {n} and m is {m}; 1 or more is expected")
    found = sentences(response)
    if len(found) < n:
        return False
    wanted = [word.casefold() for word in words(keyword)]
    place = [word.casefold() for word in words(found[n - 1])][m - 1 : m - 1 + len(wanted)]
    return place == wanted


def start_end(response: str) -> bool:
    """The first and the last word are the same, nothing stands after the last one; at least two words."""
    found = words(response)
    return len(found) > 1 and found[0].casefold() == found[-1].casefold() and response.rstrip().endswith(found[-1])


def word_once(response: str, *, keyword: str) -> bool:
    """The keyword appears as a word of its own."""
    return count_of(keyword, response) > 0


def word_count_different_numbers(response: str, *, keyword: str, frequency: int, relation: Relation = "at least") -> bool:
    """The keyword appears, as a word of its own, exactly `frequency` times; `relation` counts for nothing."""
    return count_of(keyword, response) == frequency


def exclude_word_harder(response: str, *, keyword: str) -> bool:
    """The keyword does not appear as a word of its own."""
    return count_of(keyword, response) == 0


def first_word_answer(response: str, *, first_word: str) -> bool:
    """The first word is this one."""
    return normal(words(response)[0]) == normal(first_word)


def last_word_answer(response: str, *, last_word: str) -> bool:
    """The last word is this one."""
    return normal(words(response)[-1]) == normal(last_word)


def _first_letters(text: str) -> list[str]:
    return [word.casefold()[0] for word in words(text)]


def _is_palindrome(text: str, min_letters: int) -> bool:
    letters = [char for char in text.casefold() if char.isalnum()]
    return len(letters) >= min_letters and letters == letters[::-1] and len(set(letters)) > 1


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, isqrt(number) + 1))
