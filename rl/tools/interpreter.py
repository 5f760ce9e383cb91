"""What the tool `python` runs in a box: an interpreter whose variables last, and a watcher that takes orders at a terminal.

`rl/tools/python.py` sends this file's text and types orders, a line of JSON each: {"id", "keep", "code"}, or without code to
ask how far it is. Answers are lines too: {"id", "done", "error", "ended", "head", "tail", "num_bytes"}, output in base64. The
code runs in a fork that has neither the terminal nor anything else of the watcher. Nothing but the standard library.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import fcntl
import json
import linecache
import os
import select
import signal
import sys
import traceback
import tty
import types
from typing import Any, NoReturn

READY = "ready"
WORK = "/tmp/work"
NAME = "<python>"  # of the code, in tracebacks


class Output:
    """What the code has written: its beginning and its end."""

    def __init__(self) -> None:
        self.keep = 1 << 16
        self.begin(self.keep)

    def begin(self, keep: int) -> None:
        self.head, self.tail, self.num_bytes, self.keep = bytearray(), bytearray(), 0, keep

    def add(self, data: bytes) -> None:
        self.num_bytes += len(data)
        room = self.keep // 2 - len(self.head)
        if room > 0:
            self.head += data[:room]
            data = data[room:]
        self.tail += data
        del self.tail[: -(self.keep // 2)]

    def answer(self, **facts: Any) -> bytes:
        head, tail = (base64.b64encode(part).decode() for part in (self.head, self.tail))
        return json.dumps({**facts, "head": head, "tail": tail, "num_bytes": self.num_bytes}).encode() + b"\n"


def main() -> None:
    tty.setraw(0)
    os.makedirs(WORK, exist_ok=True)
    os.chdir(WORK)
    woken, wakes = os.pipe()
    for fd in (woken, wakes):
        os.set_blocking(fd, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakes)
    output, output_in = os.pipe()
    told, tells = os.pipe()
    orders, orders_in = os.pipe()
    pid = os.fork()
    if pid == 0:
        interpret(orders, tells, output_in)
    for fd in (output_in, tells, orders):
        os.close(fd)
    for fd in (output, told):
        os.set_blocking(fd, False)
    os.write(1, f"{READY}\n".encode())
    watch(pid, woken, output, told, orders_in)


def watch(pid: int, woken: int, output: int, told: int, orders: int) -> None:
    """Until the interpreter ends, or the terminal does."""
    typed, kept, number = b"", Output(), 0
    open_fds = [0, woken, output, told]
    while True:
        ready = select.select(open_fds, [], [])[0]
        if output in ready and not drain(output, kept):
            open_fds.remove(output)
        if told in ready and (said := os.read(told, 65536)):
            drain(output, kept)
            say(kept.answer(id=number, done=True, error=said[-1:] != b"0", ended=None))
        if woken in ready:
            os.read(woken, 4096)
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                drain(output, kept)
                say(kept.answer(id=number, done=True, error=True, ended=os.waitstatus_to_exitcode(status)))
                return
        if 0 in ready:
            piece = os.read(0, 65536)
            if not piece:
                return
            *lines, typed = (typed + piece).split(b"\n")
            for line in lines:
                order = json.loads(line)
                if "code" not in order:
                    say(kept.answer(id=order["id"], done=False, error=True, ended=None))
                    continue
                number = order["id"]
                kept.begin(order["keep"])
                with contextlib.suppress(BrokenPipeError):  # it has just ended
                    code = order["code"].encode()
                    send(orders, len(code).to_bytes(8, "little") + code)


def drain(fd: int, kept: Output) -> bool:
    """What is there by now, of a flood some; whether more may come."""
    for _ in range(64):
        try:
            data = os.read(fd, 65536)
        except BlockingIOError:
            return True
        if not data:
            return False
        kept.add(data)
    return True


def say(answer: bytes) -> None:
    send(1, answer)


def send(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def take(fd: int) -> str:
    def exactly(count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = os.read(fd, count - len(data))
            if not piece:
                os._exit(0)
            data += piece
        return data

    return exactly(int.from_bytes(exactly(8), "little")).decode()


def interpret(orders: int, tells: int, output: int) -> NoReturn:
    """The interpreter: without the terminal, with its output in a pipe."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    orders, tells = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 100) for fd in (orders, tells))
    null = os.open(os.devnull, os.O_RDONLY)
    for fd, place in ((null, 0), (output, 1), (output, 2)):
        os.dup2(fd, place)
    os.closerange(3, 100)
    sys.argv = [""]
    main_module = types.ModuleType("__main__")
    sys.modules["__main__"] = main_module
    own = os.getpid()
    while True:
        code = take(orders)
        is_well = run(code, main_module.__dict__)
        if os.getpid() != own:  # a process that the code has forked comes to its end here
            os._exit(0)
        os.write(tells, b"0" if is_well else b"1")


def run(code: str, names: dict[str, Any]) -> bool:
    """Runs a script, shows the value of an expression that it ends in, and says whether it ended well."""
    is_well = True
    linecache.cache[NAME] = (len(code), None, f"{code}\n".splitlines(keepends=True), NAME)
    try:
        tree = ast.parse(code, NAME)
        end = tree.body[-1] if tree.body else None
        last = ast.Expression(end.value) if isinstance(end, ast.Expr) else None
        if last is not None:
            tree.body.pop()
        exec(compile(tree, NAME, "exec"), names)
        if last is not None:
            sys.displayhook(eval(compile(last, NAME, "eval"), names))
    except SystemExit as error:
        is_well = error.code in (None, 0)
        if not isinstance(error.code, int | None):
            print(error.code, file=sys.stderr)
    except BaseException as error:  # noqa: BLE001 - whatever the code raised is shown
        is_well = False
        shown = traceback.TracebackException.from_exception(error)
        first = next((i for i, frame in enumerate(shown.stack) if frame.filename == NAME), len(shown.stack))
        del shown.stack[:first]
        print("".join(shown.format()), end="", file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):  # the code has closed or replaced it
            continue
    return is_well


if __name__ == "__main__":
    main()
