"""A process of users' functions: loads them, says what they ask for, and calls them. `rl/tools/functions.py` starts it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rewards import nursery, usercode
from rewards.errors import UserError
from rewards.task import Task
from rl.tools.signature import Signature, read_signature
from rl.tools.source import ToolSource


@dataclass(frozen=True)
class Invoke:
    """Asks for one call; the reply is its text, and whether that is an error."""

    place: int  # of the function, as they were loaded
    arguments: Mapping[str, Any]
    task: Task


@dataclass(frozen=True)
class Function:
    """A function that has been built."""

    call: Callable[..., Any]
    signature: Signature
    options: Mapping[str, Any]


def build(source: ToolSource) -> Function:
    """Runs the source's module and reads what its function asks for.

    Raises:
        UserError: it does not load, or cannot be a tool.
    """
    use = source.config.use or ""
    function, _ = usercode.load(f"tool {use!r}", use, source.text)
    return Function(function, read_signature(function, use, source.config.options), source.config.options)


def as_text(value: object) -> str:
    """What a function returned, for the model: texts as they are, all else as JSON.

    Raises:
        TypeError: it is no JSON.
    """
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)


def told(error: BaseException) -> str:
    """What a function raised, for the model.

    >>> told(ValueError("no such town"))
    'ValueError: no such town'
    """
    return f"{type(error).__name__}: {error}".rstrip(": ")


def serve(channel: int, life: int) -> None:
    """What the process runs."""
    nursery.serve(Served(), channel, life)


class Served:
    """The process's side."""

    def __init__(self) -> None:
        self._functions = list[Function]()

    def load(self, source: ToolSource) -> dict[str, Any] | str:
        try:
            self._functions.append(build(source))
        except UserError as error:
            return str(error)
        except BaseException as error:  # noqa: BLE001 - a KeyboardInterrupt of its own making: no terminal's comes here
            return f"tool {source.name!r}: {told(error)}"
        return asdict(self._functions[-1].signature)

    def answer(self, asked: object, fds: Sequence[int], send: Callable[[bytes], None]) -> None:
        assert isinstance(asked, Invoke)
        function = self._functions[asked.place]
        given = {"task": asked.task} if "task" in function.signature.given else {}
        try:
            text, is_error = as_text(function.call(**asked.arguments, **function.options, **given)), False
        except BaseException as error:  # noqa: BLE001 - whatever it raises is told
            text, is_error = told(error), True
        send(json.dumps([text, is_error]).encode())
