"""Reward functions by name: `file.py:function` for a user's own, `package.module:function` for one that can be imported.

A file travels as its source text, so that a worker on another machine builds the same function with nothing installed.
Called when a recipe loads and by `rewards.score`.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import linecache
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from rewards.config import RewardConfig
from rewards.errors import UserError
from rewards.parameters import Signature, nearest, read_signature

_FORMS = "write path/to/file.py:function or package.module:function"


@dataclass(frozen=True)
class RewardSource:
    """A reward that can be sent to another process and built there; plain strings and a number.

    >>> RewardSource("rewards.math:verify", 1.0, text=None, function="verify").module
    'rewards.math'
    """

    use: str
    weight: float
    text: str | None  # the source of the user's file; None for a module that every worker can import
    function: str
    timeout_s: float = RewardConfig.timeout_s  # for one completion
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def module(self) -> str:
        """The part of `use` before the colon: a path or a dotted name."""
        return self.use.rpartition(":")[0]


@dataclass(frozen=True)
class Reward:
    """A reward function that has been built; `rewards.calls` calls it, and checks what it returns."""

    source: RewardSource
    function: Callable[..., object]
    signature: Signature
    file: str  # whose frames are the user's own


def load_reward(use: str, search: Sequence[Path]) -> Reward:
    """The reward function that `use` names; relative paths are looked up in each folder of `search` in turn.

    Raises:
        UserError: no such file, module or function; it cannot be called as a reward; its code does not load.
    """
    return build(read_source(RewardConfig(use=use), search))


def read_source(config: RewardConfig, search: Sequence[Path]) -> RewardSource:
    """Read what `config.use` names without running any of it.

    Raises:
        UserError: `use` has neither form, or its file cannot be read.
    """
    module, _, function = config.use.rpartition(":")
    if not module or not function.isidentifier():
        raise UserError(f"reward {config.use!r}: {_FORMS}")
    if not module.endswith(".py"):
        if not all(part.isidentifier() for part in module.split(".")):
            raise UserError(f"reward {config.use!r}: {module!r} is neither a .py file nor a module name; {_FORMS}")
        return RewardSource(config.use, config.weight, None, function, config.timeout_s, dict(config.options))
    path = _find(module, config.use, search)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"reward {config.use!r}: cannot read {path}: {error}") from error
    return RewardSource(config.use, config.weight, text, function, config.timeout_s, dict(config.options))


def build(source: RewardSource) -> Reward:
    """Run the source's module and read what its function asks for.

    Raises:
        UserError: see `load_reward`.
    """
    module = _import(source) if source.text is None else _execute(source, source.text)
    if not hasattr(module, source.function):
        public = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise UserError(
            f"reward {source.use!r}: {source.module} has no function {source.function!r}" + nearest(source.function, public)
        )
    function = getattr(module, source.function)
    if not callable(function):
        raise UserError(f"reward {source.use!r}: {source.function} is a {type(function).__name__}, not a function")
    return Reward(source, function, read_signature(function, source.use, source.options), inspect.getfile(module))


def _find(name: str, use: str, search: Sequence[Path]) -> Path:
    places = [folder / Path(name).expanduser() for folder in search] or [Path(name).expanduser()]
    for place in places:
        if place.is_file():
            return place
    siblings = [file.name for place in places if place.parent.is_dir() for file in place.parent.glob("*.py")]
    looked = ", ".join(str(place) for place in dict.fromkeys(places))
    raise UserError(f"reward {use!r}: no such file{nearest(Path(name).name, siblings)}; looked for {looked}")


def _import(source: RewardSource) -> ModuleType:
    try:
        return importlib.import_module(source.module)
    except (Exception, SystemExit) as error:
        raise UserError(f"reward {source.use!r}: cannot import {source.module}\n{_trace(error)}") from error


def _execute(source: RewardSource, text: str) -> ModuleType:
    """Run a file's text as a module of its own name; the same path and text give the same module."""
    digest = hashlib.sha256(f"{source.module}\n{text}".encode()).hexdigest()[:16]
    name = f"polymath_reward_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    module = ModuleType(name)
    module.__file__ = source.module
    # Tracebacks show the user's lines on a machine that does not have the file.
    linecache.cache[source.module] = (len(text), None, text.splitlines(keepends=True), source.module)
    sys.modules[name] = module  # dataclasses and pickle look their module up by name
    try:
        exec(compile(text, source.module, "exec", dont_inherit=True), module.__dict__)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, Exception | SystemExit):
            raise UserError(f"reward {source.use!r}: {source.module} does not load\n{_trace(error)}") from error
        raise
    return module


def _trace(error: BaseException) -> str:
    """The traceback below the loader's own frame."""
    inner = error.__traceback__.tb_next if error.__traceback__ else None
    return "".join(traceback.format_exception(type(error), error, inner)).rstrip()
