"""The report as HTML text: figures, tables and words are written here; page.js draws the charts and turns the transcripts.

Every text from the run passes `_t` (HTML) or `texts.script_json` (data that the script reads and only ever sets as text).
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from recipes.lines import Progress, line
from recipes.report import agent, charts, judge, texts
from recipes.report.mismatch import mismatch
from recipes.report.run import UNFINISHED, Ancestor, Row, Run, Stage, after, comparison, count, finite
from recipes.text import duration, number, percent, safe

HERE = Path(__file__).parent
MAX_EVENTS, ERROR_CHARS = 500, 20_000
STATUS = {
    "done": "done",
    "failed": "failed",
    "interrupted": "interrupted",
    UNFINISHED: "not finished",
}
CORRECTED = {"masked_share": "masked as off-policy", "truncated_weight_share": "with a truncated weight"}


def render(run: Run) -> str:
    """The whole page. It asks for nothing from a network, and its policy forbids any script but its own."""
    drawn: list[charts.Chart] = []
    sections = [*_sections(run, drawn)]
    chars = texts.limit(len(run.samples) + sum(len(one.rows) for one in run.transcripts))
    found, note = texts.samples(run, chars)
    pairs = [(one.stage, run.kind_of(one.stage)) for one in run.transcripts]
    data = {
        "charts": [asdict(chart) for chart in drawn],
        "samples": found,
        "evaluations": texts.evaluations(run, chars),
        "compare": comparison(pairs),
    }
    script = (HERE / "charts.js").read_text(encoding="utf-8") + (HERE / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    body = "\n".join(text.replace("<!--samples-note-->", _t(note)) for _, _, text in sections)
    nav = "".join(f'<a href="#{name}">{_t(title)}</a>' for name, title, _ in sections if title)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{_t(run.name)} · Polymath</title>
<style>{(HERE / "page.css").read_text(encoding="utf-8")}</style>
</head>
<body>
<a class="skip" href="#main">Skip to the figures</a>
{_header(run)}
<nav aria-label="Sections">{nav}</nav>
<main id="main">
<noscript><p class="notice">The curves and transcripts of this page need JavaScript, which is switched off.</p></noscript>
{body}
</main>
<footer>Written by <code>polymath report</code> from {_t(str(run.folder))}; the page holds everything that it shows.</footer>
<script type="application/json" id="data">{texts.script_json(data)}</script>
<script>{script}</script>
</body>
</html>
"""


def _sections(run: Run, drawn: list[charts.Chart]) -> Iterator[tuple[str, str, str]]:
    """(id, title in the navigation, HTML); the charts that they refer to by number go into `drawn`."""
    yield "result", "", _notices(run)
    accuracy = charts.accuracy_chart(run)
    if accuracy:
        body = f'<div class="wide">{_figure(drawn, accuracy)}</div>' + _accuracy_table(run)
        yield "accuracy", "Accuracy", _section("accuracy", "Held-out accuracy", body)
    if table := judge.table([(_when(run, row), _mapping(row.get("judge"))) for row in _finals(run)]):
        yield "judge", "Judge", _section("judge", "The judge", f'{_table(*table)}<p class="note">{_t(judge.NOTE)}</p>')
    finals = _finals(run)
    if table := agent.effort_table([(_when(run, row), _mapping(row.get("by_effort"))) for row in finals]):
        curve = agent.effort_chart([(_when(run, row), _mapping(row.get("by_effort"))) for row in finals])
        drawn_curve = f'<div class="wide">{_figure(drawn, curve)}</div>' if curve else ""
        yield "efforts", "Efforts", _section("efforts", "Efforts", drawn_curve + _table(*table))
    if table := agent.table([(_when(run, row), _mapping(row.get("agent"))) for row in finals]):
        yield "tools", "Tools", _section("tools", "Tools and thinking", f'{_table(*table)}<p class="note">{_t(agent.NOTE)}</p>')
    yield "compare", "Before and after", _section("compare", "Before and after", _compare(run))
    for i, stage in enumerate(run.stages):
        shown, more = charts.stage_charts(run, stage)
        steps = f"{count(stage.rows[-1], 'step') if stage.rows else 0} of {stage.steps or '?'} steps"
        title = f"Stage {_t(stage.name)} <small>{_t(_kind(stage.kind))}, {steps}</small>"
        body = _mismatch(run, stage) + f'<div class="grid">{"".join(_figure(drawn, chart) for chart in shown)}</div>'
        body = body if stage.rows else '<p class="empty">No step of this stage has been recorded.</p>'
        if more:
            rest = "".join(_figure(drawn, chart) for chart in more)
            body += (
                f'<details class="more"><summary>More metrics ({len(more)})</summary><div class="grid">{rest}</div></details>'
            )
        yield f"stage-{i}", stage.name, _section(f"stage-{i}", title, body)
    yield "samples", "Samples", _section("samples", "Samples during training", _samples(run))
    yield "time", "Time", _section("time", "Where the time went", _time(run))
    yield "recipe", "Recipe", _section("recipe", "Recipe and origin", _recipe(run))
    yield "events", "Events", _section("events", "What happened", _events(run))


def _section(name: str, title: str, body: str) -> str:
    """`title` and `body` are HTML."""
    return f'<section id="{name}" aria-labelledby="{name}-title"><h2 id="{name}-title">{title}</h2>{body}</section>'


# ---- the top


def _header(run: Run) -> str:
    status = f'<span class="status {_t(run.status)}">{_t(STATUS.get(run.status, run.status))}</span>'
    description = run.recipe.get("description") or ""
    tiles = "".join(
        f'<div class="tile"><dt>{_t(name)}</dt><dd>{value}</dd><dd class="sub">{_t(sub)}</dd></div>'
        for name, value, sub in _tiles(run)
    )
    return f"<header><h1>{_t(run.name)} {status}</h1><p>{_t(str(description))}</p><dl>{tiles}</dl></header>"


def _tiles(run: Run) -> Iterator[tuple[str, str, str]]:
    """Name, value (HTML) and what is written below it."""
    rows = _finals(run)
    first, last = comparison([(str(row.get("stage")), run.kind_of(str(row.get("stage")))) for row in rows])
    if last is None:
        yield "held-out accuracy", "none", "nothing was evaluated"
    else:
        value, sub = _accuracy(rows[last]), f"{_when(run, rows[last])}, 95 %: {_span(rows[last])}"
        if first is not None and first != last:
            value = f'<span class="from">{_accuracy(rows[first])} →</span> {value}'
            sub = f"{_when(run, rows[first])} → {sub}"
        yield "held-out accuracy", value, sub
    wall_s = finite(run.summary, "wall_s") or sum(sum(one.seconds.values()) for one in charts.time_shares(run))
    attempts = 1 + max((count(row, "attempt") for row in run.events), default=0)
    yield (
        "wall time",
        _t(duration(wall_s)),
        f"in {attempts} attempts" if attempts > 1 else "so far" if run.status == UNFINISHED else "from start to end",
    )
    speed = finite(run.summary, "tokens_per_s") or _tokens_per_s(run)
    if speed:
        yield "sampling", f"{_t(number(speed))} <small>tokens/s</small>", "GRPO steps, updates included"
    planned = sum(stage.steps for stage in run.stages)
    done = max((count(row, "global_step") for row in run.metrics), default=0)
    yield "steps", f"{done:,}", f"of {planned:,} in {len(run.stages)} stages" if planned else ""
    yield "seed", _t(str(_seed(run))), str(run.recipe.get("domain") or "")


def _seed(run: Run) -> object:
    started = next((row for row in run.events if row["event"] == "run_started"), {})
    return next((one["seed"] for one in (run.manifest, run.recipe, started) if "seed" in one), "unknown")


def _finals(run: Run) -> list[Row]:
    """The evaluations after stages; while a stage has none, its newest one between steps stands for it."""
    rows = sorted(run.evaluations, key=lambda row: count(row, "global_step"))
    newest = {str(row.get("stage")): row for row in rows}
    newest |= {str(row.get("stage")): row for row in rows if row.get("final")}
    return sorted(newest.values(), key=lambda row: count(row, "global_step"))


def _when(run: Run, row: Row) -> str:
    stage = str(row.get("stage"))
    return after(stage) if row.get("final", True) else f"{stage}, step {count(row, 'step')}"


def _tokens_per_s(run: Run) -> float | None:
    rows = [row for row in run.metrics if finite(row, "num_sampled_tokens") and finite(row, "step_s")]
    seconds = sum(finite(row, "step_s") or 0.0 for row in rows)
    return sum(finite(row, "num_sampled_tokens") or 0.0 for row in rows) / seconds if seconds else None


def _notices(run: Run) -> str:
    """How the run ended where it is not done, what to do then, and what could not be read."""
    found = []
    kept = (run.end or {}).get("kept") or run.summary.get("checkpoint")
    what = "Go on from there" if kept else "There was no checkpoint yet; begin again"
    again = f"<p>{what}: <code>polymath resume {_t(run.name)}</code></p>"
    saved = f"<p>Kept: <code>{_t(str(kept))}</code></p>" if kept else ""
    if run.status == "failed":
        error = texts.cut(str((run.end or {}).get("error") or "no message"), ERROR_CHARS)
        found.append(f'<div class="notice bad" role="alert"><h2>The run failed</h2><pre>{_t(error)}</pre>{saved}{again}</div>')
    elif run.status == "interrupted":
        found.append(f'<div class="notice"><h2>The run was interrupted</h2>{saved}{again}</div>')
    elif run.status == UNFINISHED:
        words = "It is still going on, or was killed before it could say so; this page shows what it had written."
        found.append(f'<div class="notice"><h2>The run has not finished</h2><p>{words}</p></div>')
    found += [f'<p class="notice">{_t(note)}</p>' for note in run.notes]
    return "".join(found)


# ---- accuracy


def _accuracy_table(run: Run) -> str:
    rows = _finals(run)
    kinds = sorted({str(kind) for row in rows for kind in _mapping(row.get("by_kind"))})
    powers = sorted({str(k) for row in rows for k in _mapping(row.get("pass_at_k"))}, key=lambda k: (len(k), k))
    head = ["", "accuracy", "95 % interval", "tasks", "tokens"]
    body = []
    for row in rows:
        cells = [_accuracy(row), _span(row), f"{count(row, 'num_tasks')}", texts.figure(row, "mean_completion_tokens", ".1f")]
        cells += [texts.share(_mapping(row.get("pass_at_k")), k) for k in powers]
        cells += [texts.share(_mapping(row.get("by_kind")), kind) for kind in kinds]
        failed = count(row, "num_failed")
        name = _when(run, row) + (f" ({failed} could not be scored)" if failed else "")
        body.append([name, *cells])
    return _table([*head, *(f"pass@{k}" for k in powers), *kinds], body)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    titles = "".join(f'<th scope="col">{_t(name)}</th>' for name in head)
    body = "".join(
        f'<tr><th scope="row">{_t(row[0])}</th>{"".join(f"<td>{_t(cell)}</td>" for cell in row[1:])}</tr>' for row in rows
    )
    table = f"<table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll" tabindex="0" role="region" aria-label="table">{table}</div>'


def _accuracy(row: Row) -> str:
    return texts.share(row, "accuracy")


def _span(row: Row) -> str:
    low, high = charts.interval(row)
    return "unknown" if low is None or high is None else f"{100 * low:.1f} to {100 * high:.1f}"


def _mapping(value: object) -> Row:
    return value if isinstance(value, dict) else {}


# ---- curves, transcripts, time


def _figure(drawn: list[charts.Chart], chart: charts.Chart) -> str:
    """A place for page.js to draw in; the caption holds what is true without it."""
    drawn.append(chart)
    last = next((v for v in reversed(chart.lines[0].values) if v is not None), None)
    shown = "" if last is None or chart.kind == "stack" else percent(last) if chart.unit == "share" else number(last)
    unit = "seconds" if chart.kind == "stack" else "" if chart.unit == "share" else chart.unit
    words = f"<small>{_t(chart.help)}</small>" if chart.help else ""
    note = f'<p class="note">{_t(chart.note)}</p>' if chart.note else ""
    return (
        f'<figure class="chart" data-chart="{len(drawn) - 1}"><figcaption><b>{_t(chart.title)}</b>'
        f"<span>{_t(shown)} <small>{_t(unit)}</small></span>{words}</figcaption>"
        f'<div class="plot"></div><div class="legend"></div>{note}</figure>'
    )


def _mismatch(run: Run, stage: Stage) -> str:
    """One line: how far the stage's sampler was from its trainer, with the engine and the precision."""
    engine, model = _mapping(run.recipe.get("engine")), _mapping(run.recipe.get("model"))
    found = mismatch(stage.rows, str(engine.get("name", "unknown")), str(model.get("dtype", "unknown")))
    if found is None:
        return ""
    tail = "" if found["p99"] is None else f", 99th percentile {found['p99']:.2g} (median of the steps)"
    shares = "".join(f"; {percent(found[key])} {word}" for key, word in CORRECTED.items() if found[key] is not None)
    text = (
        f"Sampler against trainer: engine {found['engine']}, {found['dtype']}; mean gap {found['mean']:.2g}{tail}, in nats, "
        f"over {found['num_tokens']:,} tokens{shares}."
    )
    return f'<p class="note">{_t(text)}</p>'


def _compare(run: Run) -> str:
    if not any(one.rows for one in run.transcripts):
        return (
            '<p class="empty">No held-out transcripts were recorded. A run writes some after each stage that it evaluates.</p>'
        )
    return """<div class="turner" id="compare-turner">
<div class="controls"><span><label for="compare-left">left</label> <select id="compare-left" data-role="left"></select></span>
<span><label for="compare-right">right</label> <select id="compare-right" data-role="right"></select></span>
<span><label for="compare-filter">show</label> <select id="compare-filter" data-role="filter"></select></span>
<span class="pages"><button type="button" data-role="prev" aria-label="Previous task">←</button>
<output data-role="place" aria-live="polite"></output>
<button type="button" data-role="next" aria-label="Next task">→</button></span></div>
<div data-role="prompt" class="prompt"></div>
<div class="pair"><div data-role="left-card"></div><div data-role="right-card"></div></div>
</div>"""


def _samples(run: Run) -> str:
    if not run.samples:
        return '<p class="empty">No samples yet: GRPO stages record one each step.</p>'
    return """<p class="note"><!--samples-note--></p><div class="turner" id="samples-turner">
<div class="controls"><span class="slider"><label for="samples-slider">step</label>
<input id="samples-slider" type="range" data-role="slider" min="0" value="0"></span>
<span class="pages"><button type="button" data-role="prev" aria-label="Previous sample">←</button>
<output data-role="place" aria-live="polite"></output>
<button type="button" data-role="next" aria-label="Next sample">→</button></span></div>
<div data-role="prompt" class="prompt"></div><div data-role="card"></div></div>"""


def _time(run: Run) -> str:
    """A bar for each stage, as long as its share of the run, and the same in figures."""
    shares = charts.time_shares(run)
    if not shares:
        return '<p class="empty">No times were recorded yet.</p>'
    kinds = [kind for kind in charts.KINDS if any(kind in one.seconds for one in shares)]
    longest = max(sum(one.seconds.values()) for one in shares)
    bars = []
    for one in shares:
        parts = "".join(
            f'<i class="k{charts.KINDS.index(kind)}" style="width:{100 * one.seconds[kind] / longest:.3f}%" '
            f'title="{_t(kind)}: {_t(duration(one.seconds[kind]))}"></i>'
            for kind in kinds
            if kind in one.seconds
        )
        bars.append(f'<div class="bar"><span>{_t(one.stage or charts.STARTING)}</span><div>{parts}</div></div>')
    keys = "".join(f'<span><i class="k{charts.KINDS.index(kind)}"></i>{_t(kind)}</span>' for kind in kinds)
    whole = sum(sum(one.seconds.values()) for one in shares)
    stages, table = [one for one in shares if one.stage], []
    for kind in kinds:
        cells = [duration(one.seconds[kind]) if kind in one.seconds else "–" for one in stages]
        total = sum(one.seconds.get(kind, 0.0) for one in shares)
        table.append([kind, *cells, duration(total), percent(total / whole if whole else 0.0)])
    sums = [duration(sum(one.seconds.values())) for one in stages]
    table.append(["all", *sums, duration(whole), percent(1.0)])
    head = ["", *(one.stage for one in stages), "run", "share"]
    return f'<div class="bars" aria-hidden="true">{"".join(bars)}<div class="keys">{keys}</div></div>{_table(head, table)}'


# ---- origin


def _recipe(run: Run) -> str:
    m = run.manifest
    versions = ", ".join(f"{name} {value}" for name, value in _mapping(m.get("versions")).items())
    facts = {
        "domain": m.get("domain") or run.recipe.get("domain"),
        "seed": _seed(run),
        "effort": m.get("effort"),
        "thinking": m.get("thinking"),
        "tools": ", ".join(map(str, m.get("tools") or ())),
        "model": m.get("model"),
        "recipe hash": m.get("recipe_hash"),
        "data hash": m.get("data_hash"),
        "tokenizer": m.get("tokenizer_fingerprint"),
        "versions": versions,
    }
    rows = "".join(f"<dt>{_t(name)}</dt><dd>{_t(str(value))}</dd>" for name, value in facts.items() if value not in (None, ""))
    lineage = "".join(f"<li>{_ancestor(one)}</li>" for one in run.ancestors)
    text = texts.cut(run.recipe_text, texts.MAX_CHARS)
    return (
        f'<dl class="facts">{rows}</dl><h3>Lineage</h3>'
        + (f'<ol class="lineage">{lineage}</ol>' if lineage else '<p class="empty">No checkpoint yet.</p>')
        + (f"<details><summary>recipe.yaml, resolved</summary><pre>{_t(text)}</pre></details>" if text else "")
    )


def _ancestor(one: Ancestor) -> str:
    if one.manifest is None:
        return f"<code>{_t(one.path)}</code> <small>no manifest there</small>"
    m = one.manifest
    origin = "" if m.get("parents") else f", from {m.get('model', 'unknown')}"
    return f"<code>{_t(one.path)}</code> <small>{_t(str(m.get('stage')))}, {count(m, 'step')} steps{_t(origin)}</small>"


def _events(run: Run) -> str:
    progress, found = Progress(), []
    for row in run.events:
        progress.see(row)
        if row["event"] != "sample":
            elapsed = finite(row, "elapsed_s")
            at = "" if elapsed is None else duration(elapsed)
            found.append(f"<li><time>{at}</time><span>{_t(line(row, progress))}</span></li>")
    num_events, left_out = len(found), len(found) - MAX_EVENTS
    if left_out > 0:
        half = MAX_EVENTS // 2
        found[half:-half] = [f"<li><span>… {left_out} events are left out here; events.jsonl has them …</span></li>"]
    if not found:
        return '<p class="empty">Nothing was recorded yet.</p>'
    return f'<details class="log"><summary>Events ({num_events})</summary><ol>{"".join(found)}</ol></details>'


def _kind(kind: str) -> str:
    return {"sft": "supervised", "grpo": "GRPO"}.get(kind, kind)


def _t(text: str) -> str:
    """A text of the run as HTML: escaped, and control characters made visible."""
    return html.escape(safe(text))
