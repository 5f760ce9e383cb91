"""`polymath reward`: score transcripts with one reward function, and audit a recipe's rewards before any training."""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.console import Console
from rich.table import Table

from recipes.load import LoadedRecipe
from recipes.text import local, safe, shorten
from rewards.config import RewardConfig
from rewards.errors import UserError
from rewards.isolation import IsolatedScorer, check_rewards
from rewards.plugin import read_source
from rewards.result import RewardResult

if TYPE_CHECKING:
    from recipes.reward_samples import Sample

TEXT_WIDTH = 44  # characters of a completion that a table shows
Checked = Callable[[str, Sequence[str]], LoadedRecipe]


def add_parser(parser: argparse.ArgumentParser) -> None:
    """The arguments of `polymath reward`."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)

    def action(name: str, text: str) -> argparse.ArgumentParser:
        made = actions.add_parser(name, help=text, description=text, allow_abbrev=False)
        made.add_argument("--json", action="store_true", help="print one JSON document for a machine to read")
        return made

    trial = action("try", "score sample completions, or those that a run recorded, with one reward")
    trial.add_argument("use", metavar="REWARD", help="path/to/file.py:function or package.module:function")
    where = trial.add_mutually_exclusive_group()
    where.add_argument("--run", metavar="RUN", help="the transcripts that this run recorded")
    where.add_argument("--recipe", default="math", help="tasks of this recipe, with their demonstrations (default: math)")
    trial.add_argument("--completion", metavar="TEXT", help="this text as the completion of every task")
    trial.add_argument("--num", type=int, default=8, help="completions to score (default: 8)")
    trial.add_argument("--timeout-s", type=float, default=RewardConfig.timeout_s, help="of one completion (default: 30)")
    trial.add_argument("options", nargs="*", default=(), metavar="key=value", help="options of the reward")

    check = action("audit", "gold answers must score 1; empty, random and tampering ones 0")
    check.add_argument("recipe", metavar="RECIPE", help="a YAML file, or a shipped recipe's name")
    check.add_argument("overrides", nargs="*", default=(), metavar="key=value", help="settings over the recipe's")
    check.add_argument("--num-tasks", type=int, help="gold answers of so many tasks (default: all)")
    check.add_argument("--num-attacked", type=int, default=4, help="tasks that every attack is tried on (default: 4)")


def reward(arguments: argparse.Namespace, checked: Checked) -> int:
    """Run one action; `checked` loads a recipe and finds what is wrong with it.

    Raises:
        UserError: what was asked is wrong.
    """
    for name in ("num", "num_tasks", "num_attacked"):
        if (value := vars(arguments).get(name)) is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')}: got {value}; allowed: a whole number more than 0")
    if arguments.action == "audit":
        from recipes.reward_audit import audit  # late, as below: other commands need no data

        return audit(checked(arguments.recipe, arguments.overrides), arguments)
    return _try(arguments, checked)


@dataclass(frozen=True)
class Scored:
    """A sample with its score, and the seconds that it took by itself."""

    sample: Sample
    result: RewardResult
    seconds: float


def _try(arguments: argparse.Namespace, checked: Checked) -> int:
    from recipes.reward_samples import of_recipe, of_run

    options = dict(_option(word) for word in arguments.options)
    if not arguments.timeout_s > 0:
        raise UserError(f"--timeout-s: got {arguments.timeout_s}; allowed: seconds, more than 0")
    config = RewardConfig(use=arguments.use, timeout_s=arguments.timeout_s, options=options)
    source = read_source(config, [Path.cwd()])
    if arguments.run is not None:
        samples, sandbox = of_run(arguments.run, arguments.num)
    else:
        loaded = checked(arguments.recipe, ())
        samples, sandbox = of_recipe(loaded, arguments.num), loaded.recipe.sandbox
    if arguments.completion is not None:
        samples = [sample.saying(arguments.completion) for sample in samples]
    check_rewards([source], sandbox, [sample.task for sample in samples], try_box=True)
    with contextlib.closing(IsolatedScorer([source], sandbox)) as scorer:
        scored = [_timed(scorer, sample) for sample in samples]
    if arguments.json:
        print(json.dumps([_as_dict(one) for one in scored], indent=2))
    else:
        _print(scored, arguments.use)
    return 1 if any(one.result.error for one in scored) else 0


def _timed(scorer: IsolatedScorer, sample: Sample) -> Scored:
    start = time.perf_counter()
    (result,) = scorer.score([(sample.task, sample.transcript)])
    return Scored(sample, result, time.perf_counter() - start)


def _option(word: str) -> tuple[str, Any]:
    name, equals, text = word.partition("=")
    if not equals or not name.isidentifier():
        raise UserError(f"reward try: got {word!r}; allowed: an option as key=value")
    try:
        return name, yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"reward try: {name}: not valid YAML: {error}") from None


def _as_dict(one: Scored) -> dict[str, Any]:
    result = one.result
    return {
        "task_id": one.sample.task.id,
        "what": one.sample.what,
        "completion": one.sample.transcript.completion,
        "status": result.status.value,
        "score": result.score,
        "parts": dict(result.parts),
        "notes": dict(result.notes),
        "error": result.error,
        "seconds": one.seconds,
    }


def _print(scored: Sequence[Scored], use: str) -> None:
    console = Console()
    table = Table("task", "completion", "score", "parts", "seconds", title=safe(use))
    for one in scored:
        measured = {name: value for name, value in one.result.parts.items() if "/" in name}
        parts = ", ".join(f"{name.partition('/')[2]} {value:.3g}" for name, value in measured.items())
        notes = "; ".join(one.result.notes.values())
        score = "failed" if one.result.score is None else f"{one.result.score:.4g}"
        said = f"{one.sample.what}: {shorten(safe(one.sample.transcript.completion), TEXT_WIDTH)}"
        table.add_row(
            safe(local(one.sample.task.id)), said, score, safe("; ".join(filter(None, (parts, notes)))), f"{one.seconds:.3f}"
        )
    console.print(table, markup=False)
    failed = [one for one in scored if one.result.error]
    if failed:
        first = failed[0]
        console.print(f"{len(failed)} of {len(scored)} could not be scored. The first:", markup=False)
        console.print(safe(first.result.error or ""), markup=False, highlight=False, soft_wrap=True)
        return
    values = [one.result.score for one in scored if one.result.score is not None]
    console.print(f"{len(scored)} scored: mean {sum(values) / len(values):.4g}, {min(values):.4g} to {max(values):.4g}")
