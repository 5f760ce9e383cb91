"""What the engine tests share: requests, and reading their streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from rl.config import SamplingConfig
from rl.engine.protocol import Engine, GenerateRequest, TokenChunk
from rl.policy import Policy
from rl.rng import key_of


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


def run(engine: Engine, work: Callable[[Engine], Awaitable[object]]) -> Any:
    return asyncio.run(_awaited(work(engine)))


async def _awaited(work: Awaitable[object]) -> Any:
    return await asyncio.wait_for(work, 120)


async def generate(engine: Engine, requests: Sequence[GenerateRequest]) -> list[list[TokenChunk]]:
    await engine.pause()
    streams = [engine.generate(r) for r in requests]
    await engine.resume()
    return list(await asyncio.gather(*(read(s) for s in streams)))


def logprobs(chunks: Sequence[TokenChunk]) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.concatenate([c.logprobs for c in chunks])


def plain_logprobs(policy: Policy, prompt: Sequence[int], sampled: Sequence[int]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """What one transformers forward says of the sampled tokens."""
    tokens = torch.tensor([[*prompt, *sampled]])
    with torch.no_grad(), policy.autocast():
        if policy.dtype is torch.float32:
            logits = policy.model(input_ids=tokens).logits[0]
        else:  # autocast would round the logits too
            logits = policy.head.logits(policy.model.base_model(input_ids=tokens)[0][0])
    rows = torch.log_softmax(logits.float(), -1)[len(prompt) - 1 : -1]
    return rows.gather(-1, torch.tensor(sampled)[:, None])[:, 0].numpy()
