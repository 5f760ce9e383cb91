"""Runs a recipe, or resumes a run: the folder, the runtime, training, a summary. Called by `polymath run` and `resume`.

Where Ray comes from is in `recipes/runtime.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from recipes.closing import print_closing
from recipes.load import LoadedRecipe, recipe_hash, resolved_yaml
from recipes.report import write_report
from recipes.report.mismatch import mismatch
from recipes.report.run import read_lines
from recipes.resume import Stopped, check_same_inputs, sole_owner
from recipes.runs import RUNS
from recipes.runtime import check_engine, ray_runtime
from recipes.view import open_view
from rewards.errors import UserError
from rewards.isolation import check_rewards
from rewards.judge import Rules
from rewards.judge_prompt import read_prompt
from rewards.plugin import read_source
from rewards.rubric import Rubric
from rewards.score import is_correct
from rl.checkpoint import point_at, remove_leftovers, write_manifest, write_text
from rl.compute import set_num_threads
from rl.config import GrpoConfig, RuntimeConfig
from rl.effort import Efforts
from rl.engine.protocol import WeightsError
from rl.formats.wording import load_wording
from rl.rollout import AgentSpec
from rl.runlog import Row, RunLog, cut_back, last_attempt
from rl.scoring import RewardWorker
from rl.tools.source import read_sources
from rl.workers import InlineRewards, InlineRollouts, InlineTrainer, WorkerDiedError, Workers, in_thread
from specialists.config import SftConfig
from specialists.data import Data, load_data
from specialists.grpo import JudgeGapError, ScoringFailedError
from specialists.judging import JudgePlan, with_labels
from specialists.progress import Progress
from specialists.specialist import InterruptedRun, Plan, Specialist


def run_recipe(loaded: LoadedRecipe, *, name: str | None, as_json: bool) -> int:
    """Trains what the recipe says; returns the exit code."""
    plan = with_tools(to_plan(loaded))
    check_engine(plan.engine.name, plan.runtime)
    data = read_data(plan)  # before there is a folder: most mistakes show here
    folder = new_run_folder(name or plan.name)
    with sole_owner(folder):
        write_text(folder / "recipe.yaml", resolved_yaml(loaded.recipe))
        return _run(Start(plan, data, folder, attempt=0), as_json=as_json)


def resume_run(stopped: Stopped, *, as_json: bool) -> int:
    """Goes on with a run from its newest checkpoint; what it had logged after that is cut away. Returns the exit code."""
    folder, checkpoint = stopped.folder, stopped.checkpoint
    plan = with_tools(to_plan(stopped.loaded))
    check_engine(plan.engine.name, plan.runtime)
    data = read_data(plan)
    if checkpoint is not None:
        check_same_inputs(checkpoint, recipe_hash=plan.recipe_hash, data_hash=data.hash)
    write_text(folder / "recipe.yaml", resolved_yaml(stopped.loaded.recipe))
    remove_leftovers(folder)
    attempt = max(1, last_attempt(folder) + 1)
    cut_back(folder, Progress.read(checkpoint).log if checkpoint is not None else {})
    return _run(Start(plan, data, folder, attempt, checkpoint), as_json=as_json)


@dataclass(frozen=True)
class Start:
    """A run that is about to start, for the first time (attempt 0) or again."""

    plan: Plan
    data: Data
    folder: Path
    attempt: int
    checkpoint: Path | None = None  # where to go on from


def _run(start: Start, *, as_json: bool) -> int:
    plan, folder = start.plan, start.folder
    console, stop = Console(stderr=as_json), threading.Event()
    before = Progress.read(start.checkpoint) if start.checkpoint is not None else Progress()
    with open_view(console) as view, contextlib.closing(
        RunLog(
            folder, [view, _Linker(folder)], attempt=start.attempt, first_step=before.global_step, before_s=before.elapsed_s
        )
    ) as log:  # fmt: skip
        log.event(
            "run_started", name=folder.name, folder=str(folder), seed=plan.seed, runtime=plan.runtime.mode,
            stages=[_stage_facts(stage) for stage in plan.stages], threads=num_threads(plan.runtime), workers=_workers(plan),
        )  # fmt: skip
        specialist = Specialist(plan, start.data, folder, log, stop.is_set, start.checkpoint)
        code = 1
        try:
            with ray_runtime(plan.runtime):
                code = _train(specialist, log, stop)
        finally:
            summary = _summary(specialist, code, log.elapsed_s())
            log.summary(summary)
            if manifest := specialist.records.run_manifest():
                write_manifest(folder, manifest)
            if code == 0:
                log.event("run_finished", wall_s=summary["wall_s"])
            report = _report(folder, log)
    if as_json:
        print(json.dumps({"folder": str(folder), **summary}, indent=2, default=float))
    elif code == 0:
        _close(console, specialist, summary, report)
    return code


def _stage_facts(stage: SftConfig | GrpoConfig) -> dict[str, Any]:
    loss = {"loss": stage.loss.name} if isinstance(stage, GrpoConfig) else {}
    return {"name": stage.name, "kind": stage.kind, "steps": stage.steps, **loss}


def _workers(plan: Plan) -> dict[str, int]:
    config = plan.runtime
    return {
        "trainers": config.num_trainers,
        "rollout workers": config.num_rollout_workers,
        "reward workers": config.num_reward_workers if plan.rewards else 0,
        **({"judge workers": plan.judge.num_workers} if plan.judge is not None and plan.judge.num_workers else {}),
    }


def to_plan(loaded: LoadedRecipe) -> Plan:
    """The recipe in the terms of `specialists`, with the rewards' sources read."""
    recipe = loaded.recipe
    search = [loaded.path.parent, Path.cwd()]
    rewards = [read_source(reward, search) for reward in recipe.rewards]
    judge = None
    if recipe.judge is not None:
        rubric = Rubric(recipe.judge.rubric) if recipe.judge.rubric else None
        rules = Rules(read_prompt(recipe.judge.prompt, search), rubric, recipe.judge.num_samples)
        judge = JudgePlan(recipe.judge, rules)
    agent = agent_of(loaded)
    read = [*(reward.text or "" for reward in rewards), *([judge.rules.prompt.text] if judge else [])]
    read += [source.text or "" for source in agent.tools]
    read += [str(load_wording(Path(recipe.model.chat.wording)))] if recipe.model.chat.wording else []
    texts = "\n".join([recipe_hash(recipe), *read])  # an edited reward is another recipe
    return Plan(
        name=str(recipe.name),
        domain=recipe.domain,
        seed=recipe.seed,
        model=recipe.model,
        data=recipe.data,
        stages=recipe.stages,
        rewards=rewards,
        sandbox=recipe.sandbox,
        agent=agent,
        efforts=Efforts(recipe.efforts),
        judge=judge,
        optimizer=recipe.optimizer,
        engine=recipe.engine,
        runtime=recipe.runtime,
        evaluation=recipe.evaluation,
        checkpoints=recipe.checkpoints,
        recipe_hash=hashlib.sha256(texts.encode()).hexdigest()[:32],
    )


def agent_of(loaded: LoadedRecipe) -> AgentSpec:
    """What rollouts are beside their model, with the tools' sources read; nothing of them runs yet."""
    recipe = loaded.recipe
    sources = read_sources(recipe.tools, [loaded.path.parent, Path.cwd()])
    return AgentSpec(recipe.thinking, sources, (), recipe.sandbox, recipe.rollout)


def with_tools(plan: Plan) -> Plan:
    """The plan with what the model is told of its tools."""
    return dataclasses.replace(plan, agent=plan.agent.with_specs(try_box=plan.runtime.address is None))


def read_data(plan: Plan) -> Data:
    """The recipe's tasks and its judge's labels; raises a UserError where they lack what a reward asks for."""
    data = load_data(plan.data, domain=plan.domain, seed=plan.seed, levels=plan.efforts.levels)
    tasks = [*(example.task for example in data.train), *data.held_out]
    check_rewards(plan.rewards, plan.sandbox, tasks, try_box=plan.runtime.address is None)
    return data if plan.judge is None else with_labels(data, plan.judge.config, plan.judge.rules, plan.seed)


def num_threads(config: RuntimeConfig) -> int:
    return config.num_threads or len(os.sched_getaffinity(0))


async def start_workers(plan: Plan, note: Callable[[str, Mapping[str, Any]], None]) -> Workers:
    """The workers that the plan's runtime asks for; Ray is up already where it is needed. `note`: see rl/cluster.py."""
    config, threads = plan.runtime, num_threads(plan.runtime)
    num_rewards = config.num_reward_workers if plan.rewards else 0
    num_judges = 0 if plan.judge is None else plan.judge.num_workers
    set_num_threads(threads)
    if config.mode == "ray":
        from rl.cluster import Cluster

        return await Cluster(config, threads, note).start(plan.rewards, plan.sandbox, num_judges)

    def make() -> RewardWorker:
        return RewardWorker(plan.rewards, plan.sandbox, max(1, len(os.sched_getaffinity(0)) // num_rewards))

    return Workers(
        InlineTrainer(config.timeout_s),
        [InlineRollouts(config.timeout_s) for _ in range(config.num_rollout_workers)],
        [InlineRewards(await in_thread(make, None, "the rewards to load"), config.timeout_s) for _ in range(num_rewards)],
        [InlineRollouts(config.timeout_s) for _ in range(num_judges)],
    )


def new_run_folder(name: str) -> Path:
    """runs/NAME-N with the next free N; an earlier run is never touched."""
    try:
        RUNS.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"{RUNS.absolute()}: runs are kept there, and it cannot be made a folder: {error.strerror}") from error
    taken = [int(p.name.rpartition("-")[2]) for p in RUNS.glob(f"{name}-*") if p.name[len(name) + 1 :].isdigit()]
    for number in range(max(taken, default=0) + 1, max(taken, default=0) + 100):
        folder = RUNS / f"{name}-{number}"
        try:
            folder.mkdir()
        except FileExistsError:
            continue  # another run took the number just now
        return folder
    raise UserError(f"{RUNS}/{name}: no free run number; remove old runs")


class _Linker:
    """Points runs/NAME at a run once it has trained something, so that the name never means an untrained model."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, row: Row) -> None:
        link = self.folder.with_name(self.folder.name.rpartition("-")[0])
        if row.get("event") == "checkpoint" and row["global_step"] > 0 and (link.is_symlink() or not link.exists()):
            point_at(link, self.folder.name)


def _train(specialist: Specialist, log: RunLog, stop: threading.Event) -> int:
    try:
        asyncio.run(_train_with_workers(specialist, log, stop))
    except (InterruptedRun, KeyboardInterrupt, asyncio.CancelledError):
        log.event("interrupted", **_what_next(specialist))
        return 130
    except (ScoringFailedError, JudgeGapError, TimeoutError, FloatingPointError, WeightsError, WorkerDiedError) as error:
        log.event("failed", error=str(error), **_what_next(specialist))
        return 1
    except Exception as error:  # the user's mistake, or ours: `main` tells which
        theirs = isinstance(error, UserError)
        in_vain = theirs and not specialist.progress.global_step  # it would come to the same, and nothing would be lost
        what_next = {"kept": None, "resume": None} if in_vain else _what_next(specialist)
        log.event("failed", error=str(error) if theirs else repr(error), **what_next)
        raise
    return 0


def _what_next(specialist: Specialist) -> dict[str, str | None]:
    kept = specialist.records.last
    return {"kept": str(kept) if kept else None, "resume": f"{_command('polymath')} resume {specialist.folder}"}


async def _train_with_workers(specialist: Specialist, log: RunLog, stop: threading.Event) -> None:
    """The first Ctrl-C lets the step end and saves; the second ends at once and keeps the newest checkpoint."""
    task = asyncio.current_task()
    assert task is not None, "runs in a task"

    def interrupt() -> None:
        if stop.is_set():
            task.cancel()
            log.event("stopping", reason="asked again", hint="stopping at once; what came after the last checkpoint is lost")
            return
        stop.set()
        log.event("stopping", reason="asked to stop", hint="the step ends and is saved; Ctrl-C again stops at once")

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, interrupt)
    log.event("workers_starting", runtime=specialist.plan.runtime.mode)

    def note(event: str, fields: Mapping[str, Any]) -> None:
        log.event(event, **fields)

    workers = await start_workers(specialist.plan, note)
    try:
        await specialist.train(workers)
    finally:
        for problem in await workers.close():  # why the run ended matters more than these
            log.event("close_failed", error=repr(problem))


def _summary(specialist: Specialist, code: int, wall_s: float) -> dict[str, Any]:
    """`eval.before` is the last evaluation before the first GRPO stage, `eval.after` the last one of all."""
    progress = specialist.progress
    rl_stages = {s.name for s in specialist.plan.stages if isinstance(s, GrpoConfig)}
    supervised = [e for e in progress.evaluations if e["stage"] not in rl_stages]
    reinforced = [e for e in progress.evaluations if e["stage"] in rl_stages]
    last = specialist.records.last
    rows = read_lines(specialist.folder / "metrics.jsonl", [])
    return {
        "status": {0: "done", 1: "failed", 130: "interrupted"}[code],
        "seed": specialist.plan.seed,
        "eval": {
            "before": _figures(supervised[-1]) if supervised else None,
            "after": _figures(reinforced[-1]) if reinforced else None,
            "stages": progress.evaluations,
        },
        "checkpoint": str(last) if last else None,
        "mismatch": mismatch(rows, specialist.plan.engine.name, specialist.plan.model.dtype),
        "wall_s": wall_s,
        "tokens_per_s": progress.grpo_tokens / progress.grpo_s if progress.grpo_s else None,
    }


def _figures(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    found = {key: evaluation[key] for key in ("accuracy", "num_tasks", "mean_completion_tokens")}
    return {**found, **({"judge": evaluation["judge"]} if "judge" in evaluation else {})}


def _report(folder: Path, log: RunLog) -> Path | None:
    """Writes the run's page; a run is not worse for a page that could not be written."""
    try:
        path = write_report(folder)
    except Exception as error:  # noqa: BLE001 - whatever it is, the run's outcome stands
        log.event("report_failed", error=repr(error))
        return None
    log.event("report", path=str(path))
    return path


def _close(console: Console, specialist: Specialist, summary: dict[str, Any], report: Path | None) -> None:
    folder = specialist.folder
    rows = [json.loads(line) for name in ("metrics", "events") for line in (folder / f"{name}.jsonl").read_text().splitlines()]
    samples = []
    if specialist.last_evaluation is not None:
        members = [m for g in specialist.last_evaluation.groups for m in g.members]
        for correct in (True, False):
            found = next((m for m in members if is_correct(m.reward, specialist.primary) is correct), None)
            if found is not None:
                task = found.trajectory.task
                samples.append(
                    {
                        "prompt": task.prompt,
                        "completion": found.trajectory.completion,
                        "answer": task.answer,
                        "correct": correct,
                    }
                )
    link = RUNS / folder.name.rpartition("-")[0]
    print_closing(
        console,
        folder=folder,
        stages=[(e["stage"], e) for e in specialist.progress.evaluations],
        metrics=rows,
        samples=samples,
        wall_s=summary["wall_s"],
        tokens_per_s=summary["tokens_per_s"],
        report=report,
        next_commands=[
            f"{_command('polymath')} chat {link}",
            f"{_command('polymath')} eval {link} {folder / 'recipe.yaml'} evaluation.num_samples=4",
            f"{_command('tensorboard')} --logdir {folder / 'tensorboard'}",
        ],
    )


def _command(name: str) -> str:
    """How a person calls a command of this environment from the working folder."""
    beside = Path(sys.executable).with_name(name)
    return name if shutil.which(name) or not beside.exists() else os.path.relpath(beside)
