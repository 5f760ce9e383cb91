"""What a probe is, the helpers that its program has inside the box, and what came of it."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sandbox import seccomp

if TYPE_CHECKING:
    from tests.containment.scene import Scene

ON_HOST = ""  # the control: the same program, run outside
COLUMN = 0 if platform.machine() == "x86_64" else 1
CALLS = {name: pair[COLUMN] for name, pair in seccomp.DENIED.items()} | {
    name: pair[COLUMN]
    for name, pair in {
        "clone": (56, 220), "clone3": (435, 435), "get_robust_list": (274, 100), "ioctl": (16, 29), "pidfd_open": (434, 434),
        "pidfd_send_signal": (424, 424), "prlimit64": (302, 261), "rt_sigqueueinfo": (129, 138),
        "sched_setscheduler": (144, 119), "setpriority": (141, 140), "socket": (41, 198), "socketpair": (53, 199),
    }.items()
}  # fmt: skip
LACKS = ("ENOSYS", "EAFNOSUPPORT", "EPROTONOSUPPORT", "ESOCKTNOSUPPORT", "ENODEV", "ENXIO", "ENOENT", "EOPNOTSUPP")


@dataclass(frozen=True)
class Outcome:
    """`contained`, `escaped` or `broken`, and the evidence."""

    kind: str
    said: str


@dataclass(frozen=True)
class Probe:
    """One attempt. `program` is the body of a function that returns evidence of its success, or raises OSError, or nothing.

    `drive` is in its place where the host has a part in it. `control` says why success is not shown outside, where it is not.
    `own_box`: it may leave the box full or broken, so it gets one to itself.
    """

    name: str
    program: str = ""
    drive: Callable[[Scene], Outcome] | None = None
    control: str = ON_HOST
    may_be_killed: bool = False
    own_box: bool = False

    @property
    def is_simple(self) -> bool:
        """It may be run beside others in one command."""
        return self.drive is None and not self.own_box and not self.may_be_killed


PRELUDE = """
import contextlib, ctypes, errno, json, os, resource, signal, socket, struct, sys, threading, time
HOST = json.load(sys.stdin)
HOST["supervisor"] = os.getppid()
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long
REFUSED = (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT)

def call(name, *arguments):
    number = HOST["calls"][name]
    if number is None:
        raise OSError(errno.ENOSYS, "no such call on this machine")
    words = [ctypes.c_long(a) if isinstance(a, int) else ctypes.c_char_p(a) if isinstance(a, bytes) else a for a in arguments]
    words += [ctypes.c_long(0)] * (6 - len(words))
    done = LIBC.syscall(ctypes.c_long(number), *words)
    if done == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return done

def taken(name, *arguments):
    # whether the kernel lets this caller in at all: any answer but a refusal counts
    try:
        return f"{name} gave {call(name, *arguments)}"
    except OSError as error:
        if error.errno in REFUSED:
            raise
        return f"{name} was taken and said {errno.errorcode[error.errno]}"

def targets():
    # processes that are not its own: outside a box one that was started for it, inside the agent and the supervisor too
    return [HOST["pid"]] if HOST["control"] else [1, HOST["supervisor"], HOST["pid"]]

def first(tries):
    # the first success among several ways; else the last error
    last = None
    for attempt in tries:
        try:
            found = attempt()
            if found:
                return found
        except OSError as error:
            last = error
    if last is not None:
        raise last

def reads_token(path):
    with open(path, "rb") as file:
        if HOST["token"].encode() in file.read(1 << 20):
            return "read " + path

def main(probe):
    try:
        found = probe()
    except MemoryError:
        print("contained: no memory")
    except OSError as error:
        print("contained:", errno.errorcode.get(error.errno, str(error)), error.strerror or "")
    else:
        print("escaped: " + str(found) if found else "contained: nothing came of it")
    sys.stdout.flush()
    os._exit(0)

def all_of(probes):
    # each in a process of its own; what they have said, as one object
    said = []
    for probe in probes:
        r, w = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(r)
            os.dup2(w, 1)
            os.dup2(w, 2)
            os.close(w)
            try:
                main(probe)
            finally:
                import traceback
                traceback.print_exc()
                sys.stdout.flush()
                os._exit(1)
        os.close(w)
        with open(r, errors="replace") as file:
            said.append(file.read()[-1000:])
        os.waitpid(pid, 0)
    print(json.dumps(said))
"""


def _function(name: str, program: str) -> str:
    body = "\n".join(f"    {line}" for line in program.strip("\n").splitlines())
    return f"def {name}():\n{body}\n"


def code_of(program: str) -> str:
    """The whole text of a probe's program."""
    return f"{PRELUDE}\n{_function('probe', program)}\nmain(probe)\n"


def code_of_all(programs: Sequence[str]) -> str:
    """One that runs several, and prints a list of what each has said."""
    functions = [_function(f"probe_{i}", program) for i, program in enumerate(programs)]
    names = ", ".join(f"probe_{i}" for i in range(len(programs)))
    return f"{PRELUDE}\n{''.join(functions)}\nall_of([{names}])\n"


def outcome_of(stdout: str, ending: str, *, killed: bool = False) -> Outcome:
    """What a program's last line says; one that says nothing is broken, unless it was to be killed."""
    lines = stdout.strip().splitlines()
    kind, _, said = lines[-1].partition(":") if lines else ("", "", "")
    if kind in ("contained", "escaped"):
        return Outcome(kind, said.strip())
    return Outcome("contained" if killed else "broken", ending)


def facts(**more: Any) -> dict[str, Any]:
    """What a program finds in HOST."""
    return {"calls": CALLS, **more}
