"""What a recipe may say: the packages' own settings, composed, with the checks that span several of them. No torch.

`recipes/load.py` builds a `Recipe` from YAML; `recipes/schema.json` is generated from it, for editors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from recipes.tree import Key, did_you_mean, dotted, show
from rewards.config import RewardConfig, SandboxConfig
from rewards.endpoint import EndpointConfig
from rewards.judge import PART
from rewards.labels import DOMAIN as JUDGE_DOMAIN
from rewards.rubric import problems as rubric_problems
from rl.config import (
    MUON_WITH_LORA,
    CheckpointConfig,
    EffortsConfig,
    EngineConfig,
    EvalConfig,
    GrpoConfig,
    LevelConfig,
    ModelConfig,
    OptimizerConfig,
    RolloutConfig,
    RuntimeConfig,
    SamplingConfig,
    ThinkingConfig,
)
from rl.engine.capabilities import DECLARED
from rl.judge_config import POLICY, JudgeConfig
from rl.tools.config import ToolConfig
from specialists.config import DataConfig, SftConfig, SourceConfig
from specialists.generators import GENERATORS, REASONING_GYM

OWN_GENERATORS = tuple(GENERATORS)
SHORTHANDS = {"model": "path", "engine": "name", "runtime": "mode", "thinking": "mode"}  # `engine: torch` is `{name: torch}`
STAGE_SHORTHANDS = {"loss": "name"}  # of a stage: `loss: dapo` is `loss: {name: dapo}`
ADDRESS = r"auto|(?!ray:)[^\s:/]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}"  # of a Ray cluster
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"  # a run's folder is called by it

StageConfig: TypeAlias = SftConfig | GrpoConfig


class Recipe(BaseModel):
    """A whole recipe, with every default filled in."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: Annotated[str, Field(pattern=NAME_PATTERN)] | None = None
    description: str = ""
    domain: str = "math"
    seed: int = 0
    model: ModelConfig
    data: DataConfig
    stages: tuple[Annotated[StageConfig, Field(discriminator="kind")], ...]
    rewards: tuple[RewardConfig, ...] = ()
    tools: tuple[ToolConfig, ...] = ()
    thinking: ThinkingConfig = Field(default_factory=ThinkingConfig)
    rollout: RolloutConfig = Field(default_factory=RolloutConfig)
    efforts: EffortsConfig = Field(default_factory=EffortsConfig)
    sandbox: SandboxConfig = Field(default_factory=SandboxConfig)
    judge: JudgeConfig | None = None
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    engine: EngineConfig = Field(default_factory=EngineConfig)
    runtime: RuntimeConfig = Field(default_factory=RuntimeConfig)
    evaluation: EvalConfig = Field(default_factory=EvalConfig)
    checkpoints: CheckpointConfig = Field(default_factory=CheckpointConfig)

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        if problems := [
            *_model_problems(self),
            *_data_problems(self),
            *_stage_problems(self),
            *_engine_problems(self),
            *_tool_problems(self),
            *_effort_problems(self),
            *_judge_problems(self),
            *_runtime_problems(self.runtime),
            *_sandbox_problems(self.sandbox),
        ]:
            text = "; ".join(f"{dotted(key)}: {problem}" for key, problem in problems)
            raise PydanticCustomError("recipe", "{text}", {"text": text, "problems": problems})
        return self


Problems: TypeAlias = Iterator[tuple[Key, str]]


def _model_problems(recipe: Recipe) -> Problems:
    path, init = recipe.model.path, recipe.model.init
    if (path is None) == (init is None):
        got = "got neither" if path is None else "got both"
        yield ("model",), f"{got}; allowed: exactly one of path (an existing model) and init (a new one)"
    chat = recipe.model.chat
    if chat.format == "encoder" and (path is None or not recipe.model.trust_remote_code):
        text = "got encoder, which is code of the model's folder; allowed: with model.path and model.trust_remote_code: true"
        yield ("model", "chat", "format"), text
    if chat.format == "template" and init is not None:
        yield ("model", "chat", "format"), "got template with a new model; allowed: auto or v4, whose format it is"
    if recipe.model.lora is None:
        return
    if init is not None:
        yield ("model", "lora"), "got adapters beside random weights that would stay so; allowed: beside model.path"
    for i, stage in enumerate(recipe.stages):
        if (stage.optimizer or recipe.optimizer).name == "muon":
            yield (("stages", i, "optimizer", "name") if stage.optimizer else ("optimizer", "name")), MUON_WITH_LORA
            break


def _data_problems(recipe: Recipe) -> Problems:
    if not recipe.data.sources:
        yield ("data", "sources"), "got []; allowed: at least one source"
    for i, source in enumerate(recipe.data.sources):
        key: Key = ("data", "sources", i)
        if (source.generator is None) == (source.dataset is None):
            got = "got neither" if source.generator is None else "got both"
            yield key, f"{got}; allowed: exactly one of generator and dataset"
        elif source.dataset is not None and source.options:
            yield (
                (*key, "options"),
                f"got {show(source.options)}; allowed only beside a generator; remove them",
            )
        yield from _generator_problems((*key, "generator"), source)
    if any(isinstance(stage, SftConfig) for stage in recipe.stages):
        lacking = [i for i, source in enumerate(recipe.data.sources) if not _may_demonstrate(source)]
        if lacking and len(lacking) == len(recipe.data.sources):
            yield (
                ("data", "sources", lacking[0]),
                "no source has demonstrations, which an sft stage imitates; allowed: a source with columns.response or"
                f" columns.messages, or one of the generators {', '.join(OWN_GENERATORS)}; or remove the sft stages",
            )


def _may_demonstrate(source: SourceConfig) -> bool:
    return source.generator in OWN_GENERATORS or bool(source.columns.response or source.columns.messages)


def _generator_problems(key: Key, source: SourceConfig) -> Problems:
    name = source.generator
    if name is None or name in OWN_GENERATORS or re.fullmatch(REASONING_GYM + r"\w+", name):
        return
    near = did_you_mean(name, (*OWN_GENERATORS, REASONING_GYM + name.rpartition("/")[2]))
    yield key, f"got {show(name)}; allowed: {', '.join(OWN_GENERATORS)}, {REASONING_GYM}NAME{near}"


def _stage_problems(recipe: Recipe) -> Problems:
    if not recipe.stages:
        yield ("stages",), "got []; allowed: at least one stage, of kind sft or grpo"
    limit = recipe.engine.max_seq_len
    seen: dict[str, int] = {}
    for i, stage in enumerate(recipe.stages):
        key: Key = ("stages", i)
        if not re.match(NAME_PATTERN, stage.name) or stage.name.isdigit():
            yield (
                (*key, "name"),
                f"got {show(stage.name)}; allowed: letters, digits, '.', '_', '-'; not digits alone",
            )
        if stage.name in seen:
            yield (
                (*key, "name"),
                f"got {show(stage.name)}, as stage {seen[stage.name]}; allowed: a name of its own",
            )
        seen.setdefault(stage.name, i)
        if isinstance(stage, GrpoConfig):
            yield from _length_problems((*key, "sampling"), stage.sampling, limit)
            if stage.sampling.temperature == 0:
                yield (*key, "sampling", "temperature"), "got 0, which makes a group's completions equal; allowed: more than 0"
            if stage.mixed_versions and stage.max_staleness == 0:
                yield (*key, "mixed_versions"), "got true; allowed only with max_staleness of 1 or more"
            if not recipe.rewards and recipe.judge is None:
                yield (
                    ("rewards",),
                    f"got []; allowed: at least one, for the grpo stage {stage.name} to learn from, or a judge",
                )
            yield from _loss_problems(key, stage, has_tools=bool(recipe.tools))
    yield from _length_problems(("evaluation", "sampling"), recipe.evaluation.sampling, limit)


def _runtime_problems(runtime: RuntimeConfig) -> Problems:
    if runtime.mode == "inline":
        if runtime.num_trainers > 1:
            yield (
                ("runtime", "num_trainers"),
                f"got {runtime.num_trainers}; allowed: 1 where runtime is inline; with ray, any number",
            )
        if runtime.address is not None:
            yield (
                ("runtime", "address"),
                f"got {show(runtime.address)} where runtime is inline; allowed: null, or runtime.mode: ray",
            )
    if runtime.address is not None and not re.fullmatch(ADDRESS, runtime.address):
        yield (
            ("runtime", "address"),
            f"got {show(runtime.address)}; allowed: auto, host:port of a cluster's head (this machine is part of it), or null",
        )
    for kind, claim in (
        ("trainer", runtime.resources.trainer), ("rollout", runtime.resources.rollout), ("reward", runtime.resources.reward),
    ):  # fmt: skip
        gpus = (claim or {}).get("GPU", 0.0)
        if gpus > 1 and gpus != int(gpus):
            yield ("runtime", "resources", kind, "GPU"), f"got {gpus:g}; allowed: whole GPUs, or a share of one, less than 1"


def _sandbox_problems(sandbox: SandboxConfig) -> Problems:
    if sandbox.layer == "function" and sandbox.image is not None:
        text = (
            f"got {show(sandbox.image)} with the function layer, which has the host's Python; allowed: null, or another layer"
        )
        yield ("sandbox", "image"), text
    if sandbox.layer != "function" and sandbox.image is None:
        text = f"got null with the {sandbox.layer} layer; allowed: an image's name (polymath sandbox image list)"
        yield ("sandbox", "image"), text
    if sandbox.runtime != "crun" and sandbox.layer != "container":
        yield ("sandbox", "runtime"), f"got {sandbox.runtime} with the {sandbox.layer} layer; allowed: with the container layer"


def _engine_problems(recipe: Recipe) -> Problems:
    engine = recipe.engine
    able = [name for name, can in DECLARED.items() if can.batch_invariant]
    if engine.deterministic and engine.name not in able:
        reason = DECLARED[engine.name].reason
        yield ("engine", "deterministic"), f"got true with {engine.name} ({reason}); allowed: with {', '.join(able)}"
    if engine.name == "vllm" and recipe.runtime.mode == "inline" and recipe.runtime.num_rollout_workers > 1:
        count = show(recipe.runtime.num_rollout_workers)
        yield (
            ("runtime", "num_rollout_workers"),
            f"got {count} with vllm, of which a process holds one; allowed: 1, or runtime=ray",
        )
    context = recipe.model.init and recipe.model.init.config.get("max_position_embeddings")
    if engine.name == "vllm" and isinstance(context, int) and engine.max_seq_len > context:
        text = f"got {engine.max_seq_len} with vllm; allowed: at most the model's context, max_position_embeddings {context}"
        yield ("engine", "max_seq_len"), text
    for key in ("compile", "kv_cache_bytes"):
        if (value := getattr(engine, key)) and engine.name != "vllm":
            yield ("engine", key), f"got {show(value)} with {engine.name}; allowed: with vllm (engine.name=vllm)"


def _tool_problems(recipe: Recipe) -> Problems:
    """What `recipes/check.py` does not find when it reads each of them."""
    seen: dict[str, int] = {}
    for i, tool in enumerate(recipe.tools):
        if tool.use is None:
            continue
        if tool.use in seen:
            yield ("tools", i, "use"), f"got {show(tool.use)}, as tool {seen[tool.use]}; allowed: once"
        seen.setdefault(tool.use, i)


def _effort_problems(recipe: Recipe) -> Problems:
    seen = set[object]()
    for i, level in enumerate(recipe.efforts.levels):
        key: Key = ("efforts", "levels", i)
        if level.effort in seen:
            yield (*key, "effort"), f"got {show(level.effort)} twice; allowed: each effort once"
        seen.add(level.effort)
        if level.window is not None and level.window > recipe.engine.max_seq_len:
            limit = recipe.engine.max_seq_len
            yield (*key, "window"), f"got {level.window}; allowed: at most engine.max_seq_len {limit}, or raise that"
        most = min(recipe.engine.max_seq_len, level.window or recipe.engine.max_seq_len)
        if level.max_tokens is not None and level.max_tokens >= most:
            yield (*key, "max_tokens"), f"got {level.max_tokens}; allowed: fewer than its window of {most} tokens"
        if level.effort != "none" and recipe.thinking.mode == "off":
            yield (*key, "effort"), f"got {show(level.effort)} with thinking off; allowed: none, or another thinking.mode"


def _judge_problems(recipe: Recipe) -> Problems:
    judge = recipe.judge
    weighted = any(reward.weight for reward in recipe.rewards)
    if judge is None:
        if recipe.rewards and not weighted:
            yield ("rewards",), "every weight is 0, which only measures; allowed: at least one other weight, or a judge"
        return
    if any(reward.use.endswith(f":{PART}") for reward in recipe.rewards):
        yield ("rewards",), f"got a function called {PART}, which is the name of the judge's part; allowed: another name"
    if recipe.domain == JUDGE_DOMAIN:
        yield ("domain",), f"got {JUDGE_DOMAIN}, which is that of judging tasks; allowed: another name"
    if judge.rubric:
        yield from ((("judge", "rubric", *place), problem) for place, problem in rubric_problems(judge.rubric))
    if judge.weight == 0 and not weighted:
        yield ("judge", "weight"), "got 0 where no reward has a weight; allowed: more than 0, or a reward with a weight"
    if judge.max_gap is not None and not recipe.rewards:
        yield (
            ("judge", "max_gap"),
            f"got {judge.max_gap:g}; allowed: beside a reward that measures the truth, with weight 0 or more",
        )
    own = judge.model == POLICY
    if judge.train is not None and judge.train.num_prompts and not own:
        yield (
            ("judge", "train", "num_prompts"),
            f"got {judge.train.num_prompts} with another model as judge; allowed: 0 (labels only measure), or model: {POLICY}",
        )
    if isinstance(judge.model, EndpointConfig):
        if not judge.model.endpoint.startswith(("http://", "https://")):
            yield ("judge", "model", "endpoint"), f"got {show(judge.model.endpoint)}; allowed: http://... or https://..."
    else:
        yield from _length_problems(("judge", "sampling"), judge.sampling, recipe.engine.max_seq_len)
        if not own and recipe.engine.name == "vllm" and recipe.runtime.mode == "inline":
            yield (
                ("judge", "model"),
                f"got {show(judge.model)} with vllm, of which a process holds one; allowed: {POLICY}, or runtime=ray",
            )


def _loss_problems(key: Key, stage: GrpoConfig, *, has_tools: bool) -> Problems:
    cap, overlong = stage.loss.importance_cap, stage.overlong
    if cap is not None and stage.loss.ratio_to != "trainer":
        yield (
            (*key, "loss", "importance_cap"),
            f"got {cap:g} with ratio_to: {stage.loss.ratio_to}, whose ratio corrects for the sampler already;"
            " allowed: null, or ratio_to: trainer beside it",
        )
    if overlong is not None and overlong.max_tokens is None and has_tools:
        yield (
            (*key, "overlong", "max_tokens"),
            "got null with tools, where sampling.max_tokens bounds one turn alone; allowed: the tokens of all turns together",
        )
    elif overlong is not None and overlong.buffer_tokens > (limit := overlong.max_tokens or stage.sampling.max_tokens):
        yield (
            (*key, "overlong", "buffer_tokens"),
            f"got {overlong.buffer_tokens}; allowed: at most overlong.max_tokens, {limit}, before which the penalty begins",
        )


def _length_problems(key: Key, sampling: SamplingConfig, limit: int) -> Problems:
    if sampling.max_tokens > limit:
        yield (
            (*key, "max_tokens"),
            f"got {sampling.max_tokens}; allowed: at most engine.max_seq_len, {limit}, which holds the prompt as well",
        )


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a recipe file. Nothing that merges is required, because `extends` may supply it."""
    schema = Recipe.model_json_schema()
    defs: dict[str, dict[str, Any]] = schema["$defs"]
    # list items replace whole, so they must be complete
    items = {SftConfig, GrpoConfig, SourceConfig, RewardConfig, ToolConfig, LevelConfig}
    for name in defs.keys() - {item.__name__ for item in items}:
        defs[name].pop("required", None)
    defs["GrpoConfig"]["required"] = ["kind"]  # the tag has a default in Python only
    properties = schema["properties"]
    for name, key in SHORTHANDS.items():
        value = _without_null(defs[properties[name].get("$ref", "").rpartition("/")[2]]["properties"][key])
        properties[name] = {"anyOf": [value, properties[name]], "description": f"A text is short for {key}."}
    for name, key in STAGE_SHORTHANDS.items():
        stage = defs["GrpoConfig"]["properties"]
        named = [option["$ref"].rpartition("/")[2] for option in stage[name]["oneOf"]]
        for one in named[1:]:  # a mapping without a name means the first of them
            defs[one]["required"] = [key]
        texts = {"type": "string", "enum": [defs[one]["properties"][key]["const"] for one in named]}
        stage[name] = {"anyOf": [texts, stage[name]], "description": f"A text is short for {key}."}
    extends = {"type": "string", "description": "A recipe to start from: a file beside this one, or a shipped recipe."}
    schema["properties"] = {"extends": extends, **properties}
    schema.pop("required")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _without_null(schema: Mapping[str, Any]) -> dict[str, Any]:
    if "anyOf" in schema:
        return dict(next(option for option in schema["anyOf"] if option.get("type") != "null"))
    return {key: value for key, value in schema.items() if key not in {"default", "title"}}


def schema_text() -> str:
    """What `polymath recipes schema` prints and `recipes/schema.json` holds."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"
