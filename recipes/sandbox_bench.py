"""`polymath sandbox bench`: what boxes of every kind cost on this machine, beside what people use without them, in one table.

Times are medians. A box's memory is its processes' proportional share (PSS), an emulator included; how many go into 8 GiB
follows from it. Ratios compare within one run: machines are noisy.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import psutil

from recipes import sandbox_peers
from recipes.sandbox_peers import BWRAP, CALL, CRUN, DOCKER, SUBPROCESS, seconds
from sandbox.box import Box
from sandbox.cgroups import Cgroup
from sandbox.errors import BoxUnavailableError, SandboxError, UnsupportedError
from sandbox.pool import Pool
from sandbox.proof import kinds
from sandbox.spec import BoxSpec, LayerName, Limits

LIMITS = Limits(memory_bytes=256 << 20, disk_bytes=64 << 20)
ROOM_BYTES = 8 << 30
NUM_FORKS = 20
NUM_CALLERS = 4  # boxes that are called at once
FORK = f"fork of {NUM_FORKS}"
COLUMNS = ["first", "cold", "ready", "command", "call", "calls/s", "reset", "snapshot", FORK, "MiB a box", "in 8 GiB"]
AIMS = [  # what, one row and column, over another, and what the ratio is to be at most
    ("a function call, over a Python process", ("function", "call"), (SUBPROCESS, "call"), 1 / 20),
    ("a container that was kept ready, over bare crun", ("container (crun)", "ready"), (CRUN, "cold"), 1.0),
    ("a cold container, over bare crun", ("container (crun)", "cold"), (CRUN, "cold"), 3.0),
    ("a cold container, over docker run", ("container (crun)", "cold"), (DOCKER, "cold"), 1 / 3),
    ("a function box, over bare bwrap", ("function", "cold"), (BWRAP, "cold"), None),
    ("a microVM's clone, over its boot", ("microvm", "cold"), ("microvm", "first"), 1 / 4),
    ("a full machine's restore, over its boot", ("vm", "cold"), ("vm", "first"), 1 / 10),
]
NOTE = f"""
`first`: the first box of its kind, which boots a machine where there is none to clone. `cold`: create, with an agent that
answers. `ready`: create where boxes are kept ready. `command`: `true`. `call`: a Python function; of the function layer in a
stateless box. `calls/s`: of {NUM_CALLERS} boxes at once. `reset`: as new again. `fork of {NUM_FORKS}`: until all of them
answer. Commands are not logged here: a log adds its sync to each.
"""


Rows = dict[str, dict[str, float]]  # seconds, or counts, by the kind of box and the column


def bench(home: Path, image: str | None, num_repeats: int, progress: Callable[[str], None]) -> str:
    """The table, as Markdown; kinds that this machine lacks are named with the reason.

    Args:
        image: for all but the function layer; None: those are left out.
    """
    rows: Rows = {}
    missing = []
    for name, measure in sandbox_peers.peers():
        progress(name)
        try:
            rows[name] = measure(num_repeats)
        except BoxUnavailableError as error:
            missing.append(f"{name}: {error}")
    images = home / "images"
    images.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=home) as scratch:  # no template of a machine is there yet
        Path(scratch, "images").symlink_to(images.resolve())
        for spec in kinds():
            progress(spec.kind)
            if spec.layer is not LayerName.FUNCTION and image is None:
                missing.append(f"{spec.kind}: no --image was given")
                continue
            wanted = replace(spec, image=None if spec.layer is LayerName.FUNCTION else image, limits=LIMITS)
            try:
                rows[spec.kind] = asyncio.run(_of_kind(Path(scratch), wanted, num_repeats))
            except SandboxError as error:
                missing.append(f"{spec.kind}: {error}")
    lines = [f"| | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    lines += [f"| {name} | {' | '.join(_shown(row, column) for column in COLUMNS)} |" for name, row in rows.items()]
    left_out = [f"Left out: {'; '.join(missing)}.\n"] if missing else []
    return "\n".join([*lines, NOTE, *_ratios(rows), "", *left_out])


def _ratios(rows: Rows) -> list[str]:
    lines = ["| | ratio | aim |", "|---|---|---|"]
    for what, (row, column), (other, others), aim in AIMS:
        if column in rows.get(row, {}) and others in rows.get(other, {}):
            ratio = rows[row][column] / rows[other][others]
            lines.append(f"| {what} | {ratio:.3g} | {'' if aim is None else f'at most {aim:.2g}'} |")
    return lines


def _shown(row: Mapping[str, float], column: str) -> str:
    if column not in row:
        return ""
    value = row[column]
    if column in ("MiB a box", "in 8 GiB", "calls/s"):
        return f"{value:.0f}"
    return f"{value * 1000:.1f} ms" if value < 0.01 else f"{value * 1000:.0f} ms" if value < 10 else f"{value:.1f} s"


async def _of_kind(home: Path, spec: BoxSpec, num_repeats: int) -> dict[str, float]:
    """One row. The pool keeps no log, so that the box is measured and not the disk."""
    slow = spec.layer in (LayerName.MICROVM, LayerName.VM)
    repeats = max(3, num_repeats // 4) if slow else num_repeats
    row = dict[str, float]()
    async with Pool(folder=home, log=False) as pool:

        async def create() -> Box:
            return await pool.create(spec.layer, image=spec.image, runtime=spec.runtime, limits=spec.limits)

        row["first"] = await seconds(_and_destroy(pool, create))
        row["cold"] = await seconds(_and_destroy(pool, create), repeats)
        box = await create()
        row["command"] = await seconds(lambda: box.exec(["true"]), 5 * repeats)
        if spec.layer is LayerName.FUNCTION:
            callers = [await pool.create(spec.layer, stateless=True) for _ in range(NUM_CALLERS)]
            row["call"] = await seconds(lambda: callers[0].python("f", 1, source=CALL), 10 * repeats)
            row["calls/s"] = await _rate(callers, 50 * repeats)
        else:
            row["call"] = await seconds(lambda: box.python("f", 1, source=CALL), 10 * repeats)
        if size := await _pss(pool, box):
            row |= {"MiB a box": size / 2**20, "in 8 GiB": ROOM_BYTES // size}
        for name, measured in (("reset", box.reset), ("snapshot", box.snapshot), (FORK, lambda: _fork(pool, box))):
            with contextlib.suppress(UnsupportedError):
                row[name] = await seconds(measured, 1 if name == FORK else repeats)
        await pool.destroy(box)
        row["ready"] = await _when_ready(pool, spec, create, repeats)
    return row


async def _rate(callers: Sequence[Box], count: int) -> float:
    """Calls a second of boxes that are called at once, each so many times."""

    async def run(caller: Box) -> None:
        for _ in range(count):
            await caller.python("f", 1, source=CALL)

    took = await seconds(lambda: asyncio.gather(*map(run, callers)))
    return count * len(callers) / took


async def _fork(pool: Pool, box: Box) -> float:
    start = time.monotonic()
    children = await box.fork(NUM_FORKS)
    await asyncio.gather(*(child.exec(["true"]) for child in children))
    took = time.monotonic() - start
    await asyncio.gather(*(pool.destroy(child) for child in children))
    return took


async def _when_ready(pool: Pool, spec: BoxSpec, create: Callable[[], Awaitable[Box]], repeats: int) -> float:
    """Create, where a box is ready: whatever is started in its place is up before the next."""
    times = []
    for _ in range(repeats):
        await pool.warm(1, spec.layer, image=spec.image, runtime=spec.runtime, limits=spec.limits)
        start = time.monotonic()
        box = await create()
        times.append(time.monotonic() - start)
        await pool.warm(0, spec.layer, image=spec.image, runtime=spec.runtime, limits=spec.limits)
        await pool.destroy(box)
    return median(times)


def _and_destroy(pool: Pool, create: Callable[[], Awaitable[Box]]) -> Callable[[], Awaitable[float]]:
    async def run() -> float:
        start = time.monotonic()
        box = await create()
        took = time.monotonic() - start
        await pool.destroy(box)
        return took

    return run


async def _pss(pool: Pool, box: Box) -> int:
    """Bytes of all processes of a box on this machine; 0 where it has no group here."""
    facts = (await pool.tell("facts", box=box.box_id))["box"]
    pids = [] if facts["cgroup"] is None else set(Cgroup(facts["cgroup"]).processes())
    return sum(psutil.Process(pid).memory_full_info().pss for pid in pids)


def machine() -> str:
    """What this was measured on."""
    model = next(
        (line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), ""
    )
    return f"{os.cpu_count()} cores of {model or os.uname().machine}, Linux {os.uname().release.partition('-')[0]}."
