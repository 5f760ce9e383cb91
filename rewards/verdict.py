"""Reads a judge's answer strictly: one choice for each criterion after the reasoning, or it is malformed.

Nothing is guessed: a line too many, a choice that is not one, a verdict given twice are all malformed. The caller asks again.
"""

from __future__ import annotations

from rewards.rubric import Rubric, Verdict
from rewards.transcript import END_THINK, parse_completion


class MalformedVerdictError(ValueError):
    """A judge's answer has no verdict that can be read; the message says why."""


def read_verdict(completion: str, rubric: Rubric, marker: str | None) -> Verdict:
    """The choice of each criterion.

    With a `marker` it must stand once, as a line of its own, after the thinking, and the verdict is what follows it. Without,
    the verdict is all that follows the thinking. Lines are `name: choice`, each criterion once, in any order, and empty ones.

    >>> from rewards.rubric import Criterion
    >>> read_verdict("<think>It is short.</think>clear: yes", Rubric((Criterion(name="clear", text="?"),)), None)
    {'clear': 'yes'}

    Raises:
        MalformedVerdictError: there is no such verdict.
    """
    said = parse_completion(completion)
    if said.reasoning is not None and END_THINK not in completion:
        raise MalformedVerdictError("the reasoning was never closed")
    lines = [stripped for line in said.content.splitlines() if (stripped := line.strip())]
    if marker is not None:
        if lines.count(marker) != 1:
            raise MalformedVerdictError(f"the line {marker!r} stands {lines.count(marker)} times, not once")
        lines = lines[lines.index(marker) + 1 :]
    choices = {c.name: c.choices for c in rubric.criteria}
    verdict: dict[str, str] = {}
    for line in lines:
        name, _, choice = line.partition(": ")
        if name not in choices:
            raise MalformedVerdictError(f"got the line {line[:80]!r}; allowed: `name: choice` of {', '.join(choices)}")
        if choice not in choices[name]:
            raise MalformedVerdictError(f"got {line[:80]!r}; allowed choices: {', '.join(choices[name])}")
        if name in verdict:
            raise MalformedVerdictError(f"{name} is decided twice")
        verdict[name] = choice
    if missing := [name for name in choices if name not in verdict]:
        raise MalformedVerdictError(f"{missing[0]} is not decided")
    return verdict
