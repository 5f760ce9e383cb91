"""vLLM without threads or processes of its own: requests, steps, and new weights that are checked. See rl/engine/stepped.py.

vLLM's engine runs inside this process: its scheduler makes a step when we ask for one, so pausing is not asking, every
token's policy version is known, weights are handed over as tensors, and nothing outlives the process.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.core_model_loading import revert_weight_conversion
from vllm import SamplingParams
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind
from vllm.v1.core.sched.request_queue import create_request_queue
from vllm.v1.engine.llm_engine import LLMEngine
from vllm.v1.worker.worker_base import WorkerBase

from rl.config import EngineConfig
from rl.engine.protocol import GenerateRequest, Probe, SavedKV, TokenChunk, Weights, WeightsError
from rl.engine.turn import RunningTurn
from rl.engine.vllm_sampler import KEY, Ledger
from rl.trajectory import FinishReason

PROBE_ID = "polymath-probe"
# Mean difference of log-probabilities between trainer and engine on the same weights, far above rounding.
PROBE_TOLERANCE = {"float32": 1e-4, "bfloat16": 0.1}


@dataclass(eq=False, slots=True)
class VllmRequest(RunningTurn):
    """A request and its id in vLLM, which has a new one for every turn."""

    turn: int = 0
    vllm_id: str = ""


class VllmCore:
    """Not thread-safe: one thread calls everything. `skeleton` is the model without weights; it knows the names on disk."""

    def __init__(
        self,
        llm: LLMEngine,
        ledger: Ledger,
        config: EngineConfig,
        dtype: str,
        tokenizer: PreTrainedTokenizerBase,
        skeleton: PreTrainedModel,
    ) -> None:
        self.llm, self.ledger, self.config, self.dtype, self.tokenizer = llm, ledger, config, dtype, tokenizer
        self.skeleton = skeleton
        self.policy_version = 0
        self._vocab_size: int = skeleton.config.get_text_config().vocab_size
        self._open: dict[str, VllmRequest] = {}  # by the caller's id
        self._by_vllm_id: dict[str, VllmRequest] = {}  # those that vLLM works on

    @property
    def has_work(self) -> bool:
        return bool(self._by_vllm_id)

    # ---- requests

    def add(self, request: GenerateRequest) -> None:
        if request.request_id in self._open:
            raise ValueError(f"request {request.request_id}: this id is open already; allowed: a new one, or extend")
        turn = VllmRequest.first(request, self.config.max_seq_len)
        turn.token_ids.extend(request.generated_ids)
        self._submit(turn)
        self._open[request.request_id] = turn

    def extend(self, request_id: str, forced_ids: Sequence[int], max_tokens: int | None = None) -> None:
        """The next turn is a new request to vLLM, whose prefix cache holds what came before."""
        turn = self._open[request_id]
        if not all(0 <= token < self._vocab_size for token in forced_ids):  # vLLM would refuse it half-way
            raise ValueError(f"request {request_id}: got a forced token outside the vocabulary of {self._vocab_size}")
        turn.next(len(forced_ids), self.config.max_seq_len, max_tokens)
        turn.token_ids.extend(forced_ids)
        turn.turn += 1
        self._submit(turn)

    def _submit(self, turn: VllmRequest) -> None:
        request = turn.request
        turn.vllm_id = f"{request.request_id}#{turn.turn}"
        params = SamplingParams(
            temperature=0.0,  # vLLM takes what the sampler drew
            max_tokens=turn.turn_end - len(turn.token_ids),
            stop_token_ids=sorted(id_ for id_ in request.stop_ids if id_ < self._vocab_size),  # it refuses others
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            extra_args={KEY: turn.vllm_id},
        )
        self.llm.add_request(turn.vllm_id, {"prompt_token_ids": list(turn.token_ids)}, params)
        self.ledger.requests[turn.vllm_id] = request
        self._by_vllm_id[turn.vllm_id] = turn

    def release(self, request_id: str) -> list[int]:
        """Ends a kept request; returns all of its tokens."""
        return self._open.pop(request_id).token_ids

    def abort(self, request_id: str) -> list[tuple[str, TokenChunk]]:
        turn = self._open.pop(request_id, None)
        if turn is None or turn.vllm_id not in self._by_vllm_id:
            return []
        self.llm.abort_request([turn.vllm_id])
        self._forget(turn)
        turn.finish_reason = FinishReason.ABORTED
        return [(request_id, turn.chunk())]

    def _forget(self, turn: VllmRequest) -> None:
        del self._by_vllm_id[turn.vllm_id], self.ledger.requests[turn.vllm_id]
        self.ledger.draws.pop(turn.vllm_id, None)

    # ---- one step

    def step(self) -> list[tuple[str, TokenChunk]]:
        chunks = []
        for output in self.llm.step():
            turn = self._by_vllm_id.get(output.request_id)
            sampled = output.outputs[0].token_ids
            if turn is None:  # aborted meanwhile
                continue
            if not len(sampled):
                assert not output.finished, "vLLM ends no request by itself"
                continue
            draw = self.ledger.draws.pop(turn.vllm_id)
            assert list(sampled) == [draw.token], "vLLM takes the token that was drawn"
            turn.take(draw.token, draw.logprob, self.policy_version, draw.kept, self.tokenizer)
            assert turn.finish_reason is not None or not output.finished, "vLLM ends a turn by the rules of RunningTurn"
            if turn.finish_reason is not None:
                self._end(turn, known=output.finished)
            if turn.is_due:
                chunks.append((turn.request.request_id, turn.chunk()))
        return chunks

    def _end(self, turn: VllmRequest, *, known: bool) -> None:
        if not known:  # a stop string, which vLLM is not told of
            self.llm.abort_request([turn.vllm_id])
        self._forget(turn)
        if not turn.request.keep:
            del self._open[turn.request.request_id]

    # ---- caches and weights

    def save_kv(self, request_id: str) -> SavedKV:
        raise NotImplementedError("vLLM keeps its caches: see Capabilities.kv_save")

    def restore_kv(self, saved: SavedKV) -> None:
        raise NotImplementedError("vLLM keeps its caches: see Capabilities.kv_save")

    def load_weights(self, weights: Weights) -> None:
        """Every parameter, the caches emptied, and the probe compared. Open requests are computed again by the new weights."""
        mine = {name for name, _ in self.skeleton.named_parameters()}
        if mine != weights.tensors.keys():
            raise ValueError(f"weights of another model: differing names {sorted(mine ^ weights.tensors.keys())[:4]}")
        named = revert_weight_conversion(self.skeleton, dict(weights.tensors))
        self.llm.collective_rpc(_reload, args=(named,))
        self.llm.reset_prefix_cache(reset_running_requests=True)
        self.policy_version = weights.version
        if weights.probe is not None:
            self._check(weights.probe)

    def _check(self, probe: Probe) -> None:
        ids = probe.token_ids[: self.config.max_seq_len - 1]  # vLLM wants room for a token to sample
        gap = float(np.abs(self.prompt_logprobs(ids) - probe.logprobs[: len(ids) - 1]).mean())
        if not gap <= PROBE_TOLERANCE[self.dtype]:
            raise WeightsError(
                f"after the update to policy version {self.policy_version} the engine's log-probabilities differ from the "
                f"trainer's by {gap:.2g} on average; allowed: {PROBE_TOLERANCE[self.dtype]:g}. Part of the weights is stale, "
                "or vLLM computes this model differently: run it with engine=torch"
            )

    def prompt_logprobs(self, token_ids: Sequence[int]) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        """Log-probabilities [n - 1] of all but the first token at temperature 1, while other requests stand still.

        They were all sent back to the waiting queue, which is put aside meanwhile.
        """
        scheduler = self.llm.engine_core.engine_core.scheduler
        assert not scheduler.running, "the caches were just reset"
        waiting, scheduler.waiting = scheduler.waiting, create_request_queue(scheduler.policy)
        try:
            params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False, ignore_eos=True)
            self.llm.add_request(PROBE_ID, {"prompt_token_ids": list(token_ids)}, params)
            done = None
            # vLLM compiles what gathers these; where the model is not compiled, there may be no compiler
            with contextlib.nullcontext() if self.config.compile else torch.compiler.set_stance("force_eager"):
                while done is None:
                    done = next((o for o in self.llm.step() if o.request_id == PROBE_ID and o.finished), None)
        finally:
            scheduler.waiting = waiting
        rows = done.prompt_logprobs[1:]
        return np.array([row[token].logprob for row, token in zip(rows, token_ids[1:], strict=True)], np.float32)

    def close(self) -> None:
        """Frees the model and its caches. May be called again."""
        self.llm.engine_core.shutdown()
        self._open.clear()
        self._by_vllm_id.clear()


def _reload(worker: WorkerBase, named: Mapping[str, Tensor]) -> None:
    """Runs in vLLM's worker, which repacks weights for its kernels.

    Its CPU build (0.32) packs experts only when it sets up their kernel, and a tied output head never again.
    """
    model = worker.model_runner.model
    if current_platform.is_cpu():
        for module in model.modules():
            method: Any = getattr(module, "quant_method", None)
            if getattr(method, "moe_kernel", None) is not None:
                method.moe_kernel = None  # so that it is set up again
    worker.model_runner.reload_weights(weights_iterator=iter(named.items()))
    head = getattr(model, "lm_head", None)
    if current_platform.is_cpu() and head is not None:
        from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

        dispatch_cpu_unquantized_gemm(head, remove_weight=False)
