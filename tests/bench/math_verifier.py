"""The mathematics verifier beside math-verify called plainly and TRL's accuracy_reward: speed, bombs, and verdicts.

--write writes docs/results/math_verifier.md. Each contender runs in processes of its own (`math_contenders.py`). Without
--write the pairs of developed families alone are looked at, so that the held-out ones stay unseen while mending.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version

from tests.bench.common import machine, median, table, write
from tests.bench.math_bombs import BOMBS
from tests.bench.math_contenders import CPU_LIMIT_S, WALL_LIMIT_S, Contender, Ending, Runner
from tests.bench.math_pairs import DEVELOPED, Pair, draw
from tests.bench.math_pairs_held_out import HELD_OUT
from tests.bench.math_reasons import REASONS

SEED = 20_260  # of the pairs; the verifier was mended with seeds below 1000
PER_FAMILY = 24
REPEATS = 3
NUM_PEER = 120  # answers of a workload that the slower contenders score
MAIN = (Contender.OURS, Contender.MATH_VERIFY, Contender.TRL)
Answer = tuple[str, str]  # gold answer, completion

NUMBERS = ("integers", "decimals", "fractions", "mixed", "scientific")
SHAPES = (
    "sets",
    "lists",
    "intervals",
    "rays",
    "unions",
    "tuples",
    "points",
    "units",
    "degrees",
    "currency",
    "matrices",
    "words",
)
EXPRESSIONS = ("polynomials", "quotients", "radicals", "multiples of pi", "complexes")
REALISTIC = (("integers", 60), ("fractions", 10), ("decimals", 5), ("radicals", 5), ("multiples of pi", 3), ("polynomials", 4))
REALISTIC += (("tuples", 3), ("intervals", 3), ("lists", 2), ("units", 2), ("percents", 1), ("words", 1), ("trigonometric", 1))
SENTENCES = (
    "Let me work this out step by step. First we write down what is given: $a = 3$ and $b = 4$, so $a^2 + b^2 = 25$. ",
    "Substituting $x = \\frac{7}{2}$ into the equation gives $2x - 1 = 6$, which we check by hand. ",
    "There are 12 ways to choose the first and 11 to choose the second, 132 in all. Then we divide by 2. ",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="all parts, with the held-out pairs, into docs/results")
    parser.add_argument("--part", choices=("speed", "bombs", "verdicts"), help="one part alone")
    arguments = parser.parse_args()
    versions = ", ".join(f"{name} {version(name)}" for name in ("math-verify", "sympy", "trl"))
    parts = [
        f"# The mathematics verifier\n\nWritten by `python -m tests.bench.math_verifier --write`. {machine()}; {versions}.\n"
    ]
    if arguments.part in (None, "speed"):
        parts.append(speed())
    if arguments.part in (None, "bombs"):
        parts.append(bombs())
    if arguments.part in (None, "verdicts"):
        parts.append(verdicts(with_held_out=arguments.write))
    text = "\n".join(parts)
    print(text)
    if arguments.write:
        assert arguments.part is None, "the page has all parts"
        write("math_verifier.md", text)


# ---- speed ----


def completion(candidate: str, rng: random.Random) -> str:
    """A short solution that ends in a box."""
    steps = "".join(rng.choice(SENTENCES) for _ in range(rng.randint(2, 6)))
    return f"{steps}So the answer is $\\boxed{{{candidate}}}$."


def answers(families: Sequence[str], per_family: int, seed: int) -> list[Answer]:
    rng = random.Random(seed)
    pairs = draw({name: DEVELOPED[name] for name in families}, per_family, seed)
    rng.shuffle(pairs)
    return [(pair.gold, completion(pair.candidate, rng)) for pair in pairs]


def identities(count: int, seed: int) -> list[Answer]:
    """Equal expressions that no algebra short of sympy's shows to be equal."""
    rng = random.Random(seed)
    out = []
    for _ in range(count):
        a, k, n = rng.randint(2, 99), rng.randint(2, 9), rng.choice((2, 3, 5, 7))
        gold, same = rng.choice((
            (f"{2 * a}\\sin({k}x)\\cos({k}x)", f"{a}\\sin({2 * k}x)"),
            (f"{a}\\cos^2({k}x)", f"{a}-{a}\\sin^2({k}x)"),
            (f"{k}\\ln {a}", f"\\ln {a**k}"),
            (f"{a}+\\sqrt{{{n}}}", f"\\sqrt{{{a * a + n}+{2 * a}\\sqrt{{{n}}}}}"),
        ))  # fmt: skip
        out.append((gold, completion(same, rng)))
    return out


def realistic(num_tasks: int, seed: int) -> list[Answer]:
    """Tasks of common kinds, sixteen completions each, half of them right, wrong answers alike as a model's are."""
    rng = random.Random(seed)
    names, weights = zip(*REALISTIC, strict=True)
    out = []
    for task in range(num_tasks):
        name = rng.choices(names, weights)[0]
        drawn = draw({name: DEVELOPED[name]}, 8, seed + task)
        gold = drawn[0].gold
        candidates = [drawn[0].candidate, gold, drawn[1].candidate, drawn[3].candidate]
        out += [(gold, completion(rng.choice(candidates[:2] if i % 2 else candidates[2:]), rng)) for i in range(16)]
    return out


def speed() -> str:
    workloads: dict[str, list[Answer]] = {
        "plain numbers": answers(NUMBERS, 120, SEED),
        "sets, intervals, tuples, units, words": answers(SHAPES, 60, SEED),
        "expressions that algebra decides": answers(EXPRESSIONS, 80, SEED),
        "expressions that sympy decides": identities(120, SEED),
        "the same again": identities(120, SEED),
        "realistic mix": realistic(120, SEED),
    }
    warm = [*answers((*NUMBERS, *SHAPES, *EXPRESSIONS), 2, SEED + 1), *identities(16, SEED + 1)]
    rates: dict[Contender, dict[str, list[float]]] = {contender: {name: [] for name in workloads} for contender in MAIN}
    for _ in range(REPEATS):
        for contender in MAIN:
            runner = Runner(contender)
            runner.batch(warm)
            for name, work in workloads.items():
                chosen = work if contender is Contender.OURS else work[:NUM_PEER]
                rates[contender][name].append(len(chosen) / runner.batch(chosen)[0])
            runner.close()
    rows = []
    for name in workloads:
        ours, *peers = (median(rates[contender][name]) for contender in MAIN)
        rows.append([name, _count(ours), *(f"{_count(peer)} ({ours / peer:.0f}x)" for peer in peers)])
    mix = workloads["realistic mix"]
    return (
        "## Answers a second of one core\n\n"
        "A CPU second counts the verifier's process and, for this one, the processes that ask sympy; so the figures hold on a "
        f"machine that does other things. Medians of {REPEATS}; in brackets how many times more than the peer. "
        f"Every answer stands at "
        f"the end of a short solution. The mix: {len(mix)} completions of {len(mix) // 16} tasks, sixteen each, "
        f"mostly of numbers "
        '(see `REALISTIC`); the same answer to the same task is compared once and remembered. "The same again" '
        "repeats the line "
        "above it.\n\n"
        + table(["answers", "polymath", "math-verify", "TRL accuracy_reward"], rows)
        + f"\nTwo processes at once, as two reward workers: {_count(two_at_once(mix))} answers of the mix a "
        f"second of wall time. "
        "What only sympy can decide costs what sympy costs: a verifier that is asked nothing else has the fourth line.\n"
    )


def two_at_once(mix: list[Answer]) -> float:
    runners = [Runner(Contender.OURS) for _ in range(2)]
    for runner in runners:
        runner.batch(answers(NUMBERS, 2, SEED + 2) + identities(4, SEED + 2))
    with ThreadPoolExecutor(2) as threads:
        start = time.perf_counter()
        list(threads.map(lambda runner: runner.batch(mix), runners))
        rate = 2 * len(mix) / (time.perf_counter() - start)
    for runner in runners:
        runner.close()
    return rate


def _count(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"


# ---- bombs ----


def bombs() -> str:
    found: dict[Contender, list[str]] = {}
    survived: Counter[Contender] = Counter()
    slowest: dict[Contender, float] = {}
    for contender in Contender:
        runner, cells = Runner(contender), []
        runner.score("1", "$\\boxed{2}$")
        for gold, text in BOMBS.values():
            start = time.perf_counter()
            outcome = runner.score(gold, text)
            took = time.perf_counter() - start
            survived[contender] += outcome.ending is Ending.OK
            slowest[contender] = max(slowest.get(contender, 0.0), took)
            paid = ", **rewarded**" if outcome.reward else ""
            cells.append(f"{took:.1f} s{paid}" if outcome.ending is Ending.OK else f"**{outcome.ending}**")
        runner.close()
        found[contender] = cells
    rows = [[name, *(found[contender][i] for contender in Contender)] for i, name in enumerate(BOMBS)]
    rows.append(["**survived**", *(f"{survived[contender]} of {len(BOMBS)}" for contender in Contender)])
    return (
        "## Bombs\n\n"
        f"{len(BOMBS)} completions that are made to hang, crash or exhaust a verifier, none of them right; "
        f"seconds until the verdict, start "
        f"of processes and all. *hangs*: no verdict after {CPU_LIMIT_S:.0f} CPU seconds or {WALL_LIMIT_S:.0f} "
        f"s; *dies*: the process "
        "ended (it may use 4 GiB); *raises*: an exception instead of a verdict. The peers' limits are signals (5 s for each "
        "step), which need the main thread; reward functions of a trainer often run in another, where both "
        "switch them off. This "
        "verifier has no thread of its own to be in: most bombs are refused for their shape or by arithmetic, and what reaches "
        "sympy ends with its process after 2 CPU seconds, once for each answer.\n\n" + table(["bomb", *Contender], rows)
    )


# ---- verdicts ----


@dataclass(frozen=True)
class Judged:
    pair: Pair
    accepted: dict[Contender, bool | None]  # None: no verdict

    def is_wrong(self, contender: Contender) -> bool:
        return self.accepted[contender] is not self.pair.is_equal


def judge(pairs: list[Pair]) -> list[Judged]:
    accepted: list[dict[Contender, bool | None]] = [{} for _ in pairs]
    for contender in MAIN:
        runner = Runner(contender)
        for pair, found in zip(pairs, accepted, strict=True):
            outcome = runner.score(pair.gold, f"So the answer is $\\boxed{{{pair.candidate}}}$.")
            found[contender] = None if outcome.reward is None else outcome.reward >= 1
        runner.close()
    return [Judged(pair, found) for pair, found in zip(pairs, accepted, strict=True)]


def verdicts(*, with_held_out: bool) -> str:
    text = (
        "## Verdicts on pairs whose equality is known\n\n"
        "Each family draws values and writes them in two ways, equal and unequal by halves (`math_pairs.py`); the candidate "
        f"stands in a box. {PER_FAMILY} pairs a family. `+` is a wrong answer that was rewarded, `-` a right "
        f"one that was not, `0` none "
        "of the two; `?` no verdict, as TRL gives where it does not understand the gold answer.\n\n"
    )
    judged = judge(draw(DEVELOPED, PER_FAMILY, SEED))
    text += "### Families that were looked at while the verifier was mended, with other seeds\n\n" + summary(judged)
    if with_held_out:
        held_out = judge(draw(HELD_OUT, PER_FAMILY, SEED))
        text += "\n### Families that were written afterwards; nothing was mended for them\n\n" + summary(held_out)
        judged += held_out
    return text + "\n" + explanations(judged)


def summary(judged: list[Judged]) -> str:
    families = list(dict.fromkeys(each.pair.family for each in judged))
    rows, clean = [], []
    for family in families:
        mine = [each for each in judged if each.pair.family == family]
        if any(each.is_wrong(contender) for each in mine for contender in MAIN):
            rows.append([family, *(_errors(mine, contender) for contender in MAIN)])
        else:
            clean.append(family)
    rows.append([f"**all {len(judged)} pairs**", *(_errors(judged, contender) for contender in MAIN)])
    ours, theirs = (Counter(each.is_wrong(contender) for each in judged) for contender in MAIN[:2])
    same = sum(each.accepted[Contender.OURS] is each.accepted[Contender.MATH_VERIFY] for each in judged)
    both = sum(each.is_wrong(Contender.OURS) and each.is_wrong(Contender.MATH_VERIFY) for each in judged)
    return (
        table(["family", *MAIN], rows)
        + (f"\nNobody was wrong on {', '.join(clean)}.\n" if clean else "")
        + f"\nThis verifier and math-verify agree on {same} of {len(judged)} pairs. Where they differ, this one is right "
        f"{theirs[True] - both} times and math-verify {ours[True] - both} times; both are wrong on {both}.\n"
    )


def _errors(judged: list[Judged], contender: Contender) -> str:
    accepted = sum(each.accepted[contender] is True and not each.pair.is_equal for each in judged)
    rejected = sum(each.accepted[contender] is False and each.pair.is_equal for each in judged)
    none = sum(each.accepted[contender] is None for each in judged)
    cells = [f"+{accepted}" if accepted else "", f"-{rejected}" if rejected else "", f"?{none}" if none else ""]
    return " ".join(cell for cell in cells if cell) or "0"


def explanations(judged: list[Judged]) -> str:
    """Each class of wrong verdicts with one example, and why."""
    lines = []
    classes = dict.fromkeys((each.pair.family, each.pair.is_equal) for each in judged if any(map(each.is_wrong, MAIN)))
    for family, is_equal in classes:
        mine = [each for each in judged if (each.pair.family, each.pair.is_equal) == (family, is_equal)]
        wrong = {contender: [each for each in mine if each.is_wrong(contender)] for contender in MAIN}
        who = ", ".join(f"{contender} ({len(found)})" for contender, found in wrong.items() if found)
        example = next(found for found in wrong.values() if found)[0].pair
        reason = REASONS.get((family, is_equal), "not looked into.")
        kind = "right, not rewarded" if is_equal else "wrong, rewarded"
        lines.append(f"- **{family}**, {kind} by {who}: `{example.gold}` and `{example.candidate}`. {reason}")
    return "### Why\n\n" + ("\n".join(lines) if lines else "Nobody was wrong.") + "\n"


if __name__ == "__main__":
    main()
