"""Small programs over lists of integers: their operations, their one-edit mutants, and tests that tell the two apart.

A program is a sequence of Python expressions over `xs`, its steps. `specialists/programs.py` words them as tasks.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain
from typing import Any, TypeAlias

Program: TypeAlias = tuple[str, ...]  # expressions, in the order in which they run; the last one is what is returned
Value: TypeAlias = list[int] | int
Trace: TypeAlias = list[Any]  # a list before each step, and then the program's result

ENTRY_POINT = "solve"
NUM_INPUTS = 60  # candidates among which the tests are chosen
MIN_RESULTS = 4  # different ones among the tests, for programs that guess


@dataclass(frozen=True)
class Operation:
    """One step: Python over `xs`, its short name in a plan, and how a person asks for it. `{k}` is a number of its range.

    >>> Operation("[x+{k} for x in xs]", "+{k}", ("add {k} to each",), numbers=range(1, 10)).at(3).expression
    '[x+3 for x in xs]'
    """

    expression: str
    name: str
    phrases: tuple[str, ...]
    numbers: range = range(1)  # range(1): it takes none
    shown: str = ""  # how a person asks for it without naming the number: {a} becomes {b}
    ends: bool = False  # its result is a number, so nothing can follow

    def at(self, number: int) -> Operation:
        """The same step with its number filled in."""
        expression, name = (text.replace("{k}", str(number)) for text in (self.expression, self.name))
        phrases = tuple(phrase.replace("{k}", str(number)) for phrase in self.phrases)
        return replace(self, expression=expression, name=name, phrases=phrases, numbers=range(number, number + 1))


SHOWN = {
    "+": "add the same to each so that {a} becomes {b}",
    "-": "take the same from each so that {a} becomes {b}",
}
OPERATIONS = (
    Operation("[x+{k} for x in xs]", "+{k}", ("add {k} to each", "raise each by {k}"), range(2, 10), SHOWN["+"]),
    Operation("[x-{k} for x in xs]", "-{k}", ("take {k} from each", "lower each by {k}"), range(2, 10), SHOWN["-"]),
    Operation("[x*{k} for x in xs]", "*{k}", ("multiply each by {k}", "make each {k} times as big"), range(2, 10)),
    Operation("[x for x in xs if x%2==0]", "even", ("keep the even ones", "leave only even ones")),
    Operation("[x for x in xs if x%2==1]", "odd", ("keep the odd ones", "leave only odd ones")),
    Operation("[x for x in xs if x>{k}]", "above {k}", ("keep those above {k}", "leave only those above {k}"), range(2, 10)),
    Operation("[x for x in xs if x<{k}]", "below {k}", ("keep those below {k}", "leave only those below {k}"), range(2, 10)),
    Operation("sorted(xs)", "up", ("sort them up", "put the smallest first")),
    Operation("sorted(xs, reverse=True)", "down", ("sort them down", "put the biggest first")),
    Operation("xs[::-1]", "reverse", ("reverse them", "turn the list around")),
    Operation("list(dict.fromkeys(xs))", "unique", ("drop repeated ones", "keep one of each")),
    Operation("xs[:{k}]", "first {k}", ("keep the first {k}", "take {k} from the front"), range(2, 6)),
    Operation("xs[{k}:]", "skip {k}", ("drop the first {k}", "skip {k} at the front"), range(2, 6)),
    Operation("sum(xs)", "sum", ("add them all up", "give their sum"), ends=True),
    Operation("len(xs)", "count", ("count them", "give how many there are"), ends=True),
    Operation("max(xs, default=0)", "max", ("give the biggest or 0", "give the largest or 0"), ends=True),
)


def draw(rng: random.Random, length: int) -> tuple[Operation, ...]:
    """A pipeline of so many steps, each of which matters to its neighbours; where one ends in a number it is the last."""
    steps: list[Operation] = []
    while len(steps) < length:
        operation = rng.choice(OPERATIONS)
        step = operation.at(rng.choice(operation.numbers))
        last = len(steps) == length - 1
        if (last or not step.ends) and (not steps or _interact(steps[-1].expression, step.expression)):
            steps.append(step)
    return tuple(steps)


def source(program: Program) -> str:
    """The program as a Python function.

    >>> print(source(("sorted(xs)", "xs[:2]")))
    def solve(xs):
        xs = sorted(xs)
        return xs[:2]
    """
    *steps, last = program
    return "\n    ".join([f"def {ENTRY_POINT}(xs):", *(f"xs = {step}" for step in steps), f"return {last}"])


def run(program: Program, xs: list[int]) -> Value | None:
    """What the program returns for `xs`, which it leaves as it is; None where it raises."""
    value: Value | None = _run(program, xs)
    return value


def choose_tests(rng: random.Random, program: Program) -> list[list[int]] | None:
    """Inputs on which every mutant of the program is told apart from it; None where one of them cannot be.

    A mutant that no input tells apart does the same, or nearly so: such a program has a step that hardly matters.
    """
    traces: list[Trace] = []  # of every input so far
    chosen: list[Trace] = []

    def more() -> Iterator[Trace]:
        """The inputs that are not chosen, drawn as they are needed."""
        yield from (trace for trace in traces if trace not in chosen)
        while len(traces) < NUM_INPUTS:
            traces.append(_trace(program, _draw_input(rng)))
            yield traces[-1]

    for mutant in mutants(program):
        if not any(_differs(mutant, trace) for trace in chosen):
            found = next((trace for trace in more() if _differs(mutant, trace)), None)
            if found is None:
                return None
            chosen.append(found)
    results: list[Value] = []
    for trace in chain(tuple(chosen), more()):
        if len(results) == MIN_RESULTS:
            break
        if trace[-1] not in results:
            results.append(trace[-1])
            chosen += [] if trace in chosen else [trace]
    return [xs for xs, *_ in chosen] if len(results) == MIN_RESULTS else None


@dataclass(frozen=True)
class Mutant:
    """A program with one mistake; its first `same` steps are those of the original."""

    program: Program
    same: int


def mutants(program: Program) -> Iterator[Mutant]:
    """Every program that is one edit away: a step dropped, done twice, swapped with the next, changed, or another one."""
    for i, step in enumerate(program):
        before, after = program[:i], program[i + 1 :]
        if len(program) > 1:
            yield Mutant(before + after, i)
        if step not in ENDS and not _repeats(step):
            yield Mutant((*before, step, step, *after), i + 1)
        if after and step not in ENDS and after[0] not in ENDS:
            yield Mutant((*before, after[0], step, *after[1:]), i)
        for other in (*changed(step), *replacements(step)):
            yield Mutant((*before, other, *after), i)


@cache
def changed(step: str) -> tuple[str, ...]:
    """The step with one constant, operator or sign changed, except where that does the same."""
    tree = ast.parse(step, mode="eval")
    found = {ast.unparse(variant) for variant in _variants(tree)}
    return tuple(sorted(text for text in found if not _equal(text, step)))


@cache
def replacements(step: str) -> tuple[str, ...]:
    """The step with any other number, and the other operations of its kind in its place, with its number if they take one."""
    mine, number = _STEPS[step]
    found = [mine.at(k).expression for k in mine.numbers]
    for operation in OPERATIONS:
        if operation.ends == mine.ends and operation is not mine:
            found.append(operation.at(number if number in operation.numbers else operation.numbers[0]).expression)
    return tuple(other for other in found if not _equal(other, step))


def _variants(tree: ast.Expression) -> Iterator[ast.AST]:
    """The tree with one node changed, for each way to change one."""
    for index, node in enumerate(ast.walk(tree)):
        for change in _changes(node):
            copy = ast.parse(ast.unparse(tree), mode="eval")
            target = list(ast.walk(copy))[index]
            yield _Replace(target, change).visit(copy)


def _changes(node: ast.AST) -> Iterator[ast.expr]:
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int):
        yield from (ast.Constant(node.value + 1), ast.Constant(node.value - 1))
    elif isinstance(node, ast.BinOp):
        for operator in (ast.Add(), ast.Sub(), ast.Mult(), ast.FloorDiv(), ast.Mod()):
            if type(operator) is not type(node.op):
                yield ast.BinOp(node.left, operator, node.right)
    elif isinstance(node, ast.Compare):
        for comparison in (ast.Eq(), ast.NotEq(), ast.Lt(), ast.LtE(), ast.Gt(), ast.GtE()):
            if type(comparison) is not type(node.ops[0]):
                yield ast.Compare(node.left, [comparison], node.comparators)
    elif isinstance(node, ast.UnaryOp):
        yield node.operand


class _Replace(ast.NodeTransformer):
    def __init__(self, target: ast.AST, change: ast.expr) -> None:
        self.target, self.change = target, change

    def visit(self, node: ast.AST) -> ast.AST:
        return self.change if node is self.target else super().visit(node)


@cache
def _compiled(step: str) -> Callable[[Any], Any]:
    function: Callable[[Any], Any] = eval(compile(f"lambda xs: {step}", "<step>", "eval"))
    return function


def _run(program: Sequence[str], xs: Any) -> Any:
    try:
        for step in program:
            xs = _compiled(step)(xs)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return xs


def _trace(program: Program, xs: list[int]) -> Trace:
    states: Trace = [xs]
    for step in program:
        states.append(_compiled(step)(states[-1]))
    return states


def _differs(mutant: Mutant, trace: Trace) -> bool:
    return bool(_run(mutant.program[mutant.same :], trace[mutant.same]) != trace[-1])


@cache
def _interact(one: str, other: str) -> bool:
    """Whether neither step makes the other needless, and their order matters."""
    left = [(one,)] if other in ENDS else [(one,), (other, one)]
    programs = [(other,), *left]
    return not any(all(_run(p, xs) == _run((one, other), xs) for xs in _BATTERY[:60]) for p in programs)


@cache
def _repeats(step: str) -> bool:
    """Whether doing it twice is doing it once, as with sorting."""
    return _equal(step, step, twice=True)


def _equal(one: str, other: str, *, twice: bool = False) -> bool:
    program = (one, one) if twice else (one,)
    return all(_run(program, xs) == _run((other,), xs) for xs in _BATTERY)


def _draw_input(rng: random.Random) -> list[int]:
    low, high = rng.choice(((-9, 9), (0, 9), (-30, 30), (0, 20)))
    return rng.choices(range(low, high + 1), k=rng.choice((0, 3, 5, 6, 7, 8, 9)))


ENDS = frozenset(op.expression for op in OPERATIONS if op.ends)
_STEPS = {op.at(k).expression: (op, k) for op in OPERATIONS for k in op.numbers}
_BATTERY = [_draw_input(random.Random(i)) for i in range(200)]
