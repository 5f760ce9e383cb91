"""The function layer: bubblewrap around the host's own Python. No root, no daemon, no image.

It does not protect against: holes in the kernel, which it shares with the host (user namespaces included); side channels;
a reader of what every user of the host may read below /usr. Where it is not started by root there are no control groups, so
memory is limited for each process alone (`num_pids` times as much in all), and the processor's time not at all.
"""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sandbox
from sandbox import bwrap, cgroups, mounts, seccomp
from sandbox.agent import Agent
from sandbox.cgroups import Cgroup
from sandbox.errors import BoxUnavailableError, UnsupportedError
from sandbox.layers.base import AGENT_MAIN, INSIDE, Place, listen
from sandbox.spec import BoxSpec

GUEST_UID = 65534
FILES = ("/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime", "/etc/ssl/certs")
TEXTS = {  # what programs look up their user and their own host in
    "/etc/passwd": "nobody:x:65534:65534:nobody:/tmp:/bin/sh\n",
    "/etc/group": "nogroup:x:65534:\n",
    "/etc/hosts": "127.0.0.1 localhost box\n",
}
STOP_LIMIT_S = 5.0


class FunctionLayer:
    """Starts boxes in bubblewrap. As root it shows them the interpreter at a place of its own, since its home may be hidden."""

    def __init__(self) -> None:
        program = shutil.which("bwrap")
        if program is None:
            raise UnsupportedError("the function layer needs bubblewrap: apt-get install bubblewrap")
        self._program, self._is_root = program, os.geteuid() == 0
        self._python = Path(sys.base_prefix), Path(os.path.realpath(sys.executable))
        self._package = Path(sandbox.__file__).resolve().parent
        if self._is_root:
            for name, source in (("python", self._python[0]), ("sandbox", self._package)):
                mounts.show(source, name)

    async def start(self, spec: BoxSpec, place: Place, below: Sequence[Path] = ()) -> FunctionBox:
        assert not below, "it takes no snapshots"
        if spec.image is not None:
            raise UnsupportedError(f"image: got {spec.image!r}; the function layer has the host's /usr and no images")
        group = Cgroup(place.box_id) if self._is_root and cgroups.version() else None
        if group is not None:
            group.create(spec.limits)
        listener = listen(place.socket)
        rules = bwrap.in_memory(seccomp.program())
        texts = {path: bwrap.in_memory(text.encode()) for path, text in TEXTS.items()}
        try:
            with place.said.open("wb") as said:
                process = await asyncio.create_subprocess_exec(
                    *self._command(spec, place, listener.fileno(), rules, texts),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=said,
                    pass_fds=(listener.fileno(), rules, *texts.values()),
                    env={},
                    preexec_fn=_before(spec, group, unprivileged=not self._is_root),
                )
        finally:
            listener.close()
            for fd in (rules, *texts.values()):
                os.close(fd)
        return FunctionBox(process, group, None if spec.stateless else place.socket)

    def _command(self, spec: BoxSpec, place: Place, listener: int, rules: int, texts: Mapping[str, int]) -> Sequence[str]:
        """`rules` and `texts`: descriptors of what bubblewrap reads."""
        prefix, executable = self._python
        python, package = (mounts.STAGE / "python", mounts.STAGE / "sandbox") if self._is_root else (prefix, self._package)
        inside = executable if executable.is_relative_to("/usr") else Path(INSIDE, "python", executable.relative_to(prefix))
        words = [self._program, *bwrap.ALONE, *bwrap.shown((*bwrap.FOLDERS, *FILES))]
        for path, fd in texts.items():
            words += ["--perms", "0644", "--ro-bind-data", str(fd), path]
        if not executable.is_relative_to("/usr"):
            words += ["--ro-bind", str(python), f"{INSIDE}/python"]
        words += ["--ro-bind", str(package), f"{INSIDE}/sandbox"]
        words += ["--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys", "--dev", "/dev"]
        disk = str(spec.limits.disk_bytes)
        for folder in ("/tmp", "/dev/shm"):
            words += ["--size", disk, "--tmpfs", folder]
        words += ["--dir", "/tmp/work", "--remount-ro", "/dev", "--remount-ro", "/"]
        words += ["--uid", str(GUEST_UID), "--gid", str(GUEST_UID), "--cap-drop", "ALL", "--hostname", "box"]
        words += ["--seccomp", str(rules), "--clearenv", "--chdir", "/tmp", "--"]
        words += [str(inside), "-S", "-E", "-B", "-c", AGENT_MAIN.format(path=INSIDE), "--listen", str(listener)]
        words += ["--scratch", "/tmp", "--scratch", "/dev/shm", *(["--stateless"] if spec.stateless else [])]
        return [*bwrap.as_user_of(place.number), *words] if self._is_root else words


def _before(spec: BoxSpec, group: Cgroup | None, *, unprivileged: bool) -> Callable[[], None]:
    """Runs in the forked process, before bubblewrap."""

    def enter() -> None:
        if group is not None:
            group.add(os.getpid())
        limits = spec.limits
        resource.setrlimit(resource.RLIMIT_NOFILE, (limits.num_files, limits.num_files))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if unprivileged or group is None:
            resource.setrlimit(resource.RLIMIT_DATA, (limits.memory_bytes, limits.memory_bytes))

    return enter


@dataclass(frozen=True)
class FunctionBox:
    process: asyncio.subprocess.Process
    cgroup: Cgroup | None
    socket: Path | None  # of its agent, where that can make it as new
    user: None = None
    shares_fate: bool = False

    @property
    def can(self) -> frozenset[str]:
        able = {"pause", "resume"} if self.cgroup is not None else set[str]()
        return frozenset(able | ({"reset"} if self.socket is not None else set()))

    async def act(self, op: str, words: Mapping[str, Any]) -> dict[str, Any]:
        if self.cgroup is not None:  # what is to be made as new must run for that
            await asyncio.to_thread(self.cgroup.freeze, op == "pause")
        if op == "reset":
            await self._reset()
        return {}

    async def _reset(self) -> None:
        """By its agent, which no command has a path to: starting another box takes ten times as long."""
        assert self.socket is not None, "it can do that"
        agent = await Agent.connect(self.socket)
        try:
            async with asyncio.timeout(STOP_LIMIT_S):
                await agent.ask({"op": "scrub", "id": 1})
        except TimeoutError:
            raise BoxUnavailableError(f"a box's agent has not made it as new within {STOP_LIMIT_S:.0f} s") from None
        finally:
            agent.close()

    async def wait(self) -> None:
        await self.process.wait()

    async def destroy(self) -> None:
        if self.process.returncode is None:
            self.process.kill()  # the namespace's first process goes with it, and so all of them
        if self.cgroup is not None:
            await asyncio.to_thread(self.cgroup.destroy)
        try:
            async with asyncio.timeout(STOP_LIMIT_S):
                await self.process.wait()
        except TimeoutError:
            raise BoxUnavailableError(f"process {self.process.pid} of a box could not be ended") from None
