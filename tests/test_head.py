"""Log-probabilities through the head: exact against float64, and never more than a chunk of logits in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import rl.head
from rl.head import Head, chunk_size, token_logprobs

T, D, V = 53, 8, 31


def made(*, bias: bool = False) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(T, D, generator=generator), torch.randn(V, D, generator=generator)
    return hidden, weight, torch.randn(V, generator=generator) if bias else None, torch.arange(T) % V


def plain(
    hidden: Tensor, head: Head, target: Tensor, temperature: float, kept: Sequence[NDArray[np.int32] | None] | None
) -> Tensor:
    logits = hidden @ head.weight_VD.T
    if head.bias_V is not None:
        logits = logits + head.bias_V
    logits = logits * head.scale
    if head.softcap is not None:
        logits = head.softcap * torch.tanh(logits / head.softcap)
    logits = logits / (temperature or 1.0)
    for t, ids in enumerate(kept or []):
        if ids is not None:
            cut = torch.full_like(logits[t], float("-inf"))
            cut[torch.from_numpy(ids).long()] = 0
            logits = torch.cat([logits[:t], (logits[t] + cut)[None], logits[t + 1 :]])
    return torch.log_softmax(logits, -1).gather(-1, target[:, None])[:, 0]


@pytest.mark.parametrize("cut", [False, True], ids=["full", "cut"])
@pytest.mark.parametrize(
    ("bias", "scale", "softcap", "temperature"),
    [(False, 1.0, None, 1.0), (True, 1.0, None, 0.7), (False, 0.25, None, 1.0), (True, 2.0, 5.0, 1.3), (True, 1.0, 3.0, 0.0)],
)
def test_token_logprobs_and_gradients_equal_log_softmax(
    monkeypatch: pytest.MonkeyPatch, cut: bool, bias: bool, scale: float, softcap: float | None, temperature: float
) -> None:
    monkeypatch.setattr(rl.head, "CHUNK_BYTES", 4 * V * 16)  # four chunks, the last one short
    hidden, weight, bias_V, target = made(bias=bias)
    rng = np.random.default_rng(0)
    kept: list[NDArray[np.int32] | None] | None = None
    if cut:
        kept = [np.unique([int(t), *rng.integers(0, V, 6)]).astype(np.int32) if i % 3 else None for i, t in enumerate(target)]
    inputs = [x.clone().requires_grad_() for x in (hidden, weight, bias_V) if x is not None]
    doubles = [x.double().requires_grad_() for x in (hidden, weight, bias_V) if x is not None]
    out_grad = torch.linspace(-1, 2, T)
    got = token_logprobs(
        inputs[0], Head(inputs[1], inputs[2] if bias else None, scale, softcap), target, temperature=temperature, kept=kept
    )
    head = Head(doubles[1], doubles[2] if bias else None, scale, softcap)
    want = plain(doubles[0], head, target, temperature, kept)
    assert got.dtype is torch.float32
    torch.testing.assert_close(got.double(), want, atol=1e-5, rtol=1e-5)
    got.backward(out_grad)
    want.backward(out_grad.double())
    for mine, exact in zip(inputs, doubles, strict=True):
        assert mine.grad is not None
        assert exact.grad is not None
        torch.testing.assert_close(mine.grad.double(), exact.grad, atol=5e-5, rtol=1e-5)


def test_autocast_does_not_round_the_logits() -> None:
    hidden, weight, _, target = made()
    with torch.autocast("cpu", torch.bfloat16):
        inside = token_logprobs(hidden, Head(weight), target)
    assert torch.equal(inside, token_logprobs(hidden, Head(weight), target))


def test_no_tokens_give_no_logprobs() -> None:
    _, weight, _, target = made()
    assert token_logprobs(torch.zeros(0, D), Head(weight), target[:0]).shape == (0,)


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation returned, and how many products were made."""

    def __init__(self) -> None:
        super().__init__()
        self.elements, self.logits = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        self.logits += func is torch.ops.aten.mm.default
        return out


@pytest.mark.parametrize("cut", [False, True], ids=["full", "cut"])
def test_memory_is_one_chunk_whatever_the_number_of_tokens(monkeypatch: pytest.MonkeyPatch, cut: bool) -> None:
    """4,000 tokens over 3,000 entries would be 12 million logits; forward and backward stay below a chunk of 48,000."""
    monkeypatch.setattr(rl.head, "CHUNK_BYTES", 4 * 3000 * 16)
    assert chunk_size(3000) == 16
    hidden = torch.randn(4000, 4, requires_grad=True)
    weight = torch.randn(3000, 4, requires_grad=True)
    target = torch.arange(4000) % 3000
    kept = [np.array([int(t)], np.int32) for t in target] if cut else None
    with Largest() as seen:
        logprobs = token_logprobs(hidden, Head(weight), target, kept=kept, temperature=0.5)
        forward = seen.logits
        logprobs.sum().backward()
    assert forward == 250  # one product a chunk
    assert seen.elements <= 16 * 3000
    saved = torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t)
    sizes: list[int] = []
    with saved:
        token_logprobs(hidden, Head(weight), target, kept=kept)
    assert max(sizes, default=0) < 16 * 3000  # no chunk's logits wait for the backward pass


def test_chunks_of_a_large_vocabulary_stay_in_their_bytes() -> None:
    assert chunk_size(129_280) * 129_280 * 4 <= rl.head.CHUNK_BYTES
    assert chunk_size(10**9) == 16
