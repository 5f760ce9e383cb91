"""What every chat format can do, and what reading a turn comes to. `rl/chat.py` uses formats through this alone.

A conversation's text only ever grows, wherever `Format.keeps` says so, for a turn as the format itself writes it:

    prompt([*m, answer, *results], ...) == prompt(m, ...) + turn(answer, ...) + results(answer, results, ...)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from rewards.task import EffortLevel, Message, ToolCall, ToolSpec


class ThinkingMode(StrEnum):
    """What becomes of a turn's reasoning later in the conversation."""

    INTERLEAVED = "interleaved"  # kept where there are tools: between calls, and across the user's turns
    PER_TURN = "per_turn"  # kept between the calls of one user's turn, dropped when the user speaks again
    OFF = "off"  # there is none, whatever the effort


class CallErrorKind(StrEnum):
    """Why a turn holds no calls that could be run."""

    BAD_ARGUMENTS = "bad_arguments"  # a call that is no object of a name and arguments
    BAD_JSON = "bad_json"
    BAD_NAME = "bad_name"  # empty, or with characters that no name has
    BAD_STRING_ATTRIBUTE = "bad_string_attribute"  # neither string="true" nor string="false"
    BAD_TAG = "bad_tag"
    CALL_IN_THINKING = "call_in_thinking"  # and neither a call nor an answer behind the thinking
    DUPLICATE_PARAMETER = "duplicate_parameter"
    EMPTY_BLOCK = "empty_block"
    LOOKALIKE = "lookalike"  # a tag with other characters in the place of the format's own
    NESTED_BLOCK = "nested_block"
    NO_BLANK_LINE = "no_blank_line"  # between an answer's text and its calls
    SECOND_BLOCK = "second_block"
    STRAY_TAG = "stray_tag"  # a part of a call outside of any
    TEXT_AFTER_CALLS = "text_after_calls"
    TEXT_BETWEEN_TAGS = "text_between_tags"
    UNCLOSED_BLOCK = "unclosed_block"
    UNCLOSED_CALL = "unclosed_call"
    UNCLOSED_PARAMETER = "unclosed_parameter"
    UNFINISHED_THINKING = "unfinished_thinking"  # the turn ended inside of the thinking


@dataclass(frozen=True)
class CallError:
    """`text` goes back to the model as the tool's result: what was wrong, what was found, what is allowed."""

    kind: CallErrorKind
    text: str


@dataclass(frozen=True)
class ReadTurn:
    """What a model wrote, taken apart without loss: nothing is stripped. With an error, `message` has no calls.

    The content of a turn with an error is all that came after its thinking, tags included.
    """

    message: Message
    error: CallError | None = None


class Format(Protocol):
    """A way to write conversations down. Stateless: every method is a function of its arguments."""

    @property
    def thinking(self) -> ThinkingMode:
        """The policy that prompts are written under."""

    @property
    def end(self) -> str:
        """The token that ends an assistant's turn, as text; `turn` ends with it, and `read` wants text without it."""

    def prompt(self, messages: Sequence[Message], tools: Sequence[ToolSpec], effort: EffortLevel) -> str:
        """Everything up to and including the header that the model answers after.

        Raises:
            UserError: the conversation cannot be written in this format.
        """

    def turn(self, message: Message, effort: EffortLevel) -> str:
        """What a model would have sampled after the header for this message of an assistant, with the token that ends it.

        Raises:
            UserError: no model could have sampled it: reasoning where the effort has none, or calls that do not read back.
        """

    def results(self, answer: Message, messages: Sequence[Message], effort: EffortLevel) -> str:
        """What follows the answer's last sampled token: results of its calls in the order of the calls, and the next header.

        `messages` may hold text of the user as well; an answer whose calls could not be read gets the error as a result.
        """

    def read(self, text: str, effort: EffortLevel) -> ReadTurn:
        """Takes a turn apart; `text` is all that was sampled, without the token that ended it. Never raises."""

    def keeps(self, messages: Sequence[Message], effort: EffortLevel, *, has_tools: bool) -> bool:
        """Whether all before stays as it is when these messages follow an answer.

        Where it does not, a conversation goes on from a new `prompt`.
        """


def in_call_order(calls: Sequence[ToolCall], results: Sequence[Message]) -> list[Message]:
    """Results in the order of the calls that they name; where calls or results name none, as they stand."""
    order = {call.id: i for i, call in enumerate(calls) if call.id}
    return sorted(results, key=lambda result: order.get(result.tool_call_id, 0))
