"""What `polymath reward` scores: completions of a recipe's tasks, and those that a run has recorded."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from recipes.load import LoadedRecipe, load
from recipes.playing import play
from recipes.runs import find_run
from rewards.config import SandboxConfig
from rewards.errors import UserError
from rewards.task import Demonstration, Message, Task
from rewards.transcript import END_THINK, THINK, Transcript
from specialists.data import Data, load_data
from specialists.example import Example
from specialists.transcripts import FOLDER


@dataclass(frozen=True)
class Sample:
    """A completion to be scored, and in a word what it is: "gold", "sloppy", "empty", "recorded"."""

    task: Task
    transcript: Transcript
    what: str
    shown: Demonstration | None = None  # that it is, where the recipe has tools for it to call

    def saying(self, completion: str) -> Sample:
        """The same task with another completion."""
        return dataclasses.replace(self, transcript=Transcript.of(completion), what="given", shown=None)


def data_of(loaded: LoadedRecipe, num_train: int | None = None) -> Data:
    """The recipe's tasks; `num_train`: of fewer training tasks."""
    recipe, config = loaded.recipe, loaded.recipe.data
    if num_train is not None:
        config = dataclasses.replace(config, num_train=num_train)
    return load_data(config, domain=recipe.domain, seed=recipe.seed)


def of_recipe(loaded: LoadedRecipe, count: int) -> list[Sample]:
    """The first training tasks' demonstrations and gold answers, and an empty answer to each."""

    def samples() -> Iterator[Sample]:
        for example in data_of(loaded, count).train:
            said = [Sample(example.task, transcript_of(d.response), d.style, d) for d in example.demonstrations]
            gold = gold_of(example)
            yield from said or ([gold] if gold else [])
            yield Sample(example.task, Transcript.of(""), "empty")

    return with_states(loaded, list(islice(samples(), count)))


def with_states(loaded: LoadedRecipe, samples: Sequence[Sample]) -> list[Sample]:
    """The same, but that demonstrations of a recipe with tools have called them."""
    played = iter(play(loaded, [s.shown for s in samples if s.shown is not None]) if loaded.recipe.tools else ())
    return [dataclasses.replace(s, transcript=next(played, s.transcript)) if s.shown is not None else s for s in samples]


def of_run(run: str, count: int) -> tuple[list[Sample], SandboxConfig]:
    """The newest transcripts that a run has recorded, with the tasks of its recipe; and its recipe's boxes.

    Raises:
        UserError: there is no such run, or it has recorded none whose tasks are still among its recipe's.
    """
    folder = find_run(run)
    files = sorted((folder / FOLDER).glob("*.jsonl"), key=lambda path: int(path.name.partition("-")[0]), reverse=True)
    rows = [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    if not rows:
        raise UserError(f"--run: {folder} has no transcripts; they are written below {FOLDER}/ after each stage")
    loaded = load(str(folder / "recipe.yaml"), ())
    data = data_of(loaded)
    tasks = {(task.id, task.prompt): task for task in (*data.held_out, *(e.task for e in data.train))}
    found = [
        Sample(
            tasks[key],
            Transcript.of(row["completion"], finish_reason=row["finish_reason"], num_tokens=row["num_tokens"]),
            "recorded",
        )
        for row in rows
        if (key := (row["task_id"], row["prompt"])) in tasks
    ]
    if not found:
        raise UserError(
            f"--run: none of the {len(rows)} transcripts in {folder} is of a task of its recipe's data; has it changed?"
        )
    return found[:count], loaded.recipe.sandbox


def transcript_of(response: Message) -> Transcript:
    """A written answer as if it had been sampled."""
    thought = "" if response.reasoning is None else f"{THINK}{response.reasoning}{END_THINK}"
    return Transcript.of(thought + response.content)


def gold_of(example: Example) -> Sample | None:
    """A completion that must score 1: the first demonstration, which is the careful one, or the known answer."""
    task = example.task
    if example.demonstrations:
        return Sample(task, transcript_of(example.demonstrations[0].response), "gold", example.demonstrations[0])
    if isinstance(solution := task.data.get("canonical_solution"), str):  # as the HumanEval data set has it
        return Sample(task, Transcript.of(f"```python\n{task.data.get('prompt', '')}{solution}\n```"), "gold")
    if task.answer is not None:
        return Sample(task, Transcript.of(task.answer), "gold")
    return None
