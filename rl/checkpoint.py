"""Checkpoints and manifests: complete or absent. A folder is written under a temporary name, synced, then renamed.

`checkpoints/step-N/` is a Hugging Face model folder with a `manifest.json`; `checkpoints/last` points at the newest.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rewards.errors import UserError


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint or a run is and where it comes from.

    >>> Manifest(name="quickstart", stage="grpo", step=560, domain="math").domain
    'math'
    """

    name: str
    stage: str
    step: int  # updates since the run's beginning, over all its stages
    domain: str
    effort: str = "high"  # of its tasks; several by commas
    thinking: str = "interleaved"  # what became of a turn's thinking later on
    tools: Sequence[str] = ()  # that the model was shown
    model: str = ""  # where the run's first weights came from
    tokenizer_fingerprint: str = ""
    parents: Sequence[str] = ()  # folders of the checkpoints that this one was trained from
    recipe_hash: str = ""
    data_hash: str = ""
    seed: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)


def write_json(path: Path, value: object) -> None:
    """Writes JSON atomically, as `write_text` does."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 atomically: readers see the old file or the whole new one."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    write_json(folder / "manifest.json", asdict(manifest))


def read_manifest(folder: Path) -> Manifest:
    path = folder / "manifest.json"
    try:
        values = json.loads(path.read_text())
        lists = {name: tuple(values.get(name, ())) for name in ("parents", "tools")}  # JSON has no tuples
        manifest = Manifest(**{**values, **lists})
        _check_types(manifest)
        return manifest
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{folder}: no manifest.json there; expected a run's folder or one of its checkpoints") from None
    except (AttributeError, ValueError, TypeError) as error:
        raise UserError(f"{path}: not a manifest: {error}") from None


def _check_types(manifest: Manifest) -> None:
    """Each field has the type of an example, as far as JSON can tell them apart."""
    example = Manifest(name="", stage="", step=0, domain="")
    for key, like in vars(example).items():
        value = vars(manifest)[key]
        if type(value) is not type(like):
            raise TypeError(f"{key}: got {value!r}; a value like {like!r} is expected")


@contextlib.contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yields a temporary folder beside `target`; on success it is synced and renamed, on any error removed."""
    temporary, replaced = target.with_name(f".{target.name}.tmp"), target.with_name(f".{target.name}.old")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(replaced, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for path in sorted(temporary.rglob("*"), reverse=True):
            _sync(path)
        _sync(temporary)
        if target.exists():
            target.rename(replaced)  # removing it in place could be cut short, and half of it would be taken for all
        temporary.rename(target)
        _sync(target.parent)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def point_at(link: Path, target_name: str) -> None:
    """Makes `link` a relative symbolic link to a sibling, replacing an older one in one step."""
    temporary = link.with_name(f".{link.name}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target_name)
    temporary.replace(link)


def checkpoint_step(checkpoint: Path) -> int:
    """N of `checkpoints/step-N`."""
    return int(checkpoint.name.removeprefix("step-"))


def checkpoints(run: Path) -> list[Path]:
    """The complete checkpoints of a run's folder, oldest first."""
    found = [p for p in (run / "checkpoints").glob("step-*") if p.name.removeprefix("step-").isdigit()]
    return sorted(found, key=checkpoint_step)


def last_checkpoint(run: Path) -> Path:
    """The newest checkpoint of a run's folder; a folder that is itself a model is returned as it is."""
    if (run / "config.json").is_file():
        return run
    found = checkpoints(run)
    if not found:
        raise UserError(f"{run}: neither a model folder (no config.json) nor a run with a checkpoint")
    return found[-1]


def remove_leftovers(run: Path) -> None:
    """Removes what a killed run left half-written beside its checkpoints."""
    for path in (run / "checkpoints").glob(".*"):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
