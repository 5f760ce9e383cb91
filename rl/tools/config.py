"""Settings of the tools that a model may call. No torch here (see rl/config.py)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from annotated_types import Ge

from rl.config import FORBID_EXTRA, PositiveFloat

BUILT_IN = ("python", "shell", "files", "calculator", "lookup")


@dataclass(frozen=True, kw_only=True)
class McpConfig:
    """A server that speaks the Model Context Protocol: exactly one of `command` and `url`."""

    __pydantic_config__ = FORBID_EXTRA
    command: tuple[str, ...] | None = None  # starts a server beside each rollout worker, which speaks over its input and output
    url: str | None = None  # of a server that is there already, which speaks streamable HTTP
    env: Mapping[str, str] = field(default_factory=dict)  # of the command, beside PATH, HOME and the like
    tools: tuple[str, ...] | None = None  # those that the model may use; null: all that the server has


@dataclass(frozen=True, kw_only=True)
class ToolConfig:
    """One entry of a recipe's `tools`: exactly one of `use` and `mcp`.

    `use` is python, shell, files, calculator or lookup, or names a function of your own: `path/to/file.py:function` or
    `package.module:function`. A path is relative to the recipe or to the working folder.
    """

    __pydantic_config__ = FORBID_EXTRA
    use: str | None = None
    mcp: McpConfig | None = None
    options: Mapping[str, Any] = field(default_factory=dict)  # of lookup: path, top_k; of a function: arguments by name
    timeout_s: PositiveFloat = 30.0  # of one call, without what it waits for a box; the model is told that it took longer
    max_chars: Annotated[int, Ge(200)] = 8000  # of a result; of a longer one the model sees the beginning and the end
