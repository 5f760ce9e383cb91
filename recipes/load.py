"""Finds, reads, extends, overrides and validates a recipe. The command line and the tests call `load`; no torch here.

Every problem becomes one line: `FILE:LINE: KEY: got VALUE; allowed: ...; did you mean NAME?`. Local paths that exist
come back absolute: they start from the folder of the file that says them, then from the working folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from recipes import tree as trees
from recipes.messages import problems
from recipes.schema import SHORTHANDS, STAGE_SHORTHANDS, Recipe
from recipes.tree import Key, Node, Origin, RecipeError, did_you_mean, dotted, show
from rl.judge_config import POLICY
from rl.losses.config import GrpoLossConfig

FOLDER = Path(__file__).resolve().parent  # of the shipped recipes
LOCAL_PREFIXES = ("./", "../", "/", "~", "runs/")  # a path that starts so is local, whether it exists or not


@dataclass(frozen=True)
class LoadedRecipe:
    """A valid recipe and where its values were written."""

    recipe: Recipe
    path: Path  # the file
    tree: Node  # as merged, before defaults

    def error(self, key: Key, text: str) -> str:
        """One line that places `text` at `key`."""
        return _line(self.tree, key, text)


def load(path_or_name: str | Path, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """Read a recipe file, or a shipped recipe by name, with `key.sub=value` overrides.

    Raises RecipeError, whose message lists every problem found.
    """
    path = find(str(path_or_name), Path.cwd())
    tree = _read(path, ())
    for override in overrides:
        tree = _override(tree, override)
    tree = _complete_optimizers(_absolute_paths(tree))
    try:
        recipe = Recipe.model_validate_json(json.dumps(tree.plain()), strict=True)
    except ValidationError as err:
        raise RecipeError([_line(tree, key, text) for key, text in problems(err)]) from err
    if recipe.name is None:
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).lstrip("._-")
        recipe = recipe.model_copy(update={"name": stem or "recipe"})
    return LoadedRecipe(recipe, path, tree)


def resolved_yaml(recipe: Recipe) -> str:
    """The recipe with every default written out; loads back to an equal recipe."""
    return yaml.dump(recipe.model_dump(mode="json"), Dumper=trees.Dumper, sort_keys=False, allow_unicode=True, width=120)


def recipe_hash(recipe: Recipe) -> str:
    """A hash of the settings that decide what is trained; those that `is_free` names are left out."""
    values = {".".join(key): value for key, value in leaves(recipe.model_dump(mode="json")) if not is_free(key)}
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:32]


FREE = ("name", "description", "runtime", "evaluation", "checkpoints")
FREE_OF_STAGES = ("eval_every", "save_every")


def is_free(key: Sequence[str]) -> bool:
    """Whether a setting may change without changing what is trained, when a run is resumed for one."""
    return key[0] in FREE or (key[0] == "stages" and key[-1] in FREE_OF_STAGES) or tuple(key) == ("judge", "max_gap")


def leaves(value: Any, key: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every setting of a dumped recipe with its full key; places in lists are numbers.

    >>> list(leaves({"a": [{"b": 1}], "c": {}}))
    [(('a', '0', 'b'), 1), (('c',), {})]
    """
    below = list(enumerate(value)) if isinstance(value, list) else list(value.items()) if isinstance(value, dict) else []
    for name, child in below:
        yield from leaves(child, (*key, str(name)))
    if not below:
        yield key, value


def shipped() -> dict[str, Path]:
    """The recipes that come with Polymath, by name. `base.yaml` files are there to be extended, not run."""
    paths = [*sorted(FOLDER.glob("*.yaml")), *sorted(FOLDER.glob("*/*.yaml"))]
    recipes = {path.relative_to(FOLDER).with_suffix("").as_posix(): path for path in paths if path.name != "base.yaml"}
    return {name: path for name, path in recipes.items() if path.parent.name != "cluster"}  # those start Ray on machines


def find(name: str, folder: Path, origin: str | None = None) -> Path:
    """The file called `name`: as a path from `folder`, from the checkout, or as a shipped recipe's name."""
    where = Path(os.path.expanduser(name))
    for path in (folder / where, FOLDER.parent / where, FOLDER / where, FOLDER / f"{where}.yaml"):
        if os.path.isfile(path):  # False, not an error, for a name that no file can have
            return path.resolve()
    names = list(shipped())
    near = did_you_mean(where.stem, names)
    allowed = f"allowed: a YAML file or a shipped recipe ({', '.join(names)})"
    prefix = f"{origin}: extends: " if origin else ""
    raise RecipeError([f"{prefix}got {show(name)}, no such recipe; {allowed}{near}"])


def candidates(value: str, origin: Origin) -> list[Path]:
    """Where a path that a recipe says may be: beside the file that says it, then in the working folder."""
    path = Path(os.path.expanduser(value))
    return list(dict.fromkeys(Path(os.path.normpath(folder / path)) for folder in (origin.folder, Path.cwd())))


def _read(path: Path, above: tuple[Path, ...]) -> Node:
    """A file's tree on top of those that it extends."""
    shown = os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
    tree = trees.parse_file(path, shown)
    if not isinstance(tree.value, Mapping):
        got = "the file is empty" if tree.value is None else f"got {show(tree.plain())}"
        raise RecipeError([f"{tree.origin.where}: {got}; allowed: a mapping, such as `extends: math`"])
    values = {key: _expand(key, node) for key, node in tree.value.items()}
    tree = _expand_stages(Node(values, tree.origin))
    base = values.pop("extends", None)
    if base is None:
        return tree
    if not isinstance(base.value, str):
        raise RecipeError([f"{base.origin.where}: extends: got {show(base.plain())}; allowed: one recipe file or name"])
    base_path = find(base.value, path.parent, base.origin.where)
    if base_path in (*above, path):
        chain = " -> ".join(p.name for p in (*above, path, base_path))
        raise RecipeError([f"{base.origin.where}: extends: got {base.value}, a circle ({chain}); remove one `extends`"])
    return trees.merge(_make_room(_read(base_path, (*above, path)), values.get("model")), tree)


def _expand(key: str, node: Node) -> Node:
    """A shorthand text written out: `engine: torch` as `engine: {name: torch}`."""
    return Node({SHORTHANDS[key]: node}, node.origin) if key in SHORTHANDS and isinstance(node.value, str) else node


def _expand_stages(tree: Node) -> Node:
    """`tree` with `loss: dapo` in a stage as `loss: {name: dapo}`, and a loss without a name as the default one."""
    stages = tree.nearest(("stages",))
    for i, stage in enumerate(stages.value if isinstance(stages.value, tuple) else ()):
        for key, name in STAGE_SHORTHANDS.items():
            node = stage.value.get(key) if isinstance(stage.value, Mapping) else None
            if node is not None and isinstance(node.value, str):
                tree = _replace(tree, ("stages", i, key), Node({name: node}, node.origin))
            elif node is not None and isinstance(node.value, Mapping) and name not in node.value:
                tree = _replace(tree, ("stages", i, key, name), Node(GrpoLossConfig.name, node.origin))
    return tree


def _forget_other_losses(before: Node, tree: Node, origin: Origin) -> Node:
    """`tree` where a stage whose loss the override at `origin` has renamed keeps no setting of the loss that it had."""
    old = _losses(before)
    for i, loss in _losses(tree).items():
        if i in old and old[i]["name"].value != loss["name"].value:
            kept = {key: node for key, node in loss.items() if node.origin is origin}
            tree = _replace(tree, ("stages", i, "loss"), Node(None, origin))
            tree = _replace(tree, ("stages", i, "loss"), Node(kept, origin))
    return tree


def _losses(tree: Node) -> dict[int, Mapping[str, Node]]:
    """The loss of each stage that states one, with its name."""
    stages = tree.nearest(("stages",))
    maps = [s.value if isinstance(s.value, Mapping) else {} for s in (stages.value if isinstance(stages.value, tuple) else ())]
    losses = {i: stage["loss"].value for i, stage in enumerate(maps) if "loss" in stage}
    return {i: loss for i, loss in losses.items() if isinstance(loss, Mapping) and "name" in loss}


def _make_room(tree: Node, model: Node | None) -> Node:
    """`tree` without its `model.path` where `model` brings `init`, and the other way round: a recipe has one."""
    old = tree.value["model"] if isinstance(tree.value, Mapping) and "model" in tree.value else None
    if model is None or old is None or not isinstance(old.value, Mapping) or not isinstance(model.value, Mapping):
        return tree
    brought = {key for key in ("path", "init") if key in model.value and model.value[key].value is not None}
    if len(brought) != 1:
        return tree
    kept = {key: node for key, node in old.value.items() if key in brought or key not in ("path", "init")}
    return Node({**typing.cast("Mapping[str, Node]", tree.value), "model": Node(kept, old.origin)}, tree.origin)


def _override(tree: Node, override: str) -> Node:
    origin = Origin(f"override {override!r}", Path.cwd(), is_override=True)
    key, equals, text = override.partition("=")
    keys = key.strip().split(".")
    if not equals or not all(keys):
        raise RecipeError([f"{origin.where}: allowed: key=value, such as seed=1 or stages.0.steps=50"])
    if keys == ["extends"]:
        raise RecipeError([f"{origin.where}: `extends` belongs in a recipe file; run that recipe instead"])
    value = trees.parse_value(text, origin)
    if len(keys) == 1:
        value = _expand(keys[0], value)
    if keys[0] == "model":
        tree = _make_room(tree, value if len(keys) == 1 else Node({keys[1]: Node("", origin)}, origin))
    return _forget_other_losses(tree, _expand_stages(trees.put(tree, keys, value)), origin)


def _complete_optimizers(tree: Node) -> Node:
    """`tree` where a stage's own `optimizer` states only what differs from the recipe's."""
    stages = tree.nearest(("stages",))
    common = tree.nearest(("optimizer",))
    if not isinstance(stages.value, tuple) or not isinstance(common.value, Mapping) or common is tree:
        return tree
    for i, stage in enumerate(stages.value):
        own = stage.value.get("optimizer") if isinstance(stage.value, Mapping) else None
        if own is not None and isinstance(own.value, Mapping):
            tree = _replace(tree, ("stages", i, "optimizer"), trees.merge(common, own))
    return tree


def _absolute_paths(tree: Node) -> Node:
    """`tree` with each local model, data set and reward file that exists under its absolute path."""
    data = tree.plain()
    keys: list[Key] = [("model", "path"), ("model", "chat", "wording")]
    keys += [("data", "sources", i, "dataset") for i in range(_length(data, "data", "sources"))]
    keys += [("rewards", i, "use") for i in range(_length(data, "rewards"))]
    keys += [("tools", i, *key) for i in range(_length(data, "tools")) for key in (("use",), ("options", "path"))]
    keys += [("judge", "model"), ("judge", "prompt"), ("judge", "train", "labels")]
    for key in keys:
        node = tree.nearest(key)
        if not isinstance(node.value, str) or node.value == POLICY:
            continue
        path, colon, function = node.value.partition(".py:") if key[-1] == "use" else (node.value, "", "")
        suffix = ".py" if colon else ""
        found = next((p for p in candidates(path + suffix, node.origin) if os.path.exists(p)), None) if path else None
        if found is not None and (colon or key[-1] != "use"):
            tree = _replace(tree, key, Node(f"{found}:{function}" if colon else str(found), node.origin))
    return tree


def _length(data: Any, *keys: str) -> int:
    for key in keys:
        data = data.get(key) if isinstance(data, dict) else None
    return len(data) if isinstance(data, list) else 0


def _replace(tree: Node, key: Key, value: Node) -> Node:
    return trees.put(tree, [str(part) for part in key], value)


def _line(tree: Node, key: Key, text: str) -> str:
    node = tree.nearest(key)
    origin = node.origin
    if isinstance(node.value, Mapping) and key and node is not tree.nearest(key[:-1]):
        # A mapping that an override has changed below: that is the likelier mistake.
        origin = next((below.origin for below in node.value.values() if below.origin.is_override), origin)
    return f"{origin.where}: {dotted(key)}: {text}" if key else f"{origin.where}: {text}"
