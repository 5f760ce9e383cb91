"""The container layer without a daemon: crun on an image's layers (EROFS, overlaid), its writes in memory and bounded.

It does not protect against: holes in the kernel, which it shares with the host; side channels. It needs root: the agent is the
container's root with five capabilities, and commands are an unprivileged user who cannot gain any.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import sandbox
from sandbox import cgroups, mounts, seccomp, trees
from sandbox.cgroups import Cgroup
from sandbox.errors import BoxUnavailableError, UnsupportedError
from sandbox.images import Image, Images
from sandbox.layers.base import AGENT_MAIN, INSIDE, Place, listen
from sandbox.relay import Relay
from sandbox.spec import BoxSpec, Limits

T = TypeVar("T")
CAPABILITIES = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_KILL", "CAP_SETGID", "CAP_SETUID"]
USER = (1000, 1000)
CAN = frozenset({"pause", "resume", "snapshot", "rollback", "reset", "fork", "diff", "commit"})
NAMESPACES = ("pid", "mount", "ipc", "uts", "network", "cgroup")
HIDDEN = [
    "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi",
    "/proc/sysrq-trigger", "/proc/timer_list", "/sys/devices/virtual/powercap", "/sys/firmware",
]  # fmt: skip
FIXED = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"]
STOP_LIMIT_S = 10.0
INODE_BYTES = 2048  # of `disk_bytes` for each file that may be made


class ContainerLayer:
    """Starts boxes with crun; `folder` is the pool's, in whose mount namespace the layers are mounted, once each."""

    shares_fate = False

    def __init__(self, folder: Path, images: Images, runtime: str = "crun") -> None:
        if os.geteuid() != 0:
            raise UnsupportedError("the container layer needs root for its mounts; use the function layer, or Docker")
        program = shutil.which(runtime)
        if program is None:
            raise UnsupportedError(f"the container layer needs {runtime}: apt-get install {runtime} erofs-utils")
        self.program, self.state, self._images = program, folder / runtime, images
        self.forks = folder / "forks"
        self.forks.mkdir(mode=0o700, exist_ok=True)
        self._points = make_points()
        self._life = os.pipe()  # nothing is written: that it closes tells the boxes that this process is gone
        self._users = Counter[Path]()  # living boxes by the files that they began with as forks
        if cgroups.version() == 1:
            mounts.leave(Path("/sys/fs/cgroup/unified"))  # crun takes a machine that has both for a broken one
        mounts.show(Path(sandbox.__file__).resolve().parent, "sandbox")

    async def start(self, spec: BoxSpec, place: Place, below: Sequence[Path] = ()) -> ContainerBox:
        digests = self._images.get(image_of(spec)).layers
        lower = [self._points, *(self._layer(digest) for digest in digests)]
        self._users.update(below)
        box = ContainerBox(self, spec, place, lower, below, digests, Cgroup(place.box_id), shares_fate=self.shares_fate)
        try:
            await asyncio.to_thread(box.prepare)
            await box.launch()
        except BaseException:
            await box.destroy()
            raise
        return box

    def group_limits(self, limits: Limits) -> Limits:
        """What the box's control group allows."""
        return limits

    async def run(self, spec: BoxSpec, place: Place, group: Cgroup) -> tuple[asyncio.subprocess.Process, Relay | None]:
        """The runtime on the root that is composed at the place, and what relays to its agent; it ends with the container."""
        place.socket.unlink(missing_ok=True)
        listener = listen(place.socket)
        given = listener.fileno(), self._life[0]
        agent = ["--listen", str(given[0]), "--life", str(given[1])]  # crun does not end with its keeper
        try:
            words = [
                "--root", str(self.state), "--cgroup-manager=disabled", "run", f"--preserve-fds={max(given) - 2}",
                "--bundle", self.bundle(self.config(spec, place, agent), place), place.box_id,
            ]  # fmt: skip
            with place.said.open("wb") as said:
                return await asyncio.create_subprocess_exec(
                    self.program, *words,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=said,
                    pass_fds=given,
                    preexec_fn=enter(group),
                ), None  # fmt: skip
        finally:
            listener.close()

    def bundle(self, config: Mapping[str, Any], place: Place) -> str:
        """Where the runtime finds what it is to run."""
        (place.folder / "config.json").write_text(json.dumps(config))
        return str(place.folder)

    def keep(self, name: str, box: ContainerBox) -> Image:
        """What the box has now as an image."""
        return self._images.add(name, [*box.below, box.upper], f"box {box.place.box_id} on {box.spec.image}", box.digests)

    def leave(self, below: Sequence[Path]) -> None:
        """A box that began with these files is gone; with the last one they go."""
        for folder in below:
            self._users[folder] -= 1
            if not self._users[folder]:
                trees.remove(folder)

    def _layer(self, digest: str) -> Path:
        """The mounted layer; its pages are shared by all boxes."""
        return mounts.show_image(self._images.layer(digest), digest[:16])

    def config(self, spec: BoxSpec, place: Place, agent: Sequence[str]) -> dict[str, Any]:
        """As the OCI runtime specification has it; `agent` are the agent's arguments."""
        limits = spec.limits
        main = AGENT_MAIN.format(path=INSIDE)
        capabilities = dict.fromkeys(("bounding", "effective", "permitted"), CAPABILITIES)
        return {
            "ociVersion": "1.0.2",
            "hostname": "box",
            "root": {"path": str(place.folder / "root"), "readonly": False},
            "process": {
                "user": {"uid": 0, "gid": 0},
                "args": ["python3", "-S", "-E", "-B", "-c", main, *agent],
                "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "cwd": "/",
                "noNewPrivileges": True,
                "capabilities": capabilities,
                "rlimits": [
                    {"type": "RLIMIT_NOFILE", "soft": limits.num_files, "hard": limits.num_files},
                    {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
                ],
            },
            "mounts": [
                kernel_mount("/proc", "proc", "nosuid", "noexec", "nodev"),
                kernel_mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
                kernel_mount("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"),
                kernel_mount("/dev/shm", "tmpfs", "nosuid", "nodev", "noexec", "mode=1777", *room(spec).split(",")),
                {
                    "destination": f"{INSIDE}/sandbox",
                    "type": "bind",
                    "source": str(mounts.STAGE / "sandbox"),
                    "options": ["bind", "ro", "nosuid", "nodev"],
                },
            ],
            "linux": {
                "namespaces": [{"type": kind} for kind in NAMESPACES],
                "maskedPaths": HIDDEN,
                "readonlyPaths": FIXED,
                "seccomp": seccomp.oci(),
            },
        }


def image_of(spec: BoxSpec) -> str:
    """The name of a container's image.

    Raises:
        UnsupportedError: it has none, or is to be what no container is.
    """
    if spec.image is None:
        raise UnsupportedError("image: got None; the container layer needs one: `polymath sandbox image list`")
    if spec.stateless:
        raise UnsupportedError("stateless: a box of the container layer keeps its files; use the function layer")
    return spec.image


def make_points() -> Path:
    """A layer for below every image: the folders that something is mounted on, which else a box would have made itself."""
    points = mounts.STAGE / "points"
    for name in ("proc", "dev", "sys", "tmp", f"{INSIDE[1:]}/sandbox"):
        (points / name).mkdir(parents=True, exist_ok=True)
    return points


def kernel_mount(target: str, kind: str, *options: str) -> dict[str, Any]:
    return {"destination": target, "type": kind, "source": kind, "options": list(options)}


def room(spec: BoxSpec) -> str:
    """So many bytes at most, and files, each of which takes a kilobyte of the kernel's memory whatever is in it."""
    return f"size={spec.limits.disk_bytes},nr_inodes={max(1024, spec.limits.disk_bytes // INODE_BYTES)}"


def enter(group: Cgroup) -> Callable[[], None]:
    def place_in_group() -> None:
        group.add(os.getpid())

    return place_in_group


@dataclass
class ContainerBox:
    """A box and its files: layers below that nobody writes to, what it has written above, snapshots of that beside it."""

    layer: ContainerLayer
    spec: BoxSpec
    place: Place
    image: Sequence[Path]  # its layers
    below: Sequence[Path]  # what it has from the box that it was forked from
    digests: Sequence[str]  # of the image's layers
    cgroup: Cgroup
    user: tuple[int, int] = USER
    can: frozenset[str] = CAN
    shares_fate: bool = False
    process: asyncio.subprocess.Process | None = None
    relay: Relay | None = None
    paused: bool = False
    restarting: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def lower(self) -> Sequence[Path]:
        return [*self.image, *self.below]

    @property
    def upper(self) -> Path:
        return self.place.folder / "writes" / "upper"

    def prepare(self) -> None:
        """Room for what it writes: memory, bounded."""
        self.cgroup.create(self.layer.group_limits(self.spec.limits))
        for name in ("writes", "root", "snapshots"):
            (self.place.folder / name).mkdir(mode=0o700)  # a box may leave setuid programs in what is kept of it
        mounts.mount("tmpfs", self.upper.parent, "tmpfs", data=f"{room(self.spec)},mode=755")
        self.upper.mkdir(mode=0o755)

    async def launch(self) -> None:
        """Puts the layers together and starts the agent on them."""
        work = self.upper.with_name("work")
        await asyncio.to_thread(trees.remove, work)
        work.mkdir()
        lower = ":".join(str(layer) for layer in reversed(self.lower))
        options = f"lowerdir={lower},upperdir={self.upper},workdir={work}"
        mounts.mount("overlay", self.place.folder / "root", "overlay", data=options)
        self.process, self.relay = await self.layer.run(self.spec, self.place, self.cgroup)

    async def halt(self) -> None:
        """Ends all of its processes; its files stay."""
        if self.relay is not None:
            self.relay.close()
        await asyncio.to_thread(self.cgroup.kill)
        if self.process is not None:
            try:
                async with asyncio.timeout(STOP_LIMIT_S):
                    await self.process.wait()
            except TimeoutError:
                raise BoxUnavailableError(f"the runtime of box {self.place.box_id} does not end") from None
        mounts.leave(self.place.folder / "root")
        await asyncio.to_thread(shutil.rmtree, self.layer.state / self.place.box_id, ignore_errors=True)

    async def wait(self) -> None:
        ended = None
        while ended is not self.process:
            ended = self.process
            assert ended is not None
            await ended.wait()
            async with self.restarting:
                pass  # a rollback has ended it, and starts another

    async def destroy(self) -> None:
        try:
            await self.halt()
        finally:
            await asyncio.to_thread(self.cgroup.destroy)
        mounts.leave(self.upper.parent)
        await asyncio.to_thread(self.layer.leave, self.below)

    async def act(self, op: str, words: Mapping[str, Any]) -> dict[str, Any]:
        if op in ("pause", "resume"):
            self.paused = op == "pause"
            await asyncio.to_thread(self.cgroup.freeze, self.paused)
        elif op == "snapshot":
            await self._frozen(lambda: trees.copy(self.upper, self.place.snapshot(words["snapshot"])))
        elif op == "rollback":
            await self._roll_back(self.place.taken(words["snapshot"]))
        elif op == "reset":
            await self._reset()
        elif op == "diff":
            return {"changes": await self._frozen(lambda: trees.changes(self.upper, self.lower))}
        elif op == "commit":
            image = await self._frozen(lambda: self.layer.keep(words["name"], self))
            return {"layers": list(image.layers)}
        elif op == "fork":
            copy = self.layer.forks / str(next(_forks))
            await self._frozen(lambda: trees.copy(self.upper, copy))
            return {"below": [*self.below, copy]}
        return {}

    async def _frozen(self, read: Callable[[], T]) -> T:
        """What `read` makes of the files while nothing in the box changes them."""
        await asyncio.to_thread(self.cgroup.freeze, True)
        try:
            return await asyncio.to_thread(read)
        finally:
            if not self.paused:
                self.cgroup.freeze(False)

    async def _roll_back(self, snapshot: Path) -> None:
        async with self.restarting:
            await self.halt()
            await asyncio.to_thread(trees.remove, self.upper)
            await asyncio.to_thread(trees.copy, snapshot, self.upper)
            await self.launch()

    async def _reset(self) -> None:
        """Starts it anew on its image; what it has written, and snapshots of that, are gone.

        Raises:
            BoxUnavailableError: something of it is left, so that nobody may have it.
        """
        async with self.restarting:
            await self.halt()
            for folder in (self.upper, self.place.folder / "snapshots"):
                await asyncio.to_thread(trees.remove, folder)
                folder.mkdir(mode=0o755)
            await asyncio.to_thread(self.layer.leave, self.below)
            self.below, self.paused = (), False
            if (left := list(self.cgroup.processes())) or any(self.upper.iterdir()):
                raise BoxUnavailableError(f"box {self.place.box_id} has processes or files left: {left}")
            await self.launch()


_forks = itertools.count()
