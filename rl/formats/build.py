"""Chooses the format of a model's conversations, by the recipe and by what its tokenizer knows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rewards.errors import UserError
from rewards.transcript import END_THINK, THINK
from rl.config import ChatConfig
from rl.formats.dsml import MARK, OPEN_BLOCK
from rl.formats.folder import FolderFormat
from rl.formats.protocol import Format, ThinkingMode
from rl.formats.template import TemplateFormat
from rl.formats.v4 import ASSISTANT, BOS, EOS, USER, V4Format
from rl.formats.wording import load_wording

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

V4_TOKENS = (BOS, EOS, USER, ASSISTANT, THINK, END_THINK, MARK)


def build_format(tokenizer: PreTrainedTokenizerBase, config: ChatConfig, thinking: ThinkingMode) -> Format:
    """The format that `model.chat` names.

    Raises:
        UserError: the tokenizer cannot write in it.
    """
    wording = load_wording(None if config.wording is None else Path(config.wording))
    missing = [token for token in V4_TOKENS if token not in tokenizer.get_vocab()]
    name = config.format
    if name == "auto":  # a template that writes this format's calls is V4Format's own, see rl/formats/v4_template.py
        is_v4 = not missing and (tokenizer.chat_template is None or OPEN_BLOCK in tokenizer.chat_template)
        name = "v4" if is_v4 else "template"
    if name == "encoder":  # the recipe's check has seen that the folder is trusted
        return FolderFormat(Path(tokenizer.name_or_path), trust_remote_code=True, thinking=thinking)
    if name == "template":
        return TemplateFormat(tokenizer, wording, thinking)
    if missing:
        raise UserError(
            f"model.chat.format: got v4, but the tokenizer has no token {missing[0]!r}; allowed: template, or a tokenizer with "
            f"{' '.join(V4_TOKENS)}"
        )
    return V4Format(wording, thinking)
