"""Log-probabilities through the head: exact against float64, and never more than a chunk of logits in memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import rl.head
from rl.head import Head, TokenScores, chunk_size, token_logprobs, token_scores

T, D, V = 53, 8, 31


def made(*, bias: bool = False) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(T, D, generator=generator), torch.randn(V, D, generator=generator)
    return hidden, weight, torch.randn(V, generator=generator) if bias else None, torch.arange(T) % V


def plain(
    hidden: Tensor, head: Head, target: Tensor, temperature: float, kept: Sequence[NDArray[np.int32] | None] | None
) -> TokenScores:
    logits = hidden @ head.weight_VD.T
    if head.bias_V is not None:
        logits = logits + head.bias_V
    logits = logits * head.scale
    if head.softcap is not None:
        logits = head.softcap * torch.tanh(logits / head.softcap)
    logits = logits / (temperature or 1.0)
    rows = []
    for t, row in enumerate(logits):  # a row over the kept ids alone, so that nothing infinite meets a zero
        ids = torch.arange(V) if kept is None or kept[t] is None else torch.from_numpy(kept[t]).long()
        logp = row[ids].log_softmax(-1)
        rows.append(torch.stack([logp[ids == target[t]].squeeze(), -(logp.exp() * logp).sum()]))
    return TokenScores(*torch.stack(rows).T)


def some_kept(target: Tensor) -> list[NDArray[np.int32] | None]:
    rng = np.random.default_rng(0)
    return [np.unique([int(t), *rng.integers(0, V, 6)]).astype(np.int32) if i % 3 else None for i, t in enumerate(target)]


DISTRIBUTIONS = [
    (False, 1.0, None, 1.0),
    (True, 1.0, None, 0.7),
    (False, 0.25, None, 1.0),
    (True, 2.0, 5.0, 1.3),
    (True, 1.0, 3.0, 0.0),
]  # bias, scale, softcap, temperature


@pytest.mark.parametrize("tokens_a_chunk", [16, 1000], ids=["chunks", "one-chunk"])
@pytest.mark.parametrize("cut", [False, True], ids=["full", "cut"])
@pytest.mark.parametrize(("bias", "scale", "softcap", "temperature"), DISTRIBUTIONS)
def test_scores_and_gradients_equal_log_softmax(
    monkeypatch: pytest.MonkeyPatch,
    tokens_a_chunk: int,
    cut: bool,
    bias: bool,
    scale: float,
    softcap: float | None,
    temperature: float,
) -> None:
    """For gradients in the log-probabilities alone, in the entropies alone, and in both."""
    monkeypatch.setattr(rl.head, "CHUNK_BYTES", 4 * V * tokens_a_chunk)  # 16: four chunks, the last one short
    monkeypatch.setattr(rl.head, "BLOCK_BYTES", 4 * V * 5)  # blocks that do not divide a chunk
    hidden, weight, bias_V, target = made(bias=bias)
    kept = some_kept(target) if cut else None
    for wanted in ({"logprobs_T"}, {"entropy_T"}, {"logprobs_T", "entropy_T"}):
        inputs = [x.clone().requires_grad_() for x in (hidden, weight, bias_V) if x is not None]
        doubles = [x.double().requires_grad_() for x in (hidden, weight, bias_V) if x is not None]
        head = Head(inputs[1], inputs[2] if bias else None, scale, softcap)
        got = token_scores(inputs[0], head, target, temperature=temperature, kept=kept)
        head = Head(doubles[1], doubles[2] if bias else None, scale, softcap)
        want = plain(doubles[0], head, target, temperature, kept)
        for name in ("logprobs_T", "entropy_T"):
            mine, exact = getattr(got, name), getattr(want, name)
            assert mine.dtype is torch.float32
            torch.testing.assert_close(mine.double(), exact, atol=1e-5, rtol=1e-5)
        grads = {"logprobs_T": torch.linspace(-1, 2, T), "entropy_T": torch.linspace(1.5, -1, T)}
        torch.autograd.backward([getattr(got, n) for n in wanted], [grads[n] for n in wanted])
        torch.autograd.backward([getattr(want, n) for n in wanted], [grads[n].double() for n in wanted])
        for mine, exact in zip(inputs, doubles, strict=True):
            assert mine.grad is not None
            assert exact.grad is not None
            assert float(exact.grad.abs().max()) > 1e-3
            torch.testing.assert_close(mine.grad.double(), exact.grad, atol=5e-5, rtol=1e-5)


@pytest.mark.parametrize("tokens_a_chunk", [4, 1000], ids=["chunks", "one-chunk"])
@pytest.mark.parametrize("cut", [False, True], ids=["full", "cut"])
def test_gradcheck_in_float64(monkeypatch: pytest.MonkeyPatch, tokens_a_chunk: int, cut: bool) -> None:
    monkeypatch.setattr(rl.head, "CHUNK_BYTES", 4 * V * tokens_a_chunk)
    monkeypatch.setattr(rl.head, "chunk_size", lambda vocab_size: tokens_a_chunk)
    hidden, weight, bias_V, target = (x[:10].double() if i == 0 else x for i, x in enumerate(made(bias=True)))
    assert bias_V is not None
    inputs = [x.double().requires_grad_() for x in (hidden, weight, bias_V)]
    kept = some_kept(target)[:10] if cut else None

    def scores(hidden: Tensor, weight: Tensor, bias_V: Tensor) -> tuple[Tensor, Tensor]:
        result = token_scores(hidden, Head(weight, bias_V, 0.7, 4.0), target[:10], temperature=0.8, kept=kept)
        return result.logprobs_T, result.entropy_T

    assert torch.autograd.gradcheck(scores, inputs)


def test_hidden_states_in_bfloat16_get_float32_scores_and_their_own_gradient() -> None:
    hidden, weight, _, target = made()
    low = hidden.bfloat16().requires_grad_()
    high = low.detach().float().requires_grad_()
    scores = token_logprobs(low, Head(weight), target)
    assert torch.equal(scores, token_logprobs(high, Head(weight), target))
    scores.sum().backward()
    token_logprobs(high, Head(weight), target).sum().backward()
    assert low.grad is not None
    assert high.grad is not None
    assert low.grad.dtype is torch.bfloat16
    assert torch.equal(low.grad, high.grad.bfloat16())


def test_a_token_scores_the_same_whatever_follows_its_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rl.head, "CHUNK_BYTES", 4 * V * 16)
    hidden, weight, _, target = made()
    few, many = (token_scores(hidden[:n], Head(weight), target[:n]) for n in (16, T))
    assert torch.equal(few.logprobs_T, many.logprobs_T[:16])
    assert torch.equal(few.entropy_T, many.entropy_T[:16])


def test_autocast_does_not_round_the_logits() -> None:
    hidden, weight, _, target = made()
    with torch.autocast("cpu", torch.bfloat16):
        inside = token_logprobs(hidden, Head(weight), target)
    assert torch.equal(inside, token_logprobs(hidden, Head(weight), target))


def test_no_tokens_give_no_logprobs() -> None:
    _, weight, _, target = made()
    assert token_logprobs(torch.zeros(0, D), Head(weight), target[:0]).shape == (0,)


class Seen(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation returned, and how many products were made."""

    def __init__(self) -> None:
        super().__init__()
        self.elements, self.products = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        self.products += func in (torch.ops.aten.mm.default, torch.ops.aten.addmm_.default)
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
    sizes: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        with Seen() as seen:
            scores = token_scores(hidden, Head(weight), target, kept=kept, temperature=0.5)
            assert seen.products == 250  # one a chunk
            (scores.logprobs_T + scores.entropy_T).sum().backward()
    assert seen.products == 4 * 250
    assert seen.elements <= 16 * 3000
    assert max(sizes) <= 4000 * 4  # no chunk's logits wait for the backward pass


@pytest.mark.parametrize(
    ("tokens_a_chunk", "frozen", "products"), [(64, False, 3), (16, False, 4 * 4), (64, True, 2), (16, True, 4 * 3)]
)
def test_no_product_is_made_that_nobody_needs(
    monkeypatch: pytest.MonkeyPatch, tokens_a_chunk: int, frozen: bool, products: int
) -> None:
    """One chunk keeps its logits: no recompute. A frozen head gets no gradient, and no product for one."""
    monkeypatch.setattr(rl.head, "CHUNK_BYTES", 4 * V * tokens_a_chunk)
    hidden, weight, _, target = made()
    hidden.requires_grad_()
    weight.requires_grad_(not frozen)
    with Seen() as seen:
        token_logprobs(hidden, Head(weight), target).sum().backward()
    assert seen.products == products
    assert (weight.grad is None) == frozen
    assert hidden.grad is not None


PEAK = """
import os, sys, torch, rl.head
from rl.head import Head, token_logprobs
torch.set_num_threads(1)

def status(field):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(field)) * 1024

def peak(case):
    hidden, weight = torch.randn(512, 32).requires_grad_(), torch.randn(131072, 32).requires_grad_()
    target, before = torch.arange(512), status("VmRSS")
    if case == "naive":
        logprobs = Head(weight).logits(hidden).log_softmax(-1).gather(-1, target[:, None])[:, 0]
    else:
        if case == "unchunked":
            rl.head.CHUNK_BYTES = 2**40
        logprobs = token_logprobs(hidden, Head(weight), target)
    logprobs.sum().backward()
    return status("VmHWM") - before

for case in ("naive", "chunked", "unchunked"):
    if (child := os.fork()) == 0:
        print(f'"{case}": {peak(case)},', flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak memory of a process from /proc")
def test_peak_memory_at_a_vocabulary_of_128k_is_at_most_a_quarter_of_naive() -> None:
    """Measured, in a process of its own for each; with chunking switched off it would not hold."""
    out = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, timeout=800, check=True)
    peaks = json.loads("{" + out.stdout.strip().rstrip(",") + "}")
    assert peaks["chunked"] <= peaks["naive"] / 4, peaks
    assert peaks["unchunked"] > peaks["naive"] / 4, peaks


def test_chunks_of_a_large_vocabulary_stay_in_their_bytes() -> None:
    assert chunk_size(129_280) * 129_280 * 4 <= rl.head.CHUNK_BYTES
    assert chunk_size(10**9) == 16
