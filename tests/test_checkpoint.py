"""Folders that are complete or absent, also after a kill; manifests; which checkpoint is the newest."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from rewards.errors import UserError
from rl.checkpoint import Manifest, atomic_folder, last_checkpoint, point_at, read_manifest, write_json, write_manifest

MANIFEST = Manifest(
    name="quickstart",
    stage="grpo",
    step=560,
    domain="math",
    model="init",
    tokenizer_fingerprint="ab12",
    parents=("runs/a/checkpoints/step-3", "runs/b/checkpoints/step-9"),
    recipe_hash="cd",
    data_hash="ef",
    seed=7,
    versions={"torch": "2.13.0"},
)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "checkpoints" / "step-1"
    with atomic_folder(target) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "a").write_text("a")
        assert not target.exists()
    assert (target / "sub" / "a").read_text() == "a"
    assert names(tmp_path / "checkpoints") == ["step-1"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("existed", [False, True])
def test_an_error_leaves_nothing_new(tmp_path: Path, error: type[BaseException], existed: bool) -> None:
    target = tmp_path / "step-1"
    if existed:
        with atomic_folder(target) as folder:
            (folder / "a").write_text("old")

    def write() -> None:
        with atomic_folder(target) as folder:
            (folder / "a").write_text("new")
            raise error

    with pytest.raises(error):
        write()
    assert names(tmp_path) == (["step-1"] if existed else [])
    assert not existed or (target / "a").read_text() == "old"


def test_an_older_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "step-1"
    for text in ("old", "new"):
        with atomic_folder(target) as folder:
            (folder / text).write_text(text)
    assert names(target) == ["new"]
    assert names(tmp_path) == ["step-1"]


def test_leftovers_of_a_kill_are_cleared(tmp_path: Path) -> None:
    for name in (".step-1.tmp", ".step-1.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "stale").write_text("x")
    with atomic_folder(tmp_path / "step-1") as folder:
        (folder / "a").write_text("a")
    assert names(tmp_path) == ["step-1"]
    assert names(tmp_path / "step-1") == ["a"]


WRITER = """
import sys, itertools
from pathlib import Path
from rl.checkpoint import atomic_folder
target = Path(sys.argv[1])
for round in itertools.count():
    with atomic_folder(target) as folder:
        for i in range(60):
            (folder / f"part-{i}").write_text(f"{round}" * 200)
    print(round, flush=True)
"""


@pytest.mark.parametrize("delay_s", [0.0, 0.004, 0.011, 0.023])
def test_kill_9_never_shows_a_half_written_folder(tmp_path: Path, delay_s: float) -> None:
    """A process that writes and replaces the same folder all the time is killed anywhere in the middle."""
    target = tmp_path / "step-1"
    command = [sys.executable, "-c", WRITER, str(target)]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parent.parent)
    assert writer.stdout is not None
    for _ in range(3):
        assert writer.stdout.readline()
    time.sleep(delay_s)
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait(10)
    writer.stdout.close()
    if target.exists():
        assert len(names(target)) == 60
        assert len({(target / name).read_text()[:1] for name in names(target)}) == 1, "parts of one round"
        assert all(len((target / name).read_text()) % 200 == 0 for name in names(target))
    with atomic_folder(target) as folder:
        (folder / "a").write_text("a")
    assert names(tmp_path) == ["step-1"]


def test_last_checkpoint_is_the_highest_step(tmp_path: Path) -> None:
    for name in ("step-2", "step-10", "step-9", ".step-30.tmp", ".step-40.old", "step-best"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert last_checkpoint(tmp_path).name == "step-10"
    (tmp_path / "checkpoints" / "step-2" / "config.json").write_text("{}")
    model = tmp_path / "checkpoints" / "step-2"
    assert last_checkpoint(model) == model
    with pytest.raises(UserError, match="neither a model folder"):
        last_checkpoint(tmp_path / "checkpoints" / "step-9")


def test_point_at_replaces_an_older_link(tmp_path: Path) -> None:
    for name in ("step-1", "step-2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "name").write_text(name)
        point_at(tmp_path / "last", name)
        assert (tmp_path / "last" / "name").read_text() == name
    assert os.readlink(tmp_path / "last") == "step-2"  # relative: the run's folder can be moved
    assert names(tmp_path) == ["last", "step-1", "step-2"]


def test_a_manifest_comes_back_as_it_was(tmp_path: Path) -> None:
    write_manifest(tmp_path, MANIFEST)
    assert read_manifest(tmp_path) == MANIFEST
    assert names(tmp_path) == ["manifest.json"]
    write_manifest(tmp_path, replace(MANIFEST, step=561, domain="数学"))
    assert read_manifest(tmp_path) == replace(MANIFEST, step=561, domain="数学")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        "null",
        '"name"',
        "{}",
        json.dumps({"name": "a", "stage": "b", "step": 1}),
        json.dumps({"name": "a", "stage": "b", "step": 1, "domain": "math", "colour": "red"}),
        json.dumps({"name": "a", "stage": "b", "step": "1", "domain": "math"}),
        json.dumps({"name": "a", "stage": "b", "step": None, "domain": "math"}),
        json.dumps({"name": "a", "stage": "b", "step": 1, "domain": "math", "parents": 3}),
        json.dumps({"name": "a", "stage": "b", "step": 1, "domain": "math", "versions": []}),
    ],
)
def test_a_bad_manifest_is_the_users_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=r"manifest\.json: not a manifest"):
        read_manifest(tmp_path)


def test_bytes_that_are_no_text_and_a_missing_manifest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no manifest"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.json").write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(UserError, match="not a manifest"):
        read_manifest(tmp_path)
    with pytest.raises(UserError, match="no manifest"):
        read_manifest(tmp_path / "manifest.json")  # a file, not a folder


def test_write_json_keeps_the_old_file_when_the_value_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"x": 1})
    with pytest.raises(TypeError):
        write_json(path, {"x": object()})
    assert json.loads(path.read_text()) == {"x": 1}
