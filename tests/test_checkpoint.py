"""Folders that are complete or absent, also after a kill; manifests; which checkpoint is the newest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
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
    tools=("shell", "price"),
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


KILLED_EVERYWHERE = """
import os, signal, sys
from pathlib import Path
from rl.checkpoint import atomic_folder

CHANGES = ("open", "os.mkdir", "os.remove", "os.rename", "os.rmdir")

def write(target, text):
    with atomic_folder(target) as folder:
        for i in range(3):
            (folder / f"part-{i}").write_text(text)

def write_and_die(target, at):
    count = 0
    def hook(event, args):
        nonlocal count
        if event in CHANGES:
            count += 1
            if count == at:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    write(target, "new")

at = 0
while True:
    at += 1
    target = Path(sys.argv[1]) / str(at) / "step-1"
    write(target, "old")
    child = os.fork()
    if child == 0:
        write_and_die(target, at)
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break  # it came to its end: there is no later moment to kill it in
"""


def test_kill_9_at_any_moment_never_shows_a_half_written_folder(tmp_path: Path) -> None:
    """A folder is replaced again and again, killed before the first change to the disk, the second, and so on to the last."""
    command = [sys.executable, "-c", KILLED_EVERYWHERE, str(tmp_path)]
    subprocess.run(command, check=True, timeout=300, cwd=Path(__file__).parent.parent)
    states = []
    for at in sorted(tmp_path.iterdir(), key=lambda p: int(p.name)):
        target = at / "step-1"
        if target.exists():
            assert names(target) == ["part-0", "part-1", "part-2"], at.name
            [text] = {(target / name).read_text() for name in names(target)}
            states.append(text)
        with atomic_folder(target) as folder:  # the next attempt clears what the kill left
            (folder / "a").write_text("a")
        assert (names(at), names(target)) == (["step-1"], ["a"])
    assert len(states) > 8
    assert states == sorted(states, reverse=True)  # old until it is new
    assert set(states) == {"old", "new"}


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
