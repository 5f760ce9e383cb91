"""Where runs lie, and which one a command's RUN means. Called by `resume`, `report` and the launching of runs."""

from __future__ import annotations

from pathlib import Path

from recipes.tree import did_you_mean, show
from rewards.errors import UserError

RUNS = Path("runs")


def find_run(value: str) -> Path:
    """The folder that RUN means: a folder, a link such as runs/NAME, or the name of one in runs/.

    Raises:
        UserError: there is no such folder, or it holds none of the files that a run writes.
    """
    path = Path(value).expanduser()
    folder = path if path.exists() or path.is_absolute() else RUNS / value
    if not folder.exists():
        known = {name: name for p in RUNS.glob("*") if p.is_dir() for name in (p.name, str(p))}
        raise UserError(
            f"RUN: got {show(value)}, no such run; allowed: a run's folder, or its name{did_you_mean(value, known)}"
        )
    if not folder.is_dir():
        raise UserError(f"RUN: got {show(value)}, a file; allowed: a run's folder, or its name")
    if not any((folder / name).is_file() for name in ("recipe.yaml", "events.jsonl", "metrics.jsonl", "summary.json")):
        raise UserError(f"RUN: got {show(value)}, a folder without events.jsonl; allowed: a run's folder, or its name")
    return folder
