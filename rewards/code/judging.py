"""A program's tests, run in boxes and judged outside of them.

What is expected never is where the program runs: for calls and output it stays in this process, which compares; tests that are
code run in a box of their own, to which the program's values come as data. Called by `rewards.code.reward`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rewards.code.compare import same_output, same_value
from rewards.code.dialogue import judge_asserts
from rewards.code.limits import CodeLimits
from rewards.code.problem import Asserts, Calls, Problem
from rewards.code.running import CallBoxes, Outcome, Running
from rewards.code.values import NotPlain, from_text
from rewards.code.verdict import CaseResult, CodeResult, CodeVerdict, failure


async def judge(
    problem: Problem, program: str, boxes: CallBoxes, limits: CodeLimits, *, partial: bool = False, tolerance: float = 0.0,
    tuples_as_lists: bool = False,
) -> CodeResult:  # fmt: skip
    """What a program comes to on each test of a problem.

    Args:
        partial: run all tests, whatever has failed; else those after the first that fails are NOT_RUN.
        tolerance: of numbers in values and output; 0: exactly as Python compares them.

    Raises:
        SandboxError: a box could not be had or was lost. NotJudgedError: see there.
    """
    running = Running(program, boxes, limits, partial)
    if isinstance(problem, Asserts):
        return _all(await judge_asserts(running, problem), len(problem.tests))
    if isinstance(problem, Calls):
        items: list[Any] = [[list(test.args), list(test.kwargs)] for test in problem.tests]
        outcomes = await running.outcomes(
            "call", items, problem.entry_point, may_raise=any(test.raises is not None for test in problem.tests)
        )
        judged = [
            _judge_value(outcome, test.expected, test.raises, tolerance, tuples_as_lists)
            for outcome, test in zip(outcomes, problem.tests, strict=False)
        ]
    else:
        outcomes = await running.outcomes("stdin", [stdin for stdin, _ in problem.tests], "")
        judged = [
            _judge_output(outcome, stdout, tolerance) for outcome, (_, stdout) in zip(outcomes, problem.tests, strict=False)
        ]
    return _all(judged, len(problem.tests))


def _all(judged: Sequence[CaseResult], num_tests: int) -> CodeResult:
    """A result for each test: those that were not run have none of their own."""
    return CodeResult((*judged, *[CaseResult(CodeVerdict.NOT_RUN)] * (num_tests - len(judged))))


def _judge_value(outcome: Outcome, expected: Any, raises: str | None, tolerance: float, tuples_as_lists: bool) -> CaseResult:
    if raises is not None:
        names = [outcome.get("name"), *(outcome.get("types") or ())] if outcome["status"] == "raised" else []
        if raises in names:
            return CaseResult(CodeVerdict.PASSED)
        if outcome["status"] == "value":
            return CaseResult(CodeVerdict.WRONG, f"it did not raise {raises}")
    if outcome["status"] != "value":
        return failure(outcome)
    try:
        found = from_text(outcome["value"])
        if same_value(found, expected, tolerance=tolerance, tuples_as_lists=tuples_as_lists):
            return CaseResult(CodeVerdict.PASSED)
    except (NotPlain, RecursionError) as error:
        return CaseResult(CodeVerdict.RUNTIME_ERROR, str(error))
    return CaseResult(CodeVerdict.WRONG, f"it gave {outcome['value']:.200}")


def _judge_output(outcome: Outcome, expected: str, tolerance: float) -> CaseResult:
    if outcome["status"] != "output":
        return failure(outcome)
    if same_output(outcome["output"], expected, tolerance=tolerance):
        return CaseResult(CodeVerdict.PASSED)
    return CaseResult(CodeVerdict.WRONG, f"it printed {outcome['output']!r:.200}")
