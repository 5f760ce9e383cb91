"""`polymath resume RUN`: finds where a run stopped and checks that nothing that decides its training has changed.

Which recipe keys may change is in recipes/load.py (`is_free`). No torch here; recipes/launch.py goes on with the result.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from recipes.load import FREE, FREE_OF_STAGES, LoadedRecipe, is_free, leaves, load
from recipes.tree import show
from rewards.errors import UserError
from rl.checkpoint import checkpoints, read_manifest


@dataclass(frozen=True)
class Stopped:
    """A run that can be resumed. `checkpoint` is None where it was stopped before the first one: it begins again."""

    folder: Path
    loaded: LoadedRecipe
    checkpoint: Path | None


def find_stopped(folder: Path, overrides: Sequence[str]) -> Stopped | None:
    """What to go on with in a run's folder that this process owns; None for a run that is done.

    Raises:
        UserError: the recipe, as it stands in the folder with the overrides, trains something else than the checkpoint did.
    """
    if not (folder / "recipe.yaml").is_file():
        raise UserError(f"{folder}: no recipe.yaml there, so nothing had begun; start it with `polymath run`")
    events = folder / "events.jsonl"
    if events.is_file() and '"event": "run_finished"' in events.read_text(errors="replace"):
        return None
    loaded = load(folder / "recipe.yaml", overrides)
    complete = [path for path in checkpoints(folder) if (path / "progress.json").is_file()]
    checkpoint = complete[-1] if complete else None
    if checkpoint is not None:
        _check_unchanged(yaml.safe_load((checkpoint / "recipe.yaml").read_text()), loaded)
    return Stopped(folder, loaded, checkpoint)


def check_same_inputs(checkpoint: Path, *, recipe_hash: str, data_hash: str) -> None:
    """What a recipe names may change though its text does not: reward files and data."""
    manifest = read_manifest(checkpoint)
    for what, now, then in (
        ("a reward's file", recipe_hash, manifest.recipe_hash),
        ("the data that the recipe names", data_hash, manifest.data_hash),
    ):
        if now != then:
            raise UserError(
                f"{what} has changed since {checkpoint} was written ({then[:8]} then, {now[:8]} now), and the run would not go "
                f"on as it began; put it back, or start a new run from what was learned: polymath run RECIPE model={checkpoint}"
            )


def _check_unchanged(recorded: Any, loaded: LoadedRecipe) -> None:
    then, now = dict(leaves(recorded)), dict(leaves(loaded.recipe.model_dump(mode="json")))
    changed = [key for key in {**then, **now} if then.get(key) != now.get(key) and not is_free(key)]
    if not changed:
        return
    lines = [f"{'.'.join(key)}: got {show(now.get(key))}; the run began with {show(then.get(key))}" for key in changed]
    free = f"{', '.join(FREE[2:])} and a stage's {' and '.join(FREE_OF_STAGES)}"
    raise UserError(
        "\n".join(lines) + f"\na run that is resumed may change {free}, nothing that decides what is trained; "
        "for that, start a new run from its newest checkpoint with model=RUN"
    )


@contextlib.contextmanager
def sole_owner(folder: Path) -> Iterator[None]:
    """Holds the run's folder for this process; the kernel lets go of it however the process ends.

    Raises:
        UserError: another process holds it.
    """
    with (folder / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(f"{folder}: process {file.read().strip()} is running it; stop that one first") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
