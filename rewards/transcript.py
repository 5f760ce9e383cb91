"""What one rollout said, as text: rewards read it, `rl/trajectory.py` makes it. Plain values that travel between processes."""

from __future__ import annotations

from dataclasses import dataclass

from rewards.box_state import BoxState
from rewards.task import Message, Role

THINK, END_THINK = "<think>", "</think>"


@dataclass(frozen=True)
class Transcript:
    """A finished rollout. `messages` are what came after the task's own: the answer, and between tool calls their results.

    >>> transcript = Transcript.of("<think>6*7=42</think>It is 42.")
    >>> transcript.reasoning, transcript.content, transcript.is_cut
    ('6*7=42', 'It is 42.', False)
    """

    completion: str  # all that was sampled, thinking tags included; without the token that ends a turn
    messages: tuple[Message, ...]
    finish_reason: str = "stop"  # of the last turn: stop, or what cut it: length, context, aborted
    num_tokens: int = 0  # sampled
    token_ids: tuple[int, ...] = ()  # those tokens, for rewards that compare or count them; nothing here reads them
    group: str = ""  # names the group that it was sampled in; a reward that takes batches gets a group at a time
    box_state: BoxState | None = None  # what its agent's box held in the end; None: no box was used
    num_reasoning_tokens: int = 0  # of those sampled, the ones of its thinking

    @classmethod
    def of(cls, completion: str, *, finish_reason: str = "stop", num_tokens: int = 0, group: str = "") -> Transcript:
        """A transcript of one turn."""
        messages = (parse_completion(completion),)
        return cls(completion, messages, finish_reason, num_tokens, group=group)

    @property
    def content(self) -> str:
        """The last answer, without the thinking before it; empty where thinking never ended."""
        return self._last_answer.content if self._last_answer is not None else ""

    @property
    def reasoning(self) -> str | None:
        """The thinking before the last answer; None where there was none."""
        return self._last_answer.reasoning if self._last_answer is not None else None

    @property
    def _last_answer(self) -> Message | None:
        return next((m for m in reversed(self.messages) if m.role is Role.ASSISTANT), None)

    @property
    def is_cut(self) -> bool:
        """Whether it ended by a limit and not by itself."""
        return self.finish_reason != "stop"


def parse_completion(text: str) -> Message:
    """Splits a completion into reasoning and answer; never raises. An unclosed thought is all reasoning."""
    if END_THINK in text:
        reasoning, _, content = text.rpartition(END_THINK)
        return Message(Role.ASSISTANT, content.strip(), reasoning.replace(THINK, "").strip())
    if text.lstrip().startswith(THINK):
        return Message(Role.ASSISTANT, "", text.replace(THINK, "").strip())
    return Message(Role.ASSISTANT, text.strip())
