"""Imports of torch and what is built on it: seconds, of which Python's collector of garbage takes a fifth and finds none."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """No garbage is looked for meanwhile, and what is there afterwards, which stays, is not looked through again."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
