"""Whether what a recipe's judge names is there and fits: its model, prompt and labels. `recipes/check.py` calls this."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from recipes.load import LoadedRecipe, candidates
from recipes.tree import Key
from rewards.errors import UserError
from rewards.judge_prompt import read_prompt
from rl.judge_config import POLICY
from specialists.labels import label_styles


def judge_problems(
    loaded: LoadedRecipe, model_problem: Callable[[str, Sequence[Path]], str | None], styles: set[str]
) -> Iterator[tuple[Key, str]]:
    """What is wrong, by key; the styles of written judgements are added to `styles`."""
    judge = loaded.recipe.judge
    if judge is None:
        return
    if isinstance(judge.model, str) and judge.model != POLICY:
        origin = loaded.tree.nearest(("judge", "model")).origin
        if problem := model_problem(judge.model, candidates(judge.model, origin)):
            yield ("judge", "model"), problem
    try:
        read_prompt(judge.prompt, [loaded.tree.nearest(("judge", "prompt")).origin.folder, Path.cwd()])
    except UserError as error:
        yield ("judge", "prompt"), str(error).removeprefix("judge.prompt: ")
    if judge.train is not None:
        try:
            styles |= label_styles(judge.train)
        except UserError as error:
            yield (
                ("judge", "train", "labels"),
                str(error).removeprefix("judge.train.labels: ").removeprefix("judge.train.options: "),
            )
