"""Inspect AI's checks of what any sandbox must do, put to boxes of every layer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("inspect_ai", reason="needs inspect-ai: make env-peers")

from inspect_ai.util._sandbox.self_check import *  # noqa: F403

from sandbox.pool import Pool
from sandbox.spec import Limits
from tests import boxes
from tests.inspect_box import FOLDER, BoxEnvironment

pytestmark = pytest.mark.anyio
ROOM = Limits(memory_bytes=512 << 20, disk_bytes=256 << 20, keep_bytes=2 << 20, wall_s=60.0)
NO_OTHER_USERS = "all commands of a function box run as one user"


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module", params=["function", "crun", "microvm"])
def layer(request: pytest.FixtureRequest, sandbox_home: Path) -> dict[str, Any]:
    lacking = boxes.lacking(request.param)
    if lacking is not None:
        pytest.skip(lacking)
    return boxes.words(request.param, sandbox_home)


@pytest.fixture(scope="module")
async def environment(layer: dict[str, Any], sandbox_home: Path, anyio_backend: str) -> AsyncIterator[BoxEnvironment]:
    async with Pool(folder=sandbox_home) as pool:
        box = await pool.create(**layer, limits=ROOM)
        await box.exec(["mkdir", FOLDER])
        yield BoxEnvironment(box)


@pytest.fixture
def sandbox_env(environment: BoxEnvironment, layer: dict[str, Any], request: pytest.FixtureRequest) -> BoxEnvironment:
    if layer["layer"] == "function" and getattr(request.node, "originalname", "") == "test_exec_as_user":
        request.node.add_marker(pytest.mark.xfail(strict=True, reason=NO_OTHER_USERS))
    return environment
