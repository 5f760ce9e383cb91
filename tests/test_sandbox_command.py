"""`polymath sandbox` as people type it."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sandbox.blocking import BlockingPool
from sandbox.images import Images
from sandbox.pool import Pool, boxes_below
from tests.soak.kills import ROOT

pytestmark = pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bubblewrap: apt-get install bubblewrap")


def polymath(home: Path, *words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "recipes", "sandbox", "--home", str(home), *words]
    return subprocess.run(command, cwd=ROOT, input=stdin, capture_output=True, timeout=300, check=False)


def test_run_passes_on_input_output_and_exit_code(tmp_path: Path) -> None:
    done = polymath(tmp_path, "run", "--", "sh", "-c", "cat; echo err >&2; exit 3", stdin=b"in")
    assert (done.returncode, done.stdout, done.stderr) == (3, b"in", b"err\n")
    late = polymath(tmp_path, "run", "--wall-s", "0.2", "--", "sleep", "9")
    assert late.returncode == 124
    assert late.stderr.startswith(b"wall_timeout, signal 9 after 0.2")
    missing = polymath(tmp_path, "run", "--layer", "container", "--image", "none", "--", "true")
    assert missing.returncode == 2
    assert missing.stderr.startswith(b"error: image: got 'none'; there are: none; build one with")


def test_what_ran_is_in_the_log_and_nothing_lives_on(tmp_path: Path) -> None:
    assert polymath(tmp_path, "run", "--", "echo", "hello").returncode == 0
    [pool] = (tmp_path / "logs").iterdir()
    line = polymath(tmp_path, "log", pool.name, "--output").stdout.decode()
    assert line.split("\n")[0].endswith("exec echo hello")
    assert " 1    ok " in line
    assert "\nhello\n" in line
    assert json.loads(polymath(tmp_path, "ps", "--json").stdout) == []
    assert polymath(tmp_path, "gc").stdout == b"0 pools that nobody keeps: nothing was left\n"


def test_ps_shows_the_labels_of_boxes(tmp_path: Path) -> None:
    with BlockingPool(Pool(folder=tmp_path)) as pool:
        pool.create(labels={"run": "maths-3", "task": "17"})
        lines = polymath(tmp_path, "ps").stdout.decode().splitlines()
        assert lines[0].split()[-1] == "LABELS"
        assert lines[1].split()[-2:] == ["lives", "run=maths-3,task=17"]
        for _ in range(2):
            pool.create()
        numbers = [facts["number"] for facts in asyncio.run(boxes_below(tmp_path))]
        assert numbers == sorted(numbers)
        rest = pool.wait(pool.pool.tell("list", after=numbers[0]))["boxes"]  # as they are asked for in pages
        assert [facts["number"] for facts in rest] == numbers[1:]


def test_images_are_built_on_one_another_and_share_what_is_the_same(tmp_path: Path) -> None:
    if shutil.which("mkfs.erofs") is None:
        pytest.skip("needs: apt-get install erofs-utils")
    folder = tmp_path / "tree"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "file").write_text("x" * 10000)
    for name in ("base", "again"):
        assert polymath(tmp_path, "image", "build", name, str(folder)).returncode == 0
    assert polymath(tmp_path, "image", "build", "top:2", str(folder / "inner"), "--on", "base").returncode == 0
    images = Images(tmp_path / "images")
    assert images.get("base").layers == images.get("again").layers == images.get("top:2").layers[:1]
    assert len(list((tmp_path / "images" / "layers").glob("*.erofs"))) == 2
    listed = polymath(tmp_path, "image").stdout.decode()
    assert [line.split()[:2] for line in listed.splitlines()[1:]] == [["again", "1"], ["base", "1"], ["top:2", "2"]]
    for name in ("base", "again"):
        assert polymath(tmp_path, "image", "rm", name).returncode == 0
    assert len(list((tmp_path / "images" / "layers").glob("*.erofs"))) == 2  # still below the one that is left
    assert polymath(tmp_path, "image", "rm", "top:2").returncode == 0
    assert not list((tmp_path / "images" / "layers").glob("*.erofs"))
    wrong = polymath(tmp_path, "image", "build", "x", "/no/such")
    assert wrong.returncode == 2
    assert b"source: got '/no/such'; give `debian`" in wrong.stderr


def test_shell_is_a_terminal_in_a_box(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "recipes", "sandbox", "--home", str(tmp_path), "shell"]
    ours, theirs = pty.openpty()
    with subprocess.Popen(words, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True) as process:
        os.close(theirs)
        shown = _until(ours, b"$ ")
        os.write(ours, b"stty size; echo $((6 * 7)); exit 5\n")
        shown += _until(ours, b"42\r\n")
        assert process.wait(30) == 5
    os.close(ours)
    not_one = polymath(tmp_path, "shell", stdin=b"true\n")
    assert not_one.returncode == 2
    assert b"terminal" in not_one.stderr


def _until(terminal: int, text: bytes) -> bytes:
    shown = b""
    while text not in shown:
        shown += os.read(terminal, 4096)
    return shown


def test_bench_prints_a_table_and_says_what_it_left_out(tmp_path: Path) -> None:
    done = polymath(tmp_path, "bench", "--repeats", "2", "--write", str(tmp_path / "table.md"))
    assert done.returncode == 0, done.stderr.decode()
    table = (tmp_path / "table.md").read_text()
    [function] = [line.split("|") for line in table.splitlines() if line.startswith("| function |")]
    header = next(line.split("|") for line in table.splitlines() if "calls/s" in line)
    shown = dict(zip((name.strip() for name in header), (value.strip() for value in function), strict=True))
    assert all(shown[name].endswith(" ms") for name in ("cold", "ready", "command", "call"))
    assert int(shown["calls/s"]) > 1
    assert shown["snapshot"] == ""  # it has none
    assert "container (crun): no --image was given" in table
    assert "| a function call, over a Python process |" in table
    assert not list(tmp_path.glob("bench-*"))


@pytest.mark.parametrize(
    ("number", "code", "said"), [(signal.SIGINT, 130, b"interrupted\n"), (signal.SIGTERM, 143, b"")], ids=["ctrl-c", "term"]
)
def test_an_interrupt_does_not_wait_for_input_that_never_ends(tmp_path: Path, number: int, code: int, said: bytes) -> None:
    command = [sys.executable, "-m", "recipes", "sandbox", "--home", str(tmp_path), "run", "--", "true"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while not asyncio.run(boxes_below(tmp_path)):
            assert process.poll() is None
        time.sleep(0.5)  # it reads its input by now
        process.send_signal(number)
        assert process.wait(20) == code
        assert process.stderr is not None
        assert process.stderr.read() == said
    assert asyncio.run(boxes_below(tmp_path)) == []


def test_the_log_of_a_pool_with_a_hyphen_and_of_words_that_are_no_text(tmp_path: Path) -> None:
    with BlockingPool(Pool(folder=tmp_path, name="maths-3")) as pool:
        pool.create(name="one").exec(["echo", "\ud800"])
        pool.create(name="two").exec(["echo", "2"])
    assert polymath(tmp_path, "log", "maths-3").stdout.count(b"\n") == 2
    one = polymath(tmp_path, "log", "maths-3-one").stdout
    assert one.count(b"\n") == 1
    assert b"exec echo \\ud800" in one
    for name in ("maths-3-three", "maths", ""):
        wrong = polymath(tmp_path, "log", name)
        assert wrong.returncode == 2
        assert wrong.stderr.endswith(b"the latest pools: maths-3\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "--wall-s", "nan", "--", "true"], b"error: wall_s: got nan; it must be a number"),
        (["run", "--memory-mib", "1", "--", "true"], b"error: --memory-mib: got 1; at least 32"),
        (["bench", "--repeats", "0"], b"error: --repeats: got 0; at least 1"),
        (["bench", "--image", "none"], b"error: image: got 'none'; there are: none; build one with"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(tmp_path: Path, words: list[str], message: bytes) -> None:
    wrong = polymath(tmp_path, *words)
    assert (wrong.returncode, wrong.stdout) == (2, b"")
    assert wrong.stderr.startswith(message)
    assert not (tmp_path / "pools").exists()


def test_a_home_that_is_no_folder_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    wrong = polymath(tmp_path / "file", "run", "--", "true")
    assert wrong.returncode == 1
    assert wrong.stderr.startswith(b"error: [Errno 20] Not a directory:")
