"""The trainer: microbatches through a loss, one optimizer update, weights published by version.

It knows no algorithm: a loss function gets hidden states and the head and returns a sum, which is divided here by the
global number of loss tokens. GRPO and distillation share it. Plain class; `rl/actors.py` makes it a Ray actor.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rl.attention import enable_packing
from rl.batch import Batch, Sample, make_batches
from rl.config import ModelConfig, OptimizerConfig
from rl.data_parallel import ALONE, Ranks
from rl.engine.protocol import Probe, Weights
from rl.fused import fuse
from rl.head import token_logprobs
from rl.losses.base import LossFn, LossResult
from rl.losses.config import Aggregation
from rl.optim.build import build_optimizer
from rl.policy import Policy, load_policy
from rl.recompute import enable_recompute, evaluation_mode
from rl.rounded import with_fast_products
from rl.training_state import load_training_state, save_training_state

PROBE_TOKENS = 64  # enough to show a stale part of the weights


class Trainer:
    """Holds the master weights in float32, the optimizer, and a frozen reference where the loss needs one."""

    def __init__(
        self,
        folder: str | Path,
        model: ModelConfig,
        optimizer: OptimizerConfig,
        loss: LossFn,
        *,
        num_steps: int,
        microbatch_tokens: int,
        packing: bool = True,
        reference_refresh_steps: int | None = None,
        temperature: float = 1.0,
        aggregation: Aggregation = Aggregation.SEQUENCES,
        max_tokens: int | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.ranks = ranks
        self.policy: Policy = load_policy(folder, model)
        self.model_config = model
        # Why microbatches are padded; None: they are packed.
        self.padded_because = enable_packing(self.policy.model) if packing else "packing is switched off"
        if model.activation_checkpointing:
            enable_recompute(self.policy.model)
        self.fused = fuse(self.policy.model) if self.policy.device.type == "cpu" else []  # names of modules
        self.policy = with_fast_products(self.policy)  # after the probes of packing and recomputing, which are exact in float32
        self.loss, self.microbatch_tokens, self.temperature = loss, microbatch_tokens, temperature
        self.aggregation, self.max_tokens = aggregation, max_tokens  # of the loss tokens' weights
        self.max_grad_norm = optimizer.max_grad_norm
        self.optimizer, self.schedule = build_optimizer(self.policy.model, optimizer, num_steps)
        self.version = self.reference_version = 0
        self._probe_ids: list[int] = []
        self.reference_refresh_steps = reference_refresh_steps
        self.reference = self.policy.frozen_copy() if reference_refresh_steps is not None else None

    def train_step(self, samples: Sequence[Sample]) -> dict[str, float]:
        """One update on these samples; returns means over all their loss tokens, and how far they are from the sampler."""
        start = time.perf_counter()
        packed = self.padded_because is None
        batches = make_batches(
            samples,
            self.microbatch_tokens,
            self.policy.device,
            self.aggregation,
            self.max_tokens,
            packed=packed,
            ranks=self.ranks,
        )
        num_loss_tokens = sum(s.num_loss_tokens for s in samples)
        sums: Counter[str] = Counter()
        gaps = [torch.empty(0, device=self.policy.device)]
        for batch in batches:
            result = self.forward_backward(batch, self.loss, num_loss_tokens)
            sums.update({"loss": float(result.total), **result.sums})
            gaps.append(result.sampler_gap_T)
            sums["num_model_tokens"] += batch.input_ids_BL.numel()  # that went through the model, padding included
        self.ranks.add_gradients(self.policy.model.parameters())
        totals = self.ranks.add(sums)
        counts = {"num_loss_tokens": num_loss_tokens, "num_model_tokens": totals.pop("num_model_tokens")}
        metrics = {name: total / num_loss_tokens for name, total in totals.items()}
        metrics |= gap_metrics(self.ranks.join_values(torch.cat(gaps).cpu().numpy()))
        updating = time.perf_counter()
        metrics |= self.optim_step()
        self._probe_ids = samples[0].token_ids[:PROBE_TOKENS].tolist()
        now = time.perf_counter()
        return metrics | counts | {"packed": float(packed), "optimizer_s": now - updating, "train_s": now - start}

    def forward_backward(self, batch: Batch, loss: LossFn, num_loss_tokens: int) -> LossResult:
        """Adds the gradient of `loss / num_loss_tokens` for one microbatch; returns what the loss found, without its graph."""
        evaluation_mode(self.policy.model)  # dropout would give other probabilities than the sampler's and the reference's
        hidden_TD = _at_loss_tokens(self.policy, batch)
        reference_logprobs_T = self._reference_logprobs(batch)
        result = loss(hidden_TD, self.policy.head, batch, reference_logprobs_T)
        torch.autograd.backward(result.total / num_loss_tokens)
        return replace(result, total=result.total.detach())

    def optim_step(self) -> dict[str, float]:
        """Clips, updates, steps the schedule, and counts one more policy version."""
        grad_norm = torch.nn.utils.clip_grad_norm_(self.policy.model.parameters(), self.max_grad_norm)
        if not torch.isfinite(grad_norm):
            raise FloatingPointError(
                f"the gradient's norm is {float(grad_norm)} at policy version {self.version}; lower the learning rate"
            )
        lr = self.schedule.get_last_lr()[0]
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.version += 1
        if self.reference is not None and self.reference_refresh_steps and self.version % self.reference_refresh_steps == 0:
            self.reference, self.reference_version = self.policy.frozen_copy(), self.version
        return {"grad_norm": float(grad_norm), "lr": float(lr)}

    def publish(self) -> Weights:
        """A copy of the weights as they are now, for engines to pull, and what the model says of a few tokens by them."""
        return Weights(self.version, self.policy.weights(), self._probe())

    @torch.no_grad()
    def _probe(self) -> Probe:
        """The beginning of a sample of the last step; before the first step, the vocabulary's."""
        vocab_size = self.policy.model.config.get_text_config().vocab_size
        ids = self._probe_ids or [i % vocab_size for i in range(PROBE_TOKENS)]
        ids_L = torch.tensor(ids, device=self.policy.device)
        hidden_LD = self.policy.hidden_states(ids_L[None], use_cache=False)[0]
        logprobs = token_logprobs(hidden_LD[:-1], self.policy.head, ids_L[1:], temperature=1.0)
        return Probe(ids, logprobs.float().cpu().numpy())

    def save(self, folder: Path, *, with_state: bool) -> None:
        """Writes the model, and with the state all that `load_state` needs to go on from here."""
        self.policy.save(folder)
        if with_state:
            refreshed = self.reference is not None and self.reference_version > 0
            reference = self._reference_state() if refreshed else None
            extra = {"version": self.version, "reference_version": self.reference_version, "reference": reference}
            save_training_state(folder, self.policy, self.optimizer, self.schedule, extra)

    def load_state(self, folder: Path) -> None:
        """Goes on from a checkpoint that `save` wrote with its state; this trainer was made from the stage's first model."""
        extra = load_training_state(folder, self.policy, self.model_config, self.optimizer, self.schedule)
        self.version, self.reference_version = extra["version"], extra["reference_version"]
        if extra["reference"] is not None:
            with torch.no_grad():
                for name, parameter in self._reference_state().items():
                    parameter.copy_(extra["reference"][name])

    def _reference_state(self) -> dict[str, Tensor]:
        """The reference's own parameters: those that are trained in the policy; it shares the others."""
        assert self.reference is not None, "the stage has a reference"
        parameters = dict(self.reference.model.named_parameters())
        return {name: parameters[name] for name in self.policy.trainable_state()}

    @torch.no_grad()
    def _reference_logprobs(self, batch: Batch) -> Tensor | None:
        if self.reference is None:
            return None
        self.reference.model.eval()
        hidden_TD = _at_loss_tokens(self.reference, batch)
        return token_logprobs(hidden_TD, self.reference.head, batch.target_T, temperature=self.temperature, kept=batch.kept)


def gap_metrics(gap_T: NDArray[np.float32]) -> dict[str, float]:
    """Mean, 99th percentile (linear between neighbours) and largest of |log pi - log pi_sampler|, in nats; float32 [T], T > 0.

    Of every loss token of a step, masked ones included. Where its samples are stale, the policy's own drift is in it.
    """
    gap_T = gap_T.astype(np.float64)
    p99 = float(np.percentile(gap_T, 99))
    return {"sampler_gap": float(gap_T.mean()), "sampler_gap_p99": p99, "sampler_gap_max": float(gap_T.max())}


def _at_loss_tokens(policy: Policy, batch: Batch) -> Tensor:
    """Hidden states that predict the loss tokens, [T, D]."""
    inputs = {} if batch.packing is None else {"position_ids": batch.position_ids_BL, "attention_mask": batch.packing}
    hidden_BLD = policy.hidden_states(batch.input_ids_BL, use_cache=False, **inputs)
    return hidden_BLD.flatten(0, 1).index_select(0, batch.source_T)
