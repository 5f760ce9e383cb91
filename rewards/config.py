"""The settings of one reward in a recipe."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """`use` names a function: `path/to/file.py:function` (relative to the recipe or the working folder) or `package.module:function`."""

    __pydantic_config__ = {"extra": "forbid"}
    use: str
    weight: float = 1.0
