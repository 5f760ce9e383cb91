"""Small pieces of text that the views, the closing table and chat share: safe transcripts, durations, bars and a plot.

Pure functions over strings and numbers. `ascii_only` is for consoles whose encoding is not UTF-8.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

THINK, END_THINK = "<think>", "</think>"
SHOWN_CHARS = 4000  # of a transcript; more would not fit any terminal
BLOCKS, ASCII_BLOCKS = " ▁▂▃▄▅▆▇█", " .:-=+*#@"
TURNS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # change the direction of writing

Point: TypeAlias = tuple[float, float]


def safe(text: str, encoding: str = "utf-8", *, one_line: bool = False) -> str:
    """What can be written to a terminal: control characters and what the encoding lacks become visible escapes."""
    shown = "".join(c if c == "\n" and not one_line else _visible(c) for c in text.replace("\t", "    "))
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def _visible(char: str) -> str:
    if char in TURNS or unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp"):
        return char.encode("unicode_escape").decode()
    return char


def local(text: str) -> str:
    """A path, or what begins with one, without the working folder that it lies in."""
    return text.removeprefix(f"{Path.cwd()}/")


def shorten(text: str, width: int) -> str:
    """At most `width` characters; a cut text ends in "..."."""
    return text if len(text) <= width else text[: max(0, width - 3)] + "..."


def split_thinking(completion: str) -> tuple[str, str]:
    """Thinking and answer of a completion; a thought that was never closed is all thinking."""
    thinking, closed, answer = completion.rpartition(END_THINK)
    if closed or THINK not in completion:
        return thinking.replace(THINK, "").strip(), answer.strip()
    return completion.replace(THINK, "").strip(), ""


def duration(seconds: float) -> str:
    """
    >>> duration(7.42), duration(95), duration(4000)
    ('7.4 s', '1:35', '1:06:40')
    """
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


def number(value: float) -> str:
    """Three figures, thousands whole: 0.0123, 1.35, 412, 8504."""
    if not math.isfinite(value):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def bars(values: Sequence[float], width: int, height: int = 1, *, ascii_only: bool = False) -> list[str]:
    """`height` lines of columns, top first, scaled to the values' own range; many values are averaged into `width`."""
    means = _means([v for v in values if math.isfinite(v)], width)
    if not means:
        return [""] * height
    low, high = min(means), max(means)
    levels = ASCII_BLOCKS if ascii_only else BLOCKS
    full = len(levels) - 1
    tall = [1 + round((v - low) / ((high - low) or 1.0) * (height * full - 1)) for v in means]
    return ["".join(levels[min(full, max(0, t - full * row))] for t in tall) for row in reversed(range(height))]


def _means(values: Sequence[float], width: int) -> list[float]:
    count = min(width, len(values))
    cuts = [i * len(values) // count for i in range(count + 1)] if count > 0 else []
    return [sum(values[a:b]) / (b - a) for a, b in pairwise(cuts)]


def plot(curve: Sequence[Point], marks: Sequence[Point], *, width: int = 60, height: int = 10, ascii_only: bool) -> list[str]:
    """A curve and marked points over a common x, with a y axis: `height` lines, a rule, and the first and last x."""
    points = [p for p in (*curve, *marks) if all(map(math.isfinite, p))]
    if not points:
        return []
    x_low, x_high = min(x for x, _ in points), max(x for x, _ in points)
    low = min(0.0, *(y for _, y in points))
    high = max(math.ceil(10 * max(y for _, y in points) - 1e-9) / 10, low + 0.1)

    def place(point: Point, columns: int, rows: int) -> tuple[int, int]:
        x, y = point
        column = round((x - x_low) / ((x_high - x_low) or 1.0) * (columns - 1))
        return column, round((high - y) / (high - low) * (rows - 1))

    grid = [[" "] * width for _ in range(height)]
    if ascii_only:
        for column, row in (place(p, width, height) for p in _finite(curve)):
            grid[row][column] = "*"
    else:
        _dots(grid, [place(p, 2 * width, 4 * height) for p in _finite(curve)])
    for column, row in (place(p, width, height) for p in _finite(marks)):
        grid[row][column] = "o" if ascii_only else "●"
    side, corner, rule = ("|", "+", "-") if ascii_only else ("│", "└", "─")
    labels = {
        0: f"{high:.2f}",
        height // 2: f"{high - (high - low) * (height // 2) / (height - 1):.2f}",
        height - 1: f"{low:.2f}",
    }
    lines = [f"{labels.get(i, ''):>6} {side}{''.join(row)}".rstrip() for i, row in enumerate(grid)]
    first, last = f"{x_low:g}", f"{x_high:g}"
    return [*lines, f"{'':>6} {corner}{rule * width}", f"{'':>8}{first}{last:>{width - len(first)}}"]


def _finite(points: Iterable[Point]) -> list[Point]:
    return [p for p in points if all(map(math.isfinite, p))]


def _dots(grid: list[list[str]], points: Sequence[tuple[int, int]]) -> None:
    """Draws lines between the points in Braille cells of 2 x 4 dots."""
    bits = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
    cells: dict[tuple[int, int], int] = {}
    for (x0, y0), (x1, y1) in zip(points, points[1:] or points, strict=False):
        count = max(abs(x1 - x0), abs(y1 - y0), 1)
        for i in range(count + 1):
            x, y = round(x0 + (x1 - x0) * i / count), round(y0 + (y1 - y0) * i / count)
            cells[y // 4, x // 2] = cells.get((y // 4, x // 2), 0) | bits[y % 4][x % 2]
    for (row, column), dots in cells.items():
        grid[row][column] = chr(0x2800 + dots)
