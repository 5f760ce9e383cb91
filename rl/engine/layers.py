"""One-token forward passes of a plain pre-norm transformer, in far fewer operations than the modules' own code takes.

A model is recognised by its parameters' names, and only those named here may exist; whether these layers then compute what the
model does (position encoding, multipliers) is measured by `rl/engine/invariance.py`. Weights are copies, refreshed on demand.
Shapes: _B rows, _D hidden, _H query heads, _K key-value heads, _W head width, _F half of the MLP's first product.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rl.policy import Policy
from rl.products import fast_bfloat16

NORMS = ("input_layernorm", "post_attention_layernorm")
PRODUCTS = tuple(f"self_attn.{n}_proj" for n in "qkvo") + tuple(f"mlp.{n}_proj" for n in ("gate", "up", "down"))
REQUIRED = {f"{name}.weight" for name in (*NORMS, *PRODUCTS)}
HEAD_NORMS = {"self_attn.q_norm.weight", "self_attn.k_norm.weight"}
OPTIONAL = {f"{name}.bias" for name in PRODUCTS}

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]  # layer, query [B, H, W], key and value [B, K, W] -> [B, H * W]


@dataclass(frozen=True)
class _Product:
    """x @ weight + bias, for several linear modules side by side; the weight [in, out] lies as the product reads it."""

    weight: Tensor
    bias: Tensor | None
    sources: tuple[nn.Linear, ...]

    @staticmethod
    def of(sources: tuple[nn.Linear, ...], dtype: torch.dtype) -> _Product:
        first = sources[0].weight
        width = sum(s.out_features for s in sources)
        biased = any(s.bias is not None for s in sources)
        weight = torch.empty(first.shape[1], width, dtype=dtype, device=first.device)
        return _Product(weight, torch.zeros(width, device=first.device) if biased else None, sources)

    def refresh(self, rounded_to: torch.dtype) -> None:
        start = 0
        for source in self.sources:
            part = slice(start, start + source.out_features)
            self.weight[:, part] = source.weight.t().to(rounded_to)
            if self.bias is not None and source.bias is not None:
                self.bias[part] = source.bias.to(rounded_to)
            start = part.stop

    def __call__(self, hidden: Tensor) -> Tensor:
        out = torch.mm(hidden.to(self.weight.dtype), self.weight).float()
        return out if self.bias is None else out.add_(self.bias)

    def add_to(self, total: Tensor, hidden: Tensor) -> None:
        """total += x @ weight + bias."""
        if self.weight.dtype is torch.float32:
            total.addmm_(hidden, self.weight)
        else:
            total.add_(torch.mm(hidden.to(self.weight.dtype), self.weight))
        if self.bias is not None:
            total.add_(self.bias)


@dataclass(frozen=True)
class _Norm:
    weight: Tensor
    eps: float

    def __call__(self, hidden: Tensor) -> Tensor:
        return torch.nn.functional.rms_norm(hidden, hidden.shape[-1:], self.weight, self.eps)


@dataclass(frozen=True)
class _Layer:
    before_attention: _Norm
    before_mlp: _Norm
    qkv: _Product
    output: _Product
    gate_up: _Product
    down: _Product
    head_norm: _Norm | None  # weight [H + K, W]: the query heads' norm, then the key heads'
    head_norm_sources: tuple[Tensor, ...]
    num_heads: int
    num_kv_heads: int
    width: int

    def refresh(self, rounded_to: torch.dtype) -> None:
        for product in (self.qkv, self.output, self.gate_up, self.down):
            product.refresh(rounded_to)
        if self.head_norm is not None:
            query, key = self.head_norm_sources
            self.head_norm.weight[: self.num_heads] = query
            self.head_norm.weight[self.num_heads :] = key

    def __call__(self, hidden: Tensor, index: int, rotation: _Rotation, attend: Attend) -> None:
        """Adds attention and MLP to `hidden` [B, D] in place."""
        states = self.qkv(self.before_attention(hidden)).view(len(hidden), -1, self.width)
        turning, value = states[:, : -self.num_kv_heads], states[:, -self.num_kv_heads :]
        if self.head_norm is not None:
            norm = self.head_norm
            turning = torch.nn.functional.rms_norm(turning, (self.width,), None, norm.eps).mul_(norm.weight)
        turned = rotation(turning)
        attended = attend(index, turned[:, : self.num_heads], turned[:, self.num_heads :], value)
        self.output.add_to(hidden, attended)
        gate, up = self.gate_up(self.before_mlp(hidden)).chunk(2, dim=-1)
        self.down.add_to(hidden, torch.nn.functional.silu(gate, inplace=True).mul_(up))


class _Rotation:
    """Rotary position encoding of this step, halves turned against each other."""

    def __init__(self, cosine: Tensor, sine: Tensor) -> None:
        """Both [1, B, W]."""
        self.cosine = cosine[0, :, None]
        first, second = sine[0, :, None].chunk(2, dim=-1)
        self.first, self.second = -first, second

    def __call__(self, states: Tensor) -> Tensor:
        turned = states * self.cosine
        half = states.shape[-1] // 2
        turned[..., :half].addcmul_(states[..., half:], self.first)
        turned[..., half:].addcmul_(states[..., :half], self.second)
        return turned


class LayerStack:
    """The body of a policy's model; float32 except for products, which run in bfloat16 where that is fast."""

    def __init__(self, policy: Policy) -> None:
        """TypeError for a model that is not made of the modules above and nothing else."""
        body: Any = policy.model.base_model
        outside = {n for n, _ in body.named_parameters() if not n.startswith("layers.")}
        if outside != {"embed_tokens.weight", "norm.weight"}:
            raise TypeError(f"parameters outside the layers: {sorted(outside)}")
        self.rounded_to = policy.dtype
        dtype = policy.dtype if policy.device.type != "cpu" or fast_bfloat16() else torch.float32
        self._embed, self._rotary = body.embed_tokens, body.rotary_emb
        self._layers = [_recognised(layer, dtype) for layer in body.layers]
        self._norm = _norm(body.norm)
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Copies the weights again, rounded as autocast rounds them; to be called when the policy's have changed."""
        for layer in self._layers:
            layer.refresh(self.rounded_to)

    def hidden_states(self, token_ids: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Hidden states after the final norm, float32 [B, D], of one token a row; int64 token_ids and positions [B]."""
        hidden = self._embed(token_ids).clone()
        rotation = _Rotation(*self._rotary(hidden, positions[None]))
        for index, layer in enumerate(self._layers):
            layer(hidden, index, rotation, attend)
        return self._norm(hidden)


def _recognised(layer: Any, dtype: torch.dtype) -> _Layer:
    names = {name for name, _ in layer.named_parameters()}
    extra = names - REQUIRED - OPTIONAL
    if not names >= REQUIRED or extra not in (set(), HEAD_NORMS):
        raise TypeError(f"a layer's parameters: missing {sorted(REQUIRED - names)}, unknown {sorted(extra - HEAD_NORMS)}")
    linear = [layer.get_submodule(name) for name in PRODUCTS]
    if not all(type(m) is nn.Linear for m in linear):
        raise TypeError("projections that are no plain linear modules")
    query, key, value, output, gate, up, down = linear
    line = torch.linspace(-6, 6, 64, device=query.weight.device)
    if not torch.allclose(layer.mlp.act_fn(line), torch.nn.functional.silu(line), atol=1e-6):
        raise TypeError("an activation other than SiLU")
    width = int(layer.self_attn.head_dim)
    if getattr(layer.self_attn, "scaling", width**-0.5) != width**-0.5:
        raise TypeError("attention with a scale of its own")
    num_heads, num_kv_heads = query.out_features // width, key.out_features // width
    norms = [_norm(layer.get_submodule(name), width) for name in ("self_attn.q_norm", "self_attn.k_norm") if extra]
    return _Layer(
        before_attention=_norm(layer.input_layernorm),
        before_mlp=_norm(layer.post_attention_layernorm),
        qkv=_Product.of((query, key, value), dtype),
        output=_Product.of((output,), dtype),
        gate_up=_Product.of((gate, up), dtype),
        down=_Product.of((down,), dtype),
        head_norm=_Norm(torch.empty(num_heads + num_kv_heads, width, device=line.device), norms[0].eps) if norms else None,
        head_norm_sources=tuple(n.weight for n in norms),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        width=width,
    )


@torch.no_grad()
def _norm(module: nn.Module, width: int | None = None) -> _Norm:
    """The module as a root-mean-square norm; TypeError where it computes anything else, or is not over the last `width`."""
    weight, eps = getattr(module, "weight", None), getattr(module, "variance_epsilon", None)
    if not isinstance(weight, nn.Parameter) or not isinstance(eps, float) or weight.dtype is not torch.float32:
        raise TypeError(f"{type(module).__name__} is no root-mean-square norm in float32")
    norm = _Norm(weight.data, eps)
    probe = torch.linspace(-3, 3, 4 * weight.numel(), device=weight.device).view(4, -1)
    if (width or weight.numel()) != weight.numel() or not torch.allclose(norm(probe), module(probe), atol=1e-5):
        raise TypeError(f"{type(module).__name__} differs from a root-mean-square norm")
    return norm
