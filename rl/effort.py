"""What an effort does to a rollout and to its score. Pure functions over a recipe's `efforts`.

The length penalty is that of DeepSeek-V4.1 (arXiv 2609.19969): r_len(b, l) = -min(C_max, k(b) l / L_norm), l the tokens of
thinking. Advantages are centred inside each group, which has one task at one effort.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from rewards.task import Effort, EffortLevel
from rl.config import EffortsConfig, LevelConfig, SamplingConfig


@dataclass(frozen=True)
class Efforts:
    """A recipe's efforts by level.

    >>> efforts = Efforts(EffortsConfig(levels=(LevelConfig(effort=20), LevelConfig(effort=60), LevelConfig(effort=100))))
    >>> [round(efforts.penalty(b, 500), 4) for b in (20, 60, 100)]
    [-0.25, -0.092, -0.0338]
    """

    config: EffortsConfig = field(default_factory=EffortsConfig)

    @property
    def levels(self) -> tuple[EffortLevel, ...]:
        """In the recipe's order; empty where tasks keep the effort that they come with."""
        return tuple(level_of(level) for level in self.config.levels)

    def sampling(self, level: EffortLevel, sampling: SamplingConfig) -> SamplingConfig:
        """The sampling of a task at this level."""
        found = self._find(level)
        return sampling if found is None or found.max_tokens is None else replace(sampling, max_tokens=found.max_tokens)

    def window(self, level: EffortLevel) -> int | None:
        """Tokens that a rollout may have in all; None: as many as the engine has room for."""
        found = self._find(level)
        return None if found is None else found.window

    def penalty(self, level: EffortLevel, num_reasoning: int) -> float:
        """What to add to the score of a completion with so many tokens of thinking; 0 where the recipe has no levels."""
        found = self._find(level)
        if found is None:
            return 0.0
        config = self.config.penalty
        return -min(config.c_max, self._coefficients[level] * num_reasoning / config.l_norm) + 0.0  # no -0.0

    @property
    def _coefficients(self) -> Mapping[EffortLevel, float]:
        """k of each level."""
        config, numbers = self.config.penalty, sorted(b for b in self.levels if isinstance(b, int))
        spacing = (numbers[-1] - numbers[0]) / (len(numbers) - 1) if len(numbers) > 1 else 1.0
        found = dict[EffortLevel, float]()
        for level, entry in zip(self.levels, self.config.levels, strict=True):
            own = entry.length_penalty
            if own is None and isinstance(level, int):
                own = config.k0 * math.exp(-(level - numbers[0]) / (config.spread * spacing))
            found[level] = own or 0.0
        return found

    def _find(self, level: EffortLevel) -> LevelConfig | None:
        return next((entry for entry in self.config.levels if level_of(entry) == level), None)


NO_EFFORTS = Efforts()


def level_of(entry: LevelConfig) -> EffortLevel:
    return entry.effort if isinstance(entry.effort, int) else Effort(entry.effort)
