"""Tools of a trajectory: what the model is shown of right and wrong calls, of a box that lasts, and what it is never shown."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from rewards.box_state import File
from rewards.errors import UserError
from rewards.task import Task, ToolCall
from rl.tools.config import ToolConfig
from rl.tools.protocol import ToolOutcome
from rl.tools.session import Session
from rl.tools.source import read_sources
from rl.tools.tools import Tools, specs_of

T = TypeVar("T")
TASK = Task("1", "agent", (), data={"files": {"notes.txt": "tea 3\nmilk 2\n"}})
BOXED = tuple(ToolConfig(use=use, timeout_s=60) for use in ("python", "shell", "files"))


def within(home: Path, work: Callable[[Session], Awaitable[T]], *configs: ToolConfig, task: Task = TASK) -> T:
    """What comes of some work with the tools of one trajectory."""

    async def run() -> T:
        tools = Tools(read_sources(configs or BOXED, []), home=home)
        await tools.open()
        try:
            async with tools.session(task, "rollout") as session:
                return await work(session)
        finally:
            await tools.close()

    return asyncio.run(run())


async def asked(session: Session, name: str, **arguments: Any) -> ToolOutcome:
    return await session.call(ToolCall(name, arguments))


async def right(session: Session, name: str, **arguments: Any) -> str:
    outcome = await asked(session, name, **arguments)
    assert not outcome.is_error, outcome.text
    return outcome.text


async def wrong(session: Session, name: str, **arguments: Any) -> str:
    outcome = await asked(session, name, **arguments)
    assert outcome.is_error, outcome.text
    return outcome.text


def test_the_box_lasts_and_its_state_is_kept_for_scoring(sandbox_home: Path) -> None:
    async def work(session: Session) -> None:
        assert session.box_ref is None
        assert await session.state() is None
        assert await right(session, "shell", command="cat notes.txt; cd /tmp; export A=1") == "tea 3\nmilk 2\n"
        assert await right(session, "shell", command='pwd; echo "$A"') == "/tmp\n\n"
        await right(session, "python", code="prices = dict(line.split() for line in open('notes.txt'))")
        assert await right(session, "python", code="sum(map(int, prices.values()))") == "5\n"
        assert "1\ttea 3" in await right(session, "files", command="view", path="notes.txt")
        await right(session, "files", command="create", path="out/sum", text="5\n")
        assert session.box_ref is not None
        assert session.box_ref.last_command_seq > 5
        state = await session.state()
        assert state is not None
        assert state.at("/tmp/work/out/sum") == File(b"5\n")
        assert state.at("/tmp/work/notes.txt") == File(b"tea 3\nmilk 2\n")

    within(sandbox_home, work)


def test_wrong_calls_are_told(sandbox_home: Path) -> None:
    async def work(session: Session) -> None:
        assert await wrong(session, "pyton") == "no tool 'pyton'; did you mean 'python'?; tools: python, shell, files"
        assert await wrong(session, "python") == "python: the parameter 'code' is missing (string)"
        assert await wrong(session, "python", cod="1") == "python: no parameter 'cod'; did you mean 'code'?; parameters: code"
        assert await wrong(session, "python", code=1) == "python: code: got 1; a string is expected"
        assert "allowed: view, create, replace, insert; did you mean 'view'?" in await wrong(
            session, "files", command="veiw", path="a"
        )
        assert "the arguments have" in await wrong(session, "shell", command="x" * 300_000)
        assert "a command has at most" in await wrong(session, "shell", command="x" * 200_000)
        assert "no plain JSON" in await wrong(session, "shell", command="\ud800")
        assert session.box_ref is None or session.box_ref.last_command_seq == 1  # none of them got so far

    within(sandbox_home, work)


def test_what_fails_in_the_box_is_told(sandbox_home: Path) -> None:
    async def work(session: Session) -> None:
        assert await wrong(session, "shell", command="echo out; echo err >&2; exit 3") == "out\nerr\n[exit code 3]"
        assert await wrong(session, "python", code="print('so far')\nx = 1 / 0") == (
            'so far\nTraceback (most recent call last):\n  File "<python>", line 2, in <module>\n    x = 1 / 0\n        ~~^~~\n'
            "ZeroDivisionError: division by zero"
        )
        assert "'(' was never closed" in await wrong(session, "python", code="print(")
        assert await wrong(session, "python", code="import os; y = 1; os._exit(4)") == (
            "[Python ended with exit status 4; the next call starts a new one: its variables are lost, files are not]"
        )
        assert "NameError" in await wrong(session, "python", code="y")
        told = await wrong(session, "files", command="replace", path="notes.txt", old="\n", new="")
        assert told == "files: `old` is 2 times in /tmp/work/notes.txt, at lines 1, 2; it must be there exactly once"

    within(sandbox_home, work)


def test_specs_need_no_box() -> None:
    specs = asyncio.run(specs_of(read_sources([*BOXED, ToolConfig(use="calculator")], [])))
    assert [spec.name for spec in specs] == ["python", "shell", "files", "calculator"]


@pytest.mark.parametrize(
    ("configs", "message"),
    [
        (
            [ToolConfig(use="pyhton")],
            "tools: use: got 'pyhton'; did you mean 'python'?; allowed: python, shell, files, calculator",
        ),
        ([ToolConfig()], "an entry has exactly one of them"),
        ([ToolConfig(use="shell", options={"x": 1})], "tool 'shell': options.x: allowed: none"),
        ([ToolConfig(use="lookup")], "options.path: got None; it must be a folder of texts, or a .jsonl file"),
        ([ToolConfig(use="nothing.py:f")], "tool 'nothing.py:f': no such file"),
        ([ToolConfig(use="shell"), ToolConfig(use="shell")], "tool 'shell' of 'shell': another tool has that name"),
    ],
)
def test_settings_that_are_none_are_told(configs: list[ToolConfig], message: str) -> None:
    with pytest.raises(UserError) as error:
        asyncio.run(specs_of(read_sources(configs, [])))
    assert message in str(error.value)
