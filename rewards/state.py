"""Agent success: whether an agent left its box in the state that a task asks for, judged where the agent has no hand in it.

What it left is a value (`rewards/box_state.py`): files are compared here, commands run in a fresh box that gets them. They are
not for running the agent's own program, whose exit code and output they would believe: programs are judged by `rewards.code`.
Recipes name this one `rewards.state:verify`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from rewards.box_state import WORK, BoxState, File, files_of, prepare, put, read, take
from rewards.errors import UserError
from rewards.parameters import nearest
from rewards.task import Task
from rewards.transcript import Transcript
from sandbox.box import Box
from sandbox.result import Result


class FreshBoxes(Protocol):
    """Where boxes come from that nobody has used, such as `rewards.boxes.Boxes`."""

    def box(self) -> AbstractAsyncContextManager[Box]: ...


@dataclass(frozen=True)
class FileCheck:
    """What a regular file must be. A link is none, wherever it leads.

    >>> FileCheck("/tmp/answer.txt", equals="42\\n").holds(File(b"42\\n"))
    True
    """

    file: str
    equals: str | None = None
    contains: str | None = None
    sha256: str | None = None  # of its bytes, in hexadecimal
    absent: bool = False  # whether nothing may be there

    def holds(self, found: File | None) -> bool:
        """`found`: what is there; None where nothing is."""
        if self.absent or found is None or found.data is None:
            return self.absent and found is None
        return (
            (self.equals is None or found.data == self.equals.encode())
            and (self.contains is None or self.contains.encode() in found.data)
            and (self.sha256 is None or hashlib.sha256(found.data).hexdigest() == self.sha256.lower())
        )


@dataclass(frozen=True)
class RunCheck:
    """What a command must come to, as the usual user of a fresh box that gets the agent's files.

    >>> RunCheck("wc -l < /tmp/work/answer", stdout="1").files is None
    True
    """

    run: str
    exit_code: int = 0
    stdout: str | None = None  # all of it, but for line ends after it
    contains: str | None = None  # what it must contain
    files: tuple[str, ...] | None = None  # those of the agent, or folders, that the fresh box gets; None: all
    add: Mapping[str, str] = field(default_factory=dict)  # files that it gets after those, by path: tests, expected output
    wall_s: float | None = None  # None: as the box's limits say

    def holds(self, result: Result) -> bool:
        out = result.stdout
        return (
            result.exit_code == self.exit_code
            and (self.stdout is None or (not out.cut and out.text.rstrip("\n") == self.stdout.rstrip("\n")))
            and (self.contains is None or self.contains in out.text)
        )


Check = FileCheck | RunCheck


async def verify(task: Task, transcript: Transcript, boxes: FreshBoxes, partial: bool = False) -> float:
    """1.0 where every one of `task.data["checks"]` holds, else 0.0; the share that holds where `partial`.

    A rollout that used no box has left what the task's agents begin with.

    Raises:
        UserError: the task's checks are none. SandboxError: a box was lost, or could not be had.
    """
    checks, state = checks_of(task), transcript.box_state
    return await judge(checks, state or await _begun(task, boxes), boxes, partial=partial)


async def judge(checks: Sequence[Check], state: BoxState, boxes: FreshBoxes, *, partial: bool = False) -> float:
    """The same for checks and a state."""
    if state.still_runs:
        return 0.0
    held = [await _holds(check, state, boxes) for check in checks]
    return sum(held) / len(held) if partial else float(all(held))


def looked_at(task: Task) -> tuple[str, ...]:
    """The paths that the task's checks name; none where it has no checks, or they want all that there is.

    >>> looked_at(Task("1", "agent", (), data={"checks": [{"file": "/a", "absent": True}, {"run": "true", "files": ["/b"]}]}))
    ('/a', '/b')
    """
    try:
        checks = checks_of(task)
    except UserError:  # it is judged by another reward, whose column may have the same name
        return ()
    return tuple(path for check in checks for path in ([check.file] if isinstance(check, FileCheck) else check.files or ()))


def checks_of(task: Task) -> list[Check]:
    """The checks of a task, in order.

    >>> checks_of(Task("1", "agent", (), data={"checks": [{"file": "/tmp/a", "equals": "1"}, {"run": "true"}]}))[1].run
    'true'

    Raises:
        UserError: there are none, or one of them says nothing, or what is not known.
    """
    given = task.data.get("checks")
    if not isinstance(given, list | tuple) or not given:
        raise UserError(f"task {task.id!r}: rewards.state:verify needs `checks`, a list; got {given!r:.200}")
    return [_check(entry, f"task {task.id!r}, check {number}") for number, entry in enumerate(given, 1)]


async def _begun(task: Task, boxes: FreshBoxes) -> BoxState:
    """What an agent's box holds at first."""
    if task.data.get("setup") is None:
        return BoxState({path: File(data) for path, data in files_of(task).items()}, covered=(WORK,))
    async with boxes.box() as box:
        await prepare(box, task)
        return await take(box, looked_at(task))


async def _holds(check: Check, state: BoxState, boxes: FreshBoxes) -> bool:
    if isinstance(check, FileCheck):
        if state.knows(check.file):
            return check.holds(state.at(check.file))
        if state.too_large:
            return False
        async with boxes.box() as fresh:  # a file that is as the image has it
            found = await read(fresh, [check.file])
        return found is not None and check.holds(found.get(check.file))
    if state.too_large and not (check.files is not None and all(map(state.knows, check.files))):
        return False
    async with boxes.box() as fresh:
        if not await put(fresh, state, check.files):
            return False
        for path, text in check.add.items():
            await fresh.write_file(path, text.encode())
        # Neither the folder nor the home that programs look into holds a file of the agent.
        return check.holds(await fresh.exec(check.run, cwd="/", env={"HOME": "/nonexistent"}, wall_s=check.wall_s))


def _check(entry: Any, where: str) -> Check:
    if not isinstance(entry, Mapping) or ("file" in entry) == ("run" in entry):
        raise UserError(f"{where}: got {entry!r:.200}; it needs either `file` or `run`")
    types = _FILE_TYPES if "file" in entry else _RUN_TYPES
    for key, value in entry.items():
        if key not in types:
            raise UserError(f"{where}: got {key!r}{nearest(str(key), types)}; allowed: {', '.join(types)}")
        if not isinstance(value, types[key]) or isinstance(value, bool) != (types[key] is bool):
            raise UserError(f"{where}: {key}: got {value!r:.200}; it must be of the type {types[key]}")
    for path in (entry.get("file", "/"), *entry.get("files", ()), *entry.get("add", ())):
        if not isinstance(path, str) or not path.startswith("/"):
            raise UserError(f"{where}: got the path {path!r:.200}; it must begin with /")
    if "run" in entry:
        return RunCheck(**{**entry, **({"files": tuple(entry["files"])} if "files" in entry else {})})
    if len(entry) == 1:
        raise UserError(f"{where}: says nothing of the file; give one of {', '.join(list(types)[1:])}")
    return FileCheck(**entry)


_FILE_TYPES: dict[str, Any] = {"file": str, "equals": str, "contains": str, "sha256": str, "absent": bool}
_RUN_TYPES: dict[str, Any] = {
    "run": str, "exit_code": int, "stdout": str, "contains": str, "files": list | tuple, "add": Mapping, "wall_s": int | float,
}  # fmt: skip
