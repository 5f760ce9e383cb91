"""The pages that benchmarks write, without torch: Markdown tables, and their folder."""

from __future__ import annotations

from pathlib import Path

RESULTS = Path(__file__).parents[2] / "docs" / "results"


def write(name: str, text: str) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / name).write_text(text)


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows]) + "\n"
