"""`polymath reward audit`: a recipe's first reward on answers whose worth is known, before anything is trained.

Every gold answer must score 1. Empty and random answers, and every attack of `rewards.tampering`, must score 0, and must have a
score: an answer that cannot be scored leaves its group, which a policy would learn to do.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from recipes.load import LoadedRecipe
from recipes.reward_samples import Sample, data_of, gold_of, with_states
from recipes.text import local, safe, shorten
from rewards.errors import UserError
from rewards.isolation import IsolatedScorer, check_rewards
from rewards.plugin import read_source
from rewards.result import RewardResult
from rewards.score import CORRECT_AT
from rewards.tampering import attacks
from rewards.transcript import Transcript
from specialists.example import Example

CHUNK = 64  # completions that are scored together
NUM_SHOWN = 10  # problems that a person is shown
GOLD = "gold answers"
EMPTY = "empty answers"


@dataclass(frozen=True)
class Finding:
    """What one answer came to. `family`: what kind of answer it was; `name`: which of them."""

    family: str
    name: str
    sample: Sample
    result: RewardResult
    value: float | None  # of the first reward; None where it has none

    @property
    def problem(self) -> str | None:
        """Why a recipe with this finding should not be trained on; None where all is well."""
        if self.value is None:
            return f"no score: {self.result.error}"
        if self.family == GOLD:
            return None if self.value >= CORRECT_AT else f"scored {self.value:.4g}; a gold answer must score 1"
        return None if self.value <= 0 else f"scored {self.value:.4g}; it must score 0"


def audit(loaded: LoadedRecipe, arguments: argparse.Namespace) -> int:
    """Prints a table by family, and the first problems; 1 where there are any."""
    recipe = loaded.recipe
    if not recipe.rewards:
        raise UserError("rewards: got none; an audit is of reward functions (a judge's accuracy is measured on labels)")
    sources = [read_source(one, [loaded.path.parent, Path.cwd()]) for one in recipe.rewards]
    data = data_of(loaded)
    examples = [*data.train, *(Example(task) for task in data.held_out)]
    asked = _asked(loaded, examples, arguments.num_tasks, arguments.num_attacked)
    if not any(family == GOLD for family, _, _ in asked):
        print("note: no task has a gold answer or a demonstration, so none was tried")
    check_rewards(sources[:1], recipe.sandbox, [example.task for example in examples], try_box=True)
    with contextlib.closing(IsolatedScorer(sources[:1], recipe.sandbox)) as scorer:
        findings = _score(scorer, asked, quiet=arguments.json)
    problems = [finding for finding in findings if finding.problem]
    if arguments.json:
        print(json.dumps(_as_dict(findings, recipe.rewards[0].use), indent=2))
    else:
        _print(findings, problems, recipe.rewards[0].use)
    return 1 if problems else 0


def _asked(
    loaded: LoadedRecipe, examples: Sequence[Example], num_tasks: int | None, num_attacked: int
) -> list[tuple[str, str, Sample]]:
    """(family, name, sample) of every answer that is tried."""
    some = list(islice(examples, num_tasks))
    golds = with_states(loaded, [gold for example in some if (gold := gold_of(example)) is not None])
    asked = [(GOLD, gold.what, gold) for gold in golds]
    asked += [(EMPTY, "empty", Sample(e.task, Transcript.of(""), "empty")) for e in some]
    for example in examples[:num_attacked]:
        for attack in attacks(example.task):
            sample = Sample(example.task, Transcript.of(attack.completion), attack.name)
            asked.append((attack.family.value, attack.name, sample))
    return asked


def _score(scorer: IsolatedScorer, asked: Sequence[tuple[str, str, Sample]], *, quiet: bool) -> list[Finding]:
    findings, primary = list[Finding](), next(iter(scorer.weights))
    with contextlib.ExitStack() as stack:
        console = Console(stderr=True)
        progress = None if quiet or not console.is_terminal else stack.enter_context(Progress(console=console, transient=True))
        bar = progress.add_task("scoring", total=len(asked)) if progress else None
        for start in range(0, len(asked), CHUNK):
            some = asked[start : start + CHUNK]
            results = scorer.score([(sample.task, sample.transcript) for _, _, sample in some])
            findings += [Finding(*one, result, result.parts.get(primary)) for one, result in zip(some, results, strict=True)]
            if progress is not None and bar is not None:
                progress.update(bar, completed=len(findings))
    return findings


def _as_dict(findings: Sequence[Finding], use: str) -> dict[str, Any]:
    return {
        "reward": use,
        "num_tried": len(findings),
        "families": {
            family: {"tried": count, "problems": sum(bool(f.problem) for f in findings if f.family == family)}
            for family, count in Counter(f.family for f in findings).items()
        },
        "problems": [
            {
                "family": f.family, "name": f.name, "task_id": f.sample.task.id, "problem": f.problem,
                "completion": f.sample.transcript.completion,
            }
            for f in findings if f.problem
        ],
    }  # fmt: skip


def _print(findings: Sequence[Finding], problems: Sequence[Finding], use: str) -> None:
    console = Console()
    table = Table("answers", "tried", "score 1", "between", "score 0", "no score", title=safe(local(use)))
    for family in dict.fromkeys(f.family for f in findings):
        values = [f.value for f in findings if f.family == family]
        scored = [value for value in values if value is not None]
        full, none = sum(value >= CORRECT_AT for value in scored), sum(value <= 0 for value in scored)
        counts = (len(values), full, len(scored) - full - none, none, len(values) - len(scored))
        table.add_row(family, *(str(count) for count in counts))
    console.print(table)
    for finding in problems[:NUM_SHOWN]:
        said = shorten(safe(finding.sample.transcript.completion), 60)
        text = (
            f"{finding.family}, {finding.name}, task {local(finding.sample.task.id)}: {finding.problem}; the answer: {said!r}"
        )
        console.print(safe(text), markup=False, highlight=False, soft_wrap=True)
    if len(problems) > NUM_SHOWN:
        console.print(f"... and {len(problems) - NUM_SHOWN} more; --json has them all")
    console.print(
        f"{len(findings)} answers tried, {len(problems)} problems: " + ("do not train on this yet" if problems else "passed")
    )
