"""Reward functions by name, as `rewards.usercode` finds them: read where the recipe is, built where they are called.

Called when a recipe loads and by `rewards.score`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rewards import usercode
from rewards.config import RewardConfig
from rewards.parameters import Signature, read_signature


@dataclass(frozen=True)
class RewardSource:
    """A reward that can be sent to another process and built there; plain strings and a number.

    >>> RewardSource("rewards.math:verify", 1.0, text=None, function="verify").module
    'rewards.math'
    """

    use: str
    weight: float
    text: str | None  # the source of the user's file; None for a module that every worker can import
    function: str
    timeout_s: float = RewardConfig.timeout_s  # for one completion
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def module(self) -> str:
        """The part of `use` before the colon: a path or a dotted name."""
        return self.use.rpartition(":")[0]


@dataclass(frozen=True)
class Reward:
    """A reward function that has been built; `rewards.calls` calls it, and checks what it returns."""

    source: RewardSource
    function: Callable[..., object]
    signature: Signature
    file: str  # whose frames are the user's own


def load_reward(use: str, search: Sequence[Path]) -> Reward:
    """The reward function that `use` names; relative paths are looked up in each folder of `search` in turn.

    Raises:
        UserError: no such file, module or function; it cannot be called as a reward; its code does not load.
    """
    return build(read_source(RewardConfig(use=use), search))


def read_source(config: RewardConfig, search: Sequence[Path]) -> RewardSource:
    """Read what `config.use` names without running any of it.

    Raises:
        UserError: `use` has neither form, or its file cannot be read.
    """
    text = usercode.read_text(f"reward {config.use!r}", config.use, search)
    function = config.use.rpartition(":")[2]
    return RewardSource(config.use, config.weight, text, function, config.timeout_s, dict(config.options))


def build(source: RewardSource) -> Reward:
    """Run the source's module and read what its function asks for.

    Raises:
        UserError: see `load_reward`.
    """
    function, file = usercode.load(f"reward {source.use!r}", source.use, source.text)
    return Reward(source, function, read_signature(function, source.use, source.options), file)
