"""Benchmarks and campaigns are not run here, but what they import must be there."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SCRIPTS = [f"tests.{path.parent.name}.{path.stem}" for path in sorted([*HERE.glob("bench/*.py"), *HERE.glob("soak/*.py")])]


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_finds_what_it_imports(name: str) -> None:
    assert importlib.import_module(name).__doc__ or name.endswith("__init__")
