"""`polymath report`: a run's folder as one HTML page that needs no network. Reads files only; torch stays unimported.

`run.py` reads the folder, `charts.py` and `texts.py` choose what is shown, `page.py` writes the page.
"""

from __future__ import annotations

from pathlib import Path

from recipes.report.page import render
from recipes.report.run import read_run
from recipes.tree import did_you_mean, show
from rewards.errors import UserError
from rl.checkpoint import write_text

RUNS = Path("runs")
NAME = "report.html"


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
    if not any((folder / name).is_file() for name in ("events.jsonl", "metrics.jsonl", "summary.json")):
        raise UserError(f"RUN: got {show(value)}, a folder without events.jsonl; allowed: a run's folder, or its name")
    return folder


def write_report(folder: Path, output: Path | None = None) -> Path:
    """Writes the page atomically and returns its path: report.html in the run's folder, or `output`."""
    path = output or folder / NAME
    if path.is_dir():
        raise UserError(f"--output: got {show(str(path))}, a folder; allowed: a file to write")
    text = render(read_run(folder))
    try:
        write_text(path, text)
    except OSError as error:
        raise UserError(f"--output: {path} cannot be written: {error.strerror}") from error
    return path
