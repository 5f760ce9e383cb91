"""The only border between messages and token ids: prompts, tool results and demonstrations in, what was sampled out.

Text is encoded once, before it is sampled from; what the model sampled is never re-tokenised. How a conversation is written
is a format's (`rl/formats`). Special tokens come from the format alone: one that somebody typed into a message, or that a
tool returned, is encoded as its letters.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from transformers import PreTrainedTokenizerBase

from rewards.errors import UserError
from rewards.task import Demonstration, Effort, EffortLevel, Message, Role, ToolCall, ToolSpec
from rewards.transcript import END_THINK, THINK
from rl.config import ChatConfig, ThinkingConfig
from rl.formats.build import build_format
from rl.formats.check import check_prefix
from rl.formats.protocol import Format, ReadTurn, ThinkingMode
from rl.formats.template import NOTHING, any_of, special_tokens
from rl.formats.thinking import without_reasoning

STAND_IN = 0x100000  # first character of Unicode's last private-use plane; see ChatFormat._quote


@dataclass(frozen=True)
class EncodedDemonstration:
    """Token ids of a demonstration; `loss_mask` is 1 on the assistant's own tokens (its end-of-turn tokens included)."""

    token_ids: list[int]
    loss_mask: list[int]


class ChatFormat:
    """Encodes conversations, with these tools shown to the model.

    >>> chat = ChatFormat(load_tokenizer("runs/quickstart/checkpoints/last"))            # doctest: +SKIP
    >>> chat.prompt_ids([Message(Role.USER, "2+3")])                                      # doctest: +SKIP
    [0, 2, 18, 267, 19, 3, 4]
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        stop_ids: Sequence[int] = (),
        config: ChatConfig | None = None,
        tools: Sequence[ToolSpec] = (),
        thinking: ThinkingConfig | None = None,
    ) -> None:
        self.tokenizer, self.tools = tokenizer, tuple(tools)
        self.thinking = thinking or ThinkingConfig()
        self._config = config or ChatConfig()
        self.stop_ids = frozenset(stop_ids) | {int(tokenizer.eos_token_id)}
        specials = special_tokens(tokenizer)
        self._stand_ins = {token: chr(STAND_IN + i) for i, token in enumerate(specials)}
        self._specials = {stand_in: token for token, stand_in in self._stand_ins.items()}
        self._typed = any_of(specials)
        self._quoted = re.compile(f"([{''.join(self._specials)}])" if specials else NOTHING)
        self.format: Format = build_format(tokenizer, self._config, ThinkingMode(self.thinking.mode))
        if self.format.end:  # the folders of base models name only the end of a text
            self.stop_ids |= {int(tokenizer.convert_tokens_to_ids(self.format.end))}
        self._think, self._end_think = self._encode(THINK), self._encode(END_THINK)

    def with_tools(self, tools: Sequence[ToolSpec], thinking: ThinkingConfig) -> ChatFormat:
        """The same format for conversations with tools."""
        return type(self)(self.tokenizer, stop_ids=sorted(self.stop_ids), config=self._config, tools=tools, thinking=thinking)

    def check_keeps(self, efforts: Sequence[EffortLevel]) -> None:
        """Proves that conversations with its tools only grow, at each of these efforts; without tools nothing is asked of it.

        Raises:
            UserError: the model's chat template rewrites or drops what was sampled; with the settings that would work.
        """
        if self.tools:
            mode = ThinkingMode(self.thinking.mode)
            check_prefix(lambda other: build_format(self.tokenizer, self._config, other), mode, efforts)

    def prompt_ids(self, messages: Sequence[Message], effort: EffortLevel = Effort.HIGH) -> list[int]:
        """The ids that the model continues with its answer."""
        return self._encode(self.format.prompt([self._quoted_message(m) for m in messages], self.tools, effort))

    def results_ids(self, answer: Message, results: Sequence[Message], effort: EffortLevel = Effort.HIGH) -> list[int]:
        """What follows an answer that called tools and is not sampled: their results, and the beginning of the next turn."""
        quoted = [self._quoted_message(m) for m in results]
        return self._encode(self.format.results(self._quoted_message(answer), quoted, effort))

    def read(self, completion_ids: Sequence[int], effort: EffortLevel = Effort.HIGH) -> ReadTurn:
        """What the model said in one turn, given all that it sampled; never raises."""
        return self.format.read(self._text(completion_ids), effort)

    def demonstration(self, demonstration: Demonstration) -> EncodedDemonstration:
        """Prompt, turns and tool results. What the model will see is what a rollout would show it."""
        task = demonstration.task
        ids = self.prompt_ids(task.messages, task.effort)
        mask = [0] * len(ids)
        answer: Message | None = None
        shown = without_reasoning(demonstration.messages) if self.thinking.mode == "off" else demonstration.messages
        for is_answer, group in groupby(shown, lambda m: m.role is Role.ASSISTANT):
            for message in group if is_answer else ():
                if message.reasoning is None and self._opens_thinking(ids):
                    raise UserError(
                        f"task {task.id}: the prompt opens the thinking, and the demonstration has none: the model would learn "
                        "not to think. Give the demonstration a reasoning, or use effort none"
                    )
                answer, turn = message, self._turn_ids(task.id, message, task.effort)
                ids, mask = ids + turn, mask + [1] * len(turn)
            if not is_answer:
                assert answer is not None, "a demonstration begins with the assistant"
                forced = self.results_ids(answer, list(group), task.effort)
                ids, mask = ids + forced, mask + [0] * len(forced)
        return EncodedDemonstration(ids, mask)

    def completion_text(self, prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> str:
        """What the model wrote, as rewards and people read it.

        The end-of-turn token is left out. Where the prompt itself opened the thinking, `<think>` is put back in front, so
        that a reader can tell thinking from answer.
        """
        text = self._text(completion_ids)
        return THINK + text if self._opens_thinking(prompt_ids) else text

    def _opens_thinking(self, prompt_ids: Sequence[int]) -> bool:
        """Whether what is sampled next is thinking."""
        return str(self.tokenizer.decode(list(prompt_ids)[-8:], skip_special_tokens=False)).rstrip().endswith(THINK)

    def num_reasoning(self, prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> int:
        """How many sampled tokens of a turn belong to its thinking, the one that ends it included."""
        begin, end, sampled = self._think, self._end_think, list(completion_ids)
        if not self._opens_thinking(prompt_ids) and sampled[: len(begin)] != begin:
            return 0
        for i in range(len(sampled) - len(end) + 1):
            if sampled[i : i + len(end)] == end:
                return i + len(end)
        return len(completion_ids)

    def _text(self, completion_ids: Sequence[int]) -> str:
        ids = list(completion_ids)
        if ids and ids[-1] in self.stop_ids:
            ids.pop()
        return str(self.tokenizer.decode(ids, skip_special_tokens=False))

    def _turn_ids(self, task_id: str, message: Message, effort: EffortLevel) -> list[int]:
        """What a model would have sampled to say this, its end-of-turn token included."""
        try:
            return self._encode(self.format.turn(self._quoted_message(message), effort))
        except UserError as error:
            raise UserError(f"task {task_id}: {error}") from error

    def _quoted_message(self, message: Message) -> Message:
        """Puts a private-use character in the place of each special token that stands in a message's text."""
        return dataclasses.replace(
            message,
            content=self._quote(message.content),
            reasoning=None if message.reasoning is None else self._quote(message.reasoning),
            tool_calls=tuple(self._quoted_call(call) for call in message.tool_calls),
        )

    def _quoted_call(self, call: ToolCall) -> ToolCall:
        written = {self._quote(name): self._quote(text) for name, text in call.written.items()}
        return dataclasses.replace(
            call, name=self._quote(call.name), arguments=self._quoted_json(dict(call.arguments)), written=written
        )

    def _quoted_json(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._quote(value)
        if isinstance(value, Mapping):
            return {self._quote(str(key)): self._quoted_json(inner) for key, inner in value.items()}
        return [self._quoted_json(inner) for inner in value] if isinstance(value, list | tuple) else value

    def _quote(self, text: str) -> str:
        return self._typed.sub(lambda found: self._stand_ins[found.group()], text)

    def _encode(self, text: str) -> list[int]:
        """Ids of rendered text; what `_quote` replaced becomes the letters of the special token, never the token."""
        ids: list[int] = []
        for piece in self._quoted.split(text):
            typed = self._specials.get(piece)
            encoded = self.tokenizer(typed or piece, add_special_tokens=False, split_special_tokens=typed is not None)
            ids += encoded["input_ids"]
        return ids
