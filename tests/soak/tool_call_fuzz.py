"""A million mutated tool-call texts against the readers of calls: nothing is raised, nothing is lost, and time is linear.

Used by tests/test_formats_fuzz.py with small counts, and in full by `make soak`. With `--write` it is resumable: a batch that
is in docs/results/tool_calls.json is not done again. Without, it tries some and prints what came of them.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from rewards.task import Message, Role, ToolCall
from rl.formats import dsml, hermes
from rl.formats.protocol import CallErrorKind, ReadTurn
from tests.conversations import call, marked, plain
from tests.soak.kills import ROOT

RESULTS = ROOT / "docs" / "results" / "tool_calls.json"
READERS: dict[str, ModuleType] = {"dsml": dsml, "hermes": hermes}
TARGETS = {"dsml": 1_000_000, "hermes": 250_000}
BATCH = 25_000
TRY = 5_000
LONG = 10_000  # characters from which a text's time says something of the reader and not of a call to it
MAX_ERROR = 600  # characters of an error's text

PIECES = (
    dsml.OPEN_BLOCK, dsml.CLOSE_BLOCK, dsml.CLOSE_CALL, dsml.CLOSE_PARAMETER, '<｜DSML｜invoke name="f">', dsml.MARK,
    '<｜DSML｜parameter name="a" string="true">', '<｜DSML｜parameter name="a" string="false">', "<｜DSML｜", "</｜DSML｜",
    "｜",
    "<|DSML|tool_calls>", "<│DSML│invoke", "</∣DSML∣parameter>", "<DSML>", "＜｜DSML｜tool_calls＞",
    "<｜dsml｜tool_calls>",
    hermes.OPEN, hermes.CLOSE, "<tool_calls>", "<|tool_call|>", '{"name": "f", "arguments": {}}', '{"name"',
    '"arguments": {',
    "<think>", "</think>", "\n", "\n\n", " ", '"', "\\", "\\u", "{", "}", "[", "]", ":", ",", "NaN", "-Infinity", "1e999", "00",
    "-", "\x00", "\ud800", "\ufeff", "\u2028", "'", "9" * 4300, "9" * 4301, "[" * 150, '{"a":' * 150, "]" * 150,
)  # fmt: skip


def well_formed(draw: random.Random, kind: str) -> tuple[str, bool]:
    """A turn as a model should write it, most of them with calls, and whether its thinking was opened for it."""
    thinking = draw.random() < 0.5
    calls = tuple(spelled(draw, call(draw, any_text=kind == "dsml"), kind) for _ in range(draw.choice((0, 1, 1, 1, 2, 3))))
    reasoning = draw.choice((plain(draw), marked(draw))).replace("</think", "") if thinking else None
    return READERS[kind].write_turn(Message(Role.ASSISTANT, plain(draw), reasoning, calls), thinking=thinking), thinking


def spelled(draw: random.Random, one: ToolCall, kind: str) -> ToolCall:
    """The call, its JSON more or less as our writer has it."""

    def text(value: Any) -> str:
        gap = draw.choice((":", ": ", " : "))
        return json.dumps(value, indent=draw.choice((None, 0, 2)), ensure_ascii=draw.random() < 0.5, separators=(",", gap))

    if draw.random() < 0.5:
        return one
    if kind == "hermes":
        return ToolCall(one.name, one.arguments, written={hermes.WHOLE: text({"name": one.name, "arguments": one.arguments})})
    return ToolCall(one.name, one.arguments, written={name: text(value) for name, value in one.arguments.items()})


def mutated(draw: random.Random, text: str, kind: str) -> str:
    """One to three things done to it."""
    for _ in range(draw.choice((1, 1, 2, 3))):
        text = draw.choice(MUTATIONS)(draw, text, kind)
    return text


def _span(draw: random.Random, text: str) -> tuple[int, int]:
    start = draw.randrange(len(text) + 1)
    return start, min(len(text), start + draw.choice((1, 1, 2, 5, 20, 80)))


def delete(draw: random.Random, text: str, _: str) -> str:
    start, end = _span(draw, text)
    return text[:start] + text[end:]


def duplicate(draw: random.Random, text: str, _: str) -> str:
    start, end = _span(draw, text)
    return text[:end] + text[start:end] + text[end:]


def swap(draw: random.Random, text: str, _: str) -> str:
    (a, b), (c, d) = sorted((_span(draw, text), _span(draw, text)))
    return text[:a] + text[c:d] + text[b:c] + text[a:b] + text[d:] if b <= c else text


def truncate(draw: random.Random, text: str, _: str) -> str:
    return text[: draw.randrange(len(text) + 1)]


def insert(draw: random.Random, text: str, _: str) -> str:
    at = draw.randrange(len(text) + 1)
    return text[:at] + draw.choice(PIECES) + text[at:]


def lines(draw: random.Random, text: str, _: str) -> str:
    """A line left out, written twice, moved, or cut in two."""
    parts = text.split("\n")
    at, way = draw.randrange(len(parts)), draw.randrange(4)
    line = parts.pop(at)
    cut = draw.randrange(len(line) + 1)
    new = ((), (line, line), (line[:cut], line[cut:]), ())[way]
    parts[at:at] = new
    if way == 3:
        parts.insert(draw.randrange(len(parts) + 1), line)
    return "\n".join(parts)


def lookalike(draw: random.Random, text: str, _: str) -> str:
    """Some or all marks in other characters."""
    old, new = draw.choice(
        (("｜", "|"), ("｜", "│"), ("｜", ""), ("DSML", "dsml"), ("_", "▁"), ("<", "＜"), ('"', "”"), ("\n", "\r\n"))
    )
    return text.replace(old, new, draw.choice((1, 2, -1)))


def nest(draw: random.Random, text: str, kind: str) -> str:
    """Another turn, or itself, within it."""
    at = draw.randrange(len(text) + 1)
    return text[:at] + draw.choice((text, well_formed(draw, kind)[0])) + text[at:]


def lengthen(draw: random.Random, text: str, _: str) -> str:
    """A long value or a long row of marks; a megabyte now and then."""
    size = draw.choice((100, 1000)) if draw.random() < 0.95 else draw.choice((20_000, 20_000, 20_000, 1_000_000))
    piece = draw.choice((*PIECES, "x", "é", "ab "))
    at = draw.randrange(len(text) + 1)
    return text[:at] + piece * max(1, size // len(piece)) + text[at:]


MUTATIONS: Sequence[Callable[[random.Random, str, str], str]] = (
    delete, duplicate, swap, truncate, insert, insert, lines, lines, lookalike, nest, lengthen,
)  # fmt: skip


def wrong_with(turn: ReadTurn, text: str, write: Callable[..., str], *, thinking: bool) -> str:
    """What must not be so about a turn that was read; "" where all is well."""
    unfinished = turn.error is not None and thinking and "</think>" not in text
    opened_late = not thinking and text.lstrip().startswith("<think>")  # a template's model: an open end, space before the tag
    if not unfinished and not opened_late and write(turn.message, thinking=thinking) != text:
        return "writes another text"
    if turn.error is None:
        return ""
    if turn.message.tool_calls:
        return "calls beside an error"
    try:
        turn.error.text.encode()
    except UnicodeEncodeError:
        return "an error that no tokenizer takes"
    return "a long error" if len(turn.error.text) > MAX_ERROR else ""


def batch(kind: str, seed: str, count: int) -> dict[str, Any]:
    """So many mutated texts read; what they came to, and the most processor time for a character of a long one."""
    draw, module = random.Random(seed), READERS[kind]
    seen, failures, worst_ns, longest = Counter[str](), list[str](), 0.0, 0
    for i in range(count):
        text, thinking = well_formed(draw, kind)
        text = mutated(draw, text, kind)
        start = time.thread_time_ns()
        try:
            turn = module.read_turn(text, thinking=thinking)
            spent = time.thread_time_ns() - start
            problem = wrong_with(turn, text, module.write_turn, thinking=thinking)
        except Exception as error:  # noqa: BLE001 - it is what is looked for
            seen["exceptions"] += 1
            failures.append(f"{seed} text {i}: {error!r}")
            continue
        longest = max(longest, len(text))
        if len(text) >= LONG:
            worst_ns = max(worst_ns, spent / len(text))
        if problem:
            seen["failures"] += 1
            failures.append(f"{seed} text {i}: {problem}")
        seen[turn.error.kind if turn.error else "calls" if turn.message.tool_calls else "answers"] += 1
    return {
        "kind": kind, "count": count, "seen": dict(seen), "failures": failures[:20],
        "worst_ns_a_character": round(worst_ns), "longest": longest,
    }  # fmt: skip


def growth(kind: str) -> dict[str, tuple[float, float]]:
    """Processor time in nanoseconds a character for texts of the worst kinds, at 100,000 and 1,600,000 characters."""
    parameter = f'{dsml.BLANK_LINE}{dsml.OPEN_BLOCK}\n<｜DSML｜invoke name="f">\n<｜DSML｜parameter name="a" string='
    heads = {
        "dsml": (f'{parameter}"true">', f'{parameter}"false">'),
        "hermes": (f"{hermes.OPEN}\n", f'{hermes.OPEN}\n{{"name": "f", "arguments": '),
    }
    whole = well_formed(random.Random(4), kind)[0]
    found = {}
    for piece in (*PIECES[:24], "[", '{"a":', '"\\', "9", "<", " ", "\n", "x", f"{whole}\n"):
        for head in ("", *heads[kind]):
            times = []
            for size in (100_000, 1_600_000):
                text = head + piece * (size // len(piece))
                begun = time.thread_time_ns()
                READERS[kind].read_turn(text, thinking=False)
                times.append((time.thread_time_ns() - begun) / len(text))
            found[f"{head}{piece}"] = (times[0], times[1])
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="the full count, resumable, into docs/results")
    arguments = parser.parse_args(argv)
    if not arguments.write:
        print(report([batch(kind, f"{kind}/try", TRY) for kind in TARGETS], {}))
        return
    done: list[dict[str, Any]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    for kind, target in TARGETS.items():
        while (so_far := sum(b["count"] for b in done if b["kind"] == kind)) < target:
            done.append(batch(kind, f"{kind}/{so_far}", BATCH))
            RESULTS.write_text(json.dumps(done, indent=1) + "\n")
            print(f"{kind}: {so_far + BATCH} of {target}", flush=True)
    text = report(done, {kind: growth(kind) for kind in TARGETS})
    RESULTS.with_suffix(".md").write_text(text)
    print(text)


def report(done: list[dict[str, Any]], grown: dict[str, dict[str, tuple[float, float]]]) -> str:
    lines_ = [
        "# Tool calls that are none",
        "",
        "Turns with calls, well-formed ones with one to three things done to them (characters, spans and lines left out,",
        "written twice, moved or cut; tags and look-alikes put in; turns put into turns; values and marks up to a megabyte",
        "long), read by the readers of both call syntaxes. Each came to calls, to an answer without any, or to an error that",
        "goes back to the model. *Lost* are turns that, written again, were another text, or errors that could not be shown.",
        f"Time is processor time of texts of at least {LONG:,} characters. Written by `make soak`.",
        "",
        "| | " + " | ".join(TARGETS) + " |",
        "|---|" + "---|" * len(TARGETS),
    ]
    seen = {kind: sum((Counter(b["seen"]) for b in done if b["kind"] == kind), Counter[str]()) for kind in TARGETS}
    rows: dict[str, Callable[[str], float]] = {
        "texts": lambda kind: sum(b["count"] for b in done if b["kind"] == kind),
        "exceptions": lambda kind: seen[kind]["exceptions"],
        "lost": lambda kind: seen[kind]["failures"],
        "with calls": lambda kind: seen[kind]["calls"],
        "answers": lambda kind: seen[kind]["answers"],
        "longest, characters": lambda kind: max((b["longest"] for b in done if b["kind"] == kind), default=0),
        "slowest, ns a character": lambda kind: max((b["worst_ns_a_character"] for b in done if b["kind"] == kind), default=0),
    }
    lines_ += [f"| {name} | " + " | ".join(f"{value(kind):,.0f}" for kind in TARGETS) + " |" for name, value in rows.items()]
    kinds = sorted(CallErrorKind, key=lambda kind: -sum(counter[kind] for counter in seen.values()))
    lines_ += [f"| error: {kind} | " + " | ".join(f"{seen[reader][kind]:,}" for reader in TARGETS) + " |" for kind in kinds]
    lines_ += [f"\nFailure: {failure}" for b in done for failure in b["failures"]]
    for kind, times in grown.items():
        name, (small, large) = max(times.items(), key=lambda item: item[1][1])
        shown = json.dumps(name if len(name) <= 60 else "..." + name[-57:], ensure_ascii=False)
        lines_ += [
            "",
            f"{kind}: {len(times)} rows of one piece were read at two lengths. The slowest, of `{shown}`,",
            f"took {large:.0f} ns a character at 1,600,000 characters and {small:.0f} ns at 100,000.",
        ]
    return "\n".join(lines_) + "\n"


if __name__ == "__main__":
    main()
