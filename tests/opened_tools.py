"""Tools that are opened once for several tests, on an event loop of their own; and what tests ask of a session."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rewards.config import SandboxConfig
from rewards.task import Task, ToolCall
from rl.tools.config import ToolConfig
from rl.tools.protocol import ToolOutcome
from rl.tools.session import Session
from rl.tools.source import ToolSource, read_sources
from rl.tools.tools import Tools

T = TypeVar("T")
TASK = Task("1", "agent", (), data={"files": {"notes.txt": "tea 3\nmilk 2\n"}})


class Opened:
    """A worker's tools and their loop."""

    def __init__(self, runner: asyncio.Runner, tools: Tools) -> None:
        self._runner, self.tools = runner, tools

    def run(self, work: Callable[[Tools], Awaitable[T]]) -> T:
        async def wrapped() -> T:
            return await work(self.tools)

        return self._runner.run(wrapped())

    def within(self, work: Callable[[Session], Awaitable[T]], task: Task = TASK) -> T:
        """What comes of some work with the tools of one trajectory."""

        async def wrapped() -> T:
            async with self.tools.session(task, "rollout 7") as session:
                return await work(session)

        return self._runner.run(wrapped())


@contextlib.contextmanager
def opened(sources: Sequence[ToolSource], home: Path, sandbox: SandboxConfig | None = None) -> Iterator[Opened]:
    tools = Tools(sources, sandbox, home=home)
    with asyncio.Runner() as runner:
        runner.run(tools.open())
        try:
            yield Opened(runner, tools)
        finally:
            runner.run(tools.close())


def ours(*uses: str, timeout_s: float = 60.0) -> tuple[ToolSource, ...]:
    return read_sources([ToolConfig(use=use, timeout_s=timeout_s) for use in uses], [])


async def asked(session: Session, name: str, **arguments: Any) -> ToolOutcome:
    return await session.call(ToolCall(name, arguments))


async def text(session: Session, name: str, **arguments: Any) -> str:
    return (await asked(session, name, **arguments)).text


async def right(session: Session, name: str, **arguments: Any) -> str:
    outcome = await asked(session, name, **arguments)
    assert not outcome.is_error, outcome.text
    return outcome.text


async def wrong(session: Session, name: str, **arguments: Any) -> str:
    outcome = await asked(session, name, **arguments)
    assert outcome.is_error, outcome.text
    return outcome.text
