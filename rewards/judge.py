"""The judge as a reward: asks a model for verdicts on completions against a rubric, and makes scores or failures of them.

The model is behind `Completer`: the policy or a frozen one (`rl/judging.py`), or an endpoint (`rewards/endpoint.py`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from rewards.errors import UserError
from rewards.judge_prompt import JudgePrompt
from rewards.result import RewardResult, ScoreStatus
from rewards.rubric import Rubric, Verdict, task_rubric
from rewards.score import weighted_mean
from rewards.task import Message, Task
from rewards.transcript import parse_completion
from rewards.verdict import MalformedVerdictError, read_verdict

PART = "judge"  # the name of its part of a score


@dataclass(frozen=True)
class Ask:
    """One request to a judge. `stream` names it and its random numbers: no two requests of a run have the same."""

    messages: tuple[Message, ...]
    stream: str


@dataclass(frozen=True)
class Reply:
    """A judge's text; None where there is none, for the reason in `problem`. A text that was cut has a problem too."""

    text: str | None
    problem: str = ""


class Completer(Protocol):
    """Whatever answers prompts. It is given all requests of a round at once and decides itself how many run together."""

    async def complete(self, asks: Sequence[Ask]) -> list[Reply]:
        """A reply to each, in order. What cannot be answered is a reply with a problem, not an exception."""
        ...


@dataclass(frozen=True)
class Submission:
    """A completion to be judged. `stream` names the rollout that wrote it; the judge's own streams begin with it."""

    task: Task
    completion: str
    stream: str


@dataclass(frozen=True)
class Judgement:
    """What a judge made of a submission: the mean over its verdicts, or why there is none.

    `num_malformed` of `num_replies` could not be read, those that were asked again included.
    """

    score: float | None
    verdicts: tuple[Verdict, ...] = ()
    error: str | None = None
    num_replies: int = 0
    num_malformed: int = 0
    said: str = ""  # its last reply, for people


@dataclass(frozen=True)
class Rules:
    """How a recipe judges: with which prompt, by which rubric where a task has none of its own, and how many times."""

    prompt: JudgePrompt
    rubric: Rubric | None = None
    num_samples: int = 1

    def ask(self, question: Sequence[Message], answer: str, rubric: Rubric, stream: str) -> tuple[Ask, str | None]:
        """A request, and the line that its verdict must follow where the prompt has one."""
        nonce = hashlib.sha256(stream.encode()).hexdigest()[:8]
        return Ask(self.prompt.messages(question, answer, rubric, nonce), stream), self.prompt.marker(nonce)


async def judge(completer: Completer, rules: Rules, submissions: Sequence[Submission]) -> list[Judgement]:
    """A judgement of each submission, in order. What is judged is the answer: the thinking is left out.

    A reply that is malformed is asked for once more, with random numbers of its own. A score is the mean over the samples that
    have a verdict, and there is none where no sample has.
    """
    cases = [_Case(one, rules) for one in submissions]
    pending = [(case, sample) for case in cases if case.rubric is not None for sample in range(rules.num_samples)]
    for attempt in range(2):
        asked = [case.ask(rules, f"{sample}/{attempt}") for case, sample in pending]
        replies = await completer.complete([ask for ask, _ in asked]) if asked else []
        settled = [case.take(reply, marker) for (case, _), (_, marker), reply in zip(pending, asked, replies, strict=True)]
        pending = [one for one, done in zip(pending, settled, strict=True) if not done]
    return [case.judgement() for case in cases]


def verdict_of(reply: Reply, rubric: Rubric, marker: str | None) -> Verdict:
    """The verdict of a reply that has a text; a text that was cut has none, since its last choice may be half of another."""
    if reply.problem:
        raise MalformedVerdictError(reply.problem)
    return read_verdict(reply.text or "", rubric, marker)


def with_judgement(result: RewardResult | None, judgement: Judgement, weights: Mapping[str, float]) -> RewardResult:
    """The score with the judge as one more part of the weighted mean; failed where the judge or the rewards failed.

    `weights`: of every part, the judge's among them. `result`: of the rewards; None where the recipe has none.
    """
    parts = dict(result.parts) if result is not None else {}
    if judgement.score is not None:
        parts[PART] = judgement.score
    notes = result.notes if result is not None else {}
    if result is not None and result.status is ScoreStatus.FAILED and not result.is_empty:
        return RewardResult(ScoreStatus.FAILED, None, parts, result.error, notes)
    if judgement.score is None:
        return RewardResult(ScoreStatus.FAILED, None, parts, f"{PART}: {judgement.error}", notes)
    total = weighted_mean(weights, parts)
    if total is None:
        return RewardResult(ScoreStatus.FAILED, None, parts, "no reward with a weight applies", notes, is_empty=True)
    if not math.isfinite(total):
        return RewardResult(ScoreStatus.FAILED, None, parts, f"the weighted mean of {parts} is {total}", notes)
    return RewardResult(ScoreStatus.OK, total, parts, notes=notes)


class _Case:
    """One submission on its way to a judgement."""

    def __init__(self, submission: Submission, rules: Rules) -> None:
        self.submission = submission
        self.answer = parse_completion(submission.completion).content
        self.rubric: Rubric | None = None
        self.verdicts: list[Verdict] = []
        self.problem = self.said = ""  # the newest
        self.num_replies = self.num_malformed = 0
        try:
            self.rubric = task_rubric(submission.task.data, rules.rubric, submission.task.id)
        except UserError as error:
            self.problem = str(error)

    def ask(self, rules: Rules, name: str) -> tuple[Ask, str | None]:
        assert self.rubric is not None, "without a rubric nothing is asked"
        stream = f"{self.submission.stream}/judge/{name}"
        return rules.ask(self.submission.task.messages, self.answer, self.rubric, stream)

    def take(self, reply: Reply, marker: str | None) -> bool:
        """Keeps what the reply brings. False: it is malformed and may be asked for again."""
        assert self.rubric is not None, "without a rubric nothing is asked"
        if reply.text is None:
            self.problem = reply.problem
            return True
        self.num_replies += 1
        self.said = reply.text
        try:
            self.verdicts.append(verdict_of(reply, self.rubric, marker))
        except MalformedVerdictError as error:
            self.num_malformed += 1
            self.problem = f"malformed verdict: {error}; the judge wrote {reply.text[-300:]!r}"
            return False
        return True

    def judgement(self) -> Judgement:
        score = None
        if self.rubric is not None and self.verdicts:
            score = sum(map(self.rubric.score, self.verdicts)) / len(self.verdicts)
        error = self.problem if score is None else None
        return Judgement(score, tuple(self.verdicts), error, self.num_replies, self.num_malformed, self.said)
