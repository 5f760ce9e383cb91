"""Whether anything grows with the number of steps: resident memory of every process of a run, step after step.

Used by tests/test_workers.py with few steps, and with five hundred on both runtimes by `make soak`.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from rl.checkpoint import write_json
from tests.soak.kills import ROOT, output_of, prepare, rows, start

RESULTS = ROOT / "docs" / "results" / "memory.json"
STEPS = 500
SETTINGS = (
    "runtime.num_threads=1", "data.num_train=200", "data.num_eval=40", "evaluation.num_tasks=20",
    "evaluation.sampling.max_tokens=12", "evaluation.num_tasks_during=10", "stages.base.steps=2", "stages.cold_start.steps=2",
    "stages.grpo.num_prompts=4", "stages.grpo.group_size=4", "stages.grpo.sampling.max_tokens=12", "stages.grpo.eval_every=50",
)  # fmt: skip


def measure(home: Path, mode: str, steps: int) -> list[dict[str, float]]:
    """A run of `steps` GRPO steps; for each look at it the step and the resident MiB of each of its processes."""
    process = start(prepare(home), "run", "tiny.yaml", f"runtime={mode}", *SETTINGS, f"stages.grpo.steps={steps}")
    metrics, looks = home / "runs" / "tiny-1" / "metrics.jsonl", list[dict[str, float]]()
    while process.poll() is None:
        time.sleep(0.25)
        found = rows(metrics) if metrics.exists() and metrics.read_bytes().endswith(b"\n") else []
        if found and found[-1]["stage"] == "grpo" and (not looks or looks[-1]["step"] < found[-1]["step"]):
            looks.append({"step": found[-1]["step"], **resident_mib(process)})
    assert process.returncode == 0, output_of(home)
    return looks


def resident_mib(process: subprocess.Popen[str]) -> dict[str, float]:
    """Anonymous resident memory of the driver and of its Ray actors, and what lies in shared memory, in MiB."""
    parents, names = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            names[int(folder.name)] = (folder / "cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
        except OSError:
            continue  # it has just ended
    mine = {process.pid: "driver"}
    mine |= {
        pid: name.removeprefix("ray::").partition(".")[0]
        for pid, name in names.items()
        if name.startswith("ray::") and "Actor" in name and parents.get(parents[pid]) == process.pid
    }
    sizes: dict[str, float] = {}
    for pid, name in mine.items():
        status = Path(f"/proc/{pid}/status")
        lines = status.read_text().splitlines() if status.exists() else []
        fields = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Rss")}
        sizes[name] = sizes.get(name, 0.0) + int(fields.get("RssAnon", 0)) / 1024
    return sizes


def growth_mib(looks: list[dict[str, float]], name: str) -> float:
    """How much a process grew from the second quarter of the steps, when all is warm, to the last one; medians."""
    last = looks[-1]["step"]
    values = [(look["step"] / last, look[name]) for look in looks if name in look]
    early = [v for share, v in values if 0.25 <= share < 0.5]
    late = [v for share, v in values if share >= 0.75]
    return statistics.median(late) - statistics.median(early)


def main() -> None:
    done: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for mode in ("inline", "ray"):
        if mode not in done:
            with tempfile.TemporaryDirectory() as scratch:
                looks = measure(Path(scratch), mode, STEPS)
            names = sorted({name for look in looks for name in look if name != "step"})
            done[mode] = {
                name: {
                    "mib": statistics.median(look[name] for look in looks if name in look),
                    "growth": growth_mib(looks, name),
                }
                for name in names
            }
            write_json(RESULTS, done)
    RESULTS.with_suffix(".md").write_text(report(done))
    print(report(done))


def report(done: dict[str, Any]) -> str:
    lines = [
        "# Memory over 500 GRPO steps",
        "",
        "Private resident memory of each process of a small run, MiB: its median, and how much it grew from the second quarter",
        "of the steps to the last (medians of each). Written by `make soak`.",
        "",
        "| runtime | process | median | growth |",
        "|---|---|---|---|",
    ]
    for mode, processes in done.items():
        lines += [f"| {mode} | {name} | {row['mib']:.0f} | {row['growth']:+.1f} |" for name, row in processes.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
