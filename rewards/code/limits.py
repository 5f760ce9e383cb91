"""What a program may use on one test, and for how long a box may be held for it."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from rewards.errors import UserError


@dataclass(frozen=True, kw_only=True)
class CodeLimits:
    """Times are of one test. What a program may use is measured in processor time, which a busy machine does not change.

    >>> CodeLimits(cpu_s=0.0)
    Traceback (most recent call last):
    rewards.errors.UserError: options.cpu_s: got 0.0; a number of more than 0 is needed
    """

    cpu_s: float = 4.0  # processor time, of all its processes
    idle_s: float = 10.0  # spent neither computing nor waiting for a processor: asleep, or waiting for input
    total_cpu_s: float = 60.0  # for all tests of one completion; those that are left then have timed out
    wall_s: float = 30.0  # for one call of a box; a program that has used neither of the above by then is not to blame
    memory_bytes: int | None = None  # of one process; None: three quarters of what its box has for all
    output_bytes: int = 1 << 20  # of a test: what it prints, or the value as text
    tests_cpu_s: int = 20  # for asserts themselves, beside the program

    def __post_init__(self) -> None:
        for field in fields(self):
            value: Any = vars(self)[field.name]
            if value is None and field.name == "memory_bytes":
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                raise UserError(f"options.{field.name}: got {value!r}; a number of more than 0 is needed")

    def of_process(self, box_bytes: int) -> int:
        """The memory of one process in a box that has so much.

        Raises:
            UserError: the box has less than is to be allowed.
        """
        if self.memory_bytes is not None and self.memory_bytes > box_bytes:
            raise UserError(f"options.memory_bytes: got {self.memory_bytes}; at most sandbox.memory_bytes, {box_bytes}")
        return int(self.memory_bytes or box_bytes * 3 // 4)
