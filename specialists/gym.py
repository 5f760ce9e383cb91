"""The reward for reasoning-gym tasks: each generator's own scorer, which knows its answer's format and partial credit."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from rewards.math import visible_part
from rewards.task import Task

# What some of the package's scorers raise for an answer that they cannot read, such as int("no idea").
UNREADABLE = (ArithmeticError, AttributeError, LookupError, SyntaxError, TypeError, ValueError)


def score(task: Task, completion: str) -> float:
    """Between 0 and 1, from the package's scorer of the task's generator, on the text after the thinking.

    An answer that the scorer cannot read is wrong; a scorer that fails on its own gold answer too is broken, and raises.
    """
    answer = visible_part(completion)
    if answer is None:
        return 0.0
    scorer, entry = _scorer(task.data["reasoning_gym"]), task.data["entry"]
    try:
        return float(scorer(answer=answer.strip(), entry=entry))
    except UNREADABLE:
        if task.answer is not None:
            scorer(answer=task.answer, entry=entry)
        return 0.0


@lru_cache
def _scorer(name: str) -> Any:
    import reasoning_gym

    return reasoning_gym.get_score_answer_fn(name)
