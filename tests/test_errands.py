"""Errands: what demonstrations say of the box is what the box says, and what they leave there is judged."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest

from recipes import cli
from rewards.boxes import Boxes
from rewards.config import SandboxConfig
from rewards.state import verify
from rewards.task import Demonstration, Role
from rewards.transcript import Transcript
from rl.tools.config import ToolConfig
from rl.tools.source import ToolSource
from rl.tools.tools import Tools
from specialists.config import DataConfig, SourceConfig
from specialists.data import load_data
from specialists.errands import KINDS, generate

CONFIG = SandboxConfig(num_boxes=4)
TOOLS = (ToolSource(ToolConfig(use="shell")), ToolSource(ToolConfig(use="calculator")))


def played(demonstrations: Sequence[Demonstration]) -> list[tuple[list[str], list[str], float]]:
    """For each demonstration: the results that it says, those that came, and the score of what it left behind."""

    async def all_of_them() -> list[tuple[list[str], list[str], float]]:
        tools, boxes = Tools(TOOLS, CONFIG), Boxes(CONFIG)
        await tools.open()
        try:
            return [await one(tools, boxes, shown, f"r{i}") for i, shown in enumerate(demonstrations)]
        finally:
            await tools.close()
            await boxes.close()

    async def one(tools: Tools, boxes: Boxes, shown: Demonstration, name: str) -> tuple[list[str], list[str], float]:
        async with tools.session(shown.task, name) as session:
            calls = [call for message in shown.before for call in message.tool_calls]
            came = [(await session.call(call)).text for call in calls]
            state = await session.state()
        said = [message.content for message in shown.before if message.role is Role.TOOL]
        transcript = Transcript("", (shown.response,), box_state=state)
        return said, came, await verify(shown.task, transcript, boxes)

    return asyncio.run(all_of_them())


def test_careful_demonstrations_do_the_errand_and_the_box_says_what_they_say() -> None:
    examples = [generate(random.Random(seed), kinds=[kind], hops=[2 + seed % 3]) for kind in KINDS for seed in range(3)]
    for said, came, score in played([example.demonstrations[0] for example in examples]):
        assert came == said
        assert score == 1.0


def test_sloppy_demonstrations_hardly_ever_do() -> None:
    examples = [generate(random.Random(seed)) for seed in range(24)]
    found = played([example.demonstrations[1] for example in examples])
    assert all(came == said for said, came, _ in found)
    assert sum(score for *_, score in found) <= 4


def test_chains_may_be_longer_where_they_are_held_out_only() -> None:
    sources = (
        SourceConfig(generator="errands", options={"kinds": ["hop"], "hops": [2]}),
        SourceConfig(generator="errands", options={"kinds": ["hop"], "hops": [4]}, only="held_out"),
    )
    data = load_data(DataConfig(sources=sources, num_train=30, num_eval=20), domain="agent", seed=0)
    assert {e.task.kind for e in data.train} == {"hop2"}
    assert sorted({t.kind for t in data.held_out}) == ["hop2", "hop4"]
    assert len(data.train) == 30
    assert sum(t.kind == "hop4" for t in data.held_out) == 10


@pytest.mark.parametrize(("options", "named"), [({"kinds": ["walk"]}, "walk"), ({"hops": [9]}, "9")])
def test_a_wrong_option_is_named(options: dict[str, list[str]], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        generate(random.Random(0), **options)  # type: ignore[arg-type]


def test_the_audit_plays_demonstrations_with_their_tools(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data.num_train=6", "data.num_eval=4", "--num-tasks", "6", "--num-attacked", "1"]
    assert cli.main(["reward", "audit", "agent", *words]) == 0
    assert "0 problems: passed" in capsys.readouterr().out
