"""Demonstrations with tool calls, played in real boxes: what they leave there is what rewards score. For `polymath reward`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from recipes.load import LoadedRecipe
from rewards.task import Demonstration
from rewards.transcript import Transcript
from rl.tools.source import read_sources
from rl.tools.tools import Tools


def play(loaded: LoadedRecipe, demonstrations: Sequence[Demonstration]) -> list[Transcript]:
    """A transcript for each: its messages, and the state that its calls, made as they are written, leave in a fresh box.

    Raises:
        UserError: a tool cannot be built, or no box can be had. ToolUnavailableError: one was lost.
    """
    return asyncio.run(_play(loaded, demonstrations))


async def _play(loaded: LoadedRecipe, demonstrations: Sequence[Demonstration]) -> list[Transcript]:
    recipe = loaded.recipe
    tools = Tools(read_sources(recipe.tools, [loaded.path.parent, Path.cwd()]), recipe.sandbox)
    await tools.open()
    at_once = asyncio.Semaphore(recipe.sandbox.num_boxes)

    async def one(number: int, shown: Demonstration) -> Transcript:
        async with at_once, tools.session(shown.task, f"demonstration-{number}") as session:
            for message in shown.before:
                for call in message.tool_calls:
                    await session.call(call)
            return Transcript(shown.response.content, shown.messages, box_state=await session.state())

    try:
        return list(await asyncio.gather(*(one(i, shown) for i, shown in enumerate(demonstrations))))
    finally:
        await tools.close()
