"""Users' functions as tools: a plain `def` runs in a process that can be ended, an `async def` on the worker's event loop.

The processes are forks of one that has loaded all functions (`rewards.nursery`), so that one which hangs, crashes or is killed
is replaced in milliseconds. A call that hangs, or ends its process, is told to the model; a process that was killed is not.
"""

from __future__ import annotations

import asyncio
import json
import pickle
import signal
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

from rewards.child import how_it_ended
from rewards.link import ChildDiedError, Link
from rewards.nursery import DYING_S, Nursery, Part
from rewards.task import Task, ToolSpec
from rl.tools.output import NOTHING, cut
from rl.tools.served import Function, Invoke, as_text, build, told
from rl.tools.signature import Signature
from rl.tools.source import ToolSource
from rl.tools.tool import GoneError, Run, Tool, ToolError
from sandbox.box import Box
from sandbox.errors import SandboxError

MAX_PROCESSES = 32  # of a worker: calls that run at a time
LOOK_S = 1.0  # between two looks whether a silent process lives, where something it started keeps its socket open
LEAVE_S = 2.0  # for an `async def` that is over time to end what it has begun


class Functions:
    """All functions of a worker, and their processes. `open` and `close` block; `tool` is what they are to a session."""

    def __init__(self, sources: Sequence[ToolSource]) -> None:
        self._sources = tuple(sources)
        self._nursery = Nursery("rl.tools.served", [Part(f"tool {source.name!r}", source) for source in sources])
        self._signatures = list[Signature]()
        self._idle = list[Link]()
        self._dropping = set[asyncio.Task[None]]()
        self._room, self._forking = asyncio.Semaphore(MAX_PROCESSES), asyncio.Lock()

    def open(self) -> None:
        """Loads them in a process, and asks what each is.

        Raises:
            UserError: one does not load, or cannot be a tool.
        """
        for facts in self._nursery.open():
            spec = ToolSpec(**facts["spec"])
            self._signatures.append(Signature(spec, facts["is_async"], tuple(facts["given"])))
        if self._nursery.alone_because is not None:  # what the loading left does not survive a fork
            self._room = asyncio.Semaphore(1)

    def tool(self, source: ToolSource) -> Tool:
        place = self._sources.index(source)
        signature = self._signatures[place]
        return AsyncFunction(signature, source) if signature.is_async else PlainFunction(signature, source, self, place)

    async def close(self) -> None:
        await asyncio.gather(*self._dropping, return_exceptions=True)
        while self._idle:
            await asyncio.to_thread(self._idle.pop().close)
        await asyncio.to_thread(self._nursery.close)

    async def call(self, asked: Invoke, timeout_s: float) -> tuple[str, bool]:
        """The function's text, and whether it is an error.

        Raises:
            GoneError: its process was killed.
        """
        async with self._room:
            link = await self._process()
            try:
                async with asyncio.timeout(timeout_s):
                    reply = await _exchange(link, pickle.dumps(asked, pickle.HIGHEST_PROTOCOL))
                text, is_error = json.loads(reply)
            except TimeoutError:
                self._drop(link)
                return f"took longer than {timeout_s:g} s", True
            except ValueError:
                self._drop(link)
                return "wrote to the connection that its result goes over", True
            except ChildDiedError:
                async with self._forking:
                    status = await asyncio.to_thread(link.close, grace_s=DYING_S)
                if status in (None, -signal.SIGKILL):
                    raise GoneError(f"the function {how_it_ended(status)}") from None
                return how_it_ended(status), True
            except BaseException:
                self._drop(link)
                raise
            self._idle.append(link)
            return str(text), bool(is_error)

    async def _process(self) -> Link:
        while self._idle:
            link = self._idle.pop()
            if not link.ended:
                return link
            self._drop(link)
        try:
            async with self._forking:
                return await asyncio.to_thread(self._nursery.child)
        except ChildDiedError:
            raise GoneError("the processes of functions end as soon as they are started") from None

    def _drop(self, link: Link) -> None:
        """Ends a process; nobody waits for it."""

        async def drop() -> None:
            async with self._forking:
                await asyncio.to_thread(link.drop)

        link.kill()
        dropping = asyncio.create_task(drop())
        self._dropping.add(dropping)
        dropping.add_done_callback(self._dropping.discard)


class PlainFunction(Tool):
    def __init__(self, signature: Signature, source: ToolSource, functions: Functions, place: int) -> None:
        super().__init__(signature.spec, source.config)
        self._functions, self._place = functions, place

    def begin(self, task: Task) -> Run:
        async def run(arguments: Mapping[str, Any], box: Box | None) -> str:
            text, is_error = await self._functions.call(Invoke(self._place, arguments, task), self.timeout_s)
            shown = cut(text, self.max_chars)
            if is_error:
                raise ToolError(f"{self.spec.name}: {shown}")
            return shown or NOTHING

        return run


class AsyncFunction(Tool):
    """It runs in the worker's own process: what computes, and what may crash, belongs into a plain `def`."""

    def __init__(self, signature: Signature, source: ToolSource) -> None:
        super().__init__(signature.spec, source.config)
        self._source, self._given = source, signature.given
        self.uses_box = "box" in signature.given
        self._function: Function | None = (
            None  # built for the first trajectory: whoever only asks for specs runs no user's code
        )

    def begin(self, task: Task) -> Run:
        function = self._function = self._function or build(self._source)

        async def run(arguments: Mapping[str, Any], box: Box | None) -> str:
            offered = {"task": task, "box": box}
            given = {name: offered[name] for name in self._given}
            try:
                value = await self._in_time(function.call(**arguments, **function.options, **given))
                return cut(as_text(value), self.max_chars) or NOTHING
            except (ToolError, SandboxError):
                raise
            except Exception as error:
                raise ToolError(cut(f"{self.spec.name}: {told(error)}", self.max_chars)) from error

        return run

    async def _in_time(self, work: Coroutine[Any, Any, Any]) -> Any:
        task = asyncio.create_task(work)
        try:
            await asyncio.wait([task], timeout=self.timeout_s)
            if task.done():
                return task.result()
            task.cancel()
            await asyncio.wait([task], timeout=LEAVE_S)
        finally:
            task.cancel()
        raise ToolError(f"{self.spec.name}: took longer than {self.timeout_s:g} s")


async def _exchange(link: Link, request: bytes) -> bytes:
    """The one reply to a request.

    Raises:
        ChildDiedError: none will come. ValueError: what came is no reply.
    """
    loop = asyncio.get_running_loop()
    came: asyncio.Future[bytes] = loop.create_future()

    def read() -> None:
        try:
            for reply in link.fetch():
                if not came.done():
                    came.set_result(reply)
        except (ChildDiedError, ValueError) as error:
            if not came.done():
                came.set_exception(error)

    def write() -> None:
        try:
            if link.flush():
                loop.remove_writer(link)
        except ChildDiedError as error:
            loop.remove_writer(link)
            if not came.done():
                came.set_exception(error)

    if not link.post(request):
        loop.add_writer(link, write)
    loop.add_reader(link, read)
    try:
        while not came.done():
            await asyncio.wait([came], timeout=LOOK_S)
            if not came.done() and link.ended and not link.has_data():
                raise ChildDiedError
        return came.result()
    finally:
        loop.remove_reader(link)
        loop.remove_writer(link)
