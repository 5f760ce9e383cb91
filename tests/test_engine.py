"""The engine contract, over architectures; sampling; invariance; abort, continue, extend, save and restore."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
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
from rl.engine.protocol import GenerateRequest, TokenChunk
from rl.engine.sampling import draw
from rl.engine.torch_engine import EngineStoppedError, TorchEngine
from rl.policy import Policy
from rl.rng import key_of
from rl.trajectory import FinishReason
from tests.conftest import tiny_policy

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


def request(name: str, *, prompt: Sequence[int] = (0, 2, 20, 21, 3, 4), **changes: object) -> GenerateRequest:
    made = GenerateRequest(
        request_id=name,
        prompt_ids=prompt,
        sampling=SamplingConfig(max_tokens=24),
        stop_ids=frozenset([1]),
        seed_key=key_of("seed"),
        rollout_key=key_of(name),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


async def read(stream: AsyncIterator[TokenChunk]) -> list[TokenChunk]:
    return [chunk async for chunk in stream]


def ids(chunks: Sequence[TokenChunk]) -> list[int]:
    return [int(t) for c in chunks for t in c.token_ids]


def run(engine: TorchEngine, work: Callable[[TorchEngine], Awaitable[object]]) -> object:
    return asyncio.run(_awaited(work(engine)))


async def _awaited(work: Awaitable[object]) -> object:
    return await asyncio.wait_for(work, 120)


async def generate(engine: TorchEngine, requests: Sequence[GenerateRequest]) -> list[list[TokenChunk]]:
    await engine.pause()
    streams = [engine.generate(r) for r in requests]
    await engine.resume()
    return list(await asyncio.gather(*(read(s) for s in streams)))


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
        sampled = ids(chunks)
        tokens = torch.tensor([[*r.prompt_ids, *sampled]])
        with torch.no_grad():
            logits = policy.model(input_ids=tokens).logits[0].float()
        expected = torch.log_softmax(logits, -1)[len(r.prompt_ids) - 1 : -1].gather(-1, torch.tensor(sampled)[:, None])[:, 0]
        np.testing.assert_allclose(np.concatenate([c.logprobs for c in chunks]), expected.numpy(), atol=5e-6)


def test_bfloat16_logprobs_stay_close_to_a_plain_forward() -> None:
    policy = tiny_policy(dtype="bfloat16")
    engine = TorchEngine(policy, EngineConfig(max_batch_size=4, max_seq_len=128), timeout_s=60)
    r = request("a")
    [chunks] = asyncio.run(generate(engine, [r]))
    engine.close()
    with torch.no_grad(), policy.autocast():
        hidden = policy.model.base_model(input_ids=torch.tensor([[*r.prompt_ids, *ids(chunks)]]))[0][0]
        logits = policy.head.logits(hidden)
    expected = torch.log_softmax(logits, -1)[len(r.prompt_ids) - 1 : -1]
    expected = expected.gather(-1, torch.tensor(ids(chunks))[:, None])[:, 0]
    np.testing.assert_allclose(np.concatenate([c.logprobs for c in chunks]), expected.numpy(), atol=0.02)


def test_a_shared_prompt_is_prefilled_once(engine: TorchEngine) -> None:
    before = engine.num_prefill_tokens
    asyncio.run(generate(engine, [request(f"g{i}") for i in range(8)]))
    assert engine.num_prefill_tokens - before == 6


def test_more_requests_than_rows_all_finish(engine: TorchEngine) -> None:
    requests = [
        request(f"q{i}", prompt=[0, 2, 20 + i % 7, 4], sampling=SamplingConfig(max_tokens=1 + i % 9)) for i in range(60)
    ]
    outputs = asyncio.run(generate(engine, requests))
    for r, chunks in zip(requests, outputs, strict=True):
        assert chunks[-1].finish_reason in (FinishReason.LENGTH, FinishReason.STOP)
        assert len(ids(chunks)) <= r.sampling.max_tokens
        assert (chunks[-1].finish_reason is FinishReason.STOP) == (ids(chunks)[-1] == 1)


def test_greedy_takes_the_argmax(engine: TorchEngine, policy: Policy) -> None:
    r = request("greedy", sampling=SamplingConfig(max_tokens=8, temperature=0.0))
    [chunks] = asyncio.run(generate(engine, [r]))
    tokens = list(r.prompt_ids)
    for token in ids(chunks):
        with torch.no_grad():
            assert int(policy.model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()) == token
        tokens.append(token)


def test_stop_string_and_context_limit(engine: TorchEngine, policy: Policy) -> None:
    [free] = asyncio.run(generate(engine, [request("s")]))
    third = policy.tokenizer.decode([ids(free)[2]])
    [stopped] = asyncio.run(generate(engine, [request("s", sampling=SamplingConfig(max_tokens=24, stop=(third,)))]))
    assert stopped[-1].finish_reason is FinishReason.STOP
    assert ids(stopped) == ids(free)[: len(ids(stopped))]
    assert third in policy.tokenizer.decode(ids(stopped))
    long = request("c", prompt=[20] * 120, sampling=SamplingConfig(max_tokens=50), stop_ids=frozenset())
    [full] = asyncio.run(generate(engine, [long]))
    assert full[-1].finish_reason is FinishReason.CONTEXT
    assert len(ids(full)) == 8
    with pytest.raises(ValueError, match="max_seq_len"):
        asyncio.run(generate(engine, [request("too long", prompt=[20] * 128)]))


def test_abort_then_continue_gives_the_uninterrupted_tokens(engine: TorchEngine) -> None:
    r = request("x", stop_ids=frozenset(), sampling=SamplingConfig(max_tokens=60), stream_interval=1)

    async def interrupted(engine: TorchEngine) -> list[int]:
        stream, got = engine.generate(r), list[int]()
        async for chunk in stream:
            got += [int(t) for t in chunk.token_ids]
            if len(got) == 10:
                await engine.abort("x")
            if chunk.finish_reason is not None:
                assert chunk.finish_reason is FinishReason.ABORTED
        rest = await read(engine.generate(replace(r, request_id="y", generated_ids=got)))
        assert 10 <= len(got) < 60
        return got + ids(rest)

    [whole] = asyncio.run(generate(engine, [r]))
    assert run(engine, interrupted) == ids(whole)


def test_aborting_one_request_leaves_the_others_as_they_were(engine: TorchEngine) -> None:
    options = {"stop_ids": frozenset(), "sampling": SamplingConfig(max_tokens=60), "stream_interval": 1}
    requests = [request(f"n{i}", prompt=[0, 2, 20 + i, 4], **options) for i in range(4)]
    undisturbed = asyncio.run(generate(engine, requests))

    async def one_goes(engine: TorchEngine) -> list[list[TokenChunk]]:
        await engine.pause()
        streams = [engine.generate(r) for r in requests]
        await engine.resume()
        first = [await anext(streams[0])]
        await engine.abort("n0")
        rest = await asyncio.gather(*(read(s) for s in streams))
        assert rest[0][-1].finish_reason is FinishReason.ABORTED
        assert ids([*first, *rest[0]]) == ids(undisturbed[0])[: len(ids([*first, *rest[0]]))]
        return list(rest[1:])

    others = run(engine, one_goes)
    assert [ids(c) for c in others] == [ids(c) for c in undisturbed[1:]]  # type: ignore[attr-defined]


def test_a_caller_that_stops_waiting_does_not_stop_the_engine(engine: TorchEngine) -> None:
    async def impatient(engine: TorchEngine) -> list[TokenChunk]:
        for _ in range(20):
            waiting = asyncio.ensure_future(engine.abort("nobody"))
            await asyncio.sleep(0)
            waiting.cancel()
        return await read(engine.generate(request("after")))

    assert run(engine, impatient)


def test_bad_requests_are_refused_and_the_engine_goes_on(engine: TorchEngine) -> None:
    async def refused(engine: TorchEngine) -> None:
        with pytest.raises(ValueError, match="fewer than its max_tokens"):
            await read(engine.generate(request("full", generated_ids=[20] * 24)))
        await read(engine.generate(request("kept", keep=True)))
        with pytest.raises(ValueError, match="max_seq_len"):
            await read(engine.extend("kept", [20] * 200))
        assert await read(engine.extend("kept", [20, 21]))

    run(engine, refused)


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


def test_extend_continues_as_if_the_forced_tokens_had_been_a_prompt(engine: TorchEngine) -> None:
    forced = [2, 25, 26, 3, 4]
    r = request("tool", keep=True, sampling=SamplingConfig(max_tokens=6))

    async def two_turns(engine: TorchEngine) -> tuple[list[int], list[int]]:
        first = ids(await read(engine.generate(r)))
        return first, ids(await read(engine.extend("tool", forced)))

    first, second = run(engine, two_turns)  # type: ignore[misc]
    prompt = [*r.prompt_ids, *first, *forced]
    [fresh] = asyncio.run(generate(engine, [replace(r, request_id="fresh", keep=False, prompt_ids=prompt)]))
    assert ids(fresh) == second


def test_pause_holds_and_new_weights_carry_their_version(policy: Policy) -> None:
    other = tiny_policy(seed=1)
    engine = TorchEngine(tiny_policy(), EngineConfig(max_batch_size=4, max_seq_len=128), timeout_s=60)
    r = request("w", stop_ids=frozenset(), sampling=SamplingConfig(max_tokens=100), stream_interval=1)

    async def updated(engine: TorchEngine) -> list[TokenChunk]:
        stream = engine.generate(r)
        chunks = [await anext(stream) for _ in range(5)]
        await engine.pause()
        await asyncio.sleep(0.2)
        await engine.load_weights(7, other.weights())
        await engine.resume()
        return chunks + [c async for c in stream]

    chunks = run(engine, updated)
    versions = np.concatenate([c.policy_version for c in chunks])  # type: ignore[attr-defined]
    assert set(versions.tolist()) == {0, 7}
    assert (np.diff(versions) >= 0).all()
    with pytest.raises(ValueError, match="another model"):
        asyncio.run(engine.load_weights(8, {"nothing": torch.zeros(1)}))
    engine.close()
    with pytest.raises(EngineStoppedError):
        asyncio.run(generate(engine, [r]))


def test_tied_head_follows_new_weights(policy: Policy) -> None:
    """After an update the engine samples from the new model's head, not from a stale copy."""
    other = tiny_policy(seed=3)
    engine = TorchEngine(tiny_policy(), EngineConfig(max_batch_size=4, max_seq_len=128), timeout_s=60)
    asyncio.run(engine.load_weights(1, other.weights()))
    r = request("t")
    [chunks] = asyncio.run(generate(engine, [r]))
    engine.close()
    with torch.no_grad():
        logits = other.model(input_ids=torch.tensor([[*r.prompt_ids, *ids(chunks)]])).logits[0].float()
    expected = torch.log_softmax(logits, -1)[len(r.prompt_ids) - 1]
    assert abs(float(expected[ids(chunks)[0]]) - float(chunks[0].logprobs[0])) < 5e-6


def test_a_reader_that_leaves_frees_its_row(engine: TorchEngine) -> None:
    async def leave(engine: TorchEngine) -> bool:
        stream = engine.generate(
            request("gone", stop_ids=frozenset(), sampling=SamplingConfig(max_tokens=100), stream_interval=1)
        )
        await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]
        await engine.pause()
        return not engine._core.has_work

    assert run(engine, leave)


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
    asyncio.run(engines[0].load_weights(1, tiny_policy(seed=3).weights()))
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
