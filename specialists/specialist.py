"""A specialist from its recipe's stages: data, first model, SFT stages, GRPO stages, an evaluation after each.

`Specialist.train()` is the order of things; it gets its workers and so does not know where they run.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from rewards.errors import UserError
from rewards.plugin import RewardSource
from rewards.score import part_names
from rl.chat import ChatFormat
from rl.checkpoint import Manifest, atomic_folder, last_checkpoint, point_at, write_manifest
from rl.collect import Crew, Evaluation, evaluate
from rl.config import EngineConfig, EvalConfig, GrpoConfig, ModelConfig, OptimizerConfig, RuntimeConfig
from rl.policy import init_policy
from rl.runlog import RunLog
from rl.tokenizer import fingerprint, load_tokenizer, train_tokenizer
from rl.trajectory import TrajectoryGroup
from rl.workers import EngineSpec, TrainerSpec, Workers
from specialists.config import DataConfig, SftConfig
from specialists.data import Data, TaskSampler, pick_demonstrations
from specialists.grpo import GrpoLoop, Metrics, ScoringFailedError
from specialists.sft import SftJob

START = "start"  # names the evaluation of a model that the run began with
PACKAGES = ("torch", "transformers", "trl", "ray", "datasets")


@dataclass(frozen=True)
class Plan:
    """A resolved recipe, in the terms of this package."""

    name: str
    domain: str
    seed: int
    model: ModelConfig
    data: DataConfig
    stages: Sequence[SftConfig | GrpoConfig]
    rewards: Sequence[RewardSource]
    optimizer: OptimizerConfig
    engine: EngineConfig
    runtime: RuntimeConfig
    evaluation: EvalConfig
    recipe_hash: str


class InterruptedRun(Exception):
    """The run was asked to stop; what it had learned is in its newest checkpoint."""


class Specialist:
    """One run. State: the newest checkpoint, the count of updates, the evaluations so far.

    `stopped` is asked after every step; once it says true, the run saves and raises InterruptedRun.
    """

    def __init__(self, plan: Plan, data: Data, folder: Path, log: RunLog, stopped: Callable[[], bool]) -> None:
        self.plan, self.data, self.folder, self.log, self.stopped = plan, data, folder, log, stopped
        self.primary = part_names(plan.rewards)[0] if plan.rewards else ""
        self.global_step = 0
        self.evaluations: list[tuple[str, Evaluation]] = []
        self.last: Path | None = None  # the newest checkpoint
        self.grpo_tokens, self.grpo_s = 0.0, 0.0
        self.tokenizer_fingerprint = ""
        self._workers: Workers | None = None

    @property
    def workers(self) -> Workers:
        assert self._workers is not None, "train() gets the workers"
        return self._workers

    async def train(self, workers: Workers) -> None:
        """Runs every stage; each ends with a checkpoint."""
        self._workers = workers
        counts = {"num_train": len(self.data.train), "num_held_out": len(self.data.held_out)}
        self.log.event("data", **counts, num_demonstrations=len(self.data.demonstrations), hash=self.data.hash)
        model = self._first_model()
        if self.plan.model.init is None and self.plan.rewards:  # random weights solve nothing
            await self._evaluate(await self._crew(model), START, 0)
        for stage in self.plan.stages:
            self.log.event("stage_started", stage=stage.name, kind=stage.kind, steps=stage.steps)
            start = time.perf_counter()
            if isinstance(stage, SftConfig):
                model = await self._supervised(stage, model)
            else:
                model = await self._grpo(stage, model)
            if self.stopped():
                raise InterruptedRun
            self.log.event("stage_finished", stage=stage.name, wall_s=time.perf_counter() - start)

    # ---- stages

    def _first_model(self) -> Path:
        """The folder that training starts from; an `init` model is made, with its tokenizer, as checkpoint step-0."""
        model = self.plan.model
        if model.init is None:
            assert model.path is not None, "a recipe has a path or an init"
            local = Path(model.path).expanduser()
            folder = last_checkpoint(local) if local.is_dir() else Path(model.path)
            self._adopt(load_tokenizer(folder, trust_remote_code=model.trust_remote_code))
            return folder
        texts = [m.content for d in self.data.demonstrations for m in d.task.messages]
        texts += [t for d in self.data.demonstrations for t in (d.response.reasoning or "", d.response.content)]
        texts = texts or [m.content for e in self.data.train for m in e.task.messages]
        tokenizer = train_tokenizer(texts, model.init.tokenizer_vocab_size)
        self._adopt(tokenizer)
        policy = init_policy(model.init, tokenizer, model, seed=self.plan.seed)
        self.log.event("model", num_parameters=sum(p.numel() for p in policy.model.parameters()), vocab_size=len(tokenizer))
        return self._checkpoint("init", (), policy.save)

    def _adopt(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """The tokenizer stays the same through all stages."""
        self.tokenizer_fingerprint = fingerprint(tokenizer)
        self._check_prompts(tokenizer)

    async def _supervised(self, stage: SftConfig, source: Path) -> Path:
        seed = f"{self.plan.seed}/{stage.name}"
        count = stage.steps * stage.batch_size
        target = self.folder / "checkpoints" / f".{stage.name}.work"
        job = SftJob(
            source=_address(source),
            target=str(target.resolve()),
            model=self.plan.model,
            optimizer=stage.optimizer or self.plan.optimizer,
            stage=stage,
            demonstrations=list(pick_demonstrations(self.data.train, stage.mixture, count, seed)),
            seed=self.plan.seed,
        )
        first = self.global_step

        def report(event: dict[str, Any]) -> None:
            values = dict(event)
            step = int(values.pop("step"))
            self.log.metrics(stage.name, step, first + step, values)

        self.global_step += await self.workers.trainer.run_job(job, report, self.stopped)
        checkpoint = self._checkpoint(stage.name, (source,), lambda folder: _move_into(target, folder))
        if stage.evaluate and self.plan.rewards and not self.stopped():
            await self._evaluate(await self._crew(checkpoint), stage.name, stage.steps)
        return checkpoint

    async def _grpo(self, stage: GrpoConfig, source: Path) -> Path:
        trainer = self.workers.trainer
        optimizer = stage.optimizer or self.plan.optimizer
        await trainer.open(TrainerSpec(_address(source), self.plan.model, optimizer, stage))
        crew = await self._crew(source)
        first = saved = self.global_step
        checkpoint = source

        async def save() -> None:
            nonlocal checkpoint, saved
            target = self._checkpoint_path()
            with atomic_folder(target) as temporary:
                await trainer.save(temporary)
                write_manifest(temporary, self._manifest(stage.name, (source,)))
            checkpoint, saved = self._saved(target, stage.name), self.global_step

        async def after_step(step: int, metrics: Metrics, groups: Sequence[TrajectoryGroup]) -> None:
            self.global_step = first + step
            self.grpo_tokens += metrics["num_sampled_tokens"]
            self.grpo_s += metrics["step_s"]
            self.log.metrics(stage.name, step, self.global_step, metrics)
            self._log_failures(stage.name, step, groups)
            self.log.event("sample", stage=stage.name, step=step, **_sample(groups))
            last = step == stage.steps
            if (last or _is_due(step, stage.eval_every)) and not self.stopped():
                await self._evaluate(crew, stage.name, step, final=last)
            if _is_due(step, stage.save_every):
                await save()

        tasks = self._tasks_of(stage)
        try:
            await GrpoLoop(stage, self.plan.seed, trainer, crew, tasks).run(after_step, self.stopped)
        except Exception:
            if self.global_step > saved:  # a worker or a reward failed, not the trainer: what was learned is kept
                try:
                    await save()
                except Exception as failure:  # noqa: BLE001 - the first failure is the one to raise
                    self.log.event("save_failed", stage=stage.name, error=repr(failure))
            raise
        if self.global_step > saved:
            await save()
        return checkpoint

    def _tasks_of(self, stage: GrpoConfig) -> TaskSampler:
        return TaskSampler([e.task for e in self.data.train], f"{self.plan.seed}/{stage.name}")

    def _check_prompts(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Every prompt that the run will sample from must leave room in the engine; said before anything is trained."""
        chat, limit = ChatFormat(tokenizer), self.plan.engine.max_seq_len
        asked = list(self.data.held_out[: self.plan.evaluation.num_tasks]) if self.plan.rewards else []
        for stage in self.plan.stages:
            if isinstance(stage, GrpoConfig):
                asked += [task for _, task in self._tasks_of(stage).next(stage.steps * stage.num_prompts)]
        for task in {task.content_hash: task for task in asked}.values():
            length = len(chat.prompt_ids(task.messages, task.effort))
            if length >= limit:
                raise UserError(
                    f"task {task.id}: its prompt has {length} tokens; allowed: fewer than engine.max_seq_len {limit}; raise it "
                    "or leave the task out"
                )

    async def _crew(self, model: Path) -> Crew:
        """The rollout and reward workers, with this model in every engine."""
        plan, workers = self.plan, self.workers
        spec = EngineSpec(_address(model), plan.model, plan.engine, plan.runtime.timeout_s)
        found = await asyncio.gather(*(worker.open(spec) for worker in workers.rollouts))
        self.log.event("engine", batch_invariant=found[0].batch_invariant, reason=found[0].reason)
        return Crew(workers.rollouts, workers.rewards, self.primary)

    async def _evaluate(self, crew: Crew, stage: str, step: int, *, final: bool = True) -> None:
        """Held-out accuracy; between a stage's steps on fewer tasks, and not kept for the summary."""
        config = self.plan.evaluation
        tasks = self.data.held_out[: config.num_tasks if final else config.num_tasks_during]
        result = await evaluate(crew, tasks, config.sampling, config.num_samples, self.plan.seed)
        self.log.event("evaluation", stage=stage, step=step, global_step=self.global_step, final=final, **result.as_dict())
        if result.num_failed == len(tasks) * config.num_samples:
            failed = result.groups[0].members[0].reward.error
            raise ScoringFailedError(f"evaluation after {stage}: no completion could be scored; the first failure:\n{failed}")
        if final:
            self.evaluations.append((stage, result))

    # ---- records

    def _checkpoint_path(self) -> Path:
        return self.folder / "checkpoints" / f"step-{self.global_step}"

    def _checkpoint(self, stage: str, parents: Sequence[Path], fill: Callable[[Path], None]) -> Path:
        """Writes checkpoints/step-N atomically; `fill` puts the model into the folder it is given."""
        target = self._checkpoint_path()
        with atomic_folder(target) as temporary:
            fill(temporary)
            write_manifest(temporary, self._manifest(stage, parents))
        return self._saved(target, stage)

    def _saved(self, target: Path, stage: str) -> Path:
        point_at(target.parent / "last", target.name)
        self.last = target
        self.log.event("checkpoint", stage=stage, path=str(target), global_step=self.global_step)
        return target

    def _manifest(self, stage: str, parents: Sequence[Path]) -> Manifest:
        plan = self.plan
        return Manifest(
            name=plan.name,
            stage=stage,
            step=self.global_step,
            domain=plan.domain,
            model=plan.model.path or f"init:{plan.model.init.architecture if plan.model.init else ''}",
            tokenizer_fingerprint=self.tokenizer_fingerprint,
            parents=[str(p) for p in parents],
            recipe_hash=plan.recipe_hash,
            data_hash=self.data.hash,
            seed=plan.seed,
            versions={name: importlib.metadata.version(name) for name in PACKAGES},
        )

    def run_manifest(self) -> Manifest | None:
        """The run's own manifest: its newest checkpoint's, with that checkpoint as parent."""
        if self.last is None:
            return None
        return self._manifest("run", (self.last,))

    def _log_failures(self, stage: str, step: int, groups: Sequence[TrajectoryGroup]) -> None:
        failed = [m for g in groups for m in g.members if m.reward.error is not None]
        if failed:
            self.log.event("score_failed", stage=stage, step=step, count=len(failed), first_error=failed[0].reward.error)


def _address(model: Path) -> str:
    """A folder in full, since workers may have another working folder; a hub id as it is."""
    return str(model.resolve()) if model.exists() else str(model)


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _sample(groups: Sequence[TrajectoryGroup]) -> dict[str, object]:
    """One transcript of a step for people to look at: the first member of the first group."""
    member = groups[0].members[0]
    trajectory = member.trajectory
    return {
        "task_id": trajectory.task.id,
        "prompt": trajectory.task.prompt,
        "completion": trajectory.completion,
        "answer": trajectory.task.answer,
        "reward": member.reward.score,
        "num_tokens": trajectory.num_sampled,
        "finish_reason": trajectory.finish_reason.value,
    }


def _move_into(source: Path, folder: Path) -> None:
    for path in source.iterdir():
        path.rename(folder / path.name)
    source.rmdir()
