"""A pool of boxes: made on request, lent, ended; its keeper (`sandbox/keeper.py`) ends them where this process cannot.

async with Pool() as pool:
    box = await pool.create(layer="function")
    print((await box.exec("echo hello")).stdout.text)
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from sandbox import gc
from sandbox.agent import Agent
from sandbox.box import Box
from sandbox.calls import Reach
from sandbox.cgroups import Cgroup, Counters
from sandbox.commandlog import CommandLog
from sandbox.errors import BoxLostError, BoxUnavailableError, UnsupportedError
from sandbox.guest.frames import FrameError
from sandbox.keeper import KEPT_ALREADY, SOCKET_NAME
from sandbox.proxy import rules_of
from sandbox.spec import BoxSpec, LayerName, Limits, Runtime, check_labels, check_name

HOME = Path("~/.local/share/polymath/sandbox")
KINDS = {
    kind.__name__: kind for kind in (BoxLostError, BoxUnavailableError, FrameError, UnsupportedError, ValueError)
}  # of a keeper's errors
START_LIMIT_S = 20.0
CLOSE_LIMIT_S = 30.0
TELL_LIMIT_S = 120.0  # boxes that start wait for each other


class Pool:
    """Owns its boxes from `open` to `close`; `folder` holds every pool's, the images, and the command logs.

    A pool with a `name` can be opened again after its owner's death: boxes with names, whose lease has not run out, are found
    again by `create` with the same name, and their finished commands are answered from the log.
    """

    def __init__(
        self, *, folder: Path = HOME, name: str | None = None, log: bool = True, lease_s: float = 30.0, num_starting: int = 8
    ) -> None:
        """`name`, and those of boxes: letters, digits, `_`, `.` and `-`; anything else is a ValueError."""
        self.name = secrets.token_hex(4) if name is None else name
        check_name("pool", self.name)
        home = folder.expanduser().resolve()
        self.folder = home / "pools" / self.name
        self.log_folder = home / "logs" / self.name if log else None
        self._log: CommandLog | None = None
        self.lease_s, self.num_starting = lease_s, num_starting
        self._keeper: Agent | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._boxes: dict[str, Box] = {}
        self._last = 0

    async def __aenter__(self) -> Pool:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Starts the keeper, or finds the one that an owner of the same name has left.

        Raises:
            BoxUnavailableError: it did not come up; with what it said.
        """
        await self._open_keeper()
        if self.log_folder is not None:
            self._log = await asyncio.to_thread(CommandLog, self.log_folder)

    async def _open_keeper(self) -> None:
        await asyncio.to_thread(gc.collect, self.folder.parents[1])
        self.folder.mkdir(parents=True, mode=0o711, exist_ok=True)
        try:
            self._keeper = await Agent.connect(self.folder / SOCKET_NAME)
        except OSError:
            await self._start_keeper()
        await self.tell("own")

    async def _start_keeper(self) -> None:
        words = [
            "-m",
            "sandbox.keeper",
            str(self.folder),
            "--lease-s",
            str(self.lease_s),
            "--num-starting",
            str(self.num_starting),
        ]
        said = self.folder / "keeper.txt"
        with said.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, *words], stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
                cwd=Path(__file__).resolve().parents[1],
            )  # fmt: skip
        deadline = time.monotonic() + START_LIMIT_S
        while True:
            with contextlib.suppress(OSError):
                self._keeper = await Agent.connect(self.folder / SOCKET_NAME)
                return
            if self._process.poll() not in (None, KEPT_ALREADY) or time.monotonic() > deadline:
                raise BoxUnavailableError(f"the pool's keeper did not start: {said.read_text(errors='replace')[-2000:]}")
            await asyncio.sleep(0.01)

    async def close(self) -> None:
        """Ends every box; returns when nothing of them is left."""
        for box in self._boxes.values():
            box.close_connection()
        self._boxes.clear()
        await self._close_keeper()
        if self._log is not None:
            await asyncio.to_thread(self._log.close)
            self._log = None

    async def _close_keeper(self) -> None:
        if self._keeper is not None:
            with contextlib.suppress(BoxLostError):  # it was killed, and its boxes with it
                await self.tell("close")
            self._keeper.close()
            self._keeper = None
        if self._process is not None:
            await asyncio.to_thread(self._process.wait, CLOSE_LIMIT_S)

    async def create(
        self,
        layer: LayerName | str = LayerName.FUNCTION,
        *,
        image: str | None = None,
        runtime: Runtime | str = Runtime.CRUN,
        limits: Limits | None = None,
        network: Sequence[str] = (),
        stateless: bool = False,
        ttl_s: float = 3600.0,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Box:
        """A new box; or the one of this name that an earlier owner of this pool has made, gone or not.

        Args:
            network: host:port pairs that it may reach, by an HTTP proxy; see `Box.set_network`.
            labels: for `polymath sandbox ps`; boxes that wait to be started take turns by the label `run`.

        Raises:
            UnsupportedError: the layer cannot be that. BoxUnavailableError: it did not come up.
        """
        check_labels(labels := dict(labels or {}))
        name, is_named = secrets.token_hex(4) if name is None else name, name is not None
        check_name("box", name)
        rules_of(network)
        spec = BoxSpec(LayerName(layer), image, Runtime(runtime), limits or Limits(), tuple(network), stateless, ttl_s)
        box_id = f"{self.name}-{name}"
        if is_named and (box := await self._again(box_id, spec.limits, stateless=stateless)) is not None:
            return box
        facts = (await self.tell("create", box=box_id, spec=asdict(spec), labels=labels))["box"]
        box = self._lend(Box(box_id, spec.limits, await self._reach(facts), None if stateless else self._log, self))
        await box.open_network(spec.network)
        return box

    async def warm(
        self,
        count: int,
        layer: LayerName | str = LayerName.FUNCTION,
        *,
        image: str | None = None,
        runtime: Runtime | str = Runtime.CRUN,
        limits: Limits | None = None,
        stateless: bool = False,
    ) -> None:
        """Keeps this many boxes ready that are equal to what `create` will be asked for; returns once they are.

        Raises:
            UnsupportedError: the layer cannot be that. BoxUnavailableError: one did not come up.
        """
        spec = BoxSpec(LayerName(layer), image, Runtime(runtime), limits or Limits(), stateless=stateless)
        await self.tell("warm", spec=asdict(spec), count=count)

    async def release(self, box: Box) -> None:
        """Gives a box back that is not needed any more: where such boxes are kept ready it is made as new, else ended."""
        self._boxes.pop(box.box_id, None)
        box.close_connection()
        await self.tell("release", box=box.box_id)

    async def find(self, box_id: str, limits: Limits) -> Box:
        """The box of this id, which has been made; it may be gone."""
        box = await self._again(box_id, limits, stateless=False)
        return box or self._lend(Box(box_id, limits, None, self._log, self))

    async def reach(self, box_id: str) -> Reach:
        """A new connection to a living box."""
        return await self._reach(await self._facts(box_id) or {})

    async def _again(self, box_id: str, limits: Limits, *, stateless: bool) -> Box | None:
        """A box that was made before, by this owner or an earlier one; None where there is neither a box nor a record of it."""
        log, facts = None if stateless else self._log, await self._facts(box_id)
        if facts is not None:
            reach = await self._reach(facts) if facts["alive"] else None
            box = self._lend(Box(box_id, limits, reach, log, self, came_back=True))
            await box.open_network(facts["network"])
            return box
        if log is not None and log.find(box_id, 1) is not None:
            return self._lend(Box(box_id, limits, None, log, self))
        return None

    async def _facts(self, box_id: str) -> dict[str, Any] | None:
        facts: dict[str, Any] | None = (await self.tell("facts", box=box_id))["box"]
        return facts

    async def _reach(self, facts: dict[str, Any]) -> Reach:
        try:
            agent = await Agent.connect(Path(facts["socket"]))
        except (OSError, TimeoutError) as error:
            raise BoxUnavailableError(f"box {facts['id']} did not take a connection: {error}") from error
        group = None if facts["cgroup"] is None else Cgroup(facts["cgroup"])

        async def counters() -> Counters:
            return Counters() if group is None else group.counters()

        return Reach(agent, counters, facts["user"], facts["shares_fate"])

    def _lend(self, box: Box) -> Box:
        self._boxes[box.box_id] = box
        return box

    async def destroy(self, box: Box) -> None:
        """Ends a box; returns when nothing of it is left."""
        self._boxes.pop(box.box_id, None)
        box.close_connection()
        await self.tell("destroy", box=box.box_id)

    async def tell(self, op: str, **words: Any) -> dict[str, Any]:
        """What the keeper answers.

        Raises:
            What went wrong there, as itself. BoxUnavailableError: it does not answer.
        """
        if self._keeper is None:
            raise BoxUnavailableError("the pool is not open")
        self._last += 1
        try:
            async with asyncio.timeout(TELL_LIMIT_S):
                reply, _ = await self._keeper.ask({"op": op, "id": self._last, **words})
        except TimeoutError:
            raise BoxUnavailableError(f"the pool's keeper has not done `{op}` within {TELL_LIMIT_S:.0f} s") from None
        if "error" in reply:
            raise KINDS.get(str(reply.get("kind")), BoxUnavailableError)(reply["error"])
        return reply


async def boxes_below(home: Path) -> list[dict[str, Any]]:
    """What every living keeper below this folder says of its boxes."""
    found = list[dict[str, Any]]()
    for folder in sorted((home / "pools").glob("*/")):
        try:
            keeper = await Agent.connect(folder / SOCKET_NAME)
        except (OSError, TimeoutError):
            continue  # it has just gone, or was killed
        try:
            after = 0
            while page := (await keeper.ask({"op": "list", "id": 1, "after": after}))[0]["boxes"]:
                found += page
                after = page[-1]["number"]
        finally:
            keeper.close()
    return found
