"""Data-parallel trainers over torch.distributed: which rank this process is, and sums over all ranks.

Every rank holds the whole model, trains on its share of a step's microbatches, and after the sums has the same gradients,
hence the same update, to the bit.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    """This process among `size` data-parallel ones; `address` is where they meet, such as "tcp://10.0.0.1:41000".

    >>> Ranks(rank=1, size=2, address="tcp://127.0.0.1:41000").rank
    1
    """

    rank: int = 0
    size: int = 1
    address: str = ""
    backend: str = "gloo"  # or "nccl", where each rank has a GPU of its own

    def join(self, timeout_s: float) -> None:
        """Meets the other ranks, once a process; returns when all are there."""
        if self.size == 1 or dist.is_initialized():
            return
        dist.init_process_group(
            self.backend,
            init_method=self.address,
            rank=self.rank,
            world_size=self.size,
            timeout=dt.timedelta(seconds=timeout_s),
        )

    def add_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replaces every gradient by its sum over the ranks; one that is missing on every rank stays so."""
        if self.size == 1:
            return
        trained = [p for p in parameters if p.requires_grad]
        present = torch.tensor([p.grad is not None for p in trained], dtype=torch.float32, device=trained[0].device)
        dist.all_reduce(present)
        trained = [p for p, count in zip(trained, present.tolist(), strict=True) if count]
        for parameter in trained:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in trained if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        for gradient, total in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(total.view_as(gradient))

    def add(self, values: Mapping[str, float]) -> dict[str, float]:
        """Each value's sum over the ranks; a rank may lack some of them."""
        if self.size == 1:
            return dict(values)
        everybodys: list[Mapping[str, float]] = [{} for _ in range(self.size)]
        dist.all_gather_object(everybodys, values)
        names = sorted({name for one in everybodys for name in one})
        return {name: sum(one.get(name, 0.0) for one in everybodys) for name in names}

    def join_values(self, values_T: NDArray[np.float32]) -> NDArray[np.float32]:
        """All ranks' values, one rank after another; a rank may have none."""
        if self.size == 1:
            return values_T
        everybodys = [values_T for _ in range(self.size)]
        dist.all_gather_object(everybodys, values_T)
        return np.concatenate(everybodys)


ALONE = Ranks()
