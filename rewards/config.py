"""The settings of a recipe's rewards, and of the boxes that they may use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt


@dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """`use` names a function: `path/to/file.py:function` or `package.module:function`.

    A path is relative to the recipe or to the working folder.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    use: str
    weight: float = 1.0  # in the mean over the rewards that apply; 0: only measured
    timeout_s: Annotated[float, Gt(0)] = 30.0  # for one completion (a batch: one call); after it the score counts as failed
    options: Mapping[str, Any] = field(default_factory=dict)  # arguments of the function, by name


@dataclass(frozen=True, kw_only=True)
class SandboxConfig:
    """The boxes that rewards may run programs in; `polymath doctor` says which layers this machine has."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    layer: Literal["function", "container", "microvm", "vm"] = "function"
    image: str | None = None  # of `polymath sandbox image build`; the function layer has none
    runtime: Literal["crun", "runsc", "docker"] = "crun"  # of the container layer
    num_boxes: Annotated[int, Gt(0)] = 4  # at once, of each reward worker
    memory_bytes: Annotated[int, Ge(32 << 20)] = 512 << 20  # of a box
    wall_s: Annotated[float, Gt(0)] = 30.0  # of one command, where the reward says no other
