"""The process that a program's test runs in, from its fork on: streams, limits, the program itself, and what it tells of it.

Its source is sent into the box: standard library alone, Python 3.10 or newer. Called by `rewards.code.beside`.
"""

from __future__ import annotations

import builtins
import contextlib
import json
import operator
import os
import resource
import signal
import sys
import types
from typing import Any

from rewards.code.values import NotPlain, decode, encode, to_text

ERROR_CHARS = 2000
FILE_BYTES = 64 << 20  # of a file that it may write
APPLIED = {"len": len, "str": str, "repr": repr, "iter": iter, "getitem": operator.getitem}


def begin(order: dict[str, Any], codes: list[types.CodeType], item: Any, stdin: int, stdout: int, tells: int) -> None:
    status = 1
    try:
        tells = _settle(order, stdin, stdout, tells)
        if order["kind"] == "stdin":
            status = _main(codes, tells)
        else:
            _session(order, codes, [["call", order["entry_point"], *item]] if order["kind"] == "call" else item, tells)
            status = 0
    finally:
        os._exit(status)


def _settle(order: dict[str, Any], stdin: int, stdout: int, tells: int) -> int:
    """Streams, limits and folder of a process of its own; gives the descriptor that it tells on."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # as Python does at its start
    os.setsid()
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    os.dup2(tells, soft - 1, inheritable=False)
    os.dup2(stdin, 0)
    os.dup2(stdout, 1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    os.closerange(3, soft - 1)
    _limit(resource.RLIMIT_DATA, order["memory_bytes"])
    _limit(resource.RLIMIT_FSIZE, order["output_bytes"] + 1 if order["kind"] == "stdin" else FILE_BYTES)
    if order["kind"] != "session":
        _limit(resource.RLIMIT_CPU, int(order["cpu_s"]) + 2)  # where whoever looks is late
    os.chdir("/tmp")
    streams = (("stdin", "r", "surrogateescape"), ("stdout", "w", "surrogateescape"), ("stderr", "w", "backslashreplace"))
    for fd, (name, mode, errors) in enumerate(streams):
        stream = open(fd, mode, encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    sys.argv = ["solution.py"]
    for name in ("exit", "quit"):
        setattr(builtins, name, sys.exit)  # of `site`, which the box's agent has not loaded
    sys.setrecursionlimit(1000 + _depth())
    return soft - 1


def _limit(what: int, most: int) -> None:
    _, hard = resource.getrlimit(what)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(what, (most, most))


def _depth() -> int:
    frame, depth = sys._getframe(), 0
    while frame.f_back is not None:
        frame, depth = frame.f_back, depth + 1
    return depth


def _tell(tells: int, outcome: dict[str, Any]) -> None:
    data = memoryview(json.dumps(outcome).encode() + b"\n")
    while data:
        data = data[os.write(tells, data) :]


def _module(name: str) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__dict__["__builtins__"] = builtins
    sys.modules[name] = module
    return module


def _main(codes: list[types.CodeType], tells: int) -> int:
    """Runs a program as the interpreter would, to its exit code."""
    names = _module("__main__").__dict__
    status: Any = 0
    try:
        for code in codes:
            exec(code, names)
    except BaseException as error:  # noqa: BLE001
        status = _exit_code(error, tells)
    for leave in (_join_threads, _run_exit_functions, sys.stdout.flush):
        try:
            leave()
        except BaseException as error:  # noqa: BLE001
            status = status or _exit_code(error, tells)
    return status if isinstance(status, int) else 1


def _exit_code(error: BaseException, tells: int) -> int:
    if isinstance(error, SystemExit):
        code = error.code
        return code & 0xFF if isinstance(code, int) else 0 if code is None else 1
    _tell(tells, _raised(error))
    return 1


def _join_threads() -> None:
    threading: Any = sys.modules.get("threading")
    if threading is not None:
        threading._shutdown()


def _run_exit_functions() -> None:
    import atexit

    atexit._run_exitfuncs()


def _session(order: dict[str, Any], codes: list[types.CodeType], operations: list[Any], tells: int) -> None:
    """Loads the program, and does one operation after another with what it defines."""
    module = _module("solution")
    try:
        for code in codes:
            exec(code, module.__dict__)
    except BaseException as error:  # noqa: BLE001
        _tell(tells, {**_raised(error), "last": True, "loading": True})
        return
    program = _Program(module, order)
    for operation in operations:
        _tell(tells, program.do(operation))


class _Program:
    """What a loaded program defines, and the objects of its own that it has given out, by number."""

    def __init__(self, module: types.ModuleType, order: dict[str, Any]) -> None:
        self._module, self._order = module, order
        self._objects: list[Any] = []
        self._is_session = order["kind"] == "session"

    def do(self, operation: list[Any]) -> dict[str, Any]:
        what, target, *rest = operation
        try:
            arguments = [decode(tree, self._object) for tree in rest[0]] if what != "get" else []
            named = {name: decode(tree, self._object) for name, tree in rest[1]} if what == "call" else {}
            try:
                subject: Any = APPLIED[target] if what == "apply" else self._subject(target)
            except LookupError:
                return failed("no_entry_point", f"the program defines no {target}")
            if what == "get":
                value = getattr(subject, rest[0])
            elif what == "set":
                setattr(subject, rest[1], arguments[0])
                value = None
            else:
                value = subject(*arguments, **named)
            text = to_text(encode(value, self._number if self._is_session else None, draw=self._is_session))
            changed = self._changed(rest, arguments, named) if self._is_session and what == "call" else []
        except BaseException as error:  # noqa: BLE001 - whatever the program does
            return _raised(error)
        if len(text) + sum(len(after) for _, after in changed) > self._order["output_bytes"]:
            return failed("output_limit", f"its value has more than {self._order['output_bytes']} characters")
        return {"status": "value", "value": text, "changed": changed}

    def _changed(self, rest: list[Any], arguments: list[Any], named: dict[str, Any]) -> list[Any]:
        """The arguments that are others now: position or name, and the tree's text."""
        found = []
        pairs = [
            *((n, rest[0][n], value) for n, value in enumerate(arguments)),
            *((name, tree, named[name]) for name, tree in rest[1]),
        ]
        for place, before, value in pairs:
            if isinstance(before, list) and before[0] in ("l", "d", "s", "q", "B", "t", "I"):
                with contextlib.suppress(NotPlain):
                    after = to_text(encode(value, self._number))
                    if after != to_text(before):
                        found.append([place, after])
        return found

    def _subject(self, target: Any) -> Any:
        """What is called: an object, or what the program names so; of a class's method, the one of a new object."""
        if isinstance(target, list):
            return self._object(target)
        names = self._module.__dict__
        if target not in names and "." not in target and hasattr(names.get("Solution"), target):
            target = f"Solution.{target}"
        first, *more = target.split(".")
        subject = names[first]
        for name in more:
            owner = subject() if isinstance(subject, type) else subject
            if not hasattr(owner, name):
                raise LookupError(target)
            subject = getattr(owner, name)
        return subject

    def _number(self, value: Any) -> Any:
        """The tree of an object that is not plain; the same one for the same object."""
        number = next((n for n, known in enumerate(self._objects) if known is value), len(self._objects))
        if number == len(self._objects):
            self._objects.append(value)
        return ["o", number, bool(value), type(value).__name__]

    def _object(self, tree: Any) -> Any:
        return self._objects[tree[1]]


def _raised(error: BaseException) -> dict[str, Any]:
    """What an exception comes to; memory and processes that it was refused have names of their own."""
    if isinstance(error, MemoryError):
        return failed("out_of_memory", "MemoryError")
    if isinstance(error, NotPlain):
        return failed("not_plain", str(error))
    if isinstance(error, BlockingIOError) or "start new thread" in str(error):
        return failed("process_limit", shown(error))
    arguments = None
    with contextlib.suppress(BaseException):
        arguments = to_text(encode(tuple(error.args)))
        arguments = arguments if len(arguments) < ERROR_CHARS else None
    types_ = [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins"]
    return {"status": "raised", "types": types_, "args": arguments, "error": shown(error), "name": type(error).__name__}


def failed(status: str, error: str) -> dict[str, Any]:
    return {"status": status, "error": error[:ERROR_CHARS]}


def shown(error: BaseException) -> str:
    with contextlib.suppress(BaseException):
        import traceback

        return "".join(traceback.format_exception_only(type(error), error)).strip()[:ERROR_CHARS]
    return type(error).__name__
