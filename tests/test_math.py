"""The mathematics verifier against honest and cheating answers, and against texts made to hang it."""

from __future__ import annotations

import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.math import verify, visible_part
from rewards.task import Message, Role, Task

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
    ("42", "\\boxed{\uff14\uff12}"),
    ("42", "\uff14\uff12"),
    ("42", "\u0664\u0662"),
    ("12.5", "The result is \u0661\u0662\u066b\u0665"),
    ("12", "The area is 12 cm\u00b2."),
    ("12", "The area is 12 cm^2."),
    ("12", "It takes 12 hours."),
    ("3.5", "The result is 3.50 dollars"),
    ("1500000", "\\boxed{1.5 \\times 10^6}"),
    ("no", "No, it is not."),
    ("yes", "Yes, because 7 is prime."),
    ("x^2+1", "The answer is $x^2+1$."),
    ("\\frac{\\pi}{3}", "The angle is \\(\\frac{\\pi}{3}\\)."),
    ("1, 2", "The solutions are 1 and 2"),
    ("(1,2)", "The point is (1, 2)."),
    ("3, 5", "The solutions are $x=3$ and $x=5$."),
    ("3, 5", "Therefore, x = 3 or x = 5."),
    ("3, 5", r"\boxed{3} and \boxed{5}"),
    ("3, 5", r"so $\boxed{x=3}$ or $\boxed{x=5}$."),
    ("x^2+1", "The answer is x^2+1. I hope this helps."),
    ("x^2+1", "Final Answer: The final answer is $x^2+1$. I hope it is correct."),
    ("42", "Final Answer: The final answer is 42. I hope it is correct."),
    ("B", "Option B"),
    ("B", "The correct option is (B)."),
    ("B", "**B**"),
    ("B", "Answer: B"),
    ("B", "The answer is B) 42."),
    ("-5", "The answer is minus 5."),
    ("-5", "negative 5"),
    ("5", "8 minus 3 is 5"),
    ("5", "The answer is five."),
    ("7", "It reduces from 14/2 to 7."),
    ("5", "a total of 5"),
    (r"42\%", r"$\boxed{42}\%$"),
    ("42", r"\boxed{\text{The answer is } 42}"),
    ("42", r"\boxed{\text{Area} = 42}"),
    (r"\$5", "It costs $5."),
    (r"\$5", r"\boxed{\$5}"),
    ("12", "The area is 12 cm^2"),
    ("12", "12 m^2."),
    ("1/2", "one half is 1/2"),
    ("(1,2)", r"\[(1,2)\]"),
    ("(1,2)", "The point is $(1, 2)$."),
    ("[1,2]", r"So $x \in [1,2]$."),
    (r"\frac{1}{2}", r"The value is \frac{1}{2}."),
    (r"\sqrt{2}", r"The value is \sqrt{2}."),
    ("Paris", "The answer is Paris."),
    ("2x+1", "So $f'(x) = 2x+1$."),
    ("2x+1", "$$f'(x) = 2x + 1$$"),
    ("2x+1", "#### 2x+1"),
    ("x = 7", "#### x = 7"),
    ("3:2", "The ratio is 3:2."),
    ("no", r"\boxed{\text{No}}"),
    ("10", "**Answer:** 10 apples"),
    ("10", "The answer is $10$ apples."),
    ("10", r"\boxed{10} apples"),
    ("3.14", "The answer is approximately 3.14."),
    ("42", '{"answer": 42}'),
    ("42", "Answer: 42 (since 6*7 = 42)"),
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
    ("2", "\uff142"),
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
    ("5", "The result is \u0661\u0662\u066b\u0665"),
    ("12", "12 x^2"),
    ("yes", "No, yes"),
    ("no", "yes and no"),
    ("1, 2", "\\boxed{1, 2, 3, 4, 5, 6, 7, 8, 9}"),
    ("\\{1, 2\\}", "\\boxed{\\{0, 1, 2, 3\\}}"),
    ("\\frac{1}{3}", "\\boxed{\\int_0^1 x^2 dx}"),
    ("5", "\\boxed{\\lim_{n \\to \\infty} \\frac{5n}{n+1}}"),
    ("\\sqrt{2}", "\\boxed{1.41421356237}"),
    ("5", "The answer is minus 5."),
    ("5", "negative 5"),
    ("5", "5 squared"),
    ("5", "the square root of 5"),
    ("5", "3 out of 5"),
    ("0", "1.000.000"),
    ("3", "1.2.3"),
    ("7", "5–7"),
    ("5", "log 5"),
    ("5", "sqrt(5)"),
    ("5", "half of 5"),
    ("5", "twice 5"),
    ("5", "5 factorial"),
    ("5", "5 choose 2"),
    ("3", "The solutions are $x=3$ and $x=5$."),
    ("5", r"\boxed{3} and \boxed{5}"),
    ("3", r"\boxed{3} and \boxed{5}"),
    ("3, 5", r"\boxed{3} and \boxed{6}"),
    ("3,5", r"\boxed{1},\boxed{2},\boxed{3},\boxed{5}"),
    ("x^2+1", "$x^2+1$ or $x^2$"),
    ("x^2+1", "$x^2$, $x^2+1$"),
    ("x^2+1", r"\boxed{x^2+1}, \boxed{x^2}"),
    ("A", "The answer is A or B"),
    ("A", "A, B"),
    ("A", "(A) or (B)"),
    ("no", "Yes and no"),
    (r"\$5", r"\boxed{€5}"),
    ("5", "five or six"),
    ("5", "It is not five"),
    ("42", "It is 41, not 42"),
    ("x^2+1", "The answer is not x^2+1."),
    ("Paris", "The answer is Paris or London."),
    ("Paris", "Paris, London"),
    ("Paris", "not Paris"),
    ("B", "A B C D"),
    ("5", "1, 2, 3, 4, 5, 6"),
    ("1/2", r"\boxed{0.5 \text{ or } 0.25}"),
]


@pytest.mark.parametrize(("gold", "completion"), HONEST)
def test_honest_answers_pass(gold: str, completion: str) -> None:
    assert verify(make_task(gold), completion) == 1.0


@pytest.mark.parametrize(("gold", "completion"), CHEATS, ids=range(len(CHEATS)))
def test_cheats_get_nothing_at_little_cost(gold: str, completion: str) -> None:
    start = time.process_time()
    assert verify(make_task(gold), completion) == 0.0
    assert time.process_time() - start < 2


@pytest.mark.parametrize("answer", [None, "", "  "])
def test_a_task_without_an_answer_is_an_error(answer: str | None) -> None:
    with pytest.raises(ValueError, match="add/1"):
        verify(make_task(answer), "42")


@pytest.mark.parametrize(
    ("question", "gold", "candidate", "value"),
    [
        ("What is $2^{10}$?", "1024", "2^{10}", 0.0),
        ("What is $2^{10}$?", "1024", "2^{ 10 }", 0.0),
        ("What is $2^{10}$?", "1024", "1024", 1.0),
        ("Expand (x + 1)^2.", "x^2+2x+1", "(x+1)^2", 0.0),
        ("Expand (x + 1)^2.", "x^2+2x+1", "x^2+2x+1", 1.0),
        ("Factor x^2+2x+1.", "(x+1)^2", "(1+x)^2", 1.0),
        ("Is it x^2+1 or x^2-1?", "x^2+1", "x^2 + 1", 1.0),  # spelled as the answer is
        ("Simplify \\sqrt{50}.", "5\\sqrt{2}", "\\sqrt{50}", 0.0),
        ("Is it 0.5 or 1/2?", "0.5", "1/2", 1.0),  # a number is worked out
        ("What percent of 40 is 20?", "50\\%", "50", 1.0),
        ("What percent of 40 is 20?", "50\\%", "0.5", 1.0),
        ("What percent of 40 is 20?", "50\\%", "51", 0.0),
        ("What percent of 9 is 3?", "33\\frac{1}{3}\\%", "33 1/3", 1.0),
        ("Write 20/40 differently.", "50\\%", "50", 0.0),
    ],
)
def test_what_the_question_says_counts(question: str, gold: str, candidate: str, value: float) -> None:
    task = Task("1", "math", (Message(Role.USER, question),), answer=gold)
    assert verify(task, f"$\\boxed{{{candidate}}}$") == value


def test_visible_part() -> None:
    assert visible_part("a</think>b</think>c") == "c"
    assert visible_part("<think>a") is None
    assert visible_part("a") == "a"


SENTENCES = st.sampled_from(["{}", "The answer is {}.", "$\\boxed{{{}}}$", "#### {}", "So x = {}", "**{}**", "a</think>{}"])


@settings(deadline=None)
@given(st.integers(-(10**30), 10**30), st.sampled_from(["{}", "{:,}", "{}.0", "{}/1"]), SENTENCES)
def test_any_integer_in_any_format_verifies(number: int, form: str, sentence: str) -> None:
    completion = sentence.format(form.format(number))
    assert verify(make_task(str(number)), completion) == 1.0
    assert verify(make_task(str(number + 1)), completion) == 0.0


@settings(deadline=None)
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


@settings(max_examples=300, deadline=None)
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


def test_numbers_need_no_sympy() -> None:
    script = (
        "import sys; from rewards.math import verify; from rewards.score import Scorer; from rewards.task import Task;"
        "assert verify(Task('1', 'math', (), answer='42'), 'It is 42.') == 1.0;"
        "heavy = {'torch', 'ray', 'transformers', 'sympy', 'numpy'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, timeout=300, check=True)
