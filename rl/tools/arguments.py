"""What is wrong with a call's arguments, by the tool's JSON schema, in a sentence that helps a model to mend it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError, best_match
from referencing import Registry

from rewards.errors import UserError
from rewards.parameters import nearest
from rewards.task import ToolSpec

MAX_BYTES = 256 << 10  # of a call's arguments as JSON
_ARTICLES = {"integer": "an integer", "object": "an object", "array": "an array", "null": "null"}


class Arguments:
    """The check of one tool's arguments.

    >>> check = Arguments(ToolSpec("add", "", {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}))
    >>> check.problem({"a": "1"}), check.problem({"a": 1})
    ("add: a: got '1'; an integer is expected", None)
    """

    def __init__(self, spec: ToolSpec) -> None:
        """Raises UserError where the tool's parameters are no JSON schema."""
        self._name, self._schema = spec.name, dict(spec.parameters)
        try:
            Draft202012Validator.check_schema(self._schema)
        except SchemaError as error:
            raise UserError(f"tool {spec.name!r}: its parameters are no JSON schema: {error.message}") from None
        registry: Registry[Any] = Registry()  # so that nothing is fetched which a schema may refer to
        self._validator = Draft202012Validator(self._schema, registry=registry)

    def problem(self, arguments: Mapping[str, Any]) -> str | None:
        """None where they are as the schema says."""
        try:
            size = len(json.dumps(dict(arguments), ensure_ascii=False).encode())
            problem = self._too_large(size) or self._names(arguments) or self._values(arguments)
        except (
            RecursionError,
            ValueError,
            TypeError,
        ):  # of JSON that is nested thousands of levels deep, or is none; half a character
            problem = "the arguments are no plain JSON"
        return problem and f"{self._name}: {problem}"

    def _too_large(self, size: int) -> str | None:
        return f"the arguments have {size} bytes; at most {MAX_BYTES}" if size > MAX_BYTES else None

    def _names(self, arguments: Mapping[str, Any]) -> str | None:
        known: Mapping[str, Any] = self._schema.get("properties", {})
        missing = [name for name in self._schema.get("required", ()) if name not in arguments]
        is_open = self._schema.get("additionalProperties") or "patternProperties" in self._schema
        unknown = [] if is_open else [name for name in arguments if name not in known]
        if unknown:
            listed = ", ".join(known) or "none"
            return f"no parameter {unknown[0]!r:.100}{nearest(unknown[0], known)}; parameters: {listed}"
        if missing:
            return f"the parameter {missing[0]!r} is missing" + _kind(known.get(missing[0]))
        return None

    def _values(self, arguments: Mapping[str, Any]) -> str | None:
        error = best_match(self._validator.iter_errors(dict(arguments)))
        if error is None:
            return None
        where = ".".join(map(str, error.absolute_path))
        return f"{f'{where}: ' if where else ''}got {_shown(error.instance)}; {_expected(error)}"


def _expected(error: ValidationError) -> str:
    wanted: Any = error.validator_value
    if error.validator == "type":
        names = [wanted] if isinstance(wanted, str) else wanted
        return f"{' or '.join(_ARTICLES.get(name, f'a {name}') for name in names)} is expected"
    if error.validator == "enum":
        near = (
            nearest(error.instance, [one for one in wanted if isinstance(one, str)]) if isinstance(error.instance, str) else ""
        )
        return f"allowed: {', '.join(map(str, wanted))}{near}"
    return f"{error.message:.300}"


def _kind(schema: object) -> str:
    kind = schema.get("type") if isinstance(schema, Mapping) else None
    return f" ({kind})" if isinstance(kind, str) else ""


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."
