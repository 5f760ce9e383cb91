"""pydantic's complaints about a recipe in this project's words: `got VALUE; allowed: ...; did you mean NAME?`.

`recipes/load.py` calls `problems` and adds the file and the line.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import Any, get_args, get_type_hints

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from recipes.schema import Recipe
from recipes.tree import Key, did_you_mean, show

TEXT = "str"  # pydantic's name of a union's member that is text
TAGS = ("kind", "name")  # the fields that tell a union's members apart
ALLOWED = {
    "bool_type": "true or false",
    "dataclass_type": "a mapping (key: value)",
    "dict_type": "a mapping (key: value)",
    "float_type": "a number",
    "int_type": "a whole number",
    "string_type": "text",
    "tuple_type": "a list",
    "string_pattern_mismatch": "letters, digits, '.', '_' and '-', starting with a letter or digit",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
    "literal_error": "{expected}",
}


def problems(error: ValidationError) -> Iterator[tuple[Key, str]]:
    """Each problem with the key that it is about."""
    for details in error.errors(include_url=False):
        if not _is_of_another_member(details):
            yield from _problems(details)


def _problems(error: ErrorDetails) -> Iterator[tuple[Key, str]]:
    kind, context = error["type"], error.get("ctx", {})
    key, classes = _resolve(error["loc"])
    if kind == "recipe":
        yield from context["problems"]
    elif kind in ("extra_forbidden", "unexpected_keyword_argument"):
        known = _fields(_resolve(error["loc"][:-1])[1])
        yield key, f"unknown key; allowed: {', '.join(known)}{did_you_mean(key[-1], known)}"
    elif kind == "missing" and isinstance(key[-1], str):
        yield key, "missing; write it here, or in a recipe that this one extends"
    elif kind == "missing":  # from a list of fixed length
        yield key[:-1], f"got {show(error['input'])}; allowed: a longer list"
    elif kind == "union_tag_not_found":
        tag = context["discriminator"].strip("'")
        yield (*key, tag), f"missing; allowed: {', '.join(repr(value) for c in classes for value in _tags(c, tag))}"
    elif kind == "union_tag_invalid":
        tags = context["expected_tags"]
        yield (
            (*key, context["discriminator"].strip("'")),
            f"got {show(context['tag'])}; allowed: {tags}{_near(context['tag'], tags)}",
        )
    else:
        allowed = ALLOWED.get(kind, error["msg"].replace("{", "{{").replace("}", "}}")).format(**context)
        if kind in ("int_type", "float_type", "bool_type") and _is_quoted(error["input"]):
            allowed += ", without quotes"
        near = _near(error["input"], allowed) if kind == "literal_error" else ""
        yield key, f"got {show(error['input'])}; allowed: {allowed}{near}"


def _is_of_another_member(error: ErrorDetails) -> bool:
    """Where text or a mapping may stand, pydantic complains about both; what is written tells which one was meant."""
    is_mapping = isinstance(error["input"], dict)
    if error["type"] == "string_type":
        return error["loc"][-1] == TEXT and is_mapping
    return error["type"] == "dataclass_type" and not is_mapping and _resolve(error["loc"])[0][-1] != error["loc"][-1]


def _is_quoted(value: object) -> bool:
    """Whether a text would be a number or a truth value but for its quotes."""
    return isinstance(value, str) and re.fullmatch(r"true|false|[-+]?[0-9.]+([eE][-+]?[0-9]+)?", value) is not None


def _near(value: object, quoted: str) -> str:
    return did_you_mean(value, re.findall(r"'([^']*)'", quoted))


def _resolve(loc: Key) -> tuple[Key, list[type]]:
    """A place as the recipe writes it, and the classes that may stand there.

    pydantic puts the name of a union's chosen member after the union's key, such as `grpo` in `stages.2.grpo.loss.dapo.clip`.
    """
    key, here = list[str | int](), list[type]([Recipe])
    for part in loc:
        chosen = [c for c in here if any(part in _tags(c, tag) for tag in TAGS)] if len(here) > 1 else []
        if chosen:
            here = chosen
            continue
        if here and part in (TEXT, here[0].__name__) and part not in get_type_hints(here[0]):
            continue
        key.append(part)
        if isinstance(part, str):
            here = _classes(get_type_hints(here[0]).get(part)) if here else []
    return tuple(key), here


def _tags(c: type, tag: str) -> tuple[str, ...]:
    """What the field `tag` of a union's member may be."""
    return get_args(get_type_hints(c).get(tag))


def _fields(classes: Sequence[type]) -> list[str]:
    if classes[0] is Recipe:
        return ["extends", *Recipe.model_fields]
    return [field.name for field in dataclasses.fields(classes[0])]


def _classes(annotation: Any) -> list[type]:
    """The dataclasses that an annotation names, through tuples and unions."""
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        return [annotation]
    return [found for arg in get_args(annotation) for found in _classes(arg)]
