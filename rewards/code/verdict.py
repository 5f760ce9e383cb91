"""What a program came to on a test, and on all of them: a closed set of verdicts, of which one alone is worth something."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class CodeVerdict(StrEnum):
    """What a program came to on one test. What a machine came to, such as a lost box, is an exception and none of these."""

    PASSED = "passed"
    WRONG = "wrong"  # another value, or other output
    RUNTIME_ERROR = "runtime_error"  # it raised, or ended its process
    COMPILE_ERROR = "compile_error"
    TIMEOUT = "timeout"  # too much processor time, or it waited for what does not come
    OUT_OF_MEMORY = "out_of_memory"
    OUTPUT_LIMIT = "output_limit"
    PROCESS_LIMIT = "process_limit"
    NO_ENTRY_POINT = "no_entry_point"  # it does not define what is called
    NOT_PLAIN = "not_plain"  # a value that cannot leave its box, such as an object of a class of its own
    NOT_RUN = "not_run"  # an earlier test had failed, and all of them are needed


@dataclass(frozen=True)
class CaseResult:
    """One test. `share` is what it earns where a part of the tests is worth a part: 1 where it has passed.

    >>> CaseResult(CodeVerdict.PASSED).share
    1.0
    """

    verdict: CodeVerdict
    note: str = ""
    share: float = -1.0  # -1: by the verdict; else of a test that holds several

    def __post_init__(self) -> None:
        if self.share < 0 or self.verdict is CodeVerdict.PASSED:
            object.__setattr__(self, "share", float(self.verdict is CodeVerdict.PASSED))


@dataclass(frozen=True)
class CodeResult:
    """All tests of one program, in their order; there is at least one."""

    tests: tuple[CaseResult, ...]

    @property
    def verdict(self) -> CodeVerdict:
        """That of the first test that has not passed."""
        return next((test.verdict for test in self.tests if test.verdict is not CodeVerdict.PASSED), CodeVerdict.PASSED)

    @property
    def share(self) -> float:
        """The mean over the tests, 1 exactly where all have passed."""
        return sum(test.share for test in self.tests) / len(self.tests)

    @property
    def note(self) -> str:
        """One line for people."""
        num = sum(test.verdict is CodeVerdict.PASSED for test in self.tests)
        if num == len(self.tests):
            return f"{num} of {num} tests passed"
        first = next(i for i, test in enumerate(self.tests) if test.verdict is not CodeVerdict.PASSED)
        return (
            f"{num} of {len(self.tests)} tests passed; test {first + 1}: {self.tests[first].verdict}: {self.tests[first].note}"
        )


def failure(outcome: Mapping[str, Any]) -> CaseResult:
    """Of a test that gave neither a value nor output (`rewards.code.running`)."""
    if outcome["status"] == "raised":
        return CaseResult(CodeVerdict.RUNTIME_ERROR, outcome["error"])
    return CaseResult(CodeVerdict(outcome["status"]), outcome["error"])
