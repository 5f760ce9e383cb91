"""What is measured of a judge: its scores beside the truth and the length, its agreement with labels, its bias by position.

Figures are plain numbers by name. A step's come from its groups; an evaluation asks the judge about held-out labels besides.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rewards.judge import PART, Ask, Reply, Rules, verdict_of
from rewards.labels import AGREEMENT, READABLE, agreement_with, is_right
from rewards.rubric import Rubric, Verdict, rubric_from
from rewards.task import Message, Role, Task
from rewards.verdict import MalformedVerdictError
from rl.judging import is_judging
from rl.trajectory import TrajectoryGroup

Replies = Callable[[Sequence[Ask]], Awaitable[list[Reply]]]


def step_figures(groups: Sequence[TrajectoryGroup], truth: str | None) -> dict[str, float]:
    """A step's metrics: of the scores that the judge gave, and of the judging tasks, as the policy did them."""
    found = {**score_figures(groups, truth), **_task_figures(groups)}
    return {f"judge/{name}": value for name, value in found.items()}


def score_figures(groups: Sequence[TrajectoryGroup], truth: str | None) -> dict[str, float]:
    """Of the scores that the judge gave in these groups.

    `truth`: the part that measures what is really wanted; the gap is the judge's mean score minus its mean, over completions
    that have both. A correlation is left out where one of the two does not vary.
    """
    judged = [(m, m.judgement) for g in groups for m in g.members if m.judgement is not None]
    if not judged:
        return {}
    scored = [m for m, _ in judged if PART in m.reward.parts]
    replies, malformed = (sum(values) for values in zip(*((j.num_replies, j.num_malformed) for _, j in judged), strict=True))
    found = {"malformed_share": malformed / replies} if replies else {}
    found["failed_share"] = 1 - len(scored) / len(judged)
    if scored:
        scores = [m.reward.parts[PART] for m in scored]
        found["score"] = float(np.mean(scores))
        found |= _correlation("length_correlation", scores, [float(m.trajectory.num_sampled) for m in scored])
    known = [m.reward.parts for m in scored if truth in m.reward.parts] if truth is not None else []
    if truth is not None and known:
        scores, truths = [parts[PART] for parts in known], [parts[truth] for parts in known]
        found |= {"truth": float(np.mean(truths)), "gap": float(np.mean(scores) - np.mean(truths))}
        found |= _correlation("truth_correlation", scores, truths)
    return found


def _task_figures(groups: Sequence[TrajectoryGroup]) -> dict[str, float]:
    """Of judging tasks that the policy was given as tasks."""
    members = [m for g in groups if is_judging(g.task) for m in g.members]
    if not members:
        return {}
    values = [m.reward.parts[AGREEMENT] for m in members]
    right = [is_right(value, m.trajectory.task.data["score"]) for value, m in zip(values, members, strict=True)]
    unreadable = 1 - float(np.mean([m.reward.parts[READABLE] for m in members]))
    return {
        "agreement": float(np.mean(values)), "accuracy": float(np.mean(right)), "label_malformed_share": unreadable,
    }  # fmt: skip


def _correlation(name: str, a: Sequence[float], b: Sequence[float]) -> dict[str, float]:
    """Pearson's, under a name; nothing where it is not defined."""
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return {}
    return {name: float(np.corrcoef(a, b)[0, 1])}


# ---- held-out labels


@dataclass(frozen=True)
class _Question:
    """A label as it is shown once: the rubric in the order shown, the line that its verdict must follow."""

    ask: Ask
    rubric: Rubric
    marker: str | None


async def label_figures(replies: Replies, rules: Rules, tasks: Sequence[Task], seed: str) -> dict[str, float]:
    """The judge on held-out labels, each judged twice: as the rubric stands, and with criteria and choices in reverse order.

    `accuracy` and `agreement` are of the first. `order_consistency` is the share of verdicts that stay the same; sampling
    lowers it too. `position_bias`, in [-1, 1], is how much oftener the choice shown first is taken than the one shown last,
    over both orders: a choice's own merit cancels out, so it is 0 for a judge that order does not move. Both are of labels
    that were readable both times. `num_labels` counts those that were answered; the others, as of an endpoint that is down,
    are no wrong verdicts and are left out.
    """
    if not tasks:
        return {}
    shown = [_shown(task, rules, f"{seed}/{task.content_hash}") for task in tasks]
    turned = [_turned(task, rules, f"{seed}/{task.content_hash}/reversed") for task in tasks]
    found = await replies([question.ask for question in (*shown, *turned)])
    verdicts = [_read(reply, question) for reply, question in zip(found, (*shown, *turned), strict=True)]
    first, second = verdicts[: len(tasks)], verdicts[len(tasks) :]
    answered = [one for one, reply in zip(zip(first, tasks, strict=True), found, strict=False) if reply.text is not None]
    figures = {"num_labels": float(len(answered))}
    if answered:
        values = [_agreement(verdict, task) for verdict, task in answered]
        figures |= {
            "accuracy": float(
                np.mean([is_right(v, task.data["score"]) for v, (_, task) in zip(values, answered, strict=True)])
            ),
            "agreement": float(np.mean(values)),
            "label_malformed_share": sum(verdict is None for verdict, _ in answered) / len(answered),
        }
    both = [(a, b, one, two) for a, b, one, two in zip(first, second, shown, turned, strict=True) if a and b]
    if both:
        same = [a[name] == b[name] for a, b, _, _ in both for name in a]
        leanings = [_leaning(verdict, q.rubric) for a, b, one, two in both for verdict, q in ((a, one), (b, two))]
        figures |= {"order_consistency": float(np.mean(same)), "position_bias": float(np.mean(leanings))}
    return figures


def _shown(task: Task, rules: Rules, stream: str) -> _Question:
    """As in training."""
    return _Question(Ask(task.messages, stream), rubric_from(task.data["rubric"], task.id), task.data["marker"])


def _turned(task: Task, rules: Rules, stream: str) -> _Question:
    rubric = rubric_from(task.data["rubric"], task.id).reversed()
    question = [Message(Role(m["role"]), m["content"]) for m in task.data["question"]]
    ask, marker = rules.ask(question, task.data["response"], rubric, stream)
    return _Question(ask, rubric, marker)


def _read(reply: Reply, question: _Question) -> Verdict | None:
    try:
        return verdict_of(reply, question.rubric, question.marker)
    except MalformedVerdictError:
        return None


def _agreement(verdict: Verdict | None, task: Task) -> float:
    if verdict is None:
        return 0.0
    rubric = rubric_from(task.data["rubric"], task.id)
    return agreement_with(verdict, task.data["verdict"], task.data["score"], rubric)


def _leaning(verdict: Verdict, rubric: Rubric) -> float:
    """The share of choices shown first among those taken, minus the share of those shown last."""
    marks = []
    for criterion in rubric.criteria:
        choices = list(criterion.choices)
        marks.append((verdict[criterion.name] == choices[0]) - (verdict[criterion.name] == choices[-1]))
    return sum(marks) / len(marks)
