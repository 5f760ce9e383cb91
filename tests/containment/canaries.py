"""Things of the host that a box must not reach: files, sockets, a process, shared memory, a terminal. `disturbed` tells."""

from __future__ import annotations

import contextlib
import os
import pty
import secrets
import shutil
import socket
import subprocess
import tempfile
import threading
import tty
from pathlib import Path
from typing import Any

import psutil

PYTHON = shutil.which("python3", path="/usr/bin:/bin:/usr/local/bin")  # which every user may run
PROCESS = """
import ctypes, os, sys, time
token = ctypes.create_string_buffer(sys.argv[1].encode())
file = open(sys.argv[2])
libc = ctypes.CDLL(None)
libc.shmat.restype = ctypes.c_void_p
shm = libc.shmget(int(sys.argv[3]), 4096, 0o1666)
ctypes.memmove(libc.shmat(shm, None, 0), token, len(token))
os.setpriority(os.PRIO_PROCESS, 0, 1)
print(ctypes.addressof(token), shm, flush=True)
while True:
    time.sleep(1000)
"""
WATCHED = ("/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/kernel/hostname", "/proc/modules")


class Canaries:
    """From `with` to its end; `user` owns the process, so that not its owner but the box keeps it apart."""

    def __init__(self, user: int) -> None:
        self.user, self.token = user, secrets.token_hex(12)
        self.connections = list[str]()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Canaries:
        self.folder = Path(tempfile.mkdtemp(prefix="canary-"))
        self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self.folder.chmod(0o755)
        self.file, self.open, self.path = self.folder / "secret", self.folder / "open", self.folder / "open.sock"
        self.file.write_text(self.token)
        self.open.mkdir()
        self.open.chmod(0o777)
        self.shared = Path(f"/dev/shm/canary-{self.token}")
        self.shared.write_text(self.token)
        self._stack.callback(self.shared.unlink, missing_ok=True)
        self.tcp = [self._listen(socket.AF_INET, ("127.0.0.1", 0)), self._listen(socket.AF_INET6, ("::1", 0))]
        self.anywhere = self._listen(socket.AF_INET, ("0.0.0.0", 0))
        self._listen(socket.AF_UNIX, f"\0canary-{self.token}")
        self._listen(socket.AF_UNIX, str(self.path))
        self.path.chmod(0o777)
        self.udp = self._stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self.udp.bind(("127.0.0.1", 0))
        self.udp.setblocking(False)
        self.master, self.slave = pty.openpty()
        self._stack.callback(os.close, self.master)
        self._stack.callback(os.close, self.slave)
        tty.setraw(self.slave)
        os.set_blocking(self.slave, False)
        self.tty = os.ttyname(self.slave)
        os.chmod(self.tty, 0o666)
        self.watched = {name: Path(name).read_text() for name in WATCHED if Path(name).exists()}
        self.key = secrets.randbits(30)
        self.start()
        return self

    def start(self) -> None:
        """The process; again after it was disturbed."""
        assert PYTHON is not None
        self.process = subprocess.Popen(
            [PYTHON, "-c", PROCESS, self.token, str(self.file), str(self.key)],
            stdout=subprocess.PIPE, text=True, cwd="/",
            env={"CANARY": self.token},
            **({"user": self.user, "group": self.user, "extra_groups": []} if os.geteuid() == 0 else {}),  # type: ignore[arg-type]
        )  # fmt: skip
        assert self.process.stdout is not None
        self.address, self.shm = map(int, self.process.stdout.readline().split())

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        subprocess.run(["ipcrm", "-m", str(self.shm)], check=False, capture_output=True)
        self._stack.close()

    def facts(self) -> dict[str, Any]:
        """What a probe's program is told."""
        own = [a.address for name, found in psutil.net_if_addrs().items() if name != "lo" for a in found if a.family == 2]
        return {
            "token": self.token, "file": str(self.file), "folder": str(self.open), "shared": str(self.shared),
            "tcp": self.tcp, "anywhere": self.anywhere, "own": own, "udp": self.udp.getsockname()[1],
            "abstract": f"canary-{self.token}", "unix": str(self.path), "pid": self.process.pid, "address": self.address,
            "key": self.key, "tty": self.tty,
        }  # fmt: skip

    def disturbed(self) -> str | None:
        """What has reached the host, in words; None where all is as it was."""
        if self.file.read_text() != self.token or self.shared.read_text() != self.token:
            return "a file of the host was changed"
        if names := os.listdir(self.open):
            return f"files were made on the host: {names[:3]}"
        if self.connections:
            return f"connections came: {self.connections[:3]}"
        with contextlib.suppress(BlockingIOError):
            return f"a datagram came: {self.udp.recv(100)!r}"
        with contextlib.suppress(OSError):
            return f"typed into the host's terminal: {os.read(self.slave, 100)!r}"
        if self.process.poll() is not None or psutil.Process(self.process.pid).status() in (
            "stopped",
            "tracing-stop",
            "zombie",
        ):
            return f"the host's process was ended or stopped: {self.process.returncode}"
        limits = Path(f"/proc/{self.process.pid}/limits").read_text()
        if psutil.Process(self.process.pid).nice() != 1 or "core file size      1 " in limits:
            return "the host's process was given other limits"
        for name, text in self.watched.items():
            if Path(name).read_text() != text:
                return f"{name} was changed"
        return None

    def restore(self) -> None:
        """All as it was, after a control that has disturbed it."""
        self.file.write_text(self.token)
        self.shared.write_text(self.token)
        shutil.rmtree(self.open)
        self.open.mkdir()
        self.open.chmod(0o777)
        self.connections.clear()
        for read in (lambda: self.udp.recv(100), lambda: os.read(self.slave, 100)):
            with contextlib.suppress(OSError):
                while read():
                    pass
        self.process.kill()
        self.process.wait()
        self.start()

    def _listen(self, family: int, address: Any) -> int:
        """A socket that gives the token to whoever comes; its port, where it has one."""
        listener = self._stack.enter_context(socket.socket(family))
        listener.bind(address)
        listener.listen()
        bound = listener.getsockname()

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    peer, _ = listener.accept()
                    self.connections.append(str(bound))
                    with contextlib.suppress(OSError):
                        peer.sendall(self.token.encode())
                    peer.close()

        threading.Thread(target=serve, daemon=True).start()
        self._stack.callback(lambda: listener.shutdown(socket.SHUT_RDWR))
        return bound[1] if isinstance(bound, tuple) else 0
