"""The container layer on gVisor (`runsc`): the same images, files and limits, and a kernel between programs and the host's.

It does not protect against: holes in gVisor; side channels. It is another kernel, and shows it. Memory and processes are
limited for the box as a whole, and a program that asks for too much of them may take its box with it: that command gets its
verdict, later ones a lost box. System calls and starts of programs are slow. Debian 12 has a version of 2022, in which
coreutils' `ls` and `stat` of files fail.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sandbox.cgroups import Cgroup
from sandbox.images import Images
from sandbox.layers.base import Place
from sandbox.layers.container import ContainerLayer, enter
from sandbox.relay import Relay
from sandbox.spec import BoxSpec, Limits

KERNEL_BYTES = 64 << 20  # that gVisor takes for itself
THREADS_EACH, KERNEL_THREADS = 4, 256  # on the host, for each of the box's, and for gVisor itself


class GVisorLayer(ContainerLayer):
    """Starts boxes with runsc, whose agent speaks over pipes: no socket of the host's leads into such a box."""

    shares_fate = True

    def __init__(self, folder: Path, images: Images) -> None:
        super().__init__(folder, images, "runsc")

    def group_limits(self, limits: Limits) -> Limits:
        return replace(
            limits,
            memory_bytes=limits.memory_bytes + KERNEL_BYTES,
            num_pids=limits.num_pids * THREADS_EACH + KERNEL_THREADS,
        )

    async def run(self, spec: BoxSpec, place: Place, group: Cgroup) -> tuple[asyncio.subprocess.Process, Relay | None]:
        words = [
            "--root", str(self.state / place.box_id), "--platform=ptrace", "--network=none", "--ignore-cgroups", "--cgroupfs",
            "--file-access-mounts=exclusive", "--oci-seccomp", "run",
            "--bundle", self.bundle(self.config(spec, place, ["--stream", "0,1"]), place), place.box_id,
        ]  # fmt: skip
        theirs, writes = os.pipe()
        reads, ours = os.pipe()
        try:
            with place.said.open("wb") as said:
                process = await asyncio.create_subprocess_exec(
                    self.program, *words, stdin=theirs, stdout=ours, stderr=said, preexec_fn=enter(group)
                )
        except BaseException:
            for fd in (reads, writes):
                os.close(fd)
            raise
        finally:
            for fd in (theirs, ours):
                os.close(fd)
        relay = await Relay.over_pipes(place.socket, reads, writes)
        relay.ended.add_done_callback(lambda ended: _end(group, ended))
        return process, relay

    def config(self, spec: BoxSpec, place: Place, agent: Sequence[str]) -> dict[str, Any]:
        config = super().config(spec, place, agent)
        for mount in config["mounts"]:  # it does not know this bound; what it holds counts as the box's memory
            mount["options"] = [option for option in mount["options"] if not option.startswith("nr_inodes=")]
        config["mounts"].append(
            {"destination": "/tmp", "type": "bind", "source": str(place.folder / "root/tmp"), "options": ["rw"]}
        )  # else it puts a file system of its own there, without a bound
        spaces = [space for space in config["linux"]["namespaces"] if space["type"] != "cgroup"]
        config["linux"] = {"namespaces": spaces, "seccomp": config["linux"]["seccomp"]}
        return config


def _end(group: Cgroup, ended: asyncio.Future[str | None]) -> None:
    """A box whose agent has ended or speaks nonsense is of no use to anybody."""
    if ended.result() is not None:
        asyncio.get_running_loop().run_in_executor(None, group.kill)
