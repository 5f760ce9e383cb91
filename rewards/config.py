"""The settings of one reward in a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Gt


@dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """`use` names a function: `path/to/file.py:function` or `package.module:function`.

    A path is relative to the recipe or to the working folder.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    use: str
    weight: float = 1.0
    timeout_s: Annotated[float, Gt(0)] = 30.0  # for one completion; after it the score counts as failed
