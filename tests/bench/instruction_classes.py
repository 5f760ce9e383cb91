"""Why our verdict and a published checker's differ: for each instruction the kinds of answers that they judge differently.

A kind is a sentence and a test on the answer; the first whose test holds names the difference. What none names is unexplained.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from rewards.language import detect
from rewards.text import count_of, lines, list_items, sentences, words

Kwargs = Mapping[str, Any]
Kind = tuple[str, Callable[[str, Kwargs], bool]]


def _inner(key: str) -> Callable[[str, Kwargs], bool]:
    """Whether a keyword is found another number of times as text than as a word of its own."""

    def found(response: str, kwargs: Kwargs) -> bool:
        terms = kwargs[key] if isinstance(kwargs[key], list | tuple) else [kwargs[key]]
        return any(count_of(term, response) != _as_pattern(term, response) for term in terms)

    return found


def _as_pattern(term: str, response: str) -> int:
    try:
        return len(re.findall(term, response, re.IGNORECASE))
    except re.error:
        return -1


def _few(number: int, parts: Callable[[str], list[str]]) -> Callable[[str, Kwargs], bool]:
    return lambda response, kwargs: len(parts(response)) < number


def _bare_words(response: str) -> list[str]:
    """Words as several published checkers take them: parted by white space, marks deleted."""
    return re.sub(r"[^\w\s]|_", "", response).split()


def _has(pattern: str) -> Callable[[str, Kwargs], bool]:
    compiled = re.compile(pattern, re.MULTILINE | re.DOTALL)
    return lambda response, kwargs: compiled.search(response) is not None


def _lower_starts(response: str, kwargs: Kwargs) -> bool:
    return response != response.upper() or response != response.lower()


WORDS_DIFFER: Kind = (
    "words: don't, 3.5, 1,200 and U.S. are one word each (published: two or more)",
    lambda response, kwargs: len(words(response)) != len(re.findall(r"\w+", response)),
)
MARKS_ARE_WORDS: Kind = (
    "words are counted without marks (published: NLTK's tokens, a full stop is a word, don't is two)",
    _has(r"[^\w\s]"),
)
SPACED_WORDS: Kind = (
    "hyphens and dashes part words (published: white space alone, marks are deleted first)",
    lambda response, kwargs: [word.lower() for word in words(response)] != [word.lower() for word in _bare_words(response)],
)
SENTENCES_DIFFER: Kind = (
    "sentences: an empty line, a list item or a heading ends one; the number of a list item, e.g. and quoted speech end none",
    _has(r"\n|[\"'”*)]|\b[a-z]\.[a-z]\.|\.\.|[.!?][A-Z]|\bDr\.|\bU\.S\.|www\."),
)
ONE_ITEM: dict[str, str] = {
    "words": "a single word fulfils nothing about neighbouring words (published: it does)",
    "sentences": "a single sentence fulfils nothing about one after another (published: it does)",
}
ALONE: Kind = ("the marker alone, or nothing around it, is no answer", _has(r"."))
FEW_WORDS: Kind = (ONE_ITEM["words"], _few(2, words))
FEW_SENTENCES: Kind = (ONE_ITEM["sentences"], _few(2, sentences))
KEYWORD = "a keyword counts as a word of its own, in any case and white space (published: a pattern, found inside words too)"

KINDS: Mapping[str, tuple[Kind, ...]] = {
    "keywords:existence": ((KEYWORD, _inner("keywords")),),
    "keywords:frequency": ((KEYWORD, _inner("keyword")),),
    "keywords:forbidden_words": (("a phrase is found whatever its white space", _has(r"\s\s|\n")),),
    "keywords:letter_frequency": (
        (
            "characters that are no letters are counted as asked (published: a random letter instead)",
            lambda r, k: not k["letter"].isalpha(),
        ),
    ),
    "language:response_language": (
        (
            "every line that is long enough must be in the language (published: most of the text)",
            lambda r, k: r.isupper() is False and len(lines(r)) > 1,
        ),
        (
            "a sentence in another language follows in the same line",
            lambda r, k: detect(sentences(r)[-1]) not in (k["language"], None),
        ),
        ("capitals are read as small letters (published: its profiles hardly know them)", lambda r, k: r.isupper()),
        ("too short to tell (published: a guess)", lambda r, k: len(words(r)) < 8),
    ),
    "length_constraints:number_sentences": (
        ("fragments without a word are no sentences", _has(r"(^|\s)[.?!]+(\s|$)")),
        SENTENCES_DIFFER,
        ("titles and initials in capitals end no sentence", lambda r, k: r.isupper()),
    ),
    "length_constraints:number_paragraphs": (
        ("a divider stands alone, as three asterisks (published: any three in a row, as in ***bold***)", _has(r"\*\*\*")),
    ),
    "length_constraints:number_words": (WORDS_DIFFER,),
    "length_constraints:nth_paragraph_first_word": (
        ("several empty lines are one break (published: empty paragraphs are counted on)", _has(r"\n\s*\n\s*\n")),
        ("the first word may have an apostrophe in it, and marks or a line without words before it", lambda r, k: True),
    ),
    "detectable_content:number_placeholders": (
        ("[] and [ ] hold no placeholder, [text](link) is a link", _has(r"\[\s*\]|\]\(")),
    ),
    "detectable_content:postscript": (
        (
            "a P.P.S. is no P.S., and the marker begins a line or sentence",
            _has(r"(?i)p\.\s?p\.\s?s|\w,? p\.s\.|\S\*\*P|\n?P\.S\.\Z|[^.!?\s]\s\W*p\.\s?s\."),
        ),
        ("PS without dots will do", _has(r"(?i)\bps\b")),
        ("an answer stands before it, and words follow", _has(r"(?i)\A\W*p\.|p\.\s?s\.?\W*\Z|\A\W*(say )?p\.s")),
    ),
    "detectable_format:number_bullet_lists": (
        ("dividers, and a mark without text, are no bullet points", _has(r"^\s*-[- \t]*-|^\s*[-*]\s*$")),
        ("a bullet has a space behind it; *emphasis* at a line's start has none", _has(r"^\s*(\*[^*\s]|-[^\s-])")),
        ("asterisks of emphasis before a bullet", _has(r"\*\*")),
    ),
    "detectable_format:constrained_response": (
        (
            "naming several of the options is no answer",
            lambda r, k: sum(f"My answer is {o}." in r for o in ("yes", "no", "maybe")) > 1,
        ),
    ),
    "detectable_format:number_highlighted_sections": (
        ("***both*** is one highlight (published: two)", _has(r"\*\*\*")),
        ("asterisks with space inside highlight nothing: 2 * 3 * 4, list items", _has(r"\* |^\*\s| \*")),
        (r"escaped asterisks, and no words inside", _has(r"\\\*|\*\W+\*")),
    ),
    "detectable_format:multiple_sections": (
        ("a section begins a line, has a number of its own, and is not empty", lambda r, k: True),
    ),
    "detectable_format:json_format": (
        ("a JSON object or list with something in it, without NaN (published: any value, such as 7, or {})", lambda r, k: True),
    ),
    "detectable_format:title": (("a title has words and no angular brackets in it", _has(r"<<")),),
    "combination:two_responses": (
        ("exactly six asterisks", _has(r"\*{7,}|(?<!\*)\*{5}(?!\*)")),
        ("responses that differ in case alone are the same, and each has a word", _has(r"\*{6}")),
    ),
    "combination:repeat_prompt": (
        ("an answer must follow", lambda r, k: len(words(r)) <= len(words(k["prompt_to_repeat"]))),
        ("white space may differ", lambda r, k: True),
    ),
    "startend:end_checker": (
        ("something stands before the phrase", lambda r, k: len(words(r)) <= len(words(k["end_phrase"]))),
        ("marks of emphasis or curly quotes may close it", _has(r"[*_”\"`]\s*\Z")),
        ("white space in it may differ", _has(r"\s\s")),
    ),
    "startend:quotation": (
        ("curly quotes are double quotation marks too, and a word stands inside", _has(r"[“”]|\A\s*\"\W*\"\s*\Z")),
    ),
    "change_case:capital_word_frequency": (("words are counted without marks, and U.S. is one", _has(r"[^\w\s]")),),
    "change_case:english_capital": (
        ("the language of capitals is told by words (published: a guess by letters)", lambda r, k: r.isupper()),
    ),
    "change_case:english_lowercase": (
        ("the language of short texts is told by words (published: a guess by letters)", lambda r, k: r.islower()),
    ),
    "punctuation:no_comma": (("commas of other scripts are commas", _has(r"[،、，]")),),
    "count:word_count_range": (WORDS_DIFFER,),
    "count:unique_word_count": (SPACED_WORDS, WORDS_DIFFER, ("rows of marks are no words", _has(r"(^|\s)\W+(\s|$)"))),
    "count:conjunctions": (
        ("And and and are the same conjunction, with marks around them too", _has(r"\b[A-Z]+[a-z]*\b|[/\"*`-]")),
    ),
    "count:person_names": (("a name counts as a word of its own: Emmanuel is no Emma", _has(r"(?i)emmanuel|liamson")),),
    "count:pronouns": (("I'm holds one; U.S. is not us", _has(r"['’]|U\.S|u\.s")),),
    "count:numbers": (("1-3 are two numbers (published: marks are deleted first, 13)", _has(r"\d\W+\d|\d\n")),),
    "count:punctuation": (("the marks of the interrobang are not counted again", _has(r"\?!|!\?|‽")),),
    "count:words_japanese": (
        ("too short for one such place is no Japanese", lambda r, k: len(r.split()) < int(float(k["N"]))),
        ("numbers are not Japanese, nor is a word with other letters; marks alone are no words", lambda r, k: True),
    ),
    "count:keywords_multiple": ((KEYWORD, lambda r, k: any(_inner(f"keyword{i}")(r, k) for i in range(1, 6))),),
    "ratio:stop_words": (WORDS_DIFFER, ("another list of stop words", lambda r, k: True)),
    "ratio:sentence_type": (
        ("at least one question (published: none and no statement is 2 to 1)", lambda r, k: "?" not in r),
        SENTENCES_DIFFER,
    ),
    "ratio:sentence_balance": (
        ("at least one of each (published: none of any is balanced)", lambda r, k: not all(mark in r for mark in ".?!")),
        SENTENCES_DIFFER,
    ),
    "ratio:sentence_words": (("all words differ (published: not looked at)", lambda r, k: True),),
    "words:alphabet": (FEW_WORDS, SPACED_WORDS),
    "words:vowel": (
        ("accents aside: ä is an a", lambda r, k: not r.isascii()),
        ("lines without a word are no paragraphs", _has(r"\n")),
    ),
    "words:consonants": (("marks alone are no words", _has(r"(^|\s)\W+(\s|$)")), SPACED_WORDS),
    "words:palindrome": (("ten different ones (published: one ten times)", lambda r, k: True),),
    "words:prime_lengths": (SPACED_WORDS, ("marks inside and around words", _has(r"[^\w\s]"))),
    "words:repeats": (SPACED_WORDS,),
    "words:odd_even_syllables": (
        FEW_WORDS,
        ("syllables by rules; some words may be spoken in two ways (published: another counter)", lambda r, k: True),
    ),
    "words:no_consecutive": (FEW_WORDS, SPACED_WORDS),
    "words:words_position": (FEW_WORDS, MARKS_ARE_WORDS, ("in any case", lambda r, k: True)),
    "words:keywords_specific_position": (MARKS_ARE_WORDS, SENTENCES_DIFFER, ("in any case", lambda r, k: True)),
    "words:last_first": (
        FEW_SENTENCES,
        SENTENCES_DIFFER,
        ("single letters before a full stop, and what is left of a sentence", lambda r, k: True),
    ),
    "words:paragraph_last_first": (
        ("a paragraph of one word does not end as it began", lambda r, k: any(len(words(line)) < 2 for line in lines(r))),
        MARKS_ARE_WORDS,
    ),
    "sentence:keyword": ((KEYWORD, _inner("word")), SENTENCES_DIFFER),
    "sentence:increment": (FEW_SENTENCES, SENTENCES_DIFFER, WORDS_DIFFER, SPACED_WORDS),
    "sentence:alliteration_increment": (
        FEW_SENTENCES,
        ("the longest row of a sentence counts (published: the sum of all rows)", lambda r, k: True),
    ),
    "format:parentheses": (("a word stands inside, and all five levels are closed", lambda r, k: True),),
    "format:quotes": (
        ("curly quotes are quotes", _has(r"[“”‘]")),
        ("apostrophes are no quotes, and words stand in the innermost", _has(r"'")),
    ),
    "format:options": (("curly apostrophes, other case, and marks or a fence around an option", lambda r, k: True),),
    "format:newline": (FEW_WORDS, ("lines of marks alone are no words", lambda r, k: True)),
    "format:emoji": (
        ("an emoji without a word is no answer", lambda r, k: not words(r)),
        ("an emoji with its variation signs is one", _has(r"[\ufe0f\U0001f3fb-\U0001f3ff]")),
        SENTENCES_DIFFER,
    ),
    "format:line_indent": (
        ("a single line is no stairs", lambda r, k: len([line for line in r.split("\n") if line.strip()]) < 2),
        ("tabs indent, and empty lines are left out (published: spaces alone, and some empty lines stay)", lambda r, k: True),
    ),
    "format:quote_unquote": (("there is a quote, it is closed, and words follow it", lambda r, k: True),),
    "format:list": (
        ("besides the separator no bullet points", lambda r, k: bool(list_items(r))),
        ("words follow each separator; a hyphen begins a line", lambda r, k: True),
    ),
    "format:thesis": (
        ("<em> is as long as it is (published: cut as if it were <i>)", _has(r"(?i)<em>")),
        ("the thesis begins its section, and words are in it and after it", lambda r, k: True),
    ),
    "format:sub-bullets": (
        ("bullets and sub-bullets begin lines, and there is one (published: any * and -)", lambda r, k: True),
    ),
    "format:no_bullets_bullets": (
        ("empty lines and text may follow the bullets (published: neither)", _has(r"\*[^\n]*\n\s*[^*\s]|\n\s*\n|\n\s*\Z")),
        ("sentences end in a full stop, bullets have a space", lambda r, k: True),
    ),
    "format:title_case": (
        (
            "of, the, and may stay small inside a title (published: every word begins with a capital)",
            _has(r"\b(of|the|and|on|a|is|to|with)\b"),
        ),
        ("numbers alone are no title case; words in capitals are", lambda r, k: True),
    ),
    "format:output_template": (
        ("the three labels in order, each with words, and nothing before (published: that they occur)", lambda r, k: True),
    ),
    "format:no_whitespace": (("white space around the answer is no part of it", lambda r, k: r != r.strip()),),
    "repeat:repeat_simple": (("quotation marks around it", _has(r"[\"“]")),),
    "repeat:repeat_change": (("in any case, which alone is no change", lambda r, k: True),),
    "repeat:repeat_span": (("n_end is in, as the words say, or out, as published", lambda r, k: True),),
    "custom:mcq_count_length": (("marks around, and white space before", lambda r, k: True),),
    "custom:reverse_newline": (("every line is a country of Africa, none twice; a line may lead in", lambda r, k: True),),
    "custom:word_reverse": (("never in the usual order too", _has(r"(?i)bald eagle")),),
    "custom:character_reverse": (("never in the usual order too", _has(r"(?i)bald eagle")),),
    "custom:sentence_alphabet": (("marks before a first word", lambda r, k: True),),
    "custom:european_capitals_sort": (
        ("Kyiv lies north of 45 degrees too (published: left out)", _has("(?i)kyiv")),
        ("in any case", lambda r, k: True),
    ),
    "custom:csv_city": (("no field is empty, and no mark stands before the header", lambda r, k: True),),
    "custom:date_format_list": (("at least two dates, all real and different", lambda r, k: True),),
}
