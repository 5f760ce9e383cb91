"""What the tool `files` runs in a box: a function for each of its commands, with nothing but the standard library.

`rl/tools/files.py` sends this file's text. Each answers ["ok", text] or ["error", what is wrong, for the model].
"""

from __future__ import annotations

import os
import stat
from typing import Any

DEPTH = 2  # of a folder that is shown
MAX_ENTRIES = 2000


def edit(command: str, path: str, given: dict[str, Any], max_bytes: int) -> list[str]:
    try:
        return ["ok", COMMANDS[command](path, max_bytes, **given)]
    except ValueError as error:
        return ["error", str(error)]
    except OSError as error:
        return ["error", f"{path}: {error.strerror or error}"]


def view(path: str, max_bytes: int, first: int | None = None, last: int | None = None) -> str:
    if os.path.isdir(path):
        return _listing(path.rstrip("/") or "/")
    lines = _lines(_load(path, max_bytes))
    if not lines:
        return "(an empty file)"
    low, high = 1 if first is None else first, len(lines) if last is None else min(last, len(lines))
    if not 1 <= low <= high:
        raise ValueError(f"{path} has lines 1 to {len(lines)}; got first {low}, last {last}")
    return _numbered(lines, low, high)


def create(path: str, max_bytes: int, text: str) -> str:
    if os.path.isdir(path):
        raise ValueError(f"{path} is a folder")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(text.encode())
    return f"wrote {path}, {len(_lines(text))} lines"


def replace(path: str, max_bytes: int, old: str, new: str) -> str:
    before = _load(path, max_bytes)
    count = before.count(old) if old else 0
    if count != 1:
        parts = before.split(old)[:10] if old else []
        at = [str(1 + old.join(parts[: i + 1]).count("\n")) for i in range(len(parts) - 1)]
        where = f", at lines {', '.join(at)}" if at else ""
        raise ValueError(f"`old` is {count} times in {path}{where}; it must be there exactly once")
    start = before.index(old)
    return _changed(path, before[:start] + new + before[start + len(old) :], before.count("\n", 0, start) + 1, new)


def insert(path: str, max_bytes: int, line: int, text: str) -> str:
    *whole, rest = _load(path, max_bytes).split("\n")
    lines = [*(f"{one}\n" for one in whole), *([rest] if rest else [])]
    if not 0 <= line <= len(lines):
        raise ValueError(f"{path} has {len(lines)} lines; got line {line}")
    if line and not lines[line - 1].endswith("\n"):
        lines[line - 1] += "\n"
    lines.insert(line, text if text.endswith("\n") or line == len(lines) else f"{text}\n")
    return _changed(path, "".join(lines), line + 1, text)


COMMANDS: dict[str, Any] = {"view": view, "create": create, "replace": replace, "insert": insert}


def _load(path: str, max_bytes: int) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)  # a pipe must not block it
    mode = os.fstat(fd).st_mode
    with open(fd, "rb") as file:
        if not stat.S_ISREG(mode):
            raise ValueError(f"{path} is no regular file")
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ValueError(f"{path} has more than {max_bytes} bytes; use another tool")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no text in UTF-8") from None


def _changed(path: str, text: str, first: int, part: str) -> str:
    """Writes it, and shows what is around the lines that changed."""
    with open(path, "r+b") as file:
        file.write(text.encode())
        file.truncate()
    lines = _lines(text)
    return f"changed {path}:\n{_numbered(lines, max(1, first - 2), min(len(lines), first + part.count(chr(10)) + 2))}"


def _lines(text: str) -> list[str]:
    return text.removesuffix("\n").split("\n") if text else []


def _numbered(lines: list[str], first: int, last: int) -> str:
    return "".join(f"{i:6}\t{lines[i - 1]}\n" for i in range(first, last + 1))


def _listing(path: str) -> str:
    found = list[str]()
    for folder, folders, names in os.walk(path):
        inner = os.path.relpath(folder, path)
        depth = 0 if inner == "." else inner.count("/") + 1
        if depth:
            found.append(f"{inner}/")
        if depth < DEPTH:
            found += [os.path.normpath(os.path.join(inner, name)) for name in names]
        else:
            folders.clear()
        folders.sort()
        if len(found) > MAX_ENTRIES:
            break
    return "\n".join(sorted(found)) or "(an empty folder)"
