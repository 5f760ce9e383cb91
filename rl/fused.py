"""Norms and rotary embeddings in few passes over memory, put into a Hugging Face model for training on a CPU.

A module is replaced where it was seen, on random numbers, to compute what the function here computes; its name proves nothing.
Parameters, their names and everything that is not float32 (or float64) arithmetic stay the module's own.

Shapes: _N rows (tokens, or heads of tokens), _D elements of one row, _R rows of a block.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

BLOCK_BYTES = 2**19  # of one tensor's rows that are worked on together, so that a few such tensors stay in a core's cache
ROTARY = "apply_rotary_pos_emb"  # what transformers' attention modules call, by this name, in their own file
DTYPES = (torch.float32, torch.float64)


def fuse(model: nn.Module) -> list[str]:
    """Replaces the `forward` of the modules that it recognises, in this model alone; returns their names.

    Values stay the same to the bit, gradients to rounding. Saved state, parameters and deep copies are as before.
    """
    fused = []
    for name, module in model.named_modules():
        if "forward" not in vars(module) and (forward := _norm(module) or _rotating(module)):
            module.forward = forward
            fused.append(name)
    return fused


def rms_norm(x: Tensor, scale_D: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * scale over the last dimension; x [..., D] and scale_D of one dtype. Differentiable once."""
    return _RmsNorm.apply(x, scale_D, eps)  # type: ignore[no-any-return, no-untyped-call]


def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
    """Rotary embeddings (arXiv 2104.09864) of q and k, [B, heads, L, D] each; cos and sin [B or 1, L, D], halves alike.

    A row (a, b) becomes (a cos - b sin, b cos + a sin). Differentiable once in q and k alone.
    """
    assert unsqueeze_dim == 1, "heads come before tokens"
    return _Rotation.apply(q, cos, sin), _Rotation.apply(k, cos, sin)  # type: ignore[no-untyped-call]


class _RmsNorm(torch.autograd.Function):
    """With r = 1 / sqrt(mean(x^2) + eps) and g the gradient in the result:

    d_x = r (g scale) - x r^3 mean(g scale x);  d_scale = sum over rows of r g x
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale_D: Tensor, eps: float) -> Tensor:
        x_ND = x.reshape(-1, len(scale_D))
        y_ND, r_N = torch.empty_like(x_ND), x_ND.new_empty(len(x_ND), 1)
        for rows in _row_blocks(x_ND):
            x_RD, y_RD, r_R = x_ND[rows], y_ND[rows], r_N[rows]
            torch.mean(torch.mul(x_RD, x_RD, out=y_RD), -1, keepdim=True, out=r_R)
            torch.mul(x_RD, r_R.add_(eps).rsqrt_(), out=y_RD).mul_(scale_D)
        ctx.save_for_backward(x, scale_D, r_N)
        return y_ND.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, scale_D, r_N = ctx.saved_tensors
        wants_x, wants_scale = ctx.needs_input_grad[:2]
        x_ND, grad_ND = x.reshape(-1, len(scale_D)), grad.reshape(-1, len(scale_D))
        d_x_ND = torch.empty_like(x_ND) if wants_x else None
        d_scale_D = torch.zeros_like(scale_D) if wants_scale else None
        with torch.autocast(x.device.type, enabled=False):
            for rows in _row_blocks(x_ND):
                x_RD, grad_RD, r_R = x_ND[rows], grad_ND[rows], r_N[rows]
                product_RD = grad_RD * x_RD
                if d_scale_D is not None:
                    d_scale_D.addmv_(product_RD.T, r_R[:, 0])
                if d_x_ND is not None:
                    mean_R = torch.mv(product_RD, scale_D)[:, None].div_(len(scale_D))
                    d_x_RD = torch.mul(x_RD, mean_R.mul_(r_R**3).neg_(), out=d_x_ND[rows])
                    d_x_RD.addcmul_(torch.mul(grad_RD, r_R, out=product_RD), scale_D)
        return None if d_x_ND is None else d_x_ND.view(x.shape), d_scale_D, None


class _Rotation(torch.autograd.Function):
    """Its gradient is the rotation back. The result lies in memory as [B, L, heads, D], where projections leave it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotated(grad, cos, sin, -1), None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, sign: int) -> Tensor:
    batch, heads, length, width = x.shape
    half = width // 2
    y = x.new_empty(batch, length, heads, width)
    for b in range(batch):
        x_NHD = x[b].transpose(0, 1)
        cos_N1D, sin_N1D = (t[b if len(t) > 1 else 0].unsqueeze(1) for t in (cos, sin))
        for rows in _row_blocks(x_NHD):
            x_RHD, y_RHD, sin_R1D = x_NHD[rows], y[b, rows], sin_N1D[rows]
            torch.mul(x_RHD, cos_N1D[rows], out=y_RHD)
            y_RHD[..., :half].sub_(x_RHD[..., half:] * sin_R1D[..., :half], alpha=sign)
            y_RHD[..., half:].add_(x_RHD[..., :half] * sin_R1D[..., half:], alpha=sign)
    return y.transpose(1, 2)


def _row_blocks(x: Tensor) -> Iterator[slice]:
    """The first dimension in pieces of BLOCK_BYTES; they depend on the shape alone, and so do the bits of sums over them."""
    size = max(1, BLOCK_BYTES * len(x) // max(1, x.numel() * x.element_size()))
    return (slice(start, start + size) for start in range(0, len(x), size))


@dataclass(frozen=True, eq=False)
class _FusedNorm:
    """The `forward` of a norm; the module's own where rounding to another dtype comes in."""

    module: nn.Module
    own: Callable[[Tensor], Tensor]
    eps: float
    offset: float  # of the scale from the weight

    def __call__(self, hidden: Tensor) -> Tensor:
        weight = self.module.weight
        assert isinstance(weight, Tensor), "only such modules are replaced"
        if hidden.dtype not in DTYPES or hidden.dtype is not weight.dtype:
            return self.own(hidden)
        return rms_norm(hidden, weight + self.offset if self.offset else weight, self.eps)


@torch.no_grad()
def _norm(module: nn.Module) -> _FusedNorm | None:
    """A forward for a module of one vector and an epsilon, if that is what it computes whatever its weight."""
    parameters, weight = list(module.parameters()), getattr(module, "weight", None)
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if len(parameters) != 1 or parameters[0] is not weight or weight.ndim != 1 or not isinstance(eps, float):
        return None
    if len(inspect.signature(module.forward).parameters) != 1:  # a gate, perhaps
        return None
    random = torch.Generator().manual_seed(0)
    x = torch.randn(6, len(weight), generator=random) * torch.tensor([1e-3, 1e-2, 1, 1, 10, 100])[:, None]
    probe = torch.randn(len(weight), generator=random)
    try:
        expected = torch.func.functional_call(module, {"weight": probe}, (x,))
    except Exception:  # noqa: BLE001 - a module of another kind may fail in any way
        return None
    for offset in (0.0, 1.0):
        if _same(expected, rms_norm(x, probe + offset, eps)):
            return _FusedNorm(module, module.forward, eps, offset)
    return None


def _rotating(module: nn.Module) -> MethodType | None:
    """The module's own forward, but with our `rotate` where its code says `apply_rotary_pos_emb`."""
    own = type(module).forward
    if (
        not isinstance(own, FunctionType)
        or ROTARY not in own.__code__.co_names
        or not _is_rotation(own.__globals__.get(ROTARY))
    ):
        return None
    original = own.__globals__[ROTARY]

    def rotate_or_original(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> Any:
        plain = q.shape[-1] == k.shape[-1] == cos.shape[-1] and cos.ndim == 3 and unsqueeze_dim == 1
        one_dtype = q.dtype is k.dtype is cos.dtype and q.dtype in DTYPES
        return (rotate if plain and one_dtype else original)(q, k, cos, sin, unsqueeze_dim)

    names = {**own.__globals__, ROTARY: rotate_or_original}
    forward = FunctionType(own.__code__, names, own.__name__, own.__defaults__, own.__closure__)
    forward.__kwdefaults__ = own.__kwdefaults__
    return MethodType(forward, module)


@torch.no_grad()
def _is_rotation(function: Any) -> bool:
    if not callable(function) or list(inspect.signature(function).parameters) != list(inspect.signature(rotate).parameters):
        return False
    random = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, heads, 5, 8, generator=random) for heads in (4, 2))
    angles = torch.randn(2, 5, 4, generator=random).repeat(1, 1, 2)
    given = q, k, angles.cos(), angles.sin()
    try:
        expected = function(*given)
    except Exception:  # noqa: BLE001 - it is another architecture's function
        return False
    return all(_same(a, b) for a, b in zip(expected, rotate(*given), strict=True))


def _same(expected: Any, got: Tensor) -> bool:
    return isinstance(expected, Tensor) and expected.dtype is got.dtype and torch.equal(expected, got)
