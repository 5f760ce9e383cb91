"""`polymath sandbox bench`: what boxes of every kind cost on this machine, beside what people use without them, in one table.

Times are medians. A box's memory is its processes' proportional share (PSS), an emulator included; how many go into 8 GiB
follows from it. Ratios compare within one run: machines are noisy.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import psutil

from sandbox.box import Box
from sandbox.cgroups import Cgroup
from sandbox.errors import BoxUnavailableError, SandboxError, UnsupportedError
from sandbox.pool import Pool
from sandbox.proof import kinds
from sandbox.spec import BoxSpec, LayerName, Limits

CALL = "def f(x): return x + 1"
LIMITS = Limits(memory_bytes=256 << 20, disk_bytes=64 << 20)
ROOM_BYTES = 8 << 30
NUM_FORKS = 20
COLUMNS = ["first", "cold", "ready", "command", "call", "reset", "snapshot", f"fork of {NUM_FORKS}", "MiB a box", "in 8 GiB"]
NOTE = f"""
`first`: the first box of its kind, which boots a machine where there is none to clone. `cold`: create, with an agent that
answers. `ready`: create where boxes are kept ready. `command`: `true`. `call`: a Python function; of the function layer in a
stateless box. `reset`: as new again. `fork of {NUM_FORKS}`: until all of them answer. Commands are not logged here: a log adds
its sync to each.
"""


@dataclass(frozen=True)
class Row:
    name: str
    figures: dict[str, str]


def bench(home: Path, image: str | None, num_repeats: int, progress: Callable[[str], None]) -> str:
    """The table, as Markdown; kinds that this machine lacks are named with the reason.

    Args:
        image: for all but the function layer; None: those are left out.
    """
    rows = list(_without(num_repeats))
    missing = []
    for spec in kinds():
        progress(spec.kind)
        if spec.layer is not LayerName.FUNCTION and image is None:
            missing.append(f"{spec.kind}: no --image was given")
            continue
        wanted = replace(spec, image=None if spec.layer is LayerName.FUNCTION else image, limits=LIMITS)
        try:
            rows.append(asyncio.run(_of_kind(home, wanted, num_repeats)))
        except SandboxError as error:
            missing.append(f"{spec.kind}: {error}")
    lines = [f"| | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    lines += [f"| {row.name} | {' | '.join(row.figures.get(column, '') for column in COLUMNS)} |" for row in rows]
    left_out = [f"\nLeft out: {'; '.join(missing)}.\n"] if missing else []
    return "\n".join([*lines, NOTE, *left_out])


async def _of_kind(home: Path, spec: BoxSpec, num_repeats: int) -> Row:
    """One row. The pool keeps no log, so that the box is measured and not the disk."""
    slow = spec.layer in (LayerName.MICROVM, LayerName.VM)
    repeats = max(3, num_repeats // 4) if slow else num_repeats
    figures = dict[str, str]()
    async with Pool(folder=home, log=False) as pool:

        async def create() -> Box:
            return await pool.create(spec.layer, image=spec.image, runtime=spec.runtime, limits=spec.limits)

        figures["first"] = _ms(await _time(_and_destroy(pool, create)))
        figures["cold"] = _ms(await _times(_and_destroy(pool, create), repeats))
        box = await create()
        figures["command"] = _ms(await _times(lambda: box.exec(["true"]), 5 * repeats))
        caller = await pool.create(spec.layer, stateless=True) if spec.layer is LayerName.FUNCTION else box
        figures["call"] = _ms(await _times(lambda: caller.python("f", 1, source=CALL), 10 * repeats))
        size = await _pss(pool, box)
        if size:
            figures |= {"MiB a box": f"{size / 2**20:.0f}", "in 8 GiB": f"{ROOM_BYTES // size}"}
        for name, measured in (("reset", box.reset), ("snapshot", box.snapshot)):
            try:
                figures[name] = _ms(await _times(measured, repeats))
            except UnsupportedError:
                figures[name] = "-"
        try:
            start = time.monotonic()
            children = await box.fork(NUM_FORKS)
            await asyncio.gather(*(child.exec(["true"]) for child in children))
            figures[f"fork of {NUM_FORKS}"] = _ms(time.monotonic() - start)
            await asyncio.gather(*(pool.destroy(child) for child in children))
        except UnsupportedError:
            figures[f"fork of {NUM_FORKS}"] = "-"
        await pool.destroy(box)
        figures["ready"] = _ms(await _when_ready(pool, spec, create, repeats))
    return Row(spec.kind, figures)


async def _when_ready(pool: Pool, spec: BoxSpec, create: Callable[[], Awaitable[Box]], repeats: int) -> float:
    """Create and first command, where a box is ready: whatever is started in its place is up before the next."""
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


async def _time(run: Callable[[], Awaitable[object]]) -> float:
    start = time.monotonic()
    took = await run()
    return took if isinstance(took, float) else time.monotonic() - start


async def _times(run: Callable[[], Awaitable[object]], count: int) -> float:
    return median([await _time(run) for _ in range(count)])


async def _pss(pool: Pool, box: Box) -> int:
    """Bytes of all processes of a box on this machine; 0 where it has no group here."""
    facts = (await pool.tell("facts", box=box.box_id))["box"]
    pids = [] if facts["cgroup"] is None else set(Cgroup(facts["cgroup"]).processes())
    return sum(psutil.Process(pid).memory_full_info().pss for pid in pids)


def _without(num_repeats: int) -> Iterator[Row]:
    """What people use where there are no boxes."""
    yield Row(
        "`subprocess.run([python, -c])`", {"call": _ms(_run([sys.executable, "-c", f"{CALL}\nprint(f(1))"], num_repeats))}
    )
    if bwrap := shutil.which("bwrap"):
        words = [bwrap, "--unshare-all", "--ro-bind", "/usr", "/usr"]
        for name in ("/bin", "/lib", "/lib64"):
            words += ["--symlink", os.readlink(name), name] if os.path.islink(name) else ["--ro-bind-try", name, name]
        yield Row("bare `bwrap ... true`", {"cold": _ms(_run([*words, "true"], num_repeats))})
    if (docker := shutil.which("docker")) and (image := _docker_image(docker)):
        words = [docker, "run", "--rm", "--network", "none", "--entrypoint", "true", image]
        yield Row("`docker run --rm ... true`", {"cold": _ms(_run(words, max(3, num_repeats // 4)))})


def _docker_image(docker: str) -> str | None:
    """Any that its engine has."""
    done = subprocess.run([docker, "images", "-q"], capture_output=True, text=True, check=False)
    return next(iter(done.stdout.split()), None)


def _run(words: Sequence[str], count: int) -> float:
    times = []
    for _ in range(count):
        start = time.monotonic()
        done = subprocess.run(words, capture_output=True, check=False)
        times.append(time.monotonic() - start)
        if done.returncode:
            raise BoxUnavailableError(f"{' '.join(words)}: {done.stderr.decode(errors='replace')[-300:]}")
    return median(times)


def machine() -> str:
    """What this was measured on."""
    model = next(
        (line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), ""
    )
    return f"{os.cpu_count()} cores of {model or os.uname().machine}, Linux {os.uname().release.partition('-')[0]}."


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 0.01 else f"{seconds * 1000:.0f} ms" if seconds < 10 else f"{seconds:.1f} s"
