"""Mistakes of a sandbox's user: each is named, nothing is harmed by it, and a box stays usable."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from sandbox.blocking import BlockingPool
from sandbox.errors import BoxUnavailableError
from sandbox.pool import Pool
from sandbox.spec import BoxSpec, LayerName, Limits

needs_bubblewrap = pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bubblewrap: apt-get install bubblewrap")


@pytest.mark.parametrize("name", ["..", ".", "", "../../elsewhere", "a/b", "a b", "x" * 61])
def test_a_pool_has_no_name_that_leads_to_another_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"pool: got .*; a name has at most 60 letters"):
        Pool(folder=tmp_path, name=name)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"memory_bytes": "1g"}, "memory_bytes: got '1g'; it must be a whole number"),
        ({"memory_bytes": 1.5e9}, "memory_bytes: got 1500000000.0; it must be a whole number"),
        ({"memory_bytes": 1 << 70}, "memory_bytes: got .*; at most"),
        ({"num_pids": 1 << 40}, "num_pids: got .*; at most 4194304"),
        ({"num_files": 1 << 30}, "num_files: got .*; at most 1048576"),
        ({"cpus": math.nan}, "cpus: got nan; it must be a number"),
        ({"cpus": math.inf}, "cpus: got inf; it must be a number"),
        ({"cpus": 1e-9}, "cpus: got 1e-09; at least 0.01"),
        ({"wall_s": math.nan}, "wall_s: got nan; it must be a number"),
        ({"wall_s": None}, "wall_s: got None; it must be a number"),
    ],
)
def test_limits_that_no_box_can_have_are_named(limits: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Limits(**limits)


def test_a_lifetime_that_is_no_number_is_none() -> None:
    with pytest.raises(ValueError, match="ttl_s: got nan"):
        BoxSpec(LayerName.FUNCTION, ttl_s=math.nan)


def test_a_pool_that_nobody_has_opened_says_so(tmp_path: Path) -> None:
    pool = BlockingPool(Pool(folder=tmp_path))
    with pytest.raises(BoxUnavailableError, match="not open; write `with BlockingPool"):
        pool.create()


@needs_bubblewrap
def test_what_is_asked_wrong_of_a_pool_or_a_box_harms_neither(tmp_path: Path) -> None:
    with BlockingPool(Pool(folder=tmp_path)) as pool:
        box = pool.create(name="one")
        with pytest.raises(ValueError, match="layer: got 'vmm'; allowed: function, container, microvm, vm"):
            pool.create("vmm")
        with pytest.raises(ValueError, match="runtime: got 'podman'; allowed: crun, runsc, docker"):
            pool.create("container", runtime="podman")
        for name in ("../two", ""):
            with pytest.raises(ValueError, match="box: got "):
                pool.create(name=name)
        for wrong in (lambda: pool.create(network="pypi.org:443"), lambda: box.set_network("pypi.org:443")):
            with pytest.raises(TypeError, match=r"network: got 'pypi.org:443'; write a list"):
                wrong()
        with pytest.raises(ValueError, match="wall_s: got nan"):
            box.exec("true", wall_s=math.nan)
        assert box.exec("true").ok
