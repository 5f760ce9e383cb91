"""A run's checkpoints: written complete or not at all, the newest and the best kept, each with its lineage and progress."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from rl.checkpoint import Manifest, atomic_folder, checkpoint_step, checkpoints, point_at, write_manifest
from rl.config import CheckpointConfig
from rl.runlog import RunLog
from rl.training_state import FILE as TRAINING_STATE
from specialists.progress import Progress

PACKAGES = ("torch", "transformers", "trl", "peft", "ray", "datasets")


class Records:
    """Writes checkpoints/step-N and the links `last` and `best`. `manifest` is a template: stage, step and parents differ."""

    def __init__(self, folder: Path, log: RunLog, keep: CheckpointConfig, manifest: Manifest) -> None:
        self.folder, self.log, self.keep, self.manifest = folder / "checkpoints", log, keep, manifest
        self.last: Path | None = None  # the newest checkpoint

    @contextlib.contextmanager
    def checkpoint(self, progress: Progress, stage: str, parents: Sequence[str]) -> Iterator[Path]:
        """Yields the folder to put the model into, with trainer.pt unless the stage is over; then it becomes step-N."""
        target = self.folder / f"step-{progress.global_step}"
        with atomic_folder(target) as temporary:
            yield temporary
            write_manifest(temporary, self._manifest(stage, progress.global_step, parents))
            shutil.copy(self.folder.parent / "recipe.yaml", temporary)
            progress.log, progress.elapsed_s = self.log.position(), self.log.elapsed_s()
            progress.write(temporary)
        self.adopt(target, stage, progress)

    def adopt(self, target: Path, stage: str, progress: Progress) -> None:
        """Notes a checkpoint that is there: just written, or the one that a resumed run goes on from."""
        self.last = target
        self.log.event("checkpoint", stage=stage, path=str(target), global_step=checkpoint_step(target))
        self.tidy(progress)

    def tidy(self, progress: Progress) -> None:
        """Makes the links and the folders what `progress` says: to be called whenever either has changed."""
        if self.last is None:
            return  # a model that came from elsewhere was evaluated before the first checkpoint
        point_at(self.folder / "last", self.last.name)
        there = {checkpoint_step(path) for path in checkpoints(self.folder.parent)}
        if best := [step for _, step in progress.best if step in there]:
            point_at(self.folder / "best", f"step-{best[0]}")
        self._prune(set(best))

    def run_manifest(self) -> Manifest | None:
        """The run's own manifest: its newest checkpoint's, with that checkpoint as parent."""
        if self.last is None:
            return None
        return self._manifest("run", checkpoint_step(self.last), (str(self.last),))

    def _manifest(self, stage: str, step: int, parents: Sequence[str]) -> Manifest:
        return dataclasses.replace(self.manifest, stage=stage, step=step, parents=list(parents), versions=_versions())

    def _prune(self, best: set[int]) -> None:
        """Removes checkpoints inside stages, which alone carry the trainer's state, but for the newest and the best."""
        inside = [path for path in checkpoints(self.folder.parent) if (path / TRAINING_STATE).exists()]
        for path in inside[: -self.keep.keep_last]:
            if checkpoint_step(path) not in best:
                doomed = path.with_name(f".{path.name}.old")  # half a checkpoint would be taken for a whole one
                path.rename(doomed)
                shutil.rmtree(doomed)


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in PACKAGES}
