"""How a count is compared with the number in an instruction; the values are those of the published data sets."""

from __future__ import annotations

from typing import Literal, TypeAlias

Relation: TypeAlias = Literal["at least", "less than"]


def holds(count: int, relation: Relation, number: int) -> bool:
    """Whether `count` is at least, or less than, `number`."""
    return count >= number if relation == "at least" else count < number
