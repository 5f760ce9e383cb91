"""The kinds of boxes that this machine can test, and what `create` is told to get one.

A new layer is one more entry of LAYERS and of NEEDS, and, where its name is not what `create` takes, a case in `words`.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sandbox.errors import UnsupportedError
from sandbox.images import Images
from sandbox.layers import docker

LAYERS = ("function", "crun", "runsc", "docker", "microvm", "vm")  # the container layer by its runtimes
IMAGE = (("mkfs.erofs", "mmdebstrap"), "erofs-utils mmdebstrap")
NEEDS = {
    "function": (("bwrap",), "bubblewrap"),
    "crun": (("crun", *IMAGE[0]), f"crun {IMAGE[1]}"),
    "runsc": (("runsc", *IMAGE[0]), f"runsc {IMAGE[1]}"),
    "docker": (("docker", "dockerd", *IMAGE[0]), f"docker.io {IMAGE[1]}"),
    "microvm": (("qemu-system-x86_64", *IMAGE[0]), f"qemu-system-x86 {IMAGE[1]}"),
    "vm": (("qemu-system-x86_64", *IMAGE[0]), f"qemu-system-x86 {IMAGE[1]}"),
}


def lacking(layer: str) -> str | None:
    """What this machine lacks for a layer, in words; None where it has all."""
    has_engine = "DOCKER_HOST" in os.environ or Path("/var/run/docker.sock").exists()
    if layer == "docker" and not (has_engine and importlib.util.find_spec("docker")):
        return "needs a Docker Engine and its SDK: apt-get install docker.io; make env-docker"
    programs, packages = NEEDS[layer]
    if layer != "function" and os.geteuid() != 0:
        return f"{layer} needs root"
    return None if all(map(shutil.which, programs)) else f"needs: apt-get install {packages}"


def build_debian(home: Path) -> str:
    """The name of an image with Python, and with systemd, which full machines need; built once below a home, whoever asks."""
    images = Images(home / "images")
    with (home / "debian.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if "debian" not in [image.name for image in images.all()]:
            images.build("debian", "debian-vm")
    return "debian"


def words(layer: str, home: Path) -> dict[str, Any]:
    """The keywords of `create`; builds the image below `home` where the layer needs one and it is not there."""
    if layer == "function":
        return {"layer": layer}
    build_debian(home)
    if layer in ("microvm", "vm"):
        return {"layer": layer, "image": "debian"}
    return {"layer": "container", "runtime": layer, "image": "debian"}


@contextlib.contextmanager
def engine() -> Iterator[str | None]:
    """Where a Docker Engine answers: the one that is there, or one of our own meanwhile; None where there can be none."""
    try:
        docker.connect().close()
        yield os.environ.get("DOCKER_HOST", "")
        return
    except UnsupportedError:
        pass
    if os.geteuid() != 0 or importlib.util.find_spec("docker") is None or shutil.which("dockerd") is None:
        yield None
        return
    with _dockerd(Path(tempfile.mkdtemp(prefix="dk", dir="/tmp"))) as url:
        yield url


@contextlib.contextmanager
def _dockerd(folder: Path) -> Iterator[str]:
    """An engine with its own socket and data and no network."""
    url = f"unix://{folder}/socket"
    command = [
        "dockerd", "-H", url, "--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec", "-p", f"{folder}/pid",
        "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false", "--bridge=none",
    ]  # fmt: skip
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        os.environ["DOCKER_HOST"] = url
        try:
            deadline = time.monotonic() + 120
            while True:
                with contextlib.suppress(UnsupportedError):
                    docker.connect().close()
                    break
                assert time.monotonic() < deadline, (folder / "log").read_text()[-2000:]
                time.sleep(0.05)
            yield url
        finally:
            del os.environ["DOCKER_HOST"]
            process.terminate()
            process.wait(30)
            shutil.rmtree(folder, ignore_errors=True)
