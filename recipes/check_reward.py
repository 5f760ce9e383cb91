"""Whether the reward function that a recipe names exists and can be called, read from its source: nothing is imported.

`recipes/check.py` calls this; `rewards/plugin.py` loads the function for real when a run starts.
"""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

from recipes.text import local
from recipes.tree import did_you_mean, show
from rewards.parameters import BATCH, KNOWN, OF_BATCH

SHIPPED = ("rewards.math", "rewards.code", "rewards.instructions", "rewards.shaping", "rewards.state", "specialists.gym")

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef


def reward_problem(
    use: str, folders: Iterable[Path], options: Collection[str] = (), columns: Collection[str] | None = None
) -> str | None:
    """What is wrong with `use`, called with these options; relative files are looked for in each of `folders`.

    `columns`: all that the data may have beside the known names; None where that is not known before it is loaded.
    """
    got, (place, _, function) = f"got {show(local(use))}", use.rpartition(":")
    modules = place.split(".")
    is_file = place.endswith(".py")
    if not function.isidentifier() or not (is_file or all(part.isidentifier() for part in modules)):
        return f"{got}; allowed: path/to/file.py:function or package.module:function"
    if is_file:
        looked = list(dict.fromkeys(folder / os.path.expanduser(place) for folder in folders))
        path = next((path for path in looked if os.path.isfile(path)), None)
        if path is None:
            return f"{got}, no such file in {' nor in '.join(shown(path.parent) for path in looked)}"
    else:
        path = _module_file(modules)
        if path is None:
            near = did_you_mean(place, SHIPPED)
            allowed = "a module that is installed or on PYTHONPATH, or path/to/file.py:function"
            return f"{got}, no such module; allowed: {allowed}{near}"
    try:
        names = _defined(ast.parse(path.read_bytes(), str(path)).body)
    except (SyntaxError, ValueError) as err:
        return f"{got}, but {path.name} is not valid Python: {err}"
    if function in names:
        problem = _signature_problem(names[function], options, columns)
        return f"{got}, but {problem}" if problem else None
    if "*" in names or "__getattr__" in names:  # what else the module has shows only when it is imported
        return None
    functions = [name for name, node in names.items() if node is not None and not name.startswith("_")]
    near = did_you_mean(function, functions)
    return f"{got}, but {path.name} defines no {function}; allowed: {', '.join(functions) or 'nothing'}{near}"


def _signature_problem(function: Function | None, options: Collection[str], columns: Collection[str] | None) -> str | None:
    """Whether a function written with `def` can be called as a reward; a name bound otherwise is not judged."""
    if function is None or function.decorator_list:
        return None
    arguments = function.args
    if arguments.posonlyargs:
        return f"{function.name} has the positional-only parameter {arguments.posonlyargs[0].arg}; allowed: without the slash"
    names = [arg.arg for arg in (*arguments.args, *arguments.kwonlyargs)]
    takes_batch = not set(BATCH).isdisjoint(names)
    known = OF_BATCH if takes_batch else KNOWN
    if "boxes" in names and isinstance(function, ast.FunctionDef):
        return f"{function.name} asks for boxes, which are for `async def`; allowed: box in a plain `def` of one completion"
    for option in options:
        if option not in names or option in known:
            free = [name for name in names if name not in known]
            near = did_you_mean(option, free)
            return f"{function.name} takes no option {option}; allowed: {', '.join(free) or 'none'}{near}"
    required = arguments.args[: len(arguments.args) - len(arguments.defaults)]
    required += [arg for arg, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if not default]
    for name in [arg.arg for arg in required]:
        if columns is not None and name not in (*known, *options, *columns):
            near = did_you_mean(name, (*known, *columns))
            allowed = (
                f"{', '.join(known)}, one of its options, and columns of the data ({', '.join(sorted(columns)) or 'none'})"
            )
            return f"{function.name} asks for {name}; allowed: {allowed}{near}"
    return None


def _module_file(parts: Sequence[str]) -> Path | None:
    """A module's source file, found without importing it or its packages."""
    spec = importlib.util.find_spec(parts[0])
    for i in range(1, len(parts)):
        if spec is None or spec.submodule_search_locations is None:
            return None
        name = ".".join(parts[: i + 1])
        spec = importlib.machinery.PathFinder.find_spec(name, list(spec.submodule_search_locations))
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


def _defined(body: Iterable[ast.stmt]) -> dict[str, Function | None]:
    """Names that a module's top level may bind, in its branches too; those written with `def` have their function."""
    names: dict[str, Function | None] = {}
    for statement in body:
        match statement:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                names[statement.name] = statement
            case ast.ClassDef():
                names[statement.name] = None
            case ast.ImportFrom() | ast.Import():
                names.update({alias.asname or alias.name: None for alias in statement.names})
            case ast.Assign() | ast.AnnAssign():
                targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
                names.update({node.id: None for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)})
            case ast.If() | ast.Try():
                branches = [statement.body, statement.orelse]
                if isinstance(statement, ast.Try):
                    branches += [statement.finalbody, *(handler.body for handler in statement.handlers)]
                for branch in branches:
                    names.update(_defined(branch))
    return names


def shown(folder: Path) -> str:
    """A folder as an error calls it: below the working folder by its short name."""
    return os.path.relpath(folder) if folder.is_relative_to(Path.cwd()) else str(folder)
