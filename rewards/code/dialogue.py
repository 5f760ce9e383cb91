"""Tests that are code, in a box of their own: they and the program run in turn until every call of theirs is answered.

Mostly that is once each: the calls that one program was asked for are asked of the next one at once. Called by
`rewards.code.judging`.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, field
from typing import Any

from rewards.code import source
from rewards.code.problem import Asserts, defines
from rewards.code.running import NotJudgedError, Outcome, Running
from rewards.code.verdict import CaseResult, CodeVerdict, failure
from sandbox.result import Verdict

MAX_ROUNDS = 300  # in each of which at least one more call is answered
MAX_PLAN_CHARS = 1 << 20


@dataclass
class _Plan:
    """The calls of some tests, as far as is known: what they were when a program was last judged."""

    calls: list[str] = field(default_factory=list)

    def learn(self, asked: list[str]) -> None:
        if len(asked) >= len(self.calls) and sum(map(len, asked)) <= MAX_PLAN_CHARS:
            self.calls = asked


@functools.lru_cache(maxsize=256)
def _plan(digest: bytes) -> _Plan:
    return _Plan()


async def judge_asserts(running: Running, problem: Asserts) -> list[CaseResult]:
    """What the program comes to on each test.

    Raises:
        SandboxError. NotJudgedError: the tests do not run, or have too many calls that depend on the answers before them.
    """
    if problem.prelude and not defines(running.program, problem.entry_point):
        running.program = problem.prelude + running.program  # it goes on where the prompt ends
    else:
        running.prelude = problem.prelude
    plan = _plan(hashlib.sha256(repr(problem).encode(errors="surrogatepass")).digest())
    answers, asked = list[tuple[str, Outcome]](), plan.calls
    for _ in range(MAX_ROUNDS):
        if asked:
            outcomes = await running.session(asked, problem.entry_point)
            if outcomes[0]["status"] == CodeVerdict.COMPILE_ERROR:
                return [failure(outcomes[0])] * len(problem.tests)
            # Those that have one keep it, though a program that draws at random may answer otherwise this time.
            answers += list(zip(asked, outcomes, strict=False))[len(answers) :] or [(asked[len(answers)], outcomes[-1])]
        reply = await _check(running, problem, answers)
        if reply["state"] != "ask":
            break
        answers, asked = answers[: reply["known"]], reply["asked"]
    if reply["state"] == "done":
        plan.learn(reply["asked"])
        return [CaseResult(CodeVerdict(test["verdict"]), test["note"], test["share"]) for test in reply["results"]]
    if reply["state"] in list(CodeVerdict) and answers:
        return [CaseResult(CodeVerdict(reply["state"]), reply["error"])] * len(problem.tests)
    raise NotJudgedError(f"the tests could not be run: {reply.get('error', 'too many of their calls depend on answers')}")


async def _check(running: Running, problem: Asserts, answers: list[tuple[str, Outcome]]) -> dict[str, Any]:
    """The reply of `rewards.code.asserts.check`; where its box has ended it, "timeout" or "out_of_memory"."""
    limits = running.limits
    order = {
        "setup": problem.setup,
        "tests": problem.tests,
        "entry_point": problem.entry_point,
        "call_check": problem.call_check,
        "answers": answers,
        "ahead": True,
        "partial": running.partial,
        "cpu_s": limits.tests_cpu_s,
    }
    async with running.boxes.calls() as box:
        called = await box.python("check", order, source=source.checking(), wall_s=limits.wall_s)
    if called.result.ok and isinstance(called.value, dict):
        return called.value
    if called.result.verdict is Verdict.OUT_OF_MEMORY:
        return {"state": "out_of_memory", "error": "the tests took too much memory on its values"}
    raise NotJudgedError(f"the tests could not be run: {called.result.verdict} {called.result.stderr.text[-500:]}")
