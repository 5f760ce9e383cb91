"""What an agent's box holds when its work is over, as a plain value: scoring then needs neither that box nor its node.

`take` ends what runs in the box and reads it, as the agent's own user and without following links; `put` makes a fresh box
hold the same. `prepare` is how an agent's box begins. Made by `rl/tools/session.py`, judged by `rewards.state` and by users'
rewards.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rewards.errors import UserError
from rewards.task import Task
from sandbox.box import Box
from sandbox.errors import BoxUnavailableError, UnsupportedError
from sandbox.result import Result, Verdict

WORK = "/tmp/work"  # where an agent's commands begin, and relative paths lead from
WRITABLE = ("/tmp", "/var/tmp", "/dev/shm")  # on every layer, where they are there
MAX_BYTES = 4 << 20  # of all files of a state
MAX_PATHS = 20_000  # that a box has changed outside of WRITABLE
ROUNDS = 4  # of ending what runs; one is enough where nothing starts processes again
ROUND_S = 0.05
READ_S = 120.0  # for files to be read or written, on a machine that is overloaded


@dataclass(frozen=True)
class File:
    """What is at a path of the agent's box."""

    data: bytes | None  # None: a folder, a link, a device, or what the agent's user may not read
    is_program: bool = False
    is_folder: bool = False  # one that could be looked into


@dataclass(frozen=True)
class BoxState:
    """The files that an agent has written or changed, and with them all others of the folders that it may write to.

    >>> state = BoxState({"/tmp/work/answer": File(b"42")}, covered=("/tmp",))
    >>> state.knows("/tmp/work/answer"), state.knows("/tmp/none"), state.knows("/usr/bin/python3")
    (True, True, False)
    """

    files: Mapping[str, File]
    covered: tuple[str, ...] = ()  # paths of which all is in `files`, what is below them too: what is not there does not exist
    deleted: frozenset[str] = frozenset()  # of the image's files
    too_large: bool = False  # more than MAX_BYTES: `files` are those that the task's checks name
    still_runs: bool = False  # what the agent had started could not be ended, and may change anything: `files` is empty

    def knows(self, path: str) -> bool:
        """Whether the state says what is at a path. Of others the image says it, where all was taken."""
        return path in self.files or any(is_below(path, above) for above in (*self.covered, *self.deleted))

    def at(self, path: str) -> File | None:
        """What is at a path that the state knows; None: nothing. Beyond a link is something, but no file."""
        parts = path.split("/")
        for end in range(2, len(parts)):
            above = self.files.get("/".join(parts[:end]))
            if above is not None and not above.is_folder:
                return File(None)
        return self.files.get(path)

    def below(self, paths: Iterable[str]) -> dict[str, File]:
        """The files at these paths and below them."""
        paths = tuple(paths)
        return {path: file for path, file in self.files.items() if any(is_below(path, above) for above in paths)}


def is_below(path: str, above: str) -> bool:
    """Whether a path is another one, or leads on from it.

    >>> is_below("/tmp/a", "/tmp"), is_below("/tmpfile", "/tmp")
    (True, False)
    """
    return path == above or path.startswith(f"{above.rstrip('/')}/")


def files_of(task: Task) -> dict[str, bytes]:
    """The files that an agent finds in its box, by whole path: the task's column `files`, {path: text}.

    Raises:
        UserError: that is something else.
    """
    given = task.data.get("files", {})
    if not isinstance(given, Mapping) or not all(isinstance(part, str) for entry in given.items() for part in entry):
        raise UserError(f"task {task.id!r}: files: got {given!r:.200}; it must be a mapping of paths to texts")
    return {path if path.startswith("/") else f"{WORK}/{path}": text.encode() for path, text in given.items()}


async def prepare(box: Box, task: Task) -> None:
    """Makes a fresh box what the task's agent begins with: the column `files`, then the shell command `setup`, run in WORK.

    Raises:
        UserError: the task's columns are something else, or the command fails. SandboxError: the box was lost.
    """
    setup = task.data.get("setup")
    if setup is not None and not isinstance(setup, str):
        raise UserError(f"task {task.id!r}: setup: got {setup!r:.200}; it must be a shell command")
    files = files_of(task)
    if not await _write(box, {path: File(data) for path, data in files.items()}, ()):
        raise UserError(f"task {task.id!r}: files: {', '.join(files)!s:.300} cannot be written in a box of its layer")
    if setup is None:
        return
    done = await box.exec(setup, cwd=WORK)
    if not done.ok:
        said = (done.stderr.text.strip() or done.stdout.text.strip())[-2000:]
        problem = f"task {task.id!r}: setup: {setup!r:.200} came to {done.verdict}: {said}"
        if done.verdict is Verdict.NONZERO:
            raise UserError(problem)
        raise BoxUnavailableError(problem)  # of time, memory or processes there may be enough in the next one


async def take(box: Box, wanted: Sequence[str] = ()) -> BoxState:
    """Ends all that runs in the box, and reads what it holds. `wanted`: paths to keep where all is too large.

    Raises:
        SandboxError: the box was lost.
    """
    if not await end_what_runs(box):
        return BoxState({}, still_runs=True)  # it may change anything at any time
    changed, deleted = await _changed(box)
    outside = [path for path in changed if not any(is_below(path, above) for above in WRITABLE)]
    if len(outside) <= MAX_PATHS and (files := await read(box, [*WRITABLE, *outside])) is not None:
        return BoxState(files, WRITABLE, frozenset(deleted))
    kept, covered = dict[str, File](), list[str]()
    for path in dict.fromkeys(wanted):
        found = await read(box, [path])
        if found is not None and _size(kept) + _size(found) <= MAX_BYTES:
            kept |= found
            covered.append(path)
    return BoxState(kept, tuple(covered), frozenset(deleted), too_large=True)


async def put(box: Box, state: BoxState, paths: Sequence[str] | None = None) -> bool:
    """Gives a fresh box the state's files, or those at `paths` and below them; whether all of them could be written.

    They come as regular files. Raises:
        SandboxError: the box was lost.
    """
    files = state.files if paths is None else state.below(paths)
    gone = [path for path in state.deleted if paths is None or any(is_below(path, above) for above in paths)]
    return await _write(box, {path: file for path, file in files.items() if file.data is not None}, gone)


async def read(box: Box, paths: Sequence[str]) -> dict[str, File] | None:
    """What is at these paths, and in these folders, by path; None where it is more than may be taken.

    Raises:
        SandboxError: the box was lost, or its machine is so slow that this is not known.
    """
    called = await box.python(_read, list(paths), MAX_BYTES, wall_s=READ_S)
    _expect_in_time(called.result, "read")
    if not called.result.ok or not isinstance(called.value, dict):
        return None
    return {
        path: File(None if text is None else base64.b64decode(text), is_program=kind == "program", is_folder=kind == "folder")
        for path, (kind, text) in called.value.items()
    }


async def end_what_runs(box: Box) -> bool:
    """Ends every process of the user that commands run as; whether none is left.

    Functions are called in a fork of the box's agent: no program or library of the box has a part in it.
    """
    for number in range(ROUNDS + 1):
        called = await box.python(_running)
        if called.result.ok and called.value == []:
            return True
        if not called.result.ok:  # there are as many processes as there may be: none can be started to end the others
            await box.end_commands()
        await asyncio.sleep(number * ROUND_S)
        await box.python(_end_all)  # ends the call as well, on layers where its supervisor is the same user
    return False


async def _changed(box: Box) -> tuple[list[str], list[str]]:
    """What the box has written or changed, and deleted, of its image; nothing on layers that cannot say it."""
    try:
        changes = await box.diff()
    except UnsupportedError:
        return [], []
    except ValueError:  # folders nested deeper than paths are long; those below WRITABLE are read by themselves
        return [], []
    return [path for kind, path in changes if kind != "deleted"], [path for kind, path in changes if kind == "deleted"]


def _size(files: Mapping[str, File]) -> int:
    return sum(len(file.data or b"") for file in files.values())


async def _write(box: Box, files: Mapping[str, File], gone: Sequence[str]) -> bool:
    """In one call, which also makes WORK."""
    entries = {path: [base64.b64encode(file.data or b"").decode(), file.is_program] for path, file in files.items()}
    called = await box.python(_write_files, WORK, entries, list(gone), wall_s=READ_S)
    _expect_in_time(called.result, "written")
    return called.result.ok


def _expect_in_time(result: Result, done: str) -> None:
    """Nothing of the agent's runs by then, and sizes are bounded: what takes so long is the machine's fault."""
    if result.verdict is Verdict.WALL_TIMEOUT:
        raise BoxUnavailableError(f"the box's files could not be {done} within {READ_S:g} s")


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


def _read(paths: list[str], max_bytes: int) -> dict[str, tuple[str, str | None]] | None:
    """What is there, and all below folders: its kind, and a regular file's bytes in base64. None if that is too much."""
    import base64
    import os
    import stat

    found: dict[str, tuple[str, str | None]] = {}
    waiting = [path for path in paths if os.path.lexists(path)]
    while waiting:
        path = waiting.pop()
        found[path] = "other", None
        if len(found) > 50_000:
            return None
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError:  # a link, or not readable
            continue
        mode = os.fstat(fd).st_mode
        if stat.S_ISDIR(mode):
            found[path] = "folder", None
            waiting += [os.path.join(path, name) for name in os.listdir(fd)]
        if stat.S_ISREG(mode):
            with open(fd, "rb", closefd=False) as file:
                data = file.read(max_bytes + 1)
            max_bytes -= len(data)
            if max_bytes < 0:
                return None
            found[path] = "program" if mode & 0o100 else "file", base64.b64encode(data).decode()
        os.close(fd)
    return found


def _write_files(work: str, entries: dict[str, list], gone: list[str]) -> None:  # type: ignore[type-arg]  # as the box has it
    import base64
    import os
    import shutil

    os.makedirs(work, exist_ok=True)
    for path in gone:
        shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.remove(path)
    for path, (text, is_program) in entries.items():
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(base64.b64decode(text))
        os.chmod(path, 0o755 if is_program else 0o644)
