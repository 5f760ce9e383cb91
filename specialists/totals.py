"""Sums of many numbers, with demonstrations for each effort: the task source of the effort recipe.

How long one thinks is a choice here: not at all (and guess), a running total (brief), or every addition written out and its
tens and ones taken apart (full), which is right more often and takes three times the tokens.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from rewards.task import Demonstration, Effort, EffortLevel, Message, Role, Task
from specialists.example import Example

STYLES = ("guess", "brief", "full")
NUMBERED = (Effort.NONE, Effort.HIGH, Effort.MAX)


def generate(rng: random.Random, *, terms: Sequence[int] = (2, 3, 4, 5), efforts: Sequence[str | int] = NUMBERED) -> Example:
    """Draw one sum of so many numbers below 100, with demonstrations of each style at each of the `efforts`.

    At effort none there is the guess alone.

    >>> example = generate(random.Random(0), terms=[3])
    >>> [(d.task.effort.value, d.style) for d in example.demonstrations][:3]
    [('none', 'guess'), ('high', 'guess'), ('high', 'brief')]

    Raises:
        ValueError: fewer than 2 terms, or an effort that there is not.
    """
    if any(count < 2 for count in terms) or not terms:
        raise ValueError(f"terms: got {list(terms)}; allowed: numbers from 2")
    levels: list[EffortLevel] = [level if isinstance(level, int) else Effort(level) for level in efforts]
    numbers = [rng.randint(2, 99) for _ in range(rng.choice(list(terms)))]
    question = "+".join(map(str, numbers))
    task = Task(
        id=f"sum/{question}",
        domain="math",
        messages=(Message(Role.USER, question),),
        answer=str(sum(numbers)),
        kind=f"{len(numbers)} terms",
        problem="+".join(map(str, sorted(numbers))),
    )
    shown = list[Demonstration]()
    for level in levels:
        for style in STYLES if level is not Effort.NONE else STYLES[:1]:
            shown.append(Demonstration(replace(task, effort=level), _answer(rng, numbers, style), style))
    return Example(task, tuple(shown))


def _answer(rng: random.Random, numbers: Sequence[int], style: str) -> Message:
    if style == "guess":
        about = sum(round(number, -1) for number in numbers)
        return Message(Role.ASSISTANT, str(about + rng.randint(-4, 4)), "")
    work, total = [], numbers[0]
    for number in numbers[1:]:
        work.append(str(total + number) if style == "brief" else _written_out(total, number))
        total += number
    return Message(Role.ASSISTANT, str(total), " ".join(work))


def _written_out(total: int, number: int) -> str:
    """68+57: `68+57: 8+7=15 60+50=110 =125`."""
    ones, tens = total % 10 + number % 10, total // 10 * 10 + number // 10 * 10
    return (
        f"{total}+{number}: {total % 10}+{number % 10}={ones} {total // 10 * 10}+{number // 10 * 10}={tens} ={total + number}"
    )
