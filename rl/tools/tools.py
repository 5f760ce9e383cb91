"""The tools of one rollout worker: built from their sources, opened once, and lent to one session for each trajectory.

`specs_of` says what a model is told of them without opening a box, for recipes and for prompts before a run.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Sequence
from pathlib import Path

from rewards.boxes import Boxes, why_none_of, without_boxes
from rewards.config import SandboxConfig
from rewards.errors import UserError
from rewards.task import Task, ToolSpec
from rl.tools.arguments import Arguments
from rl.tools.calculator import Calculator
from rl.tools.files import Files
from rl.tools.functions import Functions
from rl.tools.lookup import Lookup
from rl.tools.mcp import McpServer
from rl.tools.python import Python
from rl.tools.session import Session
from rl.tools.shell import Shell
from rl.tools.source import ToolSource
from rl.tools.tool import Tool
from sandbox.pool import HOME

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,127}")


class Tools:
    """Opened and closed on one event loop, which its sessions run on."""

    def __init__(self, sources: Sequence[ToolSource], sandbox: SandboxConfig | None = None, *, home: Path = HOME) -> None:
        """`home`: the sandbox's folder, which has the images."""
        self._sources, self._sandbox, self._home = tuple(sources), sandbox or SandboxConfig(), home
        self._opened = contextlib.AsyncExitStack()
        self._tools: dict[str, Tool] = {}
        self._checks: dict[str, Arguments] = {}
        self._boxes: Boxes | None = None

    async def open(self) -> None:
        """Starts what the tools run in, and has a program run in a box where one of them uses boxes.

        Raises:
            UserError: a tool cannot be built, two have the same name, or no box can be had.
        """
        try:
            tools = await _open(self._sources, self._opened)
            self._checks = {tool.spec.name: Arguments(tool.spec) for tool in tools}
            if users := [tool.spec.name for tool in tools if tool.uses_box]:
                self._boxes = Boxes(self._sandbox, home=self._home, use="tools")
                self._opened.push_async_callback(self._boxes.close)
                if (why := await why_none_of(self._boxes)) is not None:
                    raise without_boxes(self._sandbox, f"the tool {users[0]!r}", why)
        except BaseException:
            await self._opened.aclose()
            raise
        self._tools = {tool.spec.name: tool for tool in tools}

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        """In the recipe's order."""
        return tuple(tool.spec for tool in self._tools.values())

    def session(self, task: Task, rollout_id: str) -> Session:
        """The tools of one trajectory, as a context."""
        return Session(self._tools, self._checks, self._boxes, task, rollout_id)

    async def close(self) -> None:
        """Ends boxes, processes and servers."""
        self._tools = {}
        await self._opened.aclose()


async def specs_of(sources: Sequence[ToolSource]) -> tuple[ToolSpec, ...]:
    """What a model is told of these tools. MCP servers are started for it, and ended; no box is opened.

    Raises:
        UserError: as `Tools.open`, but for boxes.
    """
    async with contextlib.AsyncExitStack() as stack:
        tools = await _open(sources, stack)
        for tool in tools:
            Arguments(tool.spec)
        return tuple(tool.spec for tool in tools)


async def _open(sources: Sequence[ToolSource], stack: contextlib.AsyncExitStack) -> list[Tool]:
    functions = Functions([source for source in sources if source.is_function])
    stack.push_async_callback(functions.close)
    if any(source.is_function for source in sources):
        await asyncio.to_thread(functions.open)
    tools = list[Tool]()
    for source in sources:
        for tool in await _opened(source, functions, stack):
            _check_name(tool.spec.name, source, tools)
            tools.append(tool)
    return tools


async def _opened(source: ToolSource, functions: Functions, stack: contextlib.AsyncExitStack) -> list[Tool]:
    config = source.config
    match config.use:
        case None:
            server = McpServer(config)
            stack.push_async_callback(server.close)
            return await server.open()
        case "python":
            return [Python(config)]
        case "shell":
            return [Shell(config)]
        case "files":
            return [Files(config)]
        case "calculator":
            return [Calculator(config)]
        case "lookup":
            return [Lookup(config, source.documents)]
        case _:
            return [functions.tool(source)]


def _check_name(name: str, source: ToolSource, others: Sequence[Tool]) -> None:
    if _NAME.fullmatch(name) is None:
        raise UserError(f"tool {name!r:.200} of {source.name!r}: a name has letters, digits and any of _ - . / alone")
    if any(name == other.spec.name for other in others):
        raise UserError(f"tool {name!r} of {source.name!r}: another tool has that name; leave one of them out, or rename it")
