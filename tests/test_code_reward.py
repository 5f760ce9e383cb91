"""The code verifier: three kinds of problems, what each failure is called, and that only a right program is worth 1."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Coroutine, Iterator
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

import pytest

from rewards.boxes import Boxes
from rewards.code import (
    CodeLimits,
    CodeResult,
    CodeVerdict,
    NotJudgedError,
    judge,
    program_of,
    read_problem,
    source,
    values,
    verify,
)
from rewards.code.compare import same_output, same_value
from rewards.config import SandboxConfig
from rewards.errors import UserError
from rewards.result import Score
from rewards.task import Task
from tests import boxes

T = TypeVar("T")
NEEDS_BWRAP = pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bubblewrap: apt-get install bubblewrap")
SUCC = {"entry_point": "f", "tests": [{"args": [i], "expected": i + 1} for i in range(4)]}
SUM = {"tests": [{"stdin": "1 2\n", "stdout": "3"}, {"stdin": "5\n6\n", "stdout": "11\n\n"}]}
# No test here judges by the clock: what waits is ended after `idle_s` without work, whatever the machine does meanwhile.
QUICK = CodeLimits(cpu_s=0.5, idle_s=1.0, wall_s=280.0)


class Verifier:
    """Boxes, and the loop that they belong to."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        self.boxes = Boxes(SandboxConfig(num_boxes=2))

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def judge(self, data: dict[str, Any], program: str, limits: CodeLimits = QUICK, **options: Any) -> CodeResult:
        return self.wait(judge(read_problem(task(data)), program, self.boxes, limits, **options))

    def verify(self, data: dict[str, Any], completion: str, **options: Any) -> Score:
        return self.wait(verify(task(data), completion, self.boxes, wall_s=280.0, **options))


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    verifier = Verifier()
    with verifier.runner:
        yield verifier
        verifier.wait(verifier.boxes.close())


def task(data: dict[str, Any]) -> Task:
    return Task("t", "code", (), data=data)


def block(program: str) -> str:
    return f"<think>hm</think>Here:\n```python\n{program}\n```\n"


def verdicts(result: CodeResult) -> list[str]:
    return [test.verdict.value for test in result.tests]


# values, comparison, texts


class Sly(int):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__


VALUES = [
    None, True, False, 0, 1, 1.0, 1 + 0j, 2**70, float(2**70), 1 / 3, float("inf"), float("nan"), -0.0, 1j, "1", "", "a\ud800",
    b"1", bytearray(b"1"), [1], [True], (1,), [1.0], [[1]], [(1,)], {1}, frozenset([1.0]), {1: [2]}, {1.0: [2.0]}, {1: (2,)},
    {}, [], (), set(), range(3), range(0, 3, 1), {"a": 1, "b": 2}, {"b": 2, "a": 1}, {1: 0}.keys(), {(1, 2)}, {(1.0, 2)},
    {frozenset([1])}, {frozenset([True])}, [float("nan")], [None], {"x": {"y": [1, (2, {3})]}},
]  # fmt: skip


def test_values_compare_as_python_compares_them() -> None:
    for a, b in product(VALUES, VALUES):
        if a is b and "nan" in repr(a):
            continue  # what comes out of a box is never the same object
        assert same_value(values.encode(a), values.encode(b)) == bool(a == b), (a, b)


def test_values_come_back_as_what_they_were() -> None:
    for value in VALUES:
        back = values.decode(values.from_text(values.to_text(values.encode(value))))
        assert type(back) is type(value)
        assert repr(back) == repr(value)


def test_what_is_sent_is_what_a_value_holds_and_not_what_it_says() -> None:
    assert values.encode(Sly(3)) == 3
    assert not same_value(values.encode(Sly(3)), values.encode(4))
    with pytest.raises(values.NotPlain, match="object"):
        values.encode([object()])
    deep: list[Any] = []
    for _ in range(300):
        deep = [deep]
    with pytest.raises(values.NotPlain, match="nested"):
        values.encode(deep)


@pytest.mark.parametrize(
    "text",
    ["", "{}", '["x"]', '["l"', '["n","zz"]', '["f","1"]', '["d",1]', '["d",[1]]', '["o",0,true,"x"]', "[" * 5000,
     '["D","1e999999999"]', '["s",["l",1]]', '["F",1,0]', '[["l"]]', "[]", '["b","?"]', '["r",1]', '["T","x"]', '["c","a",1]'],
)  # fmt: skip
def test_a_text_that_is_no_value_is_refused(text: str) -> None:
    with pytest.raises(values.NotPlain):
        values.decode(values.from_text(text))


def test_numbers_may_differ_only_where_an_option_says_so() -> None:
    assert not same_value(["l", 0.1 + 0.2], ["l", 0.3])
    assert same_value(["l", 0.1 + 0.2], ["l", 0.3], tolerance=1e-9)
    assert not same_value(["l", 0.1], ["l", 0.3], tolerance=1e-9)
    assert same_value(["t", 1, ["t", 2]], ["l", 1, ["l", 2]], tuples_as_lists=True)
    assert same_output("a 0.333\n", "a 0.3333", tolerance=1e-2)
    assert not same_output("b 0.333\n", "a 0.3333", tolerance=1e-2)
    assert not same_output("1 2", "1\n2")
    assert same_output("x  \ny\n\n\n", "x\ny")
    assert not same_output("\nx", "x")


def test_numbers_that_collide_in_a_dictionary_do_not_stop_the_comparison() -> None:
    modulus = 2**61 - 1
    tree = ["s", *(["n", f"{modulus * i:x}"] for i in range(1, 40_000))]
    assert same_value(tree, tree)


@pytest.mark.parametrize(
    ("completion", "program"),
    [
        ("```python\na\n```\n```python\nb\n```\nand `c`", "b\n"),
        ("<think>```python\na\n```</think>```py\nb\n```", "b\n"),
        ("<think>```python\na\n```", ""),
        ("a = 1", "a = 1"),
        ("    return 1\n", "    return 1\n"),
        ("```\na\n```", "a\n"),
        ("```python\na\n```\n```text\nb\n```", "a\n"),
        ("```python\nnever closed", "never closed"),
    ],
)
def test_the_program_is_the_last_python_block_of_what_is_visible(completion: str, program: str) -> None:
    assert program_of(completion) == program


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "it has nothing"),
        ({"tests": [{"args": [1], "expected": 1}]}, "entry_point: got None"),
        ({"entry_point": "f", "tests": [{"args": [1]}]}, "expected or raises"),
        ({"entry_point": "f", "tests": [{"args": 1, "expected": 1}]}, "got args 1"),
        ({"entry_point": "f", "asserts": ["assert f("]}, "is no Python"),
        ({"entry_point": "f x", "asserts": ["assert f()"]}, "entry_point: got 'f x'"),
        ({"tests": [{"stdin": 1, "stdout": "1"}]}, "stdin and stdout are texts"),
    ],
)
def test_data_that_is_no_problem_is_named(data: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_problem(task(data))


def test_tests_may_be_kept_as_json_text_or_literals() -> None:
    assert read_problem(task({**SUCC, "tests": '[{"args": [0], "expected": 1}]'})).tests  # type: ignore[dict-item]
    literal = {"entry_point": "f", "tests": [{"args": "[(1, 2)]", "expected": "{1, 2}", "literal": True}]}
    problem: Any = read_problem(task(literal))
    assert problem.tests[0].args == (["t", 1, 2],)
    assert problem.tests[0].expected == ["s", 1, 2]


def test_sources_for_boxes_have_each_name_once() -> None:
    import ast

    from rewards.code import asserts, beside, program, shim

    for modules in ((values, program, beside), (values, shim, asserts)):
        tree = ast.parse(source.joined(*modules))
        names = [n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)]
        names += [t.id for n in tree.body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)]
        assert len(names) == len(set(names))
        assert not [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and str(n.module).startswith("rewards")]


def test_what_ends_all_processes_does_nothing_outside_of_a_box() -> None:
    from rewards.code import beside

    with pytest.raises(RuntimeError, match="not the agent of a box"):
        beside.run({})


# function calls


@NEEDS_BWRAP
@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("def f(x): return x + 1", ["passed"] * 4),
        ("def f(x): return x", ["wrong"] * 4),
        ("def f(x): return x + 1 if x != 2 else 1 / 0", ["passed", "passed", "runtime_error", "passed"]),
        ("def f(x): return (x + 1", ["compile_error"] * 4),
        ("x = '\\0", ["compile_error"] * 4),
        ("1 / 0", ["runtime_error"] * 4),
        ("def g(x): return x + 1", ["no_entry_point"] * 4),
        ("def f(x):\n    while x == 1: pass\n    return x + 1", ["passed", "timeout", "passed", "passed"]),
        ("import time\ndef f(x):\n    if x == 1: time.sleep(9e9)\n    return x + 1", ["passed", "timeout", "passed", "passed"]),
        ("def f(x): return [0] * 10**10 and x + 1 if x == 1 else x + 1", ["passed", "out_of_memory", "passed", "passed"]),
        ("def f(x): return 'x' * 2**21 if x == 1 else x + 1", ["passed", "output_limit", "passed", "passed"]),
        ("def f(x): return object() if x == 1 else x + 1", ["passed", "not_plain", "passed", "passed"]),
        ("import os\ndef f(x): return x + 1 if x else os._exit(0)", ["runtime_error", "passed", "passed", "passed"]),
        ("import os\ndef f(x): return x + 1 if x else os.kill(0, 9)", ["runtime_error", "passed", "passed", "passed"]),
        ("import os\ndef f(x): return x + 1 if x else os.kill(os.getppid(), 9)", ["runtime_error", *["passed"] * 3]),
        ("def f(x): return x + 1 if x else exit(0)", ["runtime_error", "passed", "passed", "passed"]),
        ("import os\ndef f(x):\n    while x == 1: os.fork()\n    return x + 1", ["passed", "process_limit", *["passed"] * 2]),
        ("class Solution:\n    def f(self, x): return x + 1", ["passed"] * 4),
        ("seen = []\ndef f(x):\n    seen.append(x)\n    return x + len(seen)", ["passed"] * 4),
        ("def f(x):\n    print('chatter' * x)\n    return x + 1.0", ["passed"] * 4),
        ("def f(x): return True if x == 0 else x + 1", ["passed"] * 4),  # as Python has it
    ],
)  # fmt: skip
def test_each_call_has_its_own_verdict(verifier: Verifier, program: str, expected: list[str]) -> None:
    assert verdicts(verifier.judge(SUCC, program, partial=True)) == expected


@NEEDS_BWRAP
def test_without_partial_all_tests_must_pass_and_the_rest_is_not_run(verifier: Verifier) -> None:
    program = "def f(x): return x + 1 if x != 1 else 0"
    score = verifier.verify(SUCC, block(program))
    assert score.value == 0.0
    assert "test 2: wrong: it gave 0" in score.note
    score = verifier.verify(SUCC, block(program), partial=True)
    assert score.value == 0.75
    assert score.parts["passed_tests"] == 0.75
    assert verifier.verify(SUCC, block("def f(x): return x + 1")).value == 1.0
    assert verifier.verify(SUCC, "I do not know.").value == 0.0
    assert verifier.verify(SUCC, "").value == 0.0


@NEEDS_BWRAP
def test_a_call_may_be_expected_to_raise(verifier: Verifier) -> None:
    data = {"entry_point": "f", "tests": [{"args": [-1], "raises": "ValueError"}, {"args": [4], "expected": 2}]}
    assert verdicts(verifier.judge(data, "import math\ndef f(x): return math.isqrt(x)")) == ["passed", "passed"]
    assert verdicts(verifier.judge(data, "def f(x): return 2")) == ["wrong", "passed"]
    program = "class E(ValueError): pass\ndef f(x):\n    if x < 0: raise E\n    return 2"
    assert verdicts(verifier.judge(data, program)) == ["passed", "passed"]
    assert verdicts(verifier.judge(data, "def f(x): return [][x]")) == ["runtime_error", "runtime_error"]


@NEEDS_BWRAP
def test_values_cross_exactly(verifier: Verifier) -> None:
    words = ("set(", "range", "dict_", "nan", "bytearray")  # that are no literals, or equal nothing
    literals = [repr(v).replace("inf", "1e999") for v in VALUES if not any(word in repr(v) for word in words)]
    data = {"entry_point": "f", "tests": [{"args": f"[{text}]", "expected": text, "literal": True} for text in literals]}
    assert verdicts(verifier.judge(data, "def f(x): return x")) == ["passed"] * len(literals)
    data = {"entry_point": "f", "tests": [{"args": [1, 2], "kwargs": {"k": [3]}, "expected": [1, 2, [3]]}]}
    assert verdicts(verifier.judge(data, "def f(a, b, *, k): return [a, b, k]")) == ["passed"]
    assert verdicts(verifier.judge(data, "def f(a, b, *, k): return (a, b, k)")) == ["wrong"]
    assert verdicts(verifier.judge(data, "def f(a, b, *, k): return (a, b, k)", tuples_as_lists=True)) == ["passed"]


@NEEDS_BWRAP
def test_nothing_of_one_completion_is_left_to_the_next(verifier: Verifier) -> None:
    leaving = """
import os, sys
def f(x):
    if os.path.exists("/tmp/mark") or os.path.exists("/dev/shm/mark"): return "seen"
    for path in ("/tmp/mark", "/dev/shm/mark"): open(path, "w").close()
    if os.fork() == 0:
        os.setsid()
        if os.fork(): os._exit(0)
        while True:
            for path in ("/tmp/mark", "/dev/shm/mark"): open(path, "w").close()
    return x + 1
"""
    for _ in range(3):
        assert verdicts(verifier.judge(SUCC, leaving)) == ["passed"] * 4


# input and output


@NEEDS_BWRAP
@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("import sys\nprint(sum(map(int, sys.stdin.read().split())))", ["passed", "passed"]),
        ("print(sum(int(word) for line in open(0) for word in line.split()))\nexit(0)", ["passed", "passed"]),
        ("import os\nos.write(1, str(sum(map(int, os.read(0, 99).split()))).encode())\nos._exit(0)", ["passed", "passed"]),
        ("import threading, sys\nthreading.Thread(target=lambda: print(sum(map(int, sys.stdin.read().split())))).start()",
         ["passed", "passed"]),
        ("import atexit, sys\natexit.register(lambda: print(sum(map(int, sys.stdin.read().split()))))", ["passed", "passed"]),
        ("if __name__ == '__main__':\n    import sys\n    sys.stdout.write(str(sum(map(int, sys.stdin))) if 0 else '3 ')",
         ["passed", "wrong"]),
        ("print(sum(map(int, input().split())))", ["passed", "wrong"]),
        ("print(3); raise SystemExit(1)", ["runtime_error", "runtime_error"]),
        ("print(3); 1 / 0", ["runtime_error", "runtime_error"]),
        ("while True: print('x' * 999)", ["output_limit", "output_limit"]),
        ("print(3); import time; time.sleep(9e9)", ["timeout", "timeout"]),
        ("while True: pass", ["timeout", "timeout"]),
        ("print(3", ["compile_error", "compile_error"]),
        ("input(); input(); input()", ["runtime_error", "runtime_error"]),
    ],
)  # fmt: skip
def test_what_a_program_prints_is_compared(verifier: Verifier, program: str, expected: list[str]) -> None:
    assert verdicts(verifier.judge(SUM, program, partial=True)) == expected


@NEEDS_BWRAP
def test_much_input_and_output_in_many_tests(verifier: Verifier) -> None:
    lines = "\n".join(["é" * 40] * 10_000)
    data = {"tests": [{"stdin": f"{i}\n{lines}", "stdout": f"{i}\n{lines}"} for i in range(11)]}
    program = "import sys\nsys.stdout.write(sys.stdin.read())"
    limits = CodeLimits(wall_s=280.0, output_bytes=4 << 20)
    assert verdicts(verifier.judge(data, program, limits)) == ["passed"] * 11


# tests that are code

HUMAN_EVAL = {
    "prompt": "from typing import List\n\ndef helper(x: int) -> int:\n    return x * 2\n\n"
    "def twice(xs: List[int]) -> List[int]:\n"
    '    """Each doubled.\n    >>> twice([1])\n    [2]\n    """\n',
    "entry_point": "twice",
    "test": "METADATA = {}\n\ndef check(candidate):\n    import random\n    assert candidate([]) == []\n"
    "    for _ in range(20):\n"
    "        xs = [random.randrange(9) for _ in range(3)]\n        assert candidate(xs) == [helper(x) for x in xs], 'no'\n",
}  # fmt: skip


@NEEDS_BWRAP
def test_a_check_function_is_run_beside_the_program(verifier: Verifier) -> None:
    whole = block("def twice(xs):\n    return [helper(x) for x in xs]")
    assert verifier.verify(HUMAN_EVAL, whole).value == 1.0
    assert verifier.verify(HUMAN_EVAL, whole).value == 1.0  # the calls are known by now
    assert verifier.verify(HUMAN_EVAL, "    return [helper(x) for x in xs]\n").value == 1.0  # goes on where the prompt ends
    assert verifier.verify(HUMAN_EVAL, block(HUMAN_EVAL["prompt"] + "    return [x + x for x in xs]")).value == 1.0
    wrong = verifier.verify(HUMAN_EVAL, block("def twice(xs):\n    return xs"))
    assert wrong.value == 0.0
    assert "wrong: AssertionError: no" in wrong.note
    assert 0 < (verifier.verify(HUMAN_EVAL, block("def twice(xs):\n    return xs"), partial=True).value or 0) < 0.5


# A program and, after the line of dashes, its tests, one a paragraph; all of them pass in Python, which is tried as well.
IN_PYTHON = """
def f(xs): xs.sort()
---
xs = [3, 1]
assert f(xs) is None
assert xs == [1, 3]
===
def f(d): d["a"].append(d.pop("b"))
---
inner = [1]
d = {"a": inner, "b": 2}
f(d)
assert d == {"a": [1, 2]}
assert inner == [1, 2]
===
def f(a, *, b=2): return a * b
---
assert f(2) == 4

assert f(2, b=3) == 6 and f(a=1) == 2
===
def f(n):
    for i in range(n): yield i, {i}
---
assert list(f(2)) == [(0, {0}), (1, {1})]

assert dict(zip("ab", f(2)))["b"][1] == {1}
===
def f():
    n = 0
    while True:
        yield n
        n += 1
---
import itertools
assert list(itertools.islice(f(), 3)) == [0, 1, 2]
===
calls = 0
def f():
    global calls
    calls += 1
    return calls
---
assert f() == 1

assert f() + f() == 5
===
def f(x): return x
---
import math
assert math.isnan(f(math.nan)) and f(-math.inf) < 0

assert f(1j) == 1j and f(b"x") == b"x" and f({1: (2, [3])}) == {1: (2, [3])}

assert f({1}) == {1} and f(None) is None and f(True) is True and f(frozenset({2})) == {2} and f(range(3)) == range(3)

import decimal, fractions, datetime
assert f(decimal.Decimal("1.10")) == decimal.Decimal("1.1") and f(fractions.Fraction(1, 3)) * 3 == 1
assert f(datetime.datetime(2020, 1, 2, 3)).hour == 3 and f(datetime.timedelta(1)).days == 1 == f(datetime.date(3, 2, 1)).day
===
def f(x):
    if x < 0: raise ValueError("negative")
    return x ** 0.5
---
try:
    f(-1)
except ValueError as e:
    assert str(e) == "negative"
else:
    assert False

import pytest
with pytest.raises(ValueError, match="neg"):
    f(-1)
assert f(2) == pytest.approx(1.41421356)
===
class Stack:
    def __init__(self): self.items = []
    def push(self, x):
        self.items.append(x)
        return self
    def __len__(self): return len(self.items)
---
s = Stack()
assert s.push(1).push(2) is s
assert s.items == [1, 2] and len(s) == 2
s.items = [5]
assert len(s) == 1
===
def f(n): return lambda x: x + n
def g(x): return 2 * x
---
assert f(3)(4) == 7

assert g(f(1)(1)) == 4
===
def f(n): return n if n < 2 else f(n - 1) + f(n - 2)
---
assert [f(i) for i in range(8)] == [0, 1, 1, 2, 3, 5, 8, 13]

x = f(5)
while x < 20:
    x = x + f(x % 7)
assert x == 24
===
import random
def f(): return random.random()
def g(x): return x
---
assert 0 <= g(f()) < 1

x = f()
assert g(x) == x
===
def f(x): return {"k": x}.items()
---
assert dict(f([1])) == {"k": [1]}
===
import collections
def f(s): return collections.Counter(s)
---
assert f("aab") == {"a": 2, "b": 1}
===
def f(depth): return f(depth - 1) + 1 if depth else 0
---
assert f(900) == 900
"""


@NEEDS_BWRAP
@pytest.mark.parametrize("text", IN_PYTHON.strip().split("\n===\n"))
def test_asserts_see_what_they_would_see_in_python(verifier: Verifier, text: str) -> None:
    program, tests = text.split("\n---\n")
    asserts, names = tests.split("\n\n"), dict[str, Any]()
    for part in (program, *asserts):
        exec(part, names)
    result = verifier.judge({"entry_point": "Stack" if "Stack" in program else "f", "asserts": asserts}, program)
    assert verdicts(result) == ["passed"] * len(asserts), result.note


@NEEDS_BWRAP
@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("def f(x): return x", ["wrong", "wrong", "passed"]),
        ("def f(x): return x + 1 if x else 1 / 0", ["passed", "runtime_error", "wrong"]),
        ("import sys\ndef f(x): sys.exit(0)", ["runtime_error"] * 3),
        ("import os\nos._exit(0)", ["runtime_error"] * 3),
        ("def f(x):\n    while True: pass", ["timeout"] * 3),
        ("f = (", ["compile_error"] * 3),
        ("g = 1", ["no_entry_point"] * 3),
        ("class E:\n    def __eq__(self, other): return True\ndef f(x): return E()", ["wrong"] * 3),
        ("class E(int):\n    def __eq__(self, other): return True\ndef f(x): return E(9)", ["wrong"] * 3),
        ("def f(x): raise AssertionError", ["runtime_error"] * 3),
        ("def f(x): raise GeneratorExit", ["runtime_error"] * 3),
        ("class S(str):\n    def __eq__(s, o): return True\n    __hash__ = str.__hash__\ndef f(x): return S()", ["wrong"] * 3),
    ],
)  # fmt: skip
def test_asserts_fail_by_name(verifier: Verifier, program: str, expected: list[str]) -> None:
    data = {"entry_point": "f", "asserts": ["assert f(1) == 2", "assert f(0) == 1", "assert f(7) == 7"]}
    result = verifier.judge(data, program, partial=True)
    assert verdicts(result) == expected, result.note


@NEEDS_BWRAP
def test_broken_tests_are_a_failure_and_no_zero(verifier: Verifier) -> None:
    for asserts, message in (
        (["import no_such_module\nassert f(1) == 1"], "no_such_module"),
        (["x = 1"], "never call f"),
        (["assert f(lambda: 1) == 1"], "cannot be sent"),
    ):
        with pytest.raises(Exception, match=message):
            verifier.judge({"entry_point": "f", "asserts": asserts}, "def f(x): return x")


FORGE = """
import json, os, resource
def tell(outcome):
    os.write(resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 1, json.dumps(outcome).encode() + b"\\n")
    os._exit(0)
"""
UNSENDABLE = {
    "def f(xs): xs.append(1 << 2_000_000)": None,
    "from decimal import Decimal\ndef f(xs): xs.append(Decimal('1e99999'))": None,
    f"{FORGE}def f(xs): tell({{'status': 'value', 'value': '4', 'changed': [[0, 'no']]}})": None,
    f"{FORGE}def f(xs): tell({{'status': 'value', 'value': '4', 'loading': True}})": None,
    "from decimal import Decimal\ndef f(xs): return Decimal('sNaN')": {"expected": 5},
    f"{FORGE}def f(xs): tell({{'status': 'raised', 'error': '', 'types': 5}})": {"raises": "KeyError"},
}


@NEEDS_BWRAP
@pytest.mark.parametrize("program", UNSENDABLE, ids=range(len(UNSENDABLE)))
def test_whatever_a_program_tells_it_is_judged(verifier: Verifier, program: str) -> None:
    """What has no score leaves its group: a wrong program must not come to that."""
    result = UNSENDABLE[program]
    tests = {"asserts": ["xs = [1]\nassert f(xs) == 5"]} if result is None else {"tests": [{"args": [[1]], **result}]}
    assert verifier.verify({"entry_point": "f", **tests}, block(program)).value == 0.0


@NEEDS_BWRAP
def test_a_loop_of_the_tests_is_not_ended_by_the_program(verifier: Verifier) -> None:
    data = {"entry_point": "f", "asserts": ["f(0)\nfor x in map(f, [1, 2]):\n    assert x == 7"]}
    assert verdicts(verifier.judge(data, "def f(x):\n    if x: raise StopIteration")) == ["runtime_error"]
    data = {"entry_point": "f", "asserts": ["try:\n    f(0)\nexcept StopIteration:\n    pass\nelse:\n    assert False"]}
    assert verdicts(verifier.judge(data, "def f(x): return next(iter([]))")) == ["passed"]


@NEEDS_BWRAP
def test_who_stops_what_watches_it_has_waited_too_long(verifier: Verifier) -> None:
    program = "import os, signal\nos.kill(os.getppid(), signal.SIGSTOP)\nimport time\ntime.sleep(9e9)\ndef f(x): return x + 1"
    limits = CodeLimits(cpu_s=0.5, idle_s=1.0, wall_s=3.0)
    with contextlib.suppress(NotJudgedError):  # it was not given any time for it: no zero, but no reward either
        assert verdicts(verifier.judge(SUCC, program, limits, partial=True)) == ["timeout"] * 4


@NEEDS_BWRAP
def test_honest_programs_pass_on_an_overloaded_machine(verifier: Verifier) -> None:
    asserts = {"entry_point": "f", "asserts": [f"assert f({i}) == {i + 1}" for i in range(4)]}
    calls = (
        (SUCC, "def f(x): return x + 1"),
        (SUM, "print(sum(map(int, open(0).read().split())))"),
        (asserts, "f = lambda x: x + 1"),
    )

    async def all_of_them() -> list[CodeResult]:
        limits = CodeLimits(wall_s=280.0)
        return await asyncio.gather(*[judge(read_problem(task(data)), p, verifier.boxes, limits) for data, p in calls * 8])

    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        found = verifier.wait(all_of_them())
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert [result.note for result in found if result.verdict is not CodeVerdict.PASSED] == []


@pytest.mark.skipif(os.geteuid() != 0 or boxes.lacking("crun") is not None, reason="needs root, crun, erofs-utils, mmdebstrap")
def test_the_same_in_containers(sandbox_home: Path) -> None:
    """There commands are another user than the box's agent, and the Python is the image's."""
    boxes.build_debian(sandbox_home)

    async def run() -> list[list[str]]:
        lent = Boxes(SandboxConfig(layer="container", image="debian"), home=sandbox_home)
        try:
            asserts = {"entry_point": "f", "asserts": ["assert f(1) == 2", "assert f(5) == 6"]}
            fork = "import os, signal\n\ndef f(x):\n    if os.fork() == 0:\n        signal.pause()\n    return x + 1\n"
            found = list[list[str]]()
            for data, program in (
                (SUCC, fork),
                (SUCC, "def f(x):\n    while x == 1: pass\n    return x + 1"),
                (SUM, "print(sum(map(int, open(0).read().split())))"),
                (asserts, "def f(x): return x + 1 if x < 3 else exit(0)"),
            ):
                result = await judge(read_problem(task(data)), program, lent, QUICK, partial=True)
                found.append(verdicts(result))
            return found
        finally:
            await lent.close()

    assert asyncio.run(run()) == [
        ["passed"] * 4, ["passed", "timeout", "passed", "passed"], ["passed"] * 2, ["passed", "runtime_error"],
    ]  # fmt: skip
