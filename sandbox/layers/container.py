"""The container layer without a daemon: crun on an image's layers (EROFS, overlaid), its writes in memory and bounded.

It does not protect against: holes in the kernel, which it shares with the host; side channels. It needs root: the agent is the
container's root with five capabilities, and commands are an unprivileged user who cannot gain any.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sandbox
from sandbox import cgroups, mounts, seccomp
from sandbox.cgroups import Cgroup
from sandbox.errors import BoxUnavailableError, UnsupportedError
from sandbox.images import Images
from sandbox.layers.base import AGENT_MAIN, INSIDE, Place, listen
from sandbox.spec import BoxSpec

CAPABILITIES = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_KILL", "CAP_SETGID", "CAP_SETUID"]
USER = (1000, 1000)
NAMESPACES = ("pid", "mount", "ipc", "uts", "network", "cgroup")
HIDDEN = [
    "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi",
    "/proc/sysrq-trigger", "/proc/timer_list", "/sys/devices/virtual/powercap", "/sys/firmware",
]  # fmt: skip
FIXED = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"]
STOP_LIMIT_S = 10.0


class ContainerLayer:
    """Starts boxes with crun; `folder` is the pool's, in whose mount namespace the layers are mounted, once each."""

    def __init__(self, folder: Path, images: Images) -> None:
        if os.geteuid() != 0:
            raise UnsupportedError("the container layer needs root for its mounts; use the function layer, or Docker")
        crun = shutil.which("crun")
        if crun is None:
            raise UnsupportedError("the container layer needs crun: apt-get install crun erofs-utils")
        self._crun, self._images, self._folder = crun, images, folder
        self._mounted: dict[str, Path] = {}
        if cgroups.version() == 1:
            mounts.leave("/sys/fs/cgroup/unified")  # crun takes a machine that has both for a broken one
        mounts.show(Path(sandbox.__file__).resolve().parent, "sandbox")

    async def start(self, spec: BoxSpec, place: Place) -> ContainerBox:
        if spec.image is None:
            raise UnsupportedError("image: got None; the container layer needs one: `polymath sandbox image list`")
        if spec.network:
            raise UnsupportedError("network: got an allow-list; not built yet")
        layers = [self._layer(digest) for digest in self._images.get(spec.image).layers]
        root = await asyncio.to_thread(self._compose, layers, spec, place)
        group = Cgroup(place.box_id)
        group.create(spec.limits)
        listener = listen(place.socket)
        (place.folder / "config.json").write_text(json.dumps(self._config(spec, root, listener.fileno())))
        box = ContainerBox(self._crun, self._folder / "crun", place, group)
        try:
            box.process = await asyncio.create_subprocess_exec(
                self._crun, "--root", str(box.state), "--cgroup-manager=disabled", "run",
                f"--preserve-fds={listener.fileno() - 2}", "--bundle", str(place.folder), place.box_id,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=(place.folder / "stderr").open("wb"),
                pass_fds=(listener.fileno(),),
                preexec_fn=_enter(group),
            )  # fmt: skip
        except BaseException:
            await box.destroy()
            raise
        finally:
            listener.close()
        return box

    def _layer(self, digest: str) -> Path:
        """The mounted layer; its pages are shared by all boxes."""
        if digest not in self._mounted:
            target = mounts.STAGE / digest[:16]
            target.mkdir(parents=True)
            mounts.mount_image(self._images.layer(digest), target)
            self._mounted[digest] = target
        return self._mounted[digest]

    def _compose(self, layers: list[Path], spec: BoxSpec, place: Place) -> Path:
        """The layers below, a bounded memory file system above."""
        writes, root = place.folder / "writes", place.folder / "root"
        for folder in (writes, root):
            folder.mkdir()
        mounts.mount("tmpfs", writes, "tmpfs", data=f"size={spec.limits.disk_bytes},mode=755")
        for name in ("upper", "work"):
            (writes / name).mkdir(mode=0o755)
        lower = ":".join(str(layer) for layer in reversed(layers))
        mounts.mount("overlay", root, "overlay", data=f"lowerdir={lower},upperdir={writes}/upper,workdir={writes}/work")
        return root

    def _config(self, spec: BoxSpec, root: Path, listener: int) -> dict[str, Any]:
        limits = spec.limits
        main = AGENT_MAIN.format(path=INSIDE)
        capabilities = dict.fromkeys(("bounding", "effective", "permitted"), CAPABILITIES)
        return {
            "ociVersion": "1.0.2",
            "hostname": "box",
            "root": {"path": str(root), "readonly": False},
            "process": {
                "user": {"uid": 0, "gid": 0},
                "args": ["python3", "-S", "-E", "-B", "-c", main, "--listen", str(listener)],
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
                _mount("/proc", "proc", "nosuid", "noexec", "nodev"),
                _mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
                _mount("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"),
                _mount("/dev/shm", "tmpfs", "nosuid", "nodev", "noexec", "mode=1777", f"size={limits.disk_bytes}"),
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


def _mount(target: str, kind: str, *options: str) -> dict[str, Any]:
    return {"destination": target, "type": kind, "source": kind, "options": list(options)}


def _enter(group: Cgroup) -> Callable[[], None]:
    def enter() -> None:
        group.add(os.getpid())

    return enter


@dataclass
class ContainerBox:
    crun: str
    state: Path
    place: Place
    cgroup: Cgroup
    user: tuple[int, int] = USER
    process: asyncio.subprocess.Process | None = field(default=None)

    async def wait(self) -> None:
        assert self.process is not None
        await self.process.wait()

    async def destroy(self) -> None:
        await asyncio.to_thread(self.cgroup.destroy)
        if self.process is not None:
            try:
                async with asyncio.timeout(STOP_LIMIT_S):
                    await self.process.wait()
            except TimeoutError:
                raise BoxUnavailableError(f"crun of box {self.place.box_id} does not end") from None
        for name in ("root", "writes"):
            mounts.unmount(self.place.folder / name)
        await asyncio.to_thread(shutil.rmtree, self.state / self.place.box_id, ignore_errors=True)
