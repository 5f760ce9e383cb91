"""Mutated and random frames against everything that reads frames: decoder, host's agent connection, keeper, a box's agent.

Nothing may raise but FrameError and BoxLostError, memory stays bounded, and the next box works. Used by
tests/test_frame_fuzz.py with small counts, and at a million by `make soak`. Resumable: a batch that is in
docs/results/frames.json is not done again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import struct
import tempfile
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

from sandbox.agent import Agent
from sandbox.box import Box
from sandbox.calls import Reach
from sandbox.cgroups import Counters
from sandbox.errors import BoxLostError
from sandbox.guest.frames import MAX_HEADER_BYTES, MAX_PAYLOAD_BYTES, Decoder, FrameError, encode
from sandbox.pool import Pool
from sandbox.result import Result
from sandbox.spec import Limits
from tests.soak.kills import ROOT

RESULTS = ROOT / "docs" / "results" / "frames.json"
TARGETS = {"decoder": 600_000, "host": 380_000, "agent": 15_000, "keeper": 5_000}
BATCH = {"decoder": 20_000, "host": 10_000, "agent": 1_000, "keeper": 1_000}
WORDS = ("done", "error", "kept", "output", "running", "unknown", "head", "tail", "wall_timeout", "", "\x00", "é" * 40, "1")
FIELDS = (
    "id",
    "type",
    "stream",
    "part",
    "status",
    "cause",
    "num_bytes",
    "wall_s",
    "cpu_s",
    "max_rss_bytes",
    "errno",
    "message",
    "size",
)
ORDERS = ("exec", "call", "stdin", "recall", "ping", "read", "write", "hello", "none")
ORDER_FIELDS = (
    "id",
    "op",
    "argv",
    "env",
    "cwd",
    "path",
    "offset",
    "size",
    "mode",
    "user",
    "wall_s",
    "keep_bytes",
    "forget",
    "source",
)
KEEPER_ORDERS = ("create", "destroy", "facts", "list", "pause", "snapshot", "fork", "diff", "commit", "rollback", "own", "none")
KEEPER_FIELDS = ("id", "op", "box", "spec", "labels", "snapshot", "name", "names", "count")
BODIES = (
    b"[" * 5000,
    b"1" * 9000,
    b'{"id":' + b"[" * 3000,
    b'{"a":1e999}',
    b"\xff\xfe",
    b'"x"',
    b"null",
    b'{"id": 1, "id": "x"}',
)
MEMORY_BYTES = 4 * (MAX_HEADER_BYTES + MAX_PAYLOAD_BYTES)  # that a reader of frames may hold at most


def value(draw: random.Random, depth: int = 0) -> Any:
    """Anything that JSON can hold, and numbers at the edges more than others."""
    kind = draw.randrange(12 if depth < 3 else 9)
    if kind < 3:
        return draw.choice([0, 1, 2, 3, -1, 255, 1 << 31, 1 << 63, -(1 << 63), 10**30, 9, 256, 137])
    if kind < 5:
        return draw.choice(WORDS)
    if kind < 9:
        return draw.choice([None, True, False, 0.5, -0.0, 1e308, -1e308, float("nan"), float("inf")])
    if kind < 11:
        return [value(draw, depth + 1) for _ in range(draw.randrange(4))]
    return {draw.choice([*WORDS, *FIELDS]): value(draw, depth + 1) for _ in range(draw.randrange(4))}


def frame(draw: random.Random, ids: range, fields: tuple[str, ...] = FIELDS, orders: tuple[str, ...] = ()) -> bytes:
    """A frame whose fields are near to what is meant, or are not."""
    header = {name: value(draw) for name in draw.sample(fields, draw.randrange(1, len(fields)))}
    if draw.random() < 0.9:
        header["id"] = draw.choice(ids)
    if orders and draw.random() < 0.9:
        header["op"] = draw.choice(orders)
    elif draw.random() < 0.8:
        header["type"] = draw.choice(WORDS[:6])
    if draw.random() < 0.5 and "stream" in fields:
        header |= {"stream": draw.randrange(1, 4), "part": draw.choice(["head", "tail"]), "status": draw.randrange(300)}
        header |= {
            "num_bytes": {"1": draw.randrange(9)},
            "wall_s": 0.1,
            "cpu_s": 0.1,
            "max_rss_bytes": draw.choice([1, -1, 1e308]),
        }
    return encode(header, draw.randbytes(draw.choice([0, 0, 1, 17, 300])))


def damaged(draw: random.Random, text: bytes) -> bytes:
    """What a wire, or a liar, may make of it."""
    kind, data = draw.randrange(10), bytearray(text)
    if kind == 0:
        return draw.randbytes(draw.randrange(64))
    if kind == 1:
        return text[: draw.randrange(len(text) + 1)]
    if kind == 2:
        lengths = draw.choice([0, 1, 2, 1 << 18, (1 << 18) + 1, 1 << 31]), draw.choice([0, 5, 1 << 20, (1 << 32) - 1])
        return struct.pack("<II", *lengths) + text[8:]
    if kind == 3:
        for _ in range(draw.randrange(1, 9)):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    if kind == 4:
        body = draw.choice(BODIES)
        return struct.pack("<II", len(body), 0) + body
    return bytes(data)  # most are whole: what is in them is odd enough


def fuzz_decoder(draw: random.Random, count: int) -> Counter[str]:
    """Frames in pieces, as they come from a socket."""
    seen, decoder = Counter[str](), Decoder()
    for _ in range(count):
        whole = frame(draw, range(1, 9))
        text = damaged(draw, whole)
        cut = draw.randrange(len(text) + 1)
        try:
            for piece in (text[:cut], text[cut:]):
                for header, payload in decoder.feed(piece):
                    assert isinstance(header, dict)
                    assert isinstance(payload, bytes)
                    seen["frames"] += 1
        except FrameError:
            seen["refused"] += 1
            decoder = Decoder()
        if text != whole and draw.random() < 0.7:  # else it may wait for the rest of a long frame
            decoder = Decoder()
    return seen


class _Wire(asyncio.Transport):
    """Where the host's end of a connection writes to; it keeps nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = False

    def write(self, data: Any) -> None:
        assert not self.closed

    def abort(self) -> None:
        self.closed = True


async def fuzz_host(draw: random.Random, count: int) -> Counter[str]:
    """A command is asked of a box whose agent answers anything: it comes to a result, an error of the box, or a lost box."""
    seen, left = Counter[str](), count
    while left > 0:
        agent, wire = Agent(), _Wire()
        agent.connection_made(wire)
        box = Box("fuzz", Limits(wall_s=60, keep_bytes=64), Reach(agent, _no_counters, None), None, None)  # type: ignore[arg-type]
        calls = [
            asyncio.ensure_future(c) for c in (box.exec("a"), box.python("f", source=""), box.read_file("/x", max_bytes=4096))
        ]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for _ in range(draw.randrange(1, 40)):
            ids = range(1, 4) if draw.random() < 0.7 else range((1 << 40), (1 << 40) + 4)
            agent.data_received(damaged(draw, frame(draw, ids)))
            left -= 1
            await asyncio.sleep(0)
            if wire.closed:
                break
        agent.connection_lost(None)
        for answer in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(answer, BaseException) and not isinstance(answer, BoxLostError | OSError | ValueError):
                raise answer
            seen[type(answer).__name__ if not isinstance(answer, Result) else "Result"] += 1
    return seen


async def _no_counters() -> Counters:
    return Counters()


async def fuzz_socket(
    path: Path, draw: random.Random, count: int, fields: tuple[str, ...], orders: tuple[str, ...]
) -> Counter[str]:
    """Frames into a living process's socket, which closes the connection where they are none, and goes on."""
    seen, left = Counter[str](), count
    while left > 0:
        folder = os.open(path.parent, os.O_PATH)
        try:
            reader, writer = await asyncio.open_unix_connection(f"/proc/self/fd/{folder}/{path.name}")
        finally:
            os.close(folder)
        with contextlib.suppress(ConnectionError):
            for _ in range(draw.randrange(1, 60)):
                if writer.is_closing():
                    break
                await asyncio.sleep(0)
                writer.write(damaged(draw, frame(draw, range(1, 99), fields, orders)))
                left -= 1
            await writer.drain()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.02):
                    while await reader.read(1 << 16):
                        seen["answers"] += 1
        writer.close()
        seen["connections"] += 1
    return seen


async def fuzz_living(home: Path, kind: str, draw: random.Random, count: int) -> Counter[str]:
    """Against a box's agent, or the keeper of a pool; afterwards the same box, or a new one, works."""
    async with Pool(folder=home, log=False) as pool:
        box = await pool.create("function")
        place = pool.folder / "boxes" / "1" / "agent"
        if kind == "agent":
            try:
                seen = await fuzz_socket(place, draw, count, ORDER_FIELDS, ORDERS)
            except OSError as error:
                raise AssertionError(f"the agent is gone: {place.with_name('stderr').read_text()[-2000:]}") from error
            box.close_connection()
            again = await pool.reach(box.box_id)
            header, _ = await again.agent.ask({"op": "ping", "id": 1 << 41})
            assert header["type"] == "done"
            again.agent.close()
        else:
            seen = await fuzz_socket(pool.folder / "keeper", draw, count, KEEPER_FIELDS, KEEPER_ORDERS)
            assert (await box.exec("echo fine")).stdout.text == "fine\n"
        next_box = await pool.create("function")
        assert (await next_box.exec("echo fine")).stdout.text == "fine\n"
    return seen


def batch(home: Path, kind: str, seed: str, count: int) -> dict[str, Any]:
    """So many frames of one kind; what came, and the most memory that Python held for it."""
    draw = random.Random(seed)
    tracemalloc.start()
    if kind == "decoder":
        seen = fuzz_decoder(draw, count)
    elif kind == "host":
        seen = asyncio.run(fuzz_host(draw, count))
    else:
        seen = asyncio.run(fuzz_living(home, kind, draw, count))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MEMORY_BYTES, f"{kind} held {peak} bytes"
    return {"kind": kind, "count": count, "seen": dict(seen), "peak_bytes": peak}


def main() -> None:
    done: list[dict[str, Any]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    with tempfile.TemporaryDirectory() as home:
        for kind, target in TARGETS.items():
            while (so_far := sum(b["count"] for b in done if b["kind"] == kind)) < target:
                done.append(batch(Path(home), kind, f"{kind}/{so_far}", BATCH[kind]))
                RESULTS.write_text(json.dumps(done, indent=1) + "\n")
                print(f"{kind}: {so_far + BATCH[kind]} of {target}", flush=True)
    RESULTS.with_suffix(".md").write_text(report(done))
    print(report(done))


def report(done: list[dict[str, Any]]) -> str:
    lines = [
        "# Frames",
        "",
        "Random and mutated frames against what reads frames: the decoder, the host's end of a connection with three calls",
        "waiting (a command, a function, a file), a living box's agent, a pool's keeper. Nothing was raised but errors of the",
        "box; memory is the most that Python held in the process that sends and reads. After each batch a box works. Written",
        "by `make soak`.",
        "",
        "| against | frames | what came of them | peak, KiB |",
        "|---|---|---|---|",
    ]
    for kind in TARGETS:
        batches = [b for b in done if b["kind"] == kind]
        seen = sum((Counter(b["seen"]) for b in batches), Counter[str]())
        what = ", ".join(f"{count:,} {name}" for name, count in seen.most_common())
        peak = max((b["peak_bytes"] for b in batches), default=0) / 1024
        lines.append(f"| {kind} | {sum(b['count'] for b in batches):,} | {what} | {peak:,.0f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
