"""Tokenizers: training a small one on a recipe's own data, loading one from a folder, and its fingerprint.

A trained tokenizer is byte-level BPE with single digits and the special tokens and chat template of DeepSeek-V4's format,
saved in Hugging Face layout; once saved it is loaded like any other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from rewards.errors import UserError
from rewards.transcript import END_THINK, THINK
from rl.formats.dsml import MARK as TOOLS
from rl.formats.v4 import ASSISTANT, BOS, EOS, USER
from rl.formats.v4_template import chat_template
from rl.formats.wording import Wording


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, phrases: Sequence[str] = (), wording: Wording | None = None
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of at most `vocab_size` entries. Every byte has a token, so any text can be encoded.

    `phrases` become tokens as they are; see rl/formats/phrases.py. Its chat template has this wording of tools and efforts, or
    the shipped one.
    """
    specials = [BOS, EOS, USER, ASSISTANT, THINK, END_THINK, TOOLS]
    minimum = len(specials) + len(phrases) + len(pre_tokenizers.ByteLevel.alphabet())
    if vocab_size < minimum:
        raise UserError(
            f"model.init.tokenizer_vocab_size: got {vocab_size}; allowed: at least {minimum} "
            f"({len(specials) + len(phrases)} fixed tokens and the bytes)"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Split(Regex(r"\s?[^\s\w]|\s?\w+|\s+"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(phrases),
        special_tokens=specials,
        initial_alphabet=alphabet,
        min_frequency=2,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(phrase, normalized=False) for phrase in phrases])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=EOS, clean_up_tokenization_spaces=False
    )
    fast.chat_template = chat_template(wording)
    return fast


def load_tokenizer(folder: str | Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a hub id or a folder; one that is not there, or without what chats need, is the user's error."""
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=trust_remote_code)
    except (AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{folder}: its tokenizer cannot be loaded: {error}") from error
    if tokenizer.chat_template is None:
        raise UserError(
            f"the tokenizer of {folder} has no chat template; add a chat_template.jinja to the model's folder "
            "(instruction-tuned models ship one)"
        )
    if tokenizer.eos_token_id is None:
        raise UserError(f"the tokenizer of {folder} has no end-of-sequence token; set eos_token in its tokenizer_config.json")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash of what maps text to ids and back. Models can share logits only where this is equal."""
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    spec["truncation"] = spec["padding"] = None
    return hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:32]
