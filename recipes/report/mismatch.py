"""How far the sampler's log-probabilities were from the trainer's, over a run or a stage, from its metrics rows.

Called for summary.json and for the report. The rows are what a resumed run goes on from, so its figures are those of an
uninterrupted one. No torch, no numpy.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from recipes.report.run import Row, count, finite

GAP, P99, TOKENS = "sampler_gap", "sampler_gap_p99", "num_loss_tokens"
SHARES = ("masked_share", "truncated_weight_share")


def mismatch(rows: Iterable[Row], engine: str, dtype: str) -> dict[str, Any] | None:
    """Figures over the rows of steps that made an update; None where there is none.

    `mean`: of |log pi_trainer - log pi_sampler| over all loss tokens, in nats. `p99`: the median of the steps' 99th
    percentiles; None where no row has one. `masked_share`, `truncated_weight_share`: of all loss tokens. `fresh`: mean, p99
    and num_tokens over the steps whose tokens all come from exactly the weights that were trained (`staleness` 0), so that
    no drift of the policy is in them; None where there is no such step. docs/losses.md says more.
    """
    trained = [row for row in rows if finite(row, GAP) is not None and count(row, TOKENS) > 0]
    if not trained:
        return None
    fresh = [row for row in trained if finite(row, "staleness") == 0]
    shares = {key: _mean(trained, key) for key in SHARES}
    return {"engine": engine, "dtype": dtype, **_figures(trained), **shares, "fresh": _figures(fresh) if fresh else None}


def _figures(rows: Sequence[Row]) -> dict[str, Any]:
    tails = [tail for row in rows if (tail := finite(row, P99)) is not None]
    return {
        "mean": _mean(rows, GAP),
        "p99": statistics.median(tails) if tails else None,
        "num_tokens": sum(count(row, TOKENS) for row in rows),
    }


def _mean(rows: Sequence[Row], key: str) -> float | None:
    """Over the tokens of the rows that have a value; None where none has."""
    pairs = [(value, count(row, TOKENS)) for row in rows if (value := finite(row, key)) is not None]
    return math.fsum(value * n for value, n in pairs) / sum(n for _, n in pairs) if pairs else None
