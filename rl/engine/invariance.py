"""Does the same request get the same bits whatever shares its batch? Measured on the actual model, never assumed.

Also chooses the KV cache that a model can be served with. Called once when an engine starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from rewards.errors import UserError
from rl.config import EngineConfig
from rl.engine.decoder import Decoder, make_decoder, make_layer_decoder
from rl.engine.kv_native import NativeKV
from rl.engine.kv_slots import SlotKV
from rl.policy import Policy

PROMPT, STEPS = 7, 6  # tokens prefilled and decoded by the probes
LONG = 70  # prompt of one neighbour: it attends to another bucket of the cache
BATCHES = (1, 3, 64)
CHECKED = (5, 5, 9)  # prompts of the rows that choose_kv decodes; the first two are one prompt


@dataclass(frozen=True)
class Verdict:
    """`invariant`: bitwise equality held in every comparison; `detail` names the first that failed, with its size."""

    invariant: bool
    detail: str


def choose_kv(policy: Policy, config: EngineConfig) -> tuple[SlotKV | NativeKV, str]:
    """The first way of decoding whose logits are the model's own; the reason where it is the last.

    Slots with layers of ours, slots with attention made for one query a row (both on the CPU, for models that use
    transformers' sdpa), slots with the model's own attention, and the model's native cache, one sequence a call.
    """
    policy.model.eval()
    tokens = _tokens(policy, len(CHECKED), 32)
    tokens[1, : CHECKED[0]] = tokens[0, : CHECKED[0]]  # a prompt that two rows share
    ways = [partial(make_decoder, policy, one_query=False)]
    if policy.device.type == "cpu" and policy.model.config._attn_implementation == "sdpa":
        ways = [partial(_checked_layers, policy, tokens), partial(make_decoder, policy, one_query=True), *ways]
    for make in ways:
        try:
            slots = SlotKV(make(), config.max_batch_size, fixed_shapes=config.deterministic)
            trial = SlotKV(slots.decoder, len(tokens), fixed_shapes=config.deterministic)
            error = max(_decode_error(policy, trial, tokens, shared=shared) for shared in (False, True))
            why = f"decoding through slots differs by {error:.2g}"
        except torch.OutOfMemoryError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError, IndexError, RuntimeError) as problem:
            error, why = float("inf"), f"slots cannot hold its cache ({type(problem).__name__}: {problem})"
        if error <= _tolerance(policy):
            return slots, ""
    native = NativeKV(policy, config.max_batch_size)
    error = _decode_error(policy, NativeKV(policy, len(tokens)), tokens, shared=True)
    if error <= _tolerance(policy):
        return native, f"one sequence a call, in the model's own cache: {why}"
    raise UserError(
        f"model type {policy.model.config.model_type!r}: decoding with a cache gives other logits than a full forward "
        f"(largest difference {error:.3g})"
    )


def _checked_layers(policy: Policy, tokens: np.ndarray[tuple[int, int], np.dtype[np.int64]]) -> Decoder:
    """Layers that agree with the model in float32 too: bfloat16's tolerance would let another architecture pass."""
    if policy.dtype is torch.bfloat16:
        exact = replace(policy, dtype=torch.float32)
        trial = SlotKV(make_layer_decoder(exact), len(tokens), fixed_shapes=False)
        error = _decode_error(exact, trial, tokens, shared=False)
        if error > _tolerance(exact):
            raise ValueError(f"layers of ours differ by {error:.2g} in float32")
    return make_layer_decoder(policy)


def _tolerance(policy: Policy) -> float:
    return 0.25 if policy.dtype is torch.bfloat16 else 1e-3


@torch.inference_mode()
def probe(decoder: Decoder, config: EngineConfig) -> Verdict:
    """Compares logits bit for bit: one request alone against batches of 3 and 64, with longer and shorter neighbours, in
    another row, in a group that shares its prompt, and prefilled against decoded.

    With `config.deterministic`, prefill against decode is not compared: an interrupted turn is then decoded again token by
    token, so the two never have to agree.
    """
    policy = decoder.policy
    batches = [n for n in BATCHES if n <= max(1, config.max_batch_size)]
    tokens = _tokens(policy, max(batches), LONG + STEPS)
    alone = _trace(decoder, config, tokens[:1], [PROMPT])
    for n in batches[1:]:
        # the longest neighbour makes the others attend to more empty places than they would alone
        lengths = [PROMPT, LONG, *(PROMPT - 1 - i % 3 for i in range(n - 2))]
        difference = _difference(alone, _trace(decoder, config, tokens[:n], lengths))
        if difference:
            return Verdict(False, f"batch of {n} against 1: largest difference {difference:.2g}")
        shifted = np.roll(tokens[:n], 1, axis=0), [*lengths[-1:], *lengths[:-1]]
        difference = _difference(alone, _trace(decoder, config, *shifted, row=1))
        if difference:
            return Verdict(False, f"another row of a batch of {n}: largest difference {difference:.2g}")
        together = np.repeat(tokens[:1], n, axis=0), [PROMPT] * n
        difference = _difference(alone, _trace(decoder, config, *together, group=True))
        if difference:
            return Verdict(False, f"a group of {n} of one prompt: largest difference {difference:.2g}")
    if not config.deterministic:
        kv = SlotKV(decoder, 1, fixed_shapes=False)
        prefilled = torch.stack([kv.prefill([tokens[0, : PROMPT + i].tolist()])[0][0] for i in range(STEPS + 1)])
        difference = _difference(alone, prefilled)
        if difference:
            return Verdict(False, f"prefill against decode: largest difference {difference:.2g}")
    how = "fixed shapes" if config.deterministic else "probed"
    return Verdict(True, f"{how}: bitwise equal over batches of {', '.join(map(str, batches))}")


def _tokens(policy: Policy, rows: int, length: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    vocab_size = policy.model.config.get_text_config().vocab_size
    return np.random.default_rng(0).integers(0, vocab_size, (rows, length))


def _trace(
    decoder: Decoder,
    config: EngineConfig,
    tokens: np.ndarray[tuple[int, int], np.dtype[np.int64]],
    lengths: Sequence[int],
    row: int = 0,
    *,
    group: bool = False,
) -> Tensor:
    """Logits [STEPS + 1, V] of one row while the whole batch is prefilled and then decoded together.

    `group`: all rows have one prompt, which is prefilled once.
    """
    kv = SlotKV(decoder, config.max_batch_size, fixed_shapes=config.deterministic)
    rows = range(1 if group else len(tokens))
    logits, caches = kv.prefill([tokens[i, : lengths[i]].tolist() for i in rows])
    for slot, cache in enumerate(caches):
        kv.place(range(len(tokens)) if group else [slot], cache)
    trace = [logits[row]]
    for step in range(STEPS):
        places = [n + step for n in lengths]
        trace.append(kv.decode([int(t[p]) for t, p in zip(tokens, places, strict=True)], places)[row])
    return torch.stack(trace)


@torch.inference_mode()
def _decode_error(
    policy: Policy, kv: SlotKV | NativeKV, tokens: np.ndarray[tuple[int, int], np.dtype[np.int64]], *, shared: bool
) -> float:
    """Largest difference between logits decoded through the cache, rows at different lengths, and full forwards.

    `shared`: the first two rows, whose prompts are equal, come from one prefill.
    """
    lengths = CHECKED
    logits, caches = kv.prefill([t[:n].tolist() for t, n in zip(tokens, lengths, strict=True)])
    for slots, cache in zip([[0, 1], [2]] if shared else [[0], [1], [2]], caches[::2] if shared else caches, strict=True):
        kv.place(slots, cache)  # type: ignore[arg-type]
    got = [logits]
    steps = tokens.shape[1] - max(lengths)
    for step in range(steps):
        places = [n + step for n in lengths]
        got.append(kv.decode([int(t[p]) for t, p in zip(tokens, places, strict=True)], places))
    with policy.autocast():
        full = policy.model(input_ids=torch.from_numpy(tokens).to(policy.device), use_cache=False).logits.float()
    expected = torch.stack([torch.stack([full[i, n - 1 + s] for i, n in enumerate(lengths)]) for s in range(steps + 1)])
    return _difference(expected, torch.stack(got))


def _difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())
