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

from rewards.plugin import RewardSource
from rewards.score import Scorer
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
        self.primary = Scorer(plan.rewards).primary if plan.rewards else ""
        self.global_step = 0
        self.evaluations: list[tuple[str, Evaluation]] = []
        self.last: Path | None = None  # the newest checkpoint
        self.grpo_tokens, self.grpo_s = 0.0, 0.0
        self._workers: Workers | None = None

    @property
    def workers(self) -> Workers:
        assert self._workers is not None, "train() gets the workers"
        return self._workers

    async def train(self, workers: Workers) -> None:
        """Runs every stage; each ends with a checkpoint."""
        self._workers = workers
        self.log.event("data", num_train=len(self.data.train), num_held_out=len(self.data.held_out), hash=self.data.hash)
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
            return last_checkpoint(local) if local.is_dir() else Path(model.path)
        texts = [m.content for d in self.data.demonstrations for m in d.task.messages]
        texts += [t for d in self.data.demonstrations for t in (d.response.reasoning or "", d.response.content)]
        texts = texts or [m.content for e in self.data.train for m in e.task.messages]
        tokenizer = train_tokenizer(texts, model.init.tokenizer_vocab_size)
        policy = init_policy(model.init, tokenizer, model, seed=self.plan.seed)
        self.log.event("model", num_parameters=sum(p.numel() for p in policy.model.parameters()), vocab_size=len(tokenizer))
        return self._checkpoint("init", (), policy.save)

    async def _supervised(self, stage: SftConfig, source: Path) -> Path:
        seed = f"{self.plan.seed}/{stage.name}"
        count = stage.steps * stage.batch_size
        target = self.folder / "checkpoints" / f".{stage.name}.work"
        job = SftJob(
            source=str(source),
            target=str(target),
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
        optimizer = stage.optimizer or self.plan.optimizer
        trainer = self.workers.trainer
        await trainer.open(TrainerSpec(str(source), self.plan.model, optimizer, stage))
        crew = await self._crew(source)
        first, checkpoint = self.global_step, source

        async def save() -> None:
            nonlocal checkpoint
            target = self._checkpoint_path()
            with atomic_folder(target) as temporary:
                await trainer.save(temporary)
                write_manifest(temporary, self._manifest(stage.name, (source,), temporary))
            checkpoint = self._saved(target, stage.name)

        async def after_step(step: int, metrics: Metrics, groups: Sequence[TrajectoryGroup]) -> None:
            self.global_step = first + step
            self.grpo_tokens += metrics["num_sampled_tokens"]
            self.grpo_s += metrics["step_s"]
            self.log.metrics(stage.name, step, self.global_step, metrics)
            self._log_failures(stage.name, step, groups)
            self.log.event("sample", stage=stage.name, step=step, **_sample(groups))
            last = step == stage.steps
            if self.stopped():
                await save()
                return
            if last or (stage.eval_every and step % stage.eval_every == 0):
                await self._evaluate(crew, stage.name, step, final=last)
            if last or (stage.save_every and step % stage.save_every == 0):
                await save()

        tasks = TaskSampler([e.task for e in self.data.train], f"{self.plan.seed}/{stage.name}")
        try:
            await GrpoLoop(stage, self.plan.seed, trainer, crew, tasks).run(after_step, self.stopped)
        except ScoringFailedError:
            if self.global_step > first:
                await save()  # the rewards are at fault: what was learned is kept
            raise
        return checkpoint

    async def _crew(self, model: Path) -> Crew:
        """The rollout and reward workers, with this model in every engine."""
        plan, workers = self.plan, self.workers
        spec = EngineSpec(str(model), plan.model, plan.engine, plan.runtime.timeout_s)
        found = await asyncio.gather(*(worker.open(spec) for worker in workers.rollouts))
        self.log.event("engine", batch_invariant=found[0].batch_invariant, reason=found[0].reason)
        return Crew(workers.rollouts, workers.rewards, self.primary)

    async def _evaluate(self, crew: Crew, stage: str, step: int, *, final: bool = True) -> None:
        """Held-out accuracy; between a stage's steps on fewer tasks, and not kept for the summary."""
        config = self.plan.evaluation
        tasks = self.data.held_out[: config.num_tasks if final else config.num_tasks_during]
        result = await evaluate(crew, tasks, config.sampling, config.num_samples, self.plan.seed)
        self.log.event("evaluation", stage=stage, step=step, global_step=self.global_step, final=final, **result.as_dict())
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
            write_manifest(temporary, self._manifest(stage, parents, temporary))
        return self._saved(target, stage)

    def _saved(self, target: Path, stage: str) -> Path:
        point_at(target.parent / "last", target.name)
        self.last = target
        self.log.event("checkpoint", stage=stage, path=str(target), global_step=self.global_step)
        return target

    def _manifest(self, stage: str, parents: Sequence[Path], folder: Path) -> Manifest:
        plan = self.plan
        return Manifest(
            name=plan.name,
            stage=stage,
            step=self.global_step,
            domain=plan.domain,
            model=plan.model.path or f"init:{plan.model.init.architecture if plan.model.init else ''}",
            tokenizer_fingerprint=fingerprint(load_tokenizer(folder)),
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
        return self._manifest("run", (self.last,), self.last)

    def _log_failures(self, stage: str, step: int, groups: Sequence[TrajectoryGroup]) -> None:
        failed = [m for g in groups for m in g.members if m.reward.error is not None]
        if failed:
            self.log.event("score_failed", stage=stage, step=step, count=len(failed), first_error=failed[0].reward.error)


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
