"""The readers of calls against a few thousand mutated texts; `make soak` tries a million."""

from __future__ import annotations

import pytest

from rl.formats.protocol import CallErrorKind
from tests.soak.tool_call_fuzz import TARGETS, batch, report


@pytest.mark.parametrize("kind", TARGETS)
def test_mutated_texts_come_to_calls_an_answer_or_an_error(kind: str) -> None:
    done = batch(kind, f"{kind}/test", 1_500)
    assert done["failures"] == []
    assert {"exceptions", "failures"}.isdisjoint(done["seen"])
    assert done["seen"]["calls"] > 40
    kinds = [error for error in CallErrorKind if error in done["seen"]]
    assert len(kinds) >= 9, kinds
    text = report([done], {})
    assert "| texts | " in text
    assert "Failure" not in text


def test_a_text_of_a_seed_is_the_same_each_time() -> None:
    first, second = (batch("dsml", "x", 50)["seen"] for _ in range(2))
    assert first == second
