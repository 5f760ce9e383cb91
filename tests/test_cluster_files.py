"""`recipes check` on files of Ray's cluster launcher and on Slurm scripts: the shipped ones pass, each mistake has its line."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from recipes.cli import main
from recipes.load import FOLDER, shipped

CLUSTER_FILES = ("cluster/ray_cluster.yaml", "cluster/slurm.sh")
RAY, SLURM = ((FOLDER / name).read_text() for name in CLUSTER_FILES)


def check(path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = main(["recipes", "check", str(path)])
    shown = capsys.readouterr()
    return code, shown.out + shown.err


def test_the_shipped_files_are_right_and_no_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "check", *CLUSTER_FILES, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"recipe": name, "problems": []} for name in CLUSTER_FILES]
    assert not [name for name in shipped() if name.startswith("cluster")]


def line_of(text: str, part: str) -> int:
    return next(number for number, line in enumerate(text.splitlines(), 1) if part in line)


def test_prose_is_no_command_and_settings_belong_to_recipes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.sh"
    head = "#!/bin/bash\n#SBATCH --nodes=1\n"
    path.write_text(head + 'echo "starting polymath now"\nsrun -N1 polymath run math && exec .venv/bin/polymath resume x\n')
    assert check(path, capsys) == (0, f"ok  {os.path.relpath(path)}\n")
    path.write_text(head + "srun -N1 polymath run math seed=x\n")
    assert "mine.sh:3: polymath: override 'seed=x'" in check(path, capsys)[1]
    assert main(["recipes", "check", str(path), "seed=1"]) == 2
    assert "got seed=1 beside a cluster's file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("max_workers: 3", "max_worker: 3", "max_worker: unknown key; allowed: auth, .*; did you mean max_workers"),
        ("max_workers: 3", "max_workers: three", "max_workers: 'three' is not of type 'integer'"),
        ("  type: local", "  kind: local", "provider: 'type' is a required property"),
        ("  ssh_user: ubuntu", "  ssh_users: ubuntu", "auth.ssh_users: unknown key; .*did you mean ssh_user"),
        ("gpu/math_qwen3 --dry-run", "gpu/math_qwen --dry-run", 'polymath: got "gpu/math_qwen", no such recipe; .*did you'),
        ("--dry-run runtime.address=auto", "--dry-run runtime.adress=auto", "polymath: .*runtime.adress: unknown key"),
        ("--dry-run runtime.address=auto", "--dryrun runtime.address=auto", "polymath: unrecognized arguments: --dryrun"),
        (r'math_qwen3 \ '.strip(), r'math_qwen3 seed=x \ '.strip(), "polymath: override 'seed=x': seed: got"),
        ("polymath run gpu/math_qwen3 --dry-run", "polymath rum gpu/math_qwen3 --dry-run", "polymath: rum: unknown command"),
        ("--dry-run runtime.address=auto", "--dry-run runtime.address='auto", "polymath: no closing quotation"),
    ],
)  # fmt: skip
def test_mistakes_in_a_launcher_file(old: str, new: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert old in RAY
    wrong = RAY.replace(old, new, 1)
    path = tmp_path / "mine.yaml"
    path.write_text(wrong)
    code, shown = check(path, capsys)
    assert code == 2
    assert re.search(rf"mine\.yaml:\d+: {said}", shown), shown
    number = int(re.search(r"mine\.yaml:(\d+)", shown)[1])  # type: ignore[index]
    assert abs(number - line_of(wrong, new.strip().splitlines()[0])) <= 1


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("#SBATCH --nodes=4", "#SBATCH --node=4", "#SBATCH --node=4: unknown option; allowed: .*did you mean nodes"),
        ("#SBATCH --nodes=4", "#SBATCH --nodes=four", '#SBATCH --nodes=four: got "four" for --nodes'),
        ("#SBATCH --nodes=4", "#SBATCH -N four", '#SBATCH -N: got "four" for --nodes'),
        ("#SBATCH --time=24:00:00", "#SBATCH --time=1d", '#SBATCH --time=1d: got "1d" for --time'),
        ("#SBATCH --cpus-per-task=16", "#SBATCH # many", "#SBATCH names no option"),
        ("#SBATCH --cpus-per-task=16", "#SBATCH cpus=16", "#SBATCH cpus=16: not an option"),
        ("port=$((20000", "#SBATCH --mem=64G\nport=$((20000", "#SBATCH: stands behind the first command"),
        ("\nfi\n", "\n", "syntax error"),
        ("runtime.spread=true", "runtime.spred=true", "polymath: .*runtime.spred: unknown key; .*did you mean spread"),
        ("runtime.spread=true", "runtime.spread=3", "polymath: .*runtime.spread: got 3"),
        ("{1:-gpu/math_qwen3}", "{1:-gpu/maths}", 'polymath: got "gpu/maths", no such recipe'),
        ('polymath resume "$2"', 'polymath resume "$2" --all', "polymath: unrecognized arguments: --all"),
        ("#!/bin/bash", "# a script", "sbatch wants an interpreter"),
    ],
)  # fmt: skip
def test_mistakes_in_a_slurm_script(old: str, new: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert old in SLURM
    wrong = SLURM.replace(old, new, 1)
    path = tmp_path / "mine.sh"
    path.write_text(wrong)
    code, shown = check(path, capsys)
    assert code == 2
    found = re.search(rf"mine\.sh:(\d+): {said}", shown)
    assert found, shown
    if "syntax" not in said:  # bash names the line where it noticed
        assert abs(int(found[1]) - line_of(wrong, new.strip().splitlines()[0])) <= 1


def test_good_variants(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = "#!/bin/bash\n#SBATCH -N 2 -t 1-12 --exclusive\n#SBATCH --mem 64G\n\n"
    script += "polymath run math runtime.address=$HEAD:6379 && echo done\n"
    path = tmp_path / "mine.sh"
    path.write_text(script)
    assert check(path, capsys)[0] == 0
    path.write_text(script.replace("polymath run math runtime.address=$HEAD:6379", "true"))
    assert "mine.sh:1: no command of polymath" in check(path, capsys)[1]


FAKES = {
    "scontrol": "echo one; echo two; echo three",
    "srun": 'echo "srun $*" >> calls; exec sleep 30',
    ".venv/bin/ray": 'case $1 in status) printf " 1 node_a\\n 1 node_b\\n 1 node_c\\n";; esac',
    ".venv/bin/polymath": 'trap "echo stopped >> calls; exit 130" TERM; sleep 0.5; echo "polymath $*" >> calls; $SLOW',
}  # fmt: skip


def test_the_slurm_script_starts_its_nodes_and_passes_the_wish_to_stop_on(tmp_path: Path) -> None:
    """The real script over commands that write down how they were called: there is no Slurm here."""
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for name, text in FAKES.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    env = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_NODELIST": "n[1-3]",
        "SLURM_JOB_ID": "7",
    }  # fmt: skip
    command = ["bash", str(FOLDER / "cluster" / "slurm.sh")]

    def run(words: list[str], slow: str, code: int) -> list[str]:
        process = subprocess.Popen(
            [*command, *words], env={**env, "SLOW": "eval sleep 20 & wait" if slow else ""}, start_new_session=True
        )
        try:
            calls = tmp_path / "calls"
            if slow:
                while not calls.exists() or "polymath" not in calls.read_text():
                    assert process.poll() is None
                process.terminate()
            assert process.wait(timeout=120) == code
            found = calls.read_text().splitlines()
            calls.unlink()
            return found
        finally:
            subprocess.run(["kill", "--", f"-{process.pid}"], check=False)

    *nodes, polymath = run(["math"], "", 0)
    assert sum("--head" in call and "--nodelist=one" in call for call in nodes) == 1
    assert sorted(call.split("--nodelist=")[1].split()[0] for call in nodes if "--address=one:20007" in call) == [
        "three",
        "two",
    ]
    assert polymath.startswith("polymath run math runtime.address=one:20007 runtime.num_rollout_workers=2 runtime.spread=true")
    *_, polymath, last = run(["resume", "math-1"], "yes", 130)
    assert polymath == "polymath resume math-1 runtime.address=one:20007"
    assert last == "stopped"
