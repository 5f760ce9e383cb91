"""The only border between messages and token ids: prompts and demonstrations in, completions out.

Works with any tokenizer that has a chat template. Text is encoded once, before sampling; what the model sampled is never
re-tokenised. Special tokens come from the template alone: one that somebody typed into a message is encoded as its letters.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from rewards.errors import UserError
from rewards.task import Demonstration, Effort, EffortLevel, Message, Role
from rewards.transcript import END_THINK, THINK, parse_completion

STAND_IN = 0x100000  # first character of Unicode's last private-use plane; see ChatFormat._quote
NOTHING = r"(?!)"  # a pattern that never matches


@dataclass(frozen=True)
class EncodedDemonstration:
    """Token ids of a demonstration; `loss_mask` is 1 on the assistant's own tokens (its end-of-turn token included)."""

    token_ids: list[int]
    loss_mask: list[int]


class ChatFormat:
    """Encodes conversations with a tokenizer's own chat template.

    >>> chat = ChatFormat(load_tokenizer("runs/quickstart/checkpoints/last"))            # doctest: +SKIP
    >>> chat.prompt_ids([Message(Role.USER, "2+3")])                                      # doctest: +SKIP
    [0, 2, 18, 267, 19, 3, 4]
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, stop_ids: Sequence[int] = ()) -> None:
        self.tokenizer = tokenizer
        self.stop_ids = frozenset(stop_ids) | {int(tokenizer.eos_token_id)}
        specials = sorted((str(t) for t in tokenizer.added_tokens_decoder.values() if t.special), key=len, reverse=True)
        self._stand_ins = {token: chr(STAND_IN + i) for i, token in enumerate(specials)}
        self._specials = {stand_in: token for token, stand_in in self._stand_ins.items()}
        self._typed = re.compile("|".join(map(re.escape, specials)) or NOTHING)
        self._quoted = re.compile(f"([{''.join(self._specials)}])" if specials else NOTHING)
        self.stop_ids |= self._template_stop_ids()

    def prompt_ids(self, messages: Sequence[Message], effort: EffortLevel = Effort.HIGH) -> list[int]:
        """The ids that the model continues with its answer."""
        return self._encode(self._render(messages, effort, add_generation_prompt=True))

    def demonstration(self, demonstration: Demonstration) -> EncodedDemonstration:
        """Prompt and response. The response must continue the prompt that the model will see, which is checked."""
        task = demonstration.task
        prompt = self._render(task.messages, task.effort, add_generation_prompt=True)
        whole = self._render((*task.messages, demonstration.response), task.effort, add_generation_prompt=False)
        reasoning, header = demonstration.response.reasoning, prompt.rstrip()
        fits = not header.endswith(THINK) if reasoning is None else not header.endswith(END_THINK)
        if not whole.startswith(prompt) or not fits:
            raise UserError(
                f"task {task.id}: the chat template renders the answered conversation differently from the prompt, so the "
                f"model would be trained on another text than it is asked with.\n prompt: {prompt[-80:]!r}\n answered: "
                f"{whole[max(0, len(prompt) - 80) : len(prompt) + 20]!r}\n Give the demonstration a reasoning if the template "
                "opens a thinking block, or use effort none."
            )
        prompt_ids, response_ids = self._encode(prompt), self._encode(whole[len(prompt) :])
        ends = [i for i, token in enumerate(response_ids) if token in self.stop_ids]
        if not ends:
            stops = ", ".join(map(repr, self.tokenizer.convert_ids_to_tokens(sorted(self.stop_ids))))
            raise UserError(
                f"task {task.id}: the chat template ends the answer with {whole[-20:]!r}, which holds none of the tokens that "
                f"end a turn ({stops}), so the model would never learn to stop; end the template's answers with its "
                "end-of-sequence token"
            )
        response_ids = response_ids[: ends[-1] + 1]  # some templates add a line break, which the model never gets to sample
        return EncodedDemonstration(prompt_ids + response_ids, [0] * len(prompt_ids) + [1] * len(response_ids))

    def completion_text(self, prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> str:
        """What the model wrote, as rewards and people read it.

        The end-of-turn token is left out. Where the prompt itself opened the thinking, `<think>` is put back in front, so
        that a reader can tell thinking from answer.
        """
        ids = list(completion_ids)
        if ids and ids[-1] in self.stop_ids:
            ids.pop()
        text = str(self.tokenizer.decode(ids, skip_special_tokens=False))
        tail = str(self.tokenizer.decode(list(prompt_ids)[-8:], skip_special_tokens=False)).rstrip()
        return THINK + text if tail.endswith(THINK) else text

    def parse(self, completion_text: str) -> Message:
        return parse_completion(completion_text)

    def _template_stop_ids(self) -> set[int]:
        """The special token that the template puts behind an answer; the folders of base models name only the end of a text."""
        conversation = (Message(Role.USER, "question"), Message(Role.ASSISTANT, "answer"))
        after = self._render(conversation, Effort.HIGH, add_generation_prompt=False).rpartition("answer")[2]
        found = self._typed.search(after)
        return {int(self.tokenizer.convert_tokens_to_ids(found.group()))} if found else set()

    def _render(self, messages: Sequence[Message], effort: EffortLevel, *, add_generation_prompt: bool) -> str:
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    [
                        {key: self._quote(text) if key != "role" else text for key, text in m.as_dict().items()}
                        for m in messages
                    ],
                    tokenize=False,
                    add_generation_prompt=add_generation_prompt,
                    enable_thinking=effort is not Effort.NONE,
                )
            )
        except TemplateError as error:  # some know no system role, some want user and assistant in turns
            roles = ", ".join(m.role.value for m in messages)
            raise UserError(f"the model's chat template refuses a conversation of the roles {roles}: {error}") from error

    def _quote(self, text: str) -> str:
        """Puts a private-use character in the place of each special token that stands in a message's text."""
        return self._typed.sub(lambda found: self._stand_ins[found.group()], text)

    def _encode(self, text: str) -> list[int]:
        """Ids of rendered text; what `_quote` replaced becomes the letters of the special token, never the token."""
        ids: list[int] = []
        for piece in self._quoted.split(text):
            typed = self._specials.get(piece)
            encoded = self.tokenizer(typed or piece, add_special_tokens=False, split_special_tokens=typed is not None)
            ids += encoded["input_ids"]
        return ids
