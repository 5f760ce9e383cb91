"""Conversations and tools in OpenAI's shape, as data sets and requests hold them, read into our values.

Arguments may be JSON text or a mapping, content a text or a list of texts, reasoning stand under either of its names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rewards.errors import UserError
from rewards.parameters import nearest
from rewards.task import Message, Role, ToolCall, ToolSpec
from rl.formats.reading import is_name
from rl.formats.strict_json import dump, read_json

ROLES = {role.value: role for role in Role} | {"developer": Role.SYSTEM}
REASONING = ("reasoning_content", "reasoning")
FIELDS = ("role", "content", *REASONING, "tool_calls", "tool_call_id")
OWNERS = dict.fromkeys((*REASONING, "tool_calls"), Role.ASSISTANT) | {"tool_call_id": Role.TOOL}
UNREAD = ("name", "refusal", "annotations", "audio", "weight")  # that others put there and no format shows
NOT_AN_OBJECT = "arguments"  # the parameter that takes arguments which are no JSON object, as a text


def read_messages(data: object, where: str = "messages") -> list[Message]:
    """The conversation in a list of dictionaries.

    >>> read_messages([{"role": "user", "content": "2+3"}])[0].content
    '2+3'

    Raises:
        UserError: names the message, the field, what was there, and what is allowed.
    """
    messages: list[Message] = []
    calls: tuple[ToolCall, ...] = ()
    for i, item in enumerate(_list(data, where)):
        message = _message(_mapping(item, f"{where}[{i}]"), f"{where}[{i}]")
        if message.role is Role.ASSISTANT:
            calls = message.tool_calls
        ids = [call.id for call in calls if call.id]
        if message.tool_call_id and ids and message.tool_call_id not in ids:
            raise _mistake(
                f"{where}[{i}].tool_call_id", message.tool_call_id, "an id of the calls before it: " + ", ".join(ids)
            )
        messages.append(message)
    return messages


def read_tools(data: object, where: str = "tools") -> list[ToolSpec]:
    """Tools from a list of `{"type": "function", "function": {"name": ..., "description": ..., "parameters": ...}}`.

    Raises:
        UserError: names the tool and the field.
    """
    tools: list[ToolSpec] = []
    for i, item in enumerate(_list(data, where)):
        place, tool = _function(item, f"{where}[{i}]")
        parameters = tool.get("parameters")
        parameters = (
            {"type": "object", "properties": {}} if parameters is None else _json_object(parameters, f"{place}.parameters")
        )
        name = _name(tool.get("name"), f"{place}.name")
        if name in [known.name for known in tools]:
            raise _mistake(f"{place}.name", name, "a name that no tool before it has")
        tools.append(ToolSpec(name, _text(tool.get("description", ""), f"{place}.description"), parameters))
    return tools


def _message(data: Mapping[str, Any], where: str) -> Message:
    given = {key: value for key, value in data.items() if value is not None and key not in UNREAD}
    for key in given:
        if key not in FIELDS:
            raise UserError(f"{where}: got the field {key!r}{nearest(str(key), FIELDS)}; allowed: {', '.join(FIELDS)}")
    role = ROLES.get(given["role"]) if isinstance(given.get("role"), str) else None
    if role is None:
        raise _mistake(f"{where}.role", given.get("role"), ", ".join(ROLES))
    for field, owner in OWNERS.items():
        if field in given and role is not owner:
            raise _mistake(f"{where}.{field}", given[field], f"nothing, for it belongs to messages of the role {owner}")
    if "content" not in given and role in (Role.SYSTEM, Role.USER):
        raise _mistake(f"{where}.content", None, "a text, or a list of texts")
    return Message(
        role,
        _content(given.get("content", ""), f"{where}.content"),
        _reasoning(given, where),
        tuple(
            _call(item, f"{where}.tool_calls[{i}]")
            for i, item in enumerate(_list(given.get("tool_calls", []), f"{where}.tool_calls"))
        ),
        _text(given.get("tool_call_id", ""), f"{where}.tool_call_id"),
    )


def _content(data: object, where: str) -> str:
    if not isinstance(data, list):
        return _text(data, where)
    texts = []
    for i, block in enumerate(data):
        if isinstance(block, Mapping):
            if block.get("type", "text") != "text":
                raise _mistake(f"{where}[{i}].type", block["type"], "text")
            texts.append(_text(block.get("text"), f"{where}[{i}].text"))
        else:
            texts.append(_text(block, f"{where}[{i}]"))
    return "\n\n".join(texts)


def _reasoning(data: Mapping[str, Any], where: str) -> str | None:
    given = [_text(data[field], f"{where}.{field}") for field in REASONING if field in data]
    if len(set(given)) > 1:
        raise _mistake(f"{where}.{REASONING[1]}", given[1], f"one of {' and '.join(REASONING)}, or the same text in both")
    return given[0] if given else None


def _call(data: object, where: str) -> ToolCall:
    call = _mapping(data, where)
    place, function = _function(call, where)
    if call.get("type", "function") != "function":
        raise _mistake(f"{where}.type", call["type"], "function")
    identity = _text(call.get("id") or "", f"{where}.id")
    name, arguments = _name(function.get("name"), f"{place}.name"), function.get("arguments")
    if isinstance(arguments, str):
        read = read_json(_text(arguments, f"{place}.arguments"))
        is_object = not read.problem and isinstance(read.value, dict)
        return ToolCall(name, read.value if is_object else {NOT_AN_OBJECT: arguments}, identity)
    if not isinstance(arguments, Mapping):
        raise _mistake(f"{place}.arguments", arguments, "a mapping, or JSON text of one")
    return ToolCall(name, _json_object(arguments, f"{place}.arguments"), identity)


def _function(data: object, where: str) -> tuple[str, Mapping[str, Any]]:
    """What is under the key "function", or the mapping itself where there is none; with its place."""
    outer = _mapping(data, where)
    return (f"{where}.function", _mapping(outer["function"], f"{where}.function")) if "function" in outer else (where, outer)


def _json_object(data: object, where: str) -> dict[str, Any]:
    """A mapping whose values are what JSON can hold, as plain ones."""
    given = _mapping(data, where)
    if not all(isinstance(key, str) for key in given):
        raise _mistake(where, given, "names that are texts")
    try:
        read = read_json(dump(dict(given)))
    except (TypeError, ValueError, RecursionError) as error:
        raise _mistake(where, given, f"JSON values ({error})") from error
    if read.problem:
        raise _mistake(where, given, f"JSON values ({read.problem})")
    value: dict[str, Any] = read.value
    return value


def _name(data: object, where: str) -> str:
    name = _text(data, where)
    if not is_name(name):
        raise _mistake(where, data, 'a name without ", <, > and line breaks')
    return name


def _text(data: object, where: str) -> str:
    if not isinstance(data, str):
        raise _mistake(where, data, "a text")
    try:
        data.encode()
    except UnicodeEncodeError as error:
        raise _mistake(where, data[error.start : error.end], "text without halves of characters (lone surrogates)") from error
    return data


def _list(data: object, where: str) -> list[Any]:
    if not isinstance(data, list | tuple):
        raise _mistake(where, data, "a list")
    return list(data)


def _mapping(data: object, where: str) -> Mapping[str, Any]:
    if not isinstance(data, Mapping):
        raise _mistake(where, data, "a mapping")
    return data


def _mistake(where: str, got: object, allowed: str) -> UserError:
    shown = "nothing" if got is None else repr(got)
    return UserError(f"{where}: got {shown if len(shown) <= 80 else shown[:77] + '...'}; allowed: {allowed}")
