"""Where boxes go and whose turn it is: the pure code, without a box."""

from __future__ import annotations

import asyncio
import doctest
import random
from collections import Counter

import pytest

from sandbox import fair, placement, spec
from sandbox.fair import FairQueue, Turns
from sandbox.placement import Amount, Ledger, RefusedError, Report, Request, Scheduler
from sandbox.spec import BoxSpec, LayerName, Limits

ROOM = Amount(memory_bytes=10 << 30, num_pids=10_000, num_boxes=20, num_starting=8)
SPEC = BoxSpec(LayerName.FUNCTION, limits=Limits(memory_bytes=1 << 30))


def report(node: str, taken: int = 0, **more: object) -> Report:
    fields = {"room": ROOM, "used": Amount(taken << 30, 128 * taken, taken), **more}
    return Report(node, node, frozenset({"function"}), **fields)  # type: ignore[arg-type]


def scheduler(*reports: Report, k: int | None = 2) -> Scheduler:
    made = Scheduler(random.Random(0), k, max_age_s=5.0)
    for told in reports:
        made.report(told, 0.0)
    return made


def place(made: Scheduler, count: int, label: str = "", asked: BoxSpec = SPEC, now: float = 1.0) -> list[str]:
    for _ in range(count):
        made.submit(Request(asked, label))
    return [node for _, node in made.placements(now)]


@pytest.mark.parametrize("module", [fair, placement, spec])
def test_the_examples_in_the_text_hold(module: object) -> None:
    found = doctest.testmod(module)  # type: ignore[arg-type]
    assert found.attempted
    assert not found.failed


def test_the_least_loaded_of_those_that_are_looked_at_is_taken() -> None:
    reports = [report(f"n{i}", taken=i) for i in range(6)]
    assert place(scheduler(*reports, k=None), 1) == ["n0"]
    two = Counter(node for seed in range(300) for node in _one_of(reports, seed, 2))
    assert "n5" not in two  # it is never the better one of two
    assert two["n0"] > two["n4"]
    assert set(_one_of(reports, 7, 2)) == set(_one_of(reports, 7, 2))
    assert {node for seed in range(300) for node in _one_of(reports, seed, 1)} == {f"n{i}" for i in range(6)}


def _one_of(reports: list[Report], seed: int, k: int) -> list[str]:
    made = Scheduler(random.Random(seed), k, max_age_s=5.0)
    for told in reports:
        made.report(told, 0.0)
    return place(made, 1)


def test_a_full_a_silent_a_refusing_and_an_unable_node_get_nothing() -> None:
    unable = Report("unable", "unable", frozenset(), ROOM)
    made = scheduler(report("full", 10), unable, report("silent"), report("fine", 9))
    for told in (report("full", 10), unable, report("fine", 9)):
        made.report(told, 8.0)
    assert place(made, 3, now=9.0) == ["fine"]  # which is full then, by what the client itself did
    assert len(made.waiting) == 2
    made.report(report("fine", 0), 10.0)
    [(request, node), _] = made.placements(10.0)
    assert node == "fine"
    made.refused(request, node, 10.1)
    assert place(made, 1, now=10.2) == []
    made.report(report("fine", 0), 11.0)
    assert [node for _, node in made.placements(11.0)] == ["fine"]
    made.forget("fine")
    assert place(made, 1, now=11.1) == []


def test_what_a_client_does_counts_until_a_later_report_has_it() -> None:
    made = scheduler(report("a", 0), report("b", 2), k=None)
    assert place(made, 4, now=1.0) == ["a", "a", "b", "a"]
    made.report(report("a", 0), 0.5)  # on its way when these were placed
    assert place(made, 1, now=1.1) == ["b"]
    made.ended(SPEC, "a", 1.2)
    made.ended(SPEC, "a", 1.2)
    assert place(made, 1, now=1.3) == ["a"]
    made.report(report("a", 9), 2.0)
    assert place(made, 1, now=2.1) == ["b"]


def test_a_warm_image_decides_between_equals_alone() -> None:
    asked = BoxSpec(LayerName.FUNCTION, "py", limits=Limits(memory_bytes=1 << 30))
    has = {"images": frozenset({"py"})}
    made = scheduler(
        report("a", 1, **has), report("b", 1, **has, warm=has["images"]), report("c", 4, **has, warm=has["images"])
    )
    made.k = None
    assert place(made, 1, asked=asked) == ["b"]
    assert place(made, 1, asked=asked) == ["a"]


def test_what_no_node_could_ever_have_is_told_from_what_none_has_now() -> None:
    made = scheduler(report("a", 10))
    assert not made.impossible(SPEC)
    assert made.impossible(BoxSpec(LayerName.VM))
    big = BoxSpec(LayerName.FUNCTION, limits=Limits(memory_bytes=11 << 30))
    assert made.objections(big) == {"a": "it has 10240 MiB for boxes, and 11264 are asked for"}
    assert made.objections(BoxSpec(LayerName.FUNCTION, "py")) == {"a": "no image py there; it has: none"}
    assert not scheduler().impossible(SPEC)  # a node may join


def test_one_label_cannot_starve_another_nor_hold_it_up() -> None:
    made = scheduler(report("a", 10))
    big = BoxSpec(LayerName.FUNCTION, limits=Limits(memory_bytes=9 << 30))
    assert place(made, 50, "greedy") == place(made, 2, "modest") == place(made, 1, "large", big) == []
    got = Counter[str]()
    for step in range(6):
        made.report(report("a", 9), 2.0 + step)
        got.update(request.label for request, _ in made.placements(2.0 + step))
    assert got == {"greedy": 4, "modest": 2}  # the large one waits and is in nobody's way
    made.report(report("a", 1), 9.0)
    assert "large" in [request.label for request, _ in made.placements(9.0)]


def test_a_request_that_is_withdrawn_holds_nobody_up() -> None:
    made = scheduler(report("a", 5))
    big = Request(BoxSpec(LayerName.FUNCTION, limits=Limits(memory_bytes=9 << 30)), "run")
    made.submit(big)
    assert place(made, 1, "run") == []
    made.withdraw(big)
    assert [node for _, node in made.placements(1.0)] == ["a"]
    assert not len(made.waiting)


def test_a_ledger_lends_all_or_nothing() -> None:
    ledger = Ledger(ROOM)
    for _ in range(8):
        ledger.take(placement.need_of(SPEC))
    before = ledger.used
    with pytest.raises(RefusedError, match="8 of 8 num_starting are taken, 1 more are asked for"):
        ledger.take(placement.need_of(SPEC))
    assert ledger.used == before
    ledger.give(placement.STARTED)
    ledger.take(placement.need_of(SPEC))
    for _ in range(9):
        ledger.give(placement.need_of(SPEC)._replace(num_starting=0))
    assert ledger.used == Amount(num_starting=8)


def test_a_fair_queue_gives_each_label_its_turn_whoever_leaves() -> None:
    queue = FairQueue[int]()
    rng = random.Random(0)
    expected = {label: list(range(i * 100, i * 100 + 20)) for i, label in enumerate("abc")}
    for label, items in expected.items():
        for item in items:
            queue.add(label, item)
    for label, items in expected.items():
        for item in rng.sample(items, 5):
            assert queue.remove(label, item)
            assert not queue.remove(label, item)
            items.remove(item)
    assert queue.counts() == dict.fromkeys("abc", 15)
    taken = [queue.take() for _ in range(45)]
    assert taken == [item for three in zip(*expected.values(), strict=True) for item in three]
    assert not len(queue)
    assert not queue.labels()
    for label, item in (("a", 1), ("a", 2), ("b", 3)):
        queue.add(label, item)
    assert (queue.take(), queue.take()) == (1, 3)
    queue.put_back("b", 3)
    assert [queue.take(), queue.take()] == [3, 2]


def test_turns_go_round_and_a_cancelled_wait_loses_none() -> None:
    order = list[str]()

    async def main() -> None:
        turns = Turns(1)

        async def one(label: str) -> None:
            async with turns.of(label):
                order.append(label)
                await asyncio.sleep(0)

        async with turns.of("first"):
            greedy = [asyncio.create_task(one("greedy")) for _ in range(5)]
            modest = [asyncio.create_task(one("modest")) for _ in range(2)]
            await asyncio.sleep(0)
            greedy[2].cancel()
        greedy[0].cancel()  # its turn has come, and it has not had it
        await asyncio.gather(*greedy, *modest, return_exceptions=True)
        async with asyncio.timeout(5), turns.of("again"):
            pass

    asyncio.run(main())
    assert order == ["modest", "greedy", "modest", "greedy", "greedy"]
    with pytest.raises(ValueError, match="num_starting: got 0"):
        Turns(0)
