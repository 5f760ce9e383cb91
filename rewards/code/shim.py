"""What tests use of pytest, `raises` and `approx`, for a box that does not have it. Its source is sent into boxes."""

from __future__ import annotations

import contextlib
import math
import sys
import types
from typing import Any


def offer_pytest() -> None:
    """Has `import pytest` find pytest, or else these two."""
    try:
        import pytest  # noqa: F401
    except ImportError:
        module: Any = types.ModuleType("pytest")
        module.raises, module.approx = _raises, _Approx
        sys.modules["pytest"] = module


@contextlib.contextmanager
def _raises(expected: Any, match: str | None = None) -> Any:
    import re

    found = types.SimpleNamespace(value=None, type=None)
    try:
        yield found
    except expected as error:
        found.value, found.type = error, type(error)
        if match is not None and re.search(match, str(error)) is None:
            raise AssertionError(f"{error} does not match {match!r}") from None
        return
    raise AssertionError(f"did not raise {expected}")


class _Approx:
    def __init__(self, expected: Any, rel: float = 1e-6, abs: float = 1e-12) -> None:
        self._expected, self._rel, self._abs = expected, rel, abs

    def __eq__(self, found: object) -> bool:
        expected = self._expected
        if isinstance(expected, dict) and isinstance(found, dict):
            return found.keys() == expected.keys() and all(self._again(expected[key]) == found[key] for key in expected)
        if isinstance(expected, (list, tuple)) and type(found) is type(expected):
            return len(found) == len(expected) and all(self._again(a) == b for a, b in zip(expected, found, strict=True))
        if isinstance(expected, (int, float)) and isinstance(found, (int, float)):
            return math.isclose(found, expected, rel_tol=self._rel, abs_tol=self._abs)
        return bool(found == expected)

    __hash__ = None  # type: ignore[assignment]

    def _again(self, expected: Any) -> _Approx:
        return _Approx(expected, self._rel, self._abs)
