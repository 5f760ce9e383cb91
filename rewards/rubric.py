"""Rubrics as data: criteria with ordered choices and weights, from a recipe or from a task's own data, and their score.

A verdict names one choice for each criterion. How a judge is asked is in `rewards/judge_prompt.py`, how it answers in
`rewards/verdict.py`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, TypeAlias

from rewards.errors import UserError

NAME = re.compile(r"[^\W_][\w -]*")  # of a criterion: letters, digits, spaces, '-' and '_'; a verdict is `name: choice`
DATA_KEY = "rubric"  # of `task.data`

Verdict: TypeAlias = Mapping[str, str]  # criterion: choice
Place: TypeAlias = tuple[str | int, ...]


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """One question that a judge answers by naming a choice. `choices` are in the order shown, each with its value."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    name: str
    text: str
    choices: Mapping[str, float] = field(default_factory=lambda: {"no": 0.0, "yes": 1.0})
    weight: float = 1.0  # among the criteria

    def share(self, choice: str) -> float:
        """The choice's value, scaled so that the lowest choice is 0 and the highest 1."""
        low, high = min(self.choices.values()), max(self.choices.values())
        return (self.choices[choice] - low) / (high - low)


@dataclass(frozen=True)
class Rubric:
    """Criteria, checked when it is made.

    >>> clear = Criterion(name="clear", text="Is it clear?", choices={"no": 0, "partly": 1, "yes": 2}, weight=3)
    >>> right = Criterion(name="right", text="Is it right?")
    >>> Rubric((clear, right)).score({"clear": "partly", "right": "yes"})
    0.625

    Raises:
        UserError: something in it cannot be judged; see `problems`.
    """

    criteria: tuple[Criterion, ...]

    def __post_init__(self) -> None:
        for place, problem in problems(self.criteria):
            raise UserError(f"rubric{''.join(f'.{part}' for part in place)}: {problem}")

    def score(self, verdict: Verdict) -> float:
        """The weighted mean of the chosen shares, in [0, 1]. `verdict` has a choice of each criterion."""
        total = sum(c.weight for c in self.criteria)
        return sum(c.weight * c.share(verdict[c.name]) for c in self.criteria) / total

    def reversed(self) -> Rubric:
        """The same criteria and choices in the opposite order; what is scored does not change, what is shown does."""
        turned = (
            Criterion(name=c.name, text=c.text, choices=dict(reversed(list(c.choices.items()))), weight=c.weight)
            for c in reversed(self.criteria)
        )
        return Rubric(tuple(turned))

    def as_data(self) -> list[dict[str, Any]]:
        """Plain JSON values, which `rubric_from` reads."""
        return [{"name": c.name, "text": c.text, "choices": dict(c.choices), "weight": c.weight} for c in self.criteria]


def problems(criteria: Sequence[Criterion]) -> Iterator[tuple[Place, str]]:
    """What is wrong with criteria, each with its place: (index, field)."""
    if not criteria:
        yield (), "got []; allowed: at least one criterion"
    seen = set[str]()
    for i, criterion in enumerate(criteria):
        name = criterion.name
        if not NAME.fullmatch(name) or name != name.strip():
            yield (i, "name"), f"got {name!r}; allowed: letters, digits, spaces, '-' and '_', since a verdict is `name: choice`"
        if name.casefold() in seen:
            yield (i, "name"), f"got {name!r} twice; allowed: a name of its own for each criterion"
        seen.add(name.casefold())
        if not criterion.text.strip():
            yield (i, "text"), "got no text; allowed: what the judge is to decide"
        if not math.isfinite(criterion.weight) or criterion.weight < 0:
            yield (i, "weight"), f"got {criterion.weight}; allowed: a number of at least 0"
        yield from (((i, "choices"), problem) for problem in _choice_problems(criterion.choices))
    if criteria and not any(c.weight > 0 for c in criteria):
        yield (), "all weights are 0; allowed: a criterion that counts"


def _choice_problems(choices: Mapping[str, float]) -> Iterator[str]:
    for choice in choices:
        if not choice or choice != choice.strip() or len(choice.splitlines()) != 1 or set("[]|") & set(choice):
            yield f"got {choice!r}; allowed: one line of text without '[', ']' and '|'"
    if len({choice.casefold() for choice in choices}) < len(choices):
        yield f"got {list(choices)}; allowed: choices that differ by more than capitals"
    if not all(math.isfinite(value) for value in choices.values()):
        yield f"got {dict(choices)}; allowed: finite values"
    elif len(set(choices.values())) < 2:
        yield f"got {dict(choices)}; allowed: at least two choices with different values"


def task_rubric(data: Mapping[str, Any], default: Rubric | None, task_id: str) -> Rubric:
    """The task's own rubric (`data["rubric"]`), else the recipe's.

    Raises:
        UserError: there is neither, or the task's own is wrong.
    """
    own = data.get(DATA_KEY)
    if own is not None:
        return rubric_from(own, f"task {task_id}")
    if default is None:
        raise UserError(f"task {task_id}: no rubric; write judge.rubric in the recipe, or give each task a {DATA_KEY!r}")
    return default


def rubric_from(value: object, where: str) -> Rubric:
    """A rubric from plain JSON values, or from their text: a list of criteria, as in a recipe.

    Data sets in columns know no mapping with free keys, so `choices` may also be a list of {"name": ..., "value": ...};
    a key without a value counts as absent.

    Raises:
        UserError: it is no rubric; `where` is named.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise UserError(f"{where}: rubric: got text that is not JSON: {error}") from None
    if not isinstance(value, list | tuple):
        raise UserError(f"{where}: rubric: got {value!r:.80}; allowed: a list of criteria")
    try:
        return Rubric(tuple(_criterion(one, i) for i, one in enumerate(value)))
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _criterion(value: object, index: int) -> Criterion:
    known = [f.name for f in fields(Criterion)]
    if not isinstance(value, Mapping):
        raise UserError(f"rubric.{index}: got {value!r:.80}; allowed: a mapping with {', '.join(known)}")
    given = {key: part for key, part in value.items() if part is not None}
    for key in given:
        if key not in known:
            raise UserError(f"rubric.{index}: unknown key {key!r}; allowed: {', '.join(known)}")
    for key in ("name", "text"):
        if not isinstance(given.get(key), str):
            raise UserError(f"rubric.{index}.{key}: got {given.get(key)!r:.80}; allowed: text")
    if not _is_number(given.get("weight", 1.0)):
        raise UserError(f"rubric.{index}.weight: got {given['weight']!r:.80}; allowed: a number")
    if "choices" in given:
        given["choices"] = _choices(given["choices"], index)
    return Criterion(**given)


def _choices(value: object, index: int) -> dict[str, float]:
    if isinstance(value, Mapping):
        pairs = [(name, number) for name, number in value.items() if number is not None]
    elif isinstance(value, list) and all(isinstance(one, Mapping) and set(one) == {"name", "value"} for one in value):
        pairs = [(one["name"], one["value"]) for one in value]
    else:
        pairs = [(None, None)]
    if not all(isinstance(name, str) and _is_number(number) for name, number in pairs):
        raise UserError(f"rubric.{index}.choices: got {value!r:.80}; allowed: a mapping of choices to numbers")
    return {name: float(number) for name, number in pairs}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
