"""`polymath report`: a run's folder as one HTML page that needs no network. Reads files only; torch stays unimported.

`run.py` reads the folder, `charts.py` and `texts.py` choose what is shown, `page.py` writes the page.
"""

from __future__ import annotations

from pathlib import Path

from recipes.report.page import render
from recipes.report.run import read_run
from recipes.tree import show
from rewards.errors import UserError
from rl.checkpoint import write_text

NAME = "report.html"


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
