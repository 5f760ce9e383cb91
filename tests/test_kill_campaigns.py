"""A few rounds of the campaigns that `make soak` makes in full: frames that are none, and kills of all that holds boxes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import boxes
from tests.soak import boxes as campaign
from tests.soak import frames


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("campaign")


@pytest.mark.parametrize(("kind", "count"), [("decoder", 4000), ("host", 2000), ("agent", 300), ("keeper", 200)])
def test_frames_that_are_none_break_nothing(home: Path, kind: str, count: int) -> None:
    if kind in ("agent", "keeper") and (reason := boxes.lacking("function")):
        pytest.skip(reason)
    made = frames.batch(home, kind, "suite", count)
    assert made["count"] == count
    assert made["seen"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layer", "number", "victim"),
    [("function", 0, "keeper"), ("function", 1, "owner"), ("crun", 13, "keeper"), ("crun", 1, "owner")],
)
def test_nothing_is_left_of_boxes_whose_owner_or_keeper_was_killed(home: Path, layer: str, number: int, victim: str) -> None:
    """Rounds of the campaign by their numbers, which say who is killed and when."""
    if reason := boxes.lacking(layer):
        pytest.skip(reason)
    made = campaign.kill_round(home, layer, number)
    assert made["left"] == [], made
    assert made["victim"] == victim


@pytest.mark.slow
def test_no_command_runs_twice_wherever_its_client_is_killed(home: Path) -> None:
    if reason := boxes.lacking("function"):
        pytest.skip(reason)
    made = campaign.command_round(home, 1, 25)
    assert made["kills"] == 25
    assert {name: made[name] for name in ("twice", "missing", "changed", "unanswered")} == dict.fromkeys(
        ("twice", "missing", "changed", "unanswered"), 0
    )
