"""Users' functions by name: `file.py:function` for a user's own, `package.module:function` for one that can be imported.

A file travels as its source text, so that a worker on another machine builds the same function with nothing installed. What is
told of a mistake begins with `what`: "reward 'mine.py:f'". Used by `rewards.plugin`, and by `rl/tools` for tools.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import linecache
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from rewards.errors import UserError
from rewards.parameters import nearest

_FORMS = "write path/to/file.py:function or package.module:function"


def read_text(what: str, use: str, search: Sequence[Path]) -> str | None:
    """The source of the file that `use` names, None where it names a module; none of it is run.

    Relative paths are looked up in each folder of `search` in turn. Raises:
        UserError: `use` has neither form, or its file cannot be read.
    """
    module, _, function = use.rpartition(":")
    if not module or not function.isidentifier():
        raise UserError(f"{what}: {_FORMS}")
    if not module.endswith(".py"):
        if not all(part.isidentifier() for part in module.split(".")):
            raise UserError(f"{what}: {module!r} is neither a .py file nor a module name; {_FORMS}")
        return None
    path = find(what, module, search, "*.py")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{what}: cannot read {path}: {error}") from error


def load(what: str, use: str, text: str | None) -> tuple[Callable[..., Any], str]:
    """Runs the module and gives the function, with the file whose frames are the user's own.

    Raises:
        UserError: the module does not load, or has no such function.
    """
    place, _, name = use.rpartition(":")
    module = _import(what, place) if text is None else _execute(what, place, text)
    if not hasattr(module, name):
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UserError(f"{what}: {place} has no function {name!r}" + nearest(name, public))
    function = getattr(module, name)
    if not callable(function):
        raise UserError(f"{what}: {name} is a {type(function).__name__}, not a function")
    return function, inspect.getfile(module)


def find(what: str, name: str, search: Sequence[Path], siblings: str) -> Path:
    """The first of the places that a path may lead to. `siblings`: a pattern of what else may have been meant.

    Raises:
        UserError: nothing is at any of them.
    """
    places = [folder / Path(name).expanduser() for folder in search] or [Path(name).expanduser()]
    for place in places:
        if place.exists():
            return place
    near = [file.name for place in places if place.parent.is_dir() for file in place.parent.glob(siblings)]
    looked = ", ".join(str(place) for place in dict.fromkeys(places))
    raise UserError(f"{what}: no such file{nearest(Path(name).name, near)}; looked for {looked}")


def _import(what: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise UserError(f"{what}: cannot import {name}\n{_trace(error)}") from error


def _execute(what: str, place: str, text: str) -> ModuleType:
    """Run a file's text as a module of its own name; the same path and text give the same module."""
    digest = hashlib.sha256(f"{place}\n{text}".encode()).hexdigest()[:16]
    name = f"polymath_user_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    module = ModuleType(name)
    module.__file__ = place
    # Tracebacks show the user's lines on a machine that does not have the file.
    linecache.cache[place] = (len(text), None, text.splitlines(keepends=True), place)
    sys.modules[name] = module  # dataclasses and pickle look their module up by name
    try:
        exec(compile(text, place, "exec", dont_inherit=True), module.__dict__)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, Exception | SystemExit):
            raise UserError(f"{what}: {place} does not load\n{_trace(error)}") from error
        raise
    return module


def _trace(error: BaseException) -> str:
    """The traceback below the loader's own frame."""
    inner = error.__traceback__.tb_next if error.__traceback__ else None
    return "".join(traceback.format_exception(type(error), error, inner)).rstrip()
