"""A recipe's judge in a run: its part in the crew, its own model where it has one, and the labels that a stage trains on."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewards.endpoint import Endpoint, EndpointConfig
from rewards.errors import UserError
from rewards.judge import PART, Rules
from rewards.labels import Label, judging_task, label_from, problem_of, written
from rewards.plugin import RewardSource
from rewards.rubric import DATA_KEY, rubric_from
from rewards.score import part_names, part_weights
from rewards.task import Demonstration, Effort, Message, Role, Task, is_held_out
from rl.checkpoint import last_checkpoint
from rl.config import EngineConfig, GrpoConfig, ModelConfig
from rl.judge_config import POLICY, JudgeConfig, JudgeTrainConfig
from rl.judging import JudgePart
from rl.rng import key_of
from rl.workers import EngineSpec, Workers
from specialists.data import PATIENCE, Data, TaskSampler
from specialists.example import Example
from specialists.grpo import JudgingTasks
from specialists.labels import LABELS, file_rows, generated_rows, style_of


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

    @property
    def num_workers(self) -> int:
        """Workers that hold the judge's own model."""
        return int(self.frozen is not None)

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


def with_labels(data: Data, config: JudgeConfig, rules: Rules, seed: int) -> Data:
    """The data with the judge's labels; every task's rubric is looked at, so that mistakes show before anything runs.

    Raises:
        UserError: a label or a rubric is wrong, or a task has none.
    """
    for task in (*(e.task for e in data.train), *data.held_out):
        if DATA_KEY in task.data:
            rubric_from(task.data[DATA_KEY], f"task {task.id}")
        elif rules.rubric is None:
            raise UserError(f"task {task.id}: no rubric; write judge.rubric in the recipe, or give each task a {DATA_KEY!r}")
    train = config.train
    if train is None:
        return data
    reader = _Reader(config, train, rules, frozenset(problem_of(task.messages) for task in data.held_out))
    fresh, fixed = reader.generated(seed) if train.labels in LABELS else reader.file(seed)
    if not fixed or (train.num_prompts and not fresh):
        raise UserError(
            f"judge.train: got {len(fresh)} training and {len(fixed)} held-out labels with held_out_share "
            f"{train.held_out_share}; give more labels, of several prompts, or another share"
        )
    return dataclasses.replace(data, judging=fresh, judging_held_out=[e.task for e in fixed])


@dataclass(frozen=True)
class _Reader:
    """Makes examples of labels and splits them. A label is held out with its prompt, and where a held-out task asks that."""

    config: JudgeConfig
    train: JudgeTrainConfig
    rules: Rules
    asked: frozenset[str]  # what the policy's own held-out tasks ask

    def file(self, seed: int) -> tuple[list[Example], list[Example]]:
        """(training, held-out) examples of a file."""
        found = {e.task.content_hash: e for e in (self._example(row, where) for where, row in file_rows(self.train))}
        sides: tuple[list[Example], list[Example]] = [], []
        for example in found.values():
            sides[self._is_held_out(example)].append(example)
        fresh = sorted(sides[0], key=lambda e: key_of(seed, "order", e.task.content_hash))
        fixed = sorted(sides[1], key=lambda e: key_of(0, "order", e.task.content_hash))
        return fresh, fixed[: self.train.num_held_out]

    def generated(self, seed: int) -> tuple[list[Example], list[Example]]:
        """The same of a generator; one that runs dry gives what it has. Held-out labels are the same for every seed."""
        return self._side(seed + 1, self.train.num_labels, held_out=False), self._side(
            0, self.train.num_held_out, held_out=True
        )

    def _side(self, stream: int, count: int, *, held_out: bool) -> list[Example]:
        found, stale = dict[str, Example](), 0
        patience = PATIENCE / min(self.train.held_out_share, 1 - self.train.held_out_share)  # the rarer side comes seldom
        for where, row in generated_rows(self.train, stream):
            example = self._example(row, where)
            stale += 1
            if self._is_held_out(example) is held_out and example.task.content_hash not in found:
                found[example.task.content_hash], stale = example, 0
            if len(found) == count or stale > patience:
                break
        return list(found.values())

    def _is_held_out(self, example: Example) -> bool:
        return is_held_out(example.task, self.train.held_out_share) or example.task.problem in self.asked

    def _example(self, row: Mapping[str, object], where: str) -> Example:
        label = label_from(row, self.rules.rubric, where)
        task = judging_task(self.rules, label, self.config.effort)
        judgements = row.get("judgements") or ()
        if not isinstance(judgements, Sequence):
            raise UserError(f"{where}: judgements: got {judgements!r:.80}; allowed: a list of judgements to imitate")
        return Example(task, tuple(_demonstration(one, label, task, where) for one in judgements))


def _demonstration(judgement: Any, label: Label, task: Task, where: str) -> Demonstration:
    """A written judgement: its reasoning is thought where the judge thinks, else it comes before the verdict."""
    try:
        reasoning, style = str(judgement.get("reasoning") or ""), style_of(judgement)
        verdict = dict(judgement.get("verdict") or label.verdict)
    except (AttributeError, TypeError, ValueError):
        raise UserError(f"{where}: judgements: got {judgement!r:.80}; allowed: reasoning, verdict and style") from None
    if missing := [c.name for c in label.rubric.criteria if verdict.get(c.name) not in c.choices]:
        raise UserError(f"{where}: judgements: no choice for {missing[0]}; write a verdict that decides every criterion")
    text = written(verdict, task.data["marker"])
    if task.effort is Effort.NONE:
        if reasoning and task.data["marker"] is None:
            raise UserError(
                f"{where}: judgements: got a reasoning, which has no place where judge.effort is none and the prompt "
                "has no $verdict; allowed: no reasoning, another effort, or a prompt with $verdict"
            )
        response = Message(Role.ASSISTANT, f"{reasoning}\n{text}" if reasoning else text)
    else:
        response = Message(Role.ASSISTANT, text, reasoning)
    return Demonstration(task, response, style)
