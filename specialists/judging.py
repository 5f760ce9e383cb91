"""A recipe's judge in a run: its part in the crew, its own model where it has one, and the labels that a stage trains on."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rewards.endpoint import Endpoint, EndpointConfig
from rewards.judge import PART, Rules
from rewards.plugin import RewardSource
from rewards.score import part_names, part_weights
from rl.checkpoint import last_checkpoint
from rl.config import EngineConfig, GrpoConfig, ModelConfig
from rl.judge_config import POLICY, JudgeConfig
from rl.judging import JudgePart
from rl.workers import EngineSpec, Workers
from specialists.data import Data, TaskSampler
from specialists.grpo import JudgingTasks

# Label generators: `generate(rng, **options)` gives a mapping like a line of a labels file.
LABELS: Mapping[str, Callable[..., Mapping[str, object]]] = {}


@dataclass(frozen=True)
class JudgePlan:
    """A recipe's judge with its prompt read and its rubric made."""

    config: JudgeConfig
    rules: Rules

    @property
    def frozen(self) -> str | None:
        """The model that judges in workers of its own."""
        model = self.config.model
        return model if isinstance(model, str) and model != POLICY else None

    def facts(self) -> dict[str, str]:
        """For the run's log: who judges, with which prompt."""
        model = self.config.model
        who = model if isinstance(model, str) else f"{model.name} at {model.endpoint}"
        return {"model": who, "prompt": self.rules.prompt.name, "prompt_hash": self.rules.prompt.hash}


def primary_part(rewards: Sequence[RewardSource], judge: JudgePlan | None) -> str:
    """The part that decides accuracy: the first reward, or the judge where there is none."""
    if rewards:
        return part_names(rewards)[0]
    return PART if judge is not None else ""


def judge_part(plan: JudgePlan | None, rewards: Sequence[RewardSource]) -> JudgePart | None:
    """The judge as a crew uses it."""
    if plan is None:
        return None
    config = plan.config
    weights = {**(part_weights(rewards) if rewards else {}), PART: config.weight}
    endpoint = None
    if isinstance(config.model, EndpointConfig):
        sampling = config.sampling
        endpoint = Endpoint(config.model, sampling.max_tokens, sampling.temperature, sampling.top_p, sampling.stop)
    return JudgePart(plan.rules, weights, config.sampling, config.effort, endpoint, config.max_gap)


async def open_judge(workers: Workers, plan: JudgePlan, policy: ModelConfig, engine: EngineConfig, timeout_s: float) -> None:
    """The frozen judge's model into the workers that are there for it; precision and attention are the policy's."""
    if plan.frozen is None:
        return
    local = Path(plan.frozen).expanduser()
    address = str(last_checkpoint(local).resolve()) if local.is_dir() else plan.frozen
    model = ModelConfig(
        path=address, dtype=policy.dtype, attention=policy.attention, trust_remote_code=policy.trust_remote_code
    )
    spec = EngineSpec(address, model, engine, timeout_s)
    await asyncio.gather(*(worker.open(spec) for worker in workers.judges))


def judging_tasks(plan: JudgePlan | None, data: Data, stage: GrpoConfig, seed: str, done: int) -> JudgingTasks | None:
    """The labels that a stage trains on, after `done` steps; None where there are none.

    Each step takes the same number, so the steps done say which come next. Their completions are drawn as the stage's own,
    since the loss knows one temperature, but as long as the judge's.
    """
    train = plan.config.train if plan is not None else None
    if plan is None or train is None or not train.num_prompts:
        return None
    own = plan.config.sampling
    sampling = dataclasses.replace(stage.sampling, max_tokens=own.max_tokens, stop=own.stop)
    tasks = TaskSampler([e.task for e in data.judging], f"{seed}/labels", done * train.num_prompts)
    return JudgingTasks(tasks, train.num_prompts, sampling, train.weight)
