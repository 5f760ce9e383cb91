"""What the report says of a judge: its figures at each final evaluation, side by side."""

from __future__ import annotations

from collections.abc import Sequence

from recipes.report.run import Row, finite
from recipes.report.texts import figure, share

SHARES = {
    "accuracy": "accuracy on labels",
    "agreement": "agreement with labels",
    "score": "mean score",
    "truth": "mean of the truth",
    "malformed_share": "malformed",
    "order_consistency": "same in reverse order",
}
SIGNED = {
    "gap": "score above truth",
    "truth_correlation": "correlation with truth",
    "length_correlation": "correlation with length",
    "position_bias": "position bias",
}
NOTE = (
    "Labels are held-out human judgements. The truth is the first reward. A score that rises while the truth does not is the "
    "policy learning to please the judge. Position bias: how much oftener the choice shown first is taken than the last; 0 "
    "where order does not matter."
)


def table(evaluations: Sequence[tuple[str, Row]]) -> tuple[list[str], list[list[str]]] | None:
    """Head and rows, an evaluation a row, of the figures that there are; None where no evaluation has any."""
    rows = [(name, row) for name, row in evaluations if row]
    keys = [key for key in (*SHARES, *SIGNED) if any(finite(row, key) is not None for _, row in rows)]
    if not keys:
        return None
    head = ["", *(({**SHARES, **SIGNED})[key] for key in keys)]
    return head, [[name, *(_cell(row, key) for key in keys)] for name, row in rows]


def _cell(row: Row, key: str) -> str:
    return share(row, key) if key in SHARES else figure(row, key, "+.2f")
