"""What each engine can do, declared by name, so that a recipe which needs more is refused when it loads. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Capabilities:
    """What an engine can do; a recipe that needs more is refused when it loads, never served differently in silence."""

    any_model: bool  # whatever transformers runs; else the engine may refuse a model when it opens
    batch_invariant: bool  # the same request gives the same tokens whatever else is in the batch
    counter_rng: bool  # draws depend on (seed, rollout, position) alone
    kv_save: bool  # save_kv and restore_kv
    sampling_mask: bool  # reports what top-p and top-k kept
    forced_tokens: bool  # extend
    kv_renewed: bool  # after new weights an open request's cache is computed again by them; else it stays as it was
    reason: str = ""  # how batch_invariant was established, or why it does not hold


# What each engine offers at best; a running engine says in `Engine.capabilities` what holds for its model.
DECLARED: Mapping[str, Capabilities] = {
    "torch": Capabilities(
        any_model=True,
        batch_invariant=True,
        counter_rng=True,
        kv_save=True,
        sampling_mask=True,
        forced_tokens=True,
        kv_renewed=False,
    ),
    "vllm": Capabilities(
        any_model=False,
        batch_invariant=False,
        counter_rng=True,
        kv_save=False,
        sampling_mask=True,
        forced_tokens=True,
        kv_renewed=True,
        reason="vLLM's kernels are not asked for it",
    ),
}
