"""Rewards: the mathematics verifier against honest and cheating answers, rewards by name, and scoring."""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from rewards import symbolic
from rewards.calls import Caller
from rewards.config import RewardConfig, SandboxConfig
from rewards.errors import UserError
from rewards.math import verify, visible_part
from rewards.plugin import Reward, RewardSource, build, load_reward, read_source
from rewards.result import RewardResult, Score, ScoreStatus
from rewards.score import Scorer, is_correct
from rewards.task import Message, Role, Task
from rewards.transcript import Transcript

ROOT = Path(__file__).resolve().parents[1]


def make_task(answer: str | None = "42") -> Task:
    return Task("add/1", "math", (Message(Role.USER, "What is 6*7?"),), answer=answer)


# ---- rewards.math: honest answers ----

HONEST = [
    ("42", "42"),
    ("42", " 42."),
    ("42", "\n\n42\n"),
    ("42", "+42"),
    ("42", "The answer is 42"),
    ("42", "The answer is 42!"),
    ("42", "The final answer is: **42**."),
    ("42", "**Answer: 42**"),
    ("42", "__42__"),
    ("42", "Answer: `42`"),
    ("42", "<answer>42</answer>"),
    ("42", "- 42"),
    ("42", "$\\boxed{42}$"),
    ("42", "\\boxed{42}"),
    ("42", "\\[\\boxed{ 42 }\\]"),
    ("42", "\\boxed{42.0}"),
    ("42", "\\boxed{x = 42}"),
    ("42", "\\boxed{6 \\cdot 7 = 42}"),
    ("42", "\\boxed{42\\text{ cm}}"),
    ("42", "\\boxed{\\boxed{42}}"),
    ("42", "\\boxed{\\$42}"),
    ("42", "\\boxed{\\mathbf{42}}"),
    ("42", "First \\boxed{6}, and from that we get the final answer \\boxed{42}."),
    ("42", "\\boxed{42} is the answer, as I said: \\boxed{42}. It took 3 steps."),
    ("42", "#### 42"),
    ("42", "6*7=<<6*7=42>>42\n#### 42"),
    ("42", "#### 42\nI used 2 steps."),
    ("42", "#### Final answer\nIt is 42."),
    ("42", "<think>6*7=41? no</think>42"),
    ("42", "hm</think>\n\nThe answer is 42."),
    ("42", "<think>a</think>41<think>b</think>42"),
    ("42", "6 * 7 = 42"),
    ("42", "x = 42"),
    ("42", "$x = 42$"),
    ("42", "$$x = 42$$ and that is all."),
    ("42", "So \\(x = 42\\)."),
    ("42", "He pays $42."),
    ("42", "She has 42 apples left."),
    ("42", "There are 3 bags with 14 apples each, so 42 apples."),
    ("42", "6\n7\n42"),
    ("42", "(42)"),
    ("42", "=> 42"),
    ("42", "42\n\n* I hope this helps."),
    ("42", "Answer — 42"),
    ("42", "6 + 36 is 42, or so I believe."),
    ("42", "042"),
    ("42.0", "42"),
    ("$42$", "42"),
    ("\\boxed{42}"[7:-1], "42"),
    ("-7", "-7"),
    ("-7", "The answer is -7."),
    ("-7", "\u22127"),
    ("-7", "x = -7"),
    ("-7", "\\boxed{- 7}"),
    ("7", "x = 7"),
    ("1234", "1,234"),
    ("1,234", "1234"),
    ("1,234", "The total is 1,234."),
    ("1234567.5", "1,234,567.50"),
    ("1234", "\\boxed{1{,}234}"),
    ("1234", "\\boxed{1\\,234}"),
    ("1/2", "0.5"),
    ("0.5", "1/2"),
    ("0.5", ".5"),
    ("1/2", "\\frac{1}{2}"),
    ("\\frac{1}{2}", "0.5"),
    ("\\frac12", "\\boxed{\\frac{1}{2}}"),
    ("1/2", "\\boxed{\\dfrac{2}{4}}"),
    ("-1/2", "\\boxed{-\\frac{1}{2}}"),
    ("3/2", "\\boxed{1\\frac{1}{2}}"),
    ("1/3", "The probability is $\\frac{1}{3}$."),
    ("50%", "50%"),
    ("50%", "50 percent"),
    ("50%", "\\boxed{50\\%}"),
    ("50%", "0.5"),
    ("50%", "1/2"),
    ("50", "50%"),
    ("1024", "2^10"),
    ("1024", "\\boxed{2^{10}}"),
    ("4", "x = $\\sqrt{16}$"),
    ("120", "\\boxed{5!}"),
    ("90", "\\boxed{90^\\circ}"),
    ("x^2+1", "\\boxed{x^2 + 1}"),
    ("x^2+2x+1", "\\boxed{(x+1)^2}"),
    ("2\\pi", "The area is $2\\pi$."),
    ("\\sqrt{2}", "\\boxed{\\frac{2}{\\sqrt{2}}}"),
    ("(1, 2)", "\\boxed{(1,2)}"),
    ("\\{1,2\\}", "\\boxed{\\{2, 1\\}}"),
    ("x=7", "\\boxed{7}"),
    ("\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "\\boxed{\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}}"),
    ("yes", "The answer is Yes."),
    ("Monday", "\\boxed{\\text{Monday}}"),
    ("B", "\\boxed{(B)}"),
]

CHEATS = [
    ("42", "6 * 7"),  # the question repeated is no answer
    ("623", "345 + 278"),
    ("623", "\\boxed{345+278}"),
    ("623", "The answer is 345 + 278."),
    ("2415", "345*7"),
    ("2415", "$345 \\times 7$"),
    ("2415", "345 \\cdot 7"),
    ("67", "345 - 278"),
    ("42", "84/2"),
    ("42", "\\boxed{6 \\times 7}"),
    ("42", "\\frac{84}{2}"),
    ("42", "\\boxed{84 \\div 2}"),
    ("42", ""),
    ("42", " \n"),
    ("42", "I do not know."),
    ("42", "forty-one"),
    ("42", "<think>the answer is 42"),
    ("42", "<think>42</think>"),
    ("42", "<think>\\boxed{42}</think>I am done."),
    ("42", "<think>42</think>41"),
    ("42", "41<think>so 42"),
    ("42", "41"),
    ("42", "421"),
    ("42", "142"),
    ("42", "42.1"),
    ("42", "42.0000001"),
    ("42", "-42"),
    ("42", "4 2"),
    ("42", "0x42"),
    ("42", "42e0"),
    ("42", "42x"),
    ("42", "x42"),
    ("42", "v1.42"),
    ("42", "42 or 43"),
    ("43", "42 or 43"),
    ("43", "42 or maybe 43"),
    ("42", "42 (or 43)"),
    ("43", "42 (or 43)"),
    ("43", "42, 43"),
    ("43", "42 and 43"),
    ("43", "42/43"),
    ("43", "42 | 43"),
    ("42", "42 or forty-three"),
    ("43", "$42$ or $43$"),
    ("43", "\\boxed{42} or \\boxed{43}"),
    ("43", "\\boxed{42}, \\boxed{43}"),
    ("43", "\\boxed{42}\\boxed{43}"),
    ("43", "\\boxed{42}$ or maybe $\\boxed{43}"),
    ("42", " ".join(f"\\boxed{{{i}}}" for i in range(43))),
    ("42", "\n\n".join(f"It could well be {i}, so: \\boxed{{{i}}}" for i in range(43))),
    ("42", " ".join(str(i) for i in range(43))),
    ("42", "\n".join(str(i) for i in range(43))),
    ("42", ", ".join(str(i) for i in range(43))),
    ("42", "\n".join(f"- {i}" for i in range(43))),
    ("42", "#### " + " ".join(str(i) for i in range(43))),
    ("42", "\\boxed{41, 42}"),
    ("42", "\\boxed{42, 42}"),
    ("42", "\\boxed{41 42}"),
    ("42", "\\boxed{41 \\text{ or } 42}"),
    ("42", "\\boxed{41 or 42}"),
    ("42", "\\boxed{[41, 42]}"),
    ("42", "\\boxed{\\{41, 42\\}}"),
    ("42", "\\boxed{\\pm 42}"),
    ("42", "\\boxed{x \\in \\{42\\}, x \\neq 41}"),
    ("42", "\\boxed{41 = 42}"),
    ("42", "\\boxed{x \\le 42}"),
    ("42", "\\boxed{x \\neq 42}"),
    ("42", "\\boxed{41 \\boxed{42}}"),
    ("42", "\\boxed{}"),
    ("42", "\\boxed{42"),
    ("42", "\\boxed{41} The answer is 42"),
    ("42", "\\boxed{\uff14\uff12}"),
    ("42", "\uff14\uff12"),
    ("2", "\uff142"),
    ("42", "\u0664\u0662"),
    ("2", "4\u200b2"),
    ("42", "\u2463\u2461"),
    ("42", "42\u00bd"),
    ("42", "nan"),
    ("42", "inf"),
    ("42", "\\boxed{NaN}"),
    ("42", "\\boxed{\\infty}"),
    ("42", "\\boxed{0/0}"),
    ("42", "42/0"),
    ("42", "\\boxed{x}"),
    ("42", "\\boxed{answer}"),
    ("42", "The answer is not 42"),
    ("7", "x > 7"),
    ("7", "x != 7"),
    ("7", "$x \\ge 7$"),
    ("7", "x - 7"),
    ("-7", "x - 7"),
    ("-7", "x-7"),
    ("7", "7 + x"),
    ("7", "6 x 7"),
    ("10", "2^10"),
    ("2", "2\\pi"),
    ("2", "2 pi"),
    ("2", "2 million"),
    ("2", "\\frac{1}{2}"),
    ("2", "\\sqrt{2}"),
    ("2", "$\\sqrt{2}$"),
    ("3", "1/3"),
    ("234", "1,234"),
    ("1/3", "0.333"),
    ("1/3", "0.3333333333333333"),
    ("0.5", "50%"),
    ("50%", "50"),
    ("5", "9**9**9**9"),
    ("5", "\\boxed{9^{9^{9^{9}}}}"),
    ("5", "\\boxed{9999999999!}"),
    ("5", "\\boxed{10^{99999999}}"),
    ("5", "\\boxed{" + "1+" * 20_000 + "1}"),
    ("5", "9" * 5_000),
    ("x^2+1", "x^2"),
    ("x^2+1", "\\boxed{x^2+1 \\text{ or } x^2}"),
    ("x^2+1", "\\boxed{x}"),
    ("(1, 2)", "\\boxed{(2,1)}"),
    ("\\{1,2\\}", "\\boxed{\\{1,2,3\\}}"),
    ("yes", "yes or no"),
    ("yes", "\\boxed{sey}"),
    ("yes", "\\boxed{y e s}"[:-3] + "no}"),
    ("B", "A, B, C, D"),
    ("B", "\\boxed{b}"),
]


@pytest.mark.parametrize(("gold", "completion"), HONEST)
def test_honest_answers_pass(gold: str, completion: str) -> None:
    assert verify(make_task(gold), completion) == 1.0


@pytest.mark.parametrize(("gold", "completion"), CHEATS, ids=range(len(CHEATS)))
def test_cheats_get_nothing_and_get_it_soon(gold: str, completion: str) -> None:
    start = time.monotonic()
    assert verify(make_task(gold), completion) == 0.0
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("answer", [None, "", "  "])
def test_a_task_without_an_answer_is_an_error(answer: str | None) -> None:
    with pytest.raises(ValueError, match="add/1"):
        verify(make_task(answer), "42")


def test_visible_part() -> None:
    assert visible_part("a</think>b</think>c") == "c"
    assert visible_part("<think>a") is None
    assert visible_part("a") == "a"


SENTENCES = st.sampled_from(["{}", "The answer is {}.", "$\\boxed{{{}}}$", "#### {}", "So x = {}", "**{}**", "a</think>{}"])


@given(st.integers(-(10**30), 10**30), st.sampled_from(["{}", "{:,}", "{}.0", "{}/1"]), SENTENCES)
def test_any_integer_in_any_format_verifies(number: int, form: str, sentence: str) -> None:
    completion = sentence.format(form.format(number))
    assert verify(make_task(str(number)), completion) == 1.0
    assert verify(make_task(str(number + 1)), completion) == 0.0


@given(st.fractions(max_denominator=10**6), SENTENCES)
def test_any_fraction_verifies(number: Fraction, sentence: str) -> None:
    written = f"{number.numerator}/{number.denominator}"
    latex = f"{'-' if number < 0 else ''}\\frac{{{abs(number.numerator)}}}{{{number.denominator}}}"
    for gold, answer in [(written, latex), (latex, written), (written, written)]:
        assert verify(make_task(gold), sentence.format(answer)) == 1.0


MATHS = st.text(st.sampled_from("0123456789 \n.,+-*/^(){}[]$\\=<>!%#xi") | st.characters(), max_size=80)
PIECES = st.lists(
    MATHS | st.sampled_from(["\\boxed{", "\\frac{", "</think>", "####", "\\(", "$$", "9^{9^{", "\\int ", "or "]),
    max_size=12,
).map("".join)


@settings(max_examples=300, deadline=5000)
@given(PIECES, st.sampled_from(["42", "1/2", "x^2+1", "50%", "yes", "(1,2)"]))
def test_verify_never_raises_and_ends(completion: str, gold: str) -> None:
    assert verify(make_task(gold), completion) in (0.0, 1.0)


@pytest.mark.parametrize(
    "piece",
    ["(", "\\(", "\\[", "$$", "$", "*", "**a", "1 or ", "1,", "{", "\\boxed{", "\\boxed{1}", "<a", "1+", "=", "-"],
)
def test_long_hostile_texts_take_linear_time(piece: str) -> None:
    text = piece * (200_000 // len(piece))
    for gold in ("42", "x^2+1"):
        start = time.process_time()  # quadratic time would be minutes
        assert verify(make_task(gold), text + "41") == 0.0
        assert time.process_time() - start < 3


# ---- rewards.symbolic ----


def test_equal_in_threads_and_after_a_costly_expression(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symbolic, "CPU_LIMIT_S", 0.5)
    monkeypatch.setattr(symbolic, "_BOMB", re.compile("(?!)"))
    assert not symbolic.equal("5", "9^{9^{9^{9}}}")
    assert not symbolic.equal("5", "(((x^2+3)^{999}+7)^{999}+y)^{999}")
    results: list[bool] = []
    threads = [threading.Thread(target=lambda: results.append(symbolic.equal("2^{10}", "1024"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == [True] * 4


def test_equal_survives_the_death_of_its_child() -> None:
    assert symbolic.equal("x+1", "1+x")
    assert symbolic.children()
    for pid in symbolic.children():
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert symbolic.equal("x+2", "2+x")
    assert symbolic.equal("x+1", "1+x")


def test_a_worn_child_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    assert symbolic.equal("x+3", "3+x")
    worn = symbolic.children()
    monkeypatch.setattr(symbolic, "WORN_BYTES", 0)
    for number in range(4, 4 + len(worn)):
        assert symbolic.equal(f"x+{number}", f"{number}+x")
    monkeypatch.undo()
    for pid in worn:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert symbolic.equal("x+9", "9+x")
    assert not set(worn) & set(symbolic.children())


def test_a_bomb_costs_one_process_and_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight threads ask for one bomb; others are answered meanwhile; it is tried once, and remembered."""
    monkeypatch.setattr(symbolic, "_BOMB", re.compile("(?!)"))
    monkeypatch.setattr(symbolic, "CPU_LIMIT_S", 1000.0)
    found: list[bool] = []
    bombs = [threading.Thread(target=lambda: found.append(symbolic.equal("5", "8^{8^{8^{8}}}"))) for _ in range(8)]
    for thread in bombs:
        thread.start()
    while not symbolic.children():
        time.sleep(0.01)
    for i in range(10, 15):
        assert symbolic.equal(f"x+{i}", f"{i}+x")
    assert all(thread.is_alive() for thread in bombs)
    (busy,) = symbolic._verdicts.pool._busy
    os.kill(busy.pid, signal.SIGPROF)  # what the timer of its CPU limit does
    for thread in bombs:
        thread.join(120)
    assert found == [False] * 8
    assert not symbolic.equal("5", "8^{8^{8^{8}}}")
    assert symbolic.equal("2^{10}", "1024")


def test_equal_in_a_forked_process() -> None:
    assert symbolic.equal("x+6", "6+x")
    pid = os.fork()
    if pid == 0:
        verdict = symbolic.equal("x+6", "6+x") and not symbolic.equal("x+6", "7+x")
        for child in symbolic.children():
            os.kill(child, signal.SIGKILL)
        os._exit(0 if verdict else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert symbolic.equal("x+7", "7+x")


def test_the_child_ends_with_its_parent() -> None:
    script = "from rewards import symbolic; symbolic.equal('x+1', '1+x'); print(symbolic.children()[0])"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)


def test_numbers_need_no_sympy() -> None:
    script = (
        "import sys; from rewards.math import verify; from rewards.score import Scorer; from rewards.task import Task;"
        "assert verify(Task('1', 'math', (), answer='42'), 'It is 42.') == 1.0;"
        "heavy = {'torch', 'ray', 'transformers', 'sympy', 'numpy'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, timeout=60, check=True)


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
        outcome = caller.call(reward, task or make_task(), Transcript.of(completion))
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
