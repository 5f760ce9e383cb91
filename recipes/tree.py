"""YAML read into a tree that remembers where each value was written; trees merge, and overrides are put into them.

Numbers, `true` and `false` follow YAML 1.2: `1e-3` is a number, `yes` and `2024-01-01` are text. Called by
`recipes/load.py`.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from rewards.errors import UserError

Key: TypeAlias = tuple[str | int, ...]
Scalar: TypeAlias = str | int | float | bool | None


class RecipeError(UserError):
    """A recipe is wrong. The message has one line for each problem: where, which key, the value, what is allowed."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True)
class Origin:
    """Where a value was written: what an error calls the place, and the folder that its relative paths start from."""

    where: str
    folder: Path
    is_override: bool = False


@dataclass(frozen=True)
class Node:
    """A value, with nodes in place of the values below it."""

    value: Scalar | Mapping[str, Node] | tuple[Node, ...]
    origin: Origin

    def plain(self) -> Any:
        """The value as Python dicts, lists and scalars."""
        if isinstance(self.value, Mapping):
            return {key: node.plain() for key, node in self.value.items()}
        return [node.plain() for node in self.value] if isinstance(self.value, tuple) else self.value

    def nearest(self, key: Key) -> Node:
        """The node at `key`, or the deepest one on the way to it that exists."""
        node = self
        for part in key:
            value = node.value
            if isinstance(value, Mapping) and part in value:
                node = value[str(part)]
            elif isinstance(value, tuple) and isinstance(part, int) and part < len(value):
                node = value[part]
            else:
                break
        return node


def dotted(key: Iterable[str | int]) -> str:
    return ".".join(str(part) for part in key)


def show(value: object, limit: int = 60) -> str:
    """A value as an error quotes it, cut to `limit` characters."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """`; did you mean NAME?` where some known name is near, else nothing."""
    near = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's own attribute)


_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?[0-9]+$"), list("-+0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("(true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("(~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value))


class Dumper(yaml.SafeDumper):
    """Quotes each text that this reader or a YAML 1.1 reader would take for something else."""


Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def parse_file(path: Path, shown: str) -> Node:
    """Read a YAML file; errors call it `shown`."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as err:
        raise RecipeError([f"{shown}: cannot be read as UTF-8 text: {err}"]) from err
    folder = path.parent.resolve()
    return _parse(text, lambda line: Origin(f"{shown}:{line + 1}", folder))


def parse_value(text: str, origin: Origin) -> Node:
    """Read the value of an override; all of it gets the same origin."""
    return _parse(text, lambda _: origin)


def _parse(text: str, origin: Callable[[int], Origin]) -> Node:
    """`origin` gives the origin of a line, counted from 0."""
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        return Node(None, origin(0)) if root is None else _build(loader, root, origin(root.start_mark.line), origin, ())
    except yaml.YAMLError as err:
        mark = getattr(err, "problem_mark", None)
        problem = getattr(err, "problem", None) or getattr(err, "reason", None) or str(err)
        raise RecipeError([f"{origin(mark.line if mark else 0).where}: not valid YAML: {problem}"]) from err


def _build(
    loader: _Loader, node: yaml.Node, here: Origin, origin: Callable[[int], Origin], above: tuple[yaml.Node, ...]
) -> Node:
    if node in above:
        raise RecipeError([f"{here.where}: an anchor that contains itself; write the value out"])
    above = (*above, node)
    if isinstance(node, yaml.SequenceNode):
        return Node(tuple(_build(loader, n, origin(n.start_mark.line), origin, above) for n in node.value), here)
    if not isinstance(node, yaml.MappingNode):
        return Node(_scalar(loader, node, here), here)
    out: dict[str, Node] = {}
    for key_node, value_node in node.value:
        at = origin(key_node.start_mark.line)
        key = _scalar(loader, key_node, at) if isinstance(key_node, yaml.ScalarNode) else None
        if not isinstance(key, str):
            got = key_node.value if isinstance(key_node, yaml.ScalarNode) else "a list or mapping"
            raise RecipeError([f"{at.where}: a key must be text: got {got}; put it in quotes"])
        if key in out:
            raise RecipeError([f"{at.where}: {key}: written twice, first at {out[key].origin.where}; remove one"])
        out[key] = _build(loader, value_node, at, origin, above)
    return Node(out, here)


def _scalar(loader: _Loader, node: yaml.Node, here: Origin) -> Scalar:
    try:
        value = loader.construct_object(node)
    except ValueError as err:
        raise RecipeError([f"{here.where}: got {show(node.value)}: {err}"]) from err
    if isinstance(value, float) and not math.isfinite(value):
        raise RecipeError([f"{here.where}: got {node.value}; allowed: a finite number"])
    if not (value is None or isinstance(value, str | int | float)):
        raise RecipeError([f"{here.where}: got {node.tag}; allowed: text, a number, true, false, null"])
    return value


def merge(base: Node, over: Node) -> Node:
    """`over` on top of `base`: mappings merge, lists and scalars replace, null removes what the base has."""
    if not (isinstance(base.value, Mapping) and isinstance(over.value, Mapping)):
        return over
    out = dict(base.value)
    for key, node in over.value.items():
        if key not in out:
            out[key] = node
        elif node.value is None:
            del out[key]
        else:
            out[key] = merge(out[key], node)
    return Node(out, over.origin)


def put(node: Node, keys: Sequence[str], value: Node, done: Key = ()) -> Node:
    """`node` with `value` at `keys`, where a mapping merges; a list's item is called by its index or its name."""
    if not keys:
        return merge(node, value)
    head, rest = keys[0], keys[1:]
    if isinstance(node.value, tuple):
        index = _item(node.value, head, done, value.origin)
        item = put(node.value[index], rest, value, (*done, index))
        return Node((*node.value[:index], item, *node.value[index + 1 :]), node.origin)
    if node.value is not None and not isinstance(node.value, Mapping):
        raise RecipeError([f"{value.origin.where}: {dotted(done)}: is {show(node.plain())}, which holds no key {head}"])
    below = dict(node.value or {})
    below[head] = put(below.get(head, Node(None, value.origin)), rest, value, (*done, head))
    return Node(below, node.origin)


def _item(items: Sequence[Node], head: str, done: Key, origin: Origin) -> int:
    if head.isdigit() and int(head) < len(items):
        return int(head)
    maps = [item.value if isinstance(item.value, Mapping) else {} for item in items]
    names = [str(node.value) if (node := m.get("name") or m.get("kind")) else "" for m in maps]
    if names.count(head) == 1:
        return names.index(head)
    known = [name for name in names if name]
    allowed = ", ".join([f"0 to {len(items) - 1}" if items else "nothing, the list is empty", *known])
    near = did_you_mean(head, known)
    raise RecipeError([f"{origin.where}: {dotted(done)}: got {head}; allowed: {allowed}{near}"])
