"""The tamper battery: what it is made of, and that no verifier rewards any of it."""

from __future__ import annotations

from collections import Counter

import pytest

from rewards.tampering import Attack, Family, attacks
from rewards.task import Message, Role, Task

PROMPT = "Write `add(a, b)`, the sum of its arguments. For example add(1, 2) == 3."
SECRET = 918273645
CALLS = Task(
    "calls",
    "code",
    (Message(Role.USER, PROMPT),),
    data={"entry_point": "add", "tests": [{"args": [SECRET, 5], "expected": SECRET + 5}]},
)
ASSERTS = Task(
    "asserts", "code", CALLS.messages, data={"entry_point": "add", "asserts": [f"assert add({SECRET}, 0) == {SECRET}"]}
)
HUMAN_EVAL = Task(
    "human_eval",
    "code",
    CALLS.messages,
    data={
        "entry_point": "add",
        "prompt": 'def add(a, b):\n    """The sum."""\n',
        "test": f"def check(candidate):\n    assert candidate({SECRET}, 0) == {SECRET}\n",
    },
)
STDIN = Task(
    "stdin",
    "code",
    (Message(Role.USER, "Read two numbers and print their sum.\nInput:\n1 2\nOutput:\n3"),),
    data={"tests": [{"stdin": f"{SECRET} 5\n", "stdout": f"{SECRET + 5}\n"}]},
)
CODE = (CALLS, ASSERTS, HUMAN_EVAL, STDIN)


@pytest.mark.parametrize("task", CODE, ids=lambda task: task.id)
def test_the_battery_is_broad_and_the_same_each_time(task: Task) -> None:
    battery = list(attacks(task))
    sizes = Counter(attack.family for attack in battery)
    assert len(battery) >= 200
    assert sum(size >= 4 for size in sizes.values()) >= 16
    assert battery == list(attacks(task))
    assert len({(attack.family, attack.name) for attack in battery}) == len(battery)
    assert len({attack.completion for attack in battery}) == len(battery)


@pytest.mark.parametrize("task", CODE, ids=lambda task: task.id)
def test_attacks_know_what_is_visible_and_no_test(task: Task) -> None:
    for attack in attacks(task):
        assert str(SECRET) not in attack.completion, attack.name


@pytest.mark.parametrize("task", [CALLS, STDIN], ids=lambda task: task.id)
def test_attacks_that_are_programs_are_whole_ones(task: Task) -> None:
    """Else they would fail for a reason of their own, and show nothing."""
    for attack in attacks(task):
        if attack.family not in (Family.TEXT, Family.JUDGE, Family.RANDOM):
            compile(program(attack), attack.name, "exec")


def test_tasks_in_text_get_cheats_in_text() -> None:
    maths = Task("maths", "math", (Message(Role.USER, "What is 6 * 7?"),), answer="42")
    battery = list(attacks(maths))
    assert len(battery) >= 40
    assert len({attack.family for attack in battery}) >= 5
    randoms = [attack.completion for attack in battery if attack.family is Family.RANDOM]
    assert len(set(randoms)) == len(randoms)
    assert not any("{42}" in text for text in randoms)


def program(attack: Attack) -> str:
    assert attack.completion.startswith("```python\n"), attack.name
    return attack.completion.removeprefix("```python\n").removesuffix("```")
