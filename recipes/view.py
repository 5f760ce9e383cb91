"""What a person sees while a run goes: a dashboard in a terminal, plain lines in a pipe. `recipes/launch.py` opens it.

A view is a listener of rl/runlog.py's RunLog. It only shows: whatever a row holds, it does not stop the run.
"""

from __future__ import annotations

import threading
import time
from typing import Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from recipes.dashboard import Dashboard
from recipes.lines import Progress, Row, line
from recipes.text import safe

FLEETING = ("stage_started", "engine", "trainer", "sample")  # events that the dashboard shows and no line keeps


class View(Protocol):
    """A context manager that takes the rows of one run."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def __call__(self, row: Row) -> None: ...


def open_view(console: Console) -> View:
    """The dashboard where the console can redraw, else plain lines; colours forced into a pipe do not make it a terminal."""
    interactive = console.is_terminal and not console.is_dumb_terminal and console.file.isatty()
    return LiveView(console) if interactive else PlainView(console)


class PlainView:
    """A line for each row, written at once."""

    def __init__(self, console: Console) -> None:
        self._console, self._progress = console, Progress()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def __call__(self, row: Row) -> None:
        self._progress.see(row)
        text = safe(line(row, self._progress), self._console.encoding)
        self._console.file.write(text + "\n")  # past rich: no wrapping, no colours
        self._console.file.flush()


class LiveView:
    """Redraws the dashboard four times a second from a thread of its own; what should stay is printed above it."""

    def __init__(self, console: Console) -> None:
        self._console, self._dashboard = console, Dashboard()
        self._lock = threading.Lock()  # never held while rich works, which has locks of its own
        self._warned_in = ""  # the stage whose first failed score was printed
        self._live = Live(console=console, get_renderable=self._frame, transient=True, vertical_overflow="crop")

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def __call__(self, row: Row) -> None:
        with self._lock:
            self._dashboard.see(row, time.monotonic())
            text = line(row, self._dashboard.progress)
        if self._is_kept(row):
            style = "red" if row.get("event") in ("failed", "interrupted", "score_failed") else ""
            self._console.print(Text(safe(text, self._console.encoding), style), soft_wrap=True, highlight=False)

    def _is_kept(self, row: Row) -> bool:
        if row.get("event") == "score_failed":
            stage, self._warned_in = self._warned_in, str(row.get("stage"))
            return stage != self._warned_in
        return row.get("type") != "metrics" and row.get("event") not in FLEETING

    def _frame(self) -> Group:
        with self._lock:
            return Group(*self._dashboard.render(self._console, time.monotonic()))
