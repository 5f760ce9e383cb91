"""What a reward function asks for, by the names of its parameters. `rewards.plugin` reads them when it builds a function.

Known names (`KNOWN`) come first, then the recipe's `options`, then the task's data columns; what has a default and is none of
these keeps it, and a function's own `**kwargs` get nothing.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from rewards.errors import NoScoreError, UserError
from rewards.task import Task

TEXTS = ("task", "transcript", "completion", "answer", "prompt")
BOXES = ("box", "boxes")
KNOWN = (*TEXTS, *BOXES)
ALLOWED = f"a reward asks by name for any of {', '.join(KNOWN)}, a column of the data, or one of its options"


class Kind(StrEnum):
    """How a function is called."""

    PLAIN = "plain"  # for one completion after another
    ASYNC = "async"  # for many completions at once, in one process


@dataclass(frozen=True)
class Signature:
    """What one function asks for."""

    kind: Kind
    known: tuple[str, ...]  # of KNOWN
    columns: tuple[str, ...] = ()  # of the data; without them the task cannot be scored
    optional: tuple[str, ...] = ()  # columns for which the function has a default
    options: Mapping[str, Any] = field(default_factory=dict)  # of the recipe, by parameter

    def arguments(self, task: Task, offered: Mapping[str, object]) -> dict[str, object]:
        """What the function is called with. `offered` has a value for each of `known`.

        Raises:
            NoScoreError: the task lacks a column.
        """
        for name in self.columns:
            if name not in task.data:
                has = ", ".join(sorted(task.data)) or "none"
                raise NoScoreError(
                    f"asks for {name!r}, and the task has no such column; it has {has}{nearest(name, (*KNOWN, *task.data))}"
                )
        columns = {name: task.data[name] for name in (*self.columns, *self.optional) if name in task.data}
        return {**{name: offered[name] for name in self.known}, **columns, **self.options}


def read_signature(function: Callable[..., object], use: str, options: Mapping[str, Any]) -> Signature:
    """The signature of a reward function.

    Raises:
        UserError: it cannot be called as a reward, or an option is none of its parameters.
    """
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except ValueError as error:
        raise UserError(f"reward {use!r}: its parameters cannot be read; write a plain `def`") from error
    kind = Kind.ASYNC if inspect.iscoroutinefunction(function) else Kind.PLAIN
    named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    for parameter in named:
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise UserError(f"reward {use!r}: parameter {parameter.name!r} is positional-only; {ALLOWED}")
    _check_options(use, options, [p.name for p in named])
    free = [p for p in named if p.name not in options and p.name not in KNOWN]
    known = tuple(p.name for p in named if p.name in KNOWN)
    if "boxes" in known and kind is Kind.PLAIN:
        raise UserError(f"reward {use!r}: asks for boxes, which are for `async def`; a plain `def` asks for box")
    return Signature(
        kind,
        known,
        tuple(p.name for p in free if p.default is p.empty),
        tuple(p.name for p in free if p.default is not p.empty),
        dict(options),
    )


def check_columns(use: str, signature: Signature, tasks: Iterable[Task]) -> None:
    """Whether every task has what the function cannot do without.

    Raises:
        UserError: a column that no task has, or that some lack.
    """
    for name in signature.columns:
        lacking, num, present = list[str](), 0, dict[str, None]()
        for task in tasks:
            num += 1
            present |= dict.fromkeys(task.data)
            if name not in task.data:
                lacking.append(task.id)
        if not lacking:
            continue
        if len(lacking) == num:
            columns = ", ".join(present) or "none"
            hint = nearest(name, (*KNOWN, *present))
            raise UserError(
                f"reward {use!r}: asks for {name!r}, which is no column of the data; its columns: {columns}{hint}; {ALLOWED}"
            )
        raise UserError(
            f"reward {use!r}: asks for column {name!r}, which {len(lacking)} of {num} tasks lack, such as {lacking[0]!r}; give "
            f"the parameter a default ({name}=None) and return None where the reward does not apply"
        )


def nearest(name: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _check_options(use: str, options: Mapping[str, Any], names: Collection[str]) -> None:
    for name in options:
        if name in KNOWN:
            raise UserError(f"reward {use!r}: options.{name}: {name} is what any reward may ask for; use another name")
        if name not in names:
            allowed = ", ".join(n for n in names if n not in KNOWN) or "none; the function has no such parameter"
            raise UserError(
                f"reward {use!r}: options.{name}: the function has no parameter {name!r}{nearest(name, names)}; "
                f"allowed: {allowed}"
            )
