"""Programming tasks with planned and hasty demonstrations: a pipeline of list operations in words, to be written in Python.

A careful demonstration first plans, in the order of execution and with every number worked out; a sloppy one writes down what
it remembers. Programs are scored by running them (`rewards.code:verify`) on inputs chosen to tell every one-edit mutant apart.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rewards.task import Demonstration, Message, Role, Task
from specialists.example import Example
from specialists.pipelines import ENTRY_POINT, Operation, Program, choose_tests, draw, run, source


@dataclass(frozen=True)
class Wording:
    """A pipeline as a person asks for it, and the plan that this leads to."""

    text: str
    plan: str
    as_read: tuple[int, ...]  # its steps in the order in which the text names them


def generate(
    rng: random.Random, *, kinds: Sequence[str] = ("plain", "order", "number"), lengths: Sequence[int] = (2, 3, 4)
) -> Example:
    """Draw one task with a careful and a sloppy demonstration of it.

    `plain` names the steps in order, `order` in another, and in `number` one step's number follows from an example. The
    careful program is right; the sloppy one is right about one time in six. Raises ValueError on an unknown kind or length.

    >>> example = generate(random.Random(0), kinds=("order",))
    >>> [d.style for d in example.demonstrations]
    ['careful', 'sloppy']
    """
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown or not kinds:
        raise ValueError(f"kinds: got {list(kinds)}; name at least one of {', '.join(KINDS)}")
    if not lengths or not all(2 <= length <= 4 for length in lengths):
        raise ValueError(f"lengths: got {list(lengths)}; allowed: 2, 3, 4")
    kind, length = rng.choice(list(kinds)), rng.choice(list(lengths))
    while True:
        steps = draw(rng, length)
        program = tuple(step.expression for step in steps)
        wording = KINDS[kind](rng, steps)
        inputs = choose_tests(rng, program) if wording else None
        if wording and inputs:
            break
    task = Task(
        id=f"{kind}/{'; '.join(step.name for step in steps)}",
        domain="code",
        messages=(Message(Role.USER, rng.choice(REQUESTS).format(text=wording.text)),),
        answer=source(program),
        kind=kind,
        data={
            "entry_point": ENTRY_POINT,
            "tests": [{"args": [xs], "expected": run(program, xs)} for xs in inputs],
        },
        problem="; ".join(program),
    )
    careful = Message(Role.ASSISTANT, source(program), reasoning=wording.plan)
    return Example(task, (Demonstration(task, careful), Demonstration(task, _sloppy(rng, program, wording), style="sloppy")))


def _plain(rng: random.Random, steps: Sequence[Operation]) -> Wording:
    """`add 3 to each, then sort them up`."""
    return Wording(_in_order(rng, [rng.choice(step.phrases) for step in steps]), _plan(steps), tuple(range(len(steps))))


def _order(rng: random.Random, steps: Sequence[Operation]) -> Wording:
    """`sort them up, but before that add 3 to each`: the last step first."""
    phrases = [rng.choice(step.phrases) for step in steps]
    last = len(steps) - 1
    style = rng.randrange(3) if last > 1 else rng.randrange(2)
    if style == 0:
        text = f"{phrases[-1]}, but before that {_in_order(rng, phrases[:-1])}"
        return Wording(text, _plan(steps), (last, *range(last)))
    if style == 1:
        text = " after you ".join(reversed(phrases))
        return Wording(text, _plan(steps), tuple(reversed(range(last + 1))))
    text = f"at the end {phrases[-1]}, at the start {phrases[0]}, in between {_in_order(rng, phrases[1:-1])}"
    return Wording(text, _plan(steps), (last, 0, *range(1, last)))


def _number(rng: random.Random, steps: Sequence[Operation]) -> Wording | None:
    """`add the same to each so that 4 becomes 7, then sort them up`; None where no step can be shown so."""
    places = [i for i, step in enumerate(steps) if step.shown]
    if not places:
        return None
    place, small = rng.choice(places), rng.randint(1, 4)
    large = small + steps[place].numbers[0]
    a, b = (small, large) if steps[place].name.startswith("+") else (large, small)
    phrases = [rng.choice(step.phrases) for step in steps]
    phrases[place] = steps[place].shown.format(a=a, b=b)
    return Wording(_in_order(rng, phrases), f"{large}-{small}={large - small}; {_plan(steps)}", tuple(range(len(steps))))


def _in_order(rng: random.Random, phrases: Sequence[str]) -> str:
    if len(phrases) == 1:
        return phrases[0]
    return rng.choice((", then ", "; ", " and then ")).join(phrases)


def _plan(steps: Sequence[Operation]) -> str:
    return "; ".join(step.name for step in steps)


def _sloppy(rng: random.Random, program: Program, wording: Wording) -> Message:
    """A program written down without a plan: a step forgotten, or the steps as the text names them; sometimes it is right."""
    steps = list(program)
    if rng.random() >= 0.15:
        if wording.as_read != tuple(range(len(steps))) and rng.random() < 0.5:
            steps = [program[i] for i in wording.as_read]
        else:
            del steps[rng.randrange(len(steps))]
    reasoning = rng.choice(("",) * 6 + ("easy", "just write it"))
    return Message(Role.ASSISTANT, source(tuple(steps)), reasoning=reasoning)


KINDS: Mapping[str, Callable[[random.Random, Sequence[Operation]], Wording | None]] = {
    "plain": _plain,
    "order": _order,
    "number": _number,
}

REQUESTS = ("Write solve(xs): {text}.", "solve(xs) gets a list: {text}.", "Program solve(xs) to {text}.")
