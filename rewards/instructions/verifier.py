"""The reward for tasks whose instructions can be checked: whether the visible answer follows them all, or the share of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rewards.instructions.checks import check
from rewards.instructions.errors import InstructionError
from rewards.math import visible_part
from rewards.task import Task
from rewards.text import has_word, words
from rewards.transcript import Transcript

_COPYING = (
    "copy:",
    "repeat:",
    "new:copy_span_idx",
    "ratio:overlap",
)  # these want it, or a part of it, back
_REPEATING = ("combination:repeat_prompt",)  # wants it back, and an answer after it
_MIN_PROMPT = 5  # words; a shorter prompt, or part of one, may well be in an answer of its own


def verify(
    task: Task, completion: str, transcript: Transcript | None = None, strict: bool = True, partial: bool = False
) -> float:
    """1.0 where the answer follows every instruction of the task, else 0.0; with `partial` the share that it follows.

    `task.data` holds the columns of the published data sets: `instruction_id_list`, and `kwargs` with one mapping (or None)
    for each id. What follows the last `</think>` is judged. No instruction is followed by an answer without a word, by one
    that a limit cut off, by one inside thinking that never ends, and by one that only gives the prompt back.

    `strict=False` is the published loose variant: an instruction is followed where the answer follows it as it is, or
    without its first line, its last line, or both, or any of these without asterisks.

    Raises:
        InstructionError: the task lacks these columns, or `check` cannot judge an instruction.

    >>> task = Task("1", "instruct", (), data={"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]})
    >>> verify(task, "<think>Yes, well</think>No comma here."), verify(task, "<think>Yes</think>")
    (1.0, 0.0)
    """
    is_cut = transcript is not None and transcript.is_cut
    response = "" if is_cut else (visible_part(completion) or "").strip("\n").rstrip()
    followed = followed_by(task, response, strict)
    return sum(followed) / len(followed) if partial else float(all(followed))


def followed_by(task: Task, response: str, strict: bool = True) -> list[bool]:
    """For each instruction of the task, in order, whether the visible text `response` follows it.

    Raises:
        InstructionError: see `verify`.
    """
    instructions, kwargs = _columns(task)
    copies = any(name.startswith(_COPYING) for name in instructions)
    own = response if copies else _without_prompt(response, task.prompt)
    if not has_word(own):
        response = own = ""  # judged all the same, so that a mistake in the task is never taken for a wrong answer
    return [
        any(check(name, variant, given) for variant in _variants(response if name in _REPEATING else own, strict))
        for name, given in zip(instructions, kwargs, strict=True)
    ]


def _columns(task: Task) -> tuple[Sequence[str], Sequence[Mapping[str, Any] | None]]:
    instructions, kwargs = task.data.get("instruction_id_list"), task.data.get("kwargs")
    if not isinstance(instructions, list | tuple) or not instructions:
        raise InstructionError(
            f"cannot judge task {task.id!r}: instruction_id_list is {instructions!r:.200}; a list of ids is expected"
        )
    if not isinstance(kwargs, list | tuple) or len(kwargs) != len(instructions):
        raise InstructionError(
            f"cannot judge task {task.id!r}: kwargs is {kwargs!r:.200}; a list of {len(instructions)} mappings is expected"
        )
    return instructions, kwargs


def _variants(response: str, strict: bool) -> Iterator[str]:
    yield response
    if not strict:
        yield response.replace("*", "")
        lines = response.split("\n")
        for part in ("\n".join(cut).strip() for cut in (lines[1:], lines[:-1], lines[1:-1])):
            yield part
            yield part.replace("*", "")


def _without_prompt(response: str, prompt: str) -> str:
    """The response without copies of the prompt; empty where it is but a larger part of the prompt. Case and marks aside."""
    asked = words(prompt)
    if len(asked) < _MIN_PROMPT:
        return response
    copies = re.compile(r"[\W_]+".join(map(re.escape, asked)), re.IGNORECASE)
    if not has_word(rest := copies.sub(" ", response)):
        return ""
    said = [word.casefold() for word in words(response)]
    part = f" {' '.join(said)} " in f" {' '.join(asked).casefold()} "
    return "" if part and len(said) >= max(_MIN_PROMPT, len(asked) / 2) else rest
