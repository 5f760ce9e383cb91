"""The commands of one box, and functions: sent to its agent, their output collected, their verdicts found.

The host's side of `sandbox/guest/command.py`. What the agent says is not trusted: it is bounded and checked, and what the host
counts for itself goes before it. Used by `sandbox/box.py`.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
from collections.abc import Mapping
from typing import Any

from sandbox.agent import Agent
from sandbox.calls import Calls, Reach, pieces, span_of
from sandbox.cgroups import Counters
from sandbox.commandlog import facts_of, result_of
from sandbox.errors import BoxLostError
from sandbox.guest.frames import MAX_HEADER_BYTES, MAX_ORDER_BYTES
from sandbox.process import OnOutput
from sandbox.result import Output, Result, Verdict
from sandbox.spec import Limits

TOO_MANY = b"the command was not started: the box has as many processes as it may\n"
STREAMS = {1: "stdout", 2: "stderr", 3: "value"}


class Commands:
    """Runs the commands of one box, any number at once."""

    def __init__(self, calls: Calls, *, came_back: bool) -> None:
        """`came_back`: another client had the box before, and may have begun what is asked."""
        self._calls, self._came_back = calls, came_back
        self._num_oom_kills = 0  # when a command last ended
        self._finished = list[int]()  # commands whose answers the box need not keep any more

    async def run(
        self, number: int, order: dict[str, Any], stdin: bytes, limits: Limits, wall_s: float, on_output: OnOutput | None,
        begun: asyncio.Event | None = None,
    ) -> tuple[Result, bytes]:  # fmt: skip
        """What the command of this call comes to; and the value, as JSON, of a function that gives one.

        Args:
            order: what to run, as the agent takes it. wall_s: in place of the limits', may be infinite.
            begun: is set when the order is about to be sent.

        Raises:
            BoxLostError: the box ended, or stopped answering, meanwhile.
            ValueError: the order is too long, or its time is none.
        """
        if not wall_s > 0:  # nan as well, which no clock reaches
            raise ValueError(f"wall_s: got {wall_s}; it must be a number of seconds, more than 0")
        order |= {
            "wall_s": None if wall_s == math.inf else wall_s, "cpu_s": limits.cpu_s, "disk": "/tmp",
            "live": on_output is not None, "keep_bytes": limits.keep_bytes, "output_bytes": limits.output_bytes,
        }  # fmt: skip
        size = len(json.dumps(order))
        if size > MAX_ORDER_BYTES - MAX_HEADER_BYTES:
            raise ValueError(
                f"command: its words, environment or arguments are {size} bytes of JSON; write them to a file first"
            )

        async def act(reach: Reach, seq: int) -> tuple[dict[str, Any], bytes]:
            kept, before = _Kept(limits.keep_bytes, on_output), await reach.counters()
            asked = self._begin_or_recall(reach.agent, {"user": reach.user, **order, "id": seq}, stdin, kept, begun)
            try:
                facts = await self._calls.in_time(reach, wall_s, asked)
            except BlockingIOError:  # not even the agent's own process could be started
                none = Result(Verdict.PIDS_LIMIT, stderr=Output(TOO_MANY, num_bytes=len(TOO_MANY)))
                return facts_of(none, b"")
            except asyncio.CancelledError:
                reach.agent.tell({"op": "end", "id": next(self._calls.requests), "command": seq})
                raise
            except BoxLostError:
                ended = self._ended_with_box(reach, kept, before, await reach.counters())
                if ended is None:
                    raise
                return facts_of(ended, b"")
            except OSError as error:
                raise BoxLostError(f"the agent of box {self._calls.box_id} starts no more commands: {error}") from error
            after = await reach.counters()
            self._num_oom_kills = after.num_oom_kills
            result = _result(facts, kept, before, after)
            if result.verdict in (Verdict.PIDS_LIMIT, Verdict.OUT_OF_MEMORY):  # what it started goes on at the limit
                await self._calls.ask(reach, {"op": "end", "command": seq}, b"", limits.wall_s)
            self._finished.append(seq)
            recorded, data = facts_of(result, kept.stream(3).head)
            return {**recorded, "span": span_of(facts)}, data

        return result_of(*await self._calls.logged(number, order, stdin, act))

    def _ended_with_box(self, reach: Reach, kept: _Kept, before: Counters, after: Counters) -> Result | None:
        """What it came to if it took its own box with it, by which it is not to gain; None if the box was just lost."""
        verdict = _cause(before, after) if reach.shares_fate else None
        if after.num_oom_kills > self._num_oom_kills:
            verdict = Verdict.OUT_OF_MEMORY
        if verdict is None:
            return None
        return Result(verdict, signal=signal.SIGKILL, stdout=kept.stream(1), stderr=kept.stream(2))

    async def _begin_or_recall(
        self, agent: Agent, order: dict[str, Any], stdin: bytes, kept: _Kept, begun: asyncio.Event | None
    ) -> Mapping[str, Any]:
        """Runs the command, unless this box has begun it already for a client that died."""
        number, begun = order["id"], begun or asyncio.Event()
        if self._came_back:
            begun.set()
            facts, _ = await agent.ask({"op": "recall", "id": number}, on=kept)
            if facts["type"] != "unknown":
                return facts
        *first, last = pieces(stdin)
        for piece in first:
            await agent.ask({"op": "stdin", "id": number}, piece)
        forget, self._finished = self._finished, []
        order |= {"forget": forget}
        text = json.dumps(order).encode()
        if len(text) > MAX_HEADER_BYTES:
            for piece in pieces(text):
                await agent.ask({"op": "order", "id": number}, piece)
            order = {"op": "ordered", "id": number}
        begun.set()
        facts, _ = await agent.ask(order, last, kept)
        return facts


class _Kept:
    """Collects a command's frames; holds no more than was asked for."""

    def __init__(self, keep_bytes: int, on_output: OnOutput | None) -> None:
        self._on_output = on_output
        self._parts: dict[tuple[int, str], bytearray] = {}
        self._left = 2 * (keep_bytes + 1) + (16 << 20)

    def __call__(self, header: dict[str, Any], payload: bytes) -> None:
        if header.get("type") == "running":  # it was begun for a client that died
            return
        stream, part = header.get("stream"), header.get("part")
        if not isinstance(stream, int) or stream not in STREAMS:
            raise BoxLostError("the box's agent sent output of no stream")
        if header.get("type") == "output":
            if self._on_output is not None:
                self._on_output(STREAMS[stream], payload)
        elif part in ("head", "tail"):
            self._left -= len(payload)
            if self._left < 0:
                raise BoxLostError("the box's agent sent more output than was asked for")
            self._parts.setdefault((stream, part), bytearray()).extend(payload)

    def stream(self, number: int, num_bytes: int = 0) -> Output:
        head, tail = (bytes(self._parts.get((number, part), b"")) for part in ("head", "tail"))
        return Output(head, tail, max(num_bytes, len(head) + len(tail)))


def _cause(before: Counters, after: Counters) -> Verdict | None:
    """What the box has been refused meanwhile."""
    if after.num_oom_kills > before.num_oom_kills:
        return Verdict.OUT_OF_MEMORY
    return Verdict.PIDS_LIMIT if after.num_refused_forks > before.num_refused_forks else None


def _result(facts: Mapping[str, Any], kept: _Kept, before: Counters, after: Counters) -> Result:
    """The verdict, from what the agent says and what the host's counters show."""
    status, cause, sizes = facts.get("status"), facts.get("cause"), facts.get("num_bytes")
    used = [facts.get(name) for name in ("wall_s", "cpu_s", "max_rss_bytes")]
    try:
        if not isinstance(sizes, dict) or not all(isinstance(u, int | float) and 0 <= u < math.inf for u in used):
            raise ValueError
        code = os.waitstatus_to_exitcode(status if isinstance(status, int) else -1)
    except (ValueError, OverflowError):
        raise BoxLostError("the box's agent gave no account of its command") from None
    if cause in ("wall_timeout", "cpu_timeout", "output_limit"):
        verdict = Verdict(cause)
    elif code == 0:
        verdict = Verdict.OK
    elif (counted := _cause(before, after)) is not None:
        verdict = counted
    elif cause in ("out_of_memory", "pids_limit"):  # a machine counts for itself
        verdict = Verdict(cause)
    elif cause == "disk_full":
        verdict = Verdict.DISK_FULL
    else:
        verdict = Verdict.SIGNAL if code < 0 else Verdict.NONZERO
    wall_s, cpu_s, max_rss_bytes = used
    counts = [int(size) if isinstance(size := sizes.get(str(n)), int) else 0 for n in (1, 2)]
    return Result(
        verdict=verdict,
        exit_code=code if code >= 0 else None,
        signal=-code if code < 0 else None,
        stdout=kept.stream(1, counts[0]),
        stderr=kept.stream(2, counts[1]),
        wall_s=float(wall_s or 0),
        cpu_s=float(cpu_s or 0),
        max_rss_bytes=int(max_rss_bytes or 0),
        waited_s=float(waited_s) if isinstance(waited_s := facts.get("waited_s"), int | float) and waited_s >= 0 else None,
    )
