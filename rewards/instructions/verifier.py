"""The reward for tasks whose instructions can be checked: whether the visible answer follows them all, or the share of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rewards.instructions.checks import check
from rewards.math import visible_part
from rewards.task import Task
from rewards.text import has_word, normal, words

_COPYING = (
    "copy:",
    "repeat:",
    "new:copy_span_idx",
    "ratio:overlap",
)  # instructions of instructions that want the prompt, or a part of it, back
_MIN_ECHO = 5  # words; a shorter part of a prompt may well be the answer that it asks for


def verify(task: Task, completion: str, strict: bool = True, partial: bool = False) -> float:
    """1.0 where the answer follows every instruction of the task, else 0.0; with `partial` the share that it follows.

    `task.data` holds the columns of the published data sets: `instruction_id_list`, and `kwargs` with one mapping (or None)
    for each id. What follows the last `</think>` is judged. An answer without a word, one inside thinking that never ends,
    and one that is nothing but the prompt follow no instruction.

    `strict=False` is the published loose variant: an instruction is followed where the answer follows it as it is, or
    without its first line, its last line, or both, or any of these without asterisks.

    Raises:
        ValueError: the task lacks these columns, or `check` cannot judge an instruction.

    >>> task = Task("1", "instruct", (), data={"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]})
    >>> verify(task, "<think>Yes, well</think>No comma here."), verify(task, "<think>Yes</think>")
    (1.0, 0.0)
    """
    followed = followed_by(task, visible_part(completion) or "", strict)
    return sum(followed) / len(followed) if partial else float(all(followed))


def followed_by(task: Task, response: str, strict: bool = True) -> list[bool]:
    """For each instruction of the task, in order, whether the visible text `response` follows it."""
    instructions, kwargs = _columns(task)
    variants = [response] if strict else list(_variants(response))
    copies = any(name.startswith(_COPYING) for name in instructions)
    if not copies and _is_echo(response, task.prompt):
        variants = [""]  # judged all the same, so that a mistake in the task is never taken for a wrong answer
    pairs = list(zip(instructions, kwargs, strict=True))
    return [any(check(name, variant, arguments) for variant in variants) for name, arguments in pairs]


def _columns(task: Task) -> tuple[Sequence[str], Sequence[Mapping[str, Any] | None]]:
    instructions, kwargs = task.data.get("instruction_id_list"), task.data.get("kwargs")
    if not isinstance(instructions, list | tuple) or not instructions:
        raise ValueError(
            f"task {task.id!r}: instruction_id_list is {instructions!r:.200}; a list of instruction ids is expected"
        )
    if not isinstance(kwargs, list | tuple) or len(kwargs) != len(instructions):
        raise ValueError(f"task {task.id!r}: kwargs is {kwargs!r:.200}; a list of {len(instructions)} mappings is expected")
    return instructions, kwargs


def _variants(response: str) -> Iterator[str]:
    lines = response.split("\n")
    for part in (response, *("\n".join(cut).strip() for cut in (lines[1:], lines[:-1], lines[1:-1]))):
        yield part
        yield part.replace("*", "")


def _is_echo(response: str, prompt: str) -> bool:
    """Whether the response is the prompt, once or more, or at least half of it, and nothing else."""
    rest = normal(response).replace(normal(prompt), "") if prompt.strip() else response
    if has_word(response) and not has_word(rest):
        return True
    said, asked = words(response.casefold()), words(prompt.casefold())
    if len(said) < max(_MIN_ECHO, len(asked) / 2):
        return False
    return f" {' '.join(said)} " in f" {' '.join(asked)} "
