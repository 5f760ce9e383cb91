"""Rewards for how an answer is written, beside one for what it says: its format, length, repetition and language.

All are in [0, 1], 1.0 where there is nothing to complain of, so that they go into a recipe's weighted mean as they are. An
answer that says nothing gets 0.0 from each but `language`, so that silence is no way to full marks.
"""

from __future__ import annotations

import re
from typing import Literal, get_args

from rewards.errors import NoScoreError
from rewards.final_answer import closing_brace
from rewards.language import UnknownLanguageError, detect, share
from rewards.task import Effort, Role, Task
from rewards.text import has_word, words
from rewards.transcript import END_THINK, THINK, Transcript

Part = Literal["all", "reasoning", "answer"]
_LONG_WORD, _PIECE = 24, 4  # characters: a longer word is read in pieces, for "hahaha..." repeats itself too
_ONE_WORD = 12  # characters that count as a word at least: words that are glued together still take their length
_LONG_ROW = re.compile(r"(?:[^\w\s]\s?){40,}")  # punctuation without end
_FOREIGN = re.compile(  # what belongs to no language: code, formulas, addresses
    r"```.*?(?:```|\Z)|`[^`\n]*`|\$\$.{0,999}?\$\$|\$[^$\n]*\$|\\\(.{0,999}?\\\)|\\\[.{0,999}?\\\]|\\[A-Za-z]+|https?://\S+",
    re.DOTALL,
)


def format(task: Task, transcript: Transcript, pattern: str = "", boxed: bool = False) -> float:
    r"""1.0 where the answer has its form, else 0.0.

    The last turn thinks first, in one block that is closed and has words in it, and then answers in words, and no limit cut
    it off. With effort none there is no thinking. No tag stands anywhere else.

    Args:
        pattern: a regular expression that the answer must match somewhere; `.` matches line ends too.
        boxed: the answer has exactly one \boxed{...}, with something in it.

    Raises:
        NoScoreError: `pattern` is no regular expression.
    """
    expected = "" if task.effort is Effort.NONE else rf"\s*{THINK}(?P<thought>.*?){END_THINK}"
    found = re.fullmatch(rf"{expected}(?P<answer>.*)", _last_turn(transcript), re.DOTALL)
    if found is None or transcript.is_cut:
        return 0.0
    pieces = list(found.groupdict().values())
    if not all(map(has_word, pieces)) or any(tag in piece for tag in (THINK, END_THINK) for piece in pieces):
        return 0.0
    return float(_matches(pattern, found["answer"]) and (not boxed or _is_boxed(found["answer"])))


def length(
    transcript: Transcript,
    free_tokens: int | None = None,
    max_tokens: int | None = None,
    free_words: int | None = None,
    max_words: int | None = None,
    part: Part = "all",
) -> float:
    """1.0 up to the free length, 0.0 from the maximum on, a straight line between; 0.0 for what a limit cut off.

    Either in tokens, of all that was sampled, or in words, of all, the reasoning or the answer alone. Twelve letters count
    as a word at least.

    Raises:
        NoScoreError: not exactly one pair is given, or it is no allowance, or tokens are asked for and were not counted.

    >>> length(Transcript.of("A short answer.", num_tokens=150), free_tokens=100, max_tokens=200)
    0.5
    """
    in_tokens, in_words = (free_tokens, max_tokens), (free_words, max_words)
    (free, most), other = (in_tokens, in_words) if in_words == (None, None) else (in_words, in_tokens)
    if free is None or most is None or other != (None, None):
        raise NoScoreError("needs the options free_tokens and max_tokens, or free_words and max_words, and not both pairs")
    if not 0 <= free < most:
        raise NoScoreError(f"has a free length of {free} and a maximum of {most}; 0 <= free < maximum is expected")
    if in_words == (None, None) and part != "all":
        raise NoScoreError(f"cannot count the tokens of the {part} alone; use free_words and max_words")
    if not has_word(transcript.content) or transcript.is_cut:
        return 0.0
    size = _num_words(_text(transcript, part)) if in_words != (None, None) else transcript.num_tokens
    if not size and part == "all":
        raise NoScoreError("has no number of tokens, which a transcript made from text lacks; use free_words and max_words")
    return min(1.0, max(0.0, (most - size) / (most - free)))


def repetition(transcript: Transcript, n: int = 4, free: float = 0.0, part: Part = "all") -> float:
    """1.0 less the share of n-grams of words that were there before; words in any case, endless ones in pieces.

    Args:
        n: words in a row that count as repeated.
        free: the share that costs nothing; what is above it costs in proportion, so that 1.0 costs all.

    Raises:
        NoScoreError: `n` is below 1, or `free` is outside [0, 1).

    >>> repetition(Transcript.of("to be or not to be or not"), n=2)
    0.5714285714285714
    """
    if n < 1 or not 0 <= free < 1:
        raise NoScoreError(f"has n {n} and free {free}; n of 1 or more and 0 <= free < 1 are expected")
    text = _text(transcript, part)
    if not has_word(text):
        return 0.0
    tokens = _tokens(text)
    grams = [tuple(tokens[at : at + n]) for at in range(len(tokens) - n + 1)]
    repeated = 1 - len(set(grams)) / len(grams) if grams else 0.0
    return 1.0 - max(0.0, repeated - free) / (1 - free)


def language(task: Task, transcript: Transcript, language: str = "prompt", part: Part = "reasoning") -> float | None:
    """The share of the words, of the reasoning or another part, that are in the language; code, formulas and addresses aside.

    DeepSeek-R1's language-consistency reward (arXiv 2501.12948, section 2.3.2). `rewards.language.share` says what is
    counted. None where the part has no words, or the language is the prompt's and that cannot be told.

    Args:
        language: a code of ISO 639-1, or "prompt" for the language of the last user message.

    Raises:
        NoScoreError: the language is not known.
    """
    wanted = detect(_FOREIGN.sub(" ", task.prompt)) if language == "prompt" else language
    if wanted is None:
        return None
    try:
        return share(_FOREIGN.sub(" ", _text(transcript, part)), wanted)
    except UnknownLanguageError as error:
        raise NoScoreError(f"cannot judge the language: {error}") from error


def _last_turn(transcript: Transcript) -> str:
    """The text of the last turn as it was sampled."""
    if len(transcript.messages) < 2:
        return transcript.completion
    last = transcript.messages[-1]
    return last.content if last.reasoning is None else f"{THINK}{last.reasoning}{END_THINK}{last.content}"


def _text(transcript: Transcript, part: Part) -> str:
    """The part of all turns that the model wrote."""
    if part not in get_args(Part):
        raise NoScoreError(f"has the part {part!r}; {', '.join(get_args(Part))} are possible")
    turns = [message for message in transcript.messages if message.role is Role.ASSISTANT]
    if part == "answer":
        return transcript.content
    thoughts = [message.reasoning for message in turns if message.reasoning]
    return "\n".join(thoughts if part == "reasoning" else [*thoughts, *(message.content for message in turns)])


def _num_words(text: str) -> int:
    return max(len(words(text)), sum(map(str.isalnum, text)) // _ONE_WORD)


def _tokens(text: str) -> list[str]:
    """The words in lowercase; those without end in pieces, and rows of punctuation without end sign by sign."""
    tokens: list[str] = []
    for word in words(text.casefold()):
        size = _PIECE if len(word) > _LONG_WORD else _LONG_WORD
        tokens += [word[at : at + size] for at in range(0, len(word), size)]
    for row in _LONG_ROW.findall(text):
        tokens += row.replace(" ", "")
    return tokens


def _matches(pattern: str, text: str) -> bool:
    try:
        return re.search(pattern, text, re.DOTALL) is not None
    except re.error as error:
        raise NoScoreError(f"has the pattern {pattern!r}, which is no regular expression: {error}") from error


def _is_boxed(text: str) -> bool:
    at = text.find("\\boxed{")
    end = closing_brace(text, at + len("\\boxed")) if at >= 0 else None
    return end is not None and has_word(text[at + len("\\boxed{") : end]) and text.count("\\boxed") == 1
