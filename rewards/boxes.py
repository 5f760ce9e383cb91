"""Boxes for rewards: what a reward function gets as `boxes` or `box`, by the recipe's `sandbox` section.

The pool is opened at the first use, in the process that the rewards run in, and ends with that process; a box is used by one
completion alone. A box's own failure is a SandboxError: the score fails, it is never a zero. Called by `rewards.calls`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator

from rewards.config import SandboxConfig
from sandbox.blocking import BlockingBox, BlockingPool
from sandbox.box import Box
from sandbox.pool import Pool
from sandbox.spec import BoxSpec, LayerName, Limits, Runtime

LEASE_S = 2.0  # that boxes outlive a process which is killed
LABELS = {"use": "rewards"}  # as `polymath sandbox ps` shows them


class Boxes:
    """Boxes for an async reward: `async with boxes.box() as box: await box.exec("...")`. At most `num_boxes` at once."""

    def __init__(self, config: SandboxConfig) -> None:
        self.config = config
        self._free = asyncio.Semaphore(config.num_boxes)
        self._opening = asyncio.Lock()
        self._pool: Pool | None = None
        self._kept: set[BoxSpec] = set()  # kinds that are kept ready
        self._for_calls: list[tuple[float, Box]] = []  # free ones that are stateless, and when each was made
        self._warming: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def box(self, *, limits: Limits | None = None) -> AsyncIterator[Box]:
        """A box that nobody has used, or one that was made as new; it ends with the block. `limits`: others than the recipe's.

        Raises:
            SandboxError: none can be had; in the block also: it was lost.
        """
        spec = spec_of(self.config, limits)
        async with self._free:
            pool = await self._open()
            self._keep_ready(pool, spec)
            box = await pool.create(
                spec.layer, image=spec.image, runtime=spec.runtime, limits=spec.limits, ttl_s=spec.ttl_s, labels=LABELS
            )
            try:
                yield box
            finally:
                await pool.release(box)

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
        async with self._free:
            pool = await self._open()
            born, box = await self._stateless(pool)
            try:
                yield box
            except BaseException:  # it may be in the middle of a call
                await pool.destroy(box)
                raise
            self._for_calls.append((born, box))

    async def _stateless(self, pool: Pool) -> tuple[float, Box]:
        spec, now = spec_of(self.config, None), time.monotonic()
        while self._for_calls:
            born, box = self._for_calls.pop()
            if now - born < spec.ttl_s / 2:
                return born, box
            await pool.destroy(box)
        return now, await pool.create(spec.layer, limits=spec.limits, stateless=True, ttl_s=spec.ttl_s, labels=LABELS)

    async def close(self) -> None:
        """Ends every box."""
        for task in self._warming:
            task.cancel()
        await asyncio.gather(*self._warming, return_exceptions=True)
        pool, self._pool = self._pool, None
        self._for_calls.clear()
        if pool is not None:
            await pool.close()

    async def _open(self) -> Pool:
        async with self._opening:
            if self._pool is None:
                pool = Pool(log=False, lease_s=LEASE_S)
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

    @contextlib.contextmanager
    def box(self) -> Iterator[BlockingBox]:
        """As `Boxes.box`."""
        spec = self._spec
        if self._pool is None:
            self._pool = self._stack.enter_context(BlockingPool(Pool(log=False, lease_s=LEASE_S)))
            self._pool.wait(_warm(self._pool.pool, spec, 1))
        box = self._pool.create(
            spec.layer, image=spec.image, runtime=spec.runtime, limits=spec.limits, ttl_s=spec.ttl_s, labels=LABELS
        )
        try:
            yield box
        finally:
            self._pool.release(box)

    def close(self) -> None:
        self._stack.close()
        self._pool = None


def spec_of(config: SandboxConfig, limits: Limits | None) -> BoxSpec:
    """The box that the recipe asks for."""
    own = Limits(memory_bytes=config.memory_bytes, wall_s=config.wall_s)
    return BoxSpec(LayerName(config.layer), config.image, Runtime(config.runtime), limits or own)


async def _warm(pool: Pool, spec: BoxSpec, count: int) -> None:
    with contextlib.suppress(Exception):  # whoever asks for such a box next is told
        await pool.warm(count, spec.layer, image=spec.image, runtime=spec.runtime, limits=spec.limits)
