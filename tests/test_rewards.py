"""Rewards: the mathematics verifier against honest and cheating answers, rewards by name, and scoring."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from rewards.calls import Caller
from rewards.config import RewardConfig, SandboxConfig
from rewards.errors import UserError
from rewards.plugin import Reward, RewardSource, build, load_reward, read_source
from rewards.result import RewardResult, Score, ScoreStatus
from rewards.score import Scorer, is_correct
from rewards.task import Message, Role, Task
from rewards.transcript import Transcript

ROOT = Path(__file__).resolve().parents[1]


def make_task(answer: str | None = "42") -> Task:
    return Task("add/1", "math", (Message(Role.USER, "What is 6*7?"),), answer=answer)


# ---- rewards.config ----


def test_reward_config_refuses_unknown_keys() -> None:
    adapter = TypeAdapter(RewardConfig)
    assert adapter.validate_python({"use": "a:b"}) == RewardConfig(use="a:b", weight=1.0)
    with pytest.raises(ValidationError, match="wieght"):
        adapter.validate_python({"use": "a:b", "wieght": 2})


# ---- rewards.plugin ----

CODE = """
from __future__ import annotations
from dataclasses import dataclass

@dataclass
class Length:
    value: int

def short(completion: str) -> float:
    return 1.0 / Length(len(completion) + 1).value

def everything(prompt, answer, completion, task, *rest, scale=2.0, **others):
    return scale * (prompt == task.prompt and answer == task.answer and completion == "c")

def nothing():
    return 0.25

def unknown(completion, anser): return 0.0
def positional(completion, /): return 0.0
async def later(completion, scale=0.5): return scale * len(completion)
def many(boxes): return 0.0
def column(completion, level, bonus=1.0): return level + bonus
NUMBER = 3
"""


def value_of(reward: Reward, completion: str, task: Task | None = None) -> float | None:
    caller = Caller(SandboxConfig())
    try:
        (outcome,) = caller.call(reward, [(task or make_task(), Transcript.of(completion))])
    finally:
        caller.close()
    assert isinstance(outcome, Score), outcome
    return outcome.value


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(CODE)
    return tmp_path


def test_load_reward_passes_what_the_function_asks_for(folder: Path) -> None:
    assert value_of(load_reward("mine.py:short", [folder]), "abc") == 0.25
    assert value_of(load_reward("mine.py:everything", [folder / "none", folder]), "c") == 2.0
    assert value_of(load_reward(f"{folder}/mine.py:nothing", []), "c") == 0.25
    assert value_of(load_reward("rewards.math:verify", []), "42") == 1.0
    assert value_of(load_reward("mine.py:later", [folder]), "c") == 0.5


@pytest.mark.parametrize(
    ("use", "message"),
    [
        ("mine.py", "path/to/file.py:function"),
        (":short", "path/to/file.py:function"),
        ("mine.py:", "path/to/file.py:function"),
        ("mine.txt:short", "cannot import mine.txt"),
        ("a/b:short", "neither a .py file nor a module name"),
        ("mime.py:short", "no such file; did you mean 'mine.py'"),
        ("mine.py:shrt", "no function 'shrt'; did you mean 'short'"),
        ("mine.py:NUMBER", "is a int, not a function"),
        ("mine.py:positional", "positional-only"),
        ("mine.py:many", "asks for boxes, which are for `async def`"),
        ("rewards.maths:verify", "cannot import rewards.maths"),
        ("rewards.math:verfy", "did you mean 'verify'"),
    ],
)
def test_load_reward_says_what_is_wrong(folder: Path, use: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_reward(use, [folder])
    assert message in str(caught.value)
    assert use in str(caught.value)


@pytest.mark.parametrize("code", ["def f(:\n", "import nonexistent_module\n", "raise SystemExit(3)\n", "1/0\n"])
def test_code_that_does_not_load_shows_the_users_line(tmp_path: Path, code: str) -> None:
    (tmp_path / "bad.py").write_text(code)
    for _ in range(2):  # a failed load leaves nothing behind
        with pytest.raises(UserError, match=r"bad\.py does not load(?s:.)*line 1") as caught:
            load_reward("bad.py:f", [tmp_path])
        assert code.strip() in str(caught.value)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="cannot read"):
        load_reward("bad.py:f", [tmp_path])


def test_a_source_builds_where_the_file_is_not(folder: Path) -> None:
    source = read_source(RewardConfig(use="mine.py:short", weight=0.5), [folder])
    (folder / "mine.py").unlink()
    assert source == RewardSource("mine.py:short", 0.5, CODE, "short")
    assert value_of(build(source), "abc") == 0.25


def test_two_files_of_one_name_do_not_mix(tmp_path: Path) -> None:
    for name, value in (("a", 1.0), ("b", 2.0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.py").write_text(f"def f(): return {value}\n")
    rewards = [load_reward("mine.py:f", [tmp_path / name]) for name in ("a", "b")]
    assert [value_of(reward, "") for reward in rewards] == [1.0, 2.0]


def test_read_source_runs_nothing(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("raise RuntimeError\n")
    assert read_source(RewardConfig(use="bad.py:f"), [tmp_path]).function == "f"


# ---- rewards.score ----


def source(body: str, *, name: str = "f", weight: float = 1.0, file: str = "mine.py") -> RewardSource:
    text = f"import numpy as np\nfrom fractions import Fraction\ndef {name}(task, completion):\n    {body}\n"
    return RewardSource(f"{file}:{name}", weight, text, name)


def test_score_is_the_weighted_mean_of_the_parts() -> None:
    scorer = Scorer([source("return 1", name="a", weight=2), source("return -0.5", name="b", weight=0.5)])
    result = scorer.score(make_task(), Transcript.of("x"))
    assert result == RewardResult(ScoreStatus.OK, 0.7, {"a": 1.0, "b": -0.5})
    assert all(type(part) is float for part in result.parts.values())
    assert scorer.primary == "a"


@pytest.mark.parametrize("value", ["3", "np.float32(3)", "np.int64(3)", "Fraction(3)", "3.0"])
def test_real_numbers_are_scores(value: str) -> None:
    assert Scorer([source(f"return {value}")]).score(make_task(), Transcript.of("")).score == 3.0


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return float('nan')", "returned nan"),
        ("return float('inf')", "returned inf"),
        ("return np.float32('-inf')", "returned -inf"),
        ("return '1.0'", "returned '1.0' of type str"),
        ("return True", "write float(...)"),
        ("return np.bool_(True)", "write float(...)"),
        ("return np.ones(1)", "of type ndarray"),
        ("return 1j", "of type complex"),
        ("return 10**400", "too large for a float"),
        ("return {}['key']", "KeyError: 'key'"),
        ("raise SystemExit(1)", "SystemExit: 1"),
        ("return f(task, completion)", "RecursionError"),
        ("raise MemoryError", "MemoryError"),
    ],
)
def test_what_is_no_score_is_a_failure_that_names_itself(body: str, message: str) -> None:
    scorer = Scorer([source("return 1.0", name="fine"), source(body)])
    result = scorer.score(make_task(), Transcript.of("x"))
    assert (result.status, result.score) == (ScoreStatus.FAILED, None)
    assert result.error is not None
    for text in (message, "'f'", "add/1"):
        assert text in result.error
    if "Error" in message or "Exit" in message:
        assert 'Traceback (most recent call last):\n  File "mine.py", line' in result.error
        assert f"    {body}\n" in result.error  # the user's own line
    assert is_correct(result, scorer.primary)  # the primary part was scored before
    assert not is_correct(Scorer([source(body)]).score(make_task(), Transcript.of("x")), "f")


def test_a_task_without_an_answer_fails_its_score() -> None:
    result = Scorer([RewardSource("rewards.math:verify", 1.0, None, "verify")]).score(make_task(None), Transcript.of("42"))
    assert result.status is ScoreStatus.FAILED


def test_a_sum_that_overflows_fails() -> None:
    scorer = Scorer([source("return 1e308", weight=1e10)])
    assert scorer.score(make_task(), Transcript.of("")).status is ScoreStatus.FAILED


def test_an_interrupt_passes() -> None:
    with pytest.raises(KeyboardInterrupt):
        Scorer([source("raise KeyboardInterrupt")]).score(make_task(), Transcript.of(""))


@pytest.mark.parametrize(
    ("uses", "names"),
    [
        (["a.py:f", "b.py:g"], ["f", "g"]),
        (["a.py:f", "b.py:f", "b.py:g"], ["a:f", "b:f", "g"]),
        (["x/a.py:f", "y/a.py:f", "b.py:f"], ["x/a.py:f", "y/a.py:f", "b:f"]),
    ],
)
def test_part_names_are_short_and_unique(uses: list[str], names: list[str]) -> None:
    parts = [use.rpartition(":") for use in uses]
    scorer = Scorer([source("return 0.0", name=name, file=file) for file, _, name in parts])
    assert list(scorer.weights) == names == list(scorer.score(make_task(), Transcript.of("")).parts)


def test_the_same_function_of_two_modules_is_named_by_module() -> None:
    shipped = RewardSource("rewards.math:verify", 1.0, None, "verify")
    assert list(Scorer([source("return 0", name="verify"), shipped]).weights) == ["mine:verify", "rewards.math:verify"]


@pytest.mark.parametrize("weight", [math.nan, math.inf])
def test_scorer_refuses_bad_weights(weight: float) -> None:
    with pytest.raises(UserError, match="weight"):
        Scorer([source("return 0.0", weight=weight)])


def test_scorer_refuses_nothing_and_the_same_twice() -> None:
    with pytest.raises(UserError, match="at least one"):
        Scorer([])
    with pytest.raises(UserError, match="twice"):
        Scorer([source("return 0.0"), source("return 0.0")])


@pytest.mark.parametrize(("value", "correct"), [(1.0, True), (1 - 1e-12, True), (0.999, False), (0.0, False), (2, True)])
def test_is_correct_reads_the_primary_part(value: float, correct: bool) -> None:
    scorer = Scorer([source(f"return {value}", weight=0.1), source("return 1.0", name="bonus", weight=5)])
    assert is_correct(scorer.score(make_task(), Transcript.of("")), scorer.primary) is correct


def test_numpy_scores_come_back_as_plain_floats() -> None:
    assert isinstance(np.float32(1), np.floating)
    assert type(Scorer([source("return np.float32(1)")]).score(make_task(), Transcript.of("")).parts["f"]) is float
