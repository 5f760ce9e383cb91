"""Settings of the judge: who judges, by which rubric, and what it is trained on. No torch here (see rl/config.py)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from annotated_types import Ge, Gt, Lt

from rewards.endpoint import EndpointConfig
from rewards.rubric import Criterion
from rewards.task import Effort
from rl.config import FORBID_EXTRA, CountInt, PositiveFloat, PositiveInt, SamplingConfig

POLICY = "policy"


@dataclass(frozen=True, kw_only=True)
class JudgeTrainConfig:
    """Human judgements that the policy learns to judge from, in the same batches as its own tasks."""

    __pydantic_config__ = FORBID_EXTRA
    labels: str  # a .jsonl file, or a generator of labels by its name
    options: Mapping[str, Any] = field(default_factory=dict)  # the generator's own settings
    num_labels: PositiveInt = 2000  # of a generator, training and held-out ones together
    num_held_out: PositiveInt = 200  # at most; the judge's accuracy is measured on them
    held_out_share: Annotated[float, Gt(0), Lt(1)] = 0.2  # of the labelled prompts
    num_prompts: CountInt = 4  # judging tasks a step, beside the stage's num_prompts; 0: the labels only measure
    weight: PositiveFloat = 1.0  # of the judging tasks' advantages


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """A model's verdict as one more reward, called `judge`."""

    __pydantic_config__ = FORBID_EXTRA
    model: str | EndpointConfig = POLICY  # `policy`: the model in training itself; else a frozen one: a path, a run, a hub id
    prompt: str = "rubric-1"  # a shipped judging prompt, or a text file of your own
    rubric: tuple[Criterion, ...] = ()  # for tasks that have no `rubric` among their data
    weight: Annotated[float, Ge(0)] = 1.0  # among the rewards; 0: the judge's score is only measured
    num_samples: PositiveInt = 1  # verdicts that a score is the mean of
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(max_tokens=128))
    effort: Effort = Effort.HIGH  # none: the judge does not think before it writes
    max_gap: float | None = None  # the run stops when a step's mean judge score minus the first reward's mean exceeds it
    train: JudgeTrainConfig | None = None  # null: the judge is not trained
