"""A run's records: metrics.jsonl (one line a step), events.jsonl (what happened), TensorBoard files, summary.json.

Anyone who wants to watch a run (the terminal view) is a listener and gets the same rows as they are written.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from torch.utils.tensorboard import SummaryWriter

from rl.checkpoint import write_json

Row: TypeAlias = Mapping[str, Any]
Listener: TypeAlias = Callable[[Row], None]


class RunLog:
    """Rows have `type` "metrics" or "event", and `attempt`: 0 for a run's first start, one more for each resume.

    A metrics row: {"type": "metrics", "stage": "grpo", "step": 3, "global_step": 523, "reward_mean": 0.4, "train_s": 0.7}.
    Keys that end in `_s` or `_per_s` are timings; all others depend on recipe and seed alone.
    """

    def __init__(
        self, folder: Path, listeners: Sequence[Listener] = (), *, attempt: int = 0, first_step: int = 0, before_s: float = 0.0
    ) -> None:
        """`first_step`: global steps that a resumed run has behind it; `before_s`: seconds that they took."""
        self.folder, self.attempt, self._listeners = folder, attempt, list(listeners)
        self._start = time.perf_counter() - before_s
        self._metrics = (folder / "metrics.jsonl").open("a")
        self._events = (folder / "events.jsonl").open("a")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step + 1 if attempt else None)

    def metrics(self, stage: str, step: int, global_step: int, values: Mapping[str, float]) -> None:
        row = {"type": "metrics", "attempt": self.attempt, "stage": stage, "step": step, "global_step": global_step}
        self._write(self._metrics, {**row, **values, "elapsed_s": self.elapsed_s()})
        for name, value in values.items():
            self._board.add_scalar(f"{stage}/{name}", value, global_step)

    def event(self, name: str, /, **fields: Any) -> None:
        row = {"type": "event", "attempt": self.attempt, "event": name, **fields, "elapsed_s": self.elapsed_s()}
        self._write(self._events, row)

    def summary(self, values: Mapping[str, Any]) -> None:
        write_json(self.folder / "summary.json", values)

    def position(self) -> dict[str, int]:
        """Bytes written so far to each file, on disk when this returns; `cut_back` takes them."""
        files = {"metrics": self._metrics, "events": self._events}
        for file in files.values():
            os.fsync(file.fileno())
        return {name: file.tell() for name, file in files.items()}

    def close(self) -> None:
        self._metrics.close()
        self._events.close()
        self._board.close()

    def elapsed_s(self) -> float:
        """Seconds of this run's work, over all its attempts."""
        return round(time.perf_counter() - self._start, 3)

    def _write(self, file: Any, row: dict[str, Any]) -> None:
        file.write(json.dumps(row, default=float) + "\n")  # ASCII: a model may write half a surrogate pair
        file.flush()
        for listener in list(self._listeners):
            try:
                listener(row)
            except BrokenPipeError:  # who watched has gone, such as `| head`; the run goes on
                self._listeners.remove(listener)


def cut_back(folder: Path, position: Mapping[str, int]) -> None:
    """Forgets the rows that were written after `position` was taken; files that it does not name are emptied."""
    for name in ("metrics", "events"):
        path = folder / f"{name}.jsonl"
        if path.exists():
            os.truncate(path, min(position.get(name, 0), path.stat().st_size))


def last_attempt(folder: Path) -> int:
    """The number of the newest attempt that events.jsonl tells of; -1 for none. A line cut short is passed over."""
    path, newest = folder / "events.jsonl", -1
    if path.exists():
        for line in path.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                newest = max(newest, int(json.loads(line)["attempt"]))
    return newest
