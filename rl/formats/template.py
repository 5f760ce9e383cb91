"""Any hub model's own chat template as a format. The words of an effort are put in front of the system's text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jinja2 import TemplateError

from rewards.errors import UserError
from rewards.task import EffortLevel, Message, Role, ToolSpec
from rl.formats.protocol import ThinkingMode
from rl.formats.rendered import RenderedFormat
from rl.formats.thinking import thinks
from rl.formats.wording import Wording, load_wording

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NOTHING = r"(?!)"  # a pattern that never matches


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The longest first, so that none is taken for a shorter one that it begins with."""
    return sorted((str(t) for t in tokenizer.added_tokens_decoder.values() if t.special), key=len, reverse=True)


def any_of(texts: Sequence[str]) -> re.Pattern[str]:
    """Matches each of them; of none, nothing."""
    return re.compile("|".join(map(re.escape, texts)) or NOTHING)


class TemplateFormat(RenderedFormat):
    """Conversations as a tokenizer's chat template writes them.

    What the template does to reasoning is its own; `rl.formats.check` proves that it keeps to a policy.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        wording: Wording | None = None,
        thinking: ThinkingMode = ThinkingMode.INTERLEAVED,
    ) -> None:
        self.tokenizer = tokenizer
        self.wording = wording or load_wording()
        super().__init__("the model's chat template", any_of(special_tokens(tokenizer)), thinking)

    def render(self, messages: Sequence[Message], tools: Sequence[ToolSpec], effort: EffortLevel, *, header: bool) -> str:
        thinking = thinks(effort, self.thinking)
        if thinking and (words := self.wording.effort_text(effort)):
            messages = _with_system_text(messages, words)
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    [message.as_dict() for message in messages],
                    tools=[tool.as_dict() for tool in tools] or None,
                    tokenize=False,
                    add_generation_prompt=header,
                    enable_thinking=thinking,
                )
            )
        except (TemplateError, TypeError) as error:  # some know no system role, some want user and assistant in turns
            roles = ", ".join(message.role.value for message in messages)
            raise UserError(f"the model's chat template refuses a conversation of the roles {roles}: {error}") from error


def _with_system_text(messages: Sequence[Message], words: str) -> list[Message]:
    """The words before the system's text, or in its place where there is none."""
    if messages and messages[0].role is Role.SYSTEM:
        return [Message(Role.SYSTEM, words + messages[0].content), *messages[1:]]
    return [Message(Role.SYSTEM, words.rstrip()), *messages]
