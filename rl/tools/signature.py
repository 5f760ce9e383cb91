"""What a model is told of a user's function: a JSON schema from its typed parameters, and their meaning from its docstring.

`task` and `box` are given by the rollout, `options` by the recipe: the model is told of neither.
"""

from __future__ import annotations

import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Union

from rewards.errors import UserError
from rewards.parameters import nearest
from rewards.task import ToolSpec

GIVEN = ("task", "box")
ALLOWED = "str, int, float, bool, list[...], dict[str, ...], Literal[...], a union of these, with None too"
_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", list: "array", dict: "object", type(None): "null"}
_ENTRY = re.compile(r"(\s*)(\w+)\s*(?:\([^)]*\))?\s*:\s*(.*)")
_OF_PARAMETERS = ("args:", "arguments:", "parameters:")
_OF_OTHERS = ("returns:", "return:", "yields:", "raises:", "example:", "examples:", "note:", "notes:")


@dataclass(frozen=True)
class Signature:
    spec: ToolSpec
    is_async: bool
    given: tuple[str, ...]  # of GIVEN


def read_signature(function: Callable[..., Any], use: str, options: Mapping[str, Any]) -> Signature:
    """The signature of a tool.

    Raises:
        UserError: a parameter has no type, or one that no JSON has; there is no docstring; an option is no parameter.
    """
    what, name = f"tool {use!r}", use.rpartition(":")[2]
    parameters = inspect.signature(function).parameters
    try:
        hints = typing.get_type_hints(function)
    except (NameError, TypeError) as error:
        raise UserError(f"{what}: the types of its parameters cannot be read: {error}") from error
    for key in options:
        free = [one for one in parameters if one not in GIVEN]
        if key not in free:
            raise UserError(
                f"{what}: options.{key}: the function has no such parameter; allowed: {', '.join(free)}{nearest(key, free)}"
            )
    is_async = inspect.iscoroutinefunction(function)
    if "box" in parameters and not is_async:
        raise UserError(f"{what}: asks for box, which is for `async def`; a plain `def` runs in a process of its own")
    shown = {key: parameter for key, parameter in parameters.items() if key not in (*GIVEN, *options)}
    description, meanings = read_docstring(inspect.getdoc(function) or "", shown)
    if not description:
        raise UserError(f"{what}: has no docstring; its first lines tell the model what it is for")
    properties, required = dict[str, Any](), list[str]()
    for key, parameter in shown.items():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise UserError(f"{what}: parameter {key!r}: write plain parameters, no *args, **kwargs or positional-only ones")
        if key not in hints:
            raise UserError(f"{what}: parameter {key!r} has no type; allowed: {ALLOWED}")
        properties[key] = schema_of(hints[key], f"{what}: parameter {key!r}")
        if key in meanings:
            properties[key]["description"] = meanings[key]
        if parameter.default is parameter.empty:
            required.append(key)
        elif parameter.default is not None and _is_json(parameter.default):
            properties[key]["default"] = parameter.default
    schema = {"type": "object", "properties": properties, "required": required}
    return Signature(ToolSpec(name, description, schema), is_async, tuple(one for one in GIVEN if one in parameters))


def schema_of(kind: Any, where: str) -> dict[str, Any]:
    """The JSON schema of a type.

    >>> schema_of(list[Literal["a", "b"]] | None, "")
    {'anyOf': [{'type': 'array', 'items': {'type': 'string', 'enum': ['a', 'b']}}, {'type': 'null'}]}

    Raises:
        UserError: it has none.
    """
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return {}
    if kind in _PLAIN:
        return {"type": _PLAIN[kind]}
    if origin is Literal:
        names = [_PLAIN.get(type(value)) for value in inner]
        return {**({"type": names[0]} if names[0] and len(set(names)) == 1 else {}), "enum": list(inner)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [schema_of(one, where) for one in inner]}
    if origin is list:
        return {"type": "array", "items": schema_of(inner[0], where)}
    if origin is dict and inner[0] is str:
        return {"type": "object", "additionalProperties": schema_of(inner[1], where) or True}
    raise UserError(f"{where}: got the type {getattr(kind, '__name__', kind)}; allowed: {ALLOWED}")


def read_docstring(text: str, parameters: Collection[str]) -> tuple[str, dict[str, str]]:
    """What the function is for, and what its parameters mean: lines `name: text`, below `Args:` or not.

    >>> read_docstring("Adds.\\n\\nArgs:\\n    a: one\\n        number\\n    b (int): another\\nReturns:\\n    It.", ("a", "b"))
    ('Adds.', {'a': 'one number', 'b': 'another'})
    """
    lines, meanings = list[str](), dict[str, str]()
    name, indent, is_left_out = "", 0, False
    for line in text.splitlines():
        entry, depth = _ENTRY.fullmatch(line), len(line) - len(line.lstrip())
        if name and line.strip() and depth > indent:
            meanings[name] = f"{meanings[name]} {line.strip()}".strip()
            continue
        name = ""
        if line.strip() and depth == 0:
            is_left_out = line.strip().lower() in _OF_OTHERS
        if entry is not None and entry[2] in parameters and not is_left_out:
            name, indent = entry[2], depth
            meanings[name] = entry[3].strip()
        elif not is_left_out and line.strip().lower() not in _OF_PARAMETERS:
            lines.append(line)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip(), meanings


def _is_json(value: object) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True
