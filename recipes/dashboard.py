"""The live picture of a run: header, progress bar, newest numbers, a curve, a sample; drawn to fit any terminal.

State and drawing only; recipes/view.py feeds it rows and puts it on the screen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from recipes.lines import Progress, Row, evaluation, line
from recipes.text import SHOWN_CHARS, bars, duration, number, percent, safe, shorten, split_thinking

LABEL, CELL = 13, 26  # columns of a number's name, and of name and value together
MAX_HEIGHT, SAMPLE_ROWS = 28, 4  # most rows in all; fewest that are worth a sample


@dataclass
class Dashboard:
    """Everything that is on the screen. `now` is any clock in seconds, the same for `see` and `render`."""

    progress: Progress = field(default_factory=Progress)
    name: str = "run"
    status: str = "starting"
    metrics: Mapping[str, float] = field(default_factory=dict)
    curve: list[float] = field(default_factory=list)  # reward or loss of this stage, a value each metrics row
    num_failed: int = 0  # completions of this stage that could not be scored
    evaluation: Row | None = None
    sample: Row | None = None
    seen_at: float = 0.0

    def see(self, row: Row, now: float) -> None:
        self.progress.see(row)
        event = row.get("event")
        if row.get("type") == "metrics":
            self._measure(row, now)
        elif event == "sample":
            self.sample = row
        else:
            self.status = line(row, self.progress)
        if event == "run_started":
            self.name = safe(str(row.get("name", "run")), one_line=True)
        elif event == "stage_started":
            self.metrics, self.curve, self.num_failed, self.sample, self.seen_at = {}, [], 0, None, now
        elif event == "evaluation":
            self.evaluation = row

    def _measure(self, row: Row, now: float) -> None:
        self.metrics, self.seen_at = {k: v for k, v in row.items() if isinstance(v, int | float)}, now
        value = self.metrics.get("reward_mean", self.metrics.get("loss"))
        if value is not None:
            self.curve.append(value)
        self.num_failed += int(self.metrics.get("num_failed_rollouts", 0))
        self.status = "evaluating" if self.progress.steps and self.progress.step >= self.progress.steps else "training"

    def render(self, console: Console, now: float) -> list[Text]:
        """Lines that each take one row, no more of them than the terminal has, less one for its cursor."""
        width, ascii_only = console.width, console.options.ascii_only
        height = min(console.height - 1, MAX_HEIGHT)
        lines = [self._header(width), self._bar(width, now, ascii_only)]
        lines += self._numbers(width)
        if self.evaluation is not None:
            lines.append(Text(_evaluation(self.evaluation), "cyan"))
        lines += self._curve(width, 3 if height - len(lines) >= 12 else 1, ascii_only)
        lines.append(Text(self.status, "dim"))
        if self.sample is not None and height - len(lines) >= SAMPLE_ROWS:
            lines += sample_lines(console, self.sample, width, height - len(lines), ascii_only)
        for one in lines:
            if ascii_only:
                one.plain = safe(one.plain, console.encoding, one_line=True)
            one.no_wrap, one.overflow = True, "crop"
            one.truncate(width, overflow="crop")
        return lines[: max(1, height)]

    def _header(self, width: int) -> Text:
        p = self.progress
        out = Text(self.name, "bold")
        if p.stage:
            place = f"stage {p.stages.index(p.stage) + 1}/{len(p.stages)}  {p.stage}"
            out.append("  " + safe(place, one_line=True), "bold blue")
            out.append(f"  {p.kind}" if p.kind != p.stage else "", "dim")
        return out

    def _bar(self, width: int, now: float, ascii_only: bool) -> Text:
        p = self.progress
        if not p.steps:
            return Text(f"step {p.step}" if p.stage else "")
        label = f"{p.step}/{p.steps}"
        left = p.left_s(now - self.seen_at) if p.step < p.steps else None
        pace = "" if p.pace_s is None or width < 50 else f"  {number(p.pace_s)} s/step"
        tail = f"  {p.step / p.steps:4.0%}{pace}{'' if left is None else f'  {duration(left)} left'}"
        room = max(4, min(40, width - len(label) - len(tail) - 1))
        done = min(room, round(room * p.step / p.steps))
        full, empty = ("#", "-") if ascii_only else ("━", "─")
        return Text.assemble(label, " ", (full * done, "green"), (empty * (room - done), "dim"), tail)

    def _numbers(self, width: int) -> list[Text]:
        cells = list(self._cells())
        columns = max(1, width // CELL)
        rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
        return [Text.assemble(*(part for name, value in row for part in _cell(name, value))) for row in rows]

    def _cells(self) -> Iterator[tuple[str, str]]:
        m = self.metrics
        if "reward_mean" in m:
            yield "reward", f"{m['reward_mean']:.3f}"
            yield "tokens", number(m.get("completion_tokens_mean", float("nan")))
            yield "no signal", f"{m.get('num_groups_without_signal', 0):.0f}/{m.get('num_groups', 0):.0f} groups"
            yield "tokens/s", number(m.get("tokens_per_s", float("nan")))
            yield "sampler gap", f"{m['sampler_gap']:.2g}" if "sampler_gap" in m else "no update"
            if "sampler_gap_p99" in m:
                yield "  99 % below", f"{m['sampler_gap_p99']:.2g}"
            yield "failed scores", str(self.num_failed)
        elif "loss" in m:
            yield "loss", f"{m['loss']:.4f}"
            yield "token accuracy", percent(m["token_accuracy"]) if "token_accuracy" in m else "unknown"
            yield "lr", f"{m.get('lr', float('nan')):.2g}"
            yield "steps/s", number(1 / self.progress.pace_s) if self.progress.pace_s else "..."

    def _curve(self, width: int, height: int, ascii_only: bool) -> list[Text]:
        if len(self.curve) < 2:
            return []
        name = "reward" if "reward_mean" in self.metrics else "loss"
        drawn = bars(self.curve, max(1, min(80, width - len(name) - 1)), height, ascii_only=ascii_only)
        span = f"from {number(self.curve[0])} to {number(self.curve[-1])}, highest {number(max(self.curve))}"
        style = "green" if name == "reward" else "yellow"
        return [Text(f"{name} {span}", "dim"), *(Text(f"{'':{len(name)}} {row}", style) for row in drawn)]


def _cell(name: str, value: str) -> tuple[tuple[str, str], tuple[str, str]]:
    label = name.ljust(LABEL) + " "
    return (label, "dim"), (value.ljust(CELL - len(label)), "bold")


def _evaluation(row: Row) -> str:
    try:
        return f"after {row['stage']} {row['step']}: {evaluation(row)}"
    except (AttributeError, KeyError, TypeError, ValueError):  # a row of another version
        return "the last evaluation could not be read; events.jsonl has it"


def sample_lines(console: Console, row: Row, width: int, rows: int, ascii_only: bool) -> list[Text]:
    """A transcript in `rows` lines at most: a rule with its reward, prompt, thinking (dimmed), answer."""
    reward = row.get("reward")
    scored = f"reward {reward:.2f}" if isinstance(reward, int | float) else "not scored"
    title = f" sample, step {row.get('step', '?')}: {scored}, {row.get('num_tokens', '?')} tokens, wanted "
    title += shorten(safe(str(row.get("answer")), console.encoding, one_line=True), 30) + " "
    dash = "-" if ascii_only else "─"
    rule = Text(dash * 2 + title + dash * max(0, width - 2 - cell_len(title)), "magenta")
    thinking, answer = split_thinking(str(row.get("completion", "")))
    rest = rows - 1
    prompt_lines = _wrapped(console, str(row.get("prompt", "")).strip(), "bold", width, max(1, rest // 4))
    rest -= len(prompt_lines)
    answer_lines = _wrapped(console, answer or "(no answer)", "", width, max(1, rest // 2))
    thinking_lines = _wrapped(console, thinking, "dim", width, rest - len(answer_lines)) if thinking else []
    return [rule, *prompt_lines, *thinking_lines, *answer_lines][:rows]


def _wrapped(console: Console, text: str, style: str, width: int, rows: int) -> list[Text]:
    """At most `rows` lines; where more were needed, the last one says how many are left out."""
    if rows <= 0:
        return []
    cut = len(text) - SHOWN_CHARS
    shown = safe(text[:SHOWN_CHARS], console.encoding)
    lines = list(Text(shown, style).wrap(console, max(1, width), overflow="fold"))
    if len(lines) <= rows and cut <= 0:
        return lines
    more = f"... {len(lines) - rows + 1}{'+' if cut > 0 else ''} more lines"
    return [*lines[: rows - 1], Text(more, "dim italic")]
