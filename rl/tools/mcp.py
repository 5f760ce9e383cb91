"""Tools of an MCP server, through the official SDK: a command that the worker starts, or a URL.

One server serves all trajectories of a worker. One that dies is started again; what it was asked meanwhile is asked again. A
command runs as the worker does, in no box. Results are the model's as text; pictures and sounds are named and left out.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO, cast

from rewards.errors import UserError
from rewards.parameters import nearest
from rewards.task import Task, ToolSpec
from rl.tools.config import McpConfig, ToolConfig
from rl.tools.output import NOTHING, cut
from rl.tools.tool import GoneError, Run, Tool, ToolError
from sandbox.box import Box

if TYPE_CHECKING:  # it takes a second to import, and most runs have no such tools
    from mcp import Client
    from mcp.types import CallToolResult, ContentBlock

START_S = 60.0  # for a server to answer for the first time
ALIVE_S = 5.0  # for one that has let a call run out of time to say what tools it has
END_S = 15.0  # for one to end: the SDK gives it some seconds at each of three steps
SAID_CHARS = 2000  # of what a server that did not start has said


class McpServer:
    """A connection that is made again when it is lost. `open` and `close` run on the loop that the tools are called on."""

    def __init__(self, config: ToolConfig) -> None:
        assert config.mcp is not None
        self._config, self._mcp = config, config.mcp
        self._connection: _Connection | None = None
        self._connecting = asyncio.Lock()

    @property
    def name(self) -> str:
        return self._mcp.url or " ".join(self._mcp.command or ())

    async def open(self) -> list[Tool]:
        """Starts the server and asks what tools it has; those that the recipe allows.

        Raises:
            UserError: it does not start, or has not all of them.
        """
        try:
            client = (await self._connected()).client
            async with asyncio.timeout(START_S):
                specs = await _specs(client)
        except (GoneError, TimeoutError) as error:
            raise UserError(
                f"MCP server {self.name!r}: {error or f'has not said within {START_S:g} s what tools it has'}"
            ) from None
        for name in self._mcp.tools or ():
            if name not in specs:
                raise UserError(
                    f"MCP server {self.name!r}: has no tool {name!r}{nearest(name, specs)}; it has: {', '.join(specs)}"
                )
        names = specs if self._mcp.tools is None else self._mcp.tools
        return [McpTool(specs[name], self._config, self) for name in names]

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.end()

    async def call(self, name: str, arguments: Mapping[str, Any], timeout_s: float) -> CallToolResult:
        """The server's result, errors of the tool included.

        Raises:
            ToolError: the server refused the call, or took too long. GoneError: it was lost meanwhile.
        """
        from mcp import MCPError
        from mcp.types import CONNECTION_CLOSED, REQUEST_TIMEOUT

        connection = await self._connected()
        try:
            return await connection.client.call_tool(name, dict(arguments), read_timeout_seconds=timeout_s)
        except MCPError as error:
            if error.code == REQUEST_TIMEOUT:
                await self._look_after(connection)
                raise ToolError(f"took longer than {timeout_s:g} s") from None
            if error.code != CONNECTION_CLOSED and not connection.is_lost:
                raise ToolError(error.message) from None
            await self._lost(connection)
            raise GoneError(f"MCP server {self.name!r}: {error.message}") from None
        except Exception as error:
            if connection.is_lost or isinstance(error, OSError):
                await self._lost(connection)
                raise GoneError(f"MCP server {self.name!r}: {type(error).__name__}: {error}") from error
            raise ToolError(f"{type(error).__name__}: {error}") from error  # a result that is none

    async def _connected(self) -> _Connection:
        async with self._connecting:
            if self._connection is not None and self._connection.is_lost:
                await self._connection.end()
                self._connection = None
            if self._connection is None:
                connection = _Connection(self._mcp)
                try:
                    async with asyncio.timeout(START_S):
                        await connection.begun()
                except TimeoutError:
                    await connection.end()
                    raise GoneError(f"did not answer within {START_S:g} s{connection.said()}") from None
                except BaseException:
                    await connection.end()
                    raise
                self._connection = connection
            return self._connection

    async def _lost(self, connection: _Connection) -> None:
        async with self._connecting:
            if self._connection is connection:
                self._connection = None
        await connection.end()

    async def _look_after(self, connection: _Connection) -> None:
        """A server that hangs is ended, so that the next call finds another one."""
        try:
            async with asyncio.timeout(ALIVE_S):
                await connection.client.list_tools()
        except Exception:  # noqa: BLE001 - whatever it fails of, it is not well
            await self._lost(connection)


class McpTool(Tool):
    def __init__(self, spec: ToolSpec, config: ToolConfig, server: McpServer) -> None:
        super().__init__(spec, config)
        self._server = server

    def begin(self, task: Task) -> Run:
        return self._run

    async def _run(self, arguments: Mapping[str, Any], box: Box | None) -> str:
        try:
            result = await self._server.call(self.spec.name, arguments, self.timeout_s)
        except ToolError as error:
            raise ToolError(f"{self.spec.name}: {cut(str(error), self.max_chars)}") from None
        text = cut(_text(result.content, result.structured_content), self.max_chars)
        if result.is_error:
            raise ToolError(text)
        return text or NOTHING


class _Connection:
    """A client in a task of its own: whoever enters its context has to leave it."""

    def __init__(self, config: McpConfig) -> None:
        self._config = config
        self._said = cast(TextIO, tempfile.TemporaryFile("w+", errors="replace"))  # noqa: SIM115 - closed in `end`
        self._ready: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
        self._leave = asyncio.Event()
        self._holding = asyncio.create_task(self._hold())
        self._holding.add_done_callback(lambda held: held.cancelled() or held.exception())  # told to whoever calls next

    @property
    def client(self) -> Client:
        return self._ready.result()

    @property
    def is_lost(self) -> bool:
        return self._holding.done()

    async def begun(self) -> None:
        """Raises GoneError, with what the server has said, where it does not start."""
        either: list[asyncio.Future[Any]] = [self._ready, self._holding]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not self._ready.done():
            error = None if self._holding.cancelled() else self._holding.exception()
            raise GoneError(f"did not start: {_innermost(error)}{self.said()}")

    def said(self) -> str:
        """What the server has written to its standard error."""
        self._said.seek(0)
        text = self._said.read().strip()
        return f"; it said: {text[-SAID_CHARS:]}" if text else ""

    async def end(self) -> None:
        self._leave.set()
        done, _ = await asyncio.wait([self._holding], timeout=END_S)
        if not done or not self._ready.done():
            self._holding.cancel()
            await asyncio.wait([self._holding], timeout=END_S)
        if not self._said.closed:
            self._said.close()

    async def _hold(self) -> None:
        from mcp import Client, StdioServerParameters, stdio_client

        config, server = self._config, None
        if config.command is not None:
            first, *rest = config.command
            server = stdio_client(StdioServerParameters(command=first, args=rest, env=dict(config.env)), self._said)
        async with Client(server if server is not None else config.url or "", cache=None) as client:
            self._ready.set_result(client)
            await self._leave.wait()


async def _specs(client: Client) -> dict[str, ToolSpec]:
    """All tools of a server, by name."""
    found, cursor = dict[str, ToolSpec](), None
    while True:
        page = await client.list_tools(cursor=cursor)
        for tool in page.tools:
            found[tool.name] = ToolSpec(tool.name, (tool.description or "").strip(), tool.input_schema)
        cursor = page.next_cursor
        if cursor is None:
            return found


def _text(content: Sequence[ContentBlock], structured: object) -> str:
    parts = list[str]()
    for block in content:
        if block.type == "text":
            parts.append(block.text)
        elif block.type == "resource_link":
            parts.append(f"[{block.uri}]")
        elif block.type == "resource":
            text = getattr(block.resource, "text", None)  # the SDK's: texts have it, others do not
            parts.append(text if isinstance(text, str) else f"[{block.resource.uri}: no text, left out]")
        else:
            parts.append(f"[{block.type}: {block.mime_type}, left out]")
    if not parts and structured is not None:
        parts.append(json.dumps(structured, ensure_ascii=False))
    return "\n".join(parts)


def _innermost(error: BaseException | None) -> str:
    """Of the groups that the SDK's task groups raise, the error that began it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return "it ended" if error is None else f"{type(error).__name__}: {error}"
