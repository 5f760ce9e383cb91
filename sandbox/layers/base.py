"""What the keeper needs of a layer, and what is common to starting an agent on this machine."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sandbox.agent import short_path
from sandbox.cgroups import Cgroup
from sandbox.spec import BoxSpec

AGENT_MAIN = "import sys; sys.path[0] = {path!r}; from sandbox.guest.main import main; main()"  # in place of the current folder
INSIDE = "/.polymath"  # where a box has the agent's code
SOCKET_NAME = "agent"
SNAPSHOT = re.compile(r"s[0-9]{1,9}")


@dataclass(frozen=True)
class Place:
    """Where a box keeps what it has on this machine: a folder of its own, and a number that no other living box has."""

    box_id: str
    number: int
    folder: Path

    @property
    def socket(self) -> Path:
        return self.folder / SOCKET_NAME

    @property
    def said(self) -> Path:
        """What the box, or what runs it, has printed where it did not come up."""
        return self.folder / "stderr"

    def snapshot(self, name: str) -> Path:
        """The folder of a snapshot.

        Raises:
            ValueError: the name is none that a box gives (`sandbox/box.py`).
        """
        if not SNAPSHOT.fullmatch(name):
            raise ValueError(f"snapshot: got {name!r}; write a name that `snapshot` of this box has given")
        return self.folder / "snapshots" / name

    def taken(self, name: str) -> Path:
        """As `snapshot`, of one that is there.

        Raises:
            ValueError: it is not.
        """
        folder = self.snapshot(name)
        if not folder.is_dir():
            raise ValueError(f"snapshot: got {name!r}, which this box has not taken")
        return folder


class Running(Protocol):
    """A started box, its agent listening on the socket of its place; `can` names what else it takes."""

    @property
    def can(self) -> frozenset[str]: ...

    @property
    def cgroup(self) -> Cgroup | None: ...

    @property
    def user(self) -> tuple[int, int] | None:
        """Who commands run as, user and group; None where the agent itself is nobody else."""

    @property
    def shares_fate(self) -> bool:
        """A program that takes more memory or processes than there are takes the box with it."""

    async def wait(self) -> None:
        """Returns when the box has ended by itself."""

    async def destroy(self) -> None:
        """Ends it and removes all that it had on this machine, but for its folder."""

    async def act(self, op: str, words: Mapping[str, Any]) -> dict[str, Any]:
        """Does one of what it `can`, and gives what there is to say of it."""


class Layer(Protocol):
    async def start(self, spec: BoxSpec, place: Place, below: Sequence[Path] = ()) -> Running:
        """A box whose agent takes connections; `below`: the files that it begins with beyond its image's, where it is a fork.

        Raises:
            BoxUnavailableError: it did not come up. UnsupportedError: this layer cannot be what the spec asks for.
        """


def listen(path: Path) -> socket.socket:
    """A listening socket at this path, whatever its length; its descriptor is for the agent."""
    with short_path(path) as short:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(short)
        listener.listen(16)
    return listener
