"""Runs tests in a box where the program is not: what they call is a stand-in, whose answers come from the program's own box.

Its source is sent into the box: standard library alone, Python 3.10 or newer. The tests run from their beginning each time,
with the answers that are known so far, and end where one is lacking; `rewards.code.dialogue` has it answered and runs them
again. Beyond the last answer they go on as far as they can without one, so that most calls are asked for at once.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import json
import os
import resource
import signal
import sys
import traceback
import types
from typing import Any, NoReturn

from rewards.code.shim import offer_pytest
from rewards.code.values import Endless, NotPlain, TooMuch, builtin_error, decode, encode, from_text, to_text

AHEAD_S = 1.0  # of processor time for going on without answers
MAX_AHEAD = 1000  # calls in one such run
SHOWN_CHARS = 500


def check(order: dict[str, Any]) -> dict[str, Any]:
    """Runs tests as far as they go.

    An order has `setup` and `tests` (texts, run in turn), `entry_point`, whether to `call_check`, `answers` (pairs of operation
    and outcome, in their order), `ahead`, `partial` and `cpu_s`. The reply's `state` is "done" (with `results`), "ask" (with
    all operations `asked` for so far, of which the first `known` are answered), "timeout" or "broken".
    """
    told, tells = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(told)
        resource.setrlimit(resource.RLIMIT_CPU, (order["cpu_s"], order["cpu_s"] + 1))
        tests = _Tests(order, tells)
        with contextlib.suppress(BaseException):
            tests.run()
        os._exit(1)
    os.close(tells)
    data = b""
    while piece := os.read(told, 1 << 16):
        data += piece
    _, status = os.waitpid(pid, 0)
    if data:
        return json.loads(data)  # type: ignore[no-any-return]
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL):
        return {"state": "timeout", "error": f"the tests took more than {order['cpu_s']} s of processor time"}
    return {"state": "broken", "error": f"the tests ended their process with status {status}"}


class _Unknown(BaseException):
    """An answer that is not known yet; no test is to catch it."""


class _NoAnswer(BaseException):
    """The program gave none: it ended, or was ended."""


class _Tests:
    def __init__(self, order: dict[str, Any], tells: int) -> None:
        self._order, self._tells = order, tells
        self._asked: list[str] = []
        self._known = 0
        self._ahead = False  # an answer was lacking before
        self._handles: dict[Any, _Handle] = {}
        self._raised: list[BaseException] = []  # by the program
        self._expects_stop = any("StopIteration" in text for text in order["tests"])
        self._results: list[dict[str, Any]] = []
        self._num_passed = self._num_failed = 0  # assert statements of the test that runs

    # the run

    def run(self) -> None:
        order = self._order
        module = sys.modules["tests"] = types.ModuleType("tests")
        names = module.__dict__
        names["__builtins__"] = builtins
        if "random" in order["setup"] + "".join(order["tests"]):
            import random

            random.seed(0)  # the same calls each time
        try:
            offer_pytest()
            exec(compile(order["setup"], "<setup>", "exec", dont_inherit=True), names)
            trees = [ast.parse(text) for text in order["tests"]]
            names[order["entry_point"]] = self._handle(order["entry_point"])
            for name in _undefined(trees, names):
                names[name] = self._handle(name)
        except BaseException as error:  # noqa: BLE001
            self._finish("broken", error=_shown(error))
        for text, tree in zip(order["tests"], trees, strict=True):
            self._one(text, tree, names)
        if self._ahead:
            self._finish("ask")
        if not self._asked:
            self._finish("broken", error=f"the tests never call {order['entry_point']}")
        self._finish("done", results=self._results)

    def _one(self, text: str, tree: ast.Module, names: dict[str, Any]) -> None:
        """One test to its result; where some have failed already, only as far as the calls of others need it."""
        self._num_passed = self._num_failed = 0
        error: BaseException | None = None
        names["__judge__"] = self
        try:
            exec(compile(_wrapped(tree), "<test>", "exec", dont_inherit=True), names)
            if self._order["call_check"]:
                self._call_checks(names)
        except ImportError as missing:
            if not self._is_programs(missing):
                self._finish("broken", error=_shown(missing))
            error = missing
        except BaseException as raised:  # noqa: BLE001
            error = raised
        if error is not None and _is_of_the_tests(error):
            self._finish("broken", error=f"the tests give the program what cannot be sent: {error}")
        if self._ahead:
            return
        total = max(self._num_passed + self._num_failed, 1)
        verdict, line = "passed", ""
        if error is not None:
            verdict = self._verdict(error)
            line = _line(text, error)
            total = max(total, sum(isinstance(node, ast.Assert) for node in ast.walk(tree)))
        elif self._num_failed:
            verdict, line = self._first_failed
        share = self._num_passed / total if verdict != "passed" else 1.0
        self._results.append({"verdict": verdict, "note": line, "share": share})
        if verdict != "passed" and not self._order["partial"]:
            self._finish("done", results=self._results)

    def _call_checks(self, names: dict[str, Any]) -> None:
        """`check(candidate)` where the tests define it, else all of their `test_...` functions."""
        if "check" in names:
            names["check"](self._handle(self._order["entry_point"]))
            return
        for name, function in list(names.items()):
            if name.startswith("test_") and callable(function):
                function()

    def _is_programs(self, error: BaseException) -> bool:
        return any(known is error for known in self._raised)

    def _verdict(self, error: BaseException) -> str:
        if isinstance(error, _NoAnswer):
            return str(error.args[0])
        if isinstance(error, (Endless, TooMuch)):
            return "not_plain"
        return "runtime_error" if self._is_programs(error) else "wrong"

    def stops(self, is_assert: bool) -> bool:
        """Whether what a statement has just raised goes on. Called from the tests, in its `except`."""
        if self._ahead:
            return False
        error = sys.exc_info()[1]
        assert error is not None
        if not (is_assert and self._order["partial"]) or _is_of_the_tests(error):
            return True
        if not self._num_failed:
            self._first_failed = self._verdict(error), f"{_shown(error)} (line {_line_number(error)})"
        self._num_failed += 1
        return False

    def passes(self) -> None:
        """Called from the tests after an assert statement."""
        self._num_passed += 1

    def _finish(self, state: str, **words: Any) -> NoReturn:
        reply = {"state": state, "asked": self._asked, "known": self._known, **words}
        data = memoryview(json.dumps(reply).encode())
        while data:
            data = data[os.write(self._tells, data) :]
        os._exit(0)

    # calls

    def ask(self, operation: list[Any]) -> dict[str, Any]:
        """The answer to one operation on the program."""
        text = to_text(operation)
        self._asked.append(text)
        answers = self._order["answers"]
        if not self._ahead and self._known < len(answers) and answers[self._known][0] == text:
            self._known += 1
            return answers[self._known - 1][1]  # type: ignore[no-any-return]
        if not self._ahead:
            self._ahead = True
            signal.signal(signal.SIGPROF, lambda *_: self._finish("ask"))
            signal.setitimer(signal.ITIMER_PROF, AHEAD_S)
        if not self._order["ahead"] or len(self._asked) - self._known > MAX_AHEAD:
            self._finish("ask")
        raise _Unknown

    def call(self, target: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        trees = (
            [encode(value, _tree_of, draw=True) for value in arguments],
            [[k, encode(v, _tree_of, draw=True)] for k, v in named.items()],
        )
        outcome = self.ask(["call", target, *trees])
        for place, text in outcome.get("changed") or ():
            value = arguments[place] if isinstance(place, int) else named[place]
            _change(value, self._decoded(text))
        return self.value(outcome)

    def value(self, outcome: dict[str, Any]) -> Any:
        """What an outcome comes to for the tests."""
        if outcome["status"] == "raised":
            error = _error(outcome)
            if isinstance(error, StopIteration) and not self._expects_stop:
                error = RuntimeError("the program raised StopIteration")  # which would end a loop of the tests in peace
            self._raised.append(error)
            raise error
        if outcome["status"] != "value":
            raise _NoAnswer(outcome["status"], outcome.get("error", ""))
        return self._decoded(outcome["value"])

    def _decoded(self, text: str) -> Any:
        """A value of the program's."""
        try:
            return decode(from_text(text), self._of_tree)
        except NotPlain as error:  # it has told nonsense, or gone beyond what can be sent: no fault of the tests
            raise _NoAnswer("runtime_error", str(error)) from None

    def _of_tree(self, tree: list[Any]) -> _Handle:
        if len(tree) != 4 or type(tree[1]) is not int:
            raise NotPlain("no object")
        return self._handle(tree[1], is_true=tree[2] is True)

    def _handle(self, key: Any, is_true: bool = True) -> _Handle:
        if key not in self._handles:
            self._handles[key] = _Handle(self, key if isinstance(key, str) else ["o", key], is_true)
        return self._handles[key]


class _Handle:
    """Stands for a function or an object of the program: what it does is asked for, what it equals is decided here."""

    __slots__ = ("_is_true", "_target", "_tests")

    def __init__(self, tests: _Tests, target: Any, is_true: bool) -> None:
        object.__setattr__(self, "_tests", tests)
        object.__setattr__(self, "_target", target)
        object.__setattr__(self, "_is_true", is_true)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._tests.call(self._target, arguments, named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._tests.value(self._tests.ask(["get", self._target, name]))

    def __setattr__(self, name: str, value: Any) -> None:
        self._tests.value(self._tests.ask(["set", self._target, [encode(value, _tree_of, draw=True)], name]))

    def __bool__(self) -> bool:
        return bool(self._is_true)

    def _apply(self, function: str, *arguments: Any) -> Any:
        trees = [_tree_of(self), *(encode(value, _tree_of, draw=True) for value in arguments)]
        return self._tests.value(self._tests.ask(["apply", function, trees]))

    def __len__(self) -> int:
        return int(self._apply("len"))

    def __str__(self) -> str:
        return str(self._apply("str"))

    def __repr__(self) -> str:
        return str(self._apply("repr"))

    def __iter__(self) -> Any:
        return iter(self._apply("iter"))

    def __getitem__(self, key: Any) -> Any:
        return self._apply("getitem", key)


def _tree_of(value: Any) -> Any:
    if type(value) is _Handle and isinstance(value._target, list):
        return value._target
    raise NotPlain(f"a value of the type {type(value).__name__} cannot be sent to the program")


def _error(outcome: dict[str, Any]) -> BaseException:
    """An exception like that of the program: of the nearest builtin kind, with its arguments."""
    kinds = [kind for name in outcome.get("types") or () if (kind := builtin_error(str(name))) is not None]
    kind = kinds[0] if kinds else Exception
    text = str(outcome.get("error"))
    try:
        return kind(*decode(from_text(outcome["args"])))
    except Exception:  # noqa: BLE001 - some kinds want arguments of their own
        return Exception(text)


def _change(value: Any, now: Any) -> None:
    """Makes an argument what the program has made of it, in place as far as its kind can be."""
    if isinstance(value, (list, tuple)) and isinstance(now, (list, tuple)):
        parts = [_kept(a, b) for a, b in zip(value, now, strict=False)] + list(now[len(value) :])
        if isinstance(value, list):
            value[:] = parts
    elif isinstance(value, dict) and isinstance(now, dict):
        pairs = {key: _kept(value[key], part) if key in value else part for key, part in now.items()}
        value.clear()
        value.update(pairs)
    elif isinstance(value, (set, bytearray)) or type(value).__name__ == "deque":
        value.clear()
        value.update(now) if isinstance(value, set) else value.extend(now)


def _kept(value: Any, now: Any) -> Any:
    """The old part, changed, where tests may hold it too."""
    if type(value) is type(now) and isinstance(value, (list, dict, set, bytearray, tuple)):
        _change(value, now)
        return value if not isinstance(value, tuple) else now
    return now


# the tests' text


def _wrapped(tree: ast.Module) -> ast.Module:
    """Each simple statement in a `try`, so that what it raises may be passed over."""
    return ast.fix_missing_locations(_Wrapping().visit(tree))  # type: ignore[no-any-return]


class _Wrapping(ast.NodeTransformer):
    def _wrap(self, node: Any) -> ast.Try:
        is_assert = isinstance(node, ast.Assert)
        body = ast.parse(f"try:\n    pass\nexcept BaseException:\n    if __judge__.stops({is_assert}):\n        raise").body[0]
        assert isinstance(body, ast.Try)
        for part in ast.walk(body):
            if hasattr(part, "lineno"):
                ast.copy_location(part, node)
        body.body = [node]
        if is_assert:
            body.orelse = [ast.copy_location(part, node) for part in ast.parse("__judge__.passes()").body]
        return body

    visit_Assert = visit_Assign = visit_AugAssign = visit_AnnAssign = _wrap

    def visit_Expr(self, node: ast.Expr) -> Any:
        return node if isinstance(node.value, ast.Constant) else self._wrap(node)


def _undefined(trees: list[ast.Module], names: dict[str, Any]) -> set[str]:
    """Names that tests use and nobody defines: those of the program."""
    nodes = [node for tree in trees for node in ast.walk(tree)]
    stored = {node.id for node in nodes if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    stored |= {
        node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.ExceptHandler)) and node.name
    }
    stored |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    stored |= {(node.asname or node.name).split(".")[0] for node in nodes if isinstance(node, ast.alias)}
    loaded = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    return {name for name in loaded - stored if name not in names and not hasattr(builtins, name)}


def _is_of_the_tests(error: BaseException) -> bool:
    """They gave the program a value of a type that it cannot have given them itself."""
    return isinstance(error, NotPlain) and not isinstance(error, TooMuch)


def _shown(error: BaseException) -> str:
    if isinstance(error, _NoAnswer):
        return str(error.args[1])[:SHOWN_CHARS]
    return "".join(traceback.format_exception_only(type(error), error)).strip()[:SHOWN_CHARS]


def _line_number(error: BaseException) -> int:
    """The line of a test that an error comes from."""
    frames = [number for frame, number in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == "<test>"]
    return frames[-1] if frames else 0


def _line(text: str, error: BaseException) -> str:
    number, lines = _line_number(error), text.split("\n")
    shown = lines[number - 1].strip() if 0 < number <= len(lines) else ""
    return f"{_shown(error)}; in `{shown[:SHOWN_CHARS]}`"
