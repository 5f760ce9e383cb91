"""All probes in one list, and what is open on a layer and why that is borne."""

from __future__ import annotations

from tests.containment import agent, bombs, files, kernel, processes, sockets

PROBES = [*files.PROBES, *processes.PROBES, *sockets.PROBES, *kernel.PROBES, *bombs.PROBES, *agent.PROBES]
ONE_USER = "all commands of a box are one user: judge in a box of its own, or after a rollback, which ends what was left"
INSIDE = "code in a function's own process can answer for it: run what is judged as a command of its own, and judge outside"
PATHS = "names only: the folders themselves are not there"
SHARED = (
    "boxes of this layer are the same user to the kernel: a limit that it keeps for each user, such as on file watches, is "
    "shared by them; the function layer has a user for each box"
)
LAYERS = ("function", "crun")  # on which all is declared; the others run by name: python -m tests.containment runsc
OPEN: dict[tuple[str, str], str] = {  # (layer, probe): why
    ("function", "agent: output forged by an earlier command"): ONE_USER,
    ("function", "agent: a value forged from inside the function"): INSIDE,
    ("crun", "agent: output forged by an earlier command"): ONE_USER,
    ("crun", "agent: a value forged from inside the function"): INSIDE,
    ("crun", "the host's paths in its mounts"): PATHS,
    ("crun", "file watches that all boxes share"): SHARED,
}
assert len({probe.name for probe in PROBES}) == len(PROBES), "names are unique"
