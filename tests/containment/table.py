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
OWN = "of the kernel that this box has for itself, and of nothing of the host's"
BEHIND = "held by what runs the box's kernel, from outside of it, to serve the box's own files"
FATE = "the box goes with it, and nobody can tell why: it is lost, which is never a reward"
COUNT = "by the count of the box's own kernel; the host's limit holds for the whole box"
ENGINE = "the engine mounts it, read-only"
LAYERS = ("function", "crun", "runsc", "docker", "microvm", "vm")
OPEN: dict[tuple[str, str], str] = {  # (layer, probe): why
    **{(layer, "agent: a value forged from inside the function"): INSIDE for layer in LAYERS},
    **{
        (layer, "agent: output forged by an earlier command"): ONE_USER
        for layer in ("function", "crun", "docker", "microvm", "vm")
    },
    **{(layer, "agent: descriptors that lead outside"): BEHIND for layer in ("runsc", "microvm", "vm")},
    **{(layer, "agent: ended for want of memory"): FATE for layer in ("runsc", "docker")},
    ("crun", "the host's paths in its mounts"): PATHS,
    ("crun", "file watches that all boxes share"): SHARED,
    ("docker", "the control groups' file system"): ENGINE,
    **{
        ("runsc", name): OWN
        for name in (
            "a lower score for the memory killer",
            "descriptors of other processes",
            "devices that are there",
            "environment, stack and links of processes that are not its own",
            "get_robust_list of a process that is not its own",
            "the control groups' file system",
        )
    },
    ("runsc", "processor time"): COUNT,
    **{
        ("vm", name): OWN
        for name in (
            "a full /dev/shm",
            "a new user namespace by clone",
            "a new user namespace by clone3",
            "a new user namespace by unshare",
            "audit",
            "call: add_key",
            "call: fanotify",
            "call: io_uring",
            "call: keyctl",
            "call: request_key",
            "calls by the 32-bit entry",
            "move_pages of a process that is not its own",
            "news of the host's devices",
            "priority of all processes of its user",
            "read: firmware",
            "read: security keys",
            "sockets that are listed",
            "the control groups' file system",
            "write: anything below /proc/sys and /sys",
            "write: ns_last_pid",
        )
    },
}
BY_CHANCE = {("microvm", "agent: output forged by an earlier command")}  # open, but not at every attempt
assert len({probe.name for probe in PROBES}) == len(PROBES), "names are unique"
