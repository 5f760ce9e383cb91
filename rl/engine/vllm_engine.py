"""vLLM as a rollout engine: what it is told when it starts, and what it must not leave behind in the process.

vLLM is an optional extra (`make env-vllm`); nothing else imports these modules.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedTokenizerBase

from rewards.errors import UserError
from rl.compute import in_compute_thread, submit
from rl.config import EngineConfig, ModelConfig
from rl.engine.capabilities import DECLARED
from rl.engine.stepped import SteppedEngine
from rl.policy import BAD_MODEL

if TYPE_CHECKING:
    from rl.engine.vllm_core import VllmCore

NEEDED = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # vLLM inside this process
    "VLLM_USE_V2_MODEL_RUNNER": "0",  # the runner that takes logits processors of the first interface
}
PREFERRED = {  # unless the user's environment says otherwise
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # cores are shared with the trainer; runtime.num_threads says how many threads
}
CLOSE_S = 30.0
CPU_BLOCK_SIZE = 32  # tokens of a block of the cache; only full blocks are shared between prompts


class VllmEngine(SteppedEngine["VllmCore"]):
    """Made from a model's folder or hub id; must be made in the process's compute thread."""

    def __init__(
        self,
        folder: str,
        model: ModelConfig,
        config: EngineConfig,
        tokenizer: PreTrainedTokenizerBase,
        *,
        timeout_s: float = 600.0,
    ) -> None:
        super().__init__(_start(folder, model, config, tokenizer), DECLARED["vllm"], timeout_s=timeout_s)
        atexit.register(self.close)  # a process that ends with vLLM open, or in the middle of its shutdown, would abort

    def close(self) -> None:
        """Also shuts vLLM down, and waits for it.

        Raises:
            RuntimeError: called in the compute thread, which would wait for itself. TimeoutError: that thread is busy.
        """
        if in_compute_thread():
            raise RuntimeError("an engine of vLLM cannot be closed in the compute thread")
        atexit.unregister(self.close)
        super().close()
        submit(self._core.close).result(CLOSE_S)


logging.getLogger("torch._library.triton").setLevel(logging.ERROR)  # which only says that a CPU has no Triton
logging.getLogger("transformers.training_args").addFilter(  # vLLM's group of this process alone, which SFT does not use
    lambda record: "process group is initialized" not in str(record.msg)
)


def _start(folder: str, model: ModelConfig, config: EngineConfig, tokenizer: PreTrainedTokenizerBase) -> VllmCore:
    os.environ.update(PREFERRED | dict(os.environ) | NEEDED)
    try:
        with _torch_left_alone():
            from vllm.engine.arg_utils import EngineArgs
            from vllm.platforms import current_platform
            from vllm.v1.engine.llm_engine import LLMEngine

            from rl.engine.vllm_core import VllmCore
            from rl.engine.vllm_sampler import Ledger, sampler_of
    except ImportError as error:
        raise UserError(f"engine: got vllm, which cannot be imported ({error}); add it with `make env-vllm`") from error
    try:
        hf_config = AutoConfig.from_pretrained(folder, trust_remote_code=model.trust_remote_code)
        with torch.device("meta"):
            skeleton = AutoModelForCausalLM.from_config(hf_config, trust_remote_code=model.trust_remote_code)
    except BAD_MODEL as error:
        raise UserError(f"{folder}: this model cannot be loaded: {error}") from error
    text = hf_config.get_text_config()
    context = getattr(text, "max_position_embeddings", None) or config.max_seq_len
    if config.max_seq_len > context:
        raise UserError(
            f"engine.max_seq_len: got {config.max_seq_len}; allowed: at most the model's context of {context} tokens"
        )
    ledger = Ledger({}, {})
    arguments = EngineArgs(
        model=folder,
        dtype=model.dtype,
        trust_remote_code=model.trust_remote_code,
        max_model_len=config.max_seq_len,
        max_num_seqs=config.max_batch_size,
        enforce_eager=not config.compile,
        kv_cache_memory_bytes=config.kv_cache_bytes or _cache_bytes(text, model.dtype, config),
        gpu_memory_utilization=0.01,  # the share that vLLM demands to be free; what it takes stands in the line above
        block_size=CPU_BLOCK_SIZE if current_platform.is_cpu() else None,
        enable_prefix_caching=True,
        async_scheduling=False,  # a step's tokens are there when it returns
        generation_config="vllm",  # none of the folder's own sampling settings
        skip_tokenizer_init=True,
        logits_processors=[sampler_of(ledger)],
        disable_log_stats=True,
        use_tqdm_on_load=False,
    )
    try:
        with _torch_left_alone():
            llm = LLMEngine.from_engine_args(arguments)
            core = VllmCore(llm, ledger, config, model.dtype, tokenizer, skeleton)
            try:
                core.prompt_logprobs([0, 1, 2])  # some models fail only when they run
            except BaseException:
                core.close()
                raise
    except BAD_MODEL as error:
        if "memory" in str(error).lower():  # vLLM's own advice names settings that there are not here
            got = "null" if config.kv_cache_bytes is None else config.kv_cache_bytes
            raise UserError(
                f"engine.kv_cache_bytes: got {got}; allowed: what this machine has free, and at least one request of "
                f"engine.max_seq_len {config.max_seq_len} tokens; null is {config.max_batch_size} of them. vLLM said: {error}"
            ) from error
        raise UserError(f"{folder}: vLLM cannot run this model here: {error}; or run it with engine=torch") from error
    return core


def _cache_bytes(text: PreTrainedConfig, dtype: str, config: EngineConfig) -> int:
    """Room for as many requests of full length as may run together, and blocks to spare; of plain attention in every layer.

    Raises:
        UserError: the model's layers keep something else.
    """
    heads = getattr(text, "num_key_value_heads", None) or getattr(text, "num_attention_heads", None)
    if not heads or hasattr(text, "kv_lora_rank"):
        raise UserError(
            f"engine.kv_cache_bytes: got null, which is worked out for plain attention; allowed with model type "
            f"{text.model_type!r}: a number of bytes, or engine=torch"
        )
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    width = 4 if dtype == "float32" else 2
    tokens = config.max_batch_size * (config.max_seq_len + 2 * CPU_BLOCK_SIZE)
    return int(2 * text.num_hidden_layers * heads * head_dim * width * tokens)


@contextlib.contextmanager
def _torch_left_alone() -> Iterator[None]:
    """Takes back what vLLM's CPU build changes in torch for the whole process: it shares it with the trainer."""
    set_num_threads, excepthook, random_state = torch.set_num_threads, sys.excepthook, torch.random.get_rng_state()
    try:
        with warnings.catch_warnings(action="ignore"):  # about its own use of torch
            yield
    finally:
        torch.set_num_threads, sys.excepthook = set_num_threads, excepthook
        torch.random.set_rng_state(random_state)
        gc.unfreeze()  # vLLM takes all objects that there are out of the garbage collector's sight
