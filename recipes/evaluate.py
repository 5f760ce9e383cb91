"""`polymath eval`: held-out accuracy of a run or a model on a recipe's tasks, with the recipe's own rewards."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from recipes.launch import read_data, start_workers, to_plan, with_tools
from recipes.lines import Progress, line
from recipes.load import LoadedRecipe
from recipes.runtime import check_engine, ray_runtime
from rewards.errors import UserError
from rl.checkpoint import last_checkpoint
from rl.collect import Crew, Evaluation, evaluate
from rl.config import ModelConfig
from rl.workers import EngineSpec, WorkerDiedError
from specialists.judging import judge_part, open_judge, primary_part
from specialists.specialist import Plan


def evaluate_model(source: str, loaded: LoadedRecipe, *, as_json: bool) -> int:
    """Prints the accuracy; the model's own settings (dtype, attention) come from the recipe."""
    plan = with_tools(to_plan(loaded))
    check_engine(plan.engine.name, plan.runtime)
    if not plan.can_score:
        raise UserError("rewards: got none; allowed: at least one, or a judge, since it decides what counts as correct")
    folder = last_checkpoint(Path(source)) if Path(source).is_dir() else Path(source)
    try:
        with ray_runtime(plan.runtime):
            result = asyncio.run(_evaluate(plan, str(folder.resolve()) if folder.exists() else source))
    except (TimeoutError, WorkerDiedError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if as_json:
        print(json.dumps({"model": str(folder), "recipe": plan.name, **result.as_dict()}, indent=2))
    else:
        _print(result, str(folder), plan.name)
    return 0


async def _evaluate(plan: Plan, folder: str) -> Evaluation:
    data = read_data(plan)
    workers = await start_workers(plan, _note)
    model = ModelConfig(
        path=folder,
        dtype=plan.model.dtype,
        attention=plan.model.attention,
        trust_remote_code=plan.model.trust_remote_code,
        chat=plan.model.chat,
    )
    spec = EngineSpec(folder, model, plan.engine, plan.runtime.timeout_s, plan.agent)
    try:
        if plan.judge is not None:
            await open_judge(workers, plan.judge, model, plan.engine, plan.runtime.timeout_s)
        primary, part = primary_part(plan.rewards, plan.judge), judge_part(plan.judge, plan.rewards)
        crew = Crew(workers.rollouts, workers.rewards, primary, plan.runtime.timeout_s, part, workers.judges)
        await crew.open(spec)
        config = plan.evaluation
        num_levels = max(1, len(plan.efforts.levels))  # each task is there once for each
        tasks, labels = data.held_out[: config.num_tasks * num_levels], data.judging_held_out[: config.num_tasks]
        return await evaluate(crew, tasks, config.sampling, config.num_samples, plan.seed, labels, plan.efforts)
    finally:
        for problem in await workers.close():
            _note("close_failed", {"error": repr(problem)})


def _note(event: str, fields: Mapping[str, Any]) -> None:
    print(line({"type": "event", "event": event, **fields}, Progress()), file=sys.stderr)


def _print(result: Evaluation, folder: str, recipe: str) -> None:
    low, high = result.interval
    table = Table(title=f"{folder} on the held-out tasks of {recipe}", show_header=False)
    table.add_row("accuracy", f"{result.accuracy:.1%}  (95 % interval {low:.1%} to {high:.1%})")
    table.add_row("tasks", str(result.num_tasks))
    table.add_row("mean completion tokens", f"{result.mean_completion_tokens:.1f}")
    solved = result.tokens_per_solved_task
    table.add_row("tokens per solved task", "none solved" if solved is None else f"{solved:.1f}")
    for kind, accuracy in result.by_kind.items():
        table.add_row(f"  {kind}", f"{accuracy:.1%}")
    for k, share in result.pass_at_k.items():
        table.add_row(f"pass@{k}", f"{share:.1%}")
    for level, found in result.by_effort.items():
        table.add_row(f"effort {level}", f"{found['accuracy']:.1%} in {found['mean_tokens']:.0f} tokens")
    for name, value in result.agent.items():
        table.add_row(f"agent: {name.replace('_', ' ')}", f"{value:.3g}")
    for name, value in result.judge.items():
        table.add_row(f"judge: {name.replace('_', ' ')}", f"{value:.3g}")
    if result.num_failed:
        table.add_row("could not be scored", str(result.num_failed))
    Console().print(table)
