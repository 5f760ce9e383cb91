"""What a reward function asks for, by the names of its parameters. `rewards.plugin` reads them when it builds a function.

Known names come first, then the recipe's `options`, then the task's data columns; what has a default and is none of these
keeps it. A function with a parameter `completions` or `completion_ids` takes a batch, as TRL calls rewards: every value is a
list with an entry a completion, and `**columns` get all columns. A function's `**kwargs` get nothing otherwise.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from rewards.errors import NoScoreError, UserError
from rewards.task import Task
from rewards.transcript import Transcript

TEXTS = ("task", "transcript", "completion", "answer", "prompt")
BOXES = ("box", "boxes")
KNOWN = (*TEXTS, *BOXES)
ALLOWED = f"a reward asks by name for any of {', '.join(KNOWN)}, a column of the data, or one of its options"

BATCH = ("completions", "completion_ids")  # a function that asks for one of them takes a batch
LOGS = ("log_extra", "log_metric")  # functions that TRL offers beside the lists
OF_BATCH = (*BATCH, "prompts", *LOGS, "task", "transcript", "answer", "boxes")
NOT_HERE = ("trainer_state", "environments")  # TRL has them; scoring knows nothing of the training

Item: TypeAlias = tuple[Task, Transcript]


@dataclass(frozen=True)
class Signature:
    """What one function asks for."""

    is_async: bool  # called for many completions at once, in one process
    takes_batch: bool  # called with all completions of a group
    known: tuple[str, ...]  # of KNOWN, or of OF_BATCH
    columns: tuple[str, ...] = ()  # of the data; without them the task cannot be scored
    optional: tuple[str, ...] = ()  # columns for which the function has a default
    options: Mapping[str, Any] = field(default_factory=dict)  # of the recipe, by parameter
    takes_rest: bool = False  # all other columns as well

    def arguments(self, items: Sequence[Item], offered: Mapping[str, object]) -> dict[str, object]:
        """What the function is called with for these items, one where it takes no batch. `offered`: boxes, logs.

        Raises:
            NoScoreError: a task lacks a column.
        """
        for task, _ in items:
            _check_columns(self.columns, task)
        if not self.takes_batch:
            ((task, transcript),) = items
            known = {**_texts(task, transcript), **offered}
            columns = {name: task.data[name] for name in (*self.columns, *self.optional) if name in task.data}
            return {**{name: known[name] for name in self.known}, **columns, **self.options}
        known = {**_lists(items), **offered}
        asked = {name: known[name] for name in self.known}
        present = set.intersection(*(set(task.data) for task, _ in items))
        names = [name for name in (*self.columns, *self.optional) if name in present]
        if self.takes_rest:
            named = {*self.known, *self.columns, *self.optional, *self.options, *OF_BATCH, "prompt", "completion"}
            names += sorted(present - named)
            asked = {**{name: known[name] for name in ("prompts", *BATCH, "answer", *LOGS)}, **asked}
        return {**{name: [task.data[name] for task, _ in items] for name in names}, **asked, **self.options}


def read_signature(function: Callable[..., object], use: str, options: Mapping[str, Any]) -> Signature:
    """The signature of a reward function.

    Raises:
        UserError: it cannot be called as a reward, or an option is none of its parameters.
    """
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except ValueError as error:
        raise UserError(f"reward {use!r}: its parameters cannot be read; write a plain `def`") from error
    is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)
    named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    names = [p.name for p in named]
    for parameter in named:
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise UserError(f"reward {use!r}: parameter {parameter.name!r} is positional-only; {ALLOWED}")
    takes_batch = not set(BATCH).isdisjoint(names)
    known = OF_BATCH if takes_batch else KNOWN
    _check_options(use, options, names, known)
    if "boxes" in names and not is_async:
        instead = "a function of one completion" if takes_batch else "a plain `def`"
        raise UserError(f"reward {use!r}: asks for boxes, which are for `async def`; {instead} asks for box")
    free = [p for p in named if p.name not in options and p.name not in known]
    for parameter in free if takes_batch else ():
        if parameter.default is parameter.empty and parameter.name in (*NOT_HERE, "box", "prompt", "completion"):
            allowed = f"{', '.join(OF_BATCH)}, and columns of the data"
            raise UserError(f"reward {use!r}: a batch reward has no {parameter.name!r}; it asks for any of {allowed}")
    columns = [p for p in free if not (takes_batch and p.name in NOT_HERE)]
    return Signature(
        is_async,
        takes_batch,
        tuple(p.name for p in named if p.name in known and p.name not in options),
        tuple(p.name for p in columns if p.default is p.empty),
        tuple(p.name for p in columns if p.default is not p.empty),
        dict(options),
        takes_batch and any(p.kind is p.VAR_KEYWORD for p in parameters),
    )


def missing_column(use: str, columns: Sequence[str], tasks: Iterable[Task]) -> str | None:
    """What is wrong where a function cannot do without these columns and not every task has them."""
    tasks = list(tasks)
    for name in columns:
        lacking = [task.id for task in tasks if name not in task.data]
        present = dict.fromkeys(key for task in tasks for key in task.data)
        if lacking and len(lacking) == len(tasks):
            has = ", ".join(present) or "none"
            hint = nearest(name, (*KNOWN, *present))
            return f"reward {use!r}: asks for {name!r}, which is no column of the data; its columns: {has}{hint}; {ALLOWED}"
        if lacking:
            return (
                f"reward {use!r}: asks for column {name!r}, which {len(lacking)} of {len(tasks)} tasks lack, such as "
                f"{lacking[0]!r}; give the parameter a default ({name}=None) and return None where the reward does not apply"
            )
    return None


def nearest(name: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _texts(task: Task, transcript: Transcript) -> dict[str, object]:
    return {
        "task": task,
        "transcript": transcript,
        "completion": transcript.completion,
        "answer": task.answer,
        "prompt": task.prompt,
    }


def _lists(items: Sequence[Item]) -> dict[str, object]:
    """What TRL passes: texts, or messages where the data holds conversations."""
    tasks = [task for task, _ in items]
    if all(task.is_conversation for task in tasks):
        prompts: list[Any] = [[message.as_dict() for message in task.messages] for task in tasks]
        completions: list[Any] = [[{"role": "assistant", "content": t.completion}] for _, t in items]
    else:
        prompts, completions = [task.prompt for task in tasks], [t.completion for _, t in items]
    return {
        "task": tasks,
        "transcript": [transcript for _, transcript in items],
        "answer": [task.answer for task in tasks],
        "prompts": prompts,
        "completions": completions,
        "completion_ids": [list(t.token_ids) for _, t in items],
    }


def _check_columns(columns: Sequence[str], task: Task) -> None:
    for name in columns:
        if name not in task.data:
            has = ", ".join(sorted(task.data)) or "none"
            hint = nearest(name, (*KNOWN, *task.data))
            raise NoScoreError(f"asks for {name!r}, and the task has no such column; it has {has}{hint}")


def _check_options(use: str, options: Mapping[str, Any], names: Collection[str], known: Collection[str]) -> None:
    for name in options:
        if name in known:
            raise UserError(f"reward {use!r}: options.{name}: {name} is what any reward may ask for; use another name")
        if name not in names:
            free = [n for n in names if n not in known]
            raise UserError(
                f"reward {use!r}: options.{name}: the function has no such parameter; "
                f"allowed: {', '.join(free) or 'none'}{nearest(name, free)}"
            )
