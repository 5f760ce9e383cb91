"""Reward functions by name: `file.py:function` for a user's own, `package.module:function` for one that can be imported.

A file travels as its source text, so that a worker on another machine builds the same function with nothing installed.
Called when a recipe loads and by `rewards.score`.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import inspect
import linecache
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from rewards.config import RewardConfig
from rewards.errors import UserError
from rewards.task import Task

Reward = Callable[[Task, str], object]  # what it returns is checked by `rewards.score`
PARAMETERS = ("task", "completion", "answer", "prompt")
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

    @property
    def module(self) -> str:
        """The part of `use` before the colon: a path or a dotted name."""
        return self.use.rpartition(":")[0]


def load_reward(use: str, search: Sequence[Path]) -> Reward:
    """The reward function that `use` names; relative paths are looked up in each folder of `search` in turn.

    Raises:
        UserError: no such file, module or function; its parameters are not among `PARAMETERS`; its code does not load.
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
        return RewardSource(config.use, config.weight, None, function, config.timeout_s)
    path = _find(module, config.use, search)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"reward {config.use!r}: cannot read {path}: {error}") from error
    return RewardSource(config.use, config.weight, text, function, config.timeout_s)


def build(source: RewardSource) -> Reward:
    """Run the source's module and adapt its function to `(task, completion)`.

    Raises:
        UserError: see `load_reward`.
    """
    module = _import(source) if source.text is None else _execute(source, source.text)
    if not hasattr(module, source.function):
        public = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise UserError(
            f"reward {source.use!r}: {source.module} has no function {source.function!r}" + _nearest(source.function, public)
        )
    function = getattr(module, source.function)
    if not callable(function):
        raise UserError(f"reward {source.use!r}: {source.function} is a {type(function).__name__}, not a function")
    if inspect.iscoroutinefunction(function):
        raise UserError(f"reward {source.use!r}: write a plain `def`, not `async def`")
    return _adapt(function, _wanted(function, source.use))


def _adapt(function: Callable[..., object], wanted: Sequence[str]) -> Reward:
    def reward(task: Task, completion: str) -> object:
        offered = {"task": task, "completion": completion, "answer": task.answer, "prompt": task.prompt}
        return function(**{name: offered[name] for name in wanted})

    return reward


def _wanted(function: Callable[..., object], use: str) -> list[str]:
    """The names among `PARAMETERS` that the function asks for."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except ValueError as error:
        raise UserError(f"reward {use!r}: its parameters cannot be read; write a plain `def`") from error
    allowed = "a reward asks by name for any of " + ", ".join(PARAMETERS)
    wanted: list[str] = []
    for parameter in parameters:
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise UserError(f"reward {use!r}: parameter {parameter.name!r} is positional-only; {allowed}")
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if parameter.name in PARAMETERS:
            wanted.append(parameter.name)
        elif parameter.default is parameter.empty:
            hint = _nearest(parameter.name, PARAMETERS)
            raise UserError(f"reward {use!r}: unknown parameter {parameter.name!r}{hint}; {allowed}")
    return wanted


def _find(name: str, use: str, search: Sequence[Path]) -> Path:
    places = [folder / Path(name).expanduser() for folder in search] or [Path(name).expanduser()]
    for place in places:
        if place.is_file():
            return place
    siblings = [file.name for place in places if place.parent.is_dir() for file in place.parent.glob("*.py")]
    looked = ", ".join(str(place) for place in dict.fromkeys(places))
    raise UserError(f"reward {use!r}: no such file{_nearest(Path(name).name, siblings)}; looked for {looked}")


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


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
