"""The three kinds of problems, read from a task's data, and the program in a completion. Called by `rewards.code.reward`."""

from __future__ import annotations

import ast
import builtins
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from rewards.code.values import encode
from rewards.errors import UserError
from rewards.task import Task

FORMS = (
    'function calls: {"entry_point": ..., "tests": [{"args": [...], "expected": ...}]}; asserts: {"entry_point": ..., '
    '"asserts": ["assert ..."]}, or {"entry_point": ..., "prompt": ..., "test": "def check(candidate): ..."}; input and '
    'output: {"tests": [{"stdin": ..., "stdout": ...}]}'
)
_FENCE = re.compile(r"^[ \t]*```[ \t]*([A-Za-z0-9_+-]*)[^\n`]*\n(.*?)(?:^[ \t]*```[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
_PYTHON = ("python", "py", "python3")


@dataclass(frozen=True)
class CallTest:
    """One call: trees (`rewards.code.values`) of its arguments, and of what it is to return, or what it is to raise."""

    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...]
    expected: Any = None
    raises: str | None = None


@dataclass(frozen=True)
class Calls:
    entry_point: str
    tests: tuple[CallTest, ...]


@dataclass(frozen=True)
class Asserts:
    """Tests that are code. `setup` runs before them, beside them and not with the program; `prelude` before the program."""

    entry_point: str
    tests: tuple[str, ...]
    setup: str = ""
    prelude: str = ""
    call_check: bool = False  # the one test defines `check`, or `test_...` functions


@dataclass(frozen=True)
class Streams:
    tests: tuple[tuple[str, str], ...]  # what it reads, and what it is to print


Problem: TypeAlias = Calls | Asserts | Streams


def read_problem(task: Task) -> Problem:
    """The problem that a task's data describes.

    Raises:
        UserError: none, with the field, what it holds, and what is allowed.
    """
    data, where = task.data, f"task {task.id!r}: data"
    if "asserts" in data or "test" in data:
        return _read_asserts(data, where)
    tests = _from_json(data.get("tests"))
    if not isinstance(tests, list) or not tests or not all(isinstance(test, Mapping) for test in tests):
        raise UserError(f"{where}: no problem for a program: it has {', '.join(sorted(data)) or 'nothing'}; {FORMS}")
    if all("stdin" in test for test in tests):
        return Streams(tuple(_read_streams(test, f"{where}.tests[{i}]") for i, test in enumerate(tests)))
    return Calls(_entry_point(data, where), tuple(_read_call(test, f"{where}.tests[{i}]") for i, test in enumerate(tests)))


def _from_json(value: Any) -> Any:
    """Columns that hold values of several kinds are often kept as JSON text."""
    if isinstance(value, str):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _entry_point(data: Mapping[str, Any], where: str) -> str:
    name = data.get("entry_point")
    if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
        raise UserError(f"{where}.entry_point: got {name!r}; the name of a function, or Class.method")
    return name


def _read_asserts(data: Mapping[str, Any], where: str) -> Asserts:
    prelude, setup, is_check = (data.get(key) or "" for key in ("prompt", "setup", "test"))
    asserts = [is_check] if is_check else _from_json(data["asserts"])
    if not isinstance(asserts, list) or not asserts or not all(isinstance(text, str) for text in [*asserts, prelude, setup]):
        raise UserError(f"{where}: got {asserts!r:.100}; asserts is a list of texts, and test, prompt and setup are texts")
    prelude = prelude if is_check and _is_python(prelude) else ""  # else it is words
    for text in asserts:
        _check_python(text, where)
    if data.get("entry_point") is None and not is_check:
        data = {**data, "entry_point": _called(asserts[0])}  # some data sets name it nowhere else
    return Asserts(_entry_point(data, where), tuple(asserts), f"{prelude}\n{setup}", prelude, call_check=bool(is_check))


def _called(text: str) -> str | None:
    """The first function in a test's text that is none of Python's own.

    >>> _called("assert set(shared((3, 4), (4, 5))) == {4}")
    'shared'
    """
    calls = [node.func for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    names = [f for f in calls if isinstance(f, ast.Name) and not hasattr(builtins, f.id)]
    return min(names, key=lambda f: (f.lineno, f.col_offset)).id if names else None


def _is_python(text: str) -> bool:
    try:
        ast.parse(text)
    except (SyntaxError, ValueError):
        return False
    return True


def _check_python(text: str, where: str) -> None:
    try:
        ast.parse(text)
    except (SyntaxError, ValueError) as error:
        raise UserError(f"{where}: the test {text!r:.200} is no Python: {error}") from None


def _read_streams(test: Mapping[str, Any], where: str) -> tuple[str, str]:
    stdin, stdout = test["stdin"], test.get("stdout")
    if not isinstance(stdin, str) or not isinstance(stdout, str):
        raise UserError(f"{where}: got {dict(test)!r:.200}; stdin and stdout are texts")
    return stdin, stdout


def _read_call(test: Mapping[str, Any], where: str) -> CallTest:
    """`literal: true`: args, kwargs and expected are texts of Python literals, which can hold tuples and sets."""
    args, kwargs, expected = (test.get(key) for key in ("args", "kwargs", "expected"))
    try:
        if test.get("literal"):
            args, kwargs, expected = (ast.literal_eval(v) if isinstance(v, str) else v for v in (args, kwargs, expected))
        raises = test.get("raises")
        if "expected" not in test and not isinstance(raises, str):
            raise UserError(f"{where}: has {', '.join(sorted(test))}; a test has args, and expected or raises")
        if not isinstance(args, list | tuple) or not isinstance(kwargs or {}, Mapping):
            raise UserError(f"{where}: got args {args!r:.100} and kwargs {kwargs!r:.100}; a list and an object")
        named = tuple((str(name), encode(value)) for name, value in (kwargs or {}).items())
        return CallTest(tuple(map(encode, args)), named, encode(expected), raises)
    except (ValueError, SyntaxError) as error:
        raise UserError(f"{where}: got {dict(test)!r:.200}: {error}") from None


def program_of(completion: str) -> str:
    """The program in a completion: the last block that says it is Python, else the last block, else all of the visible text.

    >>> program_of("<think>hm</think>So:\\n```python\\nprint(1)\\n```\\nDone.")
    'print(1)\\n'
    """
    _, closed, visible = completion.rpartition("</think>")
    if not closed and completion.lstrip().startswith("<think>"):
        return ""
    blocks: list[tuple[str, str]] = _FENCE.findall(visible)
    marked = [text for language, text in blocks if language.lower() in _PYTHON]
    return (marked or [text for _, text in blocks] or [visible])[-1]


def defines(program: str, name: str) -> bool:
    """Whether a text defines a name at its top; if not, it goes on where a prompt ends."""
    first = re.escape(name.split(".")[0])
    return (
        re.search(rf"^(?:(?:async\s+)?def|class)\s+{first}\b|^{first}\s*(?::[^=\n]*)?=[^=]", program, re.MULTILINE) is not None
    )
