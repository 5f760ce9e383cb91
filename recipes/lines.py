"""A run's rows (see rl/runlog.py) as lines of text, and how far its stage has come.

`Progress` is fed every row; `line` words one. Rows that it does not know, or that lack fields, are shown as they are.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from recipes.text import duration, number, percent, safe, shorten, split_thinking
from rl.engine.capabilities import DECLARED

Row: TypeAlias = Mapping[str, Any]

RECENT = 10  # metrics rows that the pace is measured over
BOOKKEEPING = ("type", "attempt", "event", "elapsed_s", "stage", "step", "global_step")


@dataclass
class Progress:
    """Where a run is. `pace_s`: seconds a step, evaluations between the steps included; None before the first steps."""

    stages: list[str] = field(default_factory=list)
    stage: str = ""
    kind: str = ""
    step: int = 0
    steps: int = 0
    pace_s: float | None = None
    _marks: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=RECENT))

    def see(self, row: Row) -> None:
        event = row.get("event")
        if row.get("type") == "metrics":
            self._advance(row)
        elif event == "run_started":
            self.stages = [str(s.get("name")) for s in row.get("stages") or ()]
        elif event == "stage_started":
            self._enter(str(row.get("stage")), str(row.get("kind", "")), int(row.get("steps") or 0), row)
        elif event == "resumed":
            self._enter(str(row.get("stage")), str(row.get("kind", "")), int(row.get("steps") or 0), row)
            self.step = int(row.get("step") or 0)
            self._marks.clear()
            self._marks.append((self.step, float(row.get("elapsed_s") or 0.0)))

    def left_s(self, since_last_row_s: float = 0.0) -> float | None:
        """Seconds until the stage's last step; None while unknown."""
        if self.pace_s is None or not self.steps:
            return None
        return max(0.0, self.pace_s * (self.steps - self.step) - since_last_row_s)

    def _enter(self, stage: str, kind: str, steps: int, row: Row) -> None:
        self.stage, self.kind, self.step, self.steps, self.pace_s = stage, kind, 0, steps, None
        self._marks.clear()
        self._marks.append((0, float(row.get("elapsed_s") or 0.0)))
        if stage not in self.stages:
            self.stages.append(stage)

    def _advance(self, row: Row) -> None:
        stage = str(row.get("stage", ""))
        if stage != self.stage:  # a resumed run may begin in the middle of a stage
            self._enter(stage, "grpo" if "reward_mean" in row else "sft", 0, row)
        self.step = int(row.get("step") or 0)
        self._marks.append((self.step, float(row.get("elapsed_s") or 0.0)))
        if len(self._marks) > 2 and self._marks[0][0] == 0:
            self._marks.popleft()  # the stage's start counts loading and compiling; better than nothing for one row only
        (first, start), (last, now) = self._marks[0], self._marks[-1]
        self.pace_s = (now - start) / (last - first) if last > first and now >= start else None


def line(row: Row, progress: Progress) -> str:
    """One line, without colours and control characters. `progress` must have seen the row."""
    try:
        known = _metrics if row.get("type") == "metrics" else EVENTS.get(str(row.get("event")), _unknown)
        text = known(row, progress)
    except (AttributeError, KeyError, TypeError, ValueError, IndexError):  # a row of another version
        text = _unknown(row, progress)
    return safe(text, one_line=True)


def _metrics(row: Row, progress: Progress) -> str:
    place = f"{row['stage']} {row['step']}/{progress.steps}" if progress.steps else f"{row['stage']} {row['step']}"
    parts = [place]
    if "reward_mean" in row:
        parts.append(f"reward {row['reward_mean']:.2f}")
        parts.append(f"tokens {row['completion_tokens_mean']:.0f}")
        if failed := int(row.get("num_failed_rollouts", 0)):
            parts.append(f"failed scores {failed}")
        if "agent/calls_mean" in row:
            parts.append(f"calls {row['agent/calls_mean']:.1f}")
        if "judge/accuracy" in row:
            parts.append(f"judge {percent(row['judge/accuracy'])} right")
        if row["num_groups_without_signal"] == row["num_groups"]:
            parts.append("no signal, not trained")
        parts += [f"{number(row['tokens_per_s'])} tok/s", f"{number(row['step_s'])} s/step"]
    elif "loss" in row:
        parts.append(f"loss {row['loss']:.3f}")
        if "token_accuracy" in row:
            parts.append(f"token accuracy {percent(row['token_accuracy'])}")
        if "lr" in row:
            parts.append(f"lr {row['lr']:.2g}")
        if progress.pace_s:
            parts.append(f"{number(1 / progress.pace_s)} steps/s")
    else:
        return _unknown(row, progress)
    return "  ".join(parts)


def evaluation(row: Row) -> str:
    """Accuracy with its interval, and by kind."""
    low, high = row["interval"]
    kinds = "  ".join(f"{kind} {percent(share)}" for kind, share in row.get("by_kind", {}).items())
    failed = f"  could not be scored: {row['num_failed']}" if row.get("num_failed") else ""
    others = judge(row.get("judge", {})) + efforts(row.get("by_effort", {})) + agent(row.get("agent", {}))
    return (
        f"{percent(row['accuracy'])} of {row['num_tasks']} held-out tasks (95 %: {100 * low:.1f} to {100 * high:.1f})"
        f"  tokens {row['mean_completion_tokens']:.0f}{failed}{'  ' if kinds else ''}{kinds}{others}"
    )


def efforts(levels: Row) -> str:
    """Accuracy and tokens of each effort; empty where there is one."""
    words = [f"{level} {percent(found['accuracy'])} in {found['mean_tokens']:.0f} tokens" for level, found in levels.items()]
    return f"  effort: {', '.join(words)}" if words else ""


def agent(figures: Row) -> str:
    """What rollouts with tools were like; empty where none called one."""
    if "calls_mean" not in figures:
        return ""
    kept = figures.get("reasoning_kept_share")
    return f"  calls {figures['calls_mean']:.1f}" + (f", thinking kept {percent(kept)}" if kept is not None else "")


def judge(figures: Row) -> str:
    """What an evaluation measured of the judge: on labels, and its score beside the truth; empty without a judge."""
    words = [f"right on {percent(figures['accuracy'])} of {figures['num_labels']:.0f} labels"] if "accuracy" in figures else []
    words += [f"score {figures['score']:.2f}"] if "score" in figures else []
    words += [f"truth {figures['truth']:.2f}"] if "truth" in figures else []
    return f"  judge: {', '.join(words)}" if words else ""


def _evaluation(row: Row, progress: Progress) -> str:
    of = f"/{progress.steps}" if progress.stage == row["stage"] and progress.steps else ""
    return f"evaluation, {row['stage']} {row['step']}{of}: {evaluation(row)}"


def _run_started(row: Row, progress: Progress) -> str:
    stages = ", ".join(f"{s['name']} ({s.get('loss', s['kind'])}, {s['steps']} steps)" for s in row["stages"])
    threads = f"{row['threads']} thread{'' if row['threads'] == 1 else 's'}"
    workers = "".join(f", {count} {what}" for what, count in row.get("workers", {}).items() if count > 1)
    return f"run {row['name']} in {row['folder']}: {stages}; seed {row['seed']}, {row['runtime']}{workers}, {threads}"


def _sample(row: Row, progress: Progress) -> str:
    _, answer = split_thinking(row["completion"])
    reward = "not scored" if row["reward"] is None else f"reward {row['reward']:.2f}"
    said = json.dumps(shorten(answer, 60), ensure_ascii=False) if answer else "no answer"
    prompt = json.dumps(shorten(row["prompt"], 60), ensure_ascii=False)
    return f"sample, {row['stage']} {row['step']}: {prompt} -> {said} ({reward}, {row['num_tokens']} tokens)"


def _score_failed(row: Row, progress: Progress) -> str:
    return (
        f"{row['stage']} {row['step']}: {row['count']} completions could not be scored; the first: {_ends(row['first_error'])}"
    )


def _engine(row: Row, progress: Progress) -> str:
    if row["batch_invariant"]:
        return f"engine: {row['name']}, batch-invariant ({row['reason']})"
    avoid = "; engine.deterministic=true avoids it" if DECLARED[row["name"]].batch_invariant else ""
    return f"engine: {row['name']}; a batch's make-up changes last bits, as usual ({row['reason']}){avoid}"


def _workers_placed(row: Row, progress: Progress) -> str:
    found: dict[str, list[str]] = {}
    for worker, node in row["nodes"].items():
        found.setdefault(node, []).append(worker)
    return "; ".join(f"{node}: {', '.join(workers)}" for node, workers in found.items())


def _trainer(row: Row, progress: Progress) -> str:
    because = row["padded_because"]
    return f"trainer: microbatches are {'packed' if because is None else f'padded ({because})'}; products: {row['products']}"


def _interrupted(row: Row, progress: Progress) -> str:
    kept = f"kept {row['kept']}" if row.get("kept") else "there was no checkpoint yet"
    return f"interrupted; {kept}{_how_to_go_on(row)}"


def _failed(row: Row, progress: Progress) -> str:
    kept = f"; kept {row['kept']}" if row.get("kept") else ""
    whole = "; events.jsonl in the run's folder has the whole error"
    return f"failed: {_ends(row['error'])}{kept}{whole}{_how_to_go_on(row)}"


def _how_to_go_on(row: Row) -> str:
    return f"; go on with: {row['resume']}" if row.get("resume") else ""


def _ends(error: str) -> str:
    """The first and the last line of an error, between which a trace may lie; events.jsonl has the whole."""
    lines = [part.strip() for part in str(error).splitlines() if part.strip()] or ["no message"]
    return shorten(lines[0], 300) if len(lines) == 1 else f"{shorten(lines[0], 200)} ... {shorten(lines[-1], 200)}"


def _unknown(row: Row, progress: Progress) -> str:
    place = " ".join(str(row[key]) for key in ("stage", "step") if key in row)
    name = " ".join(part for part in (str(row.get("event", row.get("type", "row"))), place) if part)
    fields = " ".join(f"{key}={value}" for key, value in row.items() if key not in BOOKKEEPING)
    return shorten(f"{name}  {fields}".rstrip(), 300)


EVENTS: Mapping[str, Callable[[Row, Progress], str]] = {
    "run_started": _run_started,
    "workers_starting": lambda row, _: f"starting workers: {row['runtime']}",
    "data": lambda row, _: f"data: {row['num_train']} training tasks, {row['num_held_out']} held out",
    "judge": lambda row, _: f"judge: {row['model']}, prompt {row['prompt']} ({row['prompt_hash'][:8]})",
    "model": lambda row, _: f"model: {row['num_parameters']:,} parameters, vocabulary of {row['vocab_size']}",
    "stage_started": lambda row, _: f"stage {row['stage']}: {row['kind']}, {row['steps']} steps",
    "workers_placed": _workers_placed,
    "worker_lost": lambda row, _: f"{row['worker']} is lost, its work is done again: {_ends(row['error'])}",
    "worker_restarted": lambda row, _: f"{row['worker']} was started again{' on ' + row['node'] if row.get('node') else ''}",
    "resumed": lambda row, _: f"resumed in stage {row['stage']} after step {row['step']} of {row['steps']}",
    "report": lambda row, _: f"report: {row['path']}",
    "stage_finished": lambda row, _: f"stage {row['stage']} finished in {duration(row['wall_s'])}",
    "engine": _engine,
    "trainer": _trainer,
    "evaluation": _evaluation,
    "sample": _sample,
    "score_failed": _score_failed,
    "checkpoint": lambda row, _: f"checkpoint, {row['stage']}: {row['path']}",
    "run_finished": lambda row, _: f"run finished in {duration(row['wall_s'])}",
    "stopping": lambda row, _: f"{row['reason']}: {row['hint']}",
    "interrupted": _interrupted,
    "failed": _failed,
}
