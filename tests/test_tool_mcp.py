"""Tools of real MCP servers, over pipes and over HTTP; what becomes of calls whose server is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest

from rewards.errors import UserError
from rewards.task import Task, ToolCall, ToolSpec
from rl.tools.config import McpConfig, ToolConfig
from rl.tools.protocol import ToolOutcome, ToolUnavailableError
from rl.tools.session import Session
from rl.tools.source import read_sources
from rl.tools.tools import Tools, specs_of

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[1]
COMMAND = (sys.executable, "-m", "tests.mcp_prices")
ENV = {"PYTHONPATH": str(ROOT), "COLOUR": "green"}
PRICES = McpConfig(command=COMMAND, env=ENV)


def within(mcp: McpConfig, work: Callable[[Session, Mapping[str, ToolSpec]], Awaitable[T]], *, timeout_s: float = 60.0) -> T:
    async def run() -> T:
        tools = Tools(read_sources([ToolConfig(mcp=mcp, timeout_s=timeout_s)], []))
        await tools.open()
        try:
            async with tools.session(Task("1", "agent", ()), "rollout") as session:
                return await work(session, {spec.name: spec for spec in tools.specs})
        finally:
            await tools.close()

    return asyncio.run(run())


async def asked(session: Session, name: str, **arguments: Any) -> ToolOutcome:
    return await session.call(ToolCall(name, arguments))


async def mark_of(path: Path) -> int:
    while not (path.exists() and path.read_text()):
        await asyncio.sleep(0.01)
    return int(path.read_text())


def test_a_server_s_tools_are_the_model_s(tmp_path: Path) -> None:
    async def work(session: Session, specs: Mapping[str, ToolSpec]) -> None:
        assert list(specs) == ["price", "pid", "wait", "fail", "picture", "environment"]
        assert specs["price"].description == "Says what some of an item costs."
        assert specs["price"].parameters["properties"]["item"]["enum"] == ["tea", "milk"]
        assert (await asked(session, "price", item="tea", count=4)).text == "12"
        assert (
            await asked(session, "price", item="te")
        ).text == "price: item: got 'te'; allowed: tea, milk; did you mean 'tea'?"
        assert (await asked(session, "picture")).text == "a house\n[image: image/png, left out]"
        assert (await asked(session, "environment", variable="COLOUR")).text == "green"
        failed = await asked(session, "fail")
        assert failed.is_error
        assert "no such town" in failed.text
        late = await asked(session, "wait", mark=str(tmp_path / "mark"), seconds=1000.0)
        assert (late.text, late.is_error) == ("wait: took longer than 3 s", True)
        assert (await asked(session, "price", item="milk")).text == "2"

    within(PRICES, work, timeout_s=3.0)


def test_what_a_killed_server_was_asked_is_asked_again(tmp_path: Path) -> None:
    """SIGKILL in the middle of a call: the model sees the second one's result; of a server that always dies it sees nothing."""

    async def work(session: Session, specs: Mapping[str, ToolSpec]) -> None:
        mark = tmp_path / "mark"
        call = asyncio.create_task(asked(session, "wait", mark=str(mark), seconds=1.0))
        first = await mark_of(mark)
        os.kill(first, signal.SIGKILL)
        outcome = await call
        second = int((await asked(session, "pid")).text)
        assert (outcome.text, outcome.is_error, outcome.num_retries) == (f"waited as {second}", False, 1)
        assert first != second

        mark.unlink()
        call = asyncio.create_task(asked(session, "wait", mark=str(mark), seconds=1000.0))
        for _ in range(3):
            os.kill(await mark_of(mark), signal.SIGKILL)
            mark.unlink()
        with pytest.raises(ToolUnavailableError, match="rollout: the tool wait: GoneError: MCP server"):
            await call

    within(PRICES, work)


def test_over_http() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with subprocess.Popen([*COMMAND, str(port)], cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if "running on" in line:
                    break

            async def work(session: Session, specs: Mapping[str, ToolSpec]) -> list[str]:
                assert not (await asked(session, "price", item="milk", count=2)).is_error
                process.kill()
                process.wait()
                with pytest.raises(ToolUnavailableError):
                    await asked(session, "price", item="milk")
                return list(specs)

            assert within(McpConfig(url=f"http://127.0.0.1:{port}/mcp", tools=("price",)), work) == ["price"]
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("mcp", "message"),
    [
        (McpConfig(), "tools: mcp: needs command or url"),
        (McpConfig(command=("a",), url="b"), "it has exactly one of them"),
        (McpConfig(command=("/no/such/program",)), "MCP server '/no/such/program': did not start: FileNotFoundError"),
        (McpConfig(command=(sys.executable, "-c", "print('x'); 1/0")), "ZeroDivisionError"),
        (
            McpConfig(command=COMMAND, env=ENV, tools=("prices",)),
            "has no tool 'prices'; did you mean 'price'?; it has: price, pid",
        ),
    ],
)
def test_servers_that_cannot_be_used_are_told(mcp: McpConfig, message: str) -> None:
    with pytest.raises(UserError) as error:
        asyncio.run(specs_of(read_sources([ToolConfig(mcp=mcp)], [])))
    assert message in str(error.value)
