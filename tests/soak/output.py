"""Programs that abuse their output and their end: the verdict, how late it came, and what host and agent held meanwhile.

`tests/test_sandbox.py` has the verdicts; this measures and writes docs/results/output.md. Layers are named on the command
line; three kinds of boxes if none are.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from sandbox.blocking import BlockingBox, BlockingPool
from sandbox.cgroups import Cgroup
from sandbox.pool import Pool
from sandbox.result import Verdict
from sandbox.spec import Limits
from tests import boxes
from tests.soak.kills import ROOT

RESULTS = ROOT / "docs" / "results" / "output.md"
LIMITS = Limits(memory_bytes=256 << 20, num_pids=64, output_bytes=2 << 30, keep_bytes=64 << 10)
GIB = 1 << 30
HALF = f"head -c {GIB // 2} /dev/zero"
ENDED = (Verdict.WALL_TIMEOUT, Verdict.PIDS_LIMIT)


@dataclass(frozen=True)
class Case:
    """A command with a limit on its time, and what it may come to; `wall_s` beyond 30 is never reached."""

    name: str
    command: str
    wall_s: float
    wanted: tuple[Verdict, ...]
    num_bytes: int | None = None


CASES = (
    Case("1 GiB of output", f"head -c {GIB} /dev/zero", 120.0, (Verdict.OK,), GIB),
    Case("1 GiB on both streams", f"{HALF} & {HALF} >&2; wait", 120.0, (Verdict.OK,)),
    Case("output that is no UTF-8", "head -c 5000000 /dev/urandom", 60.0, (Verdict.OK,), 5_000_000),
    Case("output without end", "yes", 1.0, (Verdict.WALL_TIMEOUT, Verdict.OUTPUT_LIMIT)),
    Case("a child that keeps the pipe", "sleep 50 & echo x", 40.0, (Verdict.OK,), 2),
    Case("a child that writes on", "yes & sleep 0.3", 40.0, (Verdict.OK,)),
    Case("sessions of their own", "setsid sleep 50 & setsid setsid sleep 50 & sleep 50", 1.0, (Verdict.WALL_TIMEOUT,)),
    Case("TERM ignored", "trap '' TERM INT HUP; while :; do sleep 1; done", 1.0, (Verdict.WALL_TIMEOUT,)),
    Case("a fork bomb", "bomb() { bomb | bomb & }; bomb; sleep 50", 1.0, ENDED),
    Case("a fork bomb in sessions", "b() { setsid sh -c 'sleep 9' & b & b; }; b; sleep 50", 1.0, ENDED),
    Case("a memory bomb", "python3 -c 'x = []\nwhile True: x.append(bytearray(1 << 20))'", 30.0, (Verdict.OUT_OF_MEMORY,)),
    Case("all processors busy", "for i in 1 2 3 4 5 6 7 8; do (while :; do :; done) & done; wait", 1.0, ENDED),
)  # fmt: skip


@contextmanager
def watched(box: BlockingBox) -> Iterator[dict[str, float]]:
    """The most memory that this process, and the box's agent, held meanwhile, MiB beyond what they had; nothing of an agent
    that is no process of this machine."""
    mine, agent = psutil.Process(), agent_of(box)
    before = {"host": mine.memory_info().rss, "agent": agent.memory_info().rss if agent else 0}
    grown, over = {"host": 0.0, "agent": 0.0}, threading.Event()

    def look() -> None:
        while not over.wait(0.02):
            for name, process in (("host", mine), ("agent", agent)):
                if process is not None and process.is_running():
                    grown[name] = max(grown[name], (process.memory_info().rss - before[name]) / 2**20)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield grown
    finally:
        over.set()
        thread.join()


def agent_of(box: BlockingBox) -> psutil.Process | None:
    for pid in Cgroup(box.box.box_id).processes():
        inner = Path(f"/proc/{pid}/status").read_text().partition("NSpid:")[2].split("\n")[0].split()
        if len(inner) > 1 and inner[-1] == "1":
            return psutil.Process(pid)
    return None


def measure(pool: BlockingPool, layer: str, home: Path) -> list[str]:
    """A row of the page for each case."""
    rows = []
    for case in CASES:
        box = pool.create(**boxes.words(layer, home), limits=LIMITS)
        with watched(box) as grown:
            start = time.monotonic()
            result = box.exec(case.command, wall_s=case.wall_s)
            took_s = time.monotonic() - start
        timed = result.verdict is Verdict.WALL_TIMEOUT
        late_s = took_s - (case.wall_s if timed else result.wall_s)
        good = result.verdict in case.wanted and case.num_bytes in (None, result.stdout.num_bytes)
        verdict = result.verdict.value if good else f"**{result.verdict.value}**"
        rows.append(f"| {case.name} | {layer} | {verdict} | {late_s:.2f} | {grown['host']:.1f} | {grown['agent']:.1f} |")
        print(rows[-1], flush=True)
        pool.destroy(box)
    return rows


def main() -> None:
    rows = list[str]()
    with tempfile.TemporaryDirectory() as home, BlockingPool(Pool(folder=Path(home))) as pool:
        for layer in sys.argv[1:] or ("function", "crun", "runsc"):
            if boxes.lacking(layer) is None:
                rows += measure(pool, layer, Path(home))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    RESULTS.write_text(
        "# Output and ends\n\n"
        "Programs that abuse their output or do not want to end. Late: seconds from the limit, or from the command's own end,\n"
        "until the host had the result. Growth: MiB of resident memory beyond what the host's process and the agent had when\n"
        f"idle; the host's peak in all was {peak:.0f} MiB. A verdict in bold is not the right one. Written by `make soak`.\n\n"
        "| program | layer | verdict | late | growth, host | growth, agent |\n|---|---|---|---|---|---|\n"
        + "\n".join(rows)
        + "\n"
    )


if __name__ == "__main__":
    main()
