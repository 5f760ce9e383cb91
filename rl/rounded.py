"""bfloat16 training on a CPU whose bfloat16 units are slow: linear layers with rounded operands and products in float32.

Autocast rounds a product's operands and its result. Here a linear layer's operands are rounded as autocast rounds them, and
saved as it saves them, but the product runs, and stays, in float32: twice as fast on Intel's cores without tile units, and
closer to what bfloat16 stands for. Everything else (norms, attention, products of modules that are no `nn.Linear`) then gets
float32 and computes in it. `rl/trainer.py` and `specialists/trl_trainer.py` train through it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rl.policy import Policy
from rl.products import fast_bfloat16

LOW = torch.bfloat16


def with_fast_products(policy: Policy) -> Policy:
    """The policy, to be trained in this way where it is in bfloat16 and this CPU's bfloat16 products are slow."""
    if policy.dtype is not LOW or policy.device.type != "cpu" or fast_bfloat16():
        return policy
    round_products(policy.model)
    return replace(policy, rounds=True)


def round_products(model: nn.Module) -> None:
    """Replaces the `forward` of the model's linear layers."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.forward = _RoundedForward(module)  # type: ignore[method-assign, assignment]


def rounded(x: Tensor) -> Tensor:
    """The bfloat16 values nearest to x, as float32."""
    return x.to(LOW).float()


@dataclass(frozen=True, eq=False)
class _RoundedForward:
    module: nn.Linear

    def __call__(self, hidden: Tensor) -> Tensor:
        return _RoundedLinear.apply(hidden, self.module.weight, self.module.bias)  # type: ignore[no-any-return, no-untyped-call]


class _RoundedLinear(torch.autograd.Function):
    """y = round(x) @ round(weight).T + round(bias), float32; gradients come from products of rounded operands too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        low = x.to(LOW)
        ctx.save_for_backward(low, weight)
        ctx.dtypes = x.dtype, None if bias is None else bias.dtype
        return nn.functional.linear(low.float(), rounded(weight), None if bias is None else rounded(bias))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        low, weight = ctx.saved_tensors
        x_dtype, bias_dtype = ctx.dtypes
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        grad = rounded(grad)
        rows = grad.reshape(-1, grad.shape[-1])
        d_x = (grad @ rounded(weight)).to(x_dtype) if wants_x else None
        d_weight = (rows.T @ low.reshape(-1, low.shape[-1]).float()).to(weight.dtype) if wants_weight else None
        d_bias = rows.sum(0).to(bias_dtype) if wants_bias else None
        return d_x, d_weight, d_bias
