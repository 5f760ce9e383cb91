"""Probes of every layer's containment, and their controls: what is contained inside succeeds outside."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.blocking import BlockingPool
from sandbox.pool import Pool
from tests import boxes
from tests.containment.probe import Probe
from tests.containment.scene import Scene, controls
from tests.containment.table import BY_CHANCE, LAYERS, OPEN, PROBES

QUICK = ("function", "crun")  # whose commands take milliseconds


@pytest.fixture(scope="module")
def pool(sandbox_home: Path) -> Iterator[BlockingPool]:
    with boxes.engine(), BlockingPool(Pool(folder=sandbox_home)) as pool:
        yield pool


@pytest.mark.parametrize("layer", [name if name in QUICK else pytest.param(name, marks=pytest.mark.full) for name in LAYERS])
def test_nothing_gets_out_but_what_is_declared(pool: BlockingPool, layer: str) -> None:
    if reason := boxes.lacking(layer):
        pytest.skip(reason)
    found = Scene(pool, boxes.words(layer, pool.pool.folder.parents[1])).run(PROBES)
    said = {name: f"{outcome.kind}: {outcome.said}" for name, outcome in found.items() if outcome.kind != "contained"}
    escaped = {name for name, outcome in found.items() if outcome.kind == "escaped"}
    declared = {name for on, name in OPEN if on == layer}
    assert escaped <= declared, said
    assert declared - escaped <= {name for on, name in BY_CHANCE if on == layer}, said
    assert not [name for name, outcome in found.items() if outcome.kind == "broken"], said


@pytest.mark.full
def test_outside_a_box_the_same_programs_succeed() -> None:
    if reason := boxes.lacking("crun"):
        pytest.skip(reason)
    found = controls(PROBES)
    assert {name: outcome.said for name, outcome in found.items() if outcome.kind == "broken"} == {}
    assert sum(outcome.kind == "shown" for outcome in found.values()) > 100


def test_a_probe_that_fails_for_another_reason_is_broken(pool: BlockingPool) -> None:
    probes = [
        Probe("typo", "return no_such_name"),
        Probe("out", "return 'it is out'"),
        Probe("in", "raise PermissionError(1, 'no')"),
    ]
    found = Scene(pool, {"layer": "function"}).run(probes)
    assert [outcome.kind for outcome in found.values()] == ["broken", "escaped", "contained"]
