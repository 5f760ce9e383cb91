"""A box as its user holds it: commands, functions and files, the same on every layer.

Where its pool keeps a command log, each call has a number: recorded before it runs, and its answer recorded before it is given.
A client that comes back asks for the same calls in the same order: what had finished is answered from the record and does not
run again; what was running is asked of the box, which keeps what came of it; if the box is gone, BoxLostError says so.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import json
import math
import os
import signal
import textwrap
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar

from sandbox import transfer
from sandbox.agent import Agent
from sandbox.cgroups import Counters
from sandbox.commandlog import CommandChangedError, CommandLog, Entry, entry_of, facts_of, result_of
from sandbox.errors import BoxLostError, UnsupportedError
from sandbox.guest.frames import MAX_HEADER_BYTES, MAX_ORDER_BYTES, MAX_PAYLOAD_BYTES
from sandbox.guest.tunnel import PORT
from sandbox.process import OnOutput, Process, Screen, Terminal
from sandbox.proxy import Proxy, rules_of
from sandbox.result import Output, Result, Verdict
from sandbox.spec import Limits

T = TypeVar("T")
CLOCK_STEP_S = 0.011  # between two times that a file system tells apart
GRACE_S = 10.0  # beyond a command's limit, after which an agent that does not answer has lost its box
_PROXY = f"http://127.0.0.1:{PORT}"
PROXIED = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), _PROXY) | {
    "no_proxy": "127.0.0.1,localhost"
}
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
TOO_MANY = b"the command was not started: the box has as many processes as it may\n"
STREAMS = {1: "stdout", 2: "stderr", 3: "value"}


@dataclass(frozen=True)
class Called:
    """What a function came to: `value` if the verdict is ok; what it printed, and its traceback, are in the result."""

    result: Result
    value: Any = None


@dataclass(frozen=True)
class Reach:
    """How a living box is reached: its agent, its group's counters, and who its commands run as (None: the agent's user).

    `shares_fate`: a program that takes too much takes the box with it; the counters tell that from a box that was lost.
    """

    agent: Agent
    counters: Callable[[], Awaitable[Counters]]
    user: Sequence[int] | None
    shares_fate: bool = False


Act: TypeAlias = Callable[[Reach, int], Awaitable[tuple[dict[str, Any], bytes]]]  # with the call's number; facts and bytes


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
        self._reach, self._log, self._keeper, self._came_back = reach, log, keeper, came_back
        self._seq = 0  # of the last call
        self._paused = False
        self._spans = list[tuple[float, float, str]]()  # when calls began and ended, by the box's clock, and what they were
        self._network: Sequence[str] = ()
        self._proxy: Proxy | None = None
        self._background = set[asyncio.Task[Result]]()  # a task that nobody holds may be collected while it runs
        self._num_oom_kills = 0  # when a command last ended
        self._finished = list[int]()  # commands whose answers the box need not keep any more
        self._requests = itertools.count(1 << 40)  # numbers of what is asked beside commands

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
        result, _ = await self._run(self._next(), order, stdin, wall_s, on_output)
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
        number, order = self._next(), self._order(command, env, cwd, user)
        begun = asyncio.Event()
        task = await self._begin(self._run(number, order, stdin, wall_s, on_output, begun), begun)
        return Process(number, task, self._beside)

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
        number, order = self._next(), self._order(command, {"TERM": "xterm-256color", **(env or {})}, cwd, user)
        screen, begun = Screen(self.limits.keep_bytes), asyncio.Event()
        run = self._run(number, {**order, "tty": [rows, columns]}, b"", wall_s, screen.show, begun)
        return Terminal(number, await self._begin(run, begun), self._beside, screen)

    def _order(
        self, command: str | Sequence[str], env: Mapping[str, str] | None, cwd: str | None, user: str | None
    ) -> dict[str, Any]:
        argv = ["/bin/sh", "-c", command] if isinstance(command, str) else list(command)
        if not argv:
            raise ValueError("command: got an empty sequence")
        if user is not None and self._reach is not None and self._reach.user is None:
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
        result, value = await self._run(self._next(), order, b"", wall_s, None)
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
        facts, data = await self._logged(self._next(), order | {"max_bytes": max_bytes}, b"", read)
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
            for i, piece in enumerate(_pieces(data)):
                header, _ = await self._ask(reach, order | {"offset": i * MAX_PAYLOAD_BYTES}, piece)
                times += _span(header)
            return {"span": [times[0], times[-1]] if times else []}, b""

        order = {"op": "write", "path": path, "mode": mode}
        await self._logged(self._next(), order, data, write)

    async def written_by(self, path: str) -> list[str]:
        """The calls that ran when a file was last changed: numbers and what they were, as `polymath sandbox log` has them.

        The time is that of the file's inode, which programs cannot set. It is more than one where calls ran at once or within
        a hundredth of a second, and none where the image, or what an earlier call had left running, wrote it.

        Raises:
            UnsupportedError: the pool keeps no log. OSError: with the box's reason.
        """
        if self._log is None:
            raise UnsupportedError("written_by: this box has no command log")
        changed = (await self._beside({"op": "stat", "path": path})).get("changed")
        if not isinstance(changed, int | float):
            raise BoxLostError("the box's agent gave no time of a file")
        return [shown for began, ended, shown in self._spans if began - CLOCK_STEP_S <= changed <= ended + CLOCK_STEP_S]

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
        facts, data = await self._logged(self._next(), order, b"", entries)
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
        if self._reach is None:
            return
        if self._proxy is not None:
            self._proxy.allow(rules_of(allowed))
        elif allowed:
            agent = self._reach.agent
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
                self._reach = await self._keeper.reach(self.box_id)
                self._close_proxy()
                await self.open_network(self._network)
            self._paused = op == "pause"
            return {"changes": said.get("changes"), "name": more.get("snapshot"), "names": more.get("names")}, b""

        facts, _ = await self._logged(self._next(), {"op": op, **words}, b"", act)
        return facts

    def _close_proxy(self) -> None:
        if self._proxy is not None:
            self._proxy.close()
            self._proxy = None

    def close_connection(self) -> None:
        self._close_proxy()
        if self._reach is not None:
            self._reach.agent.close()

    def _next(self) -> int:
        """The number of a new call."""
        self._seq += 1
        return self._seq

    async def _logged(self, seq: int, order: dict[str, Any], payload: bytes, act: Act) -> tuple[Mapping[str, Any], bytes]:
        """What `act` comes to, or has come to: recorded before it is given. The box's own errors are answers as well."""
        log = self._log
        entry = found = None
        if log is not None:
            entry, found = entry_of(self.box_id, seq, order, payload), log.find(self.box_id, seq)
            if found is None:
                log.intend(entry)
            elif found.digest != entry.digest:
                raise CommandChangedError(
                    f"command {seq} of box {self.box_id}: recorded `{found.shown}`, and now asked `{entry.shown}`"
                )
            elif found.facts is not None:
                self._note_span(entry, found.facts)
                return _answered(found.facts), found.data
        if self._reach is None:
            raise BoxLostError(f"box {self.box_id} is gone; whether its command {seq} ({order['op']}) ran is unknown")
        try:
            if self._paused:
                await self._keeper.tell("resume", box=self.box_id)
                self._paused = False
            facts, data = await act(self._reach, seq)
        except OSError as error:
            facts, data = {"errno": error.errno, "message": error.strerror, "path": order.get("path")}, b""
        if log is not None and entry is not None:
            await asyncio.wrap_future(log.finish(entry, facts, data))
            self._note_span(entry, facts)
        return _answered(facts), data

    def _note_span(self, entry: Entry, facts: Mapping[str, Any]) -> None:
        if facts.get("span"):
            self._spans.append((*facts["span"], f"{entry.seq} {entry.shown}"))

    async def _beside(self, order: dict[str, Any], payload: bytes = b"") -> dict[str, Any]:
        """What is asked of the agent without being a call of its own; of a box that is gone there is nothing to ask."""
        if self._reach is None:
            raise BoxLostError(f"box {self.box_id} is gone")
        return (await self._ask(self._reach, order, payload))[0]

    async def _ask(self, reach: Reach, order: dict[str, Any], payload: bytes = b"") -> tuple[dict[str, Any], bytes]:
        return await self._in_time(
            reach, self.limits.wall_s, reach.agent.ask({**order, "id": next(self._requests), "user": reach.user}, payload)
        )

    async def _in_time(self, reach: Reach, limit_s: float, asked: Awaitable[T]) -> T:
        """The agent's answer; an agent that gives none has lost its box, and that is not the box's own error."""
        try:
            async with asyncio.timeout(None if limit_s == math.inf else limit_s + GRACE_S):
                return await asked
        except TimeoutError:
            reach.agent.close()
            raise BoxLostError(f"box {self.box_id} did not answer {GRACE_S:.0f} s after its limit of {limit_s:g} s") from None

    async def _run(
        self, seq: int, order: dict[str, Any], stdin: bytes, wall_s: float, on_output: OnOutput | None,
        begun: asyncio.Event | None = None,
    ) -> tuple[Result, bytes]:  # fmt: skip
        """`begun` is set when the order is about to be sent."""
        limits = self.limits
        order |= {
            "wall_s": None if wall_s == math.inf else wall_s, "cpu_s": limits.cpu_s, "disk": "/tmp",
            "live": on_output is not None, "keep_bytes": limits.keep_bytes, "output_bytes": limits.output_bytes,
        }  # fmt: skip
        size = len(json.dumps(order))
        if size > MAX_ORDER_BYTES - MAX_HEADER_BYTES:
            raise ValueError(
                f"command: its words, environment or arguments are {size} bytes of JSON; write them to a file first"
            )

        async def run(reach: Reach, seq: int) -> tuple[dict[str, Any], bytes]:
            kept, before = _Kept(limits.keep_bytes, on_output), await reach.counters()
            numbered = {"user": reach.user, **order, "id": seq}
            try:
                facts = await self._in_time(reach, wall_s, self._begin_or_recall(reach.agent, numbered, stdin, kept, begun))
            except BlockingIOError:  # not even the agent's own process could be started
                none = Result(Verdict.PIDS_LIMIT, stderr=Output(TOO_MANY, num_bytes=len(TOO_MANY)))
                return facts_of(none, b"")
            except asyncio.CancelledError:
                reach.agent.tell({"op": "end", "id": next(self._requests), "command": seq})
                raise
            except BoxLostError:
                after = await reach.counters()
                verdict = _cause(before, after) if reach.shares_fate else None
                if after.num_oom_kills > self._num_oom_kills:
                    verdict = Verdict.OUT_OF_MEMORY  # it took its own box's agent with it, and is not to gain by that
                if verdict is None:
                    raise
                ended = Result(verdict, signal=signal.SIGKILL, stdout=kept.stream(1), stderr=kept.stream(2))
                return facts_of(ended, b"")
            except OSError as error:
                raise BoxLostError(f"the agent of box {self.box_id} starts no more commands: {error}") from error
            after = await reach.counters()
            self._num_oom_kills = after.num_oom_kills
            result = _result(facts, kept, before, after)
            if result.verdict in (Verdict.PIDS_LIMIT, Verdict.OUT_OF_MEMORY):  # what it started goes on at the limit
                await self._ask(reach, {"op": "end", "command": seq})
            self._finished.append(seq)
            recorded, data = facts_of(result, kept.stream(3).head)
            return {**recorded, "span": _span(facts)}, data

        return result_of(*await self._logged(seq, order, stdin, run))

    async def _begin_or_recall(
        self, agent: Agent, order: dict[str, Any], stdin: bytes, kept: _Kept, begun: asyncio.Event | None
    ) -> Mapping[str, Any]:
        """Runs the command, unless this box has begun it already for a client that died."""
        number, begun = order["id"], begun or asyncio.Event()
        if self._came_back:
            begun.set()
            facts, _ = await agent.ask({"op": "recall", "id": number}, on=kept)
            if facts["type"] != "unknown":
                return facts
        *pieces, last = _pieces(stdin)
        for piece in pieces:
            await agent.ask({"op": "stdin", "id": number}, piece)
        forget, self._finished = self._finished, []
        order |= {"forget": forget}
        text = json.dumps(order).encode()
        if len(text) > MAX_HEADER_BYTES:
            for piece in _pieces(text):
                await agent.ask({"op": "order", "id": number}, piece)
            order = {"op": "ordered", "id": number}
        begun.set()
        facts, _ = await agent.ask(order, last, kept)
        return facts


def _pieces(data: bytes) -> list[bytes]:
    """At least one, each as long as a frame's payload may be.

    >>> _pieces(b"")
    [b'']
    """
    return [data[start : start + MAX_PAYLOAD_BYTES] for start in range(0, max(1, len(data)), MAX_PAYLOAD_BYTES)]


def _span(facts: Mapping[str, Any]) -> list[float]:
    """When a call began and ended, by the box's clock; empty where its supervisor could not say it."""
    span = facts.get("span")
    if isinstance(span, list) and len(span) == 2 and all(isinstance(at, int | float) and math.isfinite(at) for at in span):
        return [float(at) for at in span]
    return []


def _answered(facts: Mapping[str, Any]) -> Mapping[str, Any]:
    """The facts of an answer; an error of the box is raised, at the first time and from the record."""
    if "errno" in facts:
        raise OSError(facts["errno"], facts["message"], facts.get("path"))
    return facts


class _Kept:
    """Collects a command's frames; holds no more than was asked for."""

    def __init__(self, keep_bytes: int, on_output: OnOutput | None) -> None:
        self._on_output = on_output
        self._parts: dict[tuple[int, str], bytearray] = {}
        self._left = 2 * (keep_bytes + 1) + (16 << 20)

    def __call__(self, header: dict[str, Any], payload: bytes) -> None:
        if header.get("type") == "running":  # it was begun for a client that died
            return
        stream, part = header.get("stream"), header.get("part")
        if not isinstance(stream, int) or stream not in STREAMS:
            raise BoxLostError("the box's agent sent output of no stream")
        if header.get("type") == "output":
            if self._on_output is not None:
                self._on_output(STREAMS[stream], payload)
        elif part in ("head", "tail"):
            self._left -= len(payload)
            if self._left < 0:
                raise BoxLostError("the box's agent sent more output than was asked for")
            self._parts.setdefault((stream, part), bytearray()).extend(payload)

    def stream(self, number: int, num_bytes: int = 0) -> Output:
        head, tail = (bytes(self._parts.get((number, part), b"")) for part in ("head", "tail"))
        return Output(head, tail, max(num_bytes, len(head) + len(tail)))


def _cause(before: Counters, after: Counters) -> Verdict | None:
    """What the box has been refused meanwhile."""
    if after.num_oom_kills > before.num_oom_kills:
        return Verdict.OUT_OF_MEMORY
    return Verdict.PIDS_LIMIT if after.num_refused_forks > before.num_refused_forks else None


def _result(facts: Mapping[str, Any], kept: _Kept, before: Counters, after: Counters) -> Result:
    """The verdict, from what the agent says and what the host's counters show."""
    status, cause, sizes = facts.get("status"), facts.get("cause"), facts.get("num_bytes")
    used = [facts.get(name) for name in ("wall_s", "cpu_s", "max_rss_bytes")]
    try:
        if not isinstance(sizes, dict) or not all(isinstance(u, int | float) and 0 <= u < math.inf for u in used):
            raise ValueError
        code = os.waitstatus_to_exitcode(status if isinstance(status, int) else -1)
    except (ValueError, OverflowError):
        raise BoxLostError("the box's agent gave no account of its command") from None
    if cause in ("wall_timeout", "cpu_timeout", "output_limit"):
        verdict = Verdict(cause)
    elif code == 0:
        verdict = Verdict.OK
    elif (counted := _cause(before, after)) is not None:
        verdict = counted
    elif cause in ("out_of_memory", "pids_limit"):  # a machine counts for itself
        verdict = Verdict(cause)
    elif cause == "disk_full":
        verdict = Verdict.DISK_FULL
    else:
        verdict = Verdict.SIGNAL if code < 0 else Verdict.NONZERO
    wall_s, cpu_s, max_rss_bytes = used
    counts = [int(size) if isinstance(size := sizes.get(str(n)), int) else 0 for n in (1, 2)]
    return Result(
        verdict=verdict,
        exit_code=code if code >= 0 else None,
        signal=-code if code < 0 else None,
        stdout=kept.stream(1, counts[0]),
        stderr=kept.stream(2, counts[1]),
        wall_s=float(wall_s or 0),
        cpu_s=float(cpu_s or 0),
        max_rss_bytes=int(max_rss_bytes or 0),
    )
