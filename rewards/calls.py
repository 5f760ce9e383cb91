"""One call of a reward function: its arguments, what it returned as a `Score`, and in words what went wrong.

User code runs here. `rewards.isolation` does so in child processes, `rewards.score.Scorer` in this one.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import traceback
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from numbers import Real
from typing import Any, TypeAlias, cast

from rewards.boxes import BlockingBoxes, Boxes
from rewards.config import SandboxConfig
from rewards.errors import NoScoreError
from rewards.parameters import Kind
from rewards.plugin import Reward
from rewards.result import Score
from rewards.task import Task
from rewards.transcript import Transcript

MAX_REASON_CHARS = 20_000  # of a traceback; its middle is left out

Outcome: TypeAlias = Score | str  # of one reward: its score, or why it has none


class Caller:
    """Calls rewards, with what they need for it: boxes, and an event loop for async ones. `close` ends both."""

    def __init__(self, sandbox: SandboxConfig, *, catch: tuple[type[BaseException], ...] = (Exception, SystemExit)) -> None:
        """`catch`: what user code may raise for its score to fail; anything else passes."""
        self._sandbox, self._catch = sandbox, catch
        self._boxes: Boxes | None = None
        self._blocking: BlockingBoxes | None = None
        self._runner: asyncio.Runner | None = None

    def call(self, reward: Reward, task: Task, transcript: Transcript) -> Outcome:
        """The outcome for one completion."""
        if reward.signature.kind is Kind.ASYNC:
            if self._runner is None:
                self._runner = asyncio.Runner()
            return self._runner.run(self.acall(reward, task, transcript))
        try:
            with self._offer(reward, task, transcript) as offered:
                return as_score(reward.function(**reward.signature.arguments(task, offered)))
        except self._catch as error:
            return reason(error, reward)

    async def acall(self, reward: Reward, task: Task, transcript: Transcript) -> Outcome:
        """The same for an `async def`, on a running loop."""
        try:
            async with self._aoffer(reward, task, transcript) as offered:
                coroutine = reward.function(**reward.signature.arguments(task, offered))
                return as_score(await cast("Coroutine[Any, Any, object]", coroutine))
        except self._catch as error:
            return reason(error, reward)

    def close(self) -> None:
        if self._blocking is not None:
            self._blocking.close()
            self._blocking = None
        if self._runner is not None:
            if self._boxes is not None:
                self._runner.run(self._boxes.close())
                self._boxes = None
            self._runner.close()
            self._runner = None

    @contextlib.contextmanager
    def _offer(self, reward: Reward, task: Task, transcript: Transcript) -> Iterator[Mapping[str, object]]:
        offered = _texts(task, transcript)
        if "box" not in reward.signature.known:
            yield offered
            return
        if self._blocking is None:
            self._blocking = BlockingBoxes(self._sandbox)
        with self._blocking.box() as box:
            yield {**offered, "box": box}

    @contextlib.asynccontextmanager
    async def _aoffer(self, reward: Reward, task: Task, transcript: Transcript) -> AsyncIterator[Mapping[str, object]]:
        offered, known = _texts(task, transcript), reward.signature.known
        if self._boxes is None and {"box", "boxes"} & set(known):
            self._boxes = Boxes(self._sandbox)
        if "boxes" in known:
            offered["boxes"] = self._boxes
        if "box" not in known or self._boxes is None:
            yield offered
            return
        async with self._boxes.box() as box:
            yield {**offered, "box": box}


def _texts(task: Task, transcript: Transcript) -> dict[str, object]:
    return {
        "task": task,
        "transcript": transcript,
        "completion": transcript.completion,
        "answer": task.answer,
        "prompt": task.prompt,
    }


def as_score(value: object) -> Score:
    """What a reward returned as a score of plain floats.

    Raises:
        NoScoreError: it is none.
    """
    if isinstance(value, Score):
        if not isinstance(value.note, str):
            raise NoScoreError(f"returned the note {value.note!r:.200}; a str is expected")
        parts = {_name(name): _number(part, f"part {name!r}") for name, part in value.parts.items() if part is not None}
        return Score(None if value.value is None else _number(value.value, "the value"), parts, value.note)
    return Score(None if value is None else _number(value, ""))


def _name(name: object) -> str:
    if not isinstance(name, str) or not name:
        raise NoScoreError(f"returned a part named {name!r:.200}; a non-empty str is expected")
    return name


def _number(value: object, what: str) -> float:
    """A real, finite number as a float; ints and numpy scalars count as numbers, bools do not."""
    where = f"{what} is " if what else ""
    if type(value).__name__ in ("bool", "bool_"):
        raise NoScoreError(f"returned {where}the bool {value}; write float(...) around it if 1.0 and 0.0 are meant")
    if not isinstance(value, Real):
        raise NoScoreError(
            f"returned {where}{value!r:.200} of type {type(value).__name__}; a number, None or a Score is expected"
        )
    try:
        number = float(value)
    except OverflowError:
        raise NoScoreError("returned a number that is too large for a float") from None
    if not math.isfinite(number):
        raise NoScoreError(f"returned {where}{number}; a finite number is expected")
    return number


def reason(error: BaseException, reward: Reward | None = None) -> str:
    """Why a reward has no number, from what it raised: the traceback from the user's first frame on, shortened if endless."""
    if isinstance(error, NoScoreError):
        return str(error)
    trace = "".join(_own(traceback.TracebackException.from_exception(error), reward).format()).rstrip()
    if len(trace) > MAX_REASON_CHARS:
        half = MAX_REASON_CHARS // 2
        trace = f"{trace[:half]}\n... {len(trace) - 2 * half} characters left out ...\n{trace[-half:]}"
    return f"raised an error\n{trace}"


def _own(trace: traceback.TracebackException, reward: Reward | None) -> traceback.TracebackException:
    if reward is not None:
        first = next((i for i, frame in enumerate(trace.stack) if frame.filename == reward.file), 0)
        del trace.stack[:first]
    return trace
