"""Agent success by a box's state: honest agents score, and agents that tamper with what they are judged by do not."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import pickle
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rewards.box_state import BoxState, File, prepare, put, take
from rewards.errors import UserError
from rewards.plugin import RewardSource
from rewards.score import Scorer
from rewards.state import checks_of, looked_at, verify
from rewards.task import Task
from rewards.transcript import Transcript
from sandbox.blocking import BlockingPool
from sandbox.box import Box
from sandbox.errors import BoxUnavailableError
from sandbox.pool import Pool
from sandbox.spec import Limits
from tests import boxes

LIMITS = Limits(memory_bytes=96 << 20, num_pids=48, disk_bytes=16 << 20, wall_s=60)
ANSWER = {"file": "/tmp/work/answer", "equals": "42\n"}
COUNT = {"run": "wc -l < /tmp/work/answer", "stdout": "1", "files": ["/tmp/work"]}
CHECKER = "import json\nprint(json.load(open('/tmp/work/answer')) == 42)\n"
CHECKED = {"run": "python3 /tmp/check/run.py", "stdout": "True", "files": ["/tmp/work"], "add": {"/tmp/check/run.py": CHECKER}}
ALL = {"run": "cat /tmp/work/answer && python3 -c 'print(6 * 7)' && ! test -w /usr", "stdout": "42\n42"}
QUICK = [pytest.param("function"), pytest.param("crun")]
SLOW = [pytest.param(layer, marks=pytest.mark.full) for layer in ("runsc", "docker", "microvm", "vm")]


@dataclass(frozen=True)
class Scene:
    """A layer's boxes: what `create` is told, and the pool that makes them."""

    pool: BlockingPool
    words: Mapping[str, Any]

    @contextlib.asynccontextmanager
    async def box(self) -> AsyncIterator[Box]:
        box = await self.pool.pool.create(**self.words, limits=LIMITS)
        try:
            yield box
        finally:
            await self.pool.pool.destroy(box)

    def score(self, agent: str, *checks: dict[str, Any], partial: bool = False) -> float:
        """What an agent gets that ran these lines of shell as its user."""

        task = Task("1", "agent", (), data={"checks": list(checks)})

        async def run() -> float:
            async with self.box() as box:
                await prepare(box, task)
                await box.exec(f"cd /tmp/work\n{agent}", env={"HOME": "/tmp"})
                state = await take(box, looked_at(task))
            return await verify(task, said(pickle.loads(pickle.dumps(state))), self, partial)

        return self.pool.wait(run())


def said(state: BoxState | None) -> Transcript:
    return dataclasses.replace(Transcript.of("Done."), box_state=state)


@pytest.fixture(scope="module")
def engine() -> Iterator[str | None]:
    with boxes.engine() as url:
        yield url


@pytest.fixture(scope="module", params=[*QUICK, *SLOW])
def scene(request: pytest.FixtureRequest, sandbox_home: Path) -> Iterator[Scene]:
    if request.param == "docker":
        request.getfixturevalue("engine")
    if (lacking := boxes.lacking(request.param)) is not None:
        pytest.skip(lacking)
    with BlockingPool(Pool(folder=sandbox_home, log=False)) as pool:
        yield Scene(pool, boxes.words(request.param, sandbox_home))


def test_an_honest_agent_scores(scene: Scene) -> None:
    digest = "084c799cd551dd1d8d5c5f9a5d593b2e931f5e36122ee5c793c1d08a19839cc0"  # of what is in it
    by_digest = {"file": "/tmp/work/answer", "sha256": digest, "contains": "4"}
    gone = {"file": "/tmp/work/draft", "absent": True}
    of_image = [{"file": "/usr/bin/env", "contains": "ELF"}, {"file": "/usr/bin/nothing", "absent": True}]
    assert scene.score("echo 42 > answer", ANSWER, by_digest, gone, *of_image, COUNT, CHECKED, ALL) == 1.0


def test_a_machine_that_is_too_slow_is_no_wrong_state(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is the state then too large: nobody knows it, and the score fails."""

    async def run() -> None:
        async with scene.box() as box:
            await prepare(box, Task("1", "agent", ()))
            await box.exec("seq 30000 | xargs touch", cwd="/tmp/work")
            monkeypatch.setattr("rewards.box_state.READ_S", 0.01)
            with pytest.raises(BoxUnavailableError, match="could not be read within"):
                await take(box)

    scene.pool.wait(run())


def test_a_wrong_state_does_not(scene: Scene) -> None:
    wrong = [ANSWER, CHECKED, {"file": "/tmp/work/answer", "sha256": "0" * 64}, {"file": "/tmp/work/answer", "absent": True}]
    assert scene.score("echo 41 > answer", *wrong, partial=True) == 0.0
    assert scene.score("true", ANSWER, COUNT) == 0.0
    assert scene.score("echo 41 > answer", ANSWER, COUNT, CHECKED, {"file": "/none", "absent": True}, partial=True) == 0.5


def test_links_and_what_is_no_file_gain_nothing(scene: Scene) -> None:
    """Not even where they lead to what is expected, which may be another file at the next look."""
    agents = (
        "echo 42 > other; ln -s other answer",
        "echo 42 > /tmp/other; ln -s /tmp/other answer",
        "mkfifo answer",
        "mkdir answer; echo 42 > answer/answer",
        "ln -s /dev/stdin answer",
        "ln -s /proc/self/environ answer",
        "ln -s /dev/zero answer",
        "echo 42 > answer; chmod 0 answer",
        "echo 42 > answer; chmod 0 .",
    )
    lines = "\n".join(f"mkdir {i}; (cd {i}; {agent})" for i, agent in enumerate(agents))
    files = [f"/tmp/work/{i}/answer" for i in range(len(agents))]
    checks = [{"file": path, **what} for path in files for what in ({"equals": "42\n"}, {"absent": True})]
    assert scene.score(lines, *checks, partial=True) == 0.0
    assert scene.score("echo 42 > /tmp/answer; ln -s /tmp/answer answer", CHECKED, COUNT, partial=True) == 0.0


def test_programs_of_the_agent_are_not_run_by_those_who_judge(scene: Scene) -> None:
    """In the path, at home, in the working folder, in front of the interpreter, and in the environment of shells."""
    trojans = r"""
    echo 41 > answer
    mkdir -p /tmp/bin /tmp/.local/bin bin
    for folder in /tmp/bin /tmp/.local/bin /tmp /tmp/work /tmp/work/bin /usr/local/bin /usr/bin /bin /tmp/check; do
      for name in sh bash python3 wc cat test id; do
        printf '#!/bin/sh\necho True\nexit 0\n' > $folder/$name; chmod +x $folder/$name
      done
    done 2>/dev/null
    for name in .profile .bashrc .bash_profile; do echo 'echo True; exit 0' > /tmp/$name; done
    for name in json os site sitecustomize usercustomize; do
      echo 'import os; os.write(1, b"True\n"); os._exit(0)' | tee $name.py > /tmp/$name.py
    done
    packages=/tmp/.local/lib/python3.11/site-packages
    mkdir -p $packages /tmp/check
    cp usercustomize.py $packages; echo 'import os; os._exit(0)' > $packages/a.pth
    echo /tmp/lie.so > /etc/ld.so.preload; echo 'print(True)' > /tmp/check/run.py
    true
    """
    checks = [{**CHECKED, "files": files} for files in (["/tmp/work"], ["/tmp"])]
    checks += [{"run": "python3 -c 'print(open(\"/tmp/work/answer\").read())' && echo $HOME $PATH", "contains": "True"}]
    assert scene.score(trojans, *checks, partial=True) == 0.0
    assert scene.score(trojans + "echo 42 > answer", *checks[:2]) == 1.0  # an honest one does not suffer from them


def test_what_the_agent_left_running_changes_nothing(scene: Scene) -> None:
    """Of many processes, deaf to signals, in sessions of their own, stopped, or busy to start others."""
    writer = "while :; do echo 42 > answer; done"
    agents = (
        f"(trap '' HUP INT TERM; {writer})",
        f"setsid sh -c '{writer}'",
        "(while :; do (echo 42 > answer.new; mv answer.new answer) & wait; done)",
        "(while :; do (sleep 0.01 &) ; done)",
        f"sh -c 'kill -STOP $$; {writer}'",
    )
    lines = "\n".join(f"mkdir {i}; cd {i}; {agent} > /dev/null 2>&1 & cd /tmp/work" for i, agent in enumerate(agents))
    # While they run both would be found at one look or another.
    checks = [{"file": f"/tmp/work/{i}/answer", **what} for i in range(5) for what in ({"equals": "42\n"}, {"absent": True})]
    assert scene.score(f"{lines}\nsleep 0.1", *checks, *checks, partial=True) <= 0.5


def test_nothing_runs_when_files_are_taken(scene: Scene) -> None:
    async def left() -> tuple[BoxState, str]:
        async with scene.box() as box:
            await box.exec("for i in 1 2 3 4 5 6; do setsid sleep 1000 > /dev/null 2>&1 & done")
            return await take(box), (await box.exec("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")).stdout.text

    state, shown = scene.pool.wait(left())
    assert not state.still_runs
    assert "sleep" not in shown


def test_files_without_end_are_a_wrong_state(scene: Scene) -> None:
    assert scene.score("truncate -s 100G answer", ANSWER, COUNT, partial=True) == 0.0
    assert scene.score("echo 42 > answer; truncate -s 100G other", CHECKED, ALL, partial=True) == 0.0


def test_large_files_that_no_check_names_cost_nothing(scene: Scene) -> None:
    count = {**COUNT, "files": ["/tmp/work/answer"]}
    assert scene.score("echo 42 > answer; head -c 5000000 /dev/zero > scratch", ANSWER, count) == 1.0
    assert scene.score("echo 42 > answer; head -c 5000000 /dev/zero > scratch", ANSWER, COUNT, ALL, partial=True) == 1 / 3


def test_a_state_is_put_into_another_box(scene: Scene) -> None:
    """Regular files and what may be run, and without what was deleted."""
    files = {
        "/tmp/a b/run": File(b"#!/bin/sh\necho ran\n", is_program=True),
        "/tmp/work/\udcff": File(b""),
        "/tmp/link": File(None),
    }
    state = BoxState(files, ("/tmp",), frozenset({"/tmp/old", "/tmp/folder"}))

    async def found() -> bytes:
        async with scene.box() as box:
            await box.exec("mkdir /tmp/folder; echo 1 > /tmp/old; echo 2 > /tmp/folder/file")
            assert await put(box, state)
            shown = "find /tmp -mindepth 1 -not -path '*/.*' | LC_ALL=C sort"  # hidden ones belong to a full machine's system
            return (await box.exec(f"{shown}; '/tmp/a b/run'")).stdout.head

    assert scene.pool.wait(found()) == b"/tmp/a b\n/tmp/a b/run\n/tmp/work\n/tmp/work/\xff\nran\n"


def test_without_a_box_the_beginning_is_judged(scene: Scene) -> None:
    data = {"files": {"answer": "42\n"}, "setup": "wc -l < answer > lines"}
    checks = [ANSWER, COUNT, {"file": "/tmp/work/lines", "equals": "1\n"}, {"file": "/tmp/work/lines", "absent": True}]
    task = Task("1", "agent", (), data={**data, "checks": checks})
    assert scene.pool.wait(verify(task, said(None), scene, partial=True)) == 0.75
    broken = dataclasses.replace(task, data={**task.data, "setup": "echo no >&2; exit 3"})
    with pytest.raises(UserError, match="setup: 'echo no >&2; exit 3' came to nonzero: no"):
        scene.pool.wait(verify(broken, said(None), scene))


def test_a_command_that_does_not_end_is_a_wrong_state(scene: Scene) -> None:
    endless = {"run": "yes", "files": ["/tmp/work"], "wall_s": 0.5}
    assert scene.score("echo 42 > answer", endless, {**endless, "run": "sleep 1000", "exit_code": 137}, partial=True) == 0.0


def test_files_are_judged_without_any_box() -> None:
    class NoBoxes:
        def box(self) -> AbstractAsyncContextManager[Box]:
            raise AssertionError("a box was asked for")

    checks = [ANSWER, {"file": "/tmp/work/draft", "absent": True}, {"file": "/tmp/work/answer", "contains": "3"}]
    task = Task("1", "agent", (), data={"files": {"answer": "42\n"}, "checks": checks})
    for state in (None, BoxState({"/tmp/work/answer": File(b"42\n")}, ("/tmp",)), BoxState({}, too_large=True)):
        wanted = 0.0 if state is not None and state.too_large else 2 / 3
        assert asyncio.run(verify(task, said(state), NoBoxes(), partial=True)) == pytest.approx(wanted)


def test_as_a_reward_of_a_recipe() -> None:
    checks = [{"file": "/tmp/answer", "absent": True}, {"run": "cat /tmp/yes", "stdout": "yes", "files": ["/tmp"]}]
    task = Task("1", "agent", (), data={"checks": [*checks, {"file": "/tmp/answer", "equals": ""}]})
    transcript = said(BoxState({"/tmp": File(None, is_folder=True), "/tmp/yes": File(b"yes\n")}, ("/tmp",)))
    for options, wanted in (({}, 0.0), ({"partial": True}, 2 / 3)):
        scorer = Scorer([RewardSource("rewards.state:verify", 1.0, None, "verify", 120.0, options)])
        try:
            result = scorer.score(task, transcript)
        finally:
            scorer.close()
        assert result.score == pytest.approx(wanted), result.error


@pytest.mark.parametrize("kind", ["def f(box): return len({})", "async def f(box): return len(await {})"])
def test_the_box_of_a_reward_has_the_files(kind: str) -> None:
    text = kind.format("box.read_file('/tmp/a')")
    scorer = Scorer([RewardSource("m.py:f", 1.0, text, "f", 120.0)])
    try:
        results = [scorer.score(Task("1", "agent", ()), said(state)) for state in (BoxState({"/tmp/a": File(b"12345")}), None)]
    finally:
        scorer.close()
    assert results[0].score == 5.0, results[0].error
    assert "FileNotFoundError" in str(results[1].error)


def test_what_lies_beyond_a_link_is_neither_there_nor_absent() -> None:
    state = BoxState({"/tmp": File(None, is_folder=True), "/tmp/link": File(None)}, ("/tmp",))
    assert state.at("/tmp/link/answer") == File(None)
    assert state.at("/tmp/other") is None


@pytest.mark.parametrize(
    ("checks", "message"),
    [
        (None, "needs `checks`, a list; got None"),
        ([], r"needs `checks`, a list; got \[\]"),
        ([{"file": "/a", "run": "true"}], "it needs either `file` or `run`"),
        ([{"file": "/a"}], "check 1: says nothing of the file; give one of equals, contains, sha256, absent"),
        (
            [{"run": "true"}, {"file": "/a", "equal": "1"}],
            "check 2: got 'equal'; did you mean 'equals'.; allowed: file, equals",
        ),
        ([{"file": "/a", "equals": 42}], "equals: got 42; it must be of the type"),
        ([{"run": "true", "exit_code": True}], "exit_code: got True"),
        ([{"file": "a", "equals": "1"}], "got the path 'a'; it must begin with /"),
        ([{"run": "true", "files": ["a"]}], "got the path 'a'"),
        ([{"run": "true", "add": {"a": ""}}], "got the path 'a'"),
    ],
)
def test_checks_that_are_none_are_told(checks: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        checks_of(Task("1", "agent", (), data={"checks": checks}))
