"""A box as its user holds it: commands, functions and files, the same on every layer.

Each call has a number, by which a client that comes back has its answers again (`sandbox/calls.py`): what had finished does not
run again; what was running is asked of the box, which keeps what came of it; if the box is gone, BoxLostError says so.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import math
import textwrap
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from sandbox import transfer
from sandbox.calls import GRACE_S, Calls, Reach, pieces, span_of
from sandbox.command import Commands
from sandbox.commandlog import CommandLog
from sandbox.errors import BoxLostError, UnsupportedError
from sandbox.guest.frames import MAX_PAYLOAD_BYTES
from sandbox.guest.tunnel import PORT
from sandbox.process import OnOutput, Process, Screen, Terminal
from sandbox.proxy import Proxy, rules_of
from sandbox.result import Result, Verdict
from sandbox.spec import Limits

CLOCK_STEP_S = 0.011  # between two times that a file system tells apart
_PROXY = f"http://127.0.0.1:{PORT}"
PROXIED = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), _PROXY) | {
    "no_proxy": "127.0.0.1,localhost"
}
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Called:
    """What a function came to: `value` if the verdict is ok; what it printed, and its traceback, are in the result."""

    result: Result
    value: Any = None


class Keeper(Protocol):
    """What a box needs of its pool, for what is done to it from outside."""

    async def tell(self, op: str, **words: Any) -> dict[str, Any]: ...

    async def reach(self, box_id: str) -> Reach: ...

    async def find(self, box_id: str, limits: Limits) -> Box: ...


class Box:
    """One box and the connection to its agent. Made by a pool (`sandbox/pool.py`), which also ends it."""

    def __init__(
        self,
        box_id: str,
        limits: Limits,
        reach: Reach | None,
        log: CommandLog | None,
        keeper: Keeper,
        *,
        came_back: bool = False,
    ) -> None:
        """`reach` is None where the box is gone and its record alone is left; `came_back`: another client had it before."""
        self.box_id, self.limits = box_id, limits
        self._keeper = keeper
        self._calls = Calls(box_id, reach, log, lambda: keeper.tell("resume", box=box_id))
        self._commands = Commands(self._calls, came_back=came_back)
        self._network: Sequence[str] = ()
        self._proxy: Proxy | None = None
        self._background = set[asyncio.Task[Result]]()  # a task that nobody holds may be collected while it runs

    @property
    def last_call(self) -> int:
        """The number of the last call, 0 before the first: how far the box's command log goes."""
        return self._calls.last

    async def exec(
        self,
        command: str | Sequence[str],
        *,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        wall_s: float | None = None,
        on_output: OnOutput | None = None,
    ) -> Result:
        """Runs a command to its end: a string by `sh -c`, a sequence as it is. If the call is cancelled, it is ended.

        Args:
            stdin: all that it can read. env: in addition to PATH, HOME and LANG. wall_s: in place of the box's limit.
            user: a user of the box, by name or number, where its layer has more than one; else its usual one.
            on_output: gets "stdout" or "stderr" and each piece as it comes.

        Raises:
            BoxLostError: the box ended, or stopped answering, meanwhile. ValueError: there is no such user.
        """
        wall_s = self.limits.wall_s if wall_s is None else wall_s
        order = self._order(command, env, cwd, user)
        result, _ = await self._commands.run(self._calls.next_number(), order, stdin, self.limits, wall_s, on_output)
        return result

    async def start(
        self,
        command: str | Sequence[str],
        *,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        wall_s: float = math.inf,
        on_output: OnOutput | None = None,
    ) -> Process:
        """Runs a command in the background, as `exec` does otherwise: as long as it, or the box, lives."""
        number, order = self._calls.next_number(), self._order(command, env, cwd, user)
        begun = asyncio.Event()
        run = self._commands.run(number, order, stdin, self.limits, wall_s, on_output, begun)
        return Process(number, await self._begin(run, begun), self._beside)

    async def terminal(
        self,
        command: str | Sequence[str] = ("/bin/sh", "-i"),
        *,
        rows: int = 24,
        columns: int = 80,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        wall_s: float = math.inf,
    ) -> Terminal:
        """Runs a command at a terminal. A client that comes back sees what it shows from then on."""
        number, order = self._calls.next_number(), self._order(command, {"TERM": "xterm-256color", **(env or {})}, cwd, user)
        screen, begun = Screen(self.limits.keep_bytes), asyncio.Event()
        order["tty"] = [rows, columns]
        run = self._commands.run(number, order, b"", self.limits, wall_s, screen.show, begun)
        return Terminal(number, await self._begin(run, begun), self._beside, screen)

    def _order(
        self, command: str | Sequence[str], env: Mapping[str, str] | None, cwd: str | None, user: str | None
    ) -> dict[str, Any]:
        argv = ["/bin/sh", "-c", command] if isinstance(command, str) else list(command)
        if not argv:
            raise ValueError("command: got an empty sequence")
        if user is not None and self._calls.reach is not None and self._calls.reach.user is None:
            raise UnsupportedError(f"user: got {user!r}; all commands of this box run as the same user")
        network = PROXIED if self._network else {}
        full = {"PATH": PATH, "HOME": "/tmp", "LANG": "C.UTF-8", **network, **(env or {})}
        return {"op": "exec", "argv": argv, "env": full, "cwd": cwd, **({} if user is None else {"user": user})}

    async def _begin(self, run: Coroutine[Any, Any, tuple[Result, bytes]], begun: asyncio.Event) -> asyncio.Task[Result]:
        """Returns once the order is on its way, so that what is asked of the command later cannot overtake it."""

        async def result() -> Result:
            return (await run)[0]

        task = asyncio.create_task(result())
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        task.add_done_callback(lambda _: begun.set())
        await begun.wait()
        return task

    async def python(
        self, function: str | Callable[..., Any], *arguments: Any, source: str | None = None, wall_s: float | None = None
    ) -> Called:
        """Calls a function in the box; arguments and value travel as JSON.

        Args:
            function: a function whose source is at hand and which imports what it needs, or the name of one in `source`.

        Raises:
            TypeError: an argument is not JSON. BoxLostError: the box ended meanwhile.
        """
        if callable(function):
            source, name = textwrap.dedent(inspect.getsource(function)), function.__name__
        elif source is None:
            raise ValueError("source: got None; a function that is given by its name needs it")
        else:
            name = function
        json.dumps(arguments)  # raises here and not in a frame
        order = {"op": "call", "source": source, "function": name, "arguments": arguments, "cwd": None}
        wall_s = self.limits.wall_s if wall_s is None else wall_s
        result, value = await self._commands.run(self._calls.next_number(), order, b"", self.limits, wall_s, None)
        if not result.ok:
            return Called(result)
        try:
            return Called(result, json.loads(value))
        except (ValueError, RecursionError):
            return Called(replace(result, verdict=Verdict.NONZERO))  # it ended without giving one

    async def read_file(self, path: str, *, max_bytes: int = 64 << 20) -> bytes:
        """A regular file's bytes.

        Raises:
            OSError: with the box's reason. ValueError: it is larger than `max_bytes`.
        """

        async def read(reach: Reach, seq: int) -> tuple[dict[str, Any], bytes]:
            data = bytearray()
            while True:
                header, piece = await self._ask(reach, order | {"offset": len(data), "size": MAX_PAYLOAD_BYTES})
                data += piece
                size = header.get("size")
                if len(data) > max_bytes or (isinstance(size, int) and size > max_bytes):
                    return {"error": f"{path}: has more than {max_bytes} bytes; raise max_bytes, or read a part of it"}, b""
                if not piece:
                    return {}, bytes(data)

        order = {"op": "read", "path": path}
        facts, data = await self._calls.logged(self._calls.next_number(), order | {"max_bytes": max_bytes}, b"", read)
        if "error" in facts:
            raise ValueError(facts["error"])
        return data

    async def write_file(self, path: str, data: bytes, *, mode: int | None = None) -> None:
        """Writes a whole file, and makes the folders above it.

        Raises:
            OSError: with the box's reason.
        """

        async def write(reach: Reach, seq: int) -> tuple[dict[str, Any], bytes]:
            times = list[float]()
            for i, piece in enumerate(pieces(data)):
                header, _ = await self._ask(reach, order | {"offset": i * MAX_PAYLOAD_BYTES}, piece)
                times += span_of(header)
            return {"span": [times[0], times[-1]] if times else []}, b""

        order = {"op": "write", "path": path, "mode": mode}
        await self._calls.logged(self._calls.next_number(), order, data, write)

    async def written_by(self, path: str) -> list[str]:
        """The calls that ran when a file was last changed: numbers and what they were, as `polymath sandbox log` has them.

        The time is that of the file's inode, which programs cannot set. It is more than one where calls ran at once or within
        a hundredth of a second, and none where the image, or what an earlier call had left running, wrote it.

        Raises:
            UnsupportedError: the pool keeps no log. OSError: with the box's reason.
        """
        if not self._calls.are_logged:
            raise UnsupportedError("written_by: this box has no command log")
        changed = (await self._beside({"op": "stat", "path": path})).get("changed")
        if not isinstance(changed, int | float):
            raise BoxLostError("the box's agent gave no time of a file")
        return [shown for began, ended, shown in self._calls.spans if began - CLOCK_STEP_S <= changed <= ended + CLOCK_STEP_S]

    async def list_files(self, path: str) -> list[tuple[str, str, int]]:
        """All that is below a folder: path in it, "file", "folder" or "other", and size in bytes.

        Raises:
            OSError: with the box's reason. ValueError: there are too many.
        """

        async def entries(reach: Reach, seq: int) -> tuple[dict[str, Any], bytes]:
            found = list[tuple[str, str, int]]()
            while True:
                header, _ = await self._ask(reach, order | {"after": len(found)})
                more = transfer.checked(header.get("entries"))
                found += more
                if not more:
                    return {}, json.dumps(found).encode()
                if len(found) > transfer.MAX_FILES:
                    return {"error": f"{path}: has more than {transfer.MAX_FILES} files below it"}, b""

        order = {"op": "list", "path": path}
        facts, data = await self._calls.logged(self._calls.next_number(), order, b"", entries)
        if "error" in facts:
            raise ValueError(facts["error"])
        return [(name, kind, size) for name, kind, size in json.loads(data)]

    async def upload(self, source: Path, target: str) -> None:
        """A file of this machine, or a folder with all that is below it, to a path of the box; modes are kept.

        Raises:
            OSError: of either side.
        """
        await transfer.upload(self, source, target)

    async def download(self, source: str, target: Path, *, max_bytes: int = 1 << 30) -> None:
        """A file of the box, or a folder, to a path of this machine; no links, no devices, at most `max_bytes` in all.

        Raises:
            OSError: of either side. ValueError: it is larger.
        """
        await transfer.download(self, source, target, max_bytes)

    async def end_commands(self) -> None:
        """Ends all that its commands run and have left running; starts no process for that, of which there may be too many."""
        await self._beside({"op": "end_all"})
        if self._background:
            await asyncio.wait(self._background, timeout=GRACE_S)

    async def set_network(self, allowed: Sequence[str]) -> None:
        """What the box may reach from now on, as host:port: the agent's phase may need more than its grading. The rest is cut.

        Programs reach it by the HTTP proxy that their environment names; nothing else leaves the box.

        Raises:
            ValueError: one is no host and port. BoxLostError: the box is gone.
        """
        rules_of(allowed)
        await self._keeper.tell("network", box=self.box_id, network=list(allowed))
        await self.open_network(allowed)

    async def open_network(self, allowed: Sequence[str]) -> None:
        """For this client, which carries what the box sends: it ends with its connection to the box."""
        self._network = tuple(allowed)
        if self._calls.reach is None:
            return
        if self._proxy is not None:
            self._proxy.allow(rules_of(allowed))
        elif allowed:
            agent = self._calls.reach.agent
            self._proxy = Proxy(agent.tell, rules_of(allowed))
            agent.on_net = self._proxy.take
            await self._beside({"op": "net", "what": "listen"})

    async def pause(self) -> None:
        """Stops all of its processes where they are, until `resume` or the next call; a command's time goes on."""
        await self._act("pause")

    async def resume(self) -> None:
        await self._act("resume")

    async def snapshot(self) -> str:
        """Keeps its files as they are now, and gives the name to roll back to; what runs is not kept."""
        return str((await self._act("snapshot"))["name"])

    async def rollback(self, snapshot: str) -> None:
        """Gives it the files of a snapshot again; everything that runs in it is ended."""
        await self._act("rollback", snapshot=snapshot)

    async def reset(self) -> None:
        """Makes it as new: its image's files and nothing else, and no processes."""
        await self._act("reset")

    async def fork(self, count: int) -> list[Box]:
        """So many new boxes that begin with its files, share what they do not change, and go their own ways."""
        facts = await self._act("fork", count=count)
        return [await self._keeper.find(name, self.limits) for name in facts["names"]]

    async def diff(self) -> list[tuple[str, str]]:
        """What it has written: "added", "changed" or "deleted", and the path, by path."""
        return [(kind, path) for kind, path in (await self._act("diff"))["changes"]]

    async def commit(self, name: str) -> None:
        """Makes an image of its files: the layers that it was made of, and one with what it has written."""
        await self._act("commit", name=name)

    async def _act(self, op: str, **words: Any) -> Mapping[str, Any]:
        """What the box's keeper does to it. It is logged as commands are, so that a client that came back does it once.

        Raises:
            UnsupportedError: this layer cannot; says what it can. BoxLostError: the box is gone.
        """

        async def act(reach: Reach, seq: int) -> tuple[dict[str, Any], bytes]:
            more: dict[str, Any] = {"snapshot": f"s{seq}"} if op == "snapshot" else {}
            if op == "fork":
                more = {"names": [f"{self.box_id}.{seq}.{i}" for i in range(words["count"])]}
            said = await self._keeper.tell(op, box=self.box_id, **words, **more)
            if op in ("rollback", "reset"):
                reach.agent.close()
                self._calls.reach = await self._keeper.reach(self.box_id)
                self._close_proxy()
                await self.open_network(self._network)
            self._calls.is_paused = op == "pause"
            return {"changes": said.get("changes"), "name": more.get("snapshot"), "names": more.get("names")}, b""

        facts, _ = await self._calls.logged(self._calls.next_number(), {"op": op, **words}, b"", act)
        return facts

    def _close_proxy(self) -> None:
        if self._proxy is not None:
            self._proxy.close()
            self._proxy = None

    def close_connection(self) -> None:
        self._close_proxy()
        if self._calls.reach is not None:
            self._calls.reach.agent.close()

    async def _beside(self, order: dict[str, Any], payload: bytes = b"") -> dict[str, Any]:
        """What is asked of the agent without being a call of its own; of a box that is gone there is nothing to ask."""
        if self._calls.reach is None:
            raise BoxLostError(f"box {self.box_id} is gone")
        return (await self._ask(self._calls.reach, order, payload))[0]

    async def _ask(self, reach: Reach, order: dict[str, Any], payload: bytes = b"") -> tuple[dict[str, Any], bytes]:
        return await self._calls.ask(reach, order, payload, self.limits.wall_s)
