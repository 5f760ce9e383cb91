"""The embedded rollout engine: any Hugging Face causal LM, continuous batching, on the CPU or one GPU."""

from __future__ import annotations

from dataclasses import replace

from rl.config import EngineConfig
from rl.engine.capabilities import DECLARED
from rl.engine.core import EngineCore
from rl.engine.invariance import Verdict, choose_kv, probe
from rl.engine.kv_native import NativeKV
from rl.engine.stepped import SteppedEngine
from rl.policy import Policy


class TorchEngine(SteppedEngine[EngineCore]):
    """Made from a policy, whose weights it replaces when it loads new ones."""

    def __init__(self, policy: Policy, config: EngineConfig, *, timeout_s: float = 600.0) -> None:
        kv, why_native = choose_kv(policy, config)
        verdict = Verdict(True, why_native) if isinstance(kv, NativeKV) else probe(kv.decoder, config)
        found = replace(DECLARED["torch"], batch_invariant=verdict.invariant, reason=verdict.detail)
        super().__init__(EngineCore(policy, config, kv), found, timeout_s=timeout_s)

    @property
    def num_prefill_tokens(self) -> int:
        """Prompt tokens computed since the start; a group's shared prompt counts once."""
        return self._core.num_prefill_tokens
