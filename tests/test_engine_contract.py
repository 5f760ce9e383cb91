"""One contract, two engines: ids, log-probabilities, stops, aborts, turns, masks, and weights that really arrive."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rewards.errors import UserError
from rl.compute import submit
from rl.config import EngineConfig, EngineName, ModelConfig, SamplingConfig
from rl.engine.build import serve
from rl.engine.capabilities import DECLARED
from rl.engine.protocol import Engine, Probe, TokenChunk, Weights, WeightsError
from rl.engine.sampling import draw
from rl.engine.stepped import EngineStoppedError
from rl.policy import Policy
from rl.trajectory import FinishReason
from tests.conftest import NEEDS_VLLM, tiny_policy
from tests.engine_requests import generate, ids, logprobs, plain_logprobs, read, request, run

ENGINES = ["torch", pytest.param("vllm", marks=NEEDS_VLLM)]
WIDE = {"head_dim": 32}  # vLLM's CPU attention refuses 16
MODELS = {
    "llama": WIDE,
    "qwen3": WIDE,
    "gemma3_text": {**WIDE, "sliding_window": 8},
    "qwen3_moe": {
        "num_attention_heads": 2,  # this config has no head_dim of its own
        "num_key_value_heads": 1,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 64,
    },
}
RAGGED = [request(f"{i}-{j}", prompt=[0, 2, *range(20, 25 + 3 * i), 4]) for i in range(3) for j in range(3)]


def start(name: EngineName, policy: Policy, folder: Path, dtype: str = "float32", **changes: object) -> Engine:
    policy.save(folder)
    config = replace(EngineConfig(name=name, max_batch_size=16, max_seq_len=128), **changes)  # type: ignore[arg-type]
    model = ModelConfig(path=str(folder), dtype=dtype)  # type: ignore[arg-type]
    return submit(lambda: serve(str(folder), model, config, timeout_s=60)).result().engine


@pytest.fixture(scope="module")
def policy() -> Policy:
    return tiny_policy(**WIDE)


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest, policy: Policy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine of `policy` whose weights stay as they are."""
    made = start(request.param, policy, tmp_path_factory.mktemp("served"))
    yield made
    made.close()


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("architecture", MODELS)
@pytest.mark.parametrize("name", ENGINES)
def test_logprobs_are_the_models_own_before_and_after_every_update(
    name: EngineName, architecture: str, tied: bool, tmp_path: Path
) -> None:
    """After a new model, and after a change of each single tensor: a part that stays stale would show."""
    settings = {**MODELS[architecture], "tie_word_embeddings": tied}
    policy, other = (tiny_policy(architecture, seed=seed, **settings) for seed in (0, 5))
    engine = start(name, policy, tmp_path)
    try:
        for r, chunks in zip(RAGGED, asyncio.run(generate(engine, RAGGED)), strict=True):
            np.testing.assert_allclose(logprobs(chunks), plain_logprobs(policy, r.prompt_ids, ids(chunks)), atol=5e-6)
        asyncio.run(engine.load_weights(Weights(1, other.weights(), probe(other))))
        for r, chunks in zip(RAGGED, asyncio.run(generate(engine, RAGGED)), strict=True):
            np.testing.assert_allclose(logprobs(chunks), plain_logprobs(other, r.prompt_ids, ids(chunks)), atol=5e-6)
        base, before = other.weights(), plain_logprobs(other, RAGGED[0].prompt_ids, [30] * 24)
        for version, name_of_tensor in enumerate(base, start=2):
            other.load_weights({**base, name_of_tensor: shaken(base[name_of_tensor], version)})
            assert np.abs(plain_logprobs(other, RAGGED[0].prompt_ids, [30] * 24) - before).max() > 1e-4
            asyncio.run(engine.load_weights(Weights(version, other.weights(), probe(other))))
            [chunks] = asyncio.run(generate(engine, RAGGED[:1]))
            np.testing.assert_allclose(logprobs(chunks), plain_logprobs(other, RAGGED[0].prompt_ids, ids(chunks)), atol=5e-6)
            assert {int(v) for c in chunks for v in c.policy_version} == {version}
    finally:
        engine.close()


def shaken(tensor: torch.Tensor, seed: int) -> torch.Tensor:
    size = float(tensor.std()) or 0.2  # norms begin as ones
    return tensor + 0.5 * size * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(seed))


def probe(policy: Policy) -> Probe:
    tokens = list(range(3, 40))
    return Probe(tokens, plain_logprobs(policy, tokens[:1], tokens[1:]))


@pytest.mark.parametrize("architecture", MODELS)
@pytest.mark.parametrize("name", ENGINES)
def test_bfloat16_logprobs_stay_close_to_a_plain_forward(name: EngineName, architecture: str, tmp_path: Path) -> None:
    policy = tiny_policy(architecture, dtype="bfloat16", **MODELS[architecture])
    engine = start(name, policy, tmp_path, "bfloat16")
    try:
        for r, chunks in zip(RAGGED, asyncio.run(generate(engine, RAGGED)), strict=True):
            np.testing.assert_allclose(logprobs(chunks), plain_logprobs(policy, r.prompt_ids, ids(chunks)), atol=0.02)
        asyncio.run(engine.load_weights(Weights(1, policy.weights(), probe(policy))))
    finally:
        engine.close()


@NEEDS_VLLM
def test_both_engines_draw_the_same_tokens(policy: Policy, tmp_path: Path) -> None:
    """Randomness belongs to seed, rollout and position, whatever engine computes the logits."""
    outputs = []
    for name in DECLARED:
        engine = start(name, policy, tmp_path)  # type: ignore[arg-type]
        outputs.append([ids(chunks) for chunks in asyncio.run(generate(engine, RAGGED))])
        engine.close()
    assert outputs[0] == outputs[1]


def test_what_is_declared_is_what_a_running_engine_says(engine: Engine) -> None:
    declared = next(can for can in DECLARED.values() if can.kv_save == engine.capabilities.kv_save)
    found = engine.capabilities
    assert replace(found, batch_invariant=declared.batch_invariant, reason=declared.reason) == declared
    assert declared.batch_invariant or not found.batch_invariant
    if not found.kv_save:
        with pytest.raises(NotImplementedError, match="kv_save"):
            asyncio.run(engine.save_kv("any"))


def test_a_group_shares_its_prompt_and_each_member_has_its_own_draws(engine: Engine) -> None:
    group = [request(f"n{i}") for i in range(8)]
    together = [ids(chunks) for chunks in asyncio.run(generate(engine, group))]
    assert len(set(map(tuple, together))) == 8
    [alone] = asyncio.run(generate(engine, [replace(group[5], request_id="another name")]))
    assert ids(alone) == together[5]


@pytest.mark.parametrize(
    "cut", [{"top_p": 0.7}, {"top_k": 5}, {"top_k": 40, "top_p": 0.5, "temperature": 0.8}, {"temperature": 1.7}]
)
def test_cuts_are_reported_and_logprobs_are_of_what_they_left(engine: Engine, policy: Policy, cut: dict[str, float]) -> None:
    sampling = SamplingConfig(max_tokens=6, **cut)  # type: ignore[arg-type]
    r = request("cut", sampling=sampling, stop_ids=frozenset())
    [chunks] = asyncio.run(generate(engine, [r]))
    tokens, kept = list(r.prompt_ids), [row for c in chunks for row in c.kept]
    for token, logprob, row in zip(ids(chunks), logprobs(chunks), kept, strict=True):
        with torch.no_grad():
            logits = policy.model(input_ids=torch.tensor([tokens])).logits[:, -1].float()
        expected = draw(logits, [sampling], np.array([0.5])).kept[0]
        assert (row is None) == (expected is None) == ("top_p" not in cut and "top_k" not in cut)
        allowed = np.arange(logits.shape[-1]) if row is None else row
        if expected is not None:
            assert row.tolist() == expected.tolist()
        left = torch.log_softmax(logits[0, torch.from_numpy(allowed).long()] / sampling.temperature, -1)
        assert abs(float(left[allowed.tolist().index(token)]) - logprob) < 5e-6
        tokens.append(token)


@pytest.mark.parametrize("name", ENGINES)
def test_pause_holds_and_open_requests_go_on_with_new_weights(name: EngineName, policy: Policy, tmp_path: Path) -> None:
    other = tiny_policy(seed=1, **WIDE)
    engine = start(name, tiny_policy(**WIDE), tmp_path)
    r = request("w", stop_ids=frozenset(), sampling=SamplingConfig(max_tokens=100), stream_interval=1)

    async def updated(engine: Engine) -> list[TokenChunk]:
        stream = engine.generate(r)
        chunks = [await anext(stream) for _ in range(5)]
        await engine.pause()
        await asyncio.sleep(0.2)
        await engine.load_weights(Weights(7, other.weights(), probe(other)))
        await engine.resume()
        return chunks + [c async for c in stream]

    chunks = run(engine, updated)
    versions = np.concatenate([c.policy_version for c in chunks])
    assert set(versions.tolist()) == {0, 7}
    assert (np.diff(versions) >= 0).all()
    assert len(versions) == 100
    if engine.capabilities.kv_renewed:
        expected = plain_logprobs(other, r.prompt_ids, ids(chunks))
        np.testing.assert_allclose(logprobs(chunks)[versions == 7], expected[versions == 7], atol=5e-6)
    with pytest.raises(ValueError, match="another model"):
        asyncio.run(engine.load_weights(Weights(8, {"nothing": torch.zeros(1)})))
    engine.close()
    with pytest.raises(EngineStoppedError):
        asyncio.run(generate(engine, [r]))


@NEEDS_VLLM
def test_requests_that_find_no_room_in_the_cache_are_put_off_and_lose_nothing(policy: Policy, tmp_path: Path) -> None:
    """A cache of six blocks for nine requests, and new weights in the middle: begun again, with the same draws."""
    other = tiny_policy(seed=1, **WIDE)
    engine = start("vllm", policy, tmp_path, kv_cache_bytes=7 * 32 * 2 * 2 * 2 * 32 * 4)
    requests = [replace(r, stop_ids=frozenset(), sampling=SamplingConfig(max_tokens=60), stream_interval=1) for r in RAGGED]

    async def updated(engine: Engine) -> list[list[TokenChunk]]:
        await engine.pause()
        streams = [engine.generate(r) for r in requests]
        await engine.resume()
        first = [await anext(streams[0]) for _ in range(5)]
        await engine.load_weights(Weights(1, other.weights(), probe(other)))
        rest = await asyncio.gather(*(read(stream) for stream in streams))
        return [[*first, *rest[0]], *rest[1:]]

    try:
        for r, chunks in zip(requests, run(engine, updated), strict=True):
            versions = np.concatenate([c.policy_version for c in chunks])
            assert len(versions) == 60
            assert versions[-1] == 1
            for version, model in enumerate((policy, other)):
                expected = plain_logprobs(model, r.prompt_ids, ids(chunks))
                np.testing.assert_allclose(logprobs(chunks)[versions == version], expected[versions == version], atol=5e-6)
    finally:
        engine.close()
        engine.close()


@NEEDS_VLLM
def test_a_probe_longer_than_the_context_is_cut(policy: Policy, tmp_path: Path) -> None:
    engine = start("vllm", policy, tmp_path, max_seq_len=32)
    try:
        asyncio.run(engine.load_weights(Weights(1, policy.weights(), probe(policy))))
    finally:
        engine.close()


def test_stop_ids_outside_the_vocabulary_never_stop(engine: Engine) -> None:
    r = request("far", stop_ids=frozenset([1, 10**6]))
    [chunks] = asyncio.run(generate(engine, [r]))
    assert ids(chunks) == ids(asyncio.run(generate(engine, [replace(r, stop_ids=frozenset([1]))]))[0])


def test_an_id_that_is_open_is_refused(engine: Engine) -> None:
    async def twice(engine: Engine) -> None:
        kept = request("once", keep=True)
        await read(engine.generate(kept))
        with pytest.raises(ValueError, match="open already"):
            await read(engine.generate(kept))
        assert await read(engine.extend("once", [20]))
        await engine.abort("once")
        assert await read(engine.generate(kept))

    run(engine, twice)


@pytest.mark.parametrize("name", ENGINES)
def test_stops_that_the_config_alone_declares_are_known_to_both(name: EngineName, policy: Policy, tmp_path: Path) -> None:
    policy.save(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    config = json.loads((tmp_path / "config.json").read_text()) | {"eos_token_id": [1, 5]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    served = submit(
        lambda: serve(str(tmp_path), ModelConfig(path=str(tmp_path)), EngineConfig(name=name, max_seq_len=64))
    ).result()
    served.engine.close()
    assert served.chat.stop_ids >= {1, 5}


@NEEDS_VLLM
def test_settings_that_vllm_cannot_serve_are_named(policy: Policy, tmp_path: Path) -> None:
    for changes, said in (
        ({"max_seq_len": 10**6}, "engine.max_seq_len: got 1000000; allowed: at most the model's context"),
        ({"kv_cache_bytes": 2**60}, "engine.kv_cache_bytes: got 1152921504606846976; allowed: what this machine has free"),
        ({"deterministic": True}, "engine.deterministic: got true"),
    ):
        with pytest.raises(UserError, match=said):
            start("vllm", policy, tmp_path, **changes)


@NEEDS_VLLM
def test_weights_that_did_not_all_arrive_are_noticed(policy: Policy, tmp_path: Path) -> None:
    """A stale head, and one stale layer, of an update as small as a training step's."""
    engine = start("vllm", policy, tmp_path)
    generator = torch.Generator().manual_seed(0)
    weights = policy.weights()
    moved = {name: t + 0.02 * t.std() * torch.randn(t.shape, generator=generator) for name, t in weights.items() if t.dim() > 1}
    other = tiny_policy(**WIDE)
    other.load_weights({**weights, **moved})
    try:
        asyncio.run(engine.load_weights(Weights(1, other.weights(), probe(other))))
        for stale in ("model.embed_tokens.weight", "model.layers.1.mlp.down_proj.weight"):
            partly = {**other.weights(), stale: weights[stale]}
            with pytest.raises(WeightsError, match=r"version 2 .* differ from the trainer's by .* stale"):
                asyncio.run(engine.load_weights(Weights(2, partly, probe(other))))
    finally:
        engine.close()


def test_more_requests_than_rows_all_finish(engine: Engine) -> None:
    requests = [
        request(f"q{i}", prompt=[0, 2, 20 + i % 7, 4], sampling=SamplingConfig(max_tokens=1 + i % 9)) for i in range(60)
    ]
    outputs = asyncio.run(generate(engine, requests))
    for r, chunks in zip(requests, outputs, strict=True):
        assert chunks[-1].finish_reason in (FinishReason.LENGTH, FinishReason.STOP)
        assert len(ids(chunks)) <= r.sampling.max_tokens
        assert (chunks[-1].finish_reason is FinishReason.STOP) == (ids(chunks)[-1] == 1)


def test_greedy_takes_the_argmax(engine: Engine, policy: Policy) -> None:
    r = request("greedy", sampling=SamplingConfig(max_tokens=8, temperature=0.0))
    [chunks] = asyncio.run(generate(engine, [r]))
    tokens = list(r.prompt_ids)
    for token in ids(chunks):
        with torch.no_grad():
            assert int(policy.model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()) == token
        tokens.append(token)


def test_stop_string_and_context_limit(engine: Engine, policy: Policy) -> None:
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


def test_abort_then_continue_gives_the_uninterrupted_tokens(engine: Engine) -> None:
    r = request("x", stop_ids=frozenset(), sampling=SamplingConfig(max_tokens=60), stream_interval=1)

    async def interrupted(engine: Engine) -> list[int]:
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


def test_aborting_one_request_leaves_the_others_as_they_were(engine: Engine) -> None:
    options = {"stop_ids": frozenset(), "sampling": SamplingConfig(max_tokens=60), "stream_interval": 1}
    requests = [request(f"n{i}", prompt=[0, 2, 20 + i, 4], **options) for i in range(4)]
    undisturbed = asyncio.run(generate(engine, requests))

    async def one_goes(engine: Engine) -> list[list[TokenChunk]]:
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


def test_a_caller_that_stops_waiting_does_not_stop_the_engine(engine: Engine) -> None:
    async def impatient(engine: Engine) -> list[TokenChunk]:
        for _ in range(20):
            waiting = asyncio.ensure_future(engine.abort("nobody"))
            await asyncio.sleep(0)
            waiting.cancel()
        return await read(engine.generate(request("after")))

    assert run(engine, impatient)


def test_bad_requests_are_refused_and_the_engine_goes_on(engine: Engine) -> None:
    async def refused(engine: Engine) -> None:
        with pytest.raises(ValueError, match="fewer than its max_tokens"):
            await read(engine.generate(request("full", generated_ids=[20] * 24)))
        await read(engine.generate(request("kept", keep=True)))
        with pytest.raises(ValueError, match="max_seq_len"):
            await read(engine.extend("kept", [20] * 200))
        assert await read(engine.extend("kept", [20, 21]))

    run(engine, refused)


def test_extend_continues_as_if_the_forced_tokens_had_been_a_prompt(engine: Engine) -> None:
    forced = [2, 25, 26, 3, 4]
    r = request("tool", keep=True, sampling=SamplingConfig(max_tokens=6))

    async def two_turns(engine: Engine) -> tuple[list[int], list[int]]:
        first = ids(await read(engine.generate(r)))
        return first, ids(await read(engine.extend("tool", forced)))

    first, second = run(engine, two_turns)  # type: ignore[misc]
    prompt = [*r.prompt_ids, *first, *forced]
    [fresh] = asyncio.run(generate(engine, [replace(r, request_id="fresh", keep=False, prompt_ids=prompt)]))
    assert ids(fresh) == second


def test_a_kept_request_is_released_with_all_of_its_tokens(engine: Engine) -> None:
    r = request("told", keep=True, sampling=SamplingConfig(max_tokens=6))

    async def turns(engine: Engine) -> tuple[list[int], list[int], list[int]]:
        first = ids(await read(engine.generate(r)))
        second = ids(await read(engine.extend("told", [20, 21], 3)))
        known = await engine.release("told")
        assert await read(engine.generate(r))  # its id is free again
        await engine.abort("told")
        return first, second, known

    first, second, known = run(engine, turns)  # type: ignore[misc]
    assert len(second) <= 3
    assert known == [*r.prompt_ids, *first, 20, 21, *second]


def test_a_reader_that_stops_at_the_last_chunk_does_not_cut_off_the_next_turn(engine: Engine) -> None:
    r = request("half", keep=True, sampling=SamplingConfig(max_tokens=6))

    async def turns(engine: Engine) -> list[int]:
        stream = engine.generate(r)
        async for chunk in stream:
            if chunk.finish_reason is not None:
                break  # the generator is not at its end
        following = engine.extend("half", [20, 21])
        await stream.aclose()  # type: ignore[attr-defined]
        found = ids(await read(following))
        await engine.abort("half")
        return found

    assert run(engine, turns)


def test_a_window_bounds_all_turns_of_a_request(engine: Engine) -> None:
    room = len(request("r").prompt_ids) + 9
    r = request("narrow", keep=True, window=room, stop_ids=frozenset(), sampling=SamplingConfig(max_tokens=4))

    async def turns(engine: Engine) -> list[FinishReason | None]:
        first = await read(engine.generate(r))
        second = await read(engine.extend("narrow", [20, 21], 24))
        assert len(await engine.release("narrow")) == room
        return [first[-1].finish_reason, second[-1].finish_reason]

    assert run(engine, turns) == [FinishReason.LENGTH, FinishReason.CONTEXT]
    with pytest.raises(ValueError, match=f"at most {room - 1}"):
        asyncio.run(generate(engine, [replace(r, request_id="full", prompt_ids=[20] * room)]))


def test_a_reader_that_leaves_frees_its_row(engine: Engine) -> None:
    async def leave(engine: Engine) -> bool:
        stream = engine.generate(
            request("gone", stop_ids=frozenset(), sampling=SamplingConfig(max_tokens=100), stream_interval=1)
        )
        await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]
        await engine.pause()
        try:
            return not engine._core.has_work  # type: ignore[attr-defined]
        finally:
            await engine.resume()

    assert run(engine, leave)
