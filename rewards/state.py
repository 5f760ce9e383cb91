"""Agent success: whether a box is in the state that a task asks for, judged where the agent has no hand in it.

What the agent left running is ended first. Files are read as the agent's own user and links are not followed; commands run as
root, or in a fresh box that gets only the files to be judged. They are not for running the agent's own program, whose exit code
and output they would believe: programs are judged by `rewards.code`. Recipes name this one `rewards.state:verify`.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from rewards.errors import UserError
from rewards.parameters import nearest
from rewards.task import Task
from sandbox.box import Box
from sandbox.errors import UnsupportedError
from sandbox.result import Result

MAX_BYTES = 4 << 20  # of all files that one check looks at
ROUNDS = 3  # of ending what runs; one is enough where nothing starts processes again
ROUND_S = 0.05


class FreshBoxes(Protocol):
    """Where boxes come from that nobody has used, such as `rewards.boxes.Boxes`."""

    def box(self) -> AbstractAsyncContextManager[Box]: ...


@dataclass(frozen=True)
class File:
    """What is at a path of the agent's box."""

    data: bytes | None  # None: a link, a folder, a device, or what the agent's user may not read
    is_program: bool = False


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
    """What a command must come to: as root in the agent's box, or with `files` as its usual user in a fresh one.

    >>> RunCheck("id -u", stdout="0").files
    ()
    """

    run: str
    exit_code: int = 0
    stdout: str | None = None  # all of it, but for line ends after it
    contains: str | None = None  # what it must contain
    files: tuple[str, ...] = ()  # of the agent's box, or folders: all that the fresh box gets
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


async def verify(task: Task, box: Box, boxes: FreshBoxes, partial: bool = False) -> float:
    """1.0 where every one of `task.data["checks"]` holds in `box`, else 0.0; the share that holds where `partial`.

    Raises:
        UserError: the task's checks are none, or a command without `files` is for a box that has a single user.
        SandboxError: a box was lost, or could not be had.
    """
    return await judge(checks_of(task), box, boxes, partial=partial)


async def judge(checks: Sequence[Check], box: Box, boxes: FreshBoxes, *, partial: bool = False) -> float:
    """The same for checks."""
    if not await end_what_runs(box):
        return 0.0  # whose processes cannot be ended may change anything at any time
    held = [await _holds(check, box, boxes) for check in checks]
    return sum(held) / len(held) if partial else float(all(held))


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


async def end_what_runs(box: Box) -> bool:
    """Ends every process of the user that commands run as; whether none is left.

    Functions are called in a fork of the box's agent: no program or library of the box has a part in it.
    """
    for number in range(ROUNDS):
        await asyncio.sleep(number * ROUND_S)
        await box.python(_end_all)  # ends the call as well, on layers where its supervisor is the same user
        called = await box.python(_running)
        if called.result.ok and called.value == []:
            return True
    return False


async def _holds(check: Check, box: Box, boxes: FreshBoxes) -> bool:
    if isinstance(check, FileCheck):
        files = await _taken(box, [check.file])
        return files is not None and check.holds(files.get(check.file))
    if not check.files:
        try:
            ran = await box.exec(check.run, user="root", cwd="/", env={"HOME": "/root"}, wall_s=check.wall_s)
        except UnsupportedError as error:
            raise UserError(f"the command {check.run!r}: {error}; give it `files`, then it runs in a fresh box") from None
        return check.holds(ran)
    files = await _taken(box, check.files)
    if files is None:
        return False
    async with boxes.box() as fresh:
        for path, file in [*files.items(), *((path, File(text.encode())) for path, text in check.add.items())]:
            if file.data is not None:
                await fresh.write_file(path, file.data, mode=0o755 if file.is_program else 0o644)
        # Neither the folder nor the home that programs look into holds a file of the agent.
        return check.holds(await fresh.exec(check.run, cwd="/", env={"HOME": "/nonexistent"}, wall_s=check.wall_s))


async def _taken(box: Box, paths: Sequence[str]) -> dict[str, File] | None:
    """What is at these paths, and in these folders, by path; None where it is more than may be looked at."""
    called = await box.python(_read, list(paths), MAX_BYTES)
    if not called.result.ok or not isinstance(called.value, dict):
        return None
    return {
        path: File(None if text is None else base64.b64decode(text), is_program)
        for path, (text, is_program) in called.value.items()
    }


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
        return RunCheck(**{**entry, "files": tuple(entry.get("files", ()))})
    if len(entry) == 1:
        raise UserError(f"{where}: says nothing of the file; give one of {', '.join(list(types)[1:])}")
    return FileCheck(**entry)


_FILE_TYPES: dict[str, Any] = {"file": str, "equals": str, "contains": str, "sha256": str, "absent": bool}
_RUN_TYPES: dict[str, Any] = {
    "run": str, "exit_code": int, "stdout": str, "contains": str, "files": list | tuple, "add": Mapping, "wall_s": int | float,
}  # fmt: skip


# What runs in the box, each alone.


def _end_all() -> None:
    import os
    import signal

    os.kill(-1, signal.SIGKILL)  # in one step for the kernel: no process that starts others meanwhile is left out


def _running() -> list[int]:
    """Processes of this user, but for this one, what supervises it, and the box's first."""
    import os

    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) in (1, os.getpid(), os.getppid()):
            continue
        try:
            if os.stat(f"/proc/{name}").st_uid != os.getuid():
                continue
            with open(f"/proc/{name}/stat", "rb") as file:
                state = file.read().rpartition(b")")[2].split()[0]
        except OSError:  # it has just ended
            continue
        if state not in (b"Z", b"X"):
            found.append(int(name))
    return found


def _read(paths: list[str], max_bytes: int) -> dict[str, tuple[str | None, bool]] | None:
    """What is there, and below folders: a regular file's bytes in base64, and whether it may be run; None if too large."""
    import base64
    import os
    import stat

    def files(path: str) -> list[str]:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            return [path]
        return [path, *(os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names)]

    found: dict[str, tuple[str | None, bool]] = {}
    left = max_bytes
    for start in paths:
        try:
            inside = files(start)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            inside = [start]
        for path in inside:
            found[path] = None, False
            try:
                fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY)
            except OSError:  # a link, or not readable
                continue
            mode = os.fstat(fd).st_mode
            if not stat.S_ISREG(mode):
                os.close(fd)
                continue
            with open(fd, "rb") as file:
                data = file.read(left + 1)
            left -= len(data)
            if left < 0:
                return None
            found[path] = base64.b64encode(data).decode(), bool(mode & 0o100)
    return found
