"""The simulated cluster at a hundredth of its size: what must hold of any placement, and what two choices are for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.sim.placement import RUNS, Outcome, Setup, Simulation

SMALL = Setup(
    k=2, num_nodes=12, num_alive=3000, creates_per_s=150.0, num_clients=4, seconds=12.0, death_s=2.0, detect_s=2.0, join_s=6.0
)


@pytest.fixture(scope="module")
def by_k() -> dict[int, list[Outcome]]:
    return {k: [Simulation(replace(SMALL, k=k, seed=seed)).run() for seed in range(2)] for k in (1, 2)}


def test_two_choices_balance_much_better_than_one(by_k: dict[int, list[Outcome]]) -> None:
    excess = {k: np.mean([np.mean(out.imbalance) - 1 for out in outs]) for k, outs in by_k.items()}
    assert excess[2] < 0.75 * excess[1]
    refused = {k: sum(out.num_refused for out in outs) for k, outs in by_k.items()}
    assert refused[2] < 0.25 * refused[1]


def test_nobody_is_lost_and_no_node_is_over_its_room(by_k: dict[int, list[Outcome]]) -> None:
    """That none gets a box over its room, or when it is dead, the simulation itself asserts."""
    for out in (out for outs in by_k.values() for out in outs):
        assert out.num_asked == out.num_created + out.num_waiting
        assert out.num_created > 1000
        assert out.num_failed > 0  # the dead node was still asked
        assert max(out.loads) <= 1
        assert out.lost > 100
        assert 2.0 < out.remade_s < 10.0  # not before it was known, and before long
        assert out.joined_load > 0


def test_the_same_seed_gives_the_same_simulation(by_k: dict[int, list[Outcome]]) -> None:
    again = Simulation(replace(SMALL, k=2, seed=1)).run()
    assert replace(again, place_s=0.0) == replace(by_k[2][1], place_s=0.0)


def test_a_run_that_asks_for_too_much_waits_alone() -> None:
    out = Simulation(replace(SMALL, fill=1.3, num_clients=1, death_s=1e9, join_s=1e9)).run()
    made = {run: len(out.latency_s[run]) for run in RUNS}
    others = sum(made.values()) - made["large"]
    assert others > 0.9 * 0.2 * out.num_asked  # they get all that they ask for
    assert out.percentile(50, "large") > 3 * max(out.percentile(50, run) for run in RUNS if run != "large")
