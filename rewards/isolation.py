"""Scoring in a child process, so that a reward that hangs, crashes or eats all memory costs its deadline and no more.

User code runs in the child alone, from its loading on. `rl/scoring.py` holds an `IsolatedScorer`; the functions themselves
and the weighted mean are those of `rewards.calls` and `rewards.score`.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from rewards import child
from rewards.calls import Caller, Outcome, reason
from rewards.child import Child, ChildDiedError, how_it_ended
from rewards.config import SandboxConfig
from rewards.errors import UserError
from rewards.plugin import Reward, RewardSource, build
from rewards.result import RewardResult, Score
from rewards.score import part_weights, weigh
from rewards.task import Task
from rewards.transcript import Transcript

LOAD_LIMIT_S = 120.0  # for the process to start and the first reward to load, and for each further one
DYING_S = 1.0  # for a process whose socket is closed already to end, so that its own exit status can be told

T = TypeVar("T")


class IsolatedScorer:
    """Scores like `rewards.score.Scorer`, in a child process that is replaced when a reward hangs or ends it.

    Safe in threads; one completion at a time. Replies come as JSON: nothing that user code makes is unpickled here.
    """

    def __init__(self, sources: Sequence[RewardSource], sandbox: SandboxConfig | None = None) -> None:
        """Start the child and load every reward in it.

        Raises:
            UserError: as `Scorer`; also a reward whose loading ends the process or takes longer than `LOAD_LIMIT_S`.
        """
        self.weights = part_weights(sources)
        self._sources, self._sandbox = tuple(sources), sandbox or SandboxConfig()
        self._lock = threading.Lock()
        self._child: Child | None = None
        self._closed = threading.Event()
        with self._lock:
            self._ready()

    def score(self, task: Task, transcript: Transcript) -> RewardResult:
        """Score one completion; whatever a reward does makes a FAILED result at worst, after its `timeout_s` at the latest.

        Raises:
            UserError: the child had to be replaced, and the rewards did not load again.
            RuntimeError: `close` was called.
        """
        with self._lock:
            running = self._ready()
            with self._discard_on_error():
                found = self._outcomes(running, pickle.dumps((task, transcript), pickle.HIGHEST_PROTOCOL))
        return weigh(self.weights, found, task)

    def close(self) -> None:
        """End the child and all it started, in the middle of a completion too; twice is once."""
        self._closed.set()
        running = self._child
        if running is not None:
            running.kill()  # a thread that waits for its reply gives up at once, and with it the lock
        with self._lock:
            self._end()

    def _outcomes(self, running: Child, request: bytes) -> list[Outcome]:
        """What each reward came to, up to the first that failed; each has its own deadline."""
        found: list[Outcome] = []
        for i, source in enumerate(self._sources):
            deadline = time.monotonic() + source.timeout_s
            try:
                if i == 0:
                    running.send(request, deadline)
                outcome = _read(running.receive(deadline))
            except TimeoutError:
                self._end()
                outcome = f"took longer than {source.timeout_s:g} s"
            except ChildDiedError:
                outcome = how_it_ended(self._end(grace_s=DYING_S))
            except ValueError:
                self._end()
                outcome = "wrote to the connection that its result goes over"
            found.append(outcome)
            if isinstance(outcome, str):
                break
        return found

    def _ready(self) -> Child:
        """The child with every reward loaded: the one at hand, or a new one where it died."""
        if self._closed.is_set():
            raise RuntimeError("the rewards are closed")
        if self._child is not None and self._child.ended:
            self._end()
        if self._child is None:
            started = self._child = Child("rewards.isolation")
            if self._closed.is_set():  # by another thread, just before it could see this child
                self._end()
                raise RuntimeError("the rewards are closed")
            with self._discard_on_error():
                started.send(pickle.dumps(self._sandbox), time.monotonic() + LOAD_LIMIT_S)
                for source in self._sources:
                    self._load(started, source)
        return self._child

    def _load(self, started: Child, source: RewardSource) -> None:
        where = f"reward {source.use!r}: {source.module}"
        deadline = time.monotonic() + LOAD_LIMIT_S
        try:
            started.send(pickle.dumps(source), deadline)
            problem = json.loads(started.receive(deadline))
        except TimeoutError:
            raise UserError(
                f"{where} took longer than {LOAD_LIMIT_S:g} s to load; do the long work inside the function"
            ) from None
        except ChildDiedError:
            raise UserError(f"{where} {how_it_ended(self._end(grace_s=DYING_S))} while it loaded") from None
        if problem is not None:
            raise UserError(problem)

    @contextlib.contextmanager
    def _discard_on_error(self) -> Iterator[None]:
        """An interrupt between request and reply would shift every later reply: the child ends with it."""
        try:
            yield
        except BaseException:
            self._end()
            raise

    def _end(self, *, grace_s: float = 0.0) -> int | None:
        ended, self._child = self._child, None
        return ended.close(grace_s=grace_s) if ended is not None else None


def _read(reply: bytes) -> Outcome:
    found = json.loads(reply)
    if isinstance(found, str):
        return found
    if isinstance(found, list) and len(found) == 3:
        return Score(*found)
    raise ValueError("no outcome")


def serve(channel: int, life: int) -> None:
    """The child: loads a RewardSource, or scores a (task, transcript), for each request until its parent closes."""
    os.dup2(1, 2)  # to nowhere, like its output: the terminal belongs to the run
    child.serve(_Rewards().answer, channel, life)


class _Rewards:
    """The functions loaded so far, in the child."""

    def __init__(self) -> None:
        self.loaded: list[Reward] = []
        self.caller = Caller(SandboxConfig(), catch=(BaseException,))

    def answer(self, request: bytes) -> Iterator[bytes]:
        asked = pickle.loads(request)
        if isinstance(asked, SandboxConfig):
            self.caller = Caller(asked, catch=(BaseException,))
        elif isinstance(asked, RewardSource):
            yield json.dumps(_caught(lambda: self._load(asked))).encode()
        else:
            yield from self._outcomes(*asked)

    def _outcomes(self, task: Task, transcript: Transcript) -> Iterator[bytes]:
        """What each reward comes to, in order, up to the first that fails."""
        for reward in self.loaded:
            outcome = self.caller.call(reward, task, transcript)
            if isinstance(outcome, str):
                yield json.dumps(outcome).encode()
                return
            yield json.dumps([outcome.value, dict(outcome.parts), outcome.note]).encode()

    def _load(self, source: RewardSource) -> str | None:
        try:
            self.loaded.append(build(source))
        except UserError as error:
            return str(error)
        return None


def _caught(function: Callable[[], T]) -> T | str:
    """What user code raised as text, a KeyboardInterrupt of its own making too: no terminal's Ctrl-C comes to this process."""
    try:
        return function()
    except BaseException as error:  # noqa: BLE001
        return reason(error)
