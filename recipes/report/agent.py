"""What the report says of rollouts with tools, and of efforts: figures of each final evaluation, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from recipes.report.charts import Chart, Line
from recipes.report.run import Row, finite
from recipes.report.texts import figure, share

SHARES = {
    "reasoning_kept_share": "thinking kept",
    "no_call_share": "without a call",
    "malformed_call_share": "calls malformed",
    "tool_error_share": "calls in error",
    "failed_share": "rollouts failed",
}
NUMBERS = {
    "calls_mean": "calls",
    "turns_mean": "turns",
    "reasoning_tokens_per_turn": "thinking tokens a turn",
    "tool_s_mean": "tool seconds",
}
NOTE = (
    "Means over rollouts. Thinking kept: of the turns that thought and called a tool, those whose thinking the next turn could "
    "still see. A failed rollout is one whose tools could not be had, through no fault of the model."
)
CURVE = "Accuracy against tokens, by effort"


def table(evaluations: Sequence[tuple[str, Row]]) -> tuple[list[str], list[list[str]]] | None:
    """Head and rows, an evaluation a row, of the figures that there are; None where no evaluation has any."""
    rows = [(name, row) for name, row in evaluations if row]
    keys = [key for key in (*SHARES, *NUMBERS) if any(finite(row, key) is not None for _, row in rows)]
    if not keys:
        return None
    return ["", *({**SHARES, **NUMBERS}[key] for key in keys)], [
        [name, *(_cell(row, key) for key in keys)] for name, row in rows
    ]


def effort_table(evaluations: Sequence[tuple[str, Row]]) -> tuple[list[str], list[list[str]]] | None:
    """Head and rows, an effort of an evaluation a row; None where nothing was measured over efforts."""
    rows = []
    for name, levels in evaluations:
        for level, found in levels.items():
            if isinstance(found, Mapping):
                numbers = [
                    figure(found, key, ".3g") for key in ("mean_tokens", "mean_reasoning_tokens", "accuracy_per_1k_tokens")
                ]
                rows.append([name, str(level), share(found, "accuracy"), *numbers])
    head = ["", "effort", "accuracy", "tokens", "thinking tokens", "accuracy per 1,000 tokens"]
    return (head, rows) if rows else None


def effort_chart(evaluations: Sequence[tuple[str, Row]]) -> Chart | None:
    """The last evaluation's curve: an effort a point, at its mean tokens."""
    measured = [(name, levels) for name, levels in evaluations if levels]
    if not measured:
        return None
    name, levels = measured[-1]
    points = [
        (x, finite(found, "accuracy"), str(level))
        for level, found in levels.items()
        if isinstance(found, Mapping) and (x := finite(found, "mean_tokens")) is not None
    ]
    points.sort(key=lambda point: point[0])
    line = Line("held-out accuracy", [y for _, y, _ in points], details=[f"effort {level}" for *_, level in points])
    marks = [(x, level) for x, _, level in points]
    return Chart(CURVE, [x for x, *_ in points], [line], "share", marks=marks, help=f"{name}; across: mean sampled tokens")


def _cell(row: Row, key: str) -> str:
    return share(row, key) if key in SHARES else figure(row, key, ".3g")
