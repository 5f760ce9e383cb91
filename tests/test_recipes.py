"""Recipes: what loads, how files and overrides combine, and what each kind of mistake is told."""

import json
import re
import shutil
from pathlib import Path

import jsonschema
import pytest
import yaml

from recipes.check import check_files
from recipes.load import FOLDER, load, recipe_hash, resolved_yaml, shipped
from recipes.plan import model_size, plan
from recipes.schema import Recipe, json_schema, schema_text
from recipes.tree import RecipeError, parse_file
from rl.config import GrpoConfig
from rl.losses.config import CispoLossConfig, DapoLossConfig, DrGrpoLossConfig, GrpoLossConfig, GspoLossConfig, LossConfig
from specialists.config import SftConfig

SMALL = """\
model: {init: {config: {hidden_size: 8}}}
data:
  sources: [{generator: arithmetic}]
stages:
  - kind: sft
    steps: 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, so that errors show short names."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(text: str, name: str = "r.yaml") -> str:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return name


def problems(text: str, *overrides: str, files: bool = False) -> tuple[str, ...]:
    """What a wrong recipe is told; with `files`, one that only its files make wrong."""
    write(text)
    if files:
        loaded = load("r.yaml", overrides)
        with pytest.raises(RecipeError) as caught:
            check_files(loaded)
    else:
        with pytest.raises(RecipeError) as caught:
            load("r.yaml", overrides)
    return caught.value.problems


# What loads


def test_every_shipped_recipe_is_valid_and_its_files_are_there() -> None:
    assert "math" in shipped()
    assert "base" not in shipped()
    for path in shipped().values():
        check_files(load(path))
        assert path.read_text().startswith("# yaml-language-server: $schema=")


def test_a_recipe_is_named_by_its_file_unless_it_says(folder: Path) -> None:
    assert load(write(SMALL, "my maths.yaml")).recipe.name == "my-maths"
    assert load(write(SMALL + "name: other")).recipe.name == "other"


@pytest.mark.parametrize("name", ["math", "math.yaml", "recipes/math.yaml", str(FOLDER / "math.yaml")])
def test_a_shipped_recipe_is_found_from_any_folder(folder: Path, name: str) -> None:
    assert load(name).path == FOLDER / "math.yaml"


def test_a_shipped_recipe_in_a_folder_goes_by_its_path(folder: Path) -> None:
    loaded = load("gpu/math_qwen3")
    assert (loaded.path, loaded.recipe.name) == (FOLDER / "gpu" / "math_qwen3.yaml", "math_qwen3")
    assert "gpu/math_qwen3" in shipped()
    with pytest.raises(RecipeError, match="did you mean gpu/math_qwen3"):
        load("math_qwen3")


def test_a_file_of_the_working_folder_wins_over_a_shipped_one(folder: Path) -> None:
    assert load(write(SMALL, "recipes/math.yaml")).path == folder / "recipes/math.yaml"


def test_numbers_follow_yaml_1_2(folder: Path) -> None:
    recipe = load(write(SMALL + "optimizer: {lr: 1e-3, max_grad_norm: 1}\nname: on\ndescription: 2024-01-01")).recipe
    assert recipe.optimizer.lr == 1e-3
    assert isinstance(recipe.optimizer.max_grad_norm, float)
    assert (recipe.name, recipe.description) == ("on", "2024-01-01")


def test_stages_are_told_apart_by_kind(folder: Path) -> None:
    stages = load("math").recipe.stages
    assert [type(stage) for stage in stages] == [SftConfig, SftConfig, GrpoConfig]


def test_resolved_yaml_loads_back_to_an_equal_recipe(folder: Path) -> None:
    tricky = 'description: "1e-3"\ndomain: "yes"\nname: "007"\n'
    options = ["data.sources.0.options={a: null, b: '1_0', c: 1e-9, d: [no, ~]}"]
    for path, overrides in [("math", ["stages.grpo.loss.off_policy_threshold=null"]), (write(SMALL + tricky), options)]:
        recipe = load(path, overrides).recipe
        again = load(write(resolved_yaml(recipe), "elsewhere/recipe.yaml")).recipe
        assert again == recipe
        assert recipe_hash(again) == recipe_hash(recipe)


def test_the_hash_covers_settings_but_not_names(folder: Path) -> None:
    assert recipe_hash(load("math", ["name=x", "description=y"]).recipe) == recipe_hash(load("math").recipe)
    assert recipe_hash(load("math", ["seed=1"]).recipe) != recipe_hash(load("math").recipe)


# extends, shorthands, overrides


def test_extends_merges_mappings_and_replaces_lists(folder: Path) -> None:
    write(SMALL + "optimizer: {lr: 0.5, eps: 1e-8}\nevaluation: {num_tasks: 7}", "lib/parent.yaml")
    child = "extends: lib/parent.yaml\noptimizer: {lr: 0.25}\nevaluation: null\nstages: [{kind: sft, name: only}]"
    recipe = load(write(child)).recipe
    assert (recipe.optimizer.lr, recipe.optimizer.eps) == (0.25, 1e-8)
    assert recipe.evaluation.num_tasks == 300  # null removed it: the default is back
    assert [(stage.name, stage.steps) for stage in recipe.stages] == [("only", 100)]


def test_extends_names_a_shipped_recipe(folder: Path) -> None:
    assert load(write("extends: math\nseed: 5")).recipe.seed == 5


def test_shorthands_merge_like_what_they_are_short_for(folder: Path) -> None:
    write(SMALL + "runtime: {num_threads: 1}\nengine: torch", "parent.yaml")
    recipe = load(write("extends: parent.yaml\nruntime: inline")).recipe
    assert (recipe.runtime.mode, recipe.runtime.num_threads, recipe.engine.name) == ("inline", 1, "torch")
    recipe = load(write(SMALL + "runtime: ray"), ["runtime.num_threads=3"]).recipe
    assert (recipe.runtime.mode, recipe.runtime.num_threads) == ("ray", 3)
    recipe = load(write(SMALL), ["runtime.num_threads=3", "runtime=inline"]).recipe
    assert (recipe.runtime.mode, recipe.runtime.num_threads) == ("inline", 3)


@pytest.mark.parametrize("override", ["model=org/name", "model.path=org/name", "model={path: org/name}"])
def test_a_model_path_takes_the_place_of_an_inherited_init(folder: Path, override: str) -> None:
    for recipe in (load("math", [override]).recipe, load(write("extends: math\nmodel: org/name")).recipe):
        assert (recipe.model.path, recipe.model.init) == ("org/name", None)
    back = load("math", [override, "model.init.architecture=llama"]).recipe
    assert back.model.path is None
    assert back.model.init is not None


def test_a_stage_optimizer_states_only_what_differs(folder: Path) -> None:
    recipe = load("math", ["optimizer={name: adamw, weight_decay: 0.05}", "stages.grpo.optimizer.lr=3e-4"]).recipe
    optimizer = recipe.stages[2].optimizer
    assert optimizer is not None
    assert (optimizer.name, optimizer.weight_decay, optimizer.lr) == ("adamw", 0.05, 3e-4)
    assert load("math", ["stages.grpo.optimizer=null"]).recipe.stages[2].optimizer is None


def test_overrides_reach_list_items_by_index_and_by_name(folder: Path) -> None:
    overrides = ["stages.0.steps=1", "stages.cold_start.steps=2", "stages.grpo.sampling.max_tokens=9", "seed=4"]
    recipe = load("math", [*overrides, "optimizer={lr: 1e-4}", "description=any"]).recipe
    assert [stage.steps for stage in recipe.stages[:2]] == [1, 2]
    assert isinstance(recipe.stages[2], GrpoConfig)
    assert recipe.stages[2].sampling.max_tokens == 9
    assert recipe.stages[2].sampling.temperature == 1.0
    assert (recipe.seed, recipe.optimizer.lr, recipe.optimizer.name) == (4, 1e-4, "muon")
    assert load(write(SMALL), ["stages.sft.steps=8"]).recipe.stages[0].steps == 8  # by kind, where it has no name
    unmasked = load("math", ["stages.grpo.loss.off_policy_threshold=null"]).recipe.stages[2]
    assert isinstance(unmasked, GrpoConfig)
    assert unmasked.loss.off_policy_threshold is None


def loss_of(recipe: str, *overrides: str) -> LossConfig:
    stage = load(recipe, overrides).recipe.stages[-1]
    assert isinstance(stage, GrpoConfig)
    return stage.loss


def test_a_loss_by_its_name(folder: Path) -> None:
    stage = "stages: [{kind: sft}, {kind: grpo, loss: %s}]\nrewards: [{use: rewards.math:verify}]\n"
    base = yaml.safe_dump({key: value for key, value in yaml.safe_load(SMALL).items() if key not in ("stages", "rewards")})
    for text, expected in [
        ("dapo", DapoLossConfig()),
        ("{name: gspo, kl_coef: 0.1}", GspoLossConfig(kl_coef=0.1)),
        ("{kl_coef: 0.1, geometric_mask: [0.9, 1.1]}", GrpoLossConfig(kl_coef=0.1, geometric_mask=(0.9, 1.1))),
        ("{name: cispo, ratio_to: trainer, importance_cap: 2}", CispoLossConfig(ratio_to="trainer", importance_cap=2.0)),
    ]:
        path = write(stage % text + base)
        assert loss_of(path) == expected
        again = write(resolved_yaml(load(path).recipe), "elsewhere/recipe.yaml")
        assert loss_of(again) == expected
    parent = write(stage % "dr_grpo" + base, "parent.yaml")
    assert loss_of(write(f"extends: {parent}"), "stages.grpo.loss.clip=0.1") == DrGrpoLossConfig(clip=0.1)


@pytest.mark.parametrize("last", ["loss=dapo", "loss.name=dapo", "loss={name: dapo}"])
def test_another_loss_keeps_nothing_of_the_one_before(folder: Path, last: str) -> None:
    first = "stages.grpo.loss={name: gspo, clip: 1e-3, kl_coef: 0.1}"
    assert loss_of("math", first, f"stages.grpo.{last}") == DapoLossConfig()
    assert loss_of("math", f"stages.grpo.{last}", "stages.grpo.loss.clip=0.1") == DapoLossConfig(clip=0.1)
    assert loss_of("math", first, "stages.grpo.loss={clip: 2e-3}") == GspoLossConfig(clip=2e-3, kl_coef=0.1)


# Mistakes in a file

BAD_FILES = {
    "unknown key": ("optimizr: {}", "r.yaml:7: optimizr: unknown key; allowed: extends, name,", "did you mean optimizer?"),
    "nested key": ("optimizer:\n  lr: 1\n  warmup: 3", "r.yaml:9: optimizer.warmup: unknown key", "mean warmup_steps?"),
    "text for int": ('seed: "3"', 'r.yaml:7: seed: got "3"; allowed: a whole number, without quotes'),
    "bool for int": ("seed: true", "r.yaml:7: seed: got true; allowed: a whole number"),
    "float for int": ("seed: 3.0", "r.yaml:7: seed: got 3.0; allowed: a whole number"),
    "text for bool": ("engine: {deterministic: yes}", 'engine.deterministic: got "yes"; allowed: true or false'),
    "number for text": ("description: 3", "r.yaml:7: description: got 3; allowed: text"),
    "mapping for list": ("rewards: {use: x}", 'r.yaml:7: rewards: got {"use": "x"}; allowed: a list'),
    "list for mapping": ("engine: []", "r.yaml:7: engine: got []; allowed: a mapping (key: value)"),
    "short list": ("optimizer: {betas: [0.9]}", "r.yaml:7: optimizer.betas: got [0.9]; allowed: a longer list"),
    "bound": ("optimizer:\n  lr: -1", "r.yaml:8: optimizer.lr: got -1; allowed: more than 0"),
    "upper bound": ("optimizer: {momentum: 2}", "optimizer.momentum: got 2; allowed: at most 1"),
    "choice": ("optimizer: {name: adam}", "got \"adam\"; allowed: 'muon' or 'adamw'; did you mean adamw?"),
    "null": ("seed: null", "r.yaml:7: seed: got null; allowed: a whole number"),
    "name": ("name: a/b", 'r.yaml:7: name: got "a/b"; allowed: letters, digits'),
    "infinity": ("seed: .inf", "r.yaml:7: got .inf; allowed: a finite number"),
    "two keys": ("seed: 1\nseed: 2", "r.yaml:8: seed: written twice, first at r.yaml:7; remove one"),
    "number as key": ("3: x", "r.yaml:7: a key must be text: got 3; put it in quotes"),
    "yaml": ("seed: [1", "r.yaml:8: not valid YAML: expected ',' or ']'"),
    "tab": ("\tseed: 1", "r.yaml:7: not valid YAML: found character '\\t'"),
    "tag": ("seed: !!python/object:os.system {}", "r.yaml:7: seed: got {}; allowed: a whole number"),
    "own tag": ("seed: !what 3", "r.yaml:7: not valid YAML: could not determine a constructor"),
    "binary": ("description: !!binary aGk=", "r.yaml:7: got tag:yaml.org,2002:binary; allowed: text"),
    "recursion": ("engine: &a {x: *a}", "r.yaml:7: an anchor that contains itself"),
    "documents": ("---\nseed: 1", "r.yaml:7: not valid YAML: but found another document"),
    "extends missing": ("extends: mth", 'r.yaml:7: extends: got "mth", no such recipe', "did you mean math?"),
    "extends list": ("extends: [a]", 'r.yaml:7: extends: got ["a"]; allowed: one recipe file or name'),
    "extends itself": ("extends: r.yaml", "r.yaml:7: extends: got r.yaml, a circle (r.yaml -> r.yaml)"),
    "long evaluation": (
        "engine: {max_seq_len: 64}",
        "evaluation.sampling.max_tokens: got 256; allowed: at most engine.max_seq_len, 64",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_mistake_is_named_with_its_line(folder: Path, case: str) -> None:
    added, *pieces = BAD_FILES[case]
    (line,) = problems(SMALL + added + "\n")
    for piece in pieces:
        assert piece in line


BAD_PARTS = {
    "no model": ("model: {dtype: float32}", "model: got neither; allowed: exactly one of path"),
    "two models": ("model: {path: a/b, init: {}}", "model: got both; allowed: exactly one of path"),
    "adapters beside random weights": ("model: {init: {}, lora: {}}", "model.lora: got adapters beside random weights"),
    "adapters with muon": (
        "model: {path: a/b, lora: {rank: 4}}",
        "optimizer.name: got muon beside model.lora; allowed: adamw",
    ),
    "adapters with a stage's muon": (
        "model: {path: a/b, lora: {}}\noptimizer: {name: adamw}\nstages: [{kind: sft, optimizer: {name: muon}}]",
        "stages.0.optimizer.name: got muon",
    ),
    "no sources": ("data: {sources: []}", "data.sources: got []; allowed: at least one source"),
    "no source": ("data: {sources: [{weight: 1}]}", "data.sources.0: got neither; allowed: exactly one of generator"),
    "two sources": (
        "data: {sources: [{generator: arithmetic, dataset: x}]}",
        "data.sources.0: got both; allowed: exactly one of generator and dataset",
    ),
    "options": (
        "data: {sources: [{dataset: x, options: {a: 1}, columns: {response: r}}]}",
        'data.sources.0.options: got {"a": 1}; allowed only beside a generator; remove them',
    ),
    "generator": (
        "data: {sources: [{generator: aritmetic}, {generator: arithmetic}]}",
        'data.sources.0.generator: got "aritmetic"; allowed: arithmetic, programs, ',
    ),
    "package": (
        "data: {sources: [{generator: reasoninggym/gcd}, {generator: arithmetic}]}",
        "did you mean reasoning_gym/gcd?",
    ),
    "no demonstrations": ("data: {sources: [{dataset: a/b}]}", "data.sources.0: no source has demonstrations"),
    "no stages": ("stages: []", "stages: got []; allowed: at least one stage"),
    "no kind": ("stages: [{steps: 3}]", "stages.0.kind: missing; allowed: 'sft', 'grpo'"),
    "kind": ("stages: [{kind: grp}]", "stages.0.kind: got \"grp\"; allowed: 'sft', 'grpo'; did you mean grpo?"),
    "no stage": ("stages: [3]", "stages.0: got 3; allowed: a mapping"),
    "stage key": ("stages: [{kind: grpo, group: 3}]", "stages.0.group: unknown key; allowed: kind,", "mean group_size?"),
    "deep key": ("stages: [{kind: grpo, sampling: {topk: 1}}]", "stages.0.sampling.topk: unknown key", "mean top_k?"),
    "group": ("stages: [{kind: grpo, group_size: 1}]", "stages.0.group_size: got 1; allowed: at least 2"),
    "mixture": ("stages: [{kind: sft, mixture: {a: 0}}]", "stages.0.mixture.a: got 0; allowed: more than 0"),
    "no reward": ("stages: [{kind: grpo}]", "rewards: got []; allowed: at least one, for the grpo stage grpo"),
    "names": ("stages: [{kind: sft}, {kind: sft}]", 'stages.1.name: got "sft", as stage 0; allowed: a name of its own'),
    "stage name": ("stages: [{kind: sft, name: '7'}]", 'stages.0.name: got "7"; allowed: letters'),
    "long": (
        "stages: [{kind: grpo, sampling: {max_tokens: 4000}}]\nrewards: [{use: a:b}]",
        "stages.0.sampling.max_tokens: got 4000; allowed: at most engine.max_seq_len, 2048",
    ),
    "loss": ("stages: [{kind: grpo, loss: dappo}]", "stages.0.loss.name: got \"dappo\"; allowed: 'grpo', ", "mean dapo?"),
    "loss key": ("stages: [{kind: grpo, loss: {clp: 1}}]", "stages.0.loss.clp: unknown key; allowed: name, ", "mean clip?"),
    "key of another loss": ("stages: [{kind: grpo, loss: {name: cispo, clip: 1}}]", "stages.0.loss.clip: unknown key"),
    "loss value": ("stages: [{kind: grpo, loss: {name: dapo, clip: 0}}]", "stages.0.loss.clip: got 0; allowed: more than 0"),
    "no loss": ("stages: [{kind: grpo, loss: null}]", "stages.0.loss: got null; allowed: a mapping"),
    "kl": ("stages: [{kind: grpo, loss: {kl: k5}}]", "stages.0.loss.kl: got \"k5\"; allowed: 'k1', ", "did you mean k3?"),
    "geometric mask": (
        "stages: [{kind: grpo, loss: {geometric_mask: [1.1, 1.2]}}]",
        "stages.0.loss.geometric_mask.0: got 1.1; allowed: less than 1",
    ),
    "importance cap": (
        "stages: [{kind: grpo, loss: {name: gspo, importance_cap: 2}}]\nrewards: [{use: a:b}]",
        "stages.0.loss.importance_cap: got 2 with ratio_to: sampler",
        "allowed: null, or ratio_to: trainer beside it",
    ),
    "overlong with tools": (
        "stages: [{kind: grpo, overlong: {buffer_tokens: 30}}]\nrewards: [{use: a:b}]\ntools: [{use: calculator}]",
        "stages.0.overlong.max_tokens: got null with tools, where sampling.max_tokens bounds one turn alone",
    ),
    "overlong": (
        "stages: [{kind: grpo, overlong: {buffer_tokens: 300}}]\nrewards: [{use: a:b}]",
        "stages.0.overlong.buffer_tokens: got 300; allowed: at most overlong.max_tokens, 256",
    ),
    "what vllm cannot do": (
        "engine: {name: vllm, deterministic: true}",
        "engine.deterministic: got true with vllm (vLLM's kernels are not asked for it); allowed: with torch",
    ),
    "what only vllm does": ("engine: {compile: true}", "engine.compile: got true with torch; allowed: with vllm"),
    "cache": ("engine: {kv_cache_bytes: 7}", "engine.kv_cache_bytes: got 7 with torch; allowed: with vllm"),
    "engine": ("engine: vlm", "engine.name: got \"vlm\"; allowed: 'torch' or 'vllm'; did you mean vllm?"),
    "reward key": ("rewards: [{usee: a}]", "rewards.0.use: missing", "rewards.0.usee: unknown key", "mean use?"),
}


@pytest.mark.parametrize("case", BAD_PARTS)
def test_a_part_that_does_not_fit_is_named(folder: Path, case: str) -> None:
    part, *pieces = BAD_PARTS[case]
    keys = yaml.safe_load(part)
    rest = {key: value for key, value in yaml.safe_load(SMALL).items() if key not in keys}
    text = "\n".join(problems(f"{part}\n{yaml.safe_dump(rest)}"))
    assert text.startswith("r.yaml:")
    for piece in pieces:
        assert piece in text


def test_all_problems_are_listed_each_in_the_file_that_has_it(folder: Path) -> None:
    write(SMALL + "seed: x\n", "parent.yaml")
    found = problems("extends: parent.yaml\noptimizer:\n  lr: 0\n  epz: 1\n")
    assert [line.split(": ")[:2] for line in sorted(found)] == [
        ["parent.yaml:7", "seed"],
        ["r.yaml:3", "optimizer.lr"],
        ["r.yaml:4", "optimizer.epz"],
    ]


def test_a_recipe_that_lacks_parts_says_which(folder: Path) -> None:
    found = problems("seed: 1")
    assert [line.split(": ")[1] for line in found] == ["model", "data", "stages"]
    assert "r.yaml:1: model: missing; write it here, or in a recipe that this one extends" in found


def test_a_longer_circle_is_shown(folder: Path) -> None:
    write("extends: r.yaml", "b.yaml")
    assert "circle (r.yaml -> b.yaml -> r.yaml)" in problems("extends: b.yaml")[0]


@pytest.mark.parametrize(("text", "piece"), [("", "the file is empty"), ("- 1", "got [1]; allowed: a mapping")])
def test_a_file_that_is_no_mapping(folder: Path, text: str, piece: str) -> None:
    assert problems(text)[0].startswith(f"r.yaml:1: {piece}")


def test_a_file_that_is_no_text(folder: Path) -> None:
    Path("r.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match=r"r\.yaml: cannot be read as UTF-8 text"):
        load("r.yaml")


@pytest.mark.parametrize(
    ("name", "piece"),
    [
        ("maths", 'got "maths", no such recipe; allowed: a YAML file or a shipped recipe (agent, code, '),
        ("", "no such recipe"),
        ("x" * 9999, ""),
    ],
)
def test_no_such_recipe(folder: Path, name: str, piece: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load(name)
    assert piece in str(caught.value)


# Mistakes in an override

BAD_OVERRIDES = {
    "seed": "override 'seed': allowed: key=value, such as seed=1",
    "=3": "override '=3': allowed: key=value",
    "seed=x": "override 'seed=x': seed: got \"x\"; allowed: a whole number",
    "seed.deep=3": "override 'seed.deep=3': seed: is 9, which holds no key deep",
    "seed=[3": "override 'seed=[3': not valid YAML",
    "optimizer.lrr=1": "override 'optimizer.lrr=1': optimizer.lrr: unknown key; allowed: name, lr,",
    "stages.gpro.steps=3": "override 'stages.gpro.steps=3': stages: got gpro; allowed: 0 to 0, sft",
    "stages.1.steps=3": "override 'stages.1.steps=3': stages: got 1; allowed: 0 to 0, sft",
    "stages.sft.step=3": "stages.0.step: unknown key; allowed: kind, name, steps, ",
    "data.sources.0.dataset=x": "override 'data.sources.0.dataset=x': data.sources.0: got both; allowed: exactly one",
    "extends=math": "override 'extends=math': `extends` belongs in a recipe file",
    "seed=": "override 'seed=': seed: got null; allowed: a whole number",
}


@pytest.mark.parametrize("override", BAD_OVERRIDES)
def test_a_mistake_in_an_override_names_the_override(folder: Path, override: str) -> None:
    (line,) = problems(SMALL + "seed: 9", override)
    assert BAD_OVERRIDES[override] in line


# The files that a recipe names

ROW = '{"question": "2+3?", "gold": "5"}\n'
GRPO = 'model: {init: {}}\nrewards: [{use: "rewards.math:verify"}]\nstages: [{kind: grpo}]\n'


def data_problems(source: str) -> tuple[str, ...]:
    return problems(f"{GRPO}data:\n  sources:\n    - {source}\n", files=True)


def test_a_data_set_that_fits(folder: Path) -> None:
    write(ROW, "set/tasks.jsonl")
    source = "{dataset: set/tasks.jsonl, columns: {prompt: question, answer: gold}}"
    loaded = load(write(f"{GRPO}data: {{sources: [{source}]}}"))
    check_files(loaded)
    assert loaded.recipe.data.sources[0].dataset == str(folder / "set/tasks.jsonl")


def test_relative_paths_start_beside_the_recipe_then_in_the_working_folder(folder: Path) -> None:
    source = "data: {sources: [{dataset: tasks.jsonl, columns: {prompt: question, answer: gold}}]}"
    write(ROW, "tasks.jsonl")
    recipe = write(GRPO + source, "deep/r.yaml")
    assert load(recipe).recipe.data.sources[0].dataset == str(folder / "tasks.jsonl")
    write(ROW, "deep/tasks.jsonl")
    assert load(recipe).recipe.data.sources[0].dataset == str(folder / "deep/tasks.jsonl")
    write(f"extends: {recipe}", "child.yaml")
    assert load("child.yaml").recipe.data.sources[0].dataset == str(folder / "deep/tasks.jsonl")


def test_a_data_set_that_does_not_fit(folder: Path) -> None:
    write(ROW, "tasks.jsonl")
    (line,) = data_problems("dataset: taks.jsonl")
    assert line.startswith('r.yaml:6: data.sources.0.dataset: got "taks.jsonl", no such file in .')
    assert line.endswith("did you mean tasks.jsonl?")
    prompt, answer = data_problems("{dataset: tasks.jsonl, columns: {prompt: questions}}")
    assert "r.yaml:6: data.sources.0.columns.prompt" in prompt
    assert 'got "questions", which tasks.jsonl lacks; allowed: question, gold; did you mean question?' in prompt
    assert "data.sources.0.columns.answer" in answer
    for name, text, piece in (
        ("empty.jsonl", "", "the first line is empty; allowed: one JSON object a line"),
        ("broken.jsonl", "{", "the first line is not JSON"),
        ("list.jsonl", "[1]\n", "the first line is [1]; allowed: one JSON object a line"),
        ("tasks.txt", "x", "unknown kind of file; allowed: .jsonl or .parquet"),
        ("broken.parquet", "x", "not a Parquet file"),
        ("empty/readme.md", "x", None),
    ):
        write(text, name)
        (line,) = data_problems(f"dataset: {name if piece else './empty'}")
        assert (piece or "a folder without data") in line


def test_a_parquet_file_is_checked_by_its_schema(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    parquet.write_table(pa.table({"prompt": ["2+3?"], "answr": ["5"]}), "tasks.parquet")
    (line,) = data_problems("dataset: tasks.parquet")
    assert 'columns.answer: got "answer", which tasks.parquet lacks; allowed: prompt, answr; did you mean answr?' in line
    parquet.write_table(pa.table({"prompt": pa.array([], pa.string())}), "none.parquet")
    assert "has no rows" in data_problems("dataset: none.parquet")[0]


def test_generator_options_and_styles_are_checked(folder: Path) -> None:
    def found(options: str, mixture: str = "{}") -> tuple[str, ...]:
        text = f"data: {{sources: [{{generator: arithmetic, options: {options}}}]}}\n"
        stage = f"model: {{init: {{}}}}\nstages:\n- kind: sft\n  mixture: {mixture}\n"
        return problems(text + stage, files=True)

    assert found("{kindz: [add]}") == (
        "r.yaml:1: data.sources.0.options.kindz: unknown key; allowed: kinds; did you mean kinds?",
    )
    (line,) = found("{kinds: [ad]}")
    assert line.startswith('r.yaml:1: data.sources.0.options: got {"kinds": ["ad"]}: kinds: got')
    assert found("{}", "{carefull: 1}") == (
        "r.yaml:5: stages.0.mixture.carefull: unknown style; allowed: careful, sloppy; did you mean careful?",
    )


def test_a_model_folder(folder: Path) -> None:
    def model_problems(model: str) -> str:
        return problems(f"{SMALL.partition(chr(10))[2]}model: {model}\n", files=True)[0]

    assert 'r.yaml:6: model.path: got "./no", no such folder' in model_problems("./no")
    Path("runs/math").mkdir(parents=True)
    assert "did you mean runs/math?" in model_problems("runs/mth")
    assert "which lacks config.json" in model_problems("runs/math")
    write("{}", "runs/math/config.json")
    assert "lacks a tokenizer; allowed: a folder with one of tokenizer.json" in model_problems("runs/math")
    assert "a file; allowed: the folder of a model" in model_problems("r.yaml")
    assert "no such folder" in model_problems("a/b/c")
    write("{}", "runs/math/tokenizer.json")
    check_files(load(write(SMALL), ["model=runs/math"]))
    write("{}", "runs/old/manifest.json")
    Path("runs/old/checkpoints").mkdir()
    assert "a run without a checkpoint yet" in model_problems("runs/old")
    Path("runs/old/checkpoints/step-3").mkdir()
    check_files(load(write(SMALL), ["model=runs/old"]))
    check_files(load(write(SMALL), ["model=org/name"]))


REWARDS = """\
from math import floor
try:
    from math import cbrt as root
except ImportError:
    if True:
        bound: object = floor
def verify(completion, answer, *, strict=True): ...
async def wait(completion): ...
def odd(completon): ...
def many(boxes): ...
def first(completion, /): ...
"""
BAD_REWARDS = {
    "mine": "allowed: path/to/file.py:function or package.module:function",
    "no.py:verify": "no such file in .",
    "mine.py:verfy": "but mine.py defines no verfy; allowed: verify, wait, odd, many, first; did you mean verify?",
    "mine.py:odd": "odd asks for completon; allowed: task, transcript, completion, answer, prompt, box, boxes, one of its "
    "options, and columns of the data (none); did you mean completion?",
    "mine.py:many": "asks for boxes, which are for `async def`",
    "mine.py:first": "positional-only parameter completion",
    "broken.py:f": "broken.py is not valid Python",
    "rewards.maths:verify": "no such module; allowed: a module that is installed or on PYTHONPATH, or "
    "path/to/file.py:function; did you mean rewards.math?",
    "rewards.math:verfy": "but math.py defines no verfy; allowed: ",
    "no_such_package.x:f": "no such module",
}


@pytest.mark.parametrize("use", BAD_REWARDS)
def test_a_reward_that_is_not_there(folder: Path, use: str) -> None:
    write(REWARDS, "mine.py")
    write("def f(:", "broken.py")
    (line,) = problems(f'{SMALL}rewards:\n  - use: "{use}"\n', files=True)
    assert line.startswith(f'r.yaml:8: rewards.0.use: got "{use}"')  # as it was written, not as an absolute path
    assert BAD_REWARDS[use] in line


GOOD_REWARDS = [
    *(f"mine.py:{name}" for name in ("verify", "wait", "floor", "root", "bound")),
    "rewards.math:verify",
    "trl.rewards:think_format_reward",  # of a module that imports what it has when it is asked for
]


@pytest.mark.parametrize("use", GOOD_REWARDS)
def test_a_reward_that_is_there(folder: Path, use: str) -> None:
    write(REWARDS, "deep/mine.py")
    loaded = load(write(f'{SMALL}rewards: [{{use: "{use}"}}]', "deep/r.yaml"))
    check_files(loaded)
    absolute = f"{folder}/deep/{use}" if use.startswith("mine") else use
    assert loaded.recipe.rewards[0].use == absolute


def test_a_name_that_only_the_import_shows_is_not_judged(folder: Path) -> None:
    write("from math import *", "mine.py")
    check_files(load(write(f'{SMALL}rewards: [{{use: "mine.py:floor"}}]')))


def test_what_a_reward_asks_for_is_looked_for_in_the_data(folder: Path) -> None:
    write("def f(completion, level): ...\ndef g(completion, *, scale=1.0): ...", "mine.py")
    write('{"prompt": "a", "answer": "1", "levle": 3}\n', "d.jsonl")
    data = SMALL.replace("generator: arithmetic", "dataset: d.jsonl, columns: {response: answer}")
    (line,) = problems(f'{data}rewards:\n  - use: "mine.py:f"\n', files=True)
    assert "f asks for level; allowed: task, transcript" in line
    assert line.endswith("columns of the data (levle); did you mean levle?")  # prompt and response have their places
    write('{"prompt": "a", "answer": "1", "level": 3}\n', "d.jsonl")
    check_files(load(write(f'{data}rewards:\n  - use: "mine.py:f"\n')))
    (line,) = problems(f'{data}rewards:\n  - use: "mine.py:g"\n    options: {{scael: 2}}\n', files=True)
    assert "r.yaml:9: rewards.0.use" in line or "r.yaml:8: rewards.0.use" in line
    assert "g takes no option scael; allowed: scale; did you mean scale?" in line


@pytest.mark.parametrize(
    ("sandbox", "message"),
    [
        ("{layer: container}", "sandbox.image: got null with the container layer; allowed: an image's name"),
        ("{image: debian}", 'sandbox.image: got "debian" with the function layer'),
        ("{runtime: runsc}", "sandbox.runtime: got runsc with the function layer; allowed: with the container layer"),
        ("{layer: container, image: no-such-image}", 'sandbox.image: got "no-such-image"; allowed: '),
        ("{layer: containre, image: a}", "sandbox.layer"),
    ],
)
def test_a_sandbox_that_cannot_be(folder: Path, sandbox: str, message: str) -> None:
    (line,) = problems(f"{SMALL}sandbox: {sandbox}\n", files="no-such" in sandbox)
    assert message in line


# The JSON schema and the plan


def test_the_committed_schema_is_current() -> None:
    assert (FOLDER / "schema.json").read_text() == schema_text(), "run: polymath recipes schema > recipes/schema.json"


def test_the_schema_accepts_what_the_loader_accepts() -> None:
    validator = jsonschema.Draft202012Validator(json_schema())
    validator.check_schema(json_schema())
    for path in [*shipped().values(), FOLDER / "base.yaml"]:
        validator.validate(parse_file(path, path.name).plain())
    validator.validate({"extends": "math", "model": "a/b", "engine": "torch", "runtime": "inline", "data": {}})
    validator.validate(load("math").recipe.model_dump(mode="json"))
    for loss in ("dapo", {"kl_coef": 0.1}, {"name": "cispo", "max_ratio": 4}):
        validator.validate({"stages": [{"kind": "grpo", "loss": loss}]})
    for loss in ("dappo", {"max_ratio": 4}, {"name": "cispo", "clip": 0.1}, None):
        assert not validator.is_valid({"stages": [{"kind": "grpo", "loss": loss}]}), loss
    for bad in ({"sed": 1}, {"seed": "1"}, {"stages": [{}]}, {"runtime": "inlin"}, {"optimizer": {"lr": 0}}):
        assert not validator.is_valid(bad), bad


def test_a_recipe_built_in_python_is_checked_too() -> None:
    with pytest.raises(ValueError, match="stages: got \\[\\]; allowed: at least one stage"):
        Recipe.model_validate(load("math").recipe.model_copy(update={"stages": ()}).__dict__)


def test_the_plan_counts_tokens_and_parameters(folder: Path) -> None:
    recipe = load("math", ["runtime.num_threads=2"]).recipe
    size = model_size(recipe)
    assert size is not None
    assert size.parameters == 512 * 128 + 4 * (2 * 128 * 128 + 2 * 128 * 64 + 3 * 128 * 384) + 9 * 128
    shown = plan(recipe)
    assert [stage.name for stage in shown.stages] == ["base", "cold_start", "grpo"]
    assert plan(load("math", ["model=org/name"]).recipe).stages[0].name == "evaluation"  # of the model it begins with
    assert all(stage.time_s and stage.memory_bytes for stage in shown.stages)
    assert "an estimate from 6N FLOP" in shown.text()
    unknown = plan(load("math", ["model=org/name"]).recipe)
    assert unknown.parameters is None
    assert "parameters unknown until the model is read" in unknown.text()
    assert "time unknown" in unknown.text()


def test_the_plan_reads_a_local_model_by_its_header(folder: Path) -> None:
    header = json.dumps({"model.embed_tokens.weight": {"shape": [10, 4]}, "w": {"shape": [4, 4]}, "n": {"shape": [4]}})
    Path("m").mkdir()
    Path("m/model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header.encode())
    size = model_size(load("math", ["model=m"]).recipe)
    assert size is not None
    assert (size.parameters, size.hidden) == (60, 16)
    names = [f"stages.{stage}.optimizer.name=adamw" for stage in ("base", "cold_start", "grpo")]
    memory = [
        plan(load("math", ["model=m", *names, *more]).recipe).stages[1].memory_bytes
        for more in ([], ["model.lora.rank=8"], ["model.lora.rank=8", "model.dtype=bfloat16"])
    ]
    assert [memory[0] - m for m in memory[1:] if m and memory[0]] == [3 * 4 * 60, 3 * 4 * 60 + 2 * 16]
    shutil.rmtree("m")


def test_every_mistake_in_tools_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(
        "extends: agent\n"
        "tools:\n"
        "  - use: pyton\n"
        "  - {use: nofile.py:f}\n"
        "  - {use: shell, mcp: {command: [x]}}\n"
        "  - {use: lookup}\n"
        "model:\n"
        "  chat: {wording: nowhere.yaml}\n"
    )
    with pytest.raises(RecipeError) as error:
        check_files(load(tmp_path / "bad.yaml"))
    found = str(error.value).splitlines()
    wanted = [
        ":3: .*did you mean 'python'", ":4: .*nofile.py:f.*no such file", ":5: .*exactly one of them",
        ":6: .*options.path: got None", ":8: model.chat.wording: .*nowhere.yaml.*cannot be read",
    ]  # fmt: skip
    assert len(found) == len(wanted)
    for line, pattern in zip(found, wanted, strict=True):
        assert re.search(pattern, line), line
    with pytest.raises(RecipeError, match="as tool 0; allowed: once"):
        load("agent", ["tools=[{use: shell}, {use: shell}]"])
