"""Transcripts for the report: thinking apart from the answer, long ones cut with a note; and `cleaned`, which all texts pass.

No text is trusted: a completion may hold HTML, control characters, marks that turn the direction of writing, megabytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from recipes.report.run import Row, Run, after, count, finite
from recipes.text import percent, safe, split_thinking

Values: TypeAlias = dict[str, Any]

MAX_SAMPLES = 300  # steps whose sample is shown, spread evenly
MAX_CHARS, MIN_CHARS = 20_000, 500  # of one text
ALL_CHARS = 6_000_000  # of all texts of a page together, about
FINISHES = {"length": "cut at max_tokens", "context": "cut where the context was full", "aborted": "aborted"}


def limit(num_transcripts: int) -> int:
    """How many characters one text of so many transcripts may have."""
    return max(MIN_CHARS, min(MAX_CHARS, ALL_CHARS // max(1, num_transcripts)))


def cut(text: str, chars: int) -> str:
    """The text; the middle of a long one is left out, and that is said. Making it safe is left to whoever shows it."""
    if len(text) > chars:
        half, left_out = chars // 2, len(text) - 2 * (chars // 2)
        text = f"{text[:half]}\n[... {left_out:,} characters are left out here; the run's folder has them ...]\n{text[-half:]}"
    return text


def samples(run: Run, chars: int) -> tuple[list[Values], str]:
    """Samples from the training, and a note where not all of them are shown."""
    rows, note = run.samples, ""
    if len(rows) > MAX_SAMPLES:
        note = f"{MAX_SAMPLES} of {len(rows)} samples are shown, spread evenly; events.jsonl has all."
        rows = [rows[i * (len(rows) - 1) // (MAX_SAMPLES - 1)] for i in range(MAX_SAMPLES)]
    return [{"stage": str(row.get("stage")), "step": count(row, "step"), **_transcript(row, chars)} for row in rows], note


def evaluations(run: Run, chars: int) -> list[Values]:
    """The held-out transcripts of each evaluation that recorded some. The same task has the same `key` in each."""
    found = []
    for one in run.transcripts:
        seen: dict[str, int] = {}
        rows = {}
        for row in one.rows:
            name = str(row.get("task_id"))
            seen[name] = seen.get(name, 0) + 1
            values = _transcript(row, chars)
            rows[f"{name}#{seen[name]}"] = {**values, "correct": row["correct"] if type(row.get("correct")) is bool else None}
        found.append({"label": after(one.stage), "stage": one.stage, "step": one.global_step, "rows": rows})
    return found


def cleaned(value: object) -> Any:
    """The same JSON value with every text and key made safe to show."""
    if isinstance(value, str):
        return safe(value)
    if isinstance(value, Mapping):
        return {safe(str(key)): cleaned(one) for key, one in value.items()}
    if isinstance(value, Sequence):
        return [cleaned(one) for one in value]
    return value


def share(row: Row, key: str) -> str:
    """The number under `key` in percent, for a table's cell."""
    value = finite(row, key)
    return "–" if value is None else percent(value)


def figure(row: Row, key: str, form: str) -> str:
    """The number under `key` in a form such as ".1f", for a table's cell."""
    value = finite(row, key)
    return "–" if value is None else format(value, form)


def _transcript(row: Row, chars: int) -> Values:
    thinking, answer = split_thinking(_text(row, "completion"))
    reward, finish = finite(row, "reward"), _text(row, "finish_reason")
    return {
        "task": cut(_text(row, "task_id"), 200),
        "prompt": cut(_text(row, "prompt"), chars),
        "thinking": cut(thinking, chars),
        "answer": cut(answer, chars),
        "wanted": cut(_text(row, "answer"), chars),
        "reward": reward,
        "notes": [cut(note, chars) for note in _notes(row)],
        "tokens": finite(row, "num_tokens"),
        "judge": cut(_text(row, "judge"), chars),
        "finish": FINISHES.get(finish, "" if finish == "stop" else cut(finish, 100)),
    }


def _notes(row: Row) -> list[str]:
    """What rewards said of it for people, and why it has no score: the last line of an error says what it was."""
    notes = row.get("notes")
    found = [f"{name}: {note}" for name, note in notes.items()] if isinstance(notes, Mapping) else []
    error = _text(row, "error").strip()
    return [*found, *([error.splitlines()[-1]] if error else [])]


def _text(row: Row, key: str) -> str:
    value = row.get(key)
    return "" if value is None else str(value)


def script_json(value: object) -> str:
    """JSON that can stand in a script element: nothing in it can end the element or open another."""
    text = json.dumps(cleaned(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
