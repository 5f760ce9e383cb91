"""The container layer through a Docker Engine: for machines that have one already, with its own accounting and policies.

It does not protect against: holes in the kernel, which is shared with the host; side channels; whoever may speak to the engine,
which is as good as root. Root in a box is root on the host without most of its rights, unless the engine remaps users.
Its root is read-only: /tmp and /dev/shm alone can be written, each bounded and in memory, so there is nothing for the engine to
compare, commit or fork. Its containers outlive whoever asked for them: they carry their pool's folder as a label (`collect`).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sandbox
from sandbox import mounts, seccomp
from sandbox.cgroups import Cgroup
from sandbox.errors import BoxUnavailableError, UnsupportedError
from sandbox.guest.frames import FrameError
from sandbox.images import Images
from sandbox.layers.base import AGENT_MAIN, INSIDE, Place
from sandbox.layers.container import CAPABILITIES, USER, image_of, make_points, room
from sandbox.relay import Relay
from sandbox.spec import BoxSpec

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

REPOSITORY = "polymath-sandbox"
POOL_LABEL, BOX_LABEL = "polymath.pool", "polymath.box"
MARK = "docker"  # a file in the folder of a pool that has asked an engine for containers: where that is
CALL_LIMIT_S = 60.0
GONE_LIMIT_S = 20.0
NUM_TRIES = 3  # of what the engine does not do at once on a busy machine
SAID_BYTES = 4096  # of what the container says on stderr
_CHUNK = struct.Struct(">B3xI")  # what the engine puts before each piece of a stream


def connect(url: str | None = None) -> DockerClient:
    """The engine at DOCKER_HOST, or the one of this machine.

    Raises:
        UnsupportedError: none answers, or the SDK is missing; with what to do.
    """
    try:
        import docker
    except ImportError as error:
        raise UnsupportedError("runtime: got docker, which needs the Docker SDK for Python: make env-docker") from error
    url = url or os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    try:
        client = docker.DockerClient(base_url=url, version="auto", timeout=CALL_LIMIT_S)
        client.ping()
    except (docker.errors.DockerException, OSError) as error:
        raise UnsupportedError(
            f"runtime: got docker, and no Docker Engine answers at {url}: start one (`systemctl start docker`, or `dockerd` by "
            "hand; apt-get install docker.io), or name another in DOCKER_HOST"
        ) from error
    return client


class DockerLayer:
    """Starts boxes in containers of one engine; `folder` is the pool's."""

    def __init__(self, folder: Path, images: Images) -> None:
        self.folder, self._images = folder, images
        self.engine = connect()
        (folder / MARK).write_text(os.environ.get("DOCKER_HOST", ""))
        self._importing = threading.Lock()

    async def start(self, spec: BoxSpec, place: Place, below: Sequence[Path] = ()) -> DockerBox:
        assert not below, "it takes no snapshots"
        name = image_of(spec)
        place.said.touch()
        image = await asyncio.to_thread(self._image, name)
        container = await asyncio.to_thread(self._create, spec, place, image)
        box = DockerBox(container, place)
        try:
            await box.launch()
        except BaseException as error:
            await asyncio.shield(box.destroy())
            if isinstance(error, _errors()):
                raise BoxUnavailableError(f"box {place.box_id}: the Docker Engine says: {error}") from error
            raise
        return box

    def _create(self, spec: BoxSpec, place: Place, image: str) -> Container:
        limits = spec.limits
        try:
            return self.engine.containers.create(
                image,
                ["-S", "-E", "-B", "-c", AGENT_MAIN.format(path=INSIDE), "--stream", "0,1"],
                entrypoint=["python3"],
                name=f"polymath-{place.box_id}",
                hostname="box",
                labels={POOL_LABEL: str(self.folder), BOX_LABEL: place.box_id},
                detach=False,
                stdin_open=True,  # with the end of the attachment its input ends, with that the agent, with that the container
                auto_remove=True,
                user="0:0",
                working_dir="/",
                environment={},
                network_mode="none",
                cap_drop=["ALL"],
                cap_add=[name.removeprefix("CAP_") for name in CAPABILITIES],
                security_opt=["no-new-privileges:true", f"seccomp={json.dumps(seccomp.oci())}"],
                mem_limit=limits.memory_bytes,
                memswap_limit=limits.memory_bytes,
                pids_limit=limits.num_pids,
                cpu_period=100_000,
                cpu_quota=int(limits.cpus * 100_000),
                ulimits=[_ulimit("nofile", limits.num_files), _ulimit("core", 0)],
                read_only=True,
                tmpfs={"/tmp": f"rw,exec,nosuid,nodev,mode=1777,{room(spec)}"},
                shm_size=limits.disk_bytes,
                ipc_mode="private",
                volumes={str(Path(sandbox.__file__).resolve().parent): {"bind": f"{INSIDE}/sandbox", "mode": "ro"}},
                log_config={"Type": "none"},
            )
        except _errors() as error:
            raise BoxUnavailableError(f"box {place.box_id}: the Docker Engine says: {error}") from error

    def _image(self, name: str) -> str:
        """The engine's name of an image, which it is given once for the same layers."""
        import docker

        digests = self._images.get(name).layers
        tag = hashlib.sha256("".join(digests).encode()).hexdigest()[:32]
        full = f"{REPOSITORY}:{tag}"
        with self._importing:
            with contextlib.suppress(docker.errors.ImageNotFound):
                self.engine.images.get(full)
                return full
            if os.geteuid() != 0:
                raise UnsupportedError(f"image: {name} is not in the Docker Engine yet; root is needed to put it there, once")
            self._give(digests, tag, name)
        return full

    def _give(self, digests: Sequence[str], tag: str, name: str) -> None:
        """Composes an image's layers and has the engine import the files."""
        points = make_points()
        lower = [points, *(mounts.show_image(self._images.layer(digest), digest[:16]) for digest in digests)]
        root = mounts.STAGE / f"docker-{tag}"
        root.mkdir()
        try:
            mounts.mount("overlay", root, "overlay", data=f"lowerdir={':'.join(map(str, reversed(lower)))}")
            with subprocess.Popen(["tar", "-C", str(root), "--numeric-owner", "-cf", "-", "."], stdout=subprocess.PIPE) as tar:
                changes = [f"LABEL polymath.image={json.dumps(name)}"]
                self.engine.api.import_image_from_stream(tar.stdout, repository=REPOSITORY, tag=tag, changes=changes)
            if tar.returncode:
                raise BoxUnavailableError(f"image: {name} could not be read: tar ended with {tar.returncode}")
        finally:
            mounts.leave(root)
            root.rmdir()


@dataclass
class DockerBox:
    """A container, and the relay to its agent."""

    container: Container
    place: Place
    relay: Relay | None = None
    cgroup: Cgroup | None = None
    user: tuple[int, int] = USER
    can: frozenset[str] = frozenset({"pause", "resume"})
    shares_fate: bool = False

    async def launch(self) -> None:
        stream = await asyncio.to_thread(self._attach)
        chunks = Chunks(self.place.said)
        self.relay = await Relay.over_socket(self.place.socket, stream, chunks.unwrap)
        self.relay.ended.add_done_callback(self._end)
        await asyncio.to_thread(self.container.start)
        self.cgroup = await asyncio.to_thread(self._group)

    def _attach(self) -> socket.socket:
        """The agent's stream: before the container starts, so that nothing is missed."""
        words = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
        attached = self.container.client.api.attach_socket(self.container.id, words)
        stream = socket.socket(fileno=os.dup(attached.fileno()))
        stream.setblocking(False)
        attached.close()
        return stream

    def _group(self) -> Cgroup | None:
        """Its control group, where the engine is on this machine and lets us see it."""
        self.container.reload()
        pid = self.container.attrs["State"]["Pid"]
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
                _, controllers, path = line.split(":", 2)
                if controllers in ("memory", "") and str(self.container.id) in path:
                    group = Cgroup(path)
                    return group if group.folders else None
        return None

    def _end(self, ended: asyncio.Future[str | None]) -> None:
        """A box whose agent has ended or speaks nonsense is of no use to anybody."""
        if ended.result() is not None:
            asyncio.get_running_loop().run_in_executor(None, self._remove)

    async def wait(self) -> None:
        """Returns when its stream has ended, which shows when somebody is there to see it."""
        assert self.relay is not None
        await asyncio.shield(self.relay.ended)

    async def destroy(self) -> None:
        if self.relay is not None:
            self.relay.close()
        await asyncio.to_thread(self._remove)

    def _remove(self) -> None:
        if self.cgroup is not None:
            with contextlib.suppress(OSError):
                self.cgroup.freeze(False)  # what is stopped cannot be ended
        remove(self.container)

    async def act(self, op: str, words: Mapping[str, Any]) -> dict[str, Any]:
        call = self.container.pause if op == "pause" else self.container.unpause
        for left in reversed(range(NUM_TRIES)):
            try:
                await asyncio.to_thread(call)
                break
            except _errors() as error:  # a busy machine may take longer to freeze than the engine waits
                if not left:
                    raise BoxUnavailableError(f"{op}: the Docker Engine says: {error}") from error
        return {}


class Chunks:
    """Takes the engine's headers out of an attached stream; what the container says on stderr goes to a file, to a bound."""

    def __init__(self, said: Path) -> None:
        self._said, self._room = said, SAID_BYTES
        self._head = b""
        self._kind, self._left = 1, 0

    def unwrap(self, data: bytes) -> bytes:
        """What of these bytes is the agent's.

        Raises:
            FrameError: the engine does not speak so.
        """
        out = bytearray()
        while data:
            if not self._left:
                need = _CHUNK.size - len(self._head)
                self._head, data = self._head + data[:need], data[need:]
                if len(self._head) < _CHUNK.size:
                    break
                (self._kind, self._left), self._head = _CHUNK.unpack(self._head), b""
                if self._kind not in (1, 2):
                    raise FrameError(f"a piece of a stream of kind {self._kind}")
                continue
            piece, data = data[: self._left], data[self._left :]
            self._left -= len(piece)
            if self._kind == 1:
                out += piece
            elif self._room > 0:
                with self._said.open("ab") as file:
                    file.write(piece[: self._room])
                self._room -= len(piece)
        return bytes(out)


def collect(folder: Path) -> bool:
    """Removes every container of a pool that nobody keeps; whether its engine could be asked, if it ever had one."""
    mark = folder / MARK
    if not mark.exists():
        return True
    try:
        engine = connect(mark.read_text() or None)
    except UnsupportedError:
        return False
    for container in engine.containers.list(all=True, filters={"label": f"{POOL_LABEL}={folder}"}, ignore_removed=True):
        remove(container)
    engine.close()
    return True


def remove(container: Container) -> None:
    """Ends a container; returns when it is gone.

    Raises:
        BoxUnavailableError: it is not, after a time.
    """
    import docker

    deadline = time.monotonic() + GONE_LIMIT_S
    while time.monotonic() < deadline:
        try:
            with contextlib.suppress(docker.errors.APIError):
                container.unpause()
            container.remove(force=True)
        except docker.errors.NotFound:
            return
        except docker.errors.APIError as error:
            if error.status_code != 409:  # its removal goes on already
                raise BoxUnavailableError(f"container {container.name} is not removed: {error}") from error
        time.sleep(0.02)
    raise BoxUnavailableError(f"container {container.name} is not removed within {GONE_LIMIT_S:.0f} s")


def _errors() -> tuple[type[Exception], ...]:
    import docker

    return (docker.errors.DockerException, OSError)


def _ulimit(name: str, value: int) -> Any:
    from docker.types import Ulimit

    return Ulimit(name=name, soft=value, hard=value)
