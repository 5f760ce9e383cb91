"""A causal language model with its tokenizer, split where training needs it: a body that gives hidden states, and a head.

Loads hub ids, local folders and a run's checkpoints; makes new models from a config; saves in Hugging Face layout. Whether
all of it is trained or adapters beside it (rl/lora.py), what goes out by name or to disk is the whole model.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import difflib
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as hf_logging

from rewards.errors import UserError
from rl.chat import ChatFormat
from rl.config import InitConfig, ModelConfig
from rl.head import Head
from rl.lora import add_adapters, has_adapters, merged, narrow_frozen, save_adapters
from rl.tokenizer import load_tokenizer

# What transformers raises for a config, a folder or weights that it cannot use; it has no error class of its own.
BAD_MODEL = (
    ArithmeticError,
    AttributeError,
    LookupError,
    OSError,
    RuntimeError,
    SafetensorError,
    StrictDataclassError,
    TypeError,
    ValueError,
)

LOADING = threading.Lock()  # while transformers loads a model, torch makes empty tensors in every thread of the process

hf_logging.disable_progress_bar()  # loading and saving would draw over a run's own view


@dataclass(frozen=True)
class Policy:
    """The model being trained or sampled from. `dtype` bfloat16 means products under autocast over float32 weights.

    `source` is the folder or hub id that the weights came from, "" for a new model. `rounds`: the linear layers round their
    operands themselves (rl/rounded.py), and nothing runs under autocast.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    chat: ChatFormat
    dtype: torch.dtype
    source: str = ""
    rounds: bool = False

    @property
    def device(self) -> torch.device:
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def head(self) -> Head:
        """The projection as it is now; it shares the model's parameters."""
        config = self.model.config.get_text_config()
        projection = self.model.get_output_embeddings()
        scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
        return Head(
            projection.weight,
            getattr(projection, "bias", None),
            scale,
            getattr(config, "final_logit_softcapping", None),
        )

    def hidden_states(self, input_ids: Tensor, **inputs: Any) -> Tensor:
        """Hidden states after the final norm, float [B, L, D], of int64 token ids [B, L]."""
        with self.autocast():
            return torch.as_tensor(self.model.base_model(input_ids=input_ids, **inputs)[0])

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype is torch.bfloat16 and not self.rounds):
            yield

    @torch.no_grad()
    def weights(self) -> dict[str, Tensor]:
        """A copy of the parameters by name, each shared one once, adapters merged, in host memory."""
        return {n: t.detach().to("cpu", copy=True) for n, t in merged(self.model, self.model.named_parameters())}

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Copies every parameter of a policy without adapters in place; a missing or an extra name is an error before that."""
        _copy_into(dict(self.model.named_parameters()), weights)

    def trainable_state(self) -> dict[str, Tensor]:
        """The trained parameters themselves by name: all of them, or the adapters alone. Not a copy."""
        return {name: p.detach() for name, p in self.model.named_parameters() if p.requires_grad}

    def load_trainable_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what `trainable_state` gave, over a policy made from the same `source` with the same settings."""
        _copy_into(self.trainable_state(), state)

    def frozen_copy(self) -> Policy:
        """The policy as it is now, for good. What is not trained is shared, so beside adapters it costs little."""
        shared: dict[int, Any] = {id(p): p for p in self.model.parameters() if not p.requires_grad}
        return dataclasses.replace(self, model=copy.deepcopy(self.model, shared).requires_grad_(False))

    @torch.no_grad()
    def save(self, folder: Path) -> None:
        """Weights, config, tokenizer and chat template, as `from_pretrained` reads them; adapters merged, and in `adapter/`."""
        if has_adapters(self.model):
            self.model.save_pretrained(folder, state_dict=dict(merged(self.model, self.model.state_dict().items())))
            save_adapters(self.model, folder / "adapter")
        else:
            self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


@torch.no_grad()
def _copy_into(mine: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    if mine.keys() != weights.keys():
        raise ValueError(f"weights of another model: differing names {sorted(mine.keys() ^ weights.keys())[:4]}")
    for name, parameter in mine.items():
        parameter.copy_(weights[name])


def best_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_policy(folder: str | Path, config: ModelConfig) -> Policy:
    """Loads a hub id or a local folder in Hugging Face layout; weights that are trained are kept in float32.

    With `config.lora` fresh adapters are put in, and nothing else is trainable; who only samples asks for a policy without.
    """
    try:
        tokenizer = load_tokenizer(folder, trust_remote_code=config.trust_remote_code)
        with LOADING:
            model = AutoModelForCausalLM.from_pretrained(
                str(folder),
                dtype=torch.float32,
                attn_implementation=config.attention,
                trust_remote_code=config.trust_remote_code,
            )
    except BAD_MODEL as error:
        raise UserError(f"{folder}: this model cannot be loaded: {error}") from error
    if config.lora is not None:
        add_adapters(model, config.lora, str(folder))
    return _wrap(model, tokenizer, config, str(folder))


def load_chat(folder: str | Path, config: ModelConfig) -> ChatFormat:
    """The chat format of a hub id or a local folder, without its weights.

    Raises:
        UserError: its tokenizer cannot be loaded.
    """
    try:
        tokenizer = load_tokenizer(folder, trust_remote_code=config.trust_remote_code)
    except BAD_MODEL as error:
        raise UserError(f"{folder}: this model cannot be loaded: {error}") from error
    try:
        generation = GenerationConfig.from_pretrained(str(folder))
    except OSError:  # many folders have none; then the model's config says it, as in `load_policy`
        generation = GenerationConfig.from_model_config(
            AutoConfig.from_pretrained(str(folder), trust_remote_code=config.trust_remote_code)
        )
    return ChatFormat(tokenizer, stop_ids=_end_of_turn_ids(generation), config=config.chat)


def config_keys(architecture: str) -> set[str]:
    """The fields that an architecture's config takes, under all their names."""
    if architecture not in CONFIG_MAPPING:
        near = difflib.get_close_matches(architecture, list(CONFIG_MAPPING), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"model.init.architecture: got {architecture!r}, which transformers does not know{hint}")
    config_class = CONFIG_MAPPING[architecture]
    return {f.name for f in dataclasses.fields(config_class)} | set(config_class.attribute_map)


def init_policy(init: InitConfig, tokenizer: PreTrainedTokenizerBase, config: ModelConfig, *, seed: int) -> Policy:
    """A model with random weights for this tokenizer. An unknown architecture or config key is the user's error, named."""
    known = config_keys(init.architecture)
    for key in init.config:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(f"model.init.config: got {key!r}, which the config of {init.architecture!r} does not have{hint}")
    try:
        settings = {**init.config, "vocab_size": len(tokenizer), "bos_token_id": tokenizer.bos_token_id}
        settings |= {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
        model_config = AutoConfig.for_model(init.architecture, **settings)
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(model_config, attn_implementation=config.attention, dtype=torch.float32)
        return _wrap(model, tokenizer, config)  # runs it once: some configs fail only there
    except BAD_MODEL as error:
        raise UserError(
            f"model.init: transformers cannot make a {init.architecture!r} from this config: {type(error).__name__}: {error}"
        ) from error


def _wrap(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: ModelConfig, source: str = "") -> Policy:
    model.generation_config = _savable(model.generation_config)
    declared = _end_of_turn_ids(model.generation_config)
    chat = ChatFormat(tokenizer, stop_ids=declared, config=config.chat)
    if not chat.stop_ids <= set(declared):
        model.generation_config.eos_token_id = sorted(chat.stop_ids)  # a checkpoint stops where training stopped it
    policy = Policy(model.to(best_device()), tokenizer, chat, getattr(torch, config.dtype), source)
    _check_head(policy)
    if policy.dtype is torch.bfloat16:
        narrow_frozen(model)
    return policy


def _savable(generation: GenerationConfig | None) -> GenerationConfig | None:
    """As it is where transformers will save it again; else its tokens alone.

    It reads sampling settings beside `do_sample: false`, and ignores them, but will not write them, which would lose a run's
    checkpoint after the training.
    """
    if generation is None:
        return None
    try:
        generation.validate(strict=True)
    except ValueError:
        tokens = {key: value for key, value in generation.to_dict().items() if key.endswith("token_id")}
        return GenerationConfig(**tokens)
    return generation


def _end_of_turn_ids(generation: GenerationConfig | None) -> Sequence[int]:
    """The ids that a model folder declares as ends of a turn (some declare several)."""
    ids = generation.eos_token_id if generation is not None else None
    return [] if ids is None else [ids] if isinstance(ids, int) else list(ids)


@torch.no_grad()
def _check_head(policy: Policy) -> None:
    """Body then head must give the model's own logits; an architecture that does anything else in between is refused."""
    ids = torch.arange(1, 9, device=policy.device)[None] % policy.model.config.get_text_config().vocab_size
    policy.model.eval()
    expected = policy.model(input_ids=ids).logits.float()
    got = policy.head.logits(policy.model.base_model(input_ids=ids)[0])
    if expected.shape != got.shape or not torch.allclose(expected, got, atol=1e-3, rtol=1e-3):
        raise UserError(
            f"model type {policy.model.config.model_type!r} computes its logits from the hidden states in a way that is not "
            "supported (beyond projection, bias, scale and soft cap), so losses over hidden states would be wrong"
        )
