"""Muon with DeepSeek-V4's hybrid Newton-Schulz iteration (report section on pre-training).

torch.optim.Muon applies one polynomial a fixed number of times; the published iteration uses two, so it is written here.
Matrices of the same shape are orthogonalised in one batched product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

FAST, STABLE = (3.4445, -4.7750, 2.0315), (2.0, -1.5, 0.5)
HYBRID = (FAST,) * 8 + (STABLE,) * 2


def newton_schulz(matrices: Tensor) -> Tensor:
    """Approximately U V^T of each matrix's singular value decomposition; float [N, n, m], same shape out.

    Eight fast steps bring every singular value near 1, two stable ones settle it. The Frobenius norm bounds the largest
    singular value by 1 at the start.
    """
    x: Tensor = matrices / matrices.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-30)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    for a, b, c in HYBRID:
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class HybridMuon(torch.optim.Optimizer):
    """M = mu M + G;  O = NS(mu M + G) sqrt(max(n, m)) gamma;  W = W (1 - lr wd) - lr O.

    For weights [n, m] and stacks of them [experts, n, m]. gamma 0.18 gives updates the size of AdamW's.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.1,
        gamma: float = 0.18,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "gamma": gamma})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        assert closure is None, "HybridMuon takes no closure"
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.shape[-2:], []).append(parameter)
            for parameters in by_shape.values():
                self._update(parameters, group)

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """One step for parameters whose matrices have the same shape."""
        directions = []
        for parameter in parameters:
            state, gradient = self.state[parameter], parameter.grad
            assert gradient is not None, "step() picks parameters with a gradient"
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
            buffer = state["momentum"].mul_(group["momentum"]).add_(gradient)
            directions.append(torch.add(gradient, buffer, alpha=group["momentum"]).reshape(-1, *parameter.shape[-2:]))
        rows, columns = parameters[0].shape[-2:]
        scale = group["gamma"] * max(rows, columns) ** 0.5
        orthogonal = torch.split(newton_schulz(torch.cat(directions).float()), [len(d) for d in directions])
        for parameter, update in zip(parameters, orthogonal, strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(update.reshape(parameter.shape).to(parameter.dtype), alpha=-group["lr"] * scale)
