"""When a model thinks, and what of its thinking a conversation keeps: the same for every format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rewards.errors import UserError
from rewards.task import Effort, EffortLevel, Message, Role, effort_name
from rl.formats.protocol import ThinkingMode
from rl.formats.reading import excerpt

EFFORTS = range(1, 101)  # that may be asked for by number


def thinks(effort: EffortLevel, mode: ThinkingMode) -> bool:
    """Whether a model asked for this effort thinks before it answers.

    Raises:
        UserError: no such effort.
    """
    if not isinstance(effort, Effort) and effort not in EFFORTS:
        raise UserError(f"effort: got {effort}; allowed: none, high, max, or a number from {EFFORTS[0]} to {EFFORTS[-1]}")
    return effort is not Effort.NONE and mode is not ThinkingMode.OFF


def check_may_think(message: Message, effort: EffortLevel, mode: ThinkingMode) -> None:
    """Raises UserError for an answer with reasoning where the model would not think."""
    if message.reasoning is not None and not thinks(effort, mode):
        raise UserError(
            f"an answer with a reasoning at effort {effort_name(effort)}, thinking.mode {mode}: got "
            f"{excerpt(message.reasoning)}; allowed: no reasoning, another effort, or thinking.mode interleaved"
        )


def without_reasoning(messages: Sequence[Message]) -> list[Message]:
    return [replace(message, reasoning=None) if message.reasoning is not None else message for message in messages]


def of_the_last_question(messages: Sequence[Message]) -> list[Message]:
    """The conversation without the reasoning before the user's last text."""
    last = max((i for i, message in enumerate(messages) if message.role is Role.USER), default=0)
    return [*without_reasoning(messages[:last]), *messages[last:]]
