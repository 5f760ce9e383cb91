"""Reads the attacks that are programs from `programs/`, one file for each family.

=== name of an attack | form, where it is meant for one
--- top     runs when the program is loaded
--- call    runs in each call of the entry point, which has `args` and `kwargs`
--- value   what is then returned; else None

Of a program that reads and prints, `top` runs first, `args` is (its input,), and `value` is printed. A line `@name` stands for
the snippet of that name.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from rewards.tampering.attack import Cheat, Family, Form

_FOLDER = Path(__file__).with_name("programs")
_PIECES = ("top", "call", "value")


@cache
def cheats() -> tuple[Cheat, ...]:
    """All of them, by family.

    Raises:
        ValueError: a file has a piece or a snippet that there is not.
    """
    snippets = dict(_entries(_FOLDER / "snippets.txt"))
    return tuple(
        _cheat(family, title, text, snippets)
        for family in Family
        if (path := _FOLDER / f"{family.name.lower()}.txt").exists()
        for title, text in _entries(path)
    )


def _entries(path: Path) -> Iterator[tuple[str, str]]:
    for entry in re.split(r"^=== ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        title, _, text = entry.partition("\n")
        yield title, text.strip("\n")


def _cheat(family: Family, title: str, text: str, snippets: Mapping[str, str]) -> Cheat:
    name, _, form = title.partition(" | ")
    pieces = dict.fromkeys(_PIECES, "")
    for piece in re.split(r"^--- ", text, flags=re.MULTILINE)[1:]:
        what, _, program = piece.partition("\n")
        if what not in pieces:
            raise ValueError(f"{title}: got the piece {what!r}; allowed: {', '.join(_PIECES)}")
        pieces[what] = _filled(program.strip("\n"), snippets)
    return Cheat(family, name, pieces["top"], pieces["call"], pieces["value"] or "None", Form(form) if form else None)


def _filled(program: str, snippets: Mapping[str, str]) -> str:
    def snippet(line: re.Match[str]) -> str:
        if line[2] not in snippets:
            raise ValueError(f"got the snippet {line[2]!r}; allowed: {', '.join(snippets)}")
        return textwrap.indent(_filled(snippets[line[2]], snippets), line[1])

    return re.sub(r"^( *)@(\w+)$", snippet, program, flags=re.MULTILINE)
