"""Settings of models, optimizers, sampling, GRPO, engines and the runtime, as frozen dataclasses.

Each is written once: a recipe's schema is made of these classes, and the code below the recipe reads the same objects.
No torch here, so that a recipe can be checked without it. Bounds are `annotated_types`, which the recipe border enforces.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

from rl.losses.config import GrpoLossConfig, LossConfig

PositiveInt = Annotated[int, Gt(0)]
CountInt = Annotated[int, Ge(0)]
PositiveFloat = Annotated[float, Gt(0)]
Share = Annotated[float, Ge(0), Le(1)]
EngineName = Literal["torch", "vllm"]

FORBID_EXTRA = {"extra": "forbid"}  # read by pydantic at the recipe's border: unknown keys are errors
MUON_WITH_LORA = (
    "got muon beside model.lora; allowed: adamw (optimizer.name=adamw). Muon is published for whole hidden matrices, not for "
    "the two factors of an adapter"
)


@dataclass(frozen=True, kw_only=True)
class InitConfig:
    """A model made from a config with random weights, and a tokenizer trained on the recipe's own data."""

    __pydantic_config__ = FORBID_EXTRA
    architecture: str = "qwen3"  # any transformers model type with a causal LM head
    config: Mapping[str, Any] = field(default_factory=dict)  # the architecture's own config fields
    tokenizer_vocab_size: PositiveInt = 512  # upper bound; training stops early when the data has no more merges


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Trains low-rank adapters beside frozen linear layers (arXiv 2106.09685); engines and checkpoints get merged weights.

    No dropout is offered: the sampler's probabilities and the trainer's must be the same.
    """

    __pydantic_config__ = FORBID_EXTRA
    rank: PositiveInt = 16
    alpha: PositiveFloat = 32.0  # an adapter's product counts alpha / rank times
    # Names of linear layers, such as [q_proj, v_proj]; null: all but the output head. The experts' stacked weights of a
    # mixture of experts are no linear layers: they stay frozen.
    target_modules: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class ChatConfig:
    """How conversations are written for the model.

    `v4` is DeepSeek-V4's format, `template` the tokenizer's own chat template, `encoder` the program that a model's folder
    ships for it (with trust_remote_code). `auto` is v4 where the vocabulary has all of its special tokens, else template.
    """

    __pydantic_config__ = FORBID_EXTRA
    format: Literal["auto", "v4", "template", "encoder"] = "auto"
    wording: str | None = None  # a file in place of rl/formats/wording.yaml: what v4 says around tools, and of effort


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Where the weights come from: exactly one of `path` and `init`."""

    __pydantic_config__ = FORBID_EXTRA
    path: str | None = None  # hub id, local folder, or a previous run's folder
    init: InitConfig | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"  # products in bfloat16 run under autocast; master weights stay fp32
    attention: Literal["eager", "sdpa"] = "sdpa"
    activation_checkpointing: bool = False  # training keeps each layer's input alone: less memory, a third more products
    trust_remote_code: bool = False
    lora: LoraConfig | None = None  # null: every weight is trained; else give the optimizer `name: adamw`
    chat: ChatConfig = field(default_factory=ChatConfig)


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """One optimizer and its learning-rate schedule.

    `muon` applies the hybrid Newton-Schulz update to hidden 2-D weights and AdamW to embeddings, output head, norms and
    other 1-D parameters. Defaults are the published ones, except `lr`, which every recipe should state.
    """

    __pydantic_config__ = FORBID_EXTRA
    name: Literal["muon", "adamw"] = "muon"
    lr: PositiveFloat = 1e-3
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: CountInt = 0
    min_lr_share: Share = 0.0  # what the schedule comes down to after the last update, as a share of `lr`
    weight_decay: Annotated[float, Ge(0)] = 0.1
    betas: tuple[float, float] = (0.9, 0.95)  # AdamW
    eps: PositiveFloat = 1e-20  # AdamW
    momentum: Share = 0.95  # Muon
    newton_schulz: Literal["hybrid", "quintic"] = "hybrid"  # "quintic" is torch.optim.Muon: one polynomial, 5 steps
    max_grad_norm: PositiveFloat = 1.0


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How completions are drawn. `temperature: 0` is greedy; `top_p: 1` and `top_k: 0` cut nothing."""

    __pydantic_config__ = FORBID_EXTRA
    max_tokens: PositiveInt = 256  # of one completion
    temperature: Annotated[float, Ge(0)] = 1.0
    top_p: Annotated[float, Gt(0), Le(1)] = 1.0
    top_k: CountInt = 0
    stop: tuple[str, ...] = ()  # further stop strings; the model's end-of-turn token always stops


@dataclass(frozen=True, kw_only=True)
class ThinkingConfig:
    """What becomes of a turn's thinking later in the conversation.

    `interleaved`: where there are tools it stays, between calls and across the user's turns, so that the context only grows.
    `per_turn`: it stays between the calls of one question, and is dropped when the user speaks again. `off`: there is none.
    """

    __pydantic_config__ = FORBID_EXTRA
    mode: Literal["interleaved", "per_turn", "off"] = "interleaved"


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """The bounds of a rollout with tools. Each ends it with a finish reason of its own."""

    __pydantic_config__ = FORBID_EXTRA
    max_turns: PositiveInt = 16
    max_tokens: PositiveInt | None = None  # sampled in all turns together; null: as many as fit
    tool_time_s: PositiveFloat = 120.0  # of all calls together; the call that goes beyond it ends the rollout
    total_time_s: PositiveFloat | None = None  # null: no limit
    max_attempts: PositiveInt = 3  # of a rollout whose tools fail through no fault of the model


@dataclass(frozen=True, kw_only=True)
class LevelConfig:
    """One effort that a specialist is trained for and measured at: none, high or max, or a number from 1 to 100."""

    __pydantic_config__ = FORBID_EXTRA
    effort: Literal["none", "high", "max"] | Annotated[int, Ge(1), Le(100)]
    max_tokens: PositiveInt | None = None  # of one turn; null: as the stage's or the evaluation's sampling says
    window: PositiveInt | None = None  # tokens in all, prompt included; null: engine.max_seq_len
    length_penalty: Annotated[float, Ge(0)] | None = None  # k; null: by `efforts.penalty`, from the number


@dataclass(frozen=True, kw_only=True)
class PenaltyConfig:
    """What thinking costs: -min(c_max, k l / l_norm) for l tokens of it (DeepSeek-V4.1; its values are not published).

    A level without a k of its own has k0 exp(-(b - b_min) / tau), where b is its number, b_min the smallest of the levels'
    and tau `spread` times the mean spacing between them.
    """

    __pydantic_config__ = FORBID_EXTRA
    c_max: Annotated[float, Ge(0)] = 0.5
    l_norm: PositiveFloat = 1000.0  # tokens
    k0: Annotated[float, Ge(0)] = 0.5
    spread: PositiveFloat = 1.0


@dataclass(frozen=True, kw_only=True)
class EffortsConfig:
    """The efforts of a specialist. Every task is asked at each of them, and each has groups of its own."""

    __pydantic_config__ = FORBID_EXTRA
    levels: tuple[LevelConfig, ...] = ()  # none: tasks are asked at the effort that they come with
    penalty: PenaltyConfig = field(default_factory=PenaltyConfig)


@dataclass(frozen=True, kw_only=True)
class OverlongConfig:
    """A soft penalty for length, added to the score (DAPO, arXiv 2503.14476, equation 13).

    It grows from 0 at `max_tokens - buffer_tokens` sampled tokens to `penalty` at `max_tokens`, and stays there.
    """

    __pydantic_config__ = FORBID_EXTRA
    max_tokens: PositiveInt | None = None  # null: the stage's sampling.max_tokens; with tools it must be stated
    buffer_tokens: PositiveInt
    penalty: PositiveFloat = 1.0


@dataclass(frozen=True, kw_only=True)
class GrpoConfig:
    """One GRPO stage: groups of completions, their rewards centred on the group's mean, and a policy-gradient loss."""

    __pydantic_config__ = FORBID_EXTRA
    kind: Literal["grpo"] = "grpo"
    name: str = "grpo"
    steps: PositiveInt = 40  # of sampling; a step whose groups all lack a signal makes no update, and counts
    num_prompts: PositiveInt = 16  # prompts a step
    group_size: Annotated[int, Ge(2)] = 8  # completions of one prompt
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    loss: LossConfig = field(default_factory=GrpoLossConfig, metadata={"discriminator": "name"})  # pydantic reads metadata
    reference_refresh_steps: PositiveInt = 400
    max_staleness: CountInt = 0  # steps that a rollout's weights may be behind; more than 0: sampling overlaps training
    mixed_versions: bool = False  # new weights reach the engines in the middle of rollouts, not between steps' rollouts
    dynamic_sampling_rounds: CountInt = 0  # times that further prompts replace groups without a signal (DAPO)
    scale_rewards: Literal["none", "group", "batch"] = "none"  # divide centred rewards by this standard deviation
    overlong: OverlongConfig | None = None
    mask_truncated: bool = False  # completions that were cut are not trained on; they still count in the group's mean
    max_failed_share: Share = 0.25  # the run stops when more rollouts of a step than this could not be scored
    optimizer: OptimizerConfig | None = None  # what differs from the recipe's; null: nothing does
    microbatch_tokens: PositiveInt = 8192  # through the model at once; packed: without padding, shared prompts once
    packing: bool = True  # microbatches without padding, prompts of a group once, where that is exact for the model
    eval_every: CountInt = 0  # steps; 0: only before and after
    save_every: CountInt = 20  # steps between checkpoints to resume from; 0: only at the end


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """The rollout engine. `engine: torch` is short for `engine: {name: torch}`."""

    __pydantic_config__ = FORBID_EXTRA
    name: EngineName = "torch"
    max_batch_size: PositiveInt = 128  # requests decoded together
    max_seq_len: PositiveInt = 2048  # prompt and completion
    deterministic: bool = False  # torch: fixed shapes; the same request gives the same tokens whatever else is in the batch
    compile: bool = False  # vllm: compiled kernels and captured graphs; slower to start
    kv_cache_bytes: PositiveInt | None = None  # vllm; null: room for max_batch_size requests of max_seq_len tokens


@dataclass(frozen=True, kw_only=True)
class ResourcesConfig:
    """What each worker of a kind claims of its node, in Ray's resources: CPU, GPU, memory (bytes), and names of one's own.

    null: a sliver of a core, and for trainers and rollout workers a GPU each where there are enough, else equal shares.
    """

    __pydantic_config__ = FORBID_EXTRA
    trainer: Mapping[str, PositiveFloat] | None = None
    rollout: Mapping[str, PositiveFloat] | None = None
    reward: Mapping[str, PositiveFloat] | None = None


@dataclass(frozen=True, kw_only=True)
class RuntimeConfig:
    """Where the workers run. `runtime: inline` is short for `runtime: {mode: inline}`."""

    __pydantic_config__ = FORBID_EXTRA
    mode: Literal["ray", "inline"] = "ray"
    address: str | None = None  # a Ray cluster to run on: auto, or host:port of its head; null: a Ray of this run's own
    resources: ResourcesConfig = field(default_factory=ResourcesConfig)
    spread: bool = False  # no two rollout workers on one node
    num_trainers: PositiveInt = 1  # data-parallel; they share each GRPO step's samples
    num_rollout_workers: PositiveInt = 1
    num_reward_workers: PositiveInt = 1
    num_threads: PositiveInt | None = None  # of each worker's tensor operations; null: the machine's cores
    timeout_s: PositiveFloat = 600.0  # the longest wait for any single answer of a worker
    max_restarts: CountInt = 3  # of each rollout and reward worker that is lost; its work is done again


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Which checkpoints inside a stage stay on disk. The one that ends a stage always does."""

    __pydantic_config__ = FORBID_EXTRA
    keep_last: PositiveInt = 2  # newest ones, which a run resumes from
    keep_best: CountInt = 1  # with the highest held-out accuracy; a new best is saved as soon as it is measured


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Held-out evaluation."""

    __pydantic_config__ = FORBID_EXTRA
    num_tasks: PositiveInt = 300
    num_tasks_during: PositiveInt = 100  # of the evaluations between the steps of a stage
    num_samples: PositiveInt = 1  # completions a task; more than one reports pass@k
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(temperature=0.0))
