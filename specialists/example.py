"""What a task generator gives: a task, and the demonstrations that exist of it. Task sources build it, cold starts read it."""

from __future__ import annotations

from dataclasses import dataclass

from rewards.task import Demonstration, Task


@dataclass(frozen=True)
class Example:
    """A task and the demonstrations that exist of it (none for a source that only knows the answer).

    >>> from rewards.task import Message, Role
    >>> task = Task("add/2+3", "math", (Message(Role.USER, "What is 2 + 3?"),), answer="5")
    >>> Example(task, (Demonstration(task, Message(Role.ASSISTANT, "5", "2+3=5")),)).demonstrations[0].style
    'careful'
    """

    task: Task
    demonstrations: tuple[Demonstration, ...] = ()
