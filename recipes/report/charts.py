"""Which curves the report draws: metrics rows as charts, plain values that page.js draws.

Values that are missing or not finite become gaps, and those that are not finite are counted in the chart's note.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from recipes.report.run import Row, Run, Stage, count, finite

MAX_POINTS = 1500  # of a line; more are averaged, and the chart says so
BOOKKEEPING = ("attempt", "step", "global_step", "elapsed_s")


@dataclass(frozen=True)
class Line:
    """One value for each x; None is a gap. `low` and `high` span an interval around it; `details` are words for each."""

    label: str
    values: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    details: Sequence[str] = ()


@dataclass(frozen=True)
class Chart:
    """`unit`: "share" is drawn in percent. `kind`: "line", "stack" (areas on top of each other) or "points"."""

    title: str
    x: Sequence[float]
    lines: Sequence[Line]
    unit: str = ""
    kind: str = "line"
    zero: bool = True  # the y axis begins at 0
    marks: Sequence[tuple[float, str]] = ()  # labelled vertical lines
    help: str = ""
    note: str = ""


@dataclass(frozen=True)
class _Spec:
    title: str
    keys: Mapping[str, str]  # metrics key: label
    unit: str = ""
    zero: bool = True
    help: str = ""


SPECS = (
    _Spec("Loss", {"loss": "loss"}, zero=False),
    _Spec("Token accuracy", {"token_accuracy": "token accuracy"}, "share", help="of the demonstrations' next tokens"),
    _Spec("Judge on labels", {"judge/accuracy": "accuracy", "judge/agreement": "agreement"}, "share", help="judging tasks"),
    _Spec(
        "Judge against the truth",
        {"judge/score": "judge", "judge/truth": "truth", "judge/gap": "gap"},
        help="a gap that grows is the policy learning to please the judge",
    ),
    _Spec(
        "Verdicts that could not be read",
        {"judge/malformed_share": "of scores", "judge/label_malformed_share": "of judging tasks"},
        "share",
        help="before they were asked for again",
    ),
    _Spec("What the judge's score goes with", {"judge/truth_correlation": "truth", "judge/length_correlation": "length"}),
    _Spec("Tool calls", {"agent/calls_mean": "calls", "agent/turns_mean": "turns"}, help="of a rollout"),
    _Spec(
        "Calls that went wrong",
        {
            "agent/malformed_call_share": "malformed",
            "agent/tool_error_share": "in error",
            "agent/no_call_share": "rollouts without a call",
            "agent/failed_share": "rollouts failed",
        },
        "share",
        help="malformed ones and errors are shown to the model; failed rollouts are not its fault",
    ),
    _Spec("Thinking kept between calls", {"agent/reasoning_kept_share": "of turns"}, "share"),
    _Spec("Thinking", {"agent/reasoning_tokens_per_turn": "a turn"}, "tokens"),
    _Spec("Completion length", {"completion_tokens_mean": "mean", "completion_tokens_max": "longest"}, "tokens"),
    _Spec(
        "Samples without use",
        {"cut_share": "completions cut off", "no_signal": "groups without signal"},
        "share",
        help="groups whose rewards are all equal teach nothing",
    ),
    _Spec("Scores that failed", {"failed": "completions"}, help="left out of the update"),
    _Spec(
        "Sampler against trainer",
        {"sampler_gap": "mean", "sampler_gap_p99": "99th percentile"},
        "nats",
        help="|Δ log-probability| of the sampled tokens",
    ),
    _Spec("Largest gap of a token", {"sampler_gap_max": "largest"}, "nats", help="sampler against trainer, in a step"),
    _Spec(
        "Clipped and masked tokens",
        {"clipped_share": "clipped", "masked_share": "masked as off-policy", "truncated_weight_share": "truncated weight"},
        "share",
        help="where the policy is too far from the sampler's",
    ),
    _Spec("KL to the reference", {"kl": "KL"}, "nats"),
    _Spec("Staleness", {"staleness": "steps"}, "steps", help="by which a step's rollouts were behind the weights"),
    _Spec("Entropy", {"entropy": "of the policy", "surprisal": "surprisal of what was sampled"}, "nats"),
    _Spec("Learning rate", {"lr": "lr"}),
    _Spec("Gradient norm", {"grad_norm": "norm"}, help="before clipping"),
    _Spec("Sampling speed", {"tokens_per_s": "sampled"}, "tokens/s"),
    _Spec("Training speed", {"steps_per_s": "steps"}, "steps/s"),
)
TIMES = {"rollout_s": "rollouts", "score_s": "scores", "train_s": "update", "publish_s": "publishing weights"}
OVERLAPPED = {"wait_s": "waiting for rollouts", "train_s": "update", "publish_s": "publishing weights"}
REST = "rest"


def stage_charts(run: Run, stage: Stage) -> tuple[list[Chart], list[Chart]]:
    """The charts of a stage that has rows, and those of metrics that no chart above shows."""
    if not stage.rows:
        return [], []
    table = _Table(stage)
    shown = [_reward(table), _held_out(run, stage), *(_lines(table, spec) for spec in SPECS), _time(table)]
    charts = [chart for chart in shown if chart is not None]
    others = sorted(key for key in table.keys - table.used)
    more = [chart for key in others if (chart := _lines(table, _Spec(key, {key: key}, zero=False))) is not None]
    return charts, more


def accuracy_chart(run: Run) -> Chart | None:
    """Every evaluation of the run over its updates, with the stages' beginnings."""
    rows = sorted(run.evaluations, key=lambda row: count(row, "global_step"))
    if not rows:
        return None
    marks: list[tuple[float, str]] = []
    begin = 0
    for stage in run.stages:
        if stage.rows or any(row.get("stage") == stage.name for row in rows):
            marks.append((float(begin), stage.name))
            begin = max([begin, *(count(row, "global_step") for row in stage.rows)])
    return _points("All evaluations", rows, [float(count(row, "global_step")) for row in rows], marks)


class _Table:
    """A stage's rows as columns of equal length, a few of them derived; many rows averaged into MAX_POINTS."""

    def __init__(self, stage: Stage) -> None:
        self.rows, self.used = stage.rows, set(BOOKKEEPING)
        numbers = {key for row in self.rows for key, value in row.items() if type(value) in (int, float)}
        self.keys = numbers - self.used
        self._derived: dict[str, list[float | None]] = {
            "no_signal": [_ratio(row, "num_groups_without_signal", count(row, "num_groups")) for row in self.rows],
            "failed": _failed(self.rows),
            "steps_per_s": _paces(self.rows) if "step_s" not in numbers else [],
        }
        self.used |= {"num_groups", "num_groups_without_signal", "num_failed_rollouts", "num_sampled_tokens"}
        self.size = math.ceil(len(self.rows) / MAX_POINTS)  # rows in a point
        self.x = [float(count(row, "step")) for row in [*self.rows[self.size - 1 :: self.size], *self._left_over()]]
        resumed = [b for a, b in pairwise(self.rows) if count(a, "attempt") < count(b, "attempt")]
        self.marks = [(float(count(row, "step")), "resumed") for row in resumed]

    def _left_over(self) -> Sequence[Row]:
        """The last row, where the rows do not fill the last point."""
        return self.rows[-1:] if len(self.rows) % self.size else ()

    def column(self, key: str) -> list[float | None]:
        """Empty where no row has a number there."""
        self.used.add(key)
        values = self._derived.get(key) or [finite(row, key) for row in self.rows]
        if all(value is None for value in values):
            return []
        return self._thin(values, max if key.endswith("_max") else _mean)

    def note(self, keys: Sequence[str]) -> str:
        broken = sum(type(v := row.get(key)) is float and not math.isfinite(v) for row in self.rows for key in keys)
        notes = [f"{broken} values are not finite and left out."] if broken else []
        notes += [f"Each point stands for {self.size} rows."] if self.size > 1 else []
        return " ".join(notes)

    def _thin(self, values: Sequence[float | None], join: Callable[[list[float]], float]) -> list[float | None]:
        parts = [values[i : i + self.size] for i in range(0, len(values), self.size)]
        found = [[v for v in part if v is not None] for part in parts]
        return [join(part) if part else None for part in found]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _ratio(row: Row, key: str, whole: float) -> float | None:
    part = finite(row, key)
    return part / whole if whole and part is not None else None


def _failed(rows: Sequence[Row]) -> list[float | None]:
    """Only where there were any: most runs have none, and need no chart that says so."""
    numbers = [finite(row, "num_failed_rollouts") for row in rows]
    return numbers if any(numbers) else [None] * len(rows)


def _paces(rows: Sequence[Row]) -> list[float | None]:
    """Steps a second between two rows of one attempt."""
    paces: list[float | None] = [None]
    for a, b in pairwise(rows):
        seconds = (finite(b, "elapsed_s") or 0.0) - (finite(a, "elapsed_s") or 0.0)
        same = count(a, "attempt") == count(b, "attempt")
        paces.append((count(b, "step") - count(a, "step")) / seconds if same and seconds > 0 else None)
    return paces


def _lines(table: _Table, spec: _Spec) -> Chart | None:
    found = [Line(label, values) for key, label in spec.keys.items() if (values := table.column(key))]
    if not found:
        return None
    return Chart(
        spec.title, table.x, found, spec.unit, zero=spec.zero, marks=table.marks, help=spec.help, note=table.note([*spec.keys])
    )


def _reward(table: _Table) -> Chart | None:
    parts = sorted(key for key in table.keys if key.startswith("reward/"))
    keys = {"reward_mean": "reward", **{key: key.removeprefix("reward/") for key in parts}}
    if len(parts) == 1 and table.column(parts[0]) == table.column("reward_mean"):
        del keys[parts[0]]  # one reward of weight 1 is the whole
    text = "mean of a step; its parts before weighting" if len(keys) > 1 else "mean over a step's completions"
    return _lines(table, _Spec("Reward", keys, help=text))


def _time(table: _Table) -> Chart | None:
    """Where a step's seconds went; a step without an update has no `train_s`, one with stale rollouts made them earlier."""
    whole = table.column("step_s")
    if not whole:
        return None
    times = OVERLAPPED if any(table.column("staleness")) else TIMES
    columns = {label: [v or 0.0 for v in table.column(key) or [0.0] * len(whole)] for key, label in times.items()}
    sums = [sum(parts) for parts in zip(*columns.values(), strict=True)]
    columns[REST] = [max(0.0, (w or 0.0) - s) for w, s in zip(whole, sums, strict=True)]
    lines = [Line(label, values) for label, values in columns.items() if any(values)]
    return Chart(
        "Where a step's time went", table.x, lines, "s", "stack", marks=table.marks, note=table.note(["step_s", *times])
    )


def _held_out(run: Run, stage: Stage) -> Chart | None:
    """A stage's evaluations over its steps; the one that it began with stands at step 0."""
    own = [row for row in run.evaluations if row.get("stage") == stage.name]
    first = min((count(row, "global_step") - count(row, "step") for row in stage.rows), default=0)
    before = [row for row in run.evaluations if row.get("stage") != stage.name and count(row, "global_step") == first]
    if not own or len(own) + len(before) < 2:
        return None
    rows = [*before[-1:], *own]
    return _points("Held-out accuracy", rows, [0.0] * len(before[-1:]) + [float(count(row, "step")) for row in own])


def _points(title: str, rows: Sequence[Row], x: Sequence[float], marks: Sequence[tuple[float, str]] = ()) -> Chart:
    spans = [interval(row) for row in rows]
    details = [f"{count(row, 'num_tasks')} tasks" for row in rows]
    values = [finite(row, "accuracy") for row in rows]
    line = Line("held-out accuracy", values, [low for low, _ in spans], [high for _, high in spans], details)
    return Chart(title, x, [line], "share", "points", marks=marks, help="bars: 95 % intervals")


def interval(row: Row) -> tuple[float | None, float | None]:
    span = row.get("interval")
    if not isinstance(span, list) or len(span) != 2:
        return None, None
    ends = {"low": span[0], "high": span[1]}
    return finite(ends, "low"), finite(ends, "high")


@dataclass
class TimeShares:
    """Seconds of one stage by what they were spent on."""

    stage: str
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, kind: str, seconds: float) -> None:
        if seconds > 0:
            self.seconds[kind] = self.seconds.get(kind, 0.0) + seconds


STARTING, SUPERVISED, BETWEEN = "starting", "supervised training", "evaluating, loading, saving"
KINDS = (STARTING, SUPERVISED, *TIMES.values(), REST, BETWEEN)


def time_shares(run: Run) -> list[TimeShares]:
    """Where the run's wall time went, stage by stage, from the times at which its rows were written."""
    rows = [row for row in (*run.metrics, *run.events) if finite(row, "elapsed_s") is not None]
    rows.sort(key=lambda row: (count(row, "attempt"), finite(row, "elapsed_s") or 0.0))
    found = {name: TimeShares(name) for name in ("", *(s.name for s in run.stages))}
    stage, trained, attempt, now = "", False, -1, 0.0
    for row in rows:
        if count(row, "attempt") != attempt:
            attempt, stage = count(row, "attempt"), ""
            now = min(now, finite(row, "elapsed_s") or 0.0)  # the clock goes on, or starts again where nothing was kept
        later = finite(row, "elapsed_s") or 0.0
        if row.get("type") == "metrics" and str(row.get("stage")) != stage:
            stage, trained = str(row.get("stage")), False
        _spend(found[stage], row, run.kind_of(stage), later - now, trained=trained)
        now = later
        if row.get("event") == "stage_started" and str(row.get("stage")) in found:
            stage, trained = str(row.get("stage")), False
        trained = trained or (row.get("event") == "checkpoint" and row.get("stage") == stage)
    return [one for one in found.values() if one.seconds]


def _spend(shares: TimeShares, row: Row, kind: str, seconds: float, *, trained: bool) -> None:
    if not shares.stage:
        shares.add(STARTING, seconds)
    elif kind == "sft":
        shares.add(BETWEEN if trained and row.get("type") != "metrics" else SUPERVISED, seconds)
    else:
        step = min(finite(row, "step_s") or 0.0, seconds) if row.get("type") == "metrics" else 0.0
        parts = {label: finite(row, key) or 0.0 for key, label in TIMES.items()} if step else {}
        whole = max(step, sum(parts.values()))  # more than the step only where a clock was changed
        for label, part in parts.items():
            shares.add(label, part * step / whole)
        shares.add(REST, step - sum(parts.values()))
        shares.add(BETWEEN, seconds - step)
