"""What is raised for an instruction that cannot be judged."""

from __future__ import annotations

from rewards.errors import NoScoreError


class InstructionError(NoScoreError, ValueError):
    """The task's mistake, so no verdict on an answer: a failed score. The text follows the words "the reward"."""
