"""Brings up what a run's workers run on: nothing, a Ray of the run's own, or a cluster that is there already."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rewards.errors import UserError
from rl.config import RuntimeConfig

ROOT = Path(__file__).resolve().parent.parent
# What of the checkout other nodes need not get; patterns as in .gitignore, which Ray reads as well.
EXCLUDES = (
    "/.*/", "/runs/", "/tests/", "/docs/", "/build/", "__pycache__/", "*.egg-info/",
    "*.safetensors", "*.pt", "*.bin", "*.parquet",
)  # fmt: skip
CONNECT_S = 10.0


@contextlib.contextmanager
def ray_runtime(config: RuntimeConfig) -> Iterator[None]:
    """Ray, as the recipe says; a Ray of the run's own ends with it, a cluster loses the run's actors alone.

    Raises:
        UserError: Ray is not installed; the cluster cannot be reached from here, or has other versions.
    """
    if config.mode == "inline":
        yield
        return
    try:
        import ray
    except ImportError:
        raise UserError(
            "runtime: got ray, which is not installed; install it (`make env`) or run with runtime=inline"
        ) from None
    if config.address is None:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        _init(address="local", include_dashboard=False, env={"env_vars": {"PYTHONPATH": path}})
    else:
        _join(config.address)
    try:
        yield
    finally:
        ray.shutdown()


def _join(address: str) -> None:
    """Connects to a running cluster; its nodes get this checkout's code from Ray."""
    if address != "auto":
        host, _, port = address.rpartition(":")
        try:  # Ray itself would try for a minute
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
        except (OSError, OverflowError) as error:
            raise UserError(f"runtime.address: got {address}, where nothing answers ({error}); {_HINT}") from error
    try:
        _init(address=address, env={"working_dir": str(ROOT), "excludes": list(EXCLUDES)})
    except (ConnectionError, RuntimeError, ValueError) as error:
        text = " ".join(str(error).split())
        if "Version mismatch" in text:
            hint = "start every node with the same versions of Python and Ray as this environment has"
            raise UserError(f"runtime.address: got {address}, a cluster of other versions: {text}; {hint}") from error
        raise UserError(f"runtime.address: got {address}, which cannot be joined: {text}; {_HINT}") from error


_HINT = (
    "start a cluster with `ray start --head`, and on every other machine `ray start --address=HEAD:6379`, this one included; "
    "or leave runtime.address out for a Ray of the run's own"
)


def _init(*, address: str, env: dict[str, Any], **options: Any) -> None:
    import ray

    variables = {**env.pop("env_vars", {}), "TOKENIZERS_PARALLELISM": "false"}
    ray.init(address=address, log_to_driver=False, logging_level="ERROR", runtime_env={**env, "env_vars": variables}, **options)
