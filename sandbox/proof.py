"""Whether this machine has a kind of box: shown by a program that ran in one, and never by what is installed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

from sandbox.errors import SandboxError
from sandbox.pool import Pool
from sandbox.spec import BoxSpec, LayerName, Runtime

PAYLOAD, ANSWER = ["python3", "-c", "print(6 * 7)"], "42\n"
NO_IMAGE = "no image to try it with; build one: polymath sandbox image build debian debian"


def kinds(layers: Sequence[LayerName] = tuple(LayerName)) -> Iterator[BoxSpec]:
    """One of each: the layers, and of containers all that can run them."""
    for layer in layers:
        runtimes = list(Runtime) if layer is LayerName.CONTAINER else [Runtime.CRUN]
        yield from (BoxSpec(layer, runtime=runtime) for runtime in runtimes)


async def why_not(pool: Pool, spec: BoxSpec, images: Sequence[str], limit_s: float) -> str | None:
    """Why such a box cannot be had here, with any of these images; None where one ran the payload."""
    if spec.layer is LayerName.FUNCTION:
        images = [""]
    why: str | None = NO_IMAGE if not images else f"no answer within {limit_s:.0f} s"
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            for image in images:
                why = await _try(pool, replace(spec, image=image or None, ttl_s=2 * limit_s))
                if why is None:
                    return None
    return why


async def _try(pool: Pool, spec: BoxSpec) -> str | None:
    try:
        box = await pool.create(spec.layer, image=spec.image, runtime=spec.runtime, limits=spec.limits, ttl_s=spec.ttl_s)
        done = await box.exec(PAYLOAD, wall_s=spec.ttl_s)
        await pool.destroy(box)
    except (SandboxError, OSError) as error:
        return str(error)
    if done.stdout.text == ANSWER:
        return None
    return f"`{' '.join(PAYLOAD)}` came to {done.verdict}: {done.stderr.text.strip()[-200:]}"
