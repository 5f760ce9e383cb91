"""Conversations with a tool that takes 50 ms: all in flight in one engine batch, beside a batch at a time in lockstep.

Each conversation has so many turns of so many tokens, and a call after each but the last. `in flight` is what rollouts do:
while one waits for its tool the others decode, and come back when they can. `lockstep` is one group's batch at a time: all of
it decodes, then all of its tools are waited for; the next group begins when it is done. `alone` is a conversation at a time,
which is measured on fewer. The engine's idle share is the time without a decoding step. --write writes
docs/results/multi_turn.md.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import torch

from rl.compute import submit
from rl.config import EngineConfig, SamplingConfig
from rl.engine.protocol import GenerateRequest
from rl.engine.torch_engine import TorchEngine
from tests.bench.common import machine, make_policy, median, table, write

TOOL_S = 0.05
PROMPT, RESULT = 64, 16  # tokens
Way = Callable[["Work", TorchEngine], Awaitable[None]]


@dataclass(frozen=True)
class Work:
    """Conversations in groups, each of `turns` turns of `tokens` sampled tokens."""

    groups: int
    group_size: int
    turns: int
    tokens: int

    @property
    def num_sampled(self) -> int:
        return self.groups * self.group_size * self.turns * self.tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", type=int, default=16)
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--tokens", default="16,32", help="of a turn")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    for tokens in map(int, arguments.tokens.split(",")):
        work = Work(arguments.groups, arguments.group_size, arguments.turns, tokens)
        rows += measure(work, arguments.repeats)
    text = (
        "# Conversations with a tool that takes 50 ms\n\n"
        f"Written by `python -m tests.bench.multi_turn --write`. {machine()}, {arguments.threads} threads, a Qwen3 of 1.1 "
        f"million parameters in float32; {arguments.groups} groups of {arguments.group_size} conversations of "
        f"{arguments.turns} turns with a tool call after each but the last; {PROMPT} prompt tokens, {RESULT} of each "
        f"result; medians of {arguments.repeats} repeats in one process.\n\n"
        + table(["tokens a turn", "way", "tokens/s", "in flight / it", "engine idle"], rows)
        + "\nThe limit is the engine without any waiting: tokens/s divided by its busy share.\n"
    )
    print(text)
    if arguments.write:
        write("multi_turn.md", text)


def measure(work: Work, repeats: int) -> list[list[str]]:
    alone = Work(1, 4, work.turns, work.tokens)
    found: dict[str, tuple[float, float]] = {}
    for name, way, amount in (("in flight", in_flight, work), ("lockstep", lockstep, work), ("alone", one_by_one, alone)):
        runs = [asyncio.run(timed(way, amount)) for _ in range(repeats)]
        found[name] = median([rate for rate, _ in runs]), median([idle for _, idle in runs])
    best = found["in flight"][0]
    return [
        [str(work.tokens), name, f"{rate:.0f}", f"{best / rate:.1f}", f"{100 * idle:.0f} %"]
        for name, (rate, idle) in found.items()
    ]


async def timed(way: Way, work: Work) -> tuple[float, float]:
    """Sampled tokens a second, and the engine's idle share."""
    engine = submit(make_engine).result()
    try:
        await in_flight(Work(1, 2, 1, 4), engine)  # what is made once
        busy, began = engine.busy_s, time.perf_counter()
        await way(work, engine)
        wall = time.perf_counter() - began
        return work.num_sampled / wall, 1 - (engine.busy_s - busy) / wall
    finally:
        engine.close()


def make_engine() -> TorchEngine:
    return TorchEngine(make_policy("q1", "float32"), EngineConfig(max_batch_size=128, max_seq_len=1024))


async def in_flight(work: Work, engine: TorchEngine) -> None:
    names = [(g, i) for g in range(work.groups) for i in range(work.group_size)]
    await asyncio.gather(*(conversation(engine, work, g, i) for g, i in names))


async def lockstep(work: Work, engine: TorchEngine) -> None:
    for g in range(work.groups):
        members = range(work.group_size)
        await asyncio.gather(*(turn(engine, work, g, i, 0) for i in members))
        for number in range(1, work.turns):
            await asyncio.gather(*(asyncio.sleep(TOOL_S) for _ in members))
            await asyncio.gather(*(turn(engine, work, g, i, number) for i in members))
        await asyncio.gather(*(engine.release(f"{g}/{i}") for i in members))


async def one_by_one(work: Work, engine: TorchEngine) -> None:
    for g in range(work.groups):
        for i in range(work.group_size):
            await conversation(engine, work, g, i)


async def conversation(engine: TorchEngine, work: Work, g: int, i: int) -> None:
    for number in range(work.turns):
        if number:
            await asyncio.sleep(TOOL_S)
        await turn(engine, work, g, i, number)
    known = await engine.release(f"{g}/{i}")
    assert len(known) == PROMPT + work.turns * work.tokens + (work.turns - 1) * RESULT, "every way does the same work"


async def turn(engine: TorchEngine, work: Work, g: int, i: int, number: int) -> None:
    sampling = SamplingConfig(max_tokens=work.tokens)
    if number:
        stream = engine.extend(f"{g}/{i}", forced(g, number, RESULT))
    else:
        prompt = forced(g, 0, PROMPT)
        request = GenerateRequest(f"{g}/{i}", prompt, sampling, frozenset(), g, i, keep=True)
        stream = engine.generate(request)
    async for _ in stream:
        pass


def forced(g: int, number: int, count: int) -> Sequence[int]:
    return [300 + (g * 31 + number * 7 + k) % 200 for k in range(count)]


if __name__ == "__main__":
    main()
