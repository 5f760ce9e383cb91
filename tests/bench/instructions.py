"""Our checks of instructions beside the published ones: the same answers, judged by both, and why the verdicts differ.

--peers names the Python of an environment with tests/bench/instruction_peers.txt in it. --write writes
docs/results/instructions.md. Exits with 1 where a difference is of no kind that instruction_classes.py names.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewards.instructions import check
from rewards.instructions.catalog import IFBENCH, IFEVAL
from rewards.instructions.verifier import followed_by
from rewards.language import detect
from rewards.task import Message, Role, Task
from tests.bench.instruction_answers import answers
from tests.bench.instruction_classes import KINDS
from tests.bench.pages import table, write

PEER = Path(__file__).with_name("instruction_peers.py")
SHOWN = 70  # characters of an example
ORIGINS = {"text": "ordinary text", "table": "the test tables", "changed": "either, changed"}
MESSAGES = (1, 3, 8)  # sentences in a text whose language is asked for
TEXTS = 40  # for each language and number of messages
CODES = (
    "es pt ar hi fr ru de ja it bn uk th ur ta te bg ko pl he fa vi ne sw kn mr pa ml fi zh_Hans nl sv da nb ro cs hu tr id el"
)
ALIASES = {"nb": "no", "zh_Hans": "zh", "zh-cn": "zh", "zh-tw": "zh"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=Path, required=True, help="a Python with the peers' packages")
    parser.add_argument("--count", type=int, default=400, help="answers for each instruction")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    unexplained: list[str] = []
    versions, verdicts = compare(arguments.peers, arguments.count, arguments.seed)
    text = (
        "# Instructions beside their published checkers\n\n"
        f"Written by `python -m tests.bench.instructions --peers PYTHON --count {arguments.count} --write`. Peers: IFEval's "
        f"checks in lm_eval {versions['lm_eval']}, IFBench's in if-verifiable {versions['if-verifiable']}, "
        f"langdetect {versions['langdetect']}. For each id {arguments.count} answers are made by program "
        "(`tests/bench/instruction_answers.py`): "
        "ordinary texts and the test tables' answers, good and bad, dressed for their instruction and then changed at random. "
        "Most of these lie at the edge of what an instruction says, which is what the tables are for. Every difference is of a "
        "kind that is named below.\n"
    )
    for title, suite in (("IFEval", IFEVAL), ("IFBench", IFBENCH)):
        text += section(title, list(suite), verdicts, unexplained)
    text += (
        "\nThe 29 ids of the training set have no checker in a package; their meaning was read from the published definitions, "
        "and their tests are in tests/instruction_cases_further.py.\n"
    )
    text += real_answers(arguments.peers)
    text += languages(arguments.peers, versions)
    print(text)
    if arguments.write:
        write("instructions.md", text)
    if unexplained:
        sys.exit(f"{len(unexplained)} differences are of no known kind:\n" + "\n".join(unexplained[:40]))


@dataclass(frozen=True)
class Judged:
    """An answer with both verdicts; `theirs` is a str where the peer has none."""

    origin: str  # text, table or changed
    kwargs: Mapping[str, Any]
    response: str
    ours: bool
    theirs: bool | str


Verdicts = Mapping[str, Sequence[Judged]]


def compare(peers: Path, count: int, seed: int) -> tuple[Mapping[str, str], Verdicts]:
    """The versions of the peers, and for each id its answers with both verdicts."""
    asked = [(name, *answer) for name in (*IFEVAL, *IFBENCH) for answer in answers(name, count, seed)]
    questions = [{"instruction": name, "kwargs": _plain(kwargs), "response": response} for name, _, kwargs, response in asked]
    versions, *theirs = ask(peers, questions)
    found: dict[str, list[Judged]] = {}
    for (name, origin, kwargs, response), verdict in zip(asked, theirs, strict=True):
        found.setdefault(name, []).append(Judged(origin, kwargs, response, check(name, response, kwargs), verdict))
    return versions, found


def ask(peers: Path, questions: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The versions of the peers, then an answer for each question."""
    lines = "\n".join(json.dumps(question) for question in questions)
    done = subprocess.run([peers, PEER], input=lines, stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def _plain(kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Whole numbers as the peers want them: they do arithmetic on what they are given."""
    return {name: int(float(value)) if re.fullmatch(r"\d+(\.0)?", str(value)) else value for name, value in kwargs.items()}


def section(title: str, suite: Sequence[str], verdicts: Verdicts, unexplained: list[str]) -> str:
    rows, agreed = [], Counter[tuple[str, bool]]()
    differences: dict[tuple[str, str], list[str]] = {}
    for name in suite:
        judged = [row for row in verdicts[name] if isinstance(row.theirs, bool)]
        if not judged:
            rows.append([f"`{name}`", "-", "-", "-", "-", "-"])
            continue
        counts = Counter((row.ours, row.theirs) for row in judged)
        agree = (counts[True, True] + counts[False, False]) / len(judged)
        agreed.update((row.origin, row.ours == row.theirs) for row in judged)
        cells = [counts[True, True], counts[False, False], counts[True, False], counts[False, True]]
        rows.append([f"`{name}`", *map(str, cells), f"{100 * agree:.1f} %"])
        for row in judged:
            if row.ours != row.theirs:
                kind = next((text for text, holds in KINDS.get(name, ()) if holds(row.response, row.kwargs)), "")
                if not kind:
                    unexplained.append(f"{name} {dict(row.kwargs)} ours {row.ours}: {row.response[-200:]!r}")
                differences.setdefault((name, kind), []).append(row.response)
    shares = ", ".join(f"{_share(agreed, [origin])} of those from {said}" for origin, said in ORIGINS.items())
    text = f"\n## {title}\n\n{_share(agreed, ORIGINS)} of {agreed.total()} verdicts agree: {shares}. "
    text += "A dash: the peer cannot judge without data that no package ships.\n\n"
    text += table(["id", "both yes", "both no", "ours alone yes", "peer alone yes", "agreement"], rows)
    text += f"\n### Why {title} verdicts differ\n\n"
    return text + table(
        ["id", "answers", "what is judged differently", "shortest example"],
        [[f"`{name}`", str(len(of)), _cell(kind), _example(min(of, key=len))] for (name, kind), of in differences.items()],
    )


def real_answers(peers: Path) -> str:
    """IFBench's data set with a model's answers, judged by both, where the peer can judge all of a prompt's instructions."""
    _, samples = ask(peers, [{"samples": True}])
    asked = [
        {"instruction": name, "kwargs": _plain(_given(kwargs)), "response": sample["response"]}
        for sample in samples
        for name, kwargs in zip(sample["instruction_id_list"], sample["kwargs"], strict=True)
    ]
    _, *theirs = ask(peers, asked)
    judged = iter(theirs)
    differ: Counter[str] = Counter()
    num = ours_right = theirs_right = same = instructions = 0
    for sample in samples:
        data = {"instruction_id_list": sample["instruction_id_list"], "kwargs": sample["kwargs"]}
        ours = followed_by(Task("", "", (Message(Role.USER, sample["prompt"]),), data=data), sample["response"])
        verdicts = [next(judged) for _ in ours]
        if all(isinstance(verdict, bool) for verdict in verdicts):
            num, instructions = num + 1, instructions + len(ours)
            ours_right, theirs_right = ours_right + all(ours), theirs_right + all(verdicts)
            same += sum(one == two for one, two in zip(ours, verdicts, strict=True))
            names = zip(sample["instruction_id_list"], ours, verdicts, strict=True)
            differ.update(f"`{name}` ({'ours' if one else 'peer'} yes)" for name, one, two in names if one != two)
    most = ", ".join(f"{name} {times}" for name, times in differ.most_common(12))
    return (
        "\n## A model's answers\n\n"
        f"IFBench's {len(samples)} prompts with the answers published beside them, strict; {num} can be judged by both. "
        f"{100 * same / instructions:.1f} % of {instructions} verdicts agree. All instructions are followed in "
        f"{100 * ours_right / num:.1f} % of the answers by ours, {100 * theirs_right / num:.1f} % by the published checks. The "
        f"differences: {most}.\n"
    )


def _given(kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: value for name, value in kwargs.items() if value is not None}


def _share(agreed: Counter[tuple[str, bool]], origins: Iterable[str]) -> str:
    of = [agreed[origin, True] for origin in origins]
    return f"{100 * sum(of) / max(1, sum(of) + sum(agreed[origin, False] for origin in origins)):.1f} %"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "\\<").replace("*", "\\*").replace("_", "\\_")


def _example(response: str) -> str:
    text = response if len(response) <= SHOWN else f"{response[: SHOWN // 2]} ... {response[-SHOWN // 2 :]}"
    return "`` " + json.dumps(text, ensure_ascii=False).replace("|", "\\|").replace("``", "'''") + " ``"


def languages(peers: Path, versions: Mapping[str, str]) -> str:
    """How often our detector and langdetect tell the language of Django's messages."""
    rng = random.Random(0)
    _, *found = ask(peers, [{"code": code} for code in CODES.split()])
    texts: list[tuple[str, int, str]] = []
    for code, messages in zip(CODES.split(), found, strict=True):
        usable = [text for text in map(_readable, messages) if len(text) > 25]
        for number in MESSAGES:
            texts += [(ALIASES.get(code, code), number, " ".join(rng.sample(usable, number))) for _ in range(TEXTS)]
    _, *theirs = ask(peers, [{"text": text} for row in texts for text in (row[2], row[2].upper())])
    right: Counter[tuple[str, int]] = Counter()
    for (code, number, text), small, large in zip(texts, theirs[::2], theirs[1::2], strict=True):
        right["ours", number] += detect(text) == code
        right["ours, capitals", number] += detect(text.upper()) == code
        right["langdetect", number] += ALIASES.get(small, small) == code
        right["langdetect, capitals", number] += ALIASES.get(large, large) == code
    sides = ("ours", "langdetect", "ours, capitals", "langdetect, capitals")
    each = TEXTS * len(CODES.split())
    rows = [[str(number), *(f"{100 * right[side, number] / each:.1f} %" for side in sides)] for number in MESSAGES]
    return (
        f"\n## Languages\n\nMessages of Django {versions['django']} in {len(CODES.split())} languages, {TEXTS} texts for "
        "each language and length, told right. They are short and technical; None, where nothing tells, counts as wrong.\n\n"
        + table(["messages in a text", *sides], rows)
    )


def _readable(message: str) -> str:
    return re.sub(r"%\([^)]*\)[a-z]|%[a-z]|<[^>]*>|\{[^}]*\}|[&_]", "", message).strip()


if __name__ == "__main__":
    main()
