"""A specialist from its recipe's stages: data, first model, SFT stages, GRPO stages, an evaluation after each.

`Specialist.train()` is the order of things; it gets its workers and so does not know where they run.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from rewards.config import SandboxConfig
from rewards.errors import UserError
from rewards.plugin import RewardSource
from rewards.task import effort_name, texts_of
from rl.chat import ChatFormat
from rl.checkpoint import Manifest, last_checkpoint
from rl.collect import Crew, Evaluation, accuracy, evaluate
from rl.config import CheckpointConfig, EngineConfig, EvalConfig, GrpoConfig, ModelConfig, OptimizerConfig, RuntimeConfig
from rl.effort import Efforts
from rl.engine.capabilities import DECLARED
from rl.formats.phrases import phrases
from rl.formats.wording import load_wording
from rl.judging import is_judging
from rl.policy import init_policy
from rl.rollout import AgentSpec
from rl.runlog import RunLog
from rl.tokenizer import fingerprint, load_tokenizer, train_tokenizer
from rl.trajectory import TrajectoryGroup
from rl.workers import EngineSpec, TrainerSpec, Workers, computed
from specialists.config import DataConfig, SftConfig
from specialists.data import Data, TaskSampler, pick_demonstrations
from specialists.grpo import GrpoLoop, Metrics, ScoringFailedError
from specialists.judging import JudgePlan, judge_part, judging_tasks, open_judge, primary_part
from specialists.progress import Progress
from specialists.records import Records
from specialists.sft import SftJob
from specialists.transcripts import transcript, write_transcripts

START = "start"  # names the evaluation of a model that the run began with


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
    sandbox: SandboxConfig
    agent: AgentSpec
    efforts: Efforts
    judge: JudgePlan | None
    optimizer: OptimizerConfig
    engine: EngineConfig
    runtime: RuntimeConfig
    evaluation: EvalConfig
    checkpoints: CheckpointConfig
    recipe_hash: str

    @property
    def can_score(self) -> bool:
        return bool(self.rewards) or self.judge is not None


class InterruptedRun(Exception):
    """The run was asked to stop; what it had learned is in its newest checkpoint."""


class Specialist:
    """One run. `progress` is its state; with `resumed_from`, a checkpoint of this run, it goes on from there.

    `stopped` is asked after every step; once it says true, the run saves and raises InterruptedRun.
    """

    def __init__(
        self,
        plan: Plan,
        data: Data,
        folder: Path,
        log: RunLog,
        stopped: Callable[[], bool],
        resumed_from: Path | None = None,
    ) -> None:
        self.plan, self.data, self.folder, self.log, self.stopped = plan, data, folder, log, stopped
        self.primary = primary_part(plan.rewards, plan.judge)
        self.resumed_from = resumed_from
        self.progress = Progress.read(resumed_from) if resumed_from is not None else Progress()
        self.records = Records(folder, log, plan.checkpoints, _manifest(plan, data))
        self.last_evaluation: Evaluation | None = None
        self._workers: Workers | None = None

    @property
    def workers(self) -> Workers:
        assert self._workers is not None, "train() gets the workers"
        return self._workers

    async def train(self, workers: Workers) -> None:
        """Runs every stage that is not done; each ends with a checkpoint."""
        self._workers, progress, stages = workers, self.progress, self.plan.stages
        if self.plan.judge is not None:
            self.log.event("judge", **self.plan.judge.facts())
            await open_judge(workers, self.plan.judge, self.plan.model, self.plan.engine, self.plan.runtime.timeout_s)
        model = await self._begin() if self.resumed_from is None else await self._go_on(self.resumed_from)
        for index in range(progress.stage, len(stages)):
            stage, start = stages[index], time.perf_counter()
            if index > progress.stage or not progress.source:
                progress.enter(index, _address(model))
            if progress.step == 0:
                self.log.event("stage_started", stage=stage.name, kind=stage.kind, steps=stage.steps)
            model = await (self._supervised(stage) if isinstance(stage, SftConfig) else self._grpo(stage))
            if self.stopped():
                raise InterruptedRun
            self.log.event("stage_finished", stage=stage.name, wall_s=time.perf_counter() - start)

    async def _begin(self) -> Path:
        counts = {"num_train": len(self.data.train), "num_held_out": len(self.data.held_out)}
        self.log.event("data", **counts, num_demonstrations=len(self.data.demonstrations), hash=self.data.hash)
        model = await self._first_model()
        if self.plan.model.init is None and self.plan.can_score:  # random weights solve nothing
            await self._evaluate(await self._crew(model), START, 0)
        else:
            await self._try_engine(model)
        return model

    async def _try_engine(self, model: Path) -> None:
        """An engine that refuses the model says so before anything is trained."""
        if self.plan.can_score and not DECLARED[self.plan.engine.name].any_model:
            await self._crew(model)

    async def _go_on(self, checkpoint: Path) -> Path:
        """Takes the run up where the checkpoint left it, in the middle of a stage or at its end."""
        progress = self.progress
        stage = self.plan.stages[progress.stage]
        moved = self.folder / "checkpoints" / Path(progress.source).name
        if not Path(progress.source).exists() and moved.exists():  # the run's folder has another place now
            progress.source = _address(moved)
        self._adopt(load_tokenizer(checkpoint, trust_remote_code=self.plan.model.trust_remote_code))
        self.records.adopt(checkpoint, stage.name if progress.global_step else "init", progress)
        self.log.event(
            "resumed",
            stage=stage.name,
            kind=stage.kind,
            step=progress.step,
            steps=stage.steps,
            global_step=progress.global_step,
        )
        if isinstance(stage, SftConfig):  # others open it at once
            await self._try_engine(checkpoint)
        return checkpoint

    # ---- stages

    async def _first_model(self) -> Path:
        """The folder that training starts from; an `init` model is made, with its tokenizer, as checkpoint step-0."""
        model = self.plan.model
        if model.init is None:
            assert model.path is not None, "a recipe has a path or an init"
            local = Path(model.path).expanduser()
            folder = last_checkpoint(local) if local.is_dir() else Path(model.path)
            self._adopt(load_tokenizer(folder, trust_remote_code=model.trust_remote_code))
            return folder
        shown = [m for d in self.data.demonstrations for m in (*d.task.messages, *d.messages)]
        shown = shown or [m for e in self.data.train for m in e.task.messages]
        texts = [text for message in shown for text in texts_of(message)]
        tools = self.plan.agent.specs
        wording = load_wording(None if model.chat.wording is None else Path(model.chat.wording))
        if tools:  # what every prompt says of them is read as often as there are prompts
            texts += [wording.tool_section(tools)] * len(self.data.train)
        tokenizer = train_tokenizer(texts, model.init.tokenizer_vocab_size, phrases(tools), wording)
        self._adopt(tokenizer)
        init = model.init
        timeout_s = self.plan.runtime.timeout_s
        policy = await computed(lambda: init_policy(init, tokenizer, model, seed=self.plan.seed), timeout_s, "the first model")
        self.log.event("model", num_parameters=sum(p.numel() for p in policy.model.parameters()), vocab_size=len(tokenizer))
        with self.records.checkpoint(self.progress, "init", ()) as target:
            policy.save(target)
        return self._last_checkpoint()

    def _adopt(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """The tokenizer stays the same through all stages."""
        self.records.manifest = dataclasses.replace(self.records.manifest, tokenizer_fingerprint=fingerprint(tokenizer))
        self._check_prompts(tokenizer)

    async def _supervised(self, stage: SftConfig) -> Path:
        """Trains what is left of the stage; the job's model folders become checkpoints as it reports them."""
        progress = self.progress
        first = progress.global_step - progress.step
        if progress.step < stage.steps:
            count, examples = stage.steps * stage.batch_size, [*self.data.train, *self.data.judging]
            job = SftJob(
                source=progress.source,
                target=str((self.folder / "checkpoints" / f".{stage.name}").resolve()),
                model=self.plan.model,
                optimizer=stage.optimizer or self.plan.optimizer,
                stage=stage,
                demonstrations=list(pick_demonstrations(examples, stage.mixture, count, self._seed(stage))),
                seed=self.plan.seed,
                agent=self.plan.agent,
                resume_from=self._resume_from(),
                first_step=progress.step,
            )

            def report(event: dict[str, Any]) -> None:
                values = dict(event)
                step = int(values.pop("step"))
                progress.step, progress.global_step = step, first + step
                if work := values.pop("saved", None):
                    with self.records.checkpoint(progress, stage.name, (progress.source,)) as folder:
                        _move(Path(work), folder)
                else:
                    self.log.metrics(stage.name, step, first + step, values)

            await self.workers.trainer.run_job(job, report, self.stopped)
        checkpoint = self._last_checkpoint()
        if stage.evaluate and self.plan.can_score and not self.stopped():
            await self._evaluate(await self._crew(checkpoint), stage.name, stage.steps)
        return checkpoint

    async def _grpo(self, stage: GrpoConfig) -> Path:
        progress, trainer = self.progress, self.workers.trainer
        if progress.step == stage.steps:
            if progress.evaluated_step < stage.steps:  # stopped after its last step
                await self._evaluate(await self._crew(self._last_checkpoint()), stage.name, stage.steps)
            return self._last_checkpoint()
        optimizer = stage.optimizer or self.plan.optimizer
        resume_from = self._resume_from()
        timeout_s = self.plan.runtime.timeout_s
        facts = await trainer.open(TrainerSpec(progress.source, self.plan.model, optimizer, stage, timeout_s, resume_from))
        self.log.event("trainer", padded_because=facts.padded_because, products=facts.products)
        crew = await self._crew(Path(resume_from or progress.source))
        if resume_from is not None:
            await crew.pull(await trainer.publish())  # the same weights, under their version
        first, saved = progress.global_step - progress.step, progress.global_step

        async def save() -> None:
            nonlocal saved
            with self.records.checkpoint(progress, stage.name, (progress.source,)) as folder:
                await trainer.save(folder, with_state=progress.step < stage.steps)
            saved = progress.global_step

        async def after_step(step: int, cursor: int, metrics: Metrics, groups: Sequence[TrajectoryGroup]) -> None:
            progress.step, progress.global_step, progress.cursor = step, first + step, cursor
            progress.grpo_tokens += metrics["num_sampled_tokens"]
            progress.grpo_s += metrics["step_s"]
            self.log.metrics(stage.name, step, progress.global_step, metrics)
            self._log_failures(stage.name, step, groups)
            self.log.event("sample", stage=stage.name, step=step, **transcript(groups[0].members[0]))
            is_best = await evaluate_if_due()
            if is_best or _is_due(step, stage.save_every):
                await save()

        async def evaluate_if_due() -> bool:
            last = progress.step == stage.steps
            if not (last or _is_due(progress.step, stage.eval_every)) or self.stopped():
                return False
            async with loop.idle_engines():
                return await self._evaluate(crew, stage.name, progress.step, final=last)

        tasks = self._tasks_of(stage, progress.cursor)
        judging = judging_tasks(self.plan.judge, self.data, stage, self._seed(stage), progress.step)
        loop = GrpoLoop(stage, self.plan.seed, trainer, crew, tasks, progress.step, judging, self.plan.efforts)
        if progress.evaluated_step < progress.step:  # stopped before an evaluation that was due
            await evaluate_if_due()
        try:
            await loop.run(after_step, self.stopped)
        except Exception:
            # What was learned is kept, if the trainer is known to be where the log is.
            if progress.global_step > saved and loop.trained_step == progress.step:
                try:
                    await save()
                except Exception as failure:  # noqa: BLE001 - the first failure is the one to raise
                    self.log.event("save_failed", stage=stage.name, error=repr(failure))
            raise
        if progress.global_step > saved:
            await save()
        return self._last_checkpoint()

    def _resume_from(self) -> str | None:
        """The checkpoint that holds the state of the running stage; None at the stage's beginning."""
        return _address(self._last_checkpoint()) if self.progress.step else None

    def _last_checkpoint(self) -> Path:
        assert self.records.last is not None, "a stage ends with a checkpoint"
        return self.records.last

    def _seed(self, stage: SftConfig | GrpoConfig) -> str:
        return f"{self.plan.seed}/{stage.name}"

    def _tasks_of(self, stage: GrpoConfig, cursor: int = 0) -> TaskSampler:
        return TaskSampler([e.task for e in self.data.train], self._seed(stage), cursor)

    def _check_prompts(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Every prompt that the run will sample from must leave room in the engine; said before anything is trained."""
        plain = ChatFormat(tokenizer, config=self.plan.model.chat)
        with_tools = plain.with_tools(self.plan.agent.specs, self.plan.agent.thinking)
        num_asked = self.plan.evaluation.num_tasks * max(1, len(self.plan.efforts.levels))
        asked = list(self.data.held_out[:num_asked]) if self.plan.can_score else []
        asked += [*(e.task for e in self.data.judging), *self.data.judging_held_out]
        limit = self.plan.engine.max_seq_len
        for stage in self.plan.stages:
            if isinstance(stage, GrpoConfig):
                count = stage.steps * stage.num_prompts * (1 + stage.dynamic_sampling_rounds)
                asked += [task for _, task in self._tasks_of(stage).next(count)]
        with_tools.check_keeps(list(dict.fromkeys(task.effort for task in asked if not is_judging(task))))
        for task in {task.content_hash: task for task in asked}.values():
            length = len((plain if is_judging(task) else with_tools).prompt_ids(task.messages, task.effort))
            window = self.plan.efforts.window(task.effort)
            name, most = ("engine.max_seq_len", limit) if window is None or limit <= window else ("its effort's window", window)
            if length >= most:
                raise UserError(
                    f"task {task.id}: its prompt has {length} tokens; allowed: fewer than {name} {most}; raise it or leave the "
                    "task out"
                )

    async def _crew(self, model: Path) -> Crew:
        """The rollout and reward workers, with this model in every engine."""
        plan, workers = self.plan, self.workers
        spec = EngineSpec(_address(model), plan.model, plan.engine, plan.runtime.timeout_s, plan.agent)
        part = judge_part(plan.judge, plan.rewards)
        crew = Crew(workers.rollouts, workers.rewards, self.primary, plan.runtime.timeout_s, part, workers.judges)
        found = await crew.open(spec)
        self.log.event("engine", name=plan.engine.name, batch_invariant=found.batch_invariant, reason=found.reason)
        return crew

    async def _evaluate(self, crew: Crew, stage: str, step: int, *, final: bool = True) -> bool:
        """Held-out accuracy; between a stage's steps on fewer tasks, and not kept for the summary. True for a new best."""
        progress, config = self.progress, self.plan.evaluation
        limit = config.num_tasks if final else config.num_tasks_during
        num_levels = max(1, len(self.plan.efforts.levels))  # each task is there once for each
        tasks, labels = self.data.held_out[: limit * num_levels], self.data.judging_held_out[:limit]
        result = await evaluate(crew, tasks, config.sampling, config.num_samples, self.plan.seed, labels, self.plan.efforts)
        self.log.event("evaluation", stage=stage, step=step, global_step=progress.global_step, final=final, **result.as_dict())
        if result.num_failed == len(tasks) * config.num_samples:
            failed = result.groups[0].members[0].reward.error
            raise ScoringFailedError(f"evaluation after {stage}: no completion could be scored; the first failure:\n{failed}")
        self.last_evaluation, progress.evaluated_step = result, step
        if final:
            progress.evaluations.append({"stage": stage, **result.as_dict()})
            write_transcripts(self.folder, stage, progress.global_step, result, self.primary)
        if stage == START:
            return False
        return self._rank(accuracy(result.groups[: config.num_tasks_during * num_levels], self.primary))

    def _rank(self, accuracy: float) -> bool:
        """Places the model among the stage's best so far; among equals the newer one comes first. True when it leads.

        All are measured on the same tasks, those of the evaluations between steps.
        """
        progress = self.progress
        entry = (accuracy, progress.global_step)
        progress.best = sorted([*progress.best, entry], reverse=True)[: self.plan.checkpoints.keep_best]
        self.records.tidy(progress)
        return bool(progress.best) and progress.best[0] == entry

    # ---- records

    def _log_failures(self, stage: str, step: int, groups: Sequence[TrajectoryGroup]) -> None:
        failed = [m for g in groups for m in g.members if m.reward.error is not None]
        if failed:
            self.log.event("score_failed", stage=stage, step=step, count=len(failed), first_error=failed[0].reward.error)


def _address(model: Path) -> str:
    """A folder in full, since workers may have another working folder; a hub id as it is."""
    return str(model.resolve()) if model.exists() else str(model)


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _move(source: Path, folder: Path) -> None:
    for path in source.iterdir():
        path.rename(folder / path.name)
    source.rmdir()


def _manifest(plan: Plan, data: Data) -> Manifest:
    """What all manifests of the run have in common."""
    return Manifest(
        name=plan.name,
        stage="",
        step=0,
        domain=plan.domain,
        effort=",".join(map(effort_name, plan.efforts.levels)) or Manifest.effort,
        thinking=plan.agent.thinking.mode,
        tools=tuple(spec.name for spec in plan.agent.specs),
        model=plan.model.path or f"init:{plan.model.init.architecture if plan.model.init else ''}",
        recipe_hash=plan.recipe_hash,
        data_hash=data.hash,
        seed=plan.seed,
    )
