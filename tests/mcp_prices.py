"""An MCP server for tests: `python -m tests.mcp_prices [PORT]`, over its standard input and output or over HTTP."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Literal

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ImageContent, TextContent

server = MCPServer("prices")


@server.tool()
def price(item: Literal["tea", "milk"], count: int = 1) -> str:
    """Says what some of an item costs."""
    return str({"tea": 3, "milk": 2}[item] * count)


@server.tool()
def pid() -> str:
    """Says who answers."""
    return str(os.getpid())


@server.tool()
async def wait(mark: str, seconds: float) -> str:
    """Writes its process into a file, then waits."""
    Path(mark).write_text(str(os.getpid()))
    await asyncio.sleep(seconds)
    return f"waited as {os.getpid()}"


@server.tool()
def fail() -> str:
    """Does not work."""
    raise ToolError("no such town")


@server.tool(structured_output=False)
def picture() -> list[TextContent | ImageContent]:
    """Shows something."""
    image = ImageContent(type="image", data="aGk=", mime_type="image/png")
    return [TextContent(type="text", text="a house"), image]


@server.tool()
def environment(variable: str) -> str:
    """Says what a variable is."""
    return os.environ.get(variable, "nothing")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[1]))
    else:
        server.run("stdio")
