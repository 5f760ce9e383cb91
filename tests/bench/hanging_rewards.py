"""How many completions a second are scored where one in a hundred calls never comes back, beside the ways of plain Python.

The ways that training frameworks use: a pool of threads or of processes whose results are waited for with a timeout, an alarm
signal inside a pool's workers, a process for each call. --write writes docs/results/hanging_rewards.md.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path

from rewards.config import RewardConfig
from rewards.plugin import read_source
from rewards.task import Task
from rewards.transcript import Transcript
from rl.scoring import RewardWorker
from tests.bench.hang_reward import score
from tests.bench.pages import table, write

KINDS = ("none", "sleep", "spin", "regex")
TIMEOUT_S = 1.0
OURS = "polymath"
EVERY = 100  # one call in so many hangs
CALM = 1000  # at the end, where none does
REPEATS = 5
LIMIT_S = 60.0  # of one measurement; what has not ended by then is killed
CORES = len(os.sched_getaffinity(0))
STEP = 256  # completions of a training step, for what one hang costs it

Found = float | None  # a completion's score; None: it failed


def completions(kind: str, count: int) -> list[str]:
    """Hangs all along but for the end, where they would measure how long the last one lasts: `step_s` says that."""
    return [kind if kind != "none" and i % EVERY == EVERY // 2 and i < count - CALM else "fine" for i in range(count)]


# ---- the ways to score: each yields what comes of the completions, in any order


def polymath(texts: Sequence[str]) -> Iterator[Found]:
    config = RewardConfig(use=f"{Path(__file__).with_name('hang_reward.py')}:score", timeout_s=TIMEOUT_S)
    worker = RewardWorker([read_source(config, [])])
    task = Task("1", "bench", ())
    try:
        for result in worker.score([(task, Transcript.of(text)) for text in texts]):
            yield result.score
    finally:
        worker.close()


def threads(texts: Sequence[str]) -> Iterator[Found]:
    return _waited_for(ThreadPoolExecutor(CORES), texts)


def processes(texts: Sequence[str]) -> Iterator[Found]:
    return _waited_for(ProcessPoolExecutor(CORES), texts)


def _waited_for(pool: Executor, texts: Sequence[str]) -> Iterator[Found]:
    """Results with a timeout from when they are waited for, and a few calls ahead of that."""
    waiting, rest = list[Future[float]](), iter(texts)
    while True:
        waiting += [pool.submit(score, text) for text in islice(rest, 4 * CORES - len(waiting))]
        if not waiting:
            return
        try:
            yield waiting.pop(0).result(timeout=TIMEOUT_S)
        except TimeoutError:
            yield None


def alarm(texts: Sequence[str]) -> Iterator[Found]:
    with multiprocessing.Pool(CORES) as pool:
        yield from pool.imap_unordered(_with_alarm, texts)


def _with_alarm(text: str) -> Found:
    def over(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, TIMEOUT_S)
    try:
        return score(text)
    except TimeoutError:
        return None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def process_per_call(texts: Sequence[str]) -> Iterator[Found]:
    with ThreadPoolExecutor(CORES) as pool:
        yield from pool.map(_in_process, texts)


def _in_process(text: str) -> Found:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=_send, args=(theirs, text))
    process.start()
    theirs.close()
    found: Found = None
    if ours.poll(TIMEOUT_S):
        found = ours.recv()
    process.kill()
    process.join()
    ours.close()
    return found


def _send(channel: Connection, text: str) -> None:
    channel.send(score(text))


WAYS: dict[str, tuple[str, Callable[[Sequence[str]], Iterator[Found]]]] = {
    "polymath": ("Polymath's reward worker", polymath),
    "threads": ("a pool of threads, results with a timeout", threads),
    "processes": ("a pool of processes, results with a timeout", processes),
    "alarm": ("a pool of processes, an alarm signal in each", alarm),
    "process_per_call": ("a process for each call, killed at its timeout", process_per_call),
}

# ---- measuring


def measure(way: str, kind: str, count: int) -> dict[str, float]:
    """In a process of its own: completions scored, those that failed without hanging, and the seconds that it took."""
    command = [sys.executable, "-m", "tests.bench.hanging_rewards", "--child", way, kind, str(count)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as child:
        try:
            output, _ = child.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            output, _ = child.communicate()
    lines = output.splitlines()
    found: dict[str, float] = json.loads(lines[-1]) if lines else {"scored": 0, "failed": 0, "wall_s": LIMIT_S, "done": 0}
    if not found["done"]:
        found["wall_s"] = LIMIT_S
    return found


def child(way: str, kind: str, count: int) -> None:
    """Prints how far it is, now and then: a process that is killed has said what it had by then."""
    texts = completions(kind, count)
    start = said = time.monotonic()
    scored = failed = 0
    for found in WAYS[way][1](texts):
        scored += found is not None
        failed += found is None
        if time.monotonic() - said > 0.5:
            said = time.monotonic()
            print(json.dumps({"scored": scored, "failed": failed, "wall_s": said - start, "done": 0}), flush=True)
    wall_s = time.monotonic() - start
    print(json.dumps({"scored": scored, "failed": failed, "wall_s": wall_s, "done": 1}), flush=True)
    os._exit(0)  # a pool would wait for what hangs


def rate(found: dict[str, float]) -> float:
    """Completions a second, those that rightly failed included."""
    return (found["scored"] + found["failed"]) / found["wall_s"]


def row(way: str, count: int, repeats: int) -> list[str]:
    """Rates of each kind as shares of the rate without hangs: of the mean of that just before and just after."""
    base = [_told(way, "none", count)]
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS[1:]}
    shares: dict[str, list[float]] = {kind: [] for kind in KINDS[1:]}
    for kind in KINDS[1:] * repeats:
        found[kind].append(_told(way, kind, count))
        base.append(_told(way, "none", count) if way == OURS else base[0])
        shares[kind].append(rate(found[kind][-1]) / statistics.mean(map(rate, base[-2:])))
    cells = [f"{statistics.median(map(rate, base)):.0f}"]
    for kind in KINDS[1:]:
        worst = max(found[kind], key=lambda one: one["failed"])
        hang = sum(text != "fine" for text in completions(kind, count)[: round(worst["scored"] + worst["failed"])])
        wrong = max(0, round(worst["failed"] - hang))
        left = count - max(one["scored"] + one["failed"] for one in found[kind])
        notes = [f"{wrong} that do not hang failed"] if wrong > 1 else []
        notes += [f"{left:.0f} never came"] if left > 0 else []
        notes += [f"{min(shares[kind]):.2f} to {max(shares[kind]):.2f}"] if repeats > 1 else []
        cells.append(f"{statistics.median(shares[kind]):.2f}" + (f" ({', '.join(notes)})" if notes else ""))
    return [WAYS[way][0], *cells]


def _told(way: str, kind: str, count: int) -> dict[str, float]:
    found = measure(way, kind, count)
    print(way, kind, found, file=sys.stderr, flush=True)
    return found


def step_s(kind: str) -> float:
    """The seconds of one step's scores, with one call that hangs among them."""
    config = RewardConfig(use=f"{Path(__file__).with_name('hang_reward.py')}:score", timeout_s=TIMEOUT_S)
    worker = RewardWorker([read_source(config, [])])
    texts = ["fine"] * (STEP - 1) + [kind]
    items = [(Task("1", "bench", ()), Transcript.of(text)) for text in texts[::-1]]
    try:
        worker.score(items[1:])  # the processes are there
        start = time.monotonic()
        worker.score(items)
        return time.monotonic() - start
    finally:
        worker.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=12_000, help="completions of a measurement")
    parser.add_argument("--ways", default=",".join(WAYS), help="comma-separated, of: " + ", ".join(WAYS))
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--child", nargs=3, metavar=("WAY", "KIND", "COUNT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        way, kind, count = arguments.child
        child(way, kind, int(count))
    rows = [row(way, arguments.count, REPEATS if way == OURS else 1) for way in arguments.ways.split(",")]
    steps = {kind: statistics.median(step_s(kind) for _ in range(REPEATS)) for kind in ("fine", *KINDS[1:])}
    header = [
        "way",
        "no hangs, completions a second",
        *(f"1 % hang: {name}" for name in ("sleeping", "computing", "in C code")),
    ]
    took = [f"{seconds:.2f} s with {'no hang' if kind == 'fine' else f'one ({kind})'}" for kind, seconds in steps.items()]
    text = (
        f"# Rewards that hang\n\nWritten by `python -m tests.bench.hanging_rewards --write`. {CORES} cores; {arguments.count} "
        f"completions a cell in one call, a reward of about a millisecond, one in {EVERY} calls never comes back, its deadline "
        f"is {TIMEOUT_S:g} s. Cells: completions a second, rightly failed ones included, as a share of the same way's rate "
        f"without hangs; of ours, the median and the range of {REPEATS}, each between two without. The last {CALM} "
        f"calls of a cell come back: what a hang among the last costs is said below. What had not ended after {LIMIT_S:.0f} s "
        "was killed and counts with what it had come to. The other ways are those of plain Python, as training frameworks use "
        f"them.\n\n{table(header, rows)}\nOne call waits for its slowest completion, so a step of {STEP} completions takes "
        f"{', '.join(took)}: one deadline, however many hang in it.\n"
    )
    print(text)
    if arguments.write:
        write("hanging_rewards.md", text)


if __name__ == "__main__":
    main()
