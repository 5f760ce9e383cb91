"""The system calls that no program in a box needs and that kernels were broken through: refused, one table for all layers.

`program` is the filter as the kernel takes it (for bubblewrap); `oci` is the same table for an OCI runtime's configuration.
"""

from __future__ import annotations

import platform
import struct
from typing import Any

EPERM, ENOSYS, EAFNOSUPPORT = 1, 38, 97
# name: numbers on x86_64 and aarch64; None where that one has no such call
DENIED: dict[str, tuple[int | None, int | None]] = {
    "acct": (163, 89), "add_key": (248, 217), "adjtimex": (159, 171), "bpf": (321, 280), "chroot": (161, 51),
    "clock_adjtime": (305, 266), "clock_settime": (227, 112), "delete_module": (176, 106), "fanotify_init": (300, 262),
    "finit_module": (313, 273), "fsconfig": (431, 431), "fsmount": (432, 432), "fsopen": (430, 430), "fspick": (433, 433),
    "init_module": (175, 105), "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "io_uring_setup": (425, 425),
    "ioperm": (173, None), "iopl": (172, None), "kcmp": (312, 272), "kexec_file_load": (320, 294), "kexec_load": (246, 104),
    "keyctl": (250, 219), "lookup_dcookie": (212, 18), "memfd_secret": (447, 447), "modify_ldt": (154, None),
    "mount": (165, 40), "mount_setattr": (442, 442), "move_mount": (429, 429), "move_pages": (279, 239), "mq_open": (240, 180),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "open_tree": (428, 428), "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438), "pivot_root": (155, 41), "process_madvise": (440, 440), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "ptrace": (101, 117), "quotactl": (179, 60), "quotactl_fd": (443, 443),
    "reboot": (169, 142), "request_key": (249, 218), "setdomainname": (171, 162), "sethostname": (170, 161),
    "setns": (308, 268), "settimeofday": (164, 170), "swapoff": (168, 225), "swapon": (167, 224), "syslog": (103, 116),
    "umount2": (166, 39), "unshare": (272, 97), "userfaultfd": (323, 282), "uselib": (134, None), "vhangup": (153, 58),
}  # fmt: skip
FAMILIES = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10, "AF_NETLINK": 16}  # of sockets; the network namespace holds these
NETLINK = FAMILIES["AF_NETLINK"]  # of which only protocol 0 is left, routes: others tell of the host's devices and its audit
ONLY_ITSELF = {  # arguments that must be 0, for itself: in the function layer the agent is of the commands' user
    "prlimit64": (0,), "sched_setattr": (0,), "sched_setparam": (0,), "sched_setscheduler": (0,), "setpriority": (0, 1),
}  # fmt: skip
CLONE_NEW_ANYTHING = 0x7E020080  # every namespace flag; clone3 hides its flags, and programs fall back where it is missing
TIOCSTI, TIOCLINUX = 0x5412, 0x541C  # would type into the terminal that the box was started from
_ARCHES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_CALLS = {
    "clone": (56, 220), "clone3": (435, 435), "ioctl": (16, 29), "prlimit64": (302, 261), "sched_setattr": (314, 274),
    "sched_setparam": (142, 118), "sched_setscheduler": (144, 119), "setpriority": (141, 140), "socket": (41, 198),
    "socketpair": (53, 199),
}  # fmt: skip
_LOAD, _JEQ, _JGE, _JSET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCH, _FIRST, _SECOND, _THIRD = 0, 4, 16, 24, 32  # offsets in the kernel's seccomp_data; low halves of the arguments
_LOW_HALF = 0xFFFFFFFF  # the kernel takes no more of these arguments: a filter that looks at more is walked around


def program(machine: str = platform.machine()) -> bytes:
    """The filter in the kernel's form, an array of `struct sock_filter`.

    Raises:
        KeyError: no table for this machine's architecture.
    """
    column, arch = _ARCHES[machine]
    numbers = {name: pair[column] for name, pair in _CALLS.items()}
    code = [(_LOAD, 0, 0, _ARCH), (_JEQ, 1, 0, arch), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, _NUMBER)]
    if machine == "x86_64":
        code += _refuse((_JGE, 0x40000000), EPERM)  # the x32 numbers of the same calls
    for pair in DENIED.values():
        if (number := pair[column]) is not None:
            code += _refuse((_JEQ, number), EPERM)
    code += _refuse((_JEQ, numbers["clone3"]), ENOSYS)
    code += _on(numbers["clone"], [(_LOAD, 0, 0, _FIRST), *_refuse((_JSET, CLONE_NEW_ANYTHING), EPERM)])
    code += _on(
        numbers["ioctl"], [(_LOAD, 0, 0, _SECOND), *_refuse((_JEQ, TIOCSTI), EPERM), *_refuse((_JEQ, TIOCLINUX), EPERM)]
    )
    for name, places in ONLY_ITSELF.items():
        code += _on(numbers[name], [step for place in places for step in _only_zero(_FIRST + 8 * place, EPERM)])
    allowed = [(_JEQ, len(FAMILIES) - i, 0, family) for i, family in enumerate(FAMILIES.values())]
    family = [(_LOAD, 0, 0, _FIRST), *allowed, (_RETURN, 0, 0, _ERRNO | EAFNOSUPPORT)]
    protocol = [(_JEQ, 0, 3, NETLINK), *_only_zero(_THIRD, EAFNOSUPPORT)]
    for name in ("socket", "socketpair"):
        code += _on(numbers[name], [*family, *protocol])
    code.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in code)


def _refuse(test: tuple[int, int], errno: int) -> list[tuple[int, int, int, int]]:
    """Where what was loaded passes the test, the call fails with this error."""
    return [(test[0], 0, 1, test[1]), (_RETURN, 0, 0, _ERRNO | errno)]


def _only_zero(place: int, errno: int) -> list[tuple[int, int, int, int]]:
    """Any other argument fails with this error."""
    return [(_LOAD, 0, 0, place), (_JEQ, 1, 0, 0), (_RETURN, 0, 0, _ERRNO | errno)]


def _on(number: int, then: list[tuple[int, int, int, int]]) -> list[tuple[int, int, int, int]]:
    """For one call look at its arguments; what is not refused there is allowed."""
    return [(_JEQ, 0, len(then) + 1, number), *then, (_RETURN, 0, 0, _ALLOW)]


def oci() -> dict[str, Any]:
    """The same table in an OCI runtime's terms, for the architecture that it runs on."""
    refused = {"action": "SCMP_ACT_ERRNO", "errnoRet": EPERM}
    rules: list[dict[str, Any]] = [
        {**refused, "names": sorted(DENIED)},
        {**refused, "names": ["clone3"], "errnoRet": ENOSYS},
    ]
    for flag in (1 << bit for bit in range(32) if CLONE_NEW_ANYTHING & 1 << bit):
        masked = {"index": 0, "value": flag, "valueTwo": flag, "op": "SCMP_CMP_MASKED_EQ"}
        rules.append({**refused, "names": ["clone"], "args": [masked]})
    for request in (TIOCSTI, TIOCLINUX):
        rules.append({**refused, "names": ["ioctl"], "args": [_low_half(1, request)]})
    for name, places in ONLY_ITSELF.items():
        rules += [{**refused, "names": [name], "args": [_not_zero(place)]} for place in places]
    calls = {**refused, "names": ["socket", "socketpair"], "errnoRet": EAFNOSUPPORT}
    other = [family for family in range(64) if family not in FAMILIES.values()]
    rules += [{**calls, "args": [_low_half(0, family)]} for family in other]
    rules.append({**calls, "args": [_low_half(0, NETLINK), _not_zero(2)]})
    return {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}


def _low_half(index: int, value: int) -> dict[str, Any]:
    return {"index": index, "value": _LOW_HALF, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}


def _not_zero(index: int) -> dict[str, Any]:
    return {"index": index, "value": 0, "op": "SCMP_CMP_NE"}
