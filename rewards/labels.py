"""Human judgements as tasks for a judge: the prompt is the one that it judges with, the reward is agreement with the label.

A judging task carries its rubric and its label as data, so that whoever scores it needs nothing else.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rewards.errors import UserError
from rewards.judge import Reply, Rules, verdict_of
from rewards.result import RewardResult, ScoreStatus
from rewards.rubric import Rubric, Verdict, rubric_from
from rewards.task import Effort, Message, Role, Task
from rewards.verdict import MalformedVerdictError

DOMAIN = "judge"  # of judging tasks; a recipe's own domain has another name
AGREEMENT = "agreement"  # the part that is a judging task's score
READABLE = "readable"  # 1 where there was a verdict to compare
SAME_SCORE = 0.1  # a score label counts as met from this close; scores of rubrics are seldom finer


@dataclass(frozen=True)
class Label:
    """What people made of a response: a choice for some or all of the criteria, or one score in [0, 1]."""

    question: tuple[Message, ...]
    response: str
    rubric: Rubric
    verdict: Verdict
    score: float | None = None

    def __post_init__(self) -> None:
        """Raises UserError where the label does not fit the rubric."""
        if bool(self.verdict) == (self.score is not None):
            raise UserError("label: got neither choices nor a score, or both; allowed: one of them")
        if self.score is not None and not (math.isfinite(self.score) and 0 <= self.score <= 1):
            raise UserError(f"label: got the score {self.score}; allowed: 0 to 1")
        choices = {c.name: c.choices for c in self.rubric.criteria}
        for name, choice in self.verdict.items():
            if name not in choices:
                raise UserError(f"label: got the criterion {name!r}; allowed: {', '.join(choices)}")
            if choice not in choices[name]:
                raise UserError(f"label: got {choice!r} for {name}; allowed: {', '.join(choices[name])}")

    @property
    def key(self) -> str:
        """Names question and response; the same label has the same in every run."""
        shown = json.dumps([[m.as_dict() for m in self.question], self.response], ensure_ascii=False)
        return hashlib.sha256(shown.encode()).hexdigest()[:16]


def judging_task(rules: Rules, label: Label, effort: Effort) -> Task:
    """The label as a task: what the judge is shown when it scores this response, with the label as the answer."""
    ask, marker = rules.ask(label.question, label.response, label.rubric, f"label/{label.key}")
    return Task(
        id=f"{DOMAIN}/{label.key}",
        domain=DOMAIN,
        messages=ask.messages,
        answer=json.dumps(dict(label.verdict) or label.score, ensure_ascii=False),
        kind=DOMAIN,
        effort=effort,
        data={
            "rubric": label.rubric.as_data(),
            "verdict": dict(label.verdict),
            "score": label.score,
            "marker": marker,
            "question": [m.as_dict() for m in label.question],
            "response": label.response,
        },
        problem=problem_of(label.question),
    )


def problem_of(question: Sequence[Message]) -> str:
    """Names what was asked, so that all responses to it are held out together."""
    return "\n".join(m.content for m in question)


def agreement(task: Task, reply: Reply) -> RewardResult:
    """Score of a judging task: the share of the labelled criteria on which the verdict is the label's.

    For a label that is one score: one minus the distance from it. A malformed verdict is worth 0, for here the verdict is the
    task: elsewhere a judge that cannot be read is a failure, not a bad answer.
    """
    rubric = rubric_from(task.data["rubric"], task.id)
    try:
        verdict = verdict_of(reply, rubric, task.data["marker"])
    except MalformedVerdictError:
        return RewardResult(ScoreStatus.OK, 0.0, {AGREEMENT: 0.0, READABLE: 0.0})
    value = agreement_with(verdict, task.data["verdict"], task.data["score"], rubric)
    return RewardResult(ScoreStatus.OK, value, {AGREEMENT: value, READABLE: 1.0})


def agreement_with(verdict: Verdict, label: Verdict, score: float | None, rubric: Rubric) -> float:
    """In [0, 1]; see `agreement`."""
    if score is not None:
        return 1.0 - abs(rubric.score(verdict) - score)
    return sum(verdict[name] == choice for name, choice in label.items()) / len(label)


def is_right(value: float, score: float | None) -> bool:
    """Whether an agreement counts as accurate: every labelled criterion met, or a score met to within `SAME_SCORE`."""
    return value >= 1.0 - (1e-9 if score is None else SAME_SCORE)


def label_from(row: Mapping[str, object], default: Rubric | None, where: str) -> Label:
    """A label from a row: {"prompt": ..., "response": ..., "label": {"clear": "yes"} or 0.7, "rubric": [...] or absent}.

    `prompt` is text or a list of messages with role and content.

    Raises:
        UserError: something is missing or does not fit; `where` is named.
    """
    rubric = default if row.get("rubric") is None else rubric_from(row["rubric"], where)
    if rubric is None:
        raise UserError(f"{where}: no rubric; write judge.rubric in the recipe, or give each label a rubric")
    for key in ("prompt", "response", "label"):
        if row.get(key) is None:
            raise UserError(f"{where}: {key} is missing; allowed: prompt, response, label, and where wanted rubric, judgements")
    response, label = row["response"], row["label"]
    if not isinstance(response, str):
        raise UserError(f"{where}: response: got {response!r:.80}; allowed: text")
    verdict: dict[str, str] = {}
    score = None
    if isinstance(label, Mapping):
        verdict = {str(name): str(choice) for name, choice in label.items() if choice is not None}
    elif isinstance(label, int | float) and not isinstance(label, bool):
        score = float(label)
    else:
        raise UserError(f"{where}: label: got {label!r:.80}; allowed: a choice for each criterion, or one number")
    try:
        return Label(_question(row["prompt"], where), response, rubric, verdict, score)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def written(verdict: Verdict, marker: str | None) -> str:
    """A verdict as a judge writes it: below the marker where the prompt has one."""
    return "\n".join([*([marker] if marker else []), *(f"{name}: {choice}" for name, choice in verdict.items())])


def _question(prompt: object, where: str) -> tuple[Message, ...]:
    if isinstance(prompt, str):
        return (Message(Role.USER, prompt),)
    try:
        if not isinstance(prompt, Sequence) or not prompt:
            raise TypeError("no list")
        return tuple(Message(Role(m["role"]), str(m["content"])) for m in prompt)
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{where}: prompt: got {prompt!r:.80}; allowed: text, or messages with role and content") from None
