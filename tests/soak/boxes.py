"""Kills owners and keepers of pools, and clients in the middle of commands; looks at what is left, and what ran twice.

`python -m tests.soak.boxes` makes the campaigns of TARGETS; `function=200 commands=50` on the command line others. Used by
tests/test_kill_campaigns.py with few kills. Resumable: a round that is in docs/results/boxes/ is not done again.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from rl.checkpoint import write_json
from sandbox import commandlog, framelog, gc
from sandbox.agent import Agent
from sandbox.cgroups import Cgroup
from sandbox.commandlog import CommandLog
from sandbox.pool import Pool
from tests import boxes
from tests.soak.kills import ROOT

RESULTS = ROOT / "docs" / "results" / "boxes"
TARGETS = {
    "function": 600,
    "crun": 400,
    "docker": 200,
    "microvm": 50,
    "vm": 5,
    "commands": 2000,
}  # boxes of each layer; kills around commands
NUM_BOXES = {"microvm": 4, "vm": 1}  # of an owner; a dozen of the others
LEASE_S, EXTRA_S = 1.0, 5.0
NUM_COMMANDS, KILLS_A_ROUND, MAX_PASSINGS = 120, 40, 3  # of a life, so that commands are left for every kill
OWNER = """
import asyncio, contextlib, json, random, sys
from pathlib import Path
from sandbox.errors import UnsupportedError
from sandbox.pool import Pool
from sandbox.spec import Limits

home, name, lease_s, seed, words = sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4], json.loads(sys.argv[5])
draw = random.Random(seed)

def say(what):
    print(what, flush=True)

async def live(pool):
    say("create")
    box = await pool.create(**words, limits=Limits(memory_bytes=64 << 20, num_pids=16, disk_bytes=8 << 20))
    say("created")
    await box.exec("setsid sleep 1000 > /dev/null 2>&1 & echo x > /tmp/x")
    with contextlib.suppress(UnsupportedError):
        if draw.random() < 0.5:
            say("snapshot")
            kept = await box.snapshot()
            say("fork")
            await box.fork(1)
            say("rollback")
            await box.rollback(kept)
    say("exec")
    await box.exec("sleep 0.1; setsid sleep 1000 & sleep 0.1", wall_s=0.2)
    if draw.random() < 0.5:
        say("destroy")
        await pool.destroy(box)
        say("destroyed")

async def main():
    pool = Pool(folder=Path(home), name=name, lease_s=lease_s)
    say("open")
    await pool.open()
    say("opened")
    await asyncio.gather(*(live(pool) for _ in range(int(sys.argv[6]))))
    say("end")
    await asyncio.sleep(60)

asyncio.run(main())
"""


def kill_round(home: Path, layer: str, number: int) -> dict[str, Any]:
    """One owner with up to a dozen boxes and their forks; it, or its keeper, is killed at a random moment.

    Returns what it was at, how many boxes it had asked for, and the seconds until nothing of them was left.
    """
    draw, name = random.Random(f"{layer}/{number}"), f"soak{os.getpid()}x{number}"
    command = [
        sys.executable, "-c", OWNER, str(home), name, str(LEASE_S), str(number), json.dumps(boxes.words(layer, home)),
        str(NUM_BOXES.get(layer, 12)),
    ]  # fmt: skip
    said = list[str]()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as owner:
        assert owner.stdout is not None
        for _ in range(draw.randrange(1, 60)):
            line = owner.stdout.readline().strip()
            said.append(line)
            if line in ("", "end"):
                break
        time.sleep(draw.random() * 0.1)
        victim = "keeper" if draw.random() < 0.3 and "opened" in said else "owner"
        if victim == "keeper":
            for pid in keepers_of(name):
                os.kill(pid, signal.SIGKILL)
        owner.kill()
        said += owner.stdout.read().split()
    struck, start = said[-1] if said else "start", time.monotonic()
    while (left := left_of(home, name)) and time.monotonic() - start < LEASE_S + EXTRA_S:
        time.sleep(0.05)
        if victim == "keeper":
            gc.collect(home)  # as the next pool that is opened does
    num_boxes = said.count("create") + said.count("fork")
    return {"victim": victim, "at": struck, "boxes": num_boxes, "seconds": time.monotonic() - start, "left": left}


async def first_box(home: Path, layer: str) -> None:
    """What is done once for an image, and takes its time: a keeper ends when it is done with that."""
    async with Pool(folder=home) as pool:
        await pool.create(**boxes.words(layer, home))


def keepers_of(name: str) -> list[int]:
    return [process.pid for process in psutil.process_iter() if keeps(process, name)]


def keeps(process: psutil.Process, name: str) -> bool:
    """Whether it is the keeper of the pool of this name."""
    line = command_line(process)
    return "sandbox.keeper" in line and f"/pools/{name} " in f"{line} "


def command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def left_of(home: Path, name: str) -> list[str]:
    """Processes, control groups, mounts, network namespaces with a name, and folders of a pool."""
    found = [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/polymath/{name}-*")]
    for process in psutil.process_iter():
        try:
            group = Path(f"/proc/{process.pid}/cgroup").read_text()
            if process.status() != psutil.STATUS_ZOMBIE and (f"polymath/{name}-" in group or keeps(process, name)):
                found.append(f"process {process.pid}: {command_line(process)[:100]}")
        except (psutil.Error, OSError):
            continue
    found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f"/{name}/" in line]
    found += [str(path) for path in Path("/run/netns").glob(f"*{name}*")]
    return found + [str(path) for path in (home / "pools").glob(name)]


# kills around commands

POINTS = (
    "before intent", "after intent", "sent", "answered", "before sync", "after sync", "acknowledged", "any time", "opening"
)  # fmt: skip


class _Killer:
    """Ends this process when a point is passed for the n-th time."""

    def __init__(self, point: str, passings: int) -> None:
        self.point, self.left = point, passings

    def passing(self, point: str) -> None:
        if point == self.point:
            self.left -= 1
            if self.left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def around(self, owner: Any, name: str, before: str, after: str = "") -> None:
        real: Callable[..., Any] = getattr(owner, name)

        def call(*arguments: Any, **named: Any) -> Any:
            self.passing(before)
            answer = real(*arguments, **named)
            self.passing(after)
            return answer

        setattr(owner, name, call)


def client(home: Path, name: str, killer: _Killer, told: int) -> None:
    """One life: the same calls as ever; each answer is told on this descriptor."""
    killer.around(CommandLog, "intend", "before intent", "after intent")
    killer.around(CommandLog, "finish", "answered")
    killer.around(framelog.os, "fdatasync", "before sync", "after sync")
    _around_send(killer)

    async def run() -> None:
        pool = Pool(folder=home, name=name, lease_s=60)
        killer.passing("opening")
        await pool.open()
        box = await pool.create("function", name="one")
        for i in range(NUM_COMMANDS):
            order = f"echo {i} >> /tmp/ran; cat /proc/sys/kernel/random/uuid; sleep 0.00{i % 3}; exit {i % 2}"
            result = await box.exec(order)
            killer.passing("acknowledged")
            os.write(told, f"{i} {result.exit_code} {result.stdout.text.strip()}\n".encode())
        if killer.point == "none":
            roots = [Path(f"/proc/{pid}/root") for pid in Cgroup(box.box_id).processes()]
            files = [root / "tmp/ran" for root in roots if (root / ".polymath").exists() and (root / "tmp/ran").exists()]
            each = {file.stat().st_dev: file for file in files}  # one a box: should there be two of this name, both count
            ran = [line for file in each.values() for line in file.read_text().split()]  # not by way of the agent
            os.write(told, f"ran {' '.join(ran)}\n".encode())
            await pool.close()

    asyncio.run(run())


def _around_send(killer: _Killer) -> None:
    real = Agent.send

    async def send(self: Agent, order: dict[str, Any], payload: bytes = b"") -> None:
        await real(self, order, payload)
        if order["op"] == "exec":
            killer.passing("sent")

    Agent.send = send  # type: ignore[method-assign]


def life(home: Path, name: str, point: str, passings: int, after_s: float) -> tuple[list[str], bool]:
    """Runs the client in a process of its own, which is killed at this point, or after so long; what it told, and if it was."""
    reads, writes = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reads)
        status = 1
        try:
            client(home, name, _Killer(point, passings), writes)
            status = 0
        except BaseException:  # noqa: BLE001 - it is shown, and the round fails
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writes)
    if point == "any time":
        time.sleep(after_s)
        os.kill(pid, signal.SIGKILL)
    with open(reads) as file:
        lines = file.read().splitlines()
    _, status = os.waitpid(pid, 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert killed or status == 0, f"the client failed at {point}: {status}"
    return lines, killed


def command_round(home: Path, number: int, num_kills: int) -> dict[str, Any]:
    """A client that is killed and comes back until it has had its kills; then it ends. Counts what ran twice or was lost."""
    draw, name = random.Random(f"commands/{number}"), f"c{os.getpid()}x{number}"
    first, struck, changed = dict[str, str](), Counter[str](), 0
    while True:
        over = sum(struck.values()) >= num_kills
        point = "none" if over else draw.choice(POINTS)
        lines, killed = life(home, name, point, draw.randint(1, MAX_PASSINGS), draw.random() * 0.25)
        for line in lines:
            index, _, answer = line.partition(" ")
            if index != "ran":
                changed += first.setdefault(index, answer) != answer
        if killed:
            struck[point] += 1
        elif over:
            break
    ran = Counter(lines[-1].split()[1:])
    entries = commandlog.read(home / "logs" / name)
    return {
        "kills": sum(struck.values()),
        "struck": dict(struck),
        "commands": NUM_COMMANDS,
        "twice": sum(count > 1 for count in ran.values()),
        "missing": sum(str(i) not in ran for i in range(NUM_COMMANDS)),
        "changed": changed,  # an answer that was given is another one later
        "unanswered": sum(entry.facts is None for entry in entries),
    }


def main() -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    wanted = dict(word.split("=") for word in sys.argv[1:]) or TARGETS
    with tempfile.TemporaryDirectory() as scratch, boxes.engine():
        for kind, target in wanted.items():
            path, unit = RESULTS / f"{kind}.json", "kills" if kind == "commands" else "boxes"
            rounds: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
            if kind != "commands":
                asyncio.run(first_box(Path(scratch), kind))
            while (so_far := sum(r[unit] for r in rounds)) < int(target):
                if kind == "commands":
                    made = command_round(Path(scratch), len(rounds), min(KILLS_A_ROUND, int(target) - so_far))
                else:
                    made = kill_round(Path(scratch), kind, len(rounds))
                rounds.append(made)
                write_json(path, rounds)
                print(f"{kind}: {so_far + made[unit]} of {target} {unit}: {made}", flush=True)
    text = report({path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))})
    RESULTS.with_suffix(".md").write_text(text)
    print(text)


def report(done: dict[str, list[dict[str, Any]]]) -> str:
    commands = done.pop("commands", [])
    lines = [
        "# Kills of what owns boxes",
        "",
        "Owners with up to a dozen boxes, and their forks, at work; killed with SIGKILL at random moments, or they and their",
        "keeper are; then, as when the next pool is opened, `gc` runs. Left over: processes, control groups, mounts, network",
        f"namespaces and folders of the pool {EXTRA_S:g} s after the lease, which is {LEASE_S:g} s. Written by `make soak`.",
        "",
        "| boxes | killed owners | killed keepers | boxes begun | left over | seconds until all was gone: median, most |",
        "|---|---|---|---|---|---|",
    ]
    for kind, rounds in done.items():
        victims, times = Counter(r["victim"] for r in rounds), sorted(r["seconds"] for r in rounds)
        lines.append(
            f"| {kind} | {victims['owner']} | {victims['keeper']} | {sum(r['boxes'] for r in rounds)} "
            f"| {sum(len(r['left']) for r in rounds)} | {times[len(times) // 2]:.1f}, {times[-1]:.1f} |"
        )
    struck = Counter(r["at"] for rounds in done.values() for r in rounds)
    lines += ["", "What the owner had said last: " + ", ".join(f"{at} {count}" for at, count in struck.most_common()) + "."]
    if commands:
        total = {
            name: sum(r[name] for r in commands) for name in ("kills", "commands", "twice", "missing", "changed", "unanswered")
        }
        points = sum((Counter(r["struck"]) for r in commands), Counter[str]())
        lines += [
            "",
            "# Kills around commands",
            "",
            f"A client runs {NUM_COMMANDS} commands, each of which adds a line to a file in its box and gives a random number;",
            "it is killed, comes back by the pool's name, and makes the same calls, until it has had its kills. What ran is",
            "counted in that file, read from outside the box.",
            "",
            "| kills | commands | run twice | never run | answers that changed | without a record in the end |",
            "|---|---|---|---|---|---|",
            "| " + " | ".join(f"{total[name]:,}" for name in total) + " |",
            "",
            "| where it was killed | kills |",
            "|---|---|",
            *(f"| {point} | {count} |" for point, count in points.most_common()),
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
