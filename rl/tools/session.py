"""The tools of one trajectory: calls, the box that they share, what it holds in the end, and what is done again.

Whatever the model does wrong is a result. What fails through no fault of its own is tried again where nothing is lost by that;
else it is a ToolUnavailableError, which the model never sees. Made by `rl/tools/tools.py`.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rewards.box_state import BoxState, prepare, take
from rewards.boxes import Boxes
from rewards.parameters import nearest
from rewards.state import looked_at
from rewards.task import Task, ToolCall
from rl.tools.arguments import Arguments
from rl.tools.order import Order
from rl.tools.protocol import ToolOutcome, ToolUnavailableError
from rl.tools.tool import BoxUse, GoneError, Run, Tool, ToolError
from rl.trajectory import BoxRef
from sandbox.box import Box
from sandbox.errors import SandboxError, UnsupportedError

TRIES = 3  # of a call
PAUSE_S = 0.2  # before it is made again; twice as long before the next time


class Session:
    """Calls may be made at once. Those on the box run in the order in which they were made, others side by side.

    The box is taken at the first call that needs one, and is then the trajectory's own until its end. `async with` ends it.
    """

    def __init__(
        self, tools: Mapping[str, Tool], checks: Mapping[str, Arguments], boxes: Boxes | None, task: Task, rollout_id: str
    ) -> None:
        """`boxes`: None where no tool uses one."""
        self._tools, self._checks, self._boxes, self._task, self._rollout_id = tools, checks, boxes, task, rollout_id
        self._order = Order()
        self._runs: dict[str, Run] = {}
        self._lease: _Lease | None = None

    async def __aenter__(self) -> Session:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            await lease.end()

    @property
    def box_ref(self) -> BoxRef | None:
        """Where the trajectory left its box; None where it has none."""
        box = None if self._lease is None else self._lease.box_if_there
        return None if box is None else BoxRef(box.box_id, box.last_call)

    async def call(self, call: ToolCall) -> ToolOutcome:
        """What the model is shown. If the call is cancelled, what it runs is ended.

        Raises:
            ToolUnavailableError: what would have come of it cannot be known. UserError: the task's `files` or `setup` is wrong.
        """
        tool = self._tools.get(call.name)
        if tool is None:
            near = nearest(call.name, self._tools)
            return _wrong(f"no tool {call.name!r:.100}{near}; tools: {', '.join(self._tools)}")
        problem = self._checks[call.name].problem(call.arguments)
        if problem is not None:
            return _wrong(problem)
        use, asked = tool.box_use(call.arguments), time.monotonic()
        async with self._order.turn(use):
            return await self._made(tool, call.arguments, use, asked)

    async def state(self) -> BoxState | None:
        """Ends what runs in the box and takes what it holds, for scoring; no call is to follow. None where it was not used.

        Raises:
            ToolUnavailableError: the box was lost.
        """
        lease = self._lease
        if lease is None:
            return None
        async with self._order.turn(BoxUse.CHANGES):
            try:
                return await take(await lease.box(), looked_at(self._task))
            except SandboxError as error:
                raise self._unavailable("what it left in its box", error) from error

    async def _made(self, tool: Tool, arguments: Mapping[str, Any], use: BoxUse, asked: float) -> ToolOutcome:
        for tries in itertools.count():
            lease = None
            try:
                box = None
                if use is not BoxUse.NONE:
                    lease = self._leased()
                    box = await lease.box()
                began = time.monotonic()
                text, is_error = await self._result(tool, arguments, box)
                if lease is not None:
                    lease.has_results = True
                return ToolOutcome(text, is_error, time.monotonic() - began, began - asked, tries)
            except (GoneError, SandboxError) as error:
                may_again = not isinstance(error, UnsupportedError) and not (lease is not None and lease.has_results)
                if not may_again or tries + 1 == TRIES:
                    raise self._unavailable(f"the tool {tool.spec.name}", error) from error
                if lease is not None and isinstance(error, SandboxError):
                    await self._give_back(lease)
            await asyncio.sleep(PAUSE_S * 2**tries)
        raise AssertionError("the last try returns or raises")

    async def _result(self, tool: Tool, arguments: Mapping[str, Any], box: Box | None) -> tuple[str, bool]:
        run = self._runs.get(tool.spec.name)
        if run is None:
            run = self._runs[tool.spec.name] = tool.begin(self._task)
        try:
            return await run(arguments, box), False
        except ToolError as error:
            return str(error), True
        except OSError as error:
            if box is None:
                raise
            return f"the box cannot do it: {error.strerror or error}", True

    def _leased(self) -> _Lease:
        assert self._boxes is not None, "tools that use boxes come with boxes"
        if self._lease is None:
            self._lease = _Lease(self._boxes, self._task)
        return self._lease

    async def _give_back(self, lost: _Lease) -> None:
        """A box in which nothing had come of anything; what the tools kept of it goes with it."""
        if self._lease is lost:
            self._lease = None
            self._runs.clear()
        await lost.end()

    def _unavailable(self, what: str, error: Exception) -> ToolUnavailableError:
        return ToolUnavailableError(f"rollout {self._rollout_id}: {what}: {type(error).__name__}: {error}")


class _Lease:
    """A box with the task's files, held by a task of its own: whoever enters its context has to leave it."""

    def __init__(self, boxes: Boxes, task: Task) -> None:
        self.has_results = False  # something was shown to the model that happened in it
        self._ready: asyncio.Future[Box] = asyncio.get_running_loop().create_future()
        self._ready.add_done_callback(lambda ready: ready.cancelled() or ready.exception())  # whoever needs the box is told
        self._leave = asyncio.Event()
        self._holding = asyncio.create_task(self._hold(boxes, task))

    @property
    def box_if_there(self) -> Box | None:
        ready = self._ready
        return ready.result() if ready.done() and not ready.cancelled() and ready.exception() is None else None

    async def box(self) -> Box:
        return await asyncio.shield(self._ready)

    async def end(self) -> None:
        self._leave.set()
        if not self._ready.done():
            self._holding.cancel()
        await asyncio.gather(self._holding, return_exceptions=True)

    async def _hold(self, boxes: Boxes, task: Task) -> None:
        try:
            async with boxes.box() as box:
                await prepare(box, task)
                self._ready.set_result(box)
                await self._leave.wait()
        except BaseException as error:
            if self._ready.done():
                raise
            if isinstance(error, asyncio.CancelledError):
                self._ready.cancel()
                raise
            self._ready.set_exception(error)


def _wrong(text: str) -> ToolOutcome:
    return ToolOutcome(text, is_error=True, wall_s=0.0)
