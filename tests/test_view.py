"""What a run shows: plain lines in a pipe, the dashboard in terminals of all sizes, and the closing table."""

import io
import math
import re
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from recipes.closing import print_closing
from recipes.dashboard import Dashboard
from recipes.lines import Progress, line
from recipes.text import bars, duration, plot, safe, split_thinking
from recipes.view import LiveView, PlainView, View, open_view

Row = dict[str, Any]
ESCAPES = "[bold red]x[/] \x1b[2J\x07\r\x9b31m \u202eabc\u2028 \ud800 "
HOSTILE = f"<think>{ESCAPES}{'long' * 5000}</think>[/nothing]\n" + "y\n" * 900


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal(width: int = 80, height: int = 24) -> Console:
    environ = {"TERM": "xterm-256color"}
    return Console(file=Terminal(), force_terminal=True, width=width, height=height, _environ=environ)


def event(name: str, elapsed_s: float, /, **fields: Any) -> Row:
    return {"type": "event", "attempt": 0, "event": name, **fields, "elapsed_s": elapsed_s}


def metrics(stage: str, step: int, elapsed_s: float, **values: float) -> Row:
    place = {"stage": stage, "step": step, "global_step": step}
    return {"type": "metrics", "attempt": 0, **place, **values, "elapsed_s": elapsed_s}


def evaluation(stage: str, step: int, elapsed_s: float, accuracy: float = 0.43) -> Row:
    figures = {"accuracy": accuracy, "interval": [accuracy - 0.05, accuracy + 0.05], "num_tasks": 300, "num_failed": 0}
    figures |= {"mean_completion_tokens": 31.4, "by_kind": {"add": 0.5, "[sub]": 0.25}, "pass_at_k": {}}
    return event("evaluation", elapsed_s, stage=stage, step=step, global_step=step, final=True, **figures)


def sample(step: int, elapsed_s: float, completion: str = "<think>2+3=5</think>5", reward: float | None = 1.0) -> Row:
    fields = {"prompt": "What is [red]2+3[/]?", "completion": completion, "answer": "5", "reward": reward, "num_tokens": 31}
    return event("sample", elapsed_s, stage="grpo", step=step, task_id="t", finish_reason="stop", **fields)


def grpo(step: int, elapsed_s: float, reward: float) -> Row:
    values = {"reward_mean": reward, "completion_tokens_mean": 31.0, "num_groups": 16.0, "num_groups_without_signal": 3.0}
    values |= {
        "num_failed_rollouts": 2.0,
        "tokens_per_s": 412.3,
        "step_s": 1.9,
        "sampler_gap": 0.0012,
        "sampler_gap_p99": 0.0187,
    }
    return metrics("grpo", step, elapsed_s, **values)


STAGES = [{"name": "base", "kind": "sft", "steps": 400}, {"name": "grpo", "kind": "grpo", "steps": 60}]
START = [
    event("run_started", 0, name="lab-1", folder="runs/lab-1", stages=STAGES, seed=3, runtime="ray", threads=2),
    event("workers_starting", 0, runtime="ray"),
    event("data", 1, num_train=4000, num_held_out=300, hash="ab"),
    event("model", 2, num_parameters=845056, vocab_size=447),
    event("stage_started", 3, stage="base", kind="sft", steps=400),
    metrics("base", 10, 8, loss=5.5, lr=2e-3, grad_norm=1.0, token_accuracy=0.1),
    metrics("base", 20, 12, loss=4.25, lr=1e-3, grad_norm=1.0, token_accuracy=0.25),
]
REST = [
    event("checkpoint", 13, stage="base", path="runs/lab-1/checkpoints/step-400", global_step=400),
    event("engine", 14, name="torch", batch_invariant=False, reason="batch of 3 against 1"),
    evaluation("base", 400, 15),
    event("stage_finished", 16, stage="base", wall_s=12.6),
    event("stage_started", 16, stage="grpo", kind="grpo", steps=60),
    grpo(1, 20, 0.1),
    sample(1, 20),
    event("score_failed", 21, stage="grpo", step=1, count=2, first_error="reward 'x' failed\nTraceback\nValueError: no"),
    *(grpo(i, 20 + 2 * (i - 1), 0.1 + i / 40) for i in range(2, 13)),
    sample(12, 43),
]
END = [
    event("interrupted", 50, kept="runs/lab-1/checkpoints/step-412"),
    event("interrupted", 50, kept=None),
    event("failed", 50, error="step 3: too many\nfailed", kept=None),
    event("run_finished", 50, wall_s=403.0),
    event("coffee_break", 51, stage="grpo", minutes=5, note="a\x1bb"),
    event("evaluation", 51, stage="grpo"),  # lacks everything else
]


def test_plain_lines() -> None:
    console = Console(file=io.StringIO(), width=80)
    view = open_view(console)
    assert isinstance(view, PlainView)
    with view:
        for row in START + REST + END:
            view(row)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert len(lines) == len(START + REST + END)
    assert lines[0] == ("run lab-1 in runs/lab-1: base (sft, 400 steps), grpo (grpo, 60 steps); seed 3, ray, 2 threads")
    assert lines[3] == "model: 845,056 parameters, vocabulary of 447"
    assert lines[6] == "base 20/400  loss 4.250  token accuracy 25.0 %  lr 0.001  2.5 steps/s"
    assert "grpo 12/60  reward 0.40  tokens 31  failed scores 2  412 tok/s  1.9 s/step" in lines
    figures = "43.0 % of 300 held-out tasks (95 %: 38.0 to 48.0)  tokens 31  add 50.0 %  [sub] 25.0 %"
    assert f"evaluation, base 400/400: {figures}" in lines
    assert "grpo 1: 2 completions could not be scored; the first: reward 'x' failed ... ValueError: no" in lines
    assert 'sample, grpo 12: "What is [red]2+3[/]?" -> "5" (reward 1.00, 31 tokens)' in lines
    assert lines[-6:-2] == [
        "interrupted; kept runs/lab-1/checkpoints/step-412",
        "interrupted; there was no checkpoint yet",
        "failed: step 3: too many ... failed; events.jsonl in the run's folder has the whole error",
        "run finished in 6:43",
    ]
    assert lines[-2] == "coffee_break grpo  minutes=5 note=a\\x1bb"
    assert lines[-1] == "evaluation grpo"


def test_a_hostile_transcript_is_one_safe_plain_line() -> None:
    text = line(sample(1, 0, HOSTILE, reward=None), Progress())
    assert text.isprintable()
    assert len(text) < 300
    assert "not scored" in text


def test_plain_lines_follow_the_encoding_and_never_carry_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    view = open_view(Console(file=file))
    assert isinstance(view, PlainView)
    view(sample(1, 0, "<think>a</think>é"))
    view(event("interrupted", 1, kept="x"))
    written = file.buffer.getvalue()  # type: ignore[attr-defined]
    assert b"\\xe9" in written
    assert b"\x1b" not in written
    assert written.count(b"\n") == 2  # flushed without closing


def screen(console: Console, rows: list[Row], now: float = 0.0) -> list[str]:
    board = Dashboard()
    for row in rows:
        board.see(row, 0.0)
    return [one.plain for one in board.render(console, now)]


def test_the_dashboard_shows_where_a_supervised_stage_is() -> None:
    text = "\n".join(screen(terminal(), START))
    assert "lab-1  stage 1/2  base  sft" in text
    assert "20/400" in text
    assert "2:32 left" in text  # 380 steps at 0.4 s
    assert "2:30 left" in "\n".join(screen(terminal(), START, now=2.0))
    assert re.search(r"loss +4\.2500 +token accuracy 25\.0 % +lr +0\.001", text)
    assert re.search(r"steps/s +2\.5", text)
    assert "loss from 5.5 to 4.25" in text


def test_the_dashboard_shows_a_grpo_stage_with_evaluation_curve_and_sample() -> None:
    lines = screen(terminal(), START + REST)
    text = "\n".join(lines)
    assert "lab-1  stage 2/2  grpo" in text
    assert "12/60" in text
    assert "1:36 left" in text
    assert re.search(r"reward +0\.400 +tokens +31 +no signal +3/16 groups", text)
    assert re.search(r"tokens/s +412 +sampler gap +0\.0012 +99 % below +0\.019", text)
    assert re.search(r"failed scores 24", text)
    assert "after base 400: 43.0 % of 300 held-out tasks (95 %: 38.0 to 48.0)" in text
    assert "reward from 0.1 to 0.4, highest 0.4" in text
    assert any(text.strip().endswith("█") for text in lines)
    assert "sample, step 12: reward 1.00, 31 tokens, wanted 5" in text
    assert lines[-3:] == ["What is [red]2+3[/]?", "2+3=5", "5"]


@pytest.mark.parametrize(("width", "height"), [(80, 24), (36, 20), (20, 10), (120, 50), (8, 3), (1, 1)])
@pytest.mark.parametrize("count", range(0, len(START + REST) + 1, 3))
def test_the_dashboard_fits_every_terminal(width: int, height: int, count: int) -> None:
    rows = [*(START + REST)[:count], sample(12, 43, HOSTILE)]
    lines = screen(terminal(width, height), rows)
    assert len(lines) <= max(1, height - 1)
    assert all(cell_len(text) <= width for text in lines)
    assert all(text.isprintable() for text in lines)


def test_a_long_sample_says_how_much_is_left_out() -> None:
    lines = screen(terminal(), [*START, *REST, sample(13, 60, HOSTILE)])
    assert any(re.fullmatch(r"\.\.\. \d+\+ more lines", text) for text in lines)
    assert "[/nothing]" in lines
    assert any("[bold red]x[/] \\x1b[2J\\x07" in text for text in lines)


def test_the_live_view_keeps_milestones_and_leaves_the_screen_clean() -> None:
    console = terminal()
    view = open_view(console)
    assert isinstance(view, LiveView)
    again = event("score_failed", 61, stage="grpo", step=2, count=9, first_error="")
    with view:
        for row in [*START, *REST, sample(13, 60, HOSTILE), again, *END]:
            view(row)
        view._live.refresh()
    assert isinstance(console.file, Terminal)
    out = console.file.getvalue()
    assert "stage 2/2" in out
    kept = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", out)
    assert kept.count("evaluation, base 400") >= 1
    assert "2 completions could not be scored" in kept
    assert "9 completions could not be scored" not in kept  # the first of a stage; the dashboard counts on
    assert "\x1b[?25h" in out  # the cursor is back
    assert "\x07" not in out
    assert "\x1b[2J" not in out


def test_the_live_view_draws_a_row_for_each_line() -> None:
    console = terminal()
    view = LiveView(console)
    for row in START + REST:
        view(row)
    drawn = console.render_lines(view._frame(), pad=False)
    assert ["".join(part.text for part in row).rstrip() for row in drawn] == [
        text.rstrip() for text in screen(terminal(), START + REST)
    ]


def test_the_live_view_gives_the_cursor_back_when_a_run_fails() -> None:
    def fails(view: View) -> None:
        with view:
            view(START[0])
            raise RuntimeError("boom")

    console = terminal()
    with pytest.raises(RuntimeError, match="boom"):
        fails(open_view(console))
    assert isinstance(console.file, Terminal)
    assert "\x1b[?25h" in console.file.getvalue()


def test_a_dumb_terminal_gets_lines() -> None:
    console = Console(file=Terminal(), force_terminal=True, _environ={"TERM": "dumb"})
    assert isinstance(open_view(console), PlainView)


# ---- closing

KINDS = ("add", "div", "mul", "sub")


def result(accuracy: float, kinds: tuple[str, ...] = KINDS, **more: Any) -> Row:
    interval = [accuracy - 0.05, accuracy + 0.05]
    figures = {"accuracy": accuracy, "interval": interval, "num_tasks": 300, "mean_completion_tokens": 31.25, "num_failed": 0}
    return {**figures, "by_kind": dict.fromkeys(kinds, accuracy), "pass_at_k": {}, **more}


def closing(console: Console, kinds: tuple[str, ...] = KINDS, **changes: Any) -> str:
    rows = [metrics("grpo", 460 + i, i, reward_mean=1 - math.exp(-i / 12)) for i in range(1, 41)]
    rows += [{**evaluation("grpo", 460 + i, i, i / 50), "global_step": 460 + i} for i in (-60, 0, 20, 40)]
    samples = [
        {"prompt": "2+[b]3", "completion": "<think>2+3=5</think>5", "answer": "5", "correct": True},
        {"prompt": "q", "completion": HOSTILE, "answer": "7", "correct": False},
    ]
    stages = [("base", result(0.93, kinds)), ("cold_start", result(0.31, kinds)), ("grpo", result(0.85, kinds))]
    fields: Row = {"folder": Path("runs/lab-1"), "stages": stages, "metrics": rows, "samples": samples}
    fields |= {"wall_s": 403.2, "tokens_per_s": 4120.0, "report": Path("runs/lab-1/report.html")}
    fields |= {"next_commands": ["polymath chat runs/lab", "tensorboard " + "x" * 90]}
    print_closing(console, **{**fields, **changes})
    console.file.flush()
    return console.file.getvalue() if isinstance(console.file, io.StringIO) else ""


def test_the_closing_in_a_pipe() -> None:
    out = closing(Console(file=io.StringIO(), width=80))
    assert "\x1b" not in out
    lines = [text.rstrip() for text in out.splitlines()]
    assert re.fullmatch(r"held out, % +accuracy +95 % +tasks +tokens +add +div +mul +sub", lines[0])
    assert re.fullmatch(r"after cold_start +31\.0 +26\.0-36\.0 +300 +31\.2 +31\.0 +31\.0 +31\.0 +31\.0", lines[2])
    assert sum(text.count("●") for text in lines) == 1 + 3  # the legend, and the evaluations from GRPO's start on
    assert "a completion that is right" in lines
    assert "2+[b]3" in lines
    assert "a completion that is wrong, the answer is 7" in lines
    assert any(re.search(r"\[\.\.\. \d+ lines \.\.\.\]", text) for text in lines)
    assert any(re.search(r"\[\.\.\. \d+ characters \.\.\.\]", text) for text in lines)
    assert "done in 6:43; sampled 4120 tokens/s; everything is in runs/lab-1" in lines
    assert "curves and transcripts, for a browser: runs/lab-1/report.html" in lines
    assert lines[-2:] == ["  polymath chat runs/lab", "  tensorboard " + "x" * 90]


def test_many_kinds_get_a_table_of_their_own() -> None:
    out = closing(Console(file=io.StringIO(), width=80), tuple(f"kind_number_{i}" for i in range(9)))
    assert re.search(r"^kind, % +after base +after cold_start +after grpo", out, re.MULTILINE)
    assert re.search(r"^kind_number_8 +93\.0 +31\.0 +85\.0", out, re.MULTILINE)
    assert all(len(text.rstrip()) <= 80 for text in out.split("● held-out")[0].splitlines())


def test_the_closing_in_ascii() -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    closing(Console(file=file, width=80))
    text = file.buffer.getvalue().decode("ascii")  # type: ignore[attr-defined]
    assert "* reward, o held-out accuracy" in text
    assert text.count("*") > 20


def test_a_closing_without_anything_to_show() -> None:
    empty = {"stages": [], "metrics": [], "samples": [], "tokens_per_s": None, "report": None, "next_commands": []}
    out = closing(Console(file=io.StringIO(), width=80), **empty)
    assert out == "no evaluation\ndone in 6:43; everything is in runs/lab-1\n"


def test_the_closing_names_failures_and_pass_at_k() -> None:
    stages = [("grpo", result(0.5, num_failed=4, pass_at_k={"1": 0.5, "4": 0.75}))]
    out = closing(Console(file=io.StringIO(), width=80), stages=stages)
    assert "pass@k after grpo:  1: 50.0 %  4: 75.0 %" in out
    assert "after grpo: 4 completions could not be scored and count as not solved" in out


# ---- text


def test_safe_text() -> None:
    assert safe("a\x1b[31m\tb\nc\u202e\r") == "a\\x1b[31m    b\nc\\u202e\\r"
    assert safe("a\nb", one_line=True) == "a\\nb"
    assert safe("é\ud800", "ascii") == "\\xe9\\ud800"
    assert safe("naïve 日本 😀") == "naïve 日本 😀"


@pytest.mark.parametrize(
    ("completion", "parts"),
    [
        ("<think>a</think>b", ("a", "b")),
        ("a</think>b", ("a", "b")),
        ("<think>a", ("a", "")),
        ("b", ("", "b")),
        ("<think>a</think>b</think>c", ("a</think>b", "c")),
    ],
)
def test_thinking_is_split_from_the_answer(completion: str, parts: tuple[str, str]) -> None:
    assert split_thinking(completion) == parts


def test_bars_and_plot() -> None:
    assert bars([0, 1, 2], 10) == ["▁▅█"]
    assert bars([0, 0, 1, 1], 2, 2) == [" █", "▁█"]
    assert bars([float("nan")], 5) == [""]
    assert bars([1, 1], 5, ascii_only=True) == [".."]
    assert plot([], [], ascii_only=True) == []
    lines = plot([(1, 0.0), (40, 1.0)], [], width=10, height=3, ascii_only=True)
    assert lines[0].startswith("  1.00 |")
    assert lines[0].endswith("*")
    assert lines[2] == "  0.00 |*"
    assert [len(text) for text in plot([(0, -2.0), (1, 3.5)], [(0, 9)], height=10, ascii_only=False)][-2:] == [68, 68]


def test_durations() -> None:
    assert [duration(s) for s in (0.04, 7.42, 59.4, 95, 4000)] == ["0.0 s", "7.4 s", "59 s", "1:35", "1:06:40"]
