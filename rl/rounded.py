"""Linear layers in bfloat16 on a CPU whose bfloat16 units are slow: rounded operands, products in float32.

Autocast rounds a product's operands and its result. Here the operands are rounded as autocast rounds them, and saved as it
saves them, but the product runs, and stays, in float32: twice as fast on Intel's cores without tile units, and closer to what
bfloat16 stands for. Norms and attention behind it then get float32 and compute in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

LOW = torch.bfloat16


def round_products(model: nn.Module) -> None:
    """Replaces the `forward` of the model's linear layers; outside of autocast they compute as before."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.forward = _RoundedForward(module, module.forward)  # type: ignore[method-assign, assignment]


def rounded(x: Tensor) -> Tensor:
    """The bfloat16 values nearest to x, as float32."""
    return x.to(LOW).float()


@dataclass(frozen=True, eq=False)
class _RoundedForward:
    module: nn.Linear
    own: Callable[[Tensor], Tensor]

    def __call__(self, hidden: Tensor) -> Tensor:
        if not torch.is_autocast_enabled(hidden.device.type):
            return self.own(hidden)
        return _RoundedLinear.apply(hidden, self.module.weight, self.module.bias)  # type: ignore[no-any-return, no-untyped-call]


class _RoundedLinear(torch.autograd.Function):
    """y = round(x) @ round(weight).T + round(bias), float32; gradients come from products of rounded operands too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        low = x.to(LOW)
        ctx.save_for_backward(low, weight)
        ctx.dtypes = x.dtype, None if bias is None else bias.dtype
        with torch.autocast(x.device.type, enabled=False):
            return nn.functional.linear(low.float(), rounded(weight), None if bias is None else rounded(bias))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        low, weight = ctx.saved_tensors
        x_dtype, bias_dtype = ctx.dtypes
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        with torch.autocast(grad.device.type, enabled=False):
            grad = rounded(grad)
            rows = grad.flatten(0, -2)
            d_x = (grad @ rounded(weight)).to(x_dtype) if wants_x else None
            d_weight = (rows.T @ low.flatten(0, -2).float()).to(weight.dtype) if wants_weight else None
            d_bias = rows.sum(0).to(bias_dtype) if wants_bias else None
        return d_x, d_weight, d_bias
