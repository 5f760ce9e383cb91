"""The prose of a chat format: the tool section, the instruction of effort max, the line of a numbered effort.

It is ours, stands in `wording.yaml`, and is replaced by a file of the same keys that a recipe names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from rewards.errors import UserError
from rewards.parameters import nearest
from rewards.task import Effort, EffortLevel, ToolSpec
from rl.formats.strict_json import dump

DEFAULT = Path(__file__).with_name("wording.yaml")
# What each text must hold exactly once, one of them where there are several: the tools' schemas, or their names alone.
PLACEHOLDERS = {"tools": ("{schemas}", "{names}"), "max": (), "scalar": ("{effort}",)}


@dataclass(frozen=True)
class Wording:
    """Texts with their placeholders. `max` and `scalar` end with a blank line, since other text follows them."""

    tools: str
    max: str
    scalar: str

    def tool_section(self, tools: Sequence[ToolSpec]) -> str:
        schemas = "\n".join(dump(tool.as_dict()["function"]) for tool in tools)
        return self.tools.replace("{names}", ", ".join(tool.name for tool in tools)).replace("{schemas}", schemas)

    def effort_text(self, effort: EffortLevel) -> str:
        """What stands in front of everything; "" for efforts that are the model's own (none, high)."""
        if isinstance(effort, Effort):
            return self.max if effort is Effort.MAX else ""
        return self.scalar.replace("{effort}", str(effort))


def load_wording(path: Path | None = None) -> Wording:
    """The shipped wording, or that of a file.

    Raises:
        UserError: the file cannot be read, lacks a key or a placeholder, or has a key that nothing reads.
    """
    return _shipped() if path is None else _read(path)


@cache
def _shipped() -> Wording:
    return _read(DEFAULT)


def _read(path: Path) -> Wording:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"wording {path}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise UserError(f"wording {path}: is no YAML: {error}") from error
    if not isinstance(data, dict):
        raise UserError(f"wording {path}: got {type(data).__name__}; allowed: a mapping of {', '.join(PLACEHOLDERS)}")
    for key in data:
        if key not in PLACEHOLDERS:
            hint = nearest(str(key), PLACEHOLDERS)
            raise UserError(f"wording {path}: got the key {key!r}{hint}; allowed: {', '.join(PLACEHOLDERS)}")
    texts = {key: _text(path, key, data.get(key), wanted) for key, wanted in PLACEHOLDERS.items()}
    return Wording(texts["tools"], texts["max"].rstrip() + "\n\n", texts["scalar"].rstrip() + "\n\n")


def _text(path: Path, key: str, text: object, placeholders: Sequence[str]) -> str:
    wanted = " or ".join(placeholders)
    if not isinstance(text, str) or not text.strip():
        got = "no value" if text is None else repr(text)
        raise UserError(f"wording {path}: {key}: got {got}; allowed: a text" + (f" with {wanted}" if wanted else ""))
    found = sum(text.count(placeholder) for placeholder in placeholders)
    if placeholders and found != 1:
        raise UserError(f"wording {path}: {key}: holds {wanted} {found} times; allowed: once")
    return text
