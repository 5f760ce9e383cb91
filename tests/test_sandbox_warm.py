"""Boxes that are ready before anyone asks: handed over, replaced, and as new when they come back."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from sandbox import gc
from sandbox.blocking import BlockingBox, BlockingPool
from sandbox.errors import BoxUnavailableError, UnsupportedError
from sandbox.pool import Pool
from sandbox.spec import BoxSpec, LayerName, Limits
from sandbox.warm import Shelf
from tests import test_sandbox
from tests.test_sandbox import SMALL, left_of

home, engine, pool, image = test_sandbox.home, test_sandbox.engine, test_sandbox.pool, test_sandbox.image


def number_of(pool: BlockingPool, box: BlockingBox) -> int:
    """Of the box as its keeper counts them, in the order in which they were started."""
    facts = pool.wait(pool.pool._facts(box.box.box_id))
    assert facts is not None
    return int(facts["number"])


def test_a_box_that_is_ready_is_handed_over_and_replaced(pool: BlockingPool) -> None:
    pool.warm(2, "function", limits=SMALL)
    cold = pool.create("function")  # of another kind
    boxes = [pool.create("function", limits=SMALL) for _ in range(2)]
    assert all(number_of(pool, box) < number_of(pool, cold) for box in boxes)
    assert all(box.exec("echo $$ > /tmp/x; ls /tmp").stdout.text == "work\nx\n" for box in boxes)
    pool.warm(1, "function", limits=SMALL)
    third = pool.create("function", limits=SMALL, ttl_s=50)  # of the same kind, though it lives for less
    assert number_of(pool, third) > number_of(pool, cold)
    for box in (*boxes, third, cold):
        pool.release(box)
    pool.warm(0, "function", limits=SMALL)
    assert not [line for line in left_of(pool.pool.name) if "ready" in line]
    with pytest.raises(UnsupportedError, match="image: got 'py'"):
        pool.warm(1, "function", image="py")
    pool.warm(0, "function", image="py")


def test_a_function_box_is_made_as_new(pool: BlockingPool) -> None:
    box, look = pool.create("function", limits=SMALL), "find /tmp /dev/shm | sort; stat -c %a /tmp/work; pgrep sleep; ipcs -m"
    fresh = box.exec(look).stdout.text
    leave = "cd /tmp; mkdir -p work/a/b; echo 1 > work/a/b/c; chmod 0 work/a; ln -s / root; echo x > /dev/shm/x; ipcmk -M 100"
    for paused in (False, True):
        assert box.exec(f"{leave}; (setsid sleep 1000 &)").ok
        running = box.start("while :; do sleep 1; done")
        assert box.exec(look).stdout.text != fresh
        if paused:
            box.pause()
        box.reset()
        assert box.exec(look).stdout.text == fresh
        assert box.python("f", source="def f():\n    return 7\n").value == 7
        del running
    with pytest.raises(UnsupportedError, match="reset"):
        pool.create("function", stateless=True).reset()
    pool.destroy(box)


def test_a_box_that_comes_back_is_as_new(pool: BlockingPool, image: str) -> None:
    pool.warm(1, "container", image=image, limits=SMALL)
    box = pool.create("container", image=image, limits=SMALL)
    [fork] = box.fork(1)
    pool.warm(1, "container", image=image, limits=SMALL)  # the one that was started in its place
    pool.warm(3, "container", image=image, limits=SMALL)
    for used in (box, fork):
        used.exec("echo mine > /tmp/mine; mkdir /tmp/folder; touch /var/tmp/other; (setsid sleep 1000 &)")
        used.snapshot()
        used.pause()
        pool.release(used)
    boxes = [pool.create("container", image=image, limits=SMALL) for _ in range(4)]
    for again in boxes:
        assert again.exec("ls /tmp /var/tmp; pgrep sleep").stdout.text == "/tmp:\n\n/var/tmp:\n"
        assert again.diff() == []
        with pytest.raises(ValueError, match="which this box has not taken"):
            again.rollback("s2")
    assert boxes[0].exec("echo x > /tmp/x").ok
    boxes[0].reset()
    assert boxes[0].exec("ls /tmp").stdout.text == ""
    pool.warm(0, "container", image=image, limits=SMALL)
    for again in boxes:
        pool.destroy(again)


def test_who_wants_a_box_that_cannot_be_started_ahead_is_told() -> None:
    class Box:
        lives = True

    started = list[Box]()

    async def start(spec: BoxSpec) -> Box:
        await asyncio.sleep(0)
        if len(started) == 3:
            raise BoxUnavailableError("no more")
        started.append(Box())
        return started[-1]

    async def scenario() -> None:
        shelf, spec = Shelf(start), BoxSpec(LayerName.FUNCTION, limits=Limits())
        assert shelf.take(spec) is None
        assert await shelf.keep(spec, 2) == []
        started[0].lives = False
        assert shelf.take(BoxSpec(LayerName.FUNCTION, limits=Limits(), ttl_s=7)) is started[1]
        with pytest.raises(BoxUnavailableError, match="no more"):
            await shelf.keep(spec, 5)
        assert shelf.wants(spec)
        assert await shelf.keep(spec, 0) == [started[2]]
        assert not shelf.wants(spec)
        assert await shelf.close() == []

    asyncio.run(scenario())


def test_a_pool_that_closes_ends_what_was_ready(tmp_path: Path) -> None:
    with BlockingPool(Pool(folder=tmp_path)) as pool:
        pool.warm(2, "function")
        pool.create("function")
        name = pool.pool.name
        assert len(left_of(name)) > 3
    assert not left_of(name)
    assert not os.path.exists(pool.pool.folder)


def test_what_a_dead_pool_left_is_not_taken_for_that_of_one_whose_name_begins_alike(tmp_path: Path) -> None:
    with BlockingPool(Pool(folder=tmp_path, name="run-2")) as pool:
        box = pool.create("function")
        dead = tmp_path / "pools" / "run"
        dead.mkdir()
        (dead / "lock").touch()
        assert gc.collect(tmp_path) == ["run"]
        assert box.exec("echo fine").stdout.text == "fine\n"
