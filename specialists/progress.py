"""How far a run has come: what a checkpoint carries beside the model, so that a resumed run goes on from there."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rewards.errors import UserError
from rl.checkpoint import write_json

FILE = "progress.json"


@dataclass
class Progress:
    """The state of a run between two steps.

    In the middle of the third stage: Progress(stage=2, step=20, source="runs/math-1/checkpoints/step-730", global_step=750).
    """

    stage: int = 0  # index of the stage that runs, or of the next one
    step: int = 0  # steps of it that are done
    source: str = ""  # the model that the stage began with: a folder in full, or a hub id
    cursor: int = 0  # tasks that the stage has taken
    evaluated_step: int = 0  # the last step of the stage after which it was evaluated
    global_step: int = 0  # steps of all stages
    grpo_tokens: float = 0.0
    grpo_s: float = 0.0
    evaluations: list[dict[str, Any]] = field(default_factory=list)  # the final ones, {"stage": name, ...}
    best: list[tuple[float, int]] = field(default_factory=list)  # of the stage: (accuracy, global step), best first
    log: dict[str, int] = field(default_factory=dict)  # RunLog.position() when this was written
    elapsed_s: float = 0.0

    def enter(self, stage: int, source: str) -> None:
        """Begins a stage with the model in `source`."""
        self.stage, self.step, self.source, self.cursor, self.evaluated_step, self.best = stage, 0, source, 0, 0, []

    def write(self, folder: Path) -> None:
        write_json(folder / FILE, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Progress:
        path = folder / FILE
        try:
            values = json.loads(path.read_text())
            values["best"] = [(float(accuracy), int(step)) for accuracy, step in values["best"]]
            return cls(**values)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path}: not the progress of a run: {error}") from None
