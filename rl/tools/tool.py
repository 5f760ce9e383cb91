"""What every kind of tool is to a session: a specification, limits, and a run for each trajectory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from enum import IntEnum
from typing import Any, Protocol

from rewards.task import Task, ToolSpec
from rl.tools.config import ToolConfig
from sandbox.box import Box


class ToolError(Exception):
    """What the model did wrong, or what came of it; the text is for the model."""


class GoneError(Exception):
    """What the tool runs in was lost, through no fault of the call, which may be made again."""


class BoxUse(IntEnum):
    """What a call does with the trajectory's box. Calls that change it run alone, in the order in which they were made."""

    NONE = 0
    READS = 1
    CHANGES = 2


class Run(Protocol):
    """A tool in one trajectory. It may keep state, such as the folder that a shell was left in, as long as the box lives."""

    async def __call__(self, arguments: Mapping[str, Any], box: Box | None) -> str:
        """The result's whole text; `box` where `box_use` is not NONE.

        Raises:
            ToolError: a result too, that says what went wrong. GoneError, SandboxError: it is not known what came of it.
        """


class Tool(ABC):
    """One tool of a worker, for all of its trajectories."""

    uses_box = False  # whether any of its calls does

    def __init__(self, spec: ToolSpec, config: ToolConfig) -> None:
        self.spec, self.timeout_s, self.max_chars = spec, config.timeout_s, config.max_chars

    def box_use(self, arguments: Mapping[str, Any]) -> BoxUse:
        return BoxUse.CHANGES if self.uses_box else BoxUse.NONE

    @abstractmethod
    def begin(self, task: Task) -> Run:
        """For a new trajectory, or for one whose box was replaced before anything had come of it."""
