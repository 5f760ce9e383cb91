"""Tools of a trajectory: what the model is shown of right and wrong calls, of a box that lasts, and what it is never shown."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rewards.box_state import File
from rewards.errors import UserError
from rl.tools.calculator import calculate
from rl.tools.config import ToolConfig
from rl.tools.order import Order
from rl.tools.protocol import ToolOutcome
from rl.tools.session import Session
from rl.tools.source import read_sources
from rl.tools.tool import BoxUse, ToolError
from rl.tools.tools import Tools, specs_of
from tests.opened_tools import TASK, Opened, asked, opened, ours, right, wrong


@pytest.fixture(scope="module")
def worker(sandbox_home: Path) -> Iterator[Opened]:
    with opened(ours("python", "shell", "files"), sandbox_home) as worker:
        yield worker


def test_the_box_lasts_and_its_state_is_kept_for_scoring(worker: Opened) -> None:
    async def work(session: Session) -> None:
        assert session.box_ref is None
        assert await session.state() is None
        assert await right(session, "shell", command="cat notes.txt; cd /tmp; export A=1") == "tea 3\nmilk 2\n"
        first = session.box_ref
        assert first is not None
        assert await right(session, "shell", command='pwd; echo "$A"') == "/tmp\n\n"
        await right(session, "python", code="prices = dict(line.split() for line in open('notes.txt'))")
        assert await right(session, "python", code="sum(map(int, prices.values()))") == "5\n"
        assert "1\ttea 3" in await right(session, "files", command="view", path="notes.txt")
        await right(session, "files", command="create", path="out/sum", text="5\n")
        last = session.box_ref
        assert last is not None
        assert last.box_id == first.box_id
        assert last.last_command_seq >= first.last_command_seq + 4  # the shell, Python's terminal, two of the editor
        state = await session.state()
        assert state is not None
        assert state.at("/tmp/work/out/sum") == File(b"5\n")
        assert state.at("/tmp/work/notes.txt") == File(b"tea 3\nmilk 2\n")

    worker.within(work)


def test_wrong_calls_are_told(worker: Opened) -> None:
    async def work(session: Session) -> None:
        await right(session, "shell", command="true")
        before = session.box_ref
        assert before is not None
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
        assert session.box_ref == before  # none of them came to run anything

    worker.within(work)


def test_what_fails_in_the_box_is_told(worker: Opened) -> None:
    async def work(session: Session) -> None:
        assert await wrong(session, "shell", command="echo out; echo err >&2; exit 3") == "out\nerr\n[exit code 3]"
        told = await wrong(session, "python", code="print('so far')\nx = 1 / 0")
        assert told.startswith(
            'so far\nTraceback (most recent call last):\n  File "<python>", line 2, in <module>\n    x = 1 / 0\n'
        )
        assert told.endswith("ZeroDivisionError: division by zero")
        assert "'(' was never closed" in await wrong(session, "python", code="print(")
        assert await wrong(session, "python", code="import os; y = 1; os._exit(4)") == (
            "[Python ended with exit status 4; the next call starts a new one: its variables are lost, files are not]"
        )
        assert "NameError" in await wrong(session, "python", code="y")
        told = await wrong(session, "files", command="replace", path="notes.txt", old="\n", new="")
        assert told == "files: `old` is 2 times in /tmp/work/notes.txt, at lines 1, 2; it must be there exactly once"

    worker.within(work)


@pytest.mark.parametrize(
    ("expression", "wanted"),
    [
        ("2+3*4", "14"),
        ("2**3**2", "512"),
        ("-2^2", "-4"),
        ("7//2", "3"),
        ("-7 % 3", "2"),
        ("10/4", "2.5"),
        ("0.1+0.2", "0.3"),
        ("1/3", "1/3 (about 0.333333333333333)"),
        ("sqrt(16/9)", "4/3 (about 1.33333333333333)"),
        ("2**0.5", "about 1.4142135623731"),
        ("3 × 4 ÷ 5 − 1", "1.4"),
        ("5!", "120"),
        ("round(2.345, 2)", "2.35"),
        ("max(1, 2/3) + gcd(12, 18)", "7"),
        ("1_000*2", "2000"),
    ],
)
def test_the_calculator_is_exact(expression: str, wanted: str) -> None:
    assert calculate(expression) == wanted


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("9**9**9", "too large"),
        ("1e9999", "too large"),
        ("9" * 2000, "at most 1000"),
        ("401!", "from 0 to 400"),
        ("(" * 200, "levels deep"),
        ("-" * 500 + "1", "levels deep"),
        ("1/0", "division by zero"),
        ("0**-1", "division by zero"),
        ("1+", "ends too early"),
        ("2 3", "at '3'"),
        ("(1", "not closed"),
        ("1)", "at ')'"),
        ("", "ends too early"),
        ("sqr(2)", "did you mean 'sqrt'?"),
        ("__import__('os')", "cannot read"),
        ("sqrt(-1)", "a negative number"),
        ("2**999999.5", "too large"),
        ("f" * 900, "no function"),
        ("1,000", "at ','"),
    ],
)
def test_what_the_calculator_cannot_do_is_told(expression: str, message: str) -> None:
    with pytest.raises(ToolError, match=re.escape(message)):
        calculate(expression)


def test_a_corpus_is_looked_up(tmp_path: Path) -> None:
    (tmp_path / "texts" / "drinks").mkdir(parents=True)
    (tmp_path / "texts" / "drinks" / "tea.txt").write_text("Tea grows in Assam. Teas are leaves.")
    (tmp_path / "texts" / "milk.md").write_text("Milk comes from cows. " * 500)
    (tmp_path / "prices.jsonl").write_text('{"title": "tea", "text": "Costs 3."}\n{"text": "Milk costs 2."}\n')

    async def of(path: str, query: str, **options: Any) -> ToolOutcome:
        config = ToolConfig(use="lookup", options={"path": path, **options}, max_chars=500)
        tools = Tools(read_sources([config], [tmp_path]))
        await tools.open()
        async with tools.session(TASK, "rollout") as session:
            return await asked(session, "lookup", query=query)

    assert asyncio.run(of("texts", "which leaf is TEA?")).text == "[drinks/tea.txt]\nTea grows in Assam. Teas are leaves."
    assert "characters left out]" in asyncio.run(of("texts", "cow")).text
    assert asyncio.run(of("prices.jsonl", "milk cost")).text == "Milk costs 2.\n\n[tea]\nCosts 3."
    assert asyncio.run(of("prices.jsonl", "milk cost", top_k=1)).text == "Milk costs 2."
    nothing = asyncio.run(of("prices.jsonl", "coffee"))
    assert (nothing.text, nothing.is_error) == ("nothing found; try other words", True)
    for text, message in (('{"title": "x"}', "line 1: got"), ("{", "line 1: no JSON"), ("", "has no texts")):
        (tmp_path / "bad.jsonl").write_text(text)
        with pytest.raises(UserError, match=message):
            read_sources([ToolConfig(use="lookup", options={"path": "bad.jsonl"})], [tmp_path])


def test_the_order_of_calls_on_a_box() -> None:
    """Who changes it runs alone and in turn, also where one gives up while it waits; who reads runs beside others that do."""

    async def run() -> list[str]:
        order, done, may_end = Order(), list[str](), asyncio.Event()

        async def call(name: str, use: BoxUse) -> None:
            async with order.turn(use):
                done.append(name)
                await may_end.wait()

        names = [("read 1", BoxUse.READS), ("read 2", BoxUse.READS), ("change 1", BoxUse.CHANGES), ("change 2", BoxUse.CHANGES)]
        names += [("read 3", BoxUse.READS), ("none", BoxUse.NONE)]
        calls = [asyncio.create_task(call(*name)) for name in names]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        calls[2].cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert sorted(done) == ["none", "read 1", "read 2"]
        may_end.set()
        await asyncio.wait(calls)
        return done[3:]

    assert asyncio.run(run()) == ["change 2", "read 3"]


def test_specs_need_no_box() -> None:
    specs = asyncio.run(specs_of(ours("python", "shell", "files", "calculator")))
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
