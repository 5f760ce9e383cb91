"""The same pool and boxes for code that is not asynchronous: each call waits for its answer.

with BlockingPool() as pool:
    print(pool.create(layer="function").exec("echo hello").stdout.text)
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from sandbox.box import Box, Called
from sandbox.pool import HOME, Pool
from sandbox.result import Result
from sandbox.spec import LayerName, Limits

T = TypeVar("T")


class BlockingPool:
    """A pool whose event loop runs in a thread of its own; from any thread."""

    def __init__(self, *, folder: Path = HOME, lease_s: float = 30.0, num_starting: int = 8) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="sandbox", daemon=True)
        self.pool = Pool(folder=folder, lease_s=lease_s, num_starting=num_starting)

    def __enter__(self) -> BlockingPool:
        self._thread.start()
        self.wait(self.pool.open())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.wait(self.pool.close())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def create(
        self,
        layer: LayerName | str = LayerName.FUNCTION,
        *,
        image: str | None = None,
        limits: Limits | None = None,
        network: tuple[str, ...] = (),
        stateless: bool = False,
        ttl_s: float = 3600.0,
    ) -> BlockingBox:
        made = self.pool.create(layer, image=image, limits=limits, network=network, stateless=stateless, ttl_s=ttl_s)
        return BlockingBox(self, self.wait(made))

    def destroy(self, box: BlockingBox) -> None:
        self.wait(self.pool.destroy(box.box))


class BlockingBox:
    """A box of a blocking pool; see `sandbox.box.Box` for each call."""

    def __init__(self, pool: BlockingPool, box: Box) -> None:
        self._pool, self.box = pool, box

    def exec(
        self,
        command: str | Sequence[str],
        *,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        wall_s: float | None = None,
        on_output: Callable[[str, bytes], None] | None = None,
    ) -> Result:
        return self._pool.wait(self.box.exec(command, stdin=stdin, env=env, cwd=cwd, wall_s=wall_s, on_output=on_output))

    def python(
        self, function: str | Callable[..., Any], *arguments: Any, source: str | None = None, wall_s: float | None = None
    ) -> Called:
        return self._pool.wait(self.box.python(function, *arguments, source=source, wall_s=wall_s))

    def read_file(self, path: str, *, max_bytes: int = 64 << 20) -> bytes:
        return self._pool.wait(self.box.read_file(path, max_bytes=max_bytes))

    def write_file(self, path: str, data: bytes, *, mode: int | None = None) -> None:
        self._pool.wait(self.box.write_file(path, data, mode=mode))

    def pause(self) -> None:
        self._pool.wait(self.box.pause())

    def resume(self) -> None:
        self._pool.wait(self.box.resume())

    def snapshot(self) -> str:
        return self._pool.wait(self.box.snapshot())

    def rollback(self, snapshot: str) -> None:
        self._pool.wait(self.box.rollback(snapshot))

    def fork(self, count: int) -> list[BlockingBox]:
        return [BlockingBox(self._pool, box) for box in self._pool.wait(self.box.fork(count))]

    def diff(self) -> list[tuple[str, str]]:
        return self._pool.wait(self.box.diff())

    def commit(self, name: str) -> None:
        self._pool.wait(self.box.commit(name))
