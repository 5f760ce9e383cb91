"""What people use where there are no boxes, measured as boxes are: a process, bubblewrap, crun, Docker, SWE-ReX."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import multiprocessing
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median

from sandbox import mounts
from sandbox.errors import BoxUnavailableError

CALL = "def f(x): return x + 1"
PYTHON_CALL = [sys.executable, "-c", f"{CALL}\nprint(f(1))"]
SUBPROCESS, BWRAP, CRUN, DOCKER = (
    "`subprocess.run([python, -c])`", "bare `bwrap ... true`", "bare `crun run` of `true`", "`docker run --rm ... true`",
)  # fmt: skip
START_LIMIT_S = 30.0


async def seconds(run: Callable[[], Awaitable[object]], count: int = 1) -> float:
    """The median time of so many runs, or of what they return where that is a number."""
    times = list[float]()
    for _ in range(count):
        start = time.monotonic()
        took = await run()
        times.append(took if isinstance(took, float) else time.monotonic() - start)
    return median(times)


Measured = dict[str, float]  # seconds by the columns of the table (`recipes/sandbox_bench.py`)


def peers() -> Iterator[tuple[str, Callable[[int], Measured]]]:
    """Each that is on this machine, and what measures it, given a number of repeats."""
    yield SUBPROCESS, lambda repeats: {"call": _run(PYTHON_CALL, repeats)}
    if bwrap := shutil.which("bwrap"):
        yield BWRAP, lambda repeats: {"cold": _run(_bare_bwrap(bwrap), repeats)}
    if (crun := shutil.which("crun")) and os.geteuid() == 0:
        yield CRUN, lambda repeats: _bare_crun(crun, repeats)
    if (docker := shutil.which("docker")) and (image := _docker_image(docker)):
        words = [docker, "run", "--rm", "--network", "none", "--entrypoint", "true", image]
        yield DOCKER, lambda repeats: {"cold": _run(words, max(3, repeats // 4))}
    if importlib.util.find_spec("swerex") is not None:
        yield "SWE-ReX, its server on this machine (no box)", lambda repeats: asyncio.run(_swerex(repeats))


def _bare_bwrap(bwrap: str) -> list[str]:
    words = [bwrap, "--unshare-all", "--ro-bind", "/usr", "/usr"]
    for name in ("/bin", "/lib", "/lib64"):
        words += ["--symlink", os.readlink(name), name] if os.path.islink(name) else ["--ro-bind-try", name, name]
    return [*words, "true"]


def _bare_crun(crun: str, repeats: int) -> Measured:
    """In another process, whose mounts are its own."""
    with _bundle(crun) as bundle, ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
        words = [crun, "--cgroup-manager=disabled", "run", "--bundle", str(bundle), f"bench-{os.getpid()}"]
        return {"cold": executor.submit(_run, words, repeats, own_mounts=True).result()}


@contextlib.contextmanager
def _bundle(crun: str) -> Iterator[Path]:
    """What bare crun runs `true` from: the host's /usr, with the namespaces and mounts of its own example."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder)
        subprocess.run([crun, "spec"], cwd=bundle, check=True)
        config = json.loads((bundle / "config.json").read_text())
        config["process"] |= {"terminal": False, "args": ["true"]}
        config["root"] = {"path": "root", "readonly": True}
        config["mounts"] = [mount for mount in config["mounts"] if mount["type"] != "cgroup"]
        del config["linux"]["resources"]  # it manages no control groups here
        for path in ("/usr", "/bin", "/lib", "/lib64"):
            target = bundle / "root" / path[1:]
            target.parent.mkdir(exist_ok=True)
            if os.path.islink(path):
                target.symlink_to(os.readlink(path))
            elif os.path.isdir(path):
                target.mkdir()
                config["mounts"].append({"destination": path, "source": path, "type": "bind", "options": ["rbind", "ro"]})
        for mount in config["mounts"]:
            (bundle / "root" / mount["destination"][1:]).mkdir(parents=True, exist_ok=True)
        (bundle / "config.json").write_text(json.dumps(config))
        yield bundle


def _docker_image(docker: str) -> str | None:
    """Any that its engine has."""
    done = subprocess.run([docker, "images", "-q"], capture_output=True, text=True, check=False)
    return next(iter(done.stdout.split()), None)


async def _swerex(repeats: int) -> Measured:
    """From its start to its first answer; then commands through it, as a client of its containers sends them."""
    from swerex.runtime.abstract import Command
    from swerex.runtime.remote import RemoteRuntime

    token = secrets.token_hex()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [sys.executable, "-m", "swerex", "--host", "127.0.0.1", "--port", str(port), "--auth-token", token]
    start = time.monotonic()
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            client = RemoteRuntime(auth_token=token, port=port, timeout=5.0)
            while not await client.is_alive():
                if server.poll() is not None or time.monotonic() - start > START_LIMIT_S:
                    raise BoxUnavailableError("SWE-ReX: its server did not start")
                await asyncio.sleep(0.01)
            cold = time.monotonic() - start
            command = await seconds(lambda: client.execute(Command(command=["true"], check=True)), repeats)
            call = await seconds(lambda: client.execute(Command(command=PYTHON_CALL, check=True)), repeats)
        finally:
            server.terminate()
    return {"cold": cold, "command": command, "call": call}


def _run(words: Sequence[str], count: int, *, own_mounts: bool = False) -> float:
    if own_mounts:
        mounts.own_namespace()
        mounts.leave(Path("/sys/fs/cgroup/unified"))  # crun takes a machine that has both for a broken one
    times = []
    for _ in range(count):
        start = time.monotonic()
        done = subprocess.run(words, capture_output=True, check=False)
        times.append(time.monotonic() - start)
        if done.returncode:
            raise BoxUnavailableError(f"{' '.join(words)}: {done.stderr.decode(errors='replace')[-300:]}")
    return median(times)
