"""What a reward may return, and what scoring comes to: a number with its named parts, or a failure that is never a zero."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


@dataclass(frozen=True)
class Score:
    """What a reward function returns where a number alone does not say enough.

    `value` None: the reward does not apply to this completion. `parts` are measured beside it and change no score: they are
    the metrics `reward/FUNCTION/PART`; a part that is None is left out. `note` is a line for people, shown with the sample; of
    one that is very long the middle is left out.

    >>> Score(0.5, {"tests_passed": 3, "tests": 6}, note="stopped at test 4").value
    0.5
    """

    value: float | None
    parts: Mapping[str, float | None] = field(default_factory=dict)
    note: str = ""


class ScoreStatus(StrEnum):
    OK = "ok"
    FAILED = "failed"  # a reward raised, hung, crashed, or returned what is no score; or none of them applied


@dataclass(frozen=True)
class RewardResult:
    """The score of one completion.

    `score` is the weighted mean of the rewards that apply; it is None exactly when `status` is FAILED, and `error` then holds
    the reason with the user's traceback. `parts` has a number for each reward that has one, in the recipe's order, and after
    them what they measured beside it, as "reward/part". A failed score leaves its group's baseline; it is counted and shown,
    never zero. `notes`: a line for people, by reward.

    >>> RewardResult(ScoreStatus.OK, 1.0, {"verify": 1.0}).score
    1.0
    """

    status: ScoreStatus
    score: float | None
    parts: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None
    notes: Mapping[str, str] = field(default_factory=dict)
    is_empty: bool = False  # FAILED because no reward with a weight applies; none went wrong, and a judge may still score it

    def __post_init__(self) -> None:
        assert (self.score is None) == (self.status is ScoreStatus.FAILED), "a failed score has no number, any other has one"
