"""The log of a pool's boxes: what each command was to be, before it runs, and what it came to, before its caller learns of it.

One order over all boxes of a pool, a sequence from 1 in each box. A client that comes back after its own death asks for its
commands again, in the same order, and gets the recorded results; see `sandbox/calls.py`. Records are frames of JSON and bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sandbox import framelog
from sandbox.errors import SandboxError
from sandbox.framelog import FrameLog, Record
from sandbox.result import Output, Result, Verdict

NOT_LOGGED = ("live", "disk")  # of an order: they do not change what it does


class CommandChangedError(SandboxError):
    """A client that came back asked for another command than the one that is recorded in its place."""


@dataclass(frozen=True)
class Entry:
    """A command of a box: what was asked, shown shortened, and its answer if it is known.

    `facts` is what the command came to, `data` the bytes that belong to it: output, a value, or a file's content.
    """

    box_id: str
    seq: int
    digest: str  # of everything that was asked
    shown: str
    facts: Mapping[str, Any] | None = None
    data: bytes = b""


class CommandLog:
    """The writer, and what was there when it was opened."""

    def __init__(self, folder: Path) -> None:
        self._log = FrameLog(folder)
        self._entries = {(entry.box_id, entry.seq): entry for entry in entries(self._log.records)}

    def find(self, box_id: str, seq: int) -> Entry | None:
        return self._entries.get((box_id, seq))

    def intend(self, entry: Entry) -> Future[int]:
        """Records that this command is about to run."""
        return self._append("intent", entry, b"")

    def finish(self, entry: Entry, facts: Mapping[str, Any], data: bytes) -> Future[int]:
        """Records what it came to; the future is done when that, and all before it, is on the disk."""
        return self._append("result", entry, data, facts=dict(facts))

    def close(self) -> None:
        self._log.close()

    def _append(self, kind: str, entry: Entry, data: bytes, **more: Any) -> Future[int]:
        words = {"kind": kind, "box": entry.box_id, "seq": entry.seq, "digest": entry.digest, "shown": entry.shown, **more}
        return self._log.append(json.dumps(words).encode() + b"\n" + data)


def read(folder: Path) -> list[Entry]:
    """The commands of a pool in the order in which they were begun."""
    return list(entries(framelog.read(folder)))


def entries(records: list[Record]) -> Iterator[Entry]:
    found = dict[tuple[str, int], Entry]()
    for record in records:
        head, _, data = record.data.partition(b"\n")
        words = json.loads(head)
        found[words["box"], words["seq"]] = Entry(
            words["box"], words["seq"], words["digest"], words["shown"], words.get("facts"), data
        )
    yield from found.values()


def entry_of(box_id: str, seq: int, order: Mapping[str, Any], payload: bytes) -> Entry:
    """The entry of a command that is about to be asked."""
    asked = {name: value for name, value in order.items() if name not in NOT_LOGGED}
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode() + b"\n" + payload).hexdigest()
    words = order.get("argv") or [order[name] for name in ("path", "function", "snapshot", "name") if name in order]
    return Entry(box_id, seq, digest, " ".join([order["op"], *words])[:2000])


def facts_of(result: Result, value: bytes) -> tuple[dict[str, Any], bytes]:
    """A result in the form of an entry."""
    parts = [result.stdout.head, result.stdout.tail, result.stderr.head, result.stderr.tail, value]
    facts = {
        "verdict": result.verdict, "exit_code": result.exit_code, "signal": result.signal, "wall_s": result.wall_s,
        "cpu_s": result.cpu_s, "max_rss_bytes": result.max_rss_bytes, "sizes": [len(part) for part in parts],
        "num_bytes": [result.stdout.num_bytes, result.stderr.num_bytes], "waited_s": result.waited_s,
    }  # fmt: skip
    return facts, b"".join(parts)


def result_of(facts: Mapping[str, Any], data: bytes) -> tuple[Result, bytes]:
    """The result that `facts_of` has taken apart.

    >>> result_of(*facts_of(Result(Verdict.OK, 0, stdout=Output(b"hi", num_bytes=2)), b"1"))[1]
    b'1'
    """
    parts, start = list[bytes](), 0
    for size in facts["sizes"]:
        parts.append(data[start : start + size])
        start += size
    out, err = facts["num_bytes"]
    result = Result(
        Verdict(facts["verdict"]), facts["exit_code"], facts["signal"], Output(parts[0], parts[1], out),
        Output(parts[2], parts[3], err), facts["wall_s"], facts["cpu_s"], facts["max_rss_bytes"],
        facts.get("waited_s"),
    )  # fmt: skip
    return result, parts[4]
