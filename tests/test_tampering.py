"""The tamper battery: what it is made of, and that no verifier rewards any of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from rewards.boxes import Boxes
from rewards.code import verify
from rewards.config import SandboxConfig
from rewards.tampering import Attack, Family, attacks
from rewards.task import Message, Role, Task
from tests import boxes
from tests.tamper_cases import FORMS, STDIN, TOTAL, Case

LIMITS = {"cpu_s": 0.25, "idle_s": 1.0}  # of attacks; honest solutions have the usual ones
JOBS = 4
QUICK = [pytest.param("function", 1, id="function")]  # layer, and on how many of the five forms each attack is tried
SLOW = [
    pytest.param("function", 5, id="function, all forms", marks=pytest.mark.full),
    *(pytest.param(layer, 1, id=layer, marks=pytest.mark.full) for layer in ("crun", "runsc", "microvm")),
]


@pytest.mark.parametrize("case", FORMS, ids=lambda case: case.task.id)
def test_the_battery_is_broad_and_the_same_each_time(case: Case) -> None:
    battery = list(attacks(case.task))
    sizes = Counter(attack.family for attack in battery)
    assert len(battery) >= 200
    assert sum(size >= 4 for size in sizes.values()) >= 16
    assert battery == list(attacks(case.task))
    assert len({(attack.family, attack.name) for attack in battery}) == len(battery)
    assert len({attack.completion for attack in battery}) == len(battery)


@pytest.mark.parametrize("case", FORMS, ids=lambda case: case.task.id)
def test_attacks_know_what_is_visible_and_no_test(case: Case) -> None:
    """Those of a task with other tests are the same."""
    other = {**case.task.data, "tests": [], "asserts": [], "test": ""}
    hidden = {key: other[key] if key in ("tests", "asserts", "test") else value for key, value in case.task.data.items()}
    assert list(attacks(case.task)) == list(attacks(replace(case.task, data=hidden)))


@pytest.mark.parametrize("case", [TOTAL, STDIN], ids=lambda case: case.task.id)
def test_attacks_that_are_programs_are_whole_ones(case: Case) -> None:
    """Else they would fail for a reason of their own, and show nothing."""
    for attack in attacks(case.task):
        if attack.family not in (Family.TEXT, Family.JUDGE, Family.CHANCE):
            compile(program(attack), attack.name, "exec")


def test_tasks_in_text_get_cheats_in_text() -> None:
    maths = Task("maths", "math", (Message(Role.USER, "What is 6 * 7?"),), answer="42")
    battery = list(attacks(maths))
    assert len(battery) >= 40
    assert len({attack.family for attack in battery}) >= 5
    randoms = [attack.completion for attack in battery if attack.family is Family.CHANCE]
    assert len(set(randoms)) == len(randoms)
    assert not any("{42}" in text for text in randoms)
    assert {"427", "742"} <= {attack.completion for attack in battery}
    assert not any("more" in attack.name and "digit" in attack.name for attack in attacks(replace(maths, answer="blue")))


def program(attack: Attack) -> str:
    assert attack.completion.startswith("```python\n"), attack.name
    return attack.completion.removeprefix("```python\n").removesuffix("```")


def rows(num_forms: int) -> list[tuple[Case, Attack]]:
    """Each attack on so many of the forms that it is meant for, in turn."""
    found: dict[tuple[Family, str], list[tuple[Case, Attack]]] = {}
    for case in FORMS:
        for attack in attacks(case.task):
            found.setdefault((attack.family, attack.name), []).append((case, attack))
    return [row for i, each in enumerate(found.values()) for row in (each * 2)[i % len(each) :][: min(num_forms, len(each))]]


async def scores(
    config: SandboxConfig, home: Path, tried: Sequence[tuple[Case, Attack]], wall_s: float = 60.0
) -> dict[tuple[str, str], float | str]:
    """What each came to, by form and name: a number, or why there is none."""
    lent, free = Boxes(config, home=home), asyncio.Semaphore(JOBS)
    found = dict[tuple[str, str], float | str]()

    async def one(case: Case, attack: Attack) -> None:
        async with free:
            try:
                score = await verify(case.task, attack.completion, lent, wall_s=wall_s, **LIMITS)
            except Exception as error:  # noqa: BLE001 - it would be a failed score
                found[case.task.id, attack.name] = f"{type(error).__name__}: {error}"
            else:
                assert score.value is not None
                found[case.task.id, attack.name] = score.value

    try:
        for case in FORMS:
            assert (await verify(case.task, case.honest, lent)).value == 1.0, case.task.id
        await asyncio.gather(*(one(case, attack) for case, attack in tried))
    finally:
        await lent.close()
    return found


@pytest.mark.timeout(1800)  # seconds of processor time, of which a busy machine may give little
@pytest.mark.parametrize(("layer", "num_forms"), [*QUICK, *SLOW])
def test_no_attack_is_rewarded_and_none_escapes_its_zero(layer: str, num_forms: int, sandbox_home: Path) -> None:
    if (lacking := boxes.lacking(layer)) is not None:
        pytest.skip(lacking)
    words = boxes.words(layer, sandbox_home)
    tried = rows(num_forms)
    found = asyncio.run(scores(SandboxConfig(num_boxes=JOBS, **words), sandbox_home, tried))
    assert len(found) == len(tried) >= 200
    assert {key: score for key, score in found.items() if score != 0.0} == {}
