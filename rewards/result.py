"""What scoring returns: a number with its named parts, or a failure that is never taken for a zero."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class ScoreStatus(StrEnum):
    OK = "ok"
    FAILED = "failed"  # a reward raised, hung, crashed, or returned something that is not a finite number


@dataclass(frozen=True)
class RewardResult:
    """The score of one completion.

    `score` is the weighted sum of `parts`; it is None exactly when `status` is FAILED, and `error` then holds the reason
    with its traceback, and `parts` what was scored before that. A failed score leaves its group's baseline; it is counted
    and shown, never zero.

    >>> RewardResult(ScoreStatus.OK, 1.0, {"rewards.math:verify": 1.0}).score
    1.0
    """

    status: ScoreStatus
    score: float | None
    parts: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None

    def __post_init__(self) -> None:
        assert (self.score is None) == (self.status is ScoreStatus.FAILED), "a failed score has no number, any other has one"
