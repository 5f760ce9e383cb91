"""Brings up what a run's workers run on: nothing, a Ray of the run's own, or a cluster that is there already."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from rewards.errors import UserError
from rl.config import EngineName, RuntimeConfig

ROOT = Path(__file__).resolve().parent.parent
# What of the checkout other nodes need not get; patterns as in .gitignore, which Ray reads as well.
EXCLUDES = (
    "/.*/", "/runs/", "/tests/", "/docs/", "/build/", "__pycache__/", "*.egg-info/",
    "*.safetensors", "*.pt", "*.bin", "*.parquet",
)  # fmt: skip
CONNECT_S = 10.0


def check_engine(engine: EngineName, runtime: RuntimeConfig) -> None:
    """Before anything is trained: the recipe's engine is installed. Of a cluster's nodes this machine knows nothing.

    Raises:
        UserError: it is not.
    """
    if engine == "vllm" and runtime.address is None and importlib.util.find_spec("vllm") is None:
        raise UserError("engine: got vllm, which is not installed; add it with `make env-vllm`, or run with engine=torch")


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
        _start_own()
    else:
        _join(config.address)
    try:
        yield
    finally:
        ray.shutdown()


def _join(address: str) -> None:
    """Connects to a running cluster; its nodes get this checkout's code from Ray."""
    import ray

    if address != "auto":
        host, _, port = address.rpartition(":")
        try:  # Ray itself would try for a minute
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
        except (OSError, OverflowError) as error:
            raise UserError(f"runtime.address: got {address}, where nothing answers ({error}); {_HINT}") from error
    try:
        env = {"working_dir": str(ROOT), "excludes": list(EXCLUDES), "env_vars": _variables()}
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", runtime_env=env)
    except (ConnectionError, RuntimeError, ValueError) as error:
        text, hint = _whole_text(error), _HINT
        if "Version mismatch" in text:
            hint = "start every node with the versions of Python and Ray that this environment has"
        elif "auth" in text.lower():
            hint = (
                "set RAY_AUTH_MODE=token where the cluster was started so, with its token in ~/.ray/auth_token on every machine"
            )
        raise UserError(f"runtime.address: got {address}, which cannot be joined: {text}; {hint}") from error


def _whole_text(error: BaseException | None) -> str:
    """The messages of an error and of those that led to it, shortened; of a traceback in them its last line."""
    found = list[str]()
    while error is not None:
        text = str(error).strip()
        text = text.splitlines()[-1] if "Traceback" in text else " ".join(text.split())
        found.append(text[:300])
        error = error.__cause__ or error.__context__
    return ": ".join(dict.fromkeys(found))


_HINT = (
    "start a cluster with `ray start --head`, and on every other machine `ray start --address=HEAD:6379`, this one included; "
    "or leave runtime.address out for a Ray of the run's own"
)


def _start_own() -> None:
    """A Ray of this machine. Its workers get their variables from here: those that it starts ahead of need can then be used."""
    import ray

    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    before = dict(os.environ)
    os.environ |= {**_variables(), "PYTHONPATH": path}
    try:
        ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    finally:
        for name in ("PYTHONPATH", *_variables()):
            os.environ.pop(name, None)
            if name in before:
                os.environ[name] = before[name]


def _variables() -> dict[str, str]:
    spinning = {"GOMP_SPINCOUNT": count} if (count := os.environ.get("GOMP_SPINCOUNT")) else {}  # see `_share_cores`
    return {**spinning, "TOKENIZERS_PARALLELISM": "false"}
