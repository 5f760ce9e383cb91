"""The command log: a client that dies and comes back gets its finished commands' results, and nothing runs twice."""

from __future__ import annotations

import asyncio
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sandbox import commandlog
from sandbox.commandlog import CommandChangedError
from sandbox.errors import BoxLostError
from sandbox.pool import Pool
from sandbox.result import Verdict
from tests.soak.kills import ROOT

pytestmark = pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bubblewrap: apt-get install bubblewrap")
NUM_COMMANDS = 30
CLIENT = f"""
import asyncio, sys
from pathlib import Path
from sandbox.pool import Pool

async def main():
    pool = Pool(folder=Path(sys.argv[1]), name="mine", lease_s=30)
    await pool.open()
    box = await pool.create("function", name="one")
    for i in range({NUM_COMMANDS}):
        result = await box.exec(f"echo {{i}} >> /tmp/ran; sleep 0.0{{i % 3}}; echo out {{i}}; exit {{i % 2}}")
        print(i, result.verdict.value, result.exit_code, result.stdout.text.strip(), flush=True)
    print("ran", (await box.read_file("/tmp/ran")).decode().split(), flush=True)
    await pool.close()

asyncio.run(main())
"""


def test_a_client_that_is_killed_again_and_again_runs_no_command_twice(tmp_path: Path) -> None:
    draw = random.Random(4)
    lines, num_kills = list[str](), 0
    while not any(line.startswith("ran") for line in lines):
        command = [sys.executable, "-c", CLIENT, str(tmp_path)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as client:
            assert client.stdout is not None
            lines = []
            if num_kills < 8:
                num_kills += 1
                lines = [client.stdout.readline() for _ in range(draw.randrange(3 * num_kills))]
                time.sleep(draw.random() / 50)
                client.kill()
            lines = "".join([*lines, client.stdout.read()]).splitlines()
    numbers = [str(i) for i in range(NUM_COMMANDS)]
    assert lines == [f"{i} {'nonzero' if i % 2 else 'ok'} {i % 2} out {i}" for i in range(NUM_COMMANDS)] + [f"ran {numbers}"]
    entries = commandlog.read(tmp_path / "logs" / "mine")
    assert [entry.seq for entry in entries] == list(range(1, NUM_COMMANDS + 2))
    assert all(entry.facts is not None for entry in entries)


def test_another_command_than_the_recorded_one_is_refused_and_both_are_shown(tmp_path: Path) -> None:
    async def first() -> None:
        async with Pool(folder=tmp_path, name="mine") as pool:
            box = await pool.create("function", name="one")
            assert (await box.exec("echo a")).ok
            with pytest.raises(FileNotFoundError):
                await box.read_file("/no/such")

    async def second() -> None:
        async with Pool(folder=tmp_path, name="mine") as pool:
            box = await pool.create("function", name="one")
            result = await box.exec("echo a")  # the box is long gone: this is the record
            assert (result.verdict, result.stdout.head) == (Verdict.OK, b"a\n")
            with pytest.raises(FileNotFoundError):
                await box.read_file("/no/such")
            with pytest.raises(BoxLostError, match=r"whether its command 3 .* ran is unknown"):
                await box.exec("echo more")
            again = await pool.create("function", name="one")
            with pytest.raises(CommandChangedError, match=r"recorded `exec .* echo a`, and now asked `exec .* echo b`"):
                await again.exec("echo b")

    asyncio.run(first())
    asyncio.run(second())


def test_a_call_that_was_on_its_way_when_the_box_died_is_lost_for_good(tmp_path: Path) -> None:
    async def first() -> None:
        async with Pool(folder=tmp_path, name="mine") as pool:
            box = await pool.create("function", name="one", ttl_s=0.5)
            with pytest.raises(BoxLostError):
                await box.exec("sleep 20")

    async def second() -> None:
        async with Pool(folder=tmp_path, name="mine") as pool:
            with pytest.raises(BoxLostError, match="unknown"):
                await (await pool.create("function", name="one")).exec("sleep 20")

    asyncio.run(first())
    asyncio.run(second())
    [entry] = commandlog.read(tmp_path / "logs" / "mine")
    assert entry.facts is None
    assert entry.shown == "exec /bin/sh -c sleep 20"
