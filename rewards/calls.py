"""One call of a reward function: its arguments, what it returned as a `Score`, and in words what went wrong.

User code runs here. `rewards.isolation` does so in child processes, `rewards.score.Scorer` in this one.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from numbers import Real
from typing import Any, TypeAlias, cast

from rewards.box_state import put
from rewards.boxes import BlockingBoxes, Boxes
from rewards.config import SandboxConfig
from rewards.errors import NoScoreError, UserError
from rewards.parameters import Item
from rewards.plugin import Reward
from rewards.result import Score
from sandbox.box import Box

MAX_REASON_CHARS = 20_000  # of a traceback or a note; its middle is left out

Outcome: TypeAlias = Score | str  # of one reward: its score, or why it has none


class Caller:
    """Calls rewards, with what they need for it: boxes, and an event loop for async ones. `close` ends both."""

    def __init__(self, sandbox: SandboxConfig, *, catch: tuple[type[BaseException], ...] = (Exception, SystemExit)) -> None:
        """`catch`: what user code may raise for its score to fail; anything else passes."""
        self._sandbox, self._catch = sandbox, catch
        self._boxes: Boxes | None = None
        self._blocking: BlockingBoxes | None = None
        self.runner = asyncio.Runner()

    def call(self, reward: Reward, items: Sequence[Item], begun: Callable[[], None] | None = None) -> list[Outcome]:
        """An outcome for each item: one item, or the items of a batch. `begun` is told when a plain reward has its box."""
        if reward.signature.is_async:
            return self.runner.run(self.acall(reward, items))
        logs = Logs()
        try:
            with self._offer(reward, items, logs) as offered:
                if begun is not None and "box" in offered:
                    begun()
                value = reward.function(**reward.signature.arguments(items, offered))
            return _outcomes(reward, value, items, logs)
        except self._catch as error:
            return [reason(error, reward)] * len(items)

    async def acall(self, reward: Reward, items: Sequence[Item]) -> list[Outcome]:
        """The same for an `async def`, on the runner's loop."""
        logs = Logs()
        try:
            async with self._aoffer(reward, items, logs) as offered:
                coroutine = reward.function(**reward.signature.arguments(items, offered))
                value = await cast("Coroutine[Any, Any, object]", coroutine)
            return _outcomes(reward, value, items, logs)
        except self._catch as error:
            return [reason(error, reward)] * len(items)

    def close(self) -> None:
        if self._blocking is not None:
            self._blocking.close()
            self._blocking = None
        if self._boxes is not None:
            self.runner.run(self._boxes.close())
            self._boxes = None
        self.runner.close()

    @contextlib.contextmanager
    def _offer(self, reward: Reward, items: Sequence[Item], logs: Logs) -> Iterator[Mapping[str, object]]:
        offered = logs.offered()
        if "box" not in reward.signature.known:
            yield offered
            return
        if self._blocking is None:
            self._blocking = BlockingBoxes(self._sandbox)
        with self._blocking.box() as box:
            box.pool.wait(_restore(box.box, items))
            yield {**offered, "box": box}

    @contextlib.asynccontextmanager
    async def _aoffer(self, reward: Reward, items: Sequence[Item], logs: Logs) -> AsyncIterator[Mapping[str, object]]:
        offered, known = logs.offered(), reward.signature.known
        if self._boxes is None and {"box", "boxes"} & set(known):
            self._boxes = Boxes(self._sandbox)
        if "boxes" in known:
            offered["boxes"] = self._boxes
        if "box" not in known or self._boxes is None:
            yield offered
            return
        async with self._boxes.box() as box:
            await _restore(box, items)
            yield {**offered, "box": box}


async def _restore(box: Box, items: Sequence[Item]) -> None:
    """Gives the box of a reward of one completion what its agent's box held."""
    ((_, transcript),) = items
    if transcript.box_state is not None:
        await put(box, transcript.box_state)


class Logs:
    """What a batch reward logs beside its list, as TRL's may: metrics become parts, columns become notes."""

    def __init__(self) -> None:
        self._metrics: dict[str, float] = {}
        self._columns: dict[str, list[object]] = {}

    def offered(self) -> dict[str, object]:
        return {"log_metric": self._metric, "log_extra": self._extra}

    def check(self, count: int) -> None:
        for name, values in self._columns.items():
            if len(values) != count:
                raise NoScoreError(f"gave log_extra {len(values)} values of {name!r} for {count} completions")

    def add_to(self, score: Score, place: int) -> Score:
        """The score of the completion at this place of the batch, with what was logged for it."""
        lines = [score.note, *(f"{name}: {values[place]!s:.200}" for name, values in self._columns.items())]
        return Score(score.value, {**self._metrics, **score.parts}, "; ".join(line for line in lines if line))

    def _metric(self, name: str, value: float) -> None:
        self._metrics[_name(name)] = _number(value, f"log_metric {name!r}")

    def _extra(self, column: str, values: Sequence[object]) -> None:
        self._columns.setdefault(_name(column), []).extend(values)


def _outcomes(reward: Reward, value: object, items: Sequence[Item], logs: Logs) -> list[Outcome]:
    """What a call returned as an outcome for each item. Raises NoScoreError where that is not what was asked for."""
    if not reward.signature.takes_batch:
        return [as_score(value)]
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise NoScoreError(
            f"returned {value!r:.200} of type {type(value).__name__}; a list with a number for each completion is expected, as "
            "it asks for completions"
        )
    values = list(value)
    if len(values) != len(items):
        raise NoScoreError(f"returned {len(values)} values for {len(items)} completions; one for each is expected")
    logs.check(len(items))
    return [_of_batch(one, logs, i) for i, one in enumerate(values)]


def _of_batch(value: object, logs: Logs, place: int) -> Outcome:
    try:
        return logs.add_to(as_score(value), place)
    except NoScoreError as error:
        return str(error)


def as_score(value: object) -> Score:
    """What a reward returned as a score of plain floats.

    Raises:
        NoScoreError: it is none.
    """
    if isinstance(value, Score):
        if not isinstance(value.note, str):
            raise NoScoreError(f"returned the note {value.note!r:.200}; a str is expected")
        parts = {_name(name): _number(part, f"part {name!r}") for name, part in value.parts.items() if part is not None}
        return Score(None if value.value is None else _number(value.value, "the value"), parts, _shortened(value.note))
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
    if isinstance(error, UserError):  # of a reward that is part of Polymath: it says what is wrong with the task or the options
        return f"cannot score this: {error}"
    trace = "".join(_own(traceback.TracebackException.from_exception(error), reward).format()).rstrip()
    return f"raised an error\n{_shortened(trace)}"


def _shortened(text: str) -> str:
    if len(text) <= MAX_REASON_CHARS:
        return text
    half = MAX_REASON_CHARS // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"


def _own(trace: traceback.TracebackException, reward: Reward | None) -> traceback.TracebackException:
    if reward is not None:
        first = next((i for i, frame in enumerate(trace.stack) if frame.filename == reward.file), 0)
        del trace.stack[:first]
    return trace
