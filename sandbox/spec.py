"""What a box is to be: its layer, its image, its limits, its network. Checked here, before anything starts."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum

MIN_MEMORY_BYTES = 32 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,59}")


def lifetime(*, agent_s: float, verifier_s: float, start_s: float = 60.0) -> float:
    """The `ttl_s` of a box that an agent works in until its deadline, and that a verifier then scores.

    A box whose lifetime equals the agent's deadline is gone when it is scored, and a rollout that took all its time, which
    may well be a right one, comes out as an infrastructure failure. `start_s`: what the box, and each of the two, may wait for.

    >>> lifetime(agent_s=1800, verifier_s=300)
    2160.0
    """
    for name, value in (("agent_s", agent_s), ("verifier_s", verifier_s), ("start_s", start_s)):
        if value < 0:
            raise ValueError(f"{name}: got {value}; it must be at least 0")
    return agent_s + verifier_s + start_s


def check_name(what: str, name: str) -> None:
    """Names of pools and boxes become those of folders and control groups, which are removed with all that is below them.

    >>> check_name("pool", "../logs")
    Traceback (most recent call last):
    ValueError: pool: got '../logs'; a name has at most 60 letters, digits, `_`, `.` and `-`, the first a letter or digit
    """
    if _NAME.fullmatch(name) is None:
        raise ValueError(
            f"{what}: got {name!r}; a name has at most 60 letters, digits, `_`, `.` and `-`, the first a letter or digit"
        )


def check_labels(labels: Mapping[str, str]) -> None:
    """Raises ValueError unless there are at most 16 of them, of at most 60 characters each."""
    if len(labels) > 16 or any(len(key) > 60 or len(value) > 60 for key, value in labels.items()):
        raise ValueError(f"labels: got {labels}; at most 16, names and values of at most 60 characters each")


class LayerName(StrEnum):
    """The four substrates, from the lightest to the strongest."""

    FUNCTION = "function"
    CONTAINER = "container"
    MICROVM = "microvm"
    VM = "vm"

    @classmethod
    def _missing_(cls, value: object) -> LayerName:
        raise ValueError(f"layer: got {value!r}; allowed: {', '.join(cls)}")


class Runtime(StrEnum):
    """What runs the boxes of the container layer; the others have one way each."""

    CRUN = "crun"
    RUNSC = "runsc"  # gVisor: a kernel of its own, in the host's user space
    DOCKER = "docker"  # an engine that is there already

    @classmethod
    def _missing_(cls, value: object) -> Runtime:
        raise ValueError(f"runtime: got {value!r}; allowed: {', '.join(cls)}")


@dataclass(frozen=True)
class Limits:
    """What a box, or one command in it, may use. The defaults are small on purpose: a runaway program costs little.

    >>> Limits(memory_bytes=1)
    Traceback (most recent call last):
    ValueError: memory_bytes: got 1; at least 33554432
    """

    wall_s: float = 30.0  # of one command; `exec` may say another
    cpu_s: float | None = None  # of one command and all that it starts
    memory_bytes: int = 512 << 20  # of the box
    num_pids: int = 128  # processes and threads at once
    cpus: float = 1.0  # cores' worth of time
    disk_bytes: int = 256 << 20  # that may be written
    num_files: int = 1024  # open at once in one process
    keep_bytes: int = 256 << 10  # of each output stream that a result holds: half of it from the beginning, half from the end
    output_bytes: int = 1 << 30  # that one command may write; more ends it

    def __post_init__(self) -> None:
        least = {"memory_bytes": MIN_MEMORY_BYTES, "num_pids": 4, "num_files": 16, "keep_bytes": 0, "cpus": 0.01}
        most = {"num_pids": 1 << 22, "num_files": 1 << 20, "memory_bytes": 1 << 50, "disk_bytes": 1 << 50}  # of Linux, or sense
        for name in (entry.name for entry in fields(self)):
            value = getattr(self, name)
            if name == "cpu_s" and value is None:
                continue
            if name in ("wall_s", "cpu_s", "cpus"):
                if not isinstance(value, int | float) or math.isnan(value) or (name != "wall_s" and math.isinf(value)):
                    raise ValueError(f"{name}: got {value!r}; it must be a number")
            elif not isinstance(value, int):
                raise ValueError(f"{name}: got {value!r}; it must be a whole number")
            low, high = least.get(name), most.get(name)
            if low is not None and value < low:
                raise ValueError(f"{name}: got {value}; at least {low}")
            if high is not None and value > high:
                raise ValueError(f"{name}: got {value}; at most {high}")
            if value <= 0 and low is None:
                raise ValueError(f"{name}: got {value}; it must be more than 0")


@dataclass(frozen=True)
class BoxSpec:
    """All that makes two boxes the same: a prewarmed box serves any request with an equal spec.

    >>> BoxSpec(layer=LayerName.FUNCTION).network
    ()
    """

    layer: LayerName
    image: str | None = None
    runtime: Runtime = Runtime.CRUN  # of the container layer
    limits: Limits = field(default_factory=Limits)
    network: tuple[str, ...] = ()  # host:port pairs that may be reached; none by default
    stateless: bool = False  # nothing is left of a command when it has ended, and one runs at a time: for function calls
    ttl_s: float = 3600.0  # after which the box is reclaimed, whatever it is doing

    @property
    def kind(self) -> str:
        """What a machine can or cannot: the layer, and of containers the runtime.

        >>> BoxSpec(LayerName.CONTAINER, "debian").kind
        'container (crun)'
        """
        return f"{self.layer} ({self.runtime})" if self.layer is LayerName.CONTAINER else str(self.layer)

    def __post_init__(self) -> None:
        if self.runtime is not Runtime.CRUN and self.layer is not LayerName.CONTAINER:
            raise ValueError(f"runtime: got {self.runtime} for the {self.layer} layer; the container layer alone has a choice")
        if not self.ttl_s > 0:
            raise ValueError(f"ttl_s: got {self.ttl_s}; it must be more than 0")
