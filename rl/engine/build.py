"""Makes the engine that a recipe names, and the chat format of its model. The only place that knows both engines."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from transformers import AutoConfig

from rewards.errors import UserError
from rl.chat import ChatFormat
from rl.config import EngineConfig, ModelConfig
from rl.engine.capabilities import DECLARED, Capabilities
from rl.engine.protocol import Engine
from rl.engine.torch_engine import TorchEngine
from rl.policy import load_chat, load_policy
from rl.products import use_fast_products


@dataclass(frozen=True)
class Served:
    """A model behind an engine."""

    engine: Engine
    chat: ChatFormat


def serve(folder: str, model: ModelConfig, config: EngineConfig, *, timeout_s: float = 600.0) -> Served:
    """Loads a hub id or a local folder; adapters are left out, since weights arrive merged. For the compute thread.

    Raises:
        UserError: the model cannot be loaded, the engine is not installed, or `deterministic` is not reached.
    """
    if config.name == "vllm":
        if config.deterministic:
            raise _not_deterministic(DECLARED["vllm"])
        from rl.engine.vllm_engine import VllmEngine

        chat = load_chat(folder, model)
        return Served(VllmEngine(folder, model, config, chat.tokenizer, timeout_s=timeout_s), chat)
    use_fast_products()
    policy = load_policy(folder, dataclasses.replace(model, lora=None))
    engine = TorchEngine(policy, config, timeout_s=timeout_s)
    if config.deterministic and not engine.capabilities.batch_invariant:
        raise _not_deterministic(engine.capabilities)
    return Served(engine, policy.chat)


def _not_deterministic(found: Capabilities) -> UserError:
    return UserError(f"engine.deterministic: got true, which this model does not reach here: {found.reason}")


def declared_context(folder: str, model: ModelConfig) -> int | None:
    """The tokens that a model was made for, where its config says so."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=model.trust_remote_code)
    return getattr(config.get_text_config(), "max_position_embeddings", None)
