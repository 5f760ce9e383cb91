"""Programming tasks: words that fix the program, plans in its order, hidden tests that no program with one mistake passes."""

from __future__ import annotations

import ast
import asyncio
import random
import re
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import datasets
import pytest

from recipes.load import load
from rewards.boxes import Boxes
from rewards.code import verify
from rewards.config import SandboxConfig
from rewards.task import Task, is_held_out
from specialists.config import DataConfig, SourceConfig
from specialists.data import load_data
from specialists.datasets import load_dataset_examples
from specialists.example import Example
from specialists.pipelines import OPERATIONS
from specialists.programs import KINDS, generate
from tests.hub_folders import write_problems

datasets.disable_progress_bars()
NEEDS_BWRAP = pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bubblewrap: apt-get install bubblewrap")
NAMES = {f.__name__: f for f in (sorted, list, dict, sum, len, max, min)}


def draw(count: int, seed: int = 0, **options: Any) -> list[Example]:
    rng = random.Random(seed)
    return [generate(rng, **options) for _ in range(count)]


@cache
def function(text: str) -> Callable[[list[int]], Any]:
    space: dict[str, Any] = {"__builtins__": NAMES}
    exec(text, space)
    solve: Callable[[list[int]], Any] = space["solve"]
    return solve


def passes(task: Task, text: str) -> bool:
    return all(result(text, *test["args"]) == test["expected"] for test in task.data["tests"])


def result(text: str, xs: list[int]) -> Any:
    try:
        return function(text)(list(xs))
    except (TypeError, ValueError, ZeroDivisionError, AttributeError) as error:
        return type(error).__name__


# ---- what is asked, and what is shown


def phrases() -> dict[str, tuple[str, str]]:
    """Every way to name a step without an example, with the step's expression and its name in a plan."""
    steps = [operation.at(number) for operation in OPERATIONS for number in operation.numbers]
    return {phrase: (step.expression, step.name) for step in steps for phrase in step.phrases}


def read(task: Task) -> list[tuple[str, str]]:
    """The steps that the prompt asks for, in the order in which they run, read from its words alone."""
    text = re.sub(r"^(Write solve\(xs\): |solve\(xs\) gets a list: |Program solve\(xs\) to )|\.$", "", task.prompt)
    if " after you " in text:
        parts = text.split(" after you ")[::-1]
    elif ends := re.fullmatch("at the end (.*), at the start (.*), in between (.*)", text):
        parts = [ends[2], *re.split(", then |; | and then ", ends[3]), ends[1]]
    elif before := re.fullmatch("(.*), but before that (.*)", text):
        parts = [*re.split(", then |; | and then ", before[2]), before[1]]
    else:
        parts = re.split(", then |; | and then ", text)
    return [phrases()[plain(part)] for part in parts]


def plain(part: str) -> str:
    """A step that is shown by an example, with its number named."""
    found = re.fullmatch(r"(add|take) the same (?:to|from) each so that (\d+) becomes (\d+)", part)
    if not found:
        return part
    change = int(found[3]) - int(found[2])
    return f"add {change} to each" if found[1] == "add" else f"take {-change} from each"


def test_the_words_fix_the_program_and_the_plan_names_its_steps_in_order() -> None:
    for example in draw(200):
        steps = read(example.task)
        lines = [re.sub(r"^ +(xs =|return) ", "", line) for line in (example.task.answer or "").splitlines()[1:]]
        assert [expression for expression, _ in steps] == lines, example.task.prompt
        plan = (example.demonstrations[0].response.reasoning or "").split("; ")
        assert plan[-len(steps) :] == [name for _, name in steps]


def test_an_example_s_number_is_worked_out_first() -> None:
    for example in draw(80, kinds=("number",)):
        work = (example.demonstrations[0].response.reasoning or "").split("; ")[0]
        large, small, number = re.fullmatch(r"(\d+)-(\d)=(\d)", work).groups()  # type: ignore[union-attr]
        assert int(large) - int(small) == int(number)
        assert f"{small} becomes {large}" in example.task.prompt or f"{large} becomes {small}" in example.task.prompt
        assert number in (example.task.answer or "")


def test_careful_programs_pass_and_sloppy_ones_mostly_do_not() -> None:
    examples = draw(300)
    for example in examples:
        careful, sloppy = example.demonstrations
        assert (careful.style, sloppy.style) == ("careful", "sloppy")
        assert careful.response.content == example.task.answer
        assert passes(example.task, careful.response.content)
        assert sloppy.response.reasoning in ("", "easy", "just write it")
    passed = sum(passes(e.task, e.demonstrations[1].response.content) for e in examples)
    assert 0.08 < passed / len(examples) < 0.25


@NEEDS_BWRAP
def test_the_verifier_agrees_in_boxes() -> None:
    """Careful programs are worth 1, and sloppy ones what they are worth by these tests' own account."""
    examples = draw(4, seed=11)
    pairs = [(e.task, d.response) for e in examples for d in e.demonstrations]

    async def scores() -> list[float | None]:
        boxes = Boxes(SandboxConfig(num_boxes=2))
        found = [await verify(task, f"<think>{r.reasoning}</think>{r.content}", boxes, wall_s=280.0) for task, r in pairs]
        await boxes.close()
        return [score.value for score in found]

    wanted = [float(passes(task, response.content)) for task, response in pairs]
    assert asyncio.run(scores()) == wanted
    assert wanted[::2] == [1.0] * 4
    assert wanted.count(0.0) >= 2


@NEEDS_BWRAP
def test_reference_programs_of_a_data_set_with_asserts_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`recipes/gpu/code_qwen3.yaml` on a folder like the hub's: its columns are what the verifier reads."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    recipe = load("gpu/code_qwen3", [f"data.sources.0.dataset={write_problems(tmp_path / 'problems', 1)}"]).recipe
    train, held_out = load_dataset_examples(recipe.data.sources[0], 0.1, domain="code")
    tasks = [*(e.task for e in train), *held_out]
    assert len(tasks) == 2

    async def score(task: Task, program: str) -> float | None:
        return (await verify(task, f"```python\n{program}\n```", boxes, wall_s=280.0)).value

    async def scores() -> list[float | None]:
        found = [await score(task, task.answer or "") for task in tasks]
        found += [await score(task, (task.answer or "").replace(" > ", " >= ")) for task in tasks]
        await boxes.close()
        return found

    boxes = Boxes(SandboxConfig(num_boxes=2))
    assert asyncio.run(scores()) == [1.0] * 2 + [0.0] * 2


# ---- hidden tests


def one_edit(text: str) -> Iterator[str]:
    """Programs that differ from `text` in one place, made from its syntax tree: nothing here knows how tests are chosen."""
    for path in range(len(ast.parse(text).body[0].body)):  # type: ignore[attr-defined]
        for change in (drop, swap):
            tree = ast.parse(text)
            if change(tree.body[0].body, path):  # type: ignore[attr-defined]
                yield ast.unparse(tree)
    for index, node in enumerate(ast.walk(ast.parse(text))):
        for choice in range(len(choices(node))):
            tree = ast.parse(text)
            target = list(ast.walk(tree))[index]
            field, value = choices(target)[choice]
            setattr(target, field, value)
            yield ast.unparse(tree)


def drop(body: list[ast.stmt], place: int) -> bool:
    """Without this line; where it was the last, the one before returns."""
    if len(body) < 2:
        return False
    del body[place]
    last = body[-1]
    if isinstance(last, ast.Assign):
        body[-1] = ast.Return(last.value)
    return True


def swap(body: list[ast.stmt], place: int) -> bool:
    """What this line computes and what the next one does, the other way round."""
    if place + 1 == len(body):
        return False
    one, two = body[place], body[place + 1]
    assert isinstance(one, ast.Assign)
    assert isinstance(two, ast.Assign | ast.Return)
    one.value, two.value = two.value, one.value  # type: ignore[assignment]
    return True


def choices(node: ast.AST) -> list[tuple[str, Any]]:
    """Other values of one field of this node."""
    if isinstance(node, ast.Constant):
        return (
            [("value", not node.value)] if isinstance(node.value, bool) else [("value", node.value + k) for k in (1, -1, 2, -2)]
        )
    if isinstance(node, ast.BinOp):
        return [("op", o()) for o in (ast.Add, ast.Sub, ast.Mult, ast.Mod, ast.FloorDiv) if not isinstance(node.op, o)]
    if isinstance(node, ast.Compare):
        others = (ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq)
        return [("ops", [o()]) for o in others if not isinstance(node.ops[0], o)]
    if isinstance(node, ast.UnaryOp):
        return [("op", ast.UAdd())]
    if isinstance(node, ast.Slice):
        return [("lower", node.upper), ("upper", node.lower), ("step", ast.Constant(2))]
    if isinstance(node, ast.Name) and node.id in ("sum", "len", "max", "sorted", "list"):
        return [("id", other) for other in ("sum", "len", "max", "min", "sorted", "list") if other != node.id]
    return []


def test_fewer_than_one_in_a_hundred_programs_with_one_mistake_pass_and_none_without_a_line() -> None:
    rng = random.Random(1)
    wide = [[rng.randint(-40, 40) for _ in range(rng.randint(0, 14))] for _ in range(150)]
    wide += [[rng.randint(-4, 9) for _ in range(rng.randint(0, 14))] for _ in range(150)]
    wrong = passed = shorter = 0
    for example in draw(40, seed=3):
        task, text = example.task, example.task.answer or ""
        truth = [result(text, xs) for xs in wide]
        for mutant in one_edit(text):
            good = passes(task, mutant)
            if any(result(mutant, xs) != value for xs, value in zip(wide, truth, strict=True)):  # else it is no mistake
                wrong += 1
                passed += good
                shorter += good and mutant.count("\n") < text.count("\n")
    assert wrong > 1000
    assert passed / wrong < 0.01
    assert shorter == 0


def test_no_fixed_result_passes() -> None:
    for example in draw(100):
        expected = [test["expected"] for test in example.task.data["tests"]]
        assert len({str(value) for value in expected}) >= 4


# ---- the source of tasks


def test_the_same_seed_gives_the_same_examples() -> None:
    assert draw(10, seed=7) == draw(10, seed=7)
    assert draw(10, seed=7) != draw(10, seed=8)


def test_kinds_and_lengths_are_the_ones_asked_for() -> None:
    assert {e.task.kind for e in draw(60)} == set(KINDS)
    assert {e.task.kind for e in draw(30, kinds=("order", "number"))} == {"order", "number"}
    assert {e.task.answer.count("\n") for e in draw(20, lengths=(3,)) if e.task.answer} == {3}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinds": ("plain", "tree")}, "kinds: .*plain, order, number"),
        ({"kinds": ()}, "kinds: .*plain, order, number"),
        ({"lengths": (2, 9)}, "lengths: got .*9.*allowed: 2, 3, 4"),
        ({"lengths": ()}, "lengths: .*allowed: 2, 3, 4"),
    ],
)
def test_wrong_options_are_refused_with_the_allowed_ones(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate(random.Random(0), **options)


def test_all_text_is_plain_ascii_and_the_domain_is_code() -> None:
    for example in draw(100):
        texts = [example.task.id, example.task.prompt, example.task.answer or ""]
        for demonstration in example.demonstrations:
            assert demonstration.task is example.task
            texts += [demonstration.response.content, demonstration.response.reasoning or ""]
        assert all(t.isascii() and t == t.strip() for t in texts)
        assert example.task.domain == "code"
        assert example.task.data["entry_point"] == "solve"


def test_a_program_is_never_on_both_sides_in_other_words() -> None:
    data = DataConfig(sources=(SourceConfig(generator="programs"),), num_train=100, num_eval=40, held_out_share=0.3)
    loaded = load_data(data, domain="code", seed=0)
    assert not {e.task.answer for e in loaded.train} & {t.answer for t in loaded.held_out}
    assert {t.kind for t in loaded.held_out[:30]} == set(KINDS)
    tasks = [e.task for e in draw(300)]
    assert len({t.problem for t in tasks}) > 270
    assert 0.2 < sum(is_held_out(t, 0.3) for t in tasks) / len(tasks) < 0.4
