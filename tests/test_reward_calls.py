"""What a reward function may ask for and return: by name, in batches as TRL calls it, async, with parts and notes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rewards.config import RewardConfig
from rewards.errors import UserError
from rewards.parameters import missing_column
from rewards.plugin import RewardSource, build, read_source
from rewards.result import RewardResult, ScoreStatus
from rewards.score import Scorer, is_correct, is_scored
from rewards.task import Message, Role, Task
from rewards.transcript import Transcript

TASK = Task(
    "t/1", "math", (Message(Role.USER, "What is 6*7?"),), answer="42", data={"level": 3, "hint": "six", "completions": 1}
)
SAID = Transcript.of("<think>6*7</think>It is 42.", finish_reason="length", num_tokens=9)


def source(text: str, options: dict[str, object] | None = None, *, name: str = "f", weight: float = 1.0) -> RewardSource:
    return RewardSource(f"mine_{name}.py:{name}", weight, text, name, 30.0, options or {})


def score(*sources: RewardSource, task: Task = TASK, transcript: Transcript = SAID) -> RewardResult:
    scorer = Scorer(sources)
    try:
        return scorer.score(task, transcript)
    finally:
        scorer.close()


def value(text: str, options: dict[str, object] | None = None, task: Task = TASK) -> float:
    result = score(source(text, options), task=task)
    assert result.score is not None, result.error
    return result.score


def error(text: str, task: Task = TASK) -> str:
    result = score(source(text), task=task)
    assert (result.status, result.score) == (ScoreStatus.FAILED, None)
    assert result.error is not None
    return result.error


# ---- parameters


def test_every_known_name() -> None:
    text = """
def f(task, transcript, completion, answer, prompt):
    assert (task.id, answer, prompt, completion) == ("t/1", "42", "What is 6*7?", "<think>6*7</think>It is 42.")
    assert (transcript.reasoning, transcript.content, transcript.is_cut) == ("6*7", "It is 42.", True)
    assert transcript.messages[-1].role == "assistant"
    return transcript.num_tokens
"""
    assert value(text) == 9.0


def test_columns_defaults_and_options() -> None:
    assert value("def f(level, hint): return level + len(hint)") == 6
    assert value("def f(completion, level=7, other=0.5): return level + other") == 3.5  # a column wins over a default
    assert value("def f(level, scale=1.0): return level * scale", {"scale": 2.0}) == 6
    assert value("def f(level): return level", {"level": 5}) == 5  # an option wins over a column
    assert value("def f(level=0, *rest, **others): return len(rest) + len(others)") == 0  # these get nothing
    assert value("from functools import partial\ndef g(level, by): return level * by\nf = partial(g, by=2)") == 6


def test_a_column_that_the_task_lacks_fails_its_score() -> None:
    found = error("def f(levle): return 1.0")
    assert "asks for 'levle', and the task has no such column; it has completions, hint, level; did you mean 'level'?" in found
    assert "Traceback" not in found
    assert "did you mean 'completion'?" in error("def f(completon): return 1.0", Task("x", "math", ()))


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("def f(scale): ...", {"scael": 1}, "options.scael: the function has no such parameter; allowed: scale; did you mean"),
        ("def f(completion): ...", {"x": 1}, "options.x: the function has no such parameter; allowed: none"),
        ("def f(**more): ...", {"x": 1}, "options.x: the function has no such parameter"),
        ("def f(completion): ...", {"completion": 1}, "options.completion: completion is what any reward may ask for"),
        ("def f(a, /): ...", {}, "positional-only"),
        ("def f(boxes): ...", {}, "boxes, which are for `async def`; a plain `def` asks for box"),
        ("def f(completions, trainer_state): ...", {}, "a batch reward has no 'trainer_state'"),
        ("def f(completions, box): ...", {}, "a batch reward has no 'box'"),
        ("def f(completions, boxes): ...", {}, "for `async def`; a function of one completion asks for box"),
    ],
)
def test_what_cannot_be_called_is_said_when_it_loads(text: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        build(source(text, options))


@pytest.mark.parametrize("use", ["rewards.state:verify", "rewards.code:verify"])
def test_a_task_that_a_shipped_reward_is_not_for_is_said_in_a_line(use: str) -> None:
    found = score(RewardSource(use, 1.0, None, "verify")).error
    assert found is not None
    assert found.startswith("reward 'verify' failed on task 't/1': it cannot score this: ")
    assert "\n" not in found


def test_options_come_from_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text("def f(scale): return scale")
    read = read_source(RewardConfig(use="m.py:f", options={"scale": 3}), [tmp_path])
    assert score(read).score == 3.0


def test_columns_are_looked_for_in_the_data() -> None:
    tasks = [Task(str(i), "math", (), data={"level": i, **({"tests": 1} if i else {})}) for i in range(3)]
    assert missing_column("m.py:f", ["level"], tasks) is None
    problem = missing_column("m.py:f", ["levle"], tasks)
    assert problem is not None
    assert "asks for 'levle', which is no column of the data; its columns: level, tests; did you mean 'level'?" in problem
    problem = missing_column("m.py:f", ["tests"], tasks)
    assert problem is not None
    assert "asks for column 'tests', which 1 of 3 tasks lack, such as '0'; give the parameter a default (tests=None)" in problem


# ---- what is returned

HALF = source("def half(): return 0.5", name="half", weight=3.0)


def test_none_leaves_the_weighted_mean() -> None:
    none = source("def none(): return None", name="none")
    minus = source("def minus(): return 1.0", name="minus", weight=-1.0)
    assert score(HALF, none) == RewardResult(ScoreStatus.OK, 0.5, {"half": 0.5})
    assert score(HALF, minus).score == (3 * 0.5 - 1) / 4  # a penalty counts by its size
    measured = source("def m(): return 100.0", name="m", weight=0.0)
    assert score(HALF, measured) == RewardResult(ScoreStatus.OK, 0.5, {"half": 0.5, "m": 100.0})
    for only, reason in ((none, "every one returned None"), (measured, "only m, of weight 0, did")):
        result = score(only, source("def g(): return None", name="g"))
        assert (result.status, result.score, result.is_empty) == (ScoreStatus.FAILED, None, True)
        assert result.error == f"no reward applies to task 't/1': {reason}"


def test_accuracy_is_that_of_the_first_reward_that_applies() -> None:
    none = source("def none(): return None", name="none")
    full = source("def full(): return 1.0", name="full")
    for sources, correct in (((none, full), True), ((none, HALF), False), ((HALF, full), False), ((full, HALF), True)):
        result = score(*sources)
        primary = next(iter(Scorer(sources).weights))
        assert is_correct(result, primary) is correct
        assert is_scored(result, primary)
    broken = score(source("def b(): 1/0", name="b"), full)
    assert not is_correct(broken, "b")
    assert not is_scored(broken, "b")


SCORES = "from rewards.result import Score\n"


def test_a_score_has_parts_and_a_note() -> None:
    text = SCORES + "def f(level): return Score(1, {'tests': level, 'skipped': None, 'share': 0.5}, note='3 of 6')"
    parts = {"f": 1.0, "half": 0.5, "f/tests": 3.0, "f/share": 0.5}  # the rewards first, then what they measured
    assert score(source(text), HALF) == RewardResult(ScoreStatus.OK, (1 + 1.5) / 4, parts, notes={"f": "3 of 6"})
    none = score(source(SCORES + "def f(): return Score(None, {'a': 1})"), HALF)
    assert none == RewardResult(ScoreStatus.OK, 0.5, {"half": 0.5, "f/a": 1.0})


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("Score(True)", "returned the value is the bool True"),
        ("Score('1')", "returned the value is '1' of type str"),
        ("Score(1, {'a': float('nan')})", "returned part 'a' is nan; a finite number is expected"),
        ("Score(1, {'a': True})", "part 'a' is the bool True"),
        ("Score(1, {3: 1})", "a part named 3"),
        ("Score(1, note=3)", "the note 3"),
        ("[1.0]", "returned [1.0] of type list; a number, None or a Score is expected"),
        ("'1'", "returned '1' of type str"),
        ("float('-inf')", "returned -inf; a finite number"),
        ("False", "returned the bool False; write float(...)"),
    ],
)
def test_what_is_no_score_fails(returned: str, message: str) -> None:
    assert message in error(f"{SCORES}def f(): return {returned}")


def test_the_traceback_begins_in_the_users_own_code() -> None:
    text = "import json\ndef f(completion):\n    return g(completion)\ndef g(text):\n    return json.loads(text)\n"
    found = error(text)
    first = found.split("Traceback (most recent call last):\n")[1].splitlines()[0]
    assert first == '  File "mine_f.py", line 3, in f'
    assert found.splitlines()[-1].startswith("json.decoder.JSONDecodeError")
    shipped = score(RewardSource("rewards.math:verify", 1.0, None, "verify"), task=Task("x", "math", ()))
    assert "rewards/calls.py" not in str(shipped.error)


# ---- async


def test_async_rewards() -> None:
    text = "import asyncio\nasync def f(completion, level):\n    await asyncio.sleep(0)\n    return level"
    assert value(text) == 3.0
    found = error("import asyncio\nasync def f(completion):\n    await asyncio.sleep(0)\n    raise KeyError('x')")
    assert 'File "mine_f.py", line 4, in f' in found
    assert value("class F:\n    async def __call__(self, level): return level\nf = F()") == 3.0


# ---- batches, as TRL calls rewards

LISTS = """
def f(completions, prompts, answer, level, hint=None, trainer_state=None, scale=1.0, **columns):
    assert completions == ["<think>6*7</think>It is 42."] and prompts == ["What is 6*7?"], (completions, prompts)
    assert answer == ["42"] and level == [3] and hint == ["six"] and trainer_state is None
    assert sorted(columns) == ["completion_ids", "log_extra", "log_metric"], columns
    return [scale * x for x in level]
"""


def test_a_batch_gets_lists() -> None:
    assert value(LISTS) == 3.0
    assert value(LISTS, {"scale": 2.0}) == 6.0
    task = Task("t", "math", (Message(Role.USER, "a"),), answer="b", data={"x": 1, "prompt": 2})
    rest = "def f(completions, **columns): return [float(sorted(columns) == %s)]"
    names = ["answer", "completion_ids", "log_extra", "log_metric", "prompts", "x"]
    assert value(rest % names, task=task) == 1.0


def test_a_batch_of_conversations_gets_messages() -> None:
    system = Task("t", "math", (Message(Role.SYSTEM, "Be brief."), Message(Role.USER, "2+3")), answer="5")
    one = Task("t", "math", (Message(Role.USER, "2+3"),), answer="5", has_messages=True)
    text = """
def f(completions, prompts):
    assert completions[0] == [{"role": "assistant", "content": "<think>6*7</think>It is 42."}]
    assert prompts[0][-1] == {"role": "user", "content": "2+3"}
    return [len(prompts[0])]
"""
    assert value(text, task=system) == 2.0
    assert value(text, task=one) == 1.0


def test_rewards_of_trl_work_unchanged() -> None:
    """Its own functions: of messages, of token ids, with None where the gold answer is no mathematics."""
    ids = tuple(range(90))
    said = Transcript("x", (), num_tokens=90, token_ids=ids)
    overlong = source(
        "from trl.rewards import get_soft_overlong_punishment\nf = get_soft_overlong_punishment(max_completion_len=100, "
        "soft_punish_cache=20)"
    )
    assert score(overlong, transcript=said).score == -0.5
    format_ = RewardSource("trl.rewards:think_format_reward", 1.0, None, "think_format_reward")
    chat = Task("t", "math", (Message(Role.USER, "2+3"),), has_messages=True, data={"solution": "$42$"})
    assert score(format_, task=chat).score == 1.0
    accuracy = RewardSource("trl.rewards:accuracy_reward", 1.0, None, "accuracy_reward")
    boxed = Transcript.of("It is $\\boxed{42}$.")
    result = score(accuracy, task=chat, transcript=boxed)
    assert (result.score, result.notes["accuracy_reward"].split(";")[0]) == (1.0, "solution: $42$")
    vague = Task("t", "math", chat.messages, has_messages=True, data={"solution": "no mathematics"})
    assert score(accuracy, HALF, task=vague, transcript=boxed).parts == {"half": 0.5}


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("[1.0, 2.0]", "returned 2 values for 1 completions; one for each is expected"),
        ("[]", "returned 0 values for 1 completions"),
        ("1.0", "returned 1.0 of type float; a list with a number for each completion is expected"),
        ("'1'", "of type str; a list"),
        ("['1']", "returned '1' of type str; a number"),
        ("[float('nan')]", "returned nan"),
        ("log_extra('x', [1, 2]) or [1.0]", "gave log_extra 2 values of 'x' for 1 completions"),
        ("log_metric('x', 'y') or [1.0]", "log_metric 'x' is 'y' of type str"),
    ],
)
def test_what_is_no_batch_of_scores_fails(returned: str, message: str) -> None:
    assert message in error(f"def f(completions, log_extra, log_metric): return {returned}")


def test_what_a_batch_logs() -> None:
    lines = ["log_extra('found', ['a'])", "log_metric('share', 0.5)", "return [1]"]
    text = "def f(completions, log_extra, log_metric):\n    " + "\n    ".join(lines)
    assert score(source(text)) == RewardResult(ScoreStatus.OK, 1.0, {"f": 1.0, "f/share": 0.5}, notes={"f": "found: a"})


def test_an_async_batch() -> None:
    assert value("async def f(completions, level): return [x / 2 for x in level]") == 1.5


def test_the_examples_of_the_guide_load() -> None:
    text = (Path(__file__).resolve().parents[1] / "docs" / "rewards.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names = [(block, name) for block in blocks for name in re.findall(r"^(?:async )?def (\w+)", block, re.MULTILINE)]
    built = {name: build(source(block, name=name)).signature for block, name in names}
    assert {name: (s.is_async, s.takes_batch) for name, s in built.items()} == {
        "right": (False, False), "length": (False, True), "runs": (True, False),
    }  # fmt: skip
