"""Boxes for rewards: what a reward function gets as `boxes` or `box`, by the recipe's `sandbox` section.

The pool is opened at the first use, in the process that the rewards run in, and ends with that process; a box is used by one
completion alone. A box's own failure is a SandboxError: the score fails, it is never a zero. Called by `rewards.calls`.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

from rewards.config import SandboxConfig
from rewards.errors import UserError
from sandbox.blocking import BlockingBox, BlockingPool
from sandbox.box import Box
from sandbox.errors import BoxLostError, SandboxError
from sandbox.pool import HOME, Pool
from sandbox.proof import ANSWER, PAYLOAD
from sandbox.spec import BoxSpec, LayerName, Limits, Runtime

LEASE_S = 2.0  # that boxes outlive a process which is killed
MADE_AS_NEW = (LayerName.FUNCTION, LayerName.CONTAINER)  # layers whose boxes serve one after another
PROOF_S = 60.0  # for the smallest program in the first box, on a machine that is overloaded
LABELS = {"use": "rewards"}  # as `polymath sandbox ps` shows them


T = TypeVar("T")


class Clock:
    """The time of one call, which stands still while the call waits for a box."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._waited_s = 0.0
        self._num_waiting, self._since = 0, 0.0

    @property
    def elapsed_s(self) -> float:
        now = time.monotonic()
        waits = now - self._since if self._num_waiting else 0.0
        return now - self._began - self._waited_s - waits

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        if not self._num_waiting:
            self._since = time.monotonic()
        self._num_waiting += 1
        try:
            yield
        finally:
            self._num_waiting -= 1
            if not self._num_waiting:
                self._waited_s += time.monotonic() - self._since


clock: contextvars.ContextVar[Clock | None] = contextvars.ContextVar("clock", default=None)  # of the call that runs
_holds_one: contextvars.ContextVar[bool] = contextvars.ContextVar("holds_one", default=False)


class Boxes:
    """Boxes for an async reward: `async with boxes.box() as box: await box.exec("...")`. At most `num_boxes` at once,
    beside those that a call takes while it has one.
    """

    def __init__(self, config: SandboxConfig, *, home: Path = HOME, use: str = "rewards") -> None:
        """`home`: the sandbox's folder, which has the images. `use`: what they are for, as `polymath sandbox ps` shows it."""
        self.config, self._home, self._labels = config, home, {"use": use}
        self._free = asyncio.Semaphore(config.num_boxes)
        self._opening = asyncio.Lock()
        self._pool: Pool | None = None
        self._kept: set[BoxSpec] = set()  # kinds that are kept ready
        self._for_calls: list[tuple[float, Box]] = []  # free ones that are stateless, and when each was made
        self._warming: set[asyncio.Task[None]] = set()
        self._as_new: dict[BoxSpec, list[tuple[float, Box]]] = {}  # that have come back, and when each was made

    @contextlib.asynccontextmanager
    async def box(self, *, limits: Limits | None = None) -> AsyncIterator[Box]:
        """A box that nobody has used, or one that was made as new; it ends with the block. `limits`: others than the recipe's.

        Who has a box and asks for another one does not wait for it: else all could wait for each other. The time that a
        call waits for a box does not count for its deadline.

        Raises:
            SandboxError: none can be had; in the block also: it was lost.
        """
        spec = spec_of(self.config, limits)
        async with self._lent(lambda pool: self._create(pool, spec)) as (pool, (born, box)):
            try:
                yield box
            finally:
                await self._give_back(pool, spec, born, box)

    @contextlib.asynccontextmanager
    async def calls(self) -> AsyncIterator[Box]:
        """A box for calls of functions, each of which finds nothing of what was there before it.

        In the function layer it is one of those that, by themselves, end every process and delete every file after each call,
        and that serve for the next block too; in the others it is as `box` gives it, for one call.

        Raises:
            SandboxError: none can be had; in the block also: it was lost.
        """
        if self.config.layer != "function":
            async with self.box() as box:
                yield box
            return
        async with self._lent(self._stateless) as (pool, (born, box)):
            try:
                yield box
            except BaseException:  # it may be in the middle of a call
                await _gone(pool.destroy(box))
                raise
            if pool is self._pool:
                self._for_calls.append((born, box))

    @contextlib.asynccontextmanager
    async def _lent(self, take: Callable[[Pool], Awaitable[T]]) -> AsyncIterator[tuple[Pool, T]]:
        """What `take` gets from the pool, once fewer are lent than there may be."""
        async with contextlib.AsyncExitStack() as stack:
            running = clock.get()
            with running.waiting() if running is not None else contextlib.nullcontext():
                if not _holds_one.get():
                    await stack.enter_async_context(self._free)
                pool = await self._open()
                try:
                    taken = await take(pool)
                except BoxLostError:  # the pool's keeper was killed, and all its boxes with it
                    if self._pool is pool:
                        await self.close()
                    pool = await self._open()
                    taken = await take(pool)
            token = _holds_one.set(True)
            try:
                yield pool, taken
            finally:
                _holds_one.reset(token)

    async def _create(self, pool: Pool, spec: BoxSpec) -> tuple[float, Box]:
        """A box, and when it was made: one that has come back if there is any."""
        now, back = time.monotonic(), self._as_new.get(spec, [])
        while back:
            born, box = back.pop()
            if now - born < spec.ttl_s / 2:
                return born, box
            await _gone(pool.destroy(box))
        if spec.layer not in MADE_AS_NEW:
            self._keep_ready(pool, spec)
        return now, await pool.create(
            spec.layer, image=spec.image, runtime=spec.runtime, limits=spec.limits, ttl_s=spec.ttl_s, labels=self._labels
        )

    async def _give_back(self, pool: Pool, spec: BoxSpec, born: float, box: Box) -> None:
        """Makes it as new for the next one, which is cheaper than another; what cannot be is ended."""
        try:
            if pool is self._pool and spec.layer in MADE_AS_NEW:
                await box.reset()
                self._as_new.setdefault(spec, []).append((born, box))
                return
        except (SandboxError, OSError):
            pass  # it is gone, or will not be as new
        await _gone(pool.release(box))

    async def _stateless(self, pool: Pool) -> tuple[float, Box]:
        spec, now = spec_of(self.config, None), time.monotonic()
        while self._for_calls:
            born, box = self._for_calls.pop()
            if now - born < spec.ttl_s / 2:
                return born, box
            await pool.destroy(box)
        return now, await pool.create(spec.layer, limits=spec.limits, stateless=True, ttl_s=spec.ttl_s, labels=self._labels)

    async def close(self) -> None:
        """Ends every box."""
        for task in self._warming:
            task.cancel()
        await asyncio.gather(*self._warming, return_exceptions=True)
        pool, self._pool = self._pool, None
        self._kept.clear()
        self._for_calls.clear()
        self._as_new.clear()
        if pool is not None:
            await pool.close()

    async def _open(self) -> Pool:
        async with self._opening:
            if self._pool is None:
                pool = Pool(folder=self._home, log=False, lease_s=LEASE_S)
                await pool.open()
                self._pool = pool
            return self._pool

    def _keep_ready(self, pool: Pool, spec: BoxSpec) -> None:
        """From its first use on, boxes of a kind are made ahead. One that does not come up is told to whoever asks for it."""
        if spec in self._kept:
            return
        self._kept.add(spec)
        warming = asyncio.create_task(_warm(pool, spec, self.config.num_boxes))
        self._warming.add(warming)
        warming.add_done_callback(self._warming.discard)


class BlockingBoxes:
    """One box after another for plain functions."""

    def __init__(self, config: SandboxConfig) -> None:
        self._spec = spec_of(config, None)
        self._stack = contextlib.ExitStack()
        self._pool: BlockingPool | None = None
        self._is_warm = False

    @contextlib.contextmanager
    def box(self) -> Iterator[BlockingBox]:
        """As `Boxes.box`."""
        try:
            box = self._create()
        except BoxLostError:  # the pool's keeper was killed
            self.close()
            box = self._create()
        try:
            yield box
        finally:
            with contextlib.suppress(SandboxError):
                box.pool.release(box)

    def close(self) -> None:
        self._stack.close()
        self._pool, self._is_warm = None, False

    def _create(self) -> BlockingBox:
        spec = self._spec
        if self._pool is None:
            self._pool = self._stack.enter_context(BlockingPool(Pool(log=False, lease_s=LEASE_S)))
        elif not self._is_warm:  # a second one is wanted: from now on the next one is made while one is in use
            self._pool.wait(_warm(self._pool.pool, spec, 1))
            self._is_warm = True
        return self._pool.create(
            spec.layer, image=spec.image, runtime=spec.runtime, limits=spec.limits, ttl_s=spec.ttl_s, labels=LABELS
        )


def why_not(config: SandboxConfig) -> str | None:
    """Why no box of this kind can be had here; None where a program ran in one. Not for a running event loop."""

    async def tried() -> str | None:
        boxes = Boxes(config)
        try:
            return await why_none_of(boxes)
        finally:
            await boxes.close()

    return asyncio.run(tried())


def without_boxes(config: SandboxConfig, user: str, why: str) -> UserError:
    """What is said where `user` ("reward 'mine.py:f'") needs a box, and none can be had."""
    return UserError(
        f"sandbox: got layer {config.layer}, and no box of it can be had here, which {user} needs: {why}; "
        "`polymath doctor` says which layers this machine has"
    )


async def why_none_of(boxes: Boxes) -> str | None:
    """The same of boxes that are open."""
    try:
        async with boxes.box() as box:
            done = await box.exec(PAYLOAD, wall_s=PROOF_S)
    except (SandboxError, ValueError) as error:
        return str(error)
    return None if done.stdout.text == ANSWER else f"a program that prints {ANSWER.strip()} came to {done.verdict} there"


def spec_of(config: SandboxConfig, limits: Limits | None) -> BoxSpec:
    """The box that the recipe asks for."""
    own = Limits(memory_bytes=config.memory_bytes, wall_s=config.wall_s)
    return BoxSpec(LayerName(config.layer), config.image, Runtime(config.runtime), limits or own)


async def _gone(giving_back: Awaitable[None]) -> None:
    with contextlib.suppress(SandboxError):  # it is gone already; what came of it stands
        await giving_back


async def _warm(pool: Pool, spec: BoxSpec, count: int) -> None:
    with contextlib.suppress(Exception):  # whoever asks for such a box next is told
        await pool.warm(count, spec.layer, image=spec.image, runtime=spec.runtime, limits=spec.limits)
