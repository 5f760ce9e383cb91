"""The reward for reasoning-gym tasks: each generator's own scorer, which knows its answer's format and partial credit."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from rewards.math import visible_part
from rewards.task import Task


def score(task: Task, completion: str) -> float:
    """Between 0 and 1, from the package's scorer of the task's generator, on the text after the thinking."""
    answer = visible_part(completion)
    return (
        0.0 if answer is None else float(_scorer(task.data["reasoning_gym"])(answer=answer.strip(), entry=task.data["entry"]))
    )


@lru_cache
def _scorer(name: str) -> Any:
    import reasoning_gym

    return reasoning_gym.get_score_answer_fn(name)
