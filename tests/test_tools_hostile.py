"""Calls that flood, hang, kill, fill and delete: the model is told, and the box stays usable.

And what is not the model's doing: boxes that die, and boxes that others have.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rewards.config import SandboxConfig
from rewards.errors import UserError
from rewards.task import Task
from rl.tools.protocol import ToolUnavailableError
from rl.tools.session import Session
from rl.tools.tools import Tools
from tests import boxes
from tests.opened_tools import TASK, Opened, asked, opened, ours, text

USES = ("python", "shell", "files", "calculator")
NEW = "the next call starts a new one: its variables are lost, files are not]"


@pytest.fixture(scope="module")
def worker(sandbox_home: Path) -> Iterator[Opened]:
    with opened(ours(*USES), sandbox_home) as worker:
        yield worker


@pytest.fixture(params=["function", "crun"])
def sandbox(request: pytest.FixtureRequest, sandbox_home: Path) -> SandboxConfig:
    if (lacking := boxes.lacking(request.param)) is not None:
        pytest.skip(lacking)
    return SandboxConfig(memory_bytes=160 << 20, num_boxes=1, **boxes.words(request.param, sandbox_home))


def test_a_hostile_trajectory(sandbox_home: Path, sandbox: SandboxConfig) -> None:
    """One after the other in one box, which goes on to work."""

    async def work(session: Session) -> None:
        await floods(session)
        await hungry(session)
        await kills(session)
        await bombs(session)
        await its_home(session)
        state = await session.state()
        assert state is not None
        assert not state.still_runs

    with opened(ours(*USES), sandbox_home, sandbox) as worker:
        worker.within(work)


def test_what_never_ends_is_ended(sandbox_home: Path) -> None:
    async def work(session: Session) -> None:
        late = await text(session, "shell", command="echo begun; setsid sleep 1000")
        assert late == "begun\n[ended after 3 s, the time limit]"
        await asked(session, "python", code="x = 1")
        late = await text(session, "python", code="print('begun')\nwhile True: pass")
        assert late == f"begun\n\n[ended after 3 s, the time limit; {NEW}"
        assert "NameError" in await text(session, "python", code="x")

    with opened(ours(*USES, timeout_s=3.0), sandbox_home) as worker:
        worker.within(work)


async def hungry(session: Session) -> None:
    told = await text(session, "python", code="y = b'x' * (1 << 30)")
    assert told == f"[Python was ended by signal 9, as it is when memory runs out; {NEW}"
    told = await text(session, "shell", command="python3 -c 'y = b\"x\" * (1 << 30)'")
    assert "[ended: out of memory, of which there are 160 MiB]" in told


async def floods(session: Session) -> None:
    """The beginning and the end are shown, and how much is between them."""
    shown = await text(session, "shell", command="echo first; yes | head -c 10000000; echo last")
    assert shown.startswith("first\ny\n")
    assert shown.endswith("y\nlast\n")
    assert "[9992011 characters left out]" in shown
    shown = await text(session, "python", code="print('first'); print('y' * 5_000_000); print('last')")
    assert len(shown) < 8100
    assert shown.startswith("first\ny")
    assert shown.endswith("y\nlast\n")
    assert "[4992012 characters left out]" in shown
    assert len(await text(session, "files", command="view", path="/usr/bin")) < 8100
    assert len(await text(session, "python", code="1/0 if True else 0 #" + "x" * 50_000)) < 60_000


async def kills(session: Session) -> None:
    assert "[ended by signal 9]" in await text(session, "shell", command="kill -9 $$")
    await asked(session, "shell", command="kill -9 -1")
    assert "Python" in await text(session, "python", code="import os, signal\nos.kill(os.getppid(), signal.SIGKILL)")
    assert await text(session, "python", code="import os\nos._exit(7)") == f"[Python ended with exit status 7; {NEW}"
    assert "signal 11" in await text(session, "python", code="import ctypes\nctypes.string_at(0)")
    assert "EOFError" in await text(session, "python", code="input()")
    assert await text(session, "python", code="import os\nif os.fork(): print(os.wait()[1])") == "0\n"
    assert (await asked(session, "python", code="import os\nos.closerange(3, 200)")).is_error
    assert await text(session, "python", code="import sys\nsys.stdout.close(); sys.stderr = None") == "(no output)"
    assert await text(session, "shell", command="echo alive") == "alive\n"


FORKS = """
import os, time
for _ in range(300):
    try:
        if os.fork() == 0:
            os.setsid()
            time.sleep(1000)
    except OSError:
        pass
"""


async def bombs(session: Session) -> None:
    """As many processes as there may be, which go on; whoever finds no room is told, and then there is room again."""
    for name, bomb in (
        ("shell", {"command": "f() { f | f & }; f; sleep 0.5"}),
        ("python", {"code": FORKS}),
        ("shell", {"command": "sh -c 'for i in $(seq 300); do setsid sleep 1000 & done' 2> /dev/null"}),
    ):
        await asked(session, name, **bomb)
        for _ in range(3):
            if (told := await text(session, "shell", command="echo alive")) == "alive\n":
                break
            assert "[ended: too many processes; all that ran in the box was ended]" in told
        tries = [await text(session, "python", code="print(6 * 7)") for _ in range(3)]
        assert tries[-1] == "42\n", tries


async def its_home(session: Session) -> None:
    await text(session, "shell", command="cd /tmp; rm -rf /tmp/work")
    assert await text(session, "shell", command="pwd") == "/tmp\n"
    assert await text(session, "files", command="create", path="new", text="1\n") == "wrote /tmp/work/new, 1 lines"
    assert await text(session, "shell", command="mkdir gone; cd gone; rmdir ../gone") == "(no output)"
    assert "/tmp" in await text(session, "shell", command="pwd")
    await text(session, "shell", command="chmod 0 /tmp/work")
    assert "Permission denied" in await text(session, "files", command="view", path="new")


def test_a_full_disk_is_told(worker: Opened) -> None:
    async def work(session: Session) -> None:
        assert "No space left" in await text(session, "shell", command="head -c 300M /dev/zero > full; echo; ls")
        assert "No space left" in await text(session, "files", command="create", path="new", text="x" * 5000)
        assert await text(session, "python", code="1 + 1") == "2\n"
        assert await text(session, "shell", command="rm full; echo room > new; cat new") == "room\n"

    worker.within(work)


def test_calls_on_the_box_run_in_turn_and_others_beside_them(worker: Opened) -> None:
    done = list[str]()

    async def work(session: Session) -> list[str]:
        async def noted(what: str, name: str, **arguments: Any) -> str:
            found = await text(session, name, **arguments)
            done.append(what)
            return found

        add = "n=$(cat n 2> /dev/null || echo 0); sleep 0.05; echo $((n + 1)) > n"
        calls = [noted("shell", "shell", command=add) for _ in range(4)]
        calls += [noted("view", "files", command="view", path="n"), noted("sum", "calculator", expression="1+1")]
        return list(await asyncio.gather(*calls))

    assert worker.within(work)[4] == "     1\t4\n"
    assert done == ["sum", "shell", "shell", "shell", "shell", "view"]


def test_a_session_waits_for_its_box(sandbox_home: Path) -> None:
    async def work(tools: Tools) -> None:
        async with tools.session(TASK, "first") as first, tools.session(TASK, "second") as second:
            await text(first, "shell", command="echo mine > notes.txt")
            call = asyncio.create_task(asked(second, "shell", command="cat notes.txt"))
            await asyncio.wait([call], timeout=0.5)
            assert not call.done()
            assert await text(second, "calculator", expression="2*3") == "6"
            await first.__aexit__(None, None, None)
            outcome = await call
        assert outcome.text == "tea 3\nmilk 2\n"
        assert outcome.waited_s > 0.4

    with opened(ours(*USES), sandbox_home, SandboxConfig(num_boxes=1)) as worker:
        worker.run(work)


def test_a_box_that_is_lost_is_nothing_that_the_model_sees(worker: Opened) -> None:
    """Before anything had come of it another one is taken; then the rollout is to be done again."""

    async def work(session: Session) -> None:
        call = asyncio.create_task(asked(session, "shell", command="cat notes.txt; sleep 1"))
        while session.box_ref is None or session.box_ref.last_command_seq < 2:
            await asyncio.sleep(0.01)
        lost = session.box_ref.box_id
        kill_keeper(worker.tools)
        outcome = await call
        assert (outcome.text, outcome.is_error, outcome.num_retries) == ("tea 3\nmilk 2\n", False, 1)
        assert session.box_ref.box_id != lost
        kill_keeper(worker.tools)
        for name, arguments in (
            ("python", {"code": "1"}),
            ("shell", {"command": "true"}),
            ("files", {"command": "view", "path": "."}),
        ):
            with pytest.raises(ToolUnavailableError, match=f"rollout 7: the tool {name}: BoxLostError"):
                await asked(session, name, **arguments)
        with pytest.raises(ToolUnavailableError, match="rollout 7: what it left in its box"):
            await session.state()
        assert await text(session, "calculator", expression="1+1") == "2"

    async def again(session: Session) -> str:
        return await text(session, "python", code="1")

    worker.within(work)
    assert worker.within(again) == "1\n"


def test_an_interpreter_s_box_that_is_lost_is_told_to_nobody(worker: Opened) -> None:
    async def work(session: Session) -> None:
        await text(session, "python", code="x = 1")
        call = asyncio.create_task(asked(session, "python", code="import time; open('ran', 'w').close(); time.sleep(1000)"))
        await until_there(session, "/tmp/work/ran")
        kill_keeper(worker.tools)
        for _ in range(2):
            with pytest.raises(ToolUnavailableError, match="the tool python: BoxLostError"):
                await call
            call = asyncio.create_task(asked(session, "python", code="x"))

    worker.within(work)


def kill_keeper(tools: Tools) -> None:
    """And with it all boxes."""
    assert tools._boxes is not None
    assert tools._boxes._pool is not None
    process = tools._boxes._pool._process
    assert process is not None
    process.kill()
    process.wait()


def test_a_cancelled_call_ends_what_it_runs(worker: Opened) -> None:
    async def work(session: Session) -> None:
        await text(session, "python", code="x = 1")
        for name, arguments in (
            ("python", {"code": "open('ran', 'w').close(); import os; os.system('sleep 1000')"}),
            ("shell", {"command": "touch ran; sleep 1000"}),
        ):
            call = asyncio.create_task(asked(session, name, **arguments))
            await until_there(session, "/tmp/work/ran")
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert await text(session, "shell", command="rm ran; pgrep -c sleep") == "0\n[exit code 1]"
        assert "NameError" in await text(session, "python", code="x")

    worker.within(work)


async def until_there(session: Session, path: str) -> None:
    """Asks the box itself: a call would wait for the one that runs."""
    box = session._lease.box_if_there if session._lease is not None else None
    assert box is not None
    while True:
        with contextlib.suppress(FileNotFoundError):
            await box.read_file(path)
            return
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"files": [1]}, r"task '1': files: got \[1\]; it must be a mapping of paths to texts"),
        ({"setup": "echo no; exit 3"}, "task '1': setup: 'echo no; exit 3' came to nonzero: no"),
    ],
)
def test_a_task_that_is_wrong_is_the_user_s_to_mend(worker: Opened, data: dict[str, Any], message: str) -> None:
    async def work(session: Session) -> None:
        with pytest.raises(UserError, match=message):
            await asked(session, "shell", command="true")

    worker.within(work, Task("1", "agent", (), data=data))


def test_a_layer_that_is_not_there_is_told(sandbox_home: Path) -> None:
    with pytest.raises(
        UserError, match="sandbox: got layer container, and no box of it can be had here, which the tool 'python'"
    ):
        with opened(ours("python"), sandbox_home, SandboxConfig(layer="container")):
            pass
