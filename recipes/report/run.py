"""What a run's folder says, read forgivingly: files may be missing, torn by a kill, or written by several attempts.

Whatever had to be left out is said in `Run.notes`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import yaml

Row: TypeAlias = Mapping[str, Any]

ENDS = {"run_finished": "done", "failed": "failed", "interrupted": "interrupted"}
UNFINISHED = "unfinished"  # running still, or killed before it could say so
START = "start"  # the evaluation of a model that the run began with; see specialists/specialist.py
MAX_ANCESTORS = 50


@dataclass(frozen=True)
class Stage:
    name: str
    kind: str  # "sft" or "grpo"
    steps: int  # planned; 0 where unknown
    rows: Sequence[Row]  # its metrics, in order of their step


@dataclass(frozen=True)
class Transcripts:
    """What specialists/transcripts.py wrote after one evaluation."""

    stage: str
    global_step: int
    rows: Sequence[Row]


@dataclass(frozen=True)
class Ancestor:
    """A checkpoint that the run wrote or began with. `manifest` is None where its folder is not there any more."""

    path: str
    manifest: Row | None


@dataclass(frozen=True)
class Run:
    """A run's records. Rows of attempts that a resume went behind are left out of all of them but `events`."""

    folder: Path
    name: str
    status: str  # of ENDS, or UNFINISHED
    end: Row | None  # the event that ended it
    stages: Sequence[Stage]
    metrics: Sequence[Row]
    events: Sequence[Row]
    evaluations: Sequence[Row]
    samples: Sequence[Row]
    transcripts: Sequence[Transcripts]
    ancestors: Sequence[Ancestor]  # newest first
    recipe: Row
    recipe_text: str
    summary: Row
    manifest: Row
    notes: Sequence[str] = field(default_factory=tuple)

    def kind_of(self, stage: str) -> str:
        return next((s.kind for s in self.stages if s.name == stage), "")


def finite(row: Row, key: str) -> float | None:
    """The number under `key`; None where it is missing, not a number, or not finite."""
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # a whole number of hundreds of digits
        return None


def count(row: Row, key: str) -> int:
    return int(finite(row, key) or 0)


def read_run(folder: Path) -> Run:
    """Reads everything. A file that is missing or broken leaves its part empty and, if broken, a note."""
    notes: list[str] = []
    metrics, events = (list(read_lines(folder / f"{name}.jsonl", notes)) for name in ("metrics", "events"))
    events = [row for row in events if isinstance(row.get("event"), str)]
    recipe_text, recipe = _read_recipe(folder / "recipe.yaml", notes)
    summary, manifest = (_read_json(folder / name, notes) for name in ("summary.json", "manifest.json"))
    status, end = _status(events, summary)
    kept = _newest(metrics, _limits(metrics), ("stage", "step"))
    evaluations = [row for row in events if row["event"] == "evaluation" and finite(row, "accuracy") is not None]
    evaluations = _newest(evaluations, _limits(metrics), ("stage", "step"))
    samples = _newest([row for row in events if row["event"] == "sample"], {}, ("stage", "step"))
    if dropped := len(metrics) - len(kept):
        notes.append(f"{dropped} metrics rows of earlier attempts are left out: the run was resumed from before them.")
    return Run(
        folder=folder,
        name=folder.resolve().name,
        status=status,
        end=end,
        stages=_stages(events, kept),
        metrics=kept,
        events=events,
        evaluations=evaluations,
        samples=samples,
        transcripts=_read_transcripts(folder / "evaluations", notes),
        ancestors=_ancestors(folder, manifest),
        recipe=recipe,
        recipe_text=recipe_text,
        summary=summary if status != UNFINISHED else {},  # else it is an earlier attempt's
        manifest=manifest,
        notes=notes,
    )


def comparison(labels: Sequence[tuple[str, str]]) -> tuple[int | None, int | None]:
    """Which of these evaluations, (stage, its kind) in order, are "before" and "after".

    With GRPO: the last one before the first GRPO stage, and the last of all. Without: the first and the last.

    >>> comparison([("base", "sft"), ("cold_start", "sft"), ("grpo", "grpo")])
    (1, 2)
    """
    first = next((i for i, (_, kind) in enumerate(labels) if kind == "grpo"), None)
    last = len(labels) - 1
    if first is None:
        return (0 if last > 0 else None), (last if labels else None)
    return (first - 1 if first else None), last


def after(stage: str) -> str:
    """How an evaluation is called."""
    return "at the start" if stage == START else f"after {stage}"


# ---- files


def read_lines(path: Path, notes: list[str]) -> Iterator[Row]:
    """The rows of a file; what is broken is left out and said in `notes`."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return
    except OSError as error:
        notes.append(f"{path.name} could not be read: {error.strerror}.")
        return
    broken = 0
    for i, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode(errors="replace"))
        except (ValueError, RecursionError):
            if i == len(lines) - 1:
                notes.append(f"The last line of {path.name} is torn ({len(line)} bytes), as a kill leaves it; it is left out.")
            else:
                broken += 1
            continue
        if isinstance(row, dict):
            yield row
        else:
            broken += 1
    if broken:
        notes.append(f"{broken} lines of {path.name} are no JSON objects and are left out.")


def _read_json(path: Path, notes: list[str]) -> Row:
    try:
        value = json.loads(path.read_bytes().decode(errors="replace"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        notes.append(f"{path.name} could not be read: {error}.")
        return {}
    return value if isinstance(value, dict) else {}


def _read_recipe(path: Path, notes: list[str]) -> tuple[str, Row]:
    try:
        text = path.read_bytes().decode(errors="replace")
        value = yaml.safe_load(text)
    except FileNotFoundError:
        return "", {}
    except (OSError, yaml.YAMLError) as error:
        notes.append(f"{path.name} could not be read: {error}.")
        return "", {}
    return text, value if isinstance(value, dict) else {}


def _read_transcripts(folder: Path, notes: list[str]) -> list[Transcripts]:
    found = []
    for path in folder.glob("*.jsonl"):
        number, _, stage = path.stem.partition("-")
        if number.isdigit() and stage and not path.name.startswith("."):
            found.append(Transcripts(stage, int(number), list(read_lines(path, notes))))
    return sorted(found, key=lambda one: (one.global_step, one.stage != START))


# ---- attempts


def _limits(metrics: Sequence[Row]) -> dict[int, int]:
    """For each attempt the first global step that a later attempt took again; rows from there on are superseded."""
    firsts: dict[int, int] = {}
    for row in metrics:
        attempt, step = count(row, "attempt"), count(row, "global_step")
        firsts[attempt] = min(step, firsts.get(attempt, step))
    return {a: min(steps) for a in firsts if (steps := [step for b, step in firsts.items() if b > a])}


def _newest(rows: Sequence[Row], limits: Mapping[int, int], keys: tuple[str, ...]) -> list[Row]:
    """Rows below their attempt's limit; of several with the same keys the last one, at the place of the first."""
    found: dict[tuple[str, ...], Row] = {}
    for row in rows:
        limit = limits.get(count(row, "attempt"))
        if limit is None or count(row, "global_step") < limit:
            found[tuple(str(row.get(key)) for key in keys)] = row
    return list(found.values())


def _status(events: Sequence[Row], summary: Row) -> tuple[str, Row | None]:
    """How the last attempt ended."""
    if not events:
        return str(summary.get("status", UNFINISHED)), None
    newest = max(count(row, "attempt") for row in events)
    ends = [row for row in events if count(row, "attempt") == newest and row["event"] in ENDS]
    return (ENDS[ends[-1]["event"]], ends[-1]) if ends else (UNFINISHED, None)


def _stages(events: Sequence[Row], metrics: Sequence[Row]) -> list[Stage]:
    """The planned stages in their order, then any that only the rows know."""
    known: dict[str, tuple[str, int]] = {}
    for event in events:
        if event["event"] == "run_started" and isinstance(event.get("stages"), list):
            for s in event["stages"]:
                if isinstance(s, dict):
                    known[str(s.get("name"))] = (str(s.get("kind", "")), count(s, "steps"))
        elif event["event"] == "stage_started":
            known[str(event.get("stage"))] = (str(event.get("kind", "")), count(event, "steps"))
    for row in metrics:
        known.setdefault(str(row.get("stage")), ("grpo" if "reward_mean" in row else "sft", 0))
    rows: dict[str, list[Row]] = {name: [] for name in known}
    for row in metrics:
        rows[str(row.get("stage"))].append(row)
    return [
        Stage(name, kind, steps, sorted(rows[name], key=lambda row: count(row, "step")))
        for name, (kind, steps) in known.items()
    ]


# ---- lineage


def _ancestors(folder: Path, manifest: Row) -> list[Ancestor]:
    """The checkpoints from which the run's newest one was trained, newest first, other runs' included."""
    own = [p for p in (folder / "checkpoints").glob("step-*") if p.name.removeprefix("step-").isdigit()]
    newest = sorted(own, key=lambda p: int(p.name.removeprefix("step-")))[-1:]
    waiting = _parents(manifest) or [str(p) for p in newest]
    found: dict[str, Ancestor] = {}
    while waiting and len(found) < MAX_ANCESTORS:
        path = waiting.pop(0)
        if path not in found:
            place = _place(folder, path)
            known = _read_json(place / "manifest.json", []) if place else None
            found[path] = Ancestor(path, known or None)
            waiting += _parents(known or {})
    return list(found.values())


def _parents(manifest: Row) -> list[str]:
    parents = manifest.get("parents")
    return [str(p) for p in parents] if isinstance(parents, list) else []


def _place(folder: Path, path: str) -> Path | None:
    """Where a manifest's parent lies now: paths are relative to the working folder of the run that wrote them."""
    home = folder.resolve().parent.parent
    looked = [folder / "checkpoints" / Path(path).name, home / path, Path(path)]
    looked = looked if f"{folder.resolve().name}/checkpoints/" in path else looked[1:]
    return next((p for p in looked if p.is_dir()), None)
