"""Whether what a recipe names is there and fits: model folders, data sets, rewards, generator options, styles.

Nothing is downloaded, no user code runs, and torch stays unimported. `run`, `eval` and `recipes check` call `check_files`.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from recipes.check_judge import judge_problems
from recipes.check_reward import reward_problem, shown
from recipes.load import LOCAL_PREFIXES, LoadedRecipe, candidates
from recipes.schema import Recipe
from recipes.tree import Key, RecipeError, did_you_mean, show
from rewards.errors import UserError
from rewards.task import Demonstration
from rl.formats.wording import load_wording
from rl.tools.source import read_sources
from sandbox.images import Images
from sandbox.pool import HOME
from specialists.config import ColumnsConfig, SftConfig, SourceConfig
from specialists.example import Example
from specialists.generators import GENERATORS

TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
NUM_DRAWN = 8  # tasks of a generator: its kinds may have columns of their own
DATA_SUFFIXES = (".jsonl", ".json", ".parquet")


def check_files(loaded: LoadedRecipe, *, model: bool = True) -> None:
    """Raise RecipeError with a line for each file that does not fit; `model=False` leaves the recipe's model out."""
    recipe, problems = loaded.recipe, []
    if model and recipe.model.path is not None:
        origin = loaded.tree.nearest(("model", "path")).origin
        if problem := model_problem(recipe.model.path, candidates(recipe.model.path, origin)):
            problems.append(loaded.error(("model", "path"), problem))
    compares = any(reward.use.startswith("rewards.math:") for reward in recipe.rewards)  # with the answer
    styles, columns = set[str](), set[str]()
    are_known = True  # whether `columns` is all that there may be
    for i, source in enumerate(recipe.data.sources):
        found: Iterable[tuple[Key, str]] = ()
        if source.dataset is not None:
            node = loaded.tree.nearest(("data", "sources", i, "columns", "answer"))
            answer = compares or node.value == source.columns.answer
            looked = candidates(source.dataset, loaded.tree.nearest(("data", "sources", i, "dataset")).origin)
            found = list(_data_problems(source, source.dataset, looked, answer=answer))
            styles.add(Demonstration.style)
            named = None if found else _columns_of(looked)
            columns |= {*source.columns.left(named or ()), *source.columns.data}
            are_known = are_known and named is not None
        elif source.generator is not None and source.generator in GENERATORS:
            found = _generator_problems(source, GENERATORS[source.generator], styles, columns)
        else:
            are_known = False
        problems += [loaded.error(("data", "sources", i, *key), problem) for key, problem in found]
    problems += [loaded.error(key, problem) for key, problem in judge_problems(loaded, model_problem, styles)]
    problems += [loaded.error(key, problem) for key, problem in _mixture_problems(recipe, styles)]
    problems += [loaded.error(key, problem) for key, problem in _image_problems(recipe)]
    problems += [loaded.error(key, problem) for key, problem in _tool_problems(loaded)]
    for i, reward in enumerate(recipe.rewards):
        origin = loaded.tree.nearest(("rewards", i, "use")).origin
        if problem := reward_problem(reward.use, [origin.folder, Path.cwd()], reward.options, columns if are_known else None):
            problems.append(loaded.error(("rewards", i, "use"), problem))
    if problems:
        raise RecipeError(problems)


def check_source(source: str) -> None:
    """Raise UserError where RUN|MODEL of `eval` and `chat` is a local folder without a model."""
    path = Path(os.path.expanduser(source))
    if problem := model_problem(source, [path]):
        raise UserError(f"RUN|MODEL: {problem}")


def model_problem(value: str, looked: Sequence[Path]) -> str | None:
    """What is wrong with a model's path; a hub id is taken as it is."""
    folder = next((path for path in looked if os.path.exists(path)), None)
    if folder is None:
        if not value.startswith(LOCAL_PREFIXES) and HUB_ID.fullmatch(value):
            return None
        runs = [str(path) for path in Path("runs").glob("*") if path.is_dir()] if value.startswith("runs/") else []
        near = did_you_mean(value, runs)
        return f"got {show(value)}, no such folder; allowed: a model's folder, a run's folder, or a hub id{near}"
    if not folder.is_dir():
        return f"got {show(value)}, a file; allowed: the folder of a model or a run"
    if (folder / "checkpoints").is_dir():
        steps = any((folder / "checkpoints").glob("step-*"))
        return None if steps else f"got {show(value)}, a run without a checkpoint yet; allowed: a run that saved one"
    if not (folder / "config.json").is_file():
        return f"got {show(value)}, which lacks config.json; allowed: a model in Hugging Face layout, or a run's folder"
    if not any((folder / name).is_file() for name in TOKENIZERS):
        return f"got {show(value)}, which lacks a tokenizer; allowed: a folder with one of {', '.join(TOKENIZERS)}"
    return None


def _generator_problems(
    source: SourceConfig, generate: Callable[..., Example], styles: set[str], columns: set[str]
) -> Iterator[tuple[Key, str]]:
    """Draws tasks with the source's options, and adds the styles of its demonstrations and the columns of its data."""
    parameters = inspect.signature(generate).parameters.values()
    known = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    for key in source.options:
        if key not in known:
            yield ("options", key), f"unknown key; allowed: {', '.join(known)}{did_you_mean(key, known)}"
    try:
        options = {key: value for key, value in source.options.items() if key in known}
        for seed in range(NUM_DRAWN):
            drawn = generate(random.Random(seed), **options)
            styles.update(one.style for one in drawn.demonstrations)
            columns.update(drawn.task.data)
    except (TypeError, ValueError) as err:
        yield ("options",), f"got {show(source.options)}: {err}"


def _tool_problems(loaded: LoadedRecipe) -> Iterator[tuple[Key, str]]:
    """Whether each tool can be read, and the words that the model is told of them."""
    for i, tool in enumerate(loaded.recipe.tools):
        try:
            read_sources([tool], [loaded.tree.nearest(("tools", i)).origin.folder, Path.cwd()])
        except UserError as error:
            yield ("tools", i), str(error)
    wording = loaded.recipe.model.chat.wording
    if wording is not None:
        try:
            load_wording(Path(wording))
        except UserError as error:
            yield ("model", "chat", "wording"), str(error)


def _image_problems(recipe: Recipe) -> Iterator[tuple[Key, str]]:
    """Whether the boxes' image is here; on a cluster the nodes have it or not."""
    image = recipe.sandbox.image
    if image is not None and recipe.runtime.address is None:
        names = [found.name for found in Images(HOME.expanduser() / "images").all()]
        if image not in names:
            build = f"polymath sandbox image build {image} debian"
            near = did_you_mean(image, names)
            yield (
                ("sandbox", "image"),
                f"got {show(image)}; allowed: {', '.join(names) or 'none yet'}; build one: {build}{near}",
            )


def _mixture_problems(recipe: Recipe, styles: set[str]) -> Iterator[tuple[Key, str]]:
    for i, stage in enumerate(recipe.stages):
        for style in stage.mixture if isinstance(stage, SftConfig) and styles else ():
            if style not in styles:
                near = did_you_mean(style, styles)
                yield ("stages", i, "mixture", style), f"unknown style; allowed: {', '.join(sorted(styles))}{near}"


def _data_problems(source: SourceConfig, value: str, looked: Sequence[Path], *, answer: bool) -> Iterator[tuple[Key, str]]:
    path = next((path for path in looked if os.path.exists(path)), None)
    if path is None:
        if value.startswith(LOCAL_PREFIXES) or value.endswith(DATA_SUFFIXES) or not HUB_ID.fullmatch(value):
            where = " nor in ".join(shown(path.parent) for path in looked)
            others = {p.name for folder in looked for p in folder.parent.glob("*") if p.suffix in DATA_SUFFIXES}
            near = did_you_mean(Path(value).name, others)
            yield ("dataset",), f"got {show(value)}, no such file in {where}; allowed: .jsonl, .parquet, hub id{near}"
        return
    if path.is_dir():
        if not any(p.suffix in (*DATA_SUFFIXES, ".arrow", ".csv") for p in path.rglob("*")):
            yield ("dataset",), f"got {show(value)}, a folder without data; allowed: one with .jsonl or .parquet files"
        return
    try:
        columns = _columns(path)
    except ValueError as err:
        yield ("dataset",), f"got {show(value)}: {err}"
        return
    for key, name in _wanted(source.columns, answer=answer):
        if columns is not None and name not in columns:
            near = did_you_mean(name, columns)
            yield ("columns", key), f"got {show(name)}, which {path.name} lacks; allowed: {', '.join(columns)}{near}"


def _columns_of(looked: Sequence[Path]) -> list[str] | None:
    """The columns of the local file among these paths; None where there is none, or they are not told before it is read."""
    path = next((path for path in looked if os.path.isfile(path)), None)
    return None if path is None else _columns(path)


def _columns(path: Path) -> list[str] | None:
    """The columns of a local file, None for JSON. Raises ValueError where it is empty, broken or of another kind."""
    if path.suffix == ".parquet":
        parquet = importlib.import_module("pyarrow.parquet")  # seconds to import, and it has no types
        try:
            file = parquet.ParquetFile(path)
        except (ValueError, OSError) as err:
            raise ValueError(f"not a Parquet file: {err}") from err
        with file:
            if not file.metadata.num_rows:
                raise ValueError("the file has no rows; allowed: one task a row")
            return list(file.schema_arrow.names)
    if path.suffix == ".json" and path.stat().st_size:
        return None  # one list or one object a line; the run reads it
    if path.suffix not in DATA_SUFFIXES:
        raise ValueError("unknown kind of file; allowed: .jsonl or .parquet")
    with path.open("rb") as lines:
        first = lines.readline().removeprefix(b"\xef\xbb\xbf")
    if not first.strip():
        raise ValueError("the first line is empty; allowed: one JSON object a line")
    try:
        row = json.loads(first)
    except ValueError as err:
        raise ValueError(f"the first line is not JSON: {err}; allowed: one JSON object a line") from err
    if not isinstance(row, dict):
        raise ValueError(f"the first line is {show(row)}; allowed: one JSON object a line")  # noqa: TRY004
    return list(row)


def _wanted(columns: ColumnsConfig, *, answer: bool) -> Iterator[tuple[str, str]]:
    """The settings that name a column which must exist."""
    if columns.messages is None:
        yield "prompt", columns.prompt
    if answer:
        yield "answer", columns.answer
    for key, name in (
        ("messages", columns.messages),
        ("response", columns.response),
        ("reasoning", columns.reasoning),
        ("kind", columns.kind),
    ):
        if name is not None:
            yield key, name
