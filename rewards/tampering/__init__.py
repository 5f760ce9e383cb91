"""Completions that try to be rewarded without solving a task: `attacks(task)`. None of them may score.

They are made of what is visible of the task, and of a number for an answer with a digit more, so they can be run against any
task, as `polymath reward audit` does. A verifier that one of them fools would be fooled by a policy sooner or later. They are
dangerous where they run: only ever in a box.
"""

from __future__ import annotations

from collections.abc import Iterator

from rewards.tampering import generic, library, texts
from rewards.tampering.attack import Attack, Family, fenced, scene_of
from rewards.task import Task

__all__ = ["Attack", "Family", "attacks"]


def attacks(task: Task) -> Iterator[Attack]:
    """All that are meant for a task, the same ones each time: the battery for programs, or cheats in text.

    >>> task = Task("1", "code", (), data={"entry_point": "f", "tests": [{"args": [1], "expected": 2}]})
    >>> len({attack.family for attack in attacks(task)}) >= 12
    True
    """
    scene = scene_of(task)
    if scene is None:
        yield from generic.attacks(task)
        return
    for cheat in library.cheats():
        if cheat.form in (None, scene.form):
            yield Attack(cheat.family, cheat.name, fenced(cheat.program(scene)))
    yield from texts.attacks(scene)
    yield from texts.random_programs(scene, task.content_hash)
