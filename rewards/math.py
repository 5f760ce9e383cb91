"""The verifier for mathematics: whether the final answer of a completion equals the task's answer.

`final_answer.py` finds the answer, `literals.py` reads plain numbers, and anything else is compared by `equality/`. Recipes
name it `rewards.math:verify`.
"""

from __future__ import annotations

import re

from rewards.equality.compare import equal
from rewards.final_answer import final_answer, yes_or_no
from rewards.literals import MAX_CHARS, literal, undelimited
from rewards.task import Task

_PERCENTAGE = re.compile(r"%|\bper ?cent", re.IGNORECASE)
_SPACE = re.compile(r"\s+|\$|\\(?:left|right|[,;:! ])")
_OPERATION = re.compile(  # what is not worked out yet, if it is copied; a fraction of numbers is
    r"[*^!=]|[0-9a-zA-Z)}]\s*[-+]|\\(?:times|cdot|div|sqrt|sin|cos|tan|log|ln|binom|frac\{[^{}]*[a-zA-Z])"
)
_CURRENCY = re.compile(r"[$€£]")
_DIVISION = re.compile(r"/\s*(?!1\b)[0-9]|frac\s*\{[^}]*\}\s*\{\s*(?!1\s*\})")


def verify(task: Task, completion: str) -> float:
    r"""1.0 where the final answer of `completion` equals `task.answer`, else 0.0.

    `completion` is the text as sampled. Where the prompt ended inside the thinking (our own chat format ends in
    `<think>`), the caller restores that prefix. Then only what follows the last `</think>` is read; thinking that was
    opened and never closed has no answer; a text without either mark is read whole, as from models that do not think.

    The final answer is the last \boxed{...}, else what follows the last `####`, else the last number or expression.
    Values are compared exactly: 1/2 = 0.5, but 0.333 is not 1/3, and 6*7 is not yet 42. A unit on one side alone is no
    difference, two different measures are: 5 cm is 5, and is not 5 km; nothing is converted. A percent sign is read as a
    unit, unless the task's answer has one: then 50% = 0.5 = 1/2, and 50 only where the question asks for a percentage.
    An expression copied from the question is no answer, unless it is spelled as the task's answer is.

    Raises:
        ValueError: the task has no answer.
        ChildProcessError: see `rewards.symbolic.compare`.

    >>> verify(Task("1", "math", (), answer="42"), "<think>6*7</think>It is $\\boxed{42}$.")
    1.0
    """
    gold = (task.answer or "").strip()
    if not gold:
        raise ValueError(f"task {task.id!r} has no answer to compare with; rewards.math:verify needs one")
    visible = visible_part(completion)
    if visible is None:
        return 0.0
    percent = "%" in gold
    if gold.casefold() in ("yes", "no"):
        candidate = yes_or_no(visible)
    else:
        candidate = final_answer(visible, is_number=literal(gold, percent) is not None, percent=percent)
    if not candidate or len(candidate) > MAX_CHARS or len(gold) > MAX_CHARS:
        return 0.0
    if _equals(gold, candidate, percent):
        return float(not _is_copied(candidate, task.prompt, gold))
    asked = percent and "%" not in candidate and _PERCENTAGE.search(task.prompt) is not None
    return float(asked and _equals(gold, f"{candidate}\\%", percent))


def visible_part(completion: str) -> str | None:
    """The text after the thinking; None where the thinking was opened and never closed."""
    _, closed, after = completion.rpartition("</think>")
    if closed:
        return after
    return None if "<think>" in completion else completion


def _equals(gold: str, candidate: str, percent: bool) -> bool:
    gold, candidate = undelimited(gold), undelimited(candidate)
    wanted, value = literal(gold, percent), literal(candidate, percent)
    if wanted is None or value is None:
        return equal(gold, candidate, percent=percent)
    asked, paid = (_CURRENCY.findall(text) for text in (gold, candidate))
    if asked and paid and asked != paid:
        return False
    return value == wanted and not (value.denominator == 1 and _DIVISION.search(candidate) is not None)  # 84/2 is not yet 42


def _is_copied(candidate: str, prompt: str, gold: str) -> bool:
    """Whether an expression that is still to be worked out stands in the question as it is: 2^10, (x + 1)^2."""
    written = _SPACE.sub("", candidate)
    if written == _SPACE.sub("", gold) or not _OPERATION.search(written):
        return False
    places = [i for begin, end in _kept(prompt) for i in range(begin, end)]
    asked = "".join(prompt[i] for i in places)
    at = asked.find(written)
    while at >= 0:
        first, last = places[at], places[at + len(written) - 1]
        if not prompt[max(0, first - 1) : first].isalnum() and not prompt[last + 1 : last + 2].isalnum():
            return True
        at = asked.find(written, at + 1)
    return False


def _kept(text: str) -> list[tuple[int, int]]:
    """The stretches of a text between its spaces."""
    ends = [0, *(place for match in _SPACE.finditer(text) for place in match.span()), len(text)]
    return list(zip(ends[::2], ends[1::2], strict=True))
