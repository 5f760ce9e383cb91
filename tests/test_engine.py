"""The torch engine: architectures, sampling, invariance, caches. What both engines promise is in test_engine_contract.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from rl.config import EngineConfig, SamplingConfig
from rl.engine import decoder as decoder_module
from rl.engine.decoder import Decoder, make_decoder, one_query_attention
from rl.engine.invariance import choose_kv, probe
from rl.engine.kv_native import NativeKV
from rl.engine.kv_slots import SlotKV
from rl.engine.prefix import Prefix, SharedPrefixes
from rl.engine.protocol import Weights
from rl.engine.sampling import draw
from rl.engine.torch_engine import TorchEngine
from rl.policy import Policy
from tests.conftest import tiny_policy
from tests.engine_requests import generate, ids, logprobs, plain_logprobs, read, request, run

ARCHITECTURES = ["qwen3", "llama", "gemma2", "gemma3_text", "mixtral", "qwen3_moe", "mamba2", "gpt_oss", "mistral"]
CONFIGS = {
    "gemma2": {"sliding_window": 8},
    "gemma3_text": {"sliding_window": 8},
    "mistral": {"sliding_window": 8},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64},
    "mixtral": {"num_local_experts": 4},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8},
    "mamba2": {"num_heads": 8, "head_dim": 16, "state_size": 16, "n_groups": 1, "expand": 2},
}


@pytest.fixture
def engine(policy: Policy) -> AsyncIterator[TorchEngine]:
    made = TorchEngine(policy, EngineConfig(max_batch_size=16, max_seq_len=128), timeout_s=60)
    yield made  # type: ignore[misc]
    made.close()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logprobs_equal_a_plain_forward(architecture: str) -> None:
    """What the sampler reports is what transformers computes on the same ids, for ragged batches and shared prompts."""
    policy = tiny_policy(architecture, **CONFIGS.get(architecture, {}))
    engine = TorchEngine(policy, EngineConfig(max_batch_size=4, max_seq_len=128), timeout_s=60)
    requests = [request(f"{i}-{j}", prompt=[0, 2, *range(20, 25 + 3 * i), 4]) for i in range(3) for j in range(3)]
    try:
        outputs = asyncio.run(generate(engine, requests))
    finally:
        engine.close()
    assert isinstance(engine._core.kv, NativeKV if architecture == "mamba2" else SlotKV)
    for r, chunks in zip(requests, outputs, strict=True):
        np.testing.assert_allclose(logprobs(chunks), plain_logprobs(policy, r.prompt_ids, ids(chunks)), atol=5e-6)


def test_a_shared_prompt_is_prefilled_once(engine: TorchEngine) -> None:
    before = engine.num_prefill_tokens
    asyncio.run(generate(engine, [request(f"g{i}") for i in range(8)]))
    assert engine.num_prefill_tokens - before == 6


def test_save_and_restore_kv_goes_on_without_prefill(engine: TorchEngine) -> None:
    r = request("kv", stop_ids=frozenset(), sampling=SamplingConfig(max_tokens=40), stream_interval=1)

    async def moved(engine: TorchEngine) -> list[int]:
        stream = engine.generate(r)
        while (await anext(stream)).finish_reason is None:
            await engine.pause()
            break
        saved = await engine.save_kv("kv")
        await engine.abort("kv")
        await engine.resume()
        await stream.aclose()  # type: ignore[attr-defined]
        await engine.restore_kv(saved)
        before = engine.num_prefill_tokens
        got = list(saved.token_ids[len(r.prompt_ids) :])
        rest = await read(engine.generate(replace(r, request_id="kv2", generated_ids=got)))
        assert engine.num_prefill_tokens == before
        return got + ids(rest)

    [whole] = asyncio.run(generate(engine, [r]))
    assert run(engine, moved) == ids(whole)


@pytest.mark.parametrize("deterministic", [True, False])
def test_the_same_request_gives_the_same_tokens_in_any_company(policy: Policy, deterministic: bool) -> None:
    """Alone, in a batch of 64, and continued after an abort. Where the probe says no, nothing is promised."""
    engine = TorchEngine(policy, EngineConfig(max_batch_size=64, max_seq_len=128, deterministic=deterministic), timeout_s=60)
    requests = [request(f"d{i}", prompt=[0, 2, *range(20, 22 + i % 5), 4]) for i in range(64)]
    try:
        if not engine.capabilities.batch_invariant:
            assert not deterministic, engine.capabilities.reason
            assert "difference" in engine.capabilities.reason
            return
        together = asyncio.run(generate(engine, requests))
        for i in (0, 13, 63):
            [alone] = asyncio.run(generate(engine, [requests[i]]))
            assert ids(alone) == ids(together[i])
            assert np.array_equal(
                np.concatenate([c.logprobs for c in alone]), np.concatenate([c.logprobs for c in together[i]])
            )
            half = ids(alone)[: len(ids(alone)) // 2]
            if half:
                [rest] = asyncio.run(generate(engine, [replace(requests[i], generated_ids=half)]))
                assert half + ids(rest) == ids(alone)
    finally:
        engine.close()


@pytest.mark.parametrize("deterministic", [True, False])
def test_what_an_engine_has_served_before_leaves_no_trace(policy: Policy, deterministic: bool) -> None:
    """A resumed run starts with a fresh engine: its caches are smaller than those of one that has served long requests."""
    config = EngineConfig(max_batch_size=16, max_seq_len=512, deterministic=deterministic)
    used, fresh = TorchEngine(policy, config, timeout_s=60), TorchEngine(policy, config, timeout_s=60)
    long = [request(f"l{i}", prompt=[0, 2, *[20 + i] * 260, 4], stop_ids=frozenset()) for i in range(16)]
    requests = [request(f"h{i}", prompt=[0, 2, *range(20, 22 + 9 * (i % 3)), 4]) for i in range(24)]
    try:
        asyncio.run(generate(used, long))
        later, first = asyncio.run(generate(used, requests)), asyncio.run(generate(fresh, requests))
    finally:
        used.close()
        fresh.close()
    for a, b in zip(later, first, strict=True):
        assert ids(a) == ids(b)
        assert np.array_equal(np.concatenate([c.logprobs for c in a]), np.concatenate([c.logprobs for c in b]))


def test_bfloat16_weights_cast_once_give_the_bits_of_autocast() -> None:
    policy = tiny_policy(dtype="bfloat16")
    once = make_decoder(policy, one_query=False)
    assert len(once.casts) == 2 * 7  # the linear layers of two blocks; the head stays in float32
    each_time = replace(once, stepper=policy)
    assert torch.equal(decoded(once), decoded(each_time))


def decoded(decoder: Decoder) -> torch.Tensor:
    """Logits of three rows at different lengths, six tokens on."""
    kv = SlotKV(decoder, 3, fixed_shapes=False)
    with torch.inference_mode():
        prompts = [[0, 2, *range(20, 25 + 4 * i)] for i in range(3)]
        for slot, cache in enumerate(kv.prefill(prompts)[1]):
            kv.place([slot], cache)
        return torch.stack([kv.decode([30 + i] * 3, [len(p) + i for p in prompts]) for i in range(6)])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_engine_with_new_weights_is_an_engine_of_the_new_model(dtype: str) -> None:
    engines = [TorchEngine(tiny_policy(seed=s, dtype=dtype), EngineConfig(max_batch_size=4), timeout_s=60) for s in (0, 3)]
    asyncio.run(engines[0].load_weights(Weights(1, tiny_policy(seed=3).weights())))
    updated, made = (asyncio.run(generate(e, [request("u")]))[0] for e in engines)
    for engine in engines:
        engine.close()
    assert ids(updated) == ids(made)
    assert np.array_equal(np.concatenate([c.logprobs for c in updated]), np.concatenate([c.logprobs for c in made]))


@pytest.mark.parametrize("groups", [1, 4])
def test_one_query_attention_is_scaled_dot_product_attention(groups: int) -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(5, 2 * groups, 1, 16, generator=generator)
    key, value = (torch.randn(5, 2, 64, 16, generator=generator)[:, :, :48] for _ in range(2))
    visible = torch.arange(48)[None] <= torch.tensor([0, 5, 20, 46, 47])[:, None]
    mask = torch.zeros(5, 1, 1, 48).masked_fill(~visible[:, None, None], torch.finfo(torch.float32).min)
    got, _ = one_query_attention(torch.nn.Identity(), query, key, value, mask)
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True)
    torch.testing.assert_close(got, expected.transpose(1, 2), atol=1e-6, rtol=1e-5)


def test_rows_attend_to_a_shared_prefix_as_to_their_own() -> None:
    """Uneven groups out of order, and a row that shares nothing, against attention over each row's whole cache."""
    generator = torch.Generator().manual_seed(0)

    def states(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    long, short = (Prefix(((states(2, n, 16), states(2, n, 16)),)) for n in (9, 5))
    rows = [short, long, short, None, long, short]
    shared = SharedPrefixes(rows)
    query, key, value = states(6, 4, 16), states(6, 2, 4, 16), states(6, 2, 4, 16)
    hidden = torch.arange(9)[None] >= shared.lengths[:, None]
    mask = torch.cat([torch.zeros(6, 9).masked_fill(hidden, torch.finfo(torch.float32).min), torch.zeros(6, 4)], 1)[:, None]
    got = shared.attend(0, query, key, value, mask)
    for row, prefix in enumerate(rows):
        before = prefix.kv[0] if prefix is not None else (states(2, 0, 16), states(2, 0, 16))
        whole = [torch.cat([p, own[row]], 1) for p, own in zip(before, (key, value), strict=True)]
        expected = torch.nn.functional.scaled_dot_product_attention(query[row][:, None], *whole, enable_gqa=True)
        torch.testing.assert_close(got[row], expected.flatten(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_layers_are_used_where_they_agree_with_the_model(dtype: str) -> None:
    def layers(policy: Policy) -> object:
        return choose_kv(policy, EngineConfig(max_batch_size=4))[0].decoder.layers  # type: ignore[union-attr]

    assert layers(tiny_policy(dtype=dtype)) is not None
    assert layers(tiny_policy("gemma2", dtype=dtype, sliding_window=8)) is None


def test_attention_that_differs_from_the_models_own_is_not_used(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_kv(policy, EngineConfig(max_batch_size=4))[0].decoder.one_query  # type: ignore[union-attr]
    real = decoder_module.one_query_attention
    monkeypatch.setattr(decoder_module, "one_query_attention", lambda *a, **k: (real(*a, **k)[0] * 1.1, None))
    kv, _ = choose_kv(policy, EngineConfig(max_batch_size=4))
    assert isinstance(kv, SlotKV)
    assert not kv.decoder.one_query


def test_probe_notices_a_model_that_depends_on_longer_neighbours(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Policy.hidden_states

    def leaky(self: Policy, input_ids: torch.Tensor, **inputs: object) -> torch.Tensor:
        mask = inputs.get("attention_mask")
        return real(self, input_ids, **inputs) * (1 + (1e-5 * mask.shape[-1] if isinstance(mask, torch.Tensor) else 0))

    monkeypatch.setattr(Policy, "hidden_states", leaky)
    config = EngineConfig(max_batch_size=8, max_seq_len=128)
    verdict = probe(make_decoder(policy, one_query=True), config)
    assert not verdict.invariant


def test_probe_notices_a_model_that_depends_on_its_batch(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Policy.hidden_states

    def leaky(self: Policy, input_ids: torch.Tensor, **inputs: object) -> torch.Tensor:
        return real(self, input_ids, **inputs) * (1 + 1e-6 * len(input_ids))

    monkeypatch.setattr(Policy, "hidden_states", leaky)
    engine = TorchEngine(policy, EngineConfig(max_batch_size=8, max_seq_len=128), timeout_s=60)
    engine.close()
    assert not engine.capabilities.batch_invariant


def test_an_architecture_that_slots_cannot_hold_falls_back(policy: Policy) -> None:
    assert isinstance(choose_kv(policy, EngineConfig(max_batch_size=4))[0], SlotKV)
    kv, why = choose_kv(tiny_policy("mamba2", **CONFIGS["mamba2"]), EngineConfig(max_batch_size=4))
    assert isinstance(kv, NativeKV)
    assert "cannot hold its cache" in why


def test_draw_follows_the_distribution() -> None:
    generator = np.random.default_rng(0)
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]]).repeat(100_000, 1)
    for sampling in (
        SamplingConfig(),
        SamplingConfig(temperature=0.5),
        SamplingConfig(top_k=2),
        SamplingConfig(top_p=0.7),
        SamplingConfig(temperature=2.0, top_k=3, top_p=0.9),
    ):
        draws = draw(logits, [sampling] * len(logits), generator.random(len(logits)))
        expected = reference_distribution(logits[0], sampling)
        counts = np.bincount(draws.token_ids, minlength=4) / len(logits)
        np.testing.assert_allclose(counts, expected, atol=0.006)
        np.testing.assert_allclose(draws.logprobs, np.log(expected[draws.token_ids]), atol=1e-5)
        if sampling.top_k or sampling.top_p < 1:
            assert draws.kept[0] is not None
            assert set(draws.kept[0].tolist()) == set(np.flatnonzero(expected).tolist())
        else:
            assert draws.kept[0] is None


def reference_distribution(logits: torch.Tensor, sampling: SamplingConfig) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """The textbook definition, one token at a time."""
    p = torch.softmax(logits.double() / sampling.temperature, 0).numpy()
    order = np.argsort(-p)
    keep = list(order[: sampling.top_k]) if sampling.top_k else list(order)
    p = np.where(np.isin(np.arange(len(p)), keep), p, 0)
    p /= p.sum()
    if sampling.top_p < 1:
        nucleus, mass = [], 0.0
        for token in np.argsort(-p):
            nucleus.append(token)
            mass += p[token]
            if mass >= sampling.top_p:
                break
        p = np.where(np.isin(np.arange(len(p)), nucleus), p, 0)
        p /= p.sum()
    return p  # type: ignore[no-any-return]
