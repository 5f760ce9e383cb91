"""Errands in a box's folder, with careful and sloppy demonstrations: the task source of the agent recipe.

`shop`: look prices up, add them, write the sum down. `hop`: follow notes from file to file to a code. `edit`: find the file
that has a word, and change it there. Nobody can know what lies there without the tools. What an errand came to is checked on
the box's files; the answer in words is free. A careful demonstration looks, thinks about what it saw, and looks on. A sloppy
one guesses, or stops half-way.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rewards.box_state import WORK
from rewards.task import Demonstration, Message, Role, Task, ToolCall
from rl.tools.output import NOTHING
from specialists.example import Example

KINDS = ("shop", "hop", "edit")
GOODS = ("plum", "fig", "pear", "lime", "kiwi", "leek", "bean", "corn", "rice", "salt", "milk", "tea")
PLACES = ("red", "blue", "pink", "gold", "grey", "teal", "navy", "rose")
FILES = ("a", "b", "c", "d", "e", "f")
SHELL, CALCULATOR = "shell", "calculator"


@dataclass(frozen=True)
class Step:
    """A turn that calls tools: what is thought before, the calls, and what each comes to."""

    thought: str
    calls: tuple[ToolCall, ...]
    results: tuple[str, ...]


@dataclass(frozen=True)
class Errand:
    """What is asked, what lies in the folder, what must be there in the end, and how it is done, well and badly."""

    kind: str
    prompt: str
    files: Mapping[str, str]  # by name, before
    after: Mapping[str, str]  # by name: the whole text of the files that are looked at in the end
    careful: tuple[Step, ...]
    sloppy: tuple[Step, ...]
    answer: str
    guess: str  # what a sloppy one says
    data: Mapping[str, Any] = field(default_factory=dict)


def generate(rng: random.Random, *, kinds: Sequence[str] = KINDS, hops: Sequence[int] = (2, 3)) -> Example:
    """Draw one errand; `hops` are the lengths of chains of notes. The kind of a chain names its length.

    >>> example = generate(random.Random(0), kinds=["hop"], hops=[3])
    >>> example.task.kind, [d.style for d in example.demonstrations]
    ('hop3', ['careful', 'sloppy'])

    Raises:
        ValueError: an unknown kind, or a chain that the places do not suffice for.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise ValueError(f"kinds: got {kind!r}; allowed: {', '.join(KINDS)}")
    for length in hops:
        if not 1 <= length < len(PLACES):
            raise ValueError(f"hops: got {length!r}; allowed: 1 to {len(PLACES) - 1}")
    makers: Mapping[str, Callable[[], Errand]] = {
        "shop": lambda: _shop(rng),
        "hop": lambda: _hop(rng, rng.choice(list(hops))),
        "edit": lambda: _edit(rng),
    }
    errand = makers[rng.choice(list(kinds))]()
    checks = [{"file": f"{WORK}/{name}", "equals": text} for name, text in errand.after.items()]
    task = Task(
        id=f"{errand.kind}/{rng.getrandbits(48):012x}",
        domain="agent",
        messages=(Message(Role.USER, errand.prompt),),
        answer=errand.answer,
        kind=errand.kind,
        data={"files": {f"{WORK}/{name}": text for name, text in errand.files.items()}, "checks": checks},
        problem=f"{errand.prompt}\n{sorted(errand.files.items())}",
    )
    return Example(
        task,
        (
            _demonstration(task, "careful", errand.careful, "done" if errand.kind == "edit" else errand.answer),
            _demonstration(task, "sloppy", errand.sloppy, errand.guess),
        ),
    )


def _demonstration(task: Task, style: str, steps: Sequence[Step], answer: str) -> Demonstration:
    before = list[Message]()
    for step in steps:
        before.append(Message(Role.ASSISTANT, "", step.thought, step.calls))
        before += [Message(Role.TOOL, text) for text in step.results]
    thought = "done" if steps else "easy"
    return Demonstration(task, Message(Role.ASSISTANT, answer, thought), style, tuple(before))


def _run(command: str) -> ToolCall:
    return ToolCall(SHELL, {"command": command})


def _write(text: str, name: str) -> Step:
    return Step(f"write {text}", (_run(f"echo {text} > {name}"),), (NOTHING,))


def _shop(rng: random.Random) -> Errand:
    goods = rng.sample(GOODS, 5)
    prices = {name: rng.randint(2, 60) for name in goods}
    first, second = rng.sample(goods, 2)
    total = prices[first] + prices[second]

    def look(*names: str) -> Step:
        calls = tuple(_run(f"grep {name} prices") for name in names)
        return Step(f"look up {' and '.join(names)}", calls, tuple(f"{n} {prices[n]}\n" for n in names))

    a, b = prices[first], prices[second]
    add = Step(f"add {a} and {b}", (ToolCall(CALCULATOR, {"expression": f"{a}+{b}"}),), (str(total),))
    guess = str(rng.randint(4, 120))
    sloppy: tuple[Step, ...] = rng.choice([(), (_write(guess, "total"),), (look(first), _write(str(a), "total"))])
    return Errand(
        kind="shop",
        prompt=f"What do {first} and {second} cost? Write it to total.",
        files={"prices": "".join(f"{name} {price}\n" for name, price in prices.items())},
        after={"total": f"{total}\n"},
        careful=(look(first, second), add, _write(str(total), "total")),
        sloppy=sloppy,
        answer=str(total),
        guess=str(a) if len(sloppy) == 2 else guess,
    )


def _hop(rng: random.Random, length: int) -> Errand:
    path = rng.sample(PLACES, length)
    code = str(rng.randint(10, 99))
    notes = dict(zip(path, [*(f"go to {name}\n" for name in path[1:]), f"code {code}\n"], strict=True))
    others = [name for name in PLACES if name not in path]
    for name in rng.sample(others, min(2, len(others))):
        notes[name] = rng.choice([f"go to {rng.choice(path)}\n", f"code {rng.randint(10, 99)}\n"])

    def read(name: str) -> Step:
        return Step(f"read {name}", (_run(f"cat {name}"),), (notes[name],))

    guess = str(rng.randint(10, 99))
    sloppy = rng.choice([(), (_write(guess, "code"),), (read(path[0]), _write(guess, "code"))])
    return Errand(
        kind=f"hop{length}",
        prompt=f"Follow the notes from {path[0]}. Write the code to code.",
        files={name: notes[name] for name in sorted(notes)},
        after={"code": f"{code}\n"},
        careful=(*(read(name) for name in path), _write(code, "code")),
        sloppy=sloppy,
        answer=code,
        guess=guess,
    )


def _edit(rng: random.Random) -> Errand:
    names = FILES[: rng.randint(3, len(FILES))]
    old, new, *rest = rng.sample(GOODS, len(GOODS))
    at = rng.choice(names)
    files = {name: f"{rng.choice(rest)}\n{rng.choice(rest)}\n" for name in names}
    files[at] = f"{rng.choice(rest)}\n{old}\n" if rng.random() < 0.5 else f"{old}\n{rng.choice(rest)}\n"

    def change(name: str) -> Step:
        return Step(f"change it in {name}", (_run(f"sed -i s/{old}/{new}/ {name}"),), (NOTHING,))

    find = Step(f"find {old}", (_run(f"grep -l {old} *"),), (f"{at}\n",))
    return Errand(
        kind="edit",
        prompt=f"One file has {old}. Make it {new}.",
        files=files,
        after={name: text.replace(old, new) for name, text in files.items()},
        careful=(find, change(at)),
        sloppy=rng.choice([(), (change(rng.choice(names)),)]),
        answer="done",
        guess="done",
    )
