"""An append-only log of byte records: written in groups, synced before it acknowledges; kills and torn writes cost it nothing.

A log is a folder of segments named EPOCH-INDEX.log. Every writer has an epoch of its own and begins a segment, whose first
record says how much of each earlier segment counts; so whatever a fenced writer still adds there is never read, and it finds
the newer segment before it acknowledges anything. A record is a header (length, CRC-32 of the rest, order) and its bytes.

Used by the command log (`sandbox/commandlog.py`); it knows nothing of what the records mean.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

MAX_RECORD_BYTES = 64 << 20
SEGMENT_BYTES = 64 << 20  # after which a writer begins the next one
RETRY_S = 1.0  # between two tries to write where the disk refuses
_HEADER = struct.Struct("<IIQ")  # length, CRC-32 of order and bytes, order
_ORDER = struct.Struct("<Q")


class FencedError(Exception):
    """Another writer has taken the log over; nothing more of this one will count."""


@dataclass(frozen=True)
class Record:
    """`order` counts a log's records from 0, without gaps."""

    order: int
    data: bytes


def encode(order: int, data: bytes) -> bytes:
    """A record as it stands in a file."""
    if len(data) > MAX_RECORD_BYTES:
        raise ValueError(f"a record of {len(data)} bytes; at most {MAX_RECORD_BYTES}")
    return _HEADER.pack(len(data), zlib.crc32(data, zlib.crc32(_ORDER.pack(order), len(data))), order) + data


def decode(text: bytes) -> Iterator[tuple[int, Record]]:
    """The valid records at the beginning of these bytes, each with the place where it ends; stops at the first that is not."""
    start = 0
    while len(text) - start >= _HEADER.size:
        length, check, order = _HEADER.unpack_from(text, start)
        end = start + _HEADER.size + length
        if length > MAX_RECORD_BYTES or end > len(text):
            return
        data = text[start + _HEADER.size : end]
        if zlib.crc32(data, zlib.crc32(_ORDER.pack(order), length)) != check:
            return
        yield end, Record(order, data)
        start = end


def read(folder: Path) -> list[Record]:
    """Every record that counts, in order: of damaged files the longest prefix. Never raises for what is in the files."""
    records, _ = _read(folder)
    return records


def _segments(folder: Path) -> list[Path]:
    """In the order in which they were begun."""
    return sorted(path for path in folder.glob("*-*.log") if len(path.stem) == 17) if folder.is_dir() else []


def _read(folder: Path) -> tuple[list[Record], dict[str, int]]:
    """The records that count, and by segment the bytes that do."""
    texts = {path.name: path.read_bytes() for path in _segments(folder)}
    limits = dict[str, int]()
    for name, text in reversed(texts.items()):
        if (earlier := _limits_of(text)) is not None:  # the newest that is whole so far speaks for all before it
            limits = {**earlier, name: len(text)}
            break
    records, filled = list[Record](), dict[str, int]()
    for name, limit in limits.items():
        found = list(decode(texts.get(name, b"")[:limit]))
        for end, record in found[1:]:
            if record.order != len(records):
                return records, filled  # a gap: what follows is of no use
            records.append(record)
            filled[name] = end
        filled.setdefault(name, found[0][0] if found else 0)
        if filled[name] < limit and name != next(reversed(limits)):
            return records, filled  # some of what counted is damaged
    return records, filled


def _limits_of(text: bytes) -> dict[str, int] | None:
    """What a segment says of those before it; None where its first record is damaged or was never finished."""
    for _, record in decode(text):
        return dict(json.loads(record.data))
    return None


class FrameLog:
    """The writer. `append` from any thread; each future is done when its record is on the disk.

    A disk that refuses to write or to sync stops acknowledging: `trouble` says why, and what was not acknowledged is written
    again, into a new segment, since what a failed sync has left behind cannot be known.
    """

    def __init__(self, folder: Path) -> None:
        """Takes the log over: whoever wrote to it before is fenced."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.trouble: OSError | None = None
        self._fd: int | None = None
        self._next, self._changed, self._closing = 0, threading.Condition(), False
        self._waiting = list[tuple[bytes, Future[int]]]()
        while True:
            self.records, self._filled = _read(folder)
            segments = _segments(folder)
            self._epoch, self._index = int(segments[-1].stem[:8]) + 1 if segments else 1, 0
            with contextlib.suppress(FileExistsError):  # two took over at once, and the other one was first
                self._begin_segment()
                break
        self._next = len(self.records)
        self._thread = threading.Thread(target=self._run, name="framelog", daemon=True)
        self._thread.start()

    def append(self, data: bytes) -> Future[int]:
        """The order of this record, once it is on the disk.

        The future raises FencedError where another writer has taken over.
        """
        done = Future[int]()
        with self._changed:
            if self._closing:
                raise ValueError("the log is closed")
            self._waiting.append((encode(self._next, data), done))
            self._next += 1
            self._changed.notify()
        return done

    def close(self) -> None:
        """Returns when everything that was appended is on the disk, or cannot be put there now."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closing:
                    self._changed.wait()
                group, self._waiting = self._waiting, []
            if not group:
                return
            self._commit(group)

    def _commit(self, group: list[tuple[bytes, Future[int]]]) -> None:
        """One write and one sync for all that came meanwhile; tries again until it holds, or the log is closed."""
        text = b"".join(record for record, _ in group)
        while True:
            try:
                if self._fd is None or self._filled[self._name] > SEGMENT_BYTES:
                    self._begin_segment()
                self._write(text)
                self._check_fence()
                break
            except OSError as error:
                self._abandon(error)
                with self._changed:
                    if self._changed.wait_for(lambda: self._closing, RETRY_S):
                        for _, done in group:
                            done.set_exception(error)
                        return
            except FencedError as error:
                for _, done in group:
                    done.set_exception(error)
                return
        self._filled[self._name] += len(text)
        self.trouble = None
        for record, done in group:
            done.set_result(_HEADER.unpack_from(record)[2])

    def _write(self, text: bytes) -> None:
        assert self._fd is not None
        left = memoryview(text)
        while left:
            left = left[os.write(self._fd, left) :]
        os.fdatasync(self._fd)

    def _abandon(self, error: OSError) -> None:
        self.trouble = error
        if self._fd is not None:
            with contextlib.suppress(OSError):
                os.close(self._fd)
            self._fd = None

    def _begin_segment(self) -> None:
        """A new file; it says how much of each one before it counts.

        Raises:
            FileExistsError: another writer has begun the same one.
        """
        name = f"{self._epoch:08d}-{self._index:08d}.log"
        fd = os.open(self.folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        if self._fd is not None:
            os.close(self._fd)
        self._fd, self._name, self._index = fd, name, self._index + 1
        first = encode(0, json.dumps(self._filled).encode())
        self._write(first)
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        self._filled[name] = len(first)

    def _check_fence(self) -> None:
        newest = _segments(self.folder)[-1]
        if int(newest.stem[:8]) > self._epoch:
            raise FencedError(f"{self.folder}: taken over by the writer of {newest.name}")
