"""A tool as it travels to workers: its settings, and the texts that it needs, read where the recipe is.

So a worker on another node builds the same tool with none of the user's files there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rewards import usercode
from rewards.errors import UserError
from rewards.parameters import nearest
from rl.tools.config import BUILT_IN, ToolConfig
from rl.tools.lookup import Document, read_corpus

OPTIONS = {"lookup": ("path", "top_k")}  # of the built-in tools


@dataclass(frozen=True)
class ToolSource:
    """Plain values.

    >>> ToolSource(ToolConfig(use="shell")).name
    'shell'
    """

    config: ToolConfig
    text: str | None = None  # the source of the user's file; None for a module that every worker can import
    documents: tuple[Document, ...] = ()  # of `lookup`

    @property
    def name(self) -> str:
        """For messages."""
        mcp = self.config.mcp
        return self.config.use or (mcp and (mcp.url or " ".join(mcp.command or ()))) or ""

    @property
    def is_function(self) -> bool:
        return self.config.use is not None and self.config.use not in BUILT_IN


def read_sources(configs: Sequence[ToolConfig], search: Sequence[Path]) -> tuple[ToolSource, ...]:
    """Reads what the tools need without running any of it; relative paths are looked up in each folder of `search` in turn.

    Raises:
        UserError: an entry is neither one thing nor the other, its options are not known, or a file cannot be read.
    """
    return tuple(_read(config, search) for config in configs)


def _read(config: ToolConfig, search: Sequence[Path]) -> ToolSource:
    if (config.use is None) == (config.mcp is None):
        raise UserError(f"tools: got use {config.use!r} and mcp {config.mcp!r}; an entry has exactly one of them")
    if config.mcp is not None:
        if (config.mcp.command is None) == (config.mcp.url is None):
            raise UserError(
                "tools: mcp: got command and url; it has exactly one of them"
                if config.mcp.url
                else "tools: mcp: needs command or url"
            )
        if config.options:
            raise UserError(f"tools: mcp: got options {dict(config.options)!r:.200}; an MCP server has none")
        return ToolSource(config)
    use = config.use or ""
    if use in BUILT_IN:
        _check_options(use, config)
        return ToolSource(config, documents=_documents(config, search) if use == "lookup" else ())
    if ":" not in use:
        raise UserError(
            f"tools: use: got {use!r}{nearest(use, BUILT_IN)}; allowed: {', '.join(BUILT_IN)}, path/to/file.py:function, "
            "package.module:function"
        )
    return ToolSource(config, usercode.read_text(f"tool {use!r}", use, search))


def _check_options(use: str, config: ToolConfig) -> None:
    known = OPTIONS.get(use, ())
    for name in config.options:
        if name not in known:
            raise UserError(f"tool {use!r}: options.{name}: allowed: {', '.join(known) or 'none'}{nearest(name, known)}")


def _documents(config: ToolConfig, search: Sequence[Path]) -> tuple[Document, ...]:
    path, top_k = config.options.get("path"), config.options.get("top_k", 1)
    if not isinstance(path, str):
        raise UserError(f"tool 'lookup': options.path: got {path!r}; it must be a folder of texts, or a .jsonl file")
    if not isinstance(top_k, int) or isinstance(top_k, bool) or not 1 <= top_k <= 100:
        raise UserError(f"tool 'lookup': options.top_k: got {top_k!r}; it must be a whole number from 1 to 100")
    return read_corpus(usercode.find("tool 'lookup'", path, search, "*"))
