"""Users' functions as tools: what the model is told of them, how they are called, what becomes of those that hang or die."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from rewards.errors import UserError
from rewards.task import Task, ToolCall, ToolSpec
from rl.tools.config import ToolConfig
from rl.tools.protocol import ToolOutcome, ToolUnavailableError
from rl.tools.session import Session
from rl.tools.source import ToolSource, read_sources
from rl.tools.tools import Tools, specs_of

T = TypeVar("T")
TASK = Task("1", "agent", (), data={"price": 3})
FILE = '''
import asyncio, os, signal, sys, time
from pathlib import Path
from typing import Literal, Optional

def add(a: int, b: float = 0.5, *, names: list[str] | None = None, kind: Literal["x", "y"] = "x", factor: int = 1) -> float:
    """Adds two numbers.

    The second one may be left out.

    Args:
        a: the first
        b (float): the second,
            which may be a fraction
        kind: what it is

    Returns:
        Their sum.
    """
    return (a + b) * factor

def price(task, town: str, deep: dict[str, list[int]] = {}, other: Optional[bool] = None) -> dict:
    """Says what tea costs.
    town: where
    """
    return {"town": town, "price": task.data["price"]}

def nap(seconds: float) -> str:
    "Sleeps."
    time.sleep(seconds)
    return str(os.getpid())

def mark_and_nap(mark: str) -> None:
    "Sleeps for long."
    Path(mark).write_text(str(os.getpid()))
    time.sleep(1000)

def fail(how: str) -> object:
    "Does not work."
    if how == "raise":
        raise ValueError("no such town")
    if how == "exit":
        sys.exit(3)
    if how == "die":
        os._exit(3)
    if how == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if how == "other":
        return object()
    return "long" * 10_000 if how == "long" else None

def killed_first(mark: str, times: int) -> str:
    "Is killed by somebody else, as if memory had run out."
    with open(mark, "a") as file:
        file.write("x")
    if len(Path(mark).read_text()) <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return "there"

async def slow(seconds: float) -> str:
    "Waits."
    await asyncio.sleep(seconds)
    return "waited"

async def count(box, task, text: str) -> int:
    "Counts letters in the box."
    await box.write_file("/tmp/work/text", text.encode())
    return int((await box.exec("wc -c < text", cwd="/tmp/work")).stdout.text)
'''
NAMES = ("add", "price", "nap", "fail", "killed_first", "slow", "count")


def sources(folder: Path, *names: str, **options: Any) -> tuple[ToolSource, ...]:
    (folder / "mine.py").write_text(FILE)
    timeout_s = options.pop("timeout_s", 60.0)
    return read_sources([ToolConfig(use=f"mine.py:{name}", timeout_s=timeout_s, options=options) for name in names], [folder])


def within(found: tuple[ToolSource, ...], home: Path, work: Callable[[Session], Awaitable[T]]) -> T:
    async def run() -> T:
        tools = Tools(found, home=home)
        await tools.open()
        try:
            async with tools.session(TASK, "rollout") as session:
                return await work(session)
        finally:
            await tools.close()

    return asyncio.run(run())


async def asked(session: Session, name: str, **arguments: Any) -> ToolOutcome:
    return await session.call(ToolCall(name, arguments))


def test_a_schema_comes_from_signature_and_docstring(tmp_path: Path) -> None:
    add, price = asyncio.run(specs_of(sources(tmp_path, "add", "price")))
    assert add == ToolSpec(
        "add",
        "Adds two numbers.\n\nThe second one may be left out.",
        {
            "type": "object",
            "properties": {
                "a": {"type": "integer", "description": "the first"},
                "b": {"type": "number", "description": "the second, which may be a fraction", "default": 0.5},
                "names": {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]},
                "kind": {"type": "string", "enum": ["x", "y"], "description": "what it is", "default": "x"},
                "factor": {"type": "integer", "default": 1},
            },
            "required": ["a"],
        },
    )
    assert price.description == "Says what tea costs."
    assert list(price.parameters["properties"]) == ["town", "deep", "other"]
    assert price.parameters["properties"]["deep"] == {
        "type": "object",
        "additionalProperties": {"type": "array", "items": {"type": "integer"}},
        "default": {},
    }


def test_options_of_the_recipe_are_not_the_model_s(tmp_path: Path) -> None:
    found = sources(tmp_path, "add", factor=10)

    async def work(session: Session) -> list[str]:
        return [(await asked(session, "add", a=1)).text, (await asked(session, "add", a=1, factor=3)).text]

    assert "factor" not in asyncio.run(specs_of(found))[0].parameters["properties"]
    assert within(found, tmp_path, work) == ["15.0", "add: no parameter 'factor'; parameters: a, b, names, kind"]


def test_functions_are_called_and_fail_as_the_model_is_told(tmp_path: Path, sandbox_home: Path) -> None:
    async def work(session: Session) -> None:
        assert (await asked(session, "price", town="Köln")).text == '{"town": "Köln", "price": 3}'
        assert (await asked(session, "add", a="1")).text == "add: a: got '1'; an integer is expected"
        assert (await asked(session, "add", a=1, names=[1])).is_error
        assert (await asked(session, "slow", seconds=0)).text == "waited"
        assert (await asked(session, "count", text="four")).text == "4"
        assert (await asked(session, "fail", how="")).text == "(no output)"
        assert "[32000 characters left out]" in (await asked(session, "fail", how="long")).text
        for how, wanted in {
            "raise": "fail: ValueError: no such town",
            "exit": "fail: SystemExit: 3",
            "die": "fail: ended the process with exit status 3",
            "crash": "fail: was killed by signal 11 (SIGSEGV)",
            "other": "fail: TypeError: Object of type object is not JSON serializable",
        }.items():
            outcome = await asked(session, "fail", how=how)
            assert (outcome.text, outcome.is_error) == (wanted, True)

    within(sources(tmp_path, *NAMES), sandbox_home, work)


def test_calls_run_side_by_side_and_end_in_time(tmp_path: Path) -> None:
    """Twelve at once, of which two never end."""

    async def work(session: Session) -> list[ToolOutcome]:
        calls = [("nap", 0.5)] * 10 + [("nap", 1000.0), ("slow", 1000.0)]
        return list(await asyncio.gather(*(asked(session, name, seconds=seconds) for name, seconds in calls)))

    outcomes = within(sources(tmp_path, "nap", "slow", timeout_s=6.0), tmp_path, work)
    assert len({outcome.text for outcome in outcomes[:10]}) == 10  # a process each
    assert [outcome.text for outcome in outcomes[10:]] == ["nap: took longer than 6 s", "slow: took longer than 6 s"]


def test_a_killed_process_is_nothing_that_the_model_sees(tmp_path: Path) -> None:
    async def work(session: Session) -> tuple[ToolOutcome, bool]:
        outcome = await asked(session, "killed_first", mark=str(tmp_path / "twice"), times=2)
        with pytest.raises(
            ToolUnavailableError, match="rollout: the tool killed_first: GoneError: the function was killed by signal 9"
        ):
            await asked(session, "killed_first", mark=str(tmp_path / "always"), times=99)
        return outcome, (tmp_path / "always").read_text() == "xxx"

    outcome, was_tried_three_times = within(sources(tmp_path, "killed_first"), tmp_path, work)
    assert (outcome.text, outcome.is_error, outcome.num_retries) == ("there", False, 2)
    assert was_tried_three_times


def test_a_cancelled_call_leaves_no_process_behind(tmp_path: Path) -> None:
    mark = tmp_path / "mark"

    async def work(session: Session) -> None:
        call = asyncio.create_task(asked(session, "mark_and_nap", mark=str(mark)))
        while not (mark.exists() and mark.read_text()):
            await asyncio.sleep(0.01)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        while lives(int(mark.read_text())):
            await asyncio.sleep(0.01)

    within(sources(tmp_path, "mark_and_nap"), tmp_path, work)


def lives(pid: int) -> bool:
    """Whether it runs; one that has ended stays in the table until somebody waits for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("def f(a): 'Does.'", {}, "parameter 'a' has no type; allowed: str, int, float"),
        ("def f(a: set): 'Does.'", {}, "parameter 'a': got the type set; allowed: str"),
        ("def f(a: int): ...", {}, "has no docstring"),
        ("def f(*a: int): 'Does.'", {}, "parameter 'a': write plain parameters"),
        ("def f(box, a: int): 'Does.'", {}, "asks for box, which is for `async def`"),
        (
            "def f(scale: int): 'Does.'",
            {"scael": 1},
            "options.scael: the function has no such parameter; allowed: scale; did you mean",
        ),
        ("def f(a: Nothing): 'Does.'", {}, "the types of its parameters cannot be read: name 'Nothing' is not defined"),
        ("def g(a: int): 'Does.'", {}, "mine.py has no function 'f'"),
        ("1/0", {}, "ZeroDivisionError"),
        ("import os; os._exit(3)", {}, "ended the process with exit status 3 while it loaded"),
    ],
)
def test_what_cannot_be_a_tool_is_told(tmp_path: Path, text: str, options: dict[str, Any], message: str) -> None:
    (tmp_path / "mine.py").write_text(f"from __future__ import annotations\n{text}")
    with pytest.raises(UserError) as error:
        asyncio.run(specs_of(read_sources([ToolConfig(use="mine.py:f", options=options)], [tmp_path])))
    assert message in str(error.value)
