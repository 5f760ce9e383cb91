"""What an attack is, and what an attacker sees of a task; the attacks are in `programs/`, `texts.py` and `generic.py`."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from rewards.task import Task


class Family(StrEnum):
    """What an attack goes for."""

    EXIT = "exit codes and signals"
    EQUAL = "always-equal objects"
    SUBCLASS = "lying subclasses"
    FRAME = "frames and memory"
    ASSERT = "patched asserts"
    RUNNER = "test runners"
    SITE = "site files and shadowed modules"
    VERDICT = "forged verdicts"
    ANSWER = "forged protocol answers"
    FILE = "tests and reward files"
    BACKGROUND = "background processes"
    PROGRAM = "trojans and interpreters"
    FLOOD = "output floods"
    DUMP = "answer dumps"
    CODEC = "patched codecs"
    EXHAUSTION = "exhaustion and timeouts"
    PRETENCE = "values that pretend"
    TEXT = "fences and encodings"
    JUDGE = "words to a judge"
    EXAMPLE = "answers that are shown"
    CHANCE = "empty, constant and random answers"


class Form(StrEnum):
    """How a code task talks to a program."""

    CALLS = "calls"  # a function is called: cases, asserts, or HumanEval's check
    STDIN = "stdin"  # a program reads and prints


@dataclass(frozen=True)
class Attack:
    """A whole completion that tries to be rewarded without solving its task.

    >>> Attack(Family.EXIT, "exit at import", "```python\\nraise SystemExit\\n```").family
    <Family.EXIT: 'exit codes and signals'>
    """

    family: Family
    name: str  # unique in its family
    completion: str


@dataclass(frozen=True)
class Scene:
    """What is visible of a code task: no test and no expected output."""

    form: Form
    entry: str  # the function that will be called; unused where programs read and print
    prompt: str


@dataclass(frozen=True)
class Cheat:
    """A program in three pieces, for any code task.

    `top` runs when the program is loaded, `call` in each call of the entry point, which has `args` and `kwargs`; `value` is
    what is then returned. Of a program that reads and prints, `top` runs first, `args` is (its input,), and `value` is printed.
    """

    family: Family
    name: str
    top: str = ""
    call: str = ""
    value: str = "None"
    form: Form | None = None  # None: for both

    def program(self, scene: Scene) -> str:
        top, call = (textwrap.dedent(piece).strip("\n") for piece in (self.top, self.call))
        if scene.form is Form.STDIN:
            pieces = [top, "import sys\nargs, kwargs = (sys.stdin.read(),), {}", call, f"print({self.value})"]
        else:
            body = textwrap.indent(f"{call}\nreturn {self.value}".strip(), "    ")
            pieces = [f"def {scene.entry}(*args, **kwargs):\n{body}", top]
        return "\n\n".join(piece for piece in pieces if piece) + "\n"


def fenced(program: str) -> str:
    """A completion that consists of a program.

    >>> fenced("x = 1\\n")
    '```python\\nx = 1\\n```'
    """
    return f"```python\n{program.rstrip()}\n```"


def scene_of(task: Task) -> Scene | None:
    """What an attacker sees of a task; None where it is no code task."""
    data: Mapping[str, Any] = task.data
    if not any(key in data for key in ("tests", "asserts", "test")):
        return None
    prompt = "\n".join(part for part in (str(data.get("prompt", "")), task.prompt) if part)
    entry = data.get("entry_point")
    return Scene(Form.CALLS if entry else Form.STDIN, str(entry or ""), prompt)


def examples(scene: Scene) -> list[tuple[str, str]]:
    """Arguments and results, as source text, of the calls whose results the prompt shows.

    >>> examples(Scene(Form.CALLS, "f", "f(1, 2) == 3 and\\n>>> f(2, 2)\\n4"))
    [('1, 2', '3'), ('2, 2', '4')]
    """
    if not scene.entry:
        return re.findall(r"Input:?\s*\n(.+)\nOutput:?\s*\n(.+)", scene.prompt)
    pattern = rf"\b{re.escape(scene.entry)}\((.*)\)(?:\s*(?:==|->|=>|➞|returns?|gives?)\s*|\n\s*)(['\"\[({{]?[^\n]*?)(?: and)?$"
    return re.findall(pattern, scene.prompt, re.MULTILINE)
