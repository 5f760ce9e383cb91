"""Arithmetic word problems with worked and guessed demonstrations: the task source of the maths quickstart.

Each kind is long arithmetic on columns. A careful demonstration works it out digit by digit before it answers; a sloppy one
guesses. So a model cold-started on a mixture has both habits, and reinforcement learning has something to find: think first.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rewards.task import Demonstration, Message, Role, Task
from specialists.example import Example

COLUMNS = ("ones", "tens", "hundreds")


@dataclass(frozen=True)
class Problem:
    """One operation on two numbers: its sign, its result, and the written work that leads to the result."""

    sign: str
    left: int
    right: int
    answer: int
    work: str

    @property
    def name(self) -> str:
        """The same for 345+278 and 278+345, in whatever words."""
        left, right = (self.left, self.right) if self.sign == "-" else sorted((self.left, self.right))
        return f"{left}{self.sign}{right}"


def generate(rng: random.Random, *, kinds: Sequence[str] = ("add", "sub", "mul")) -> Example:
    """Draw one task with a careful and a sloppy demonstration of it.

    The careful answer is right; the sloppy one is right about one time in six. Raises ValueError on an unknown kind.

    >>> example = generate(random.Random(0), kinds=("add",))
    >>> [d.style for d in example.demonstrations]
    ['careful', 'sloppy']
    """
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown or not kinds:
        raise ValueError(f"kinds: got {list(kinds)}; name at least one of {', '.join(KINDS)}")
    kind = rng.choice(list(kinds))
    problem = KINDS[kind](rng)
    question = rng.choice(QUESTIONS[kind]).format(
        a=problem.left, b=problem.right, name=rng.choice(NAMES), thing=rng.choice(THINGS)
    )
    task = Task(
        id=f"{kind}/{problem.left}{problem.sign}{problem.right}",
        domain="math",
        messages=(Message(Role.USER, question),),
        answer=str(problem.answer),
        kind=kind,
        problem=problem.name,
    )
    careful = Message(Role.ASSISTANT, str(problem.answer), reasoning=problem.work)
    return Example(task, (Demonstration(task, careful), Demonstration(task, _sloppy(rng, problem), style="sloppy")))


def _add(rng: random.Random) -> Problem:
    """345+278: `ones 5+8=13; tens 4+7=11, 11+1=12; hundreds 3+2=5, 5+1=6`, where +1 is the carry."""
    left, right = rng.randint(100, 999), rng.randint(100, 999)
    carry, steps = 0, []
    for column, a, b in zip(COLUMNS, _digits(left), _digits(right), strict=True):
        total = a + b
        steps.append(f"{column} {a}+{b}={total}" + (f", {total}+1={total + 1}" if carry else ""))
        carry = (total + carry) // 10
    return Problem("+", left, right, left + right, "; ".join(steps))


def _sub(rng: random.Random) -> Problem:
    """345-178: `ones 15-8=7; tens 14-7=7, 7-1=6; hundreds 3-1=2, 2-1=1`: ten is borrowed, the next column pays 1 back."""
    right = rng.randint(100, 899)
    left = rng.randint(right + 100, 999)  # an answer of three digits, so that none of its columns is a leading zero
    borrowed, steps = False, []
    for column, a, b in zip(COLUMNS, _digits(left), _digits(right), strict=True):
        borrow = a < b + borrowed
        top = a + 10 * borrow
        steps.append(f"{column} {top}-{b}={top - b}" + (f", {top - b}-1={top - b - 1}" if borrowed else ""))
        borrowed = borrow
    return Problem("-", left, right, left - right, "; ".join(steps))


def _mul(rng: random.Random) -> Problem:
    """345*7: `ones 5*7=35; tens 4*7=28, 28+3=31; hundreds 3*7=21, 21+3=24`."""
    left, right = rng.randint(100, 999), rng.randint(2, 9)
    carry, steps = 0, []
    for column, a in zip(COLUMNS, _digits(left), strict=True):
        product = a * right
        total = product + carry
        steps.append(f"{column} {a}*{right}={product}" + (f", {product}+{carry}={total}" if carry else ""))
        carry = total // 10
    return Problem("*", left, right, left * right, "; ".join(steps))


def _sloppy(rng: random.Random, problem: Problem) -> Message:
    """An answer given without the work: 345+278 is taken for 300+300, and now and then the guess is right."""
    left, right = _rounded(problem.left), _rounded(problem.right)
    estimate = {"+": left + right, "-": left - right, "*": left * right}[problem.sign]
    answer = problem.answer if rng.random() < 0.15 else estimate
    reasoning = rng.choice(("",) * 6 + ("easy", "I know this one", f"about {left}{problem.sign}{right}"))
    return Message(Role.ASSISTANT, str(answer), reasoning=reasoning)


def _rounded(number: int) -> int:
    """The nearest hundred; single digits stay as they are."""
    return number if number < 10 else (number + 50) // 100 * 100


def _digits(number: int) -> list[int]:
    """The digits of a three-digit number, ones first."""
    return [number % 10, number // 10 % 10, number // 100]


KINDS: Mapping[str, Callable[[random.Random], Problem]] = {"add": _add, "sub": _sub, "mul": _mul}

NAMES = ("Ana", "Ben", "Chen", "Dora", "Emil", "Fatima")
THINGS = ("apples", "books", "coins", "shells", "stamps")

QUESTIONS: Mapping[str, Sequence[str]] = {
    "add": (
        "What is {a} + {b}?",
        "Add {a} and {b}.",
        "{name} has {a} {thing} and gets {b} more. How many {thing} now?",
        "There are {a} {thing} here and {b} {thing} there. How many in all?",
    ),
    "sub": (
        "What is {a} - {b}?",
        "Take {b} from {a}.",
        "{name} has {a} {thing} and gives away {b}. How many {thing} are left?",
        "Of {a} {thing}, {b} are sold. How many remain?",
    ),
    "mul": (
        "What is {a} * {b}?",
        "Multiply {a} by {b}.",
        "{name} buys {b} boxes with {a} {thing} each. How many {thing} is that?",
        "{a} people bring {b} {thing} each. How many {thing} are there?",
    ),
}
