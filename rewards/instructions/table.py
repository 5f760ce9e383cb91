"""The table of all instructions in docs/instructions.md, from the functions themselves: `python -m rewards.instructions.table`.

Prints the page with its tables made anew; `--write` puts it in place.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from rewards.instructions.catalog import IFBENCH, IFEVAL, IFTRAIN, Check
from rewards.instructions.checks import arguments_of

PAGE = Path(__file__).parents[2] / "docs" / "instructions.md"
_SUITES = {"IFEval": IFEVAL, "IFBench": IFBENCH, "IFTrain": IFTRAIN}


def updated(page: str) -> str:
    """The page with each table between its marks made anew.

    Raises:
        ValueError: the page lacks the marks of a table.
    """
    for name, suite in _SUITES.items():
        begin, end = f"<!-- {name}: made by rewards/instructions/table.py -->\n", f"<!-- end of {name} -->"
        before, found, rest = page.partition(begin)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise ValueError(f"{PAGE} lacks the marks of the table {name}: {begin!r} and {end!r}")
        page = before + begin + table(suite) + end + after
    return page


def table(suite: Mapping[str, Check]) -> str:
    rows = ["| Id | Keyword arguments | Followed where |\n", "| --- | --- | --- |\n"]
    rows += [f"| `{name}` | {_arguments(function)} | {_meaning(function)} |\n" for name, function in suite.items()]
    return "".join(rows)


def _arguments(function: Check) -> str:
    named = [f"`{name}` ({_kind(kind)})" for name, kind in arguments_of(function).items()]
    return ", ".join(named) or "none"


def _kind(kind: Any) -> str:
    known = {int: "whole number", str: "text", Sequence[str]: "list of texts"}
    return known.get(kind) or " or ".join(f'"{choice}"' for choice in get_args(kind))


def _meaning(function: Check) -> str:
    text = " ".join((inspect.getdoc(function) or "").split())
    pieces = text.split("`")  # every second one is code, where nothing needs escaping but the table's own bar
    return "`".join(re.sub(r"[|]" if at % 2 else r"[|<*_]", r"\\\g<0>", piece) for at, piece in enumerate(pieces))


if __name__ == "__main__":
    fresh = updated(PAGE.read_text(encoding="utf-8"))
    if "--write" in sys.argv[1:]:
        PAGE.write_text(fresh, encoding="utf-8")
    else:
        print(fresh)
