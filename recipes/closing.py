"""What a person reads at a run's end: accuracies in a table, reward and accuracy over the GRPO steps, samples, what to try.

Called by recipes/launch.py after a run that went through; works in a terminal and in a pipe.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from rich.console import Console
from rich.table import Table
from rich.text import Text

from recipes.lines import agent, efforts, judge
from recipes.text import duration, number, percent, plot, safe, split_thinking

SAMPLE_CHARS, SAMPLE_LINES = 800, 12  # of each part of a sample; the middle is left out, and that is said

Stages: TypeAlias = Sequence[tuple[str, Mapping[str, Any]]]


def print_closing(
    console: Console,
    *,
    folder: Path,
    stages: Stages,
    metrics: Sequence[Mapping[str, Any]],
    samples: Sequence[Mapping[str, Any]],
    wall_s: float,
    tokens_per_s: float | None,
    report: Path | None,
    next_commands: Sequence[str],
) -> None:
    """Prints everything; blank where there is nothing to show.

    Args:
        stages: stage name and `Evaluation.as_dict()`, in order.
        metrics: the run's rows; evaluation events among them give the accuracies between the steps.
        samples: mappings with prompt, completion, answer and correct.
        report: the run's page, where it was written.
    """
    blocks: list[Iterable[Text | Table]] = [_tables(console, stages), _curve(console, metrics)]
    blocks += [_sample(console, sample) for sample in samples]
    blocks.append(_next(console, folder, wall_s, tokens_per_s, report, next_commands))
    for block in blocks:
        for one in block:
            console.print(one, soft_wrap=isinstance(one, Text), highlight=False)


def _tables(console: Console, stages: Stages) -> Iterator[Text | Table]:
    """One table where the kinds fit beside the figures, else a second one with a line for each kind. All in percent."""
    if not stages:
        yield Text("no evaluation")
        return
    kinds = sorted({kind for _, result in stages for kind in result.get("by_kind", {})})
    table = _figures(console, stages, kinds)
    fits = console.measure(table, options=console.options.update(width=10_000)).maximum <= console.width
    yield table if fits else _figures(console, stages, [])
    yield Text()
    if not fits:
        yield _by_kind(console, stages, kinds)
        yield Text()
    for stage, result in stages:
        if powers := result.get("pass_at_k"):
            shares = "  ".join(f"{k}: {percent(share)}" for k, share in powers.items())
            yield Text(f"pass@k after {_clean(console, stage)}:  {shares}")
        for figures in (
            judge(result.get("judge", {})), efforts(result.get("by_effort", {})), agent(result.get("agent", {})),
        ):  # fmt: skip
            if figures:
                yield Text(f"after {_clean(console, stage)}:{figures}")
        if failed := result.get("num_failed"):
            text = f"after {_clean(console, stage)}: {failed} completions could not be scored and count as not solved"
            yield Text(text, "red")


def _figures(console: Console, stages: Stages, kinds: Sequence[str]) -> Table:
    table = _new_table(console, "held out, %", "accuracy", "95 %", "tasks", "tokens", *kinds)
    for stage, result in stages:
        low, high = (f"{100 * share:.1f}" for share in result["interval"])
        figures = [f"{low}-{high}", str(result["num_tasks"]), f"{result['mean_completion_tokens']:.1f}"]
        shares = [_share(result, kind) for kind in kinds]
        _add(console, table, f"after {stage}", f"{100 * result['accuracy']:.1f}", *figures, *shares)
    return table


def _by_kind(console: Console, stages: Stages, kinds: Sequence[str]) -> Table:
    table = _new_table(console, "kind, %", *(f"after {stage}" for stage, _ in stages))
    for kind in kinds:
        _add(console, table, kind, *(_share(result, kind) for _, result in stages))
    return table


def _new_table(console: Console, *names: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for i, name in enumerate(names):
        shown = Text(safe(name, console.encoding, one_line=True))
        table.add_column(shown, justify="right" if i else "left", overflow="fold")
    return table


def _add(console: Console, table: Table, *cells: str) -> None:
    table.add_row(*(Text(safe(cell, console.encoding, one_line=True)) for cell in cells))


def _share(result: Mapping[str, Any], kind: str) -> str:
    share = result.get("by_kind", {}).get(kind)
    return "-" if share is None else f"{100 * share:.1f}"


def _curve(console: Console, rows: Sequence[Mapping[str, Any]]) -> Iterator[Text]:
    rewards = [(float(r["global_step"]), float(r["reward_mean"])) for r in rows if "reward_mean" in r]
    if len(rewards) < 2:
        return
    first = rewards[0][0] - 1  # the evaluation before the first GRPO step stands there
    found = [r for r in rows if r.get("event") == "evaluation" and r["global_step"] >= first]
    accuracies = [(float(r["global_step"]) - first, float(r["accuracy"])) for r in found]
    curve = [(step - first, reward) for step, reward in rewards]
    ascii_only = console.options.ascii_only
    lines = plot(curve, accuracies, width=min(60, console.width - 10), ascii_only=ascii_only)
    legend = [("* " if ascii_only else "⠤ ") + "reward"]
    legend += [("o " if ascii_only else "● ") + "held-out accuracy"] if accuracies else []
    yield Text(f"{', '.join(legend)}, over the GRPO steps")
    for line in lines:
        yield Text(line)
    yield Text()


def _sample(console: Console, sample: Mapping[str, Any]) -> Iterator[Text]:
    thinking, answer = split_thinking(str(sample["completion"]))
    right = bool(sample["correct"])
    verdict = "right" if right else f"wrong, the answer is {_clean(console, str(sample['answer']))}"
    yield Text.assemble("a completion that is ", (verdict, "green" if right else "red"))
    yield Text(_clean(console, str(sample["prompt"])), "bold")
    if thinking:
        yield Text(_clean(console, thinking), "dim")
    yield Text(_clean(console, answer) if answer else "(no answer)")
    yield Text()


def _clean(console: Console, text: str) -> str:
    """Safe text; the middle of a long one is left out."""
    half, left_out = SAMPLE_CHARS // 2, len(text) - SAMPLE_CHARS
    cut = f"{text[:half]} [... {left_out} characters ...] {text[-half:]}" if left_out > 0 else text
    lines = safe(cut.strip(), console.encoding).split("\n")
    if len(lines) > SAMPLE_LINES:
        half = SAMPLE_LINES // 2
        lines = [*lines[:half], f"[... {len(lines) - 2 * half} lines ...]", *lines[-half:]]
    return "\n".join(lines)


def _next(
    console: Console,
    folder: Path,
    wall_s: float,
    tokens_per_s: float | None,
    report: Path | None,
    next_commands: Sequence[str],
) -> Iterator[Text]:
    pace = f"; sampled {number(tokens_per_s)} tokens/s" if tokens_per_s else ""
    yield Text(f"done in {duration(wall_s)}{pace}; everything is in {safe(str(folder), console.encoding)}")
    if report:
        yield Text(f"curves and transcripts, for a browser: {safe(str(report), console.encoding)}")
    if next_commands:
        yield Text("next:")
    for command in next_commands:
        yield Text(f"  {safe(command, console.encoding)}", "bold")
