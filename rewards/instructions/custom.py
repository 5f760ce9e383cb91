"""Single requests that are checked as a whole (`custom:`): lists, tables and puzzles."""

from __future__ import annotations

import csv
import datetime as dt
import io
import itertools
import re
import unicodedata
from collections.abc import Sequence

from rewards.instructions.lexicon import AFRICA, NORTHERN_CAPITALS
from rewards.text import count_of, has_word, sentences, words

MIN_COUNTRIES = 52  # of 54: some lists leave out an island
_QUESTION = re.compile(r"^[ \t#*]*Question\b[^\S\n]*\d*[.):]*", re.MULTILINE)
_OPTION = re.compile(r"^[ \t*]*\(?[A-Ea-e][.):]\s*\S", re.MULTILINE)


def multiples(response: str) -> bool:
    """The numbers in it are the multiples of 7 between 10 and 50, in order."""
    return [int(number) for number in re.findall(r"\d+", response)] == [14, 21, 28, 35, 42, 49]


def mcq_count_length(response: str) -> bool:
    """Four questions, each labelled "Question", each longer than the one before, each with five options A to E."""
    before, *bodies = _QUESTION.split(response)
    if has_word(before) or len(bodies) != 4:
        return False
    lengths = []
    for body in bodies:
        options = list(_OPTION.finditer(body))
        if len(options) != 5:
            return False
        lengths.append(len(" ".join(body[: options[0].start()].split())))
    return lengths[0] > 0 and all(one < two for one, two in itertools.pairwise(lengths))


def reverse_newline(response: str) -> bool:
    """At least 52 countries of Africa, each on a line of its own and none twice, from Z to A; a line may lead in."""
    lines = [
        re.sub(r"\A(?:\d+[.)])?[\s\W_]*(?:the )?", "", _plain(line).replace(",", "")).rstrip(" .;*")
        for line in response.splitlines()
    ]
    lines = [line for line in lines if line]
    countries = [_country(line) for line in lines]
    start = next((at for at, country in enumerate(countries) if country is not None), len(lines))
    listed = countries[start:]
    return (
        start <= 1
        and None not in listed
        and len(set(listed)) == len(listed) >= MIN_COUNTRIES
        and lines[start:] == sorted(lines[start:], reverse=True)
    )


def word_reverse(response: str) -> bool:
    """The bald eagle is named with its words in reverse order: "eagle bald", never "bald eagle"."""
    return count_of("eagle bald", _only_words(response)) > 0 and count_of("bald eagle", _only_words(response)) == 0


def character_reverse(response: str) -> bool:
    """It says "elgae dlab", letter by letter in reverse order, and never "bald eagle"."""
    text = " ".join(response.casefold().split())
    return "elgae dlab" in text and "bald eagle" not in text


def sentence_alphabet(response: str) -> bool:
    """It has 26 sentences, whose first words begin with a to z in order."""
    return [words(sentence)[0].casefold()[0] for sentence in sentences(response)] == list("abcdefghijklmnopqrstuvwxyz")


def european_capitals_sort(response: str) -> bool:
    """It is the list of Europe's capitals north of 45 degrees, from north to south, with commas between."""
    said = [item.strip(" .\n") for item in _plain(response).split(",")]
    return len(said) == len(NORTHERN_CAPITALS) and all(
        item in names for item, names in zip(said, NORTHERN_CAPITALS, strict=True)
    )


def csv_city(response: str) -> bool:
    """It is a comma-separated table with columns ID, Country, City, Year, Count and 7 rows."""
    return _table(response, ",") == (["ID", "Country", "City", "Year", "Count"], 7)


def csv_special_character(response: str) -> bool:
    """It is a comma-separated table with columns ProductID to Stock, 14 rows, and a quoted field with a special character."""
    if _table(response, ",") != (["ProductID", "Category", "Brand", "Price", "Stock"], 14):
        return False
    body = response.strip().partition("\n")[2]
    return any(re.search(r"[^\w\s.]", field) for field in re.findall(r'(?:^|,)\s*"([^"\n]*)"\s*(?=,|$)', body, re.MULTILINE))


def csv_quotes(response: str) -> bool:
    """It is a tab-separated table with columns StudentID to Score and 3 rows, every field in double quotes."""
    if _table(response, "\t") != (["StudentID", "Subject", "Grade", "Semester", "Score"], 3):
        return False
    return all(re.fullmatch(r'\s*"[^"]+"\s*', field) for line in response.strip().splitlines() for field in line.split("\t"))


def date_format_list(response: str) -> bool:
    """It is a list of at least two different dates YYYY-MM-DD in Napoleon's life, with commas between."""
    dates = [item.strip() for item in response.strip().removesuffix(".").split(",")]
    return len(set(dates)) == len(dates) > 1 and all(_is_date(date) for date in dates)


def _is_date(text: str) -> bool:
    try:
        date = dt.date.fromisoformat(text)
    except ValueError:
        return False
    return len(text) == len("YYYY-MM-DD") and 1769 <= date.year <= 1821


def _table(text: str, delimiter: str) -> tuple[Sequence[str], int] | None:
    """The header and the number of rows; None where a row has another number of fields, or an empty one."""
    try:
        rows = list(csv.reader(io.StringIO(text.strip()), delimiter=delimiter, skipinitialspace=True, strict=True))
    except csv.Error:
        return None
    header, *body = rows
    if any(len(row) != len(header) or not all(field.strip() for field in row) for row in body):
        return None
    return [field.strip() for field in header], len(body)


def _plain(text: str) -> str:
    """`text` in lowercase, without accents, curly apostrophes and the space around each line."""
    decomposed = unicodedata.normalize("NFKD", text.replace("’", "'").casefold())
    return "".join(char for char in decomposed if not unicodedata.combining(char)).strip()


def _country(line: str) -> int | None:
    return next((at for at, names in enumerate(AFRICA) if line in names), None)


def _only_words(text: str) -> str:
    return " ".join(words(text.casefold()))
