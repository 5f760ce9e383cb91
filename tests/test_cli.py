"""The command line: its frozen surface, its exit codes, and that checking needs no heavy package."""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from recipes import cli, doctor
from recipes.load import FOLDER, load
from recipes.schema import schema_text

SURFACE = {
    "run": "RECIPE key=value* --dry-run --json --name",
    "resume": "RUN key=value* --json",
    "eval": "RUN|MODEL RECIPE key=value* --json",
    "chat": "RUN|MODEL --effort --engine{torch,vllm} --max-tokens --no-tools --temperature",
    "report": "RUN --output",
    "recipes": "ACTION?{list,show,check,schema} RECIPE|key=value* --json",
    "reward": "ACTION{try,audit}",
    "sandbox": "ACTION{run,shell,bench,ps,gc,log,image} --home",
    "doctor": "--json",
}


def surface(parser: argparse.ArgumentParser) -> str:
    words = []
    for action in parser._actions:
        name = next(iter(action.option_strings), str(action.metavar or action.dest.upper()))
        choices = "{" + ",".join(action.choices) + "}" if action.choices else ""
        words.append(name + (str(action.nargs) if action.nargs in ("?", "*") else "") + choices)
    words.remove("-h")
    return " ".join([w for w in words if not w.startswith("-")] + sorted(w for w in words if w.startswith("-")))


def test_commands_and_flags_are_frozen() -> None:
    _, commands = cli.parsers()
    assert {name: surface(parser) for name, parser in commands.items()} == SURFACE


def test_without_arguments_the_help_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    out = capsys.readouterr().out
    assert all(f"    {name} " in out for name in SURFACE)


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["--version"]])
def test_help_and_version_exit_0(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 0
    assert capsys.readouterr().out


WRONG = {
    "rn math": "error: rn: unknown command; allowed: run, resume, eval, chat, report, recipes, reward, sandbox, doctor; did",
    "--bogus": "error: unrecognized arguments: --bogus",
    "run": "error: the following arguments are required: RECIPE\n",
    "run math --bogus": "error: unrecognized arguments: --bogus",
    "run math --dry": "error: unrecognized arguments: --dry",
    "run math seed=x": "error: override 'seed=x': seed: got \"x\"; allowed: a whole number",
    "run math engine=vllm engine.max_seq_len=9999": "error: override 'engine.max_seq_len=9999': engine.max_seq_len: got 9999",
    "run math seed": "error: override 'seed': allowed: key=value",
    "run maths": 'error: got "maths", no such recipe; allowed: a YAML file or a shipped recipe (agent, code, ',
    "run math --name a/b": "error: --name: got a/b; allowed: letters",
    "run math model=./none": "error: override 'model=./none': model.path: got \"./none\", no such folder",
    "eval runs/none math": 'error: RUN|MODEL: got "runs/none", no such folder',
    "eval org/name math seed=x": "error: override 'seed=x': seed: got",
    "chat ./none": 'error: RUN|MODEL: got "./none", no such folder',
    "chat org/name --temperature=-1": "error: argument --temperature: got -1; allowed: a number, 0 or more",
    "chat org/name --max-tokens 0": "error: argument --max-tokens: got 0; allowed: a whole number more than 0",
    "chat org/name --effort low": "error: effort: got 'low'; allowed: none, high, max, or a number from 1 to 100",
    "report runs/none": 'error: RUN: got "runs/none", no such run; allowed: a run\'s folder, or its name',
    "report": "error: the following arguments are required: RUN\n",
    "recipes shw": "error: argument action: invalid choice: 'shw'",
    "recipes list math": "error: recipes list: takes no math; did you mean `recipes show math`?",
    "recipes show": "error: recipes show: got 0 recipes; allowed: one",
    "sandbox": "error: the following arguments are required: ACTION",
    "sandbox run": "error: sandbox run: no command; write it after `--`",
    "sandbox run --layer jail -- true": "error: argument --layer: invalid choice: 'jail'",
    "sandbox run --memory-mib 1 -- true": "error: --memory-mib: got 1; at least",
    "sandbox image build x": "error: sandbox image build: give a name and a source",
    "sandbox image build X debian": "error: image: got 'X'; a name is like",
    "sandbox --home /none log b": "error: sandbox log: got 'b', which has no log below /none/logs; the latest pools: none",
    "recipes check math seed=x": "error: override 'seed=x': seed: got",
}


@pytest.mark.parametrize("line", WRONG)
def test_wrong_input_exits_2_with_a_message_alone(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(line.split()) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(WRONG[line])
    assert "Traceback" not in captured.err
    assert captured.out == ""


@pytest.mark.parametrize("word", cli.RESERVED)
def test_reserved_commands_say_so_in_one_line(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([word, "runs/x"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {word}: this command is not part of this version")
    assert err.count("\n") == 1


def test_an_interrupt_exits_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "load", interrupted)
    assert cli.main(["run", "math"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_dry_run_prints_the_recipe_and_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "math", "seed=7", "--dry-run", "stages.grpo.steps=3"]) == 0
    out = capsys.readouterr().out
    assert "\nseed: 7\n" in out
    assert "stage  grpo: grpo, 3 steps of" in out
    assert cli.main(["run", "math", "--dry-run", "--json", "seed=7"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["recipe"]["seed"] == 7
    assert data["plan"]["parameters"] > 0


def test_recipes_list_show_check_and_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["recipes"]) == 0
    assert "\nmath  " in capsys.readouterr().out
    assert cli.main(["recipes", "list", "--json"]) == 0
    assert {"name", "description"} == set(json.loads(capsys.readouterr().out)[0])
    assert cli.main(["recipes", "show", "math", "seed=3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["seed"] == 3
    assert cli.main(["recipes", "show", "math"]) == 0
    assert capsys.readouterr().out.startswith("name: math\n")
    assert cli.main(["recipes", "check"]) == 0
    assert "math.yaml" in capsys.readouterr().out
    assert cli.main(["recipes", "schema"]) == 0
    assert capsys.readouterr().out == schema_text()


def test_check_goes_through_every_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [tmp_path / "a.yaml", tmp_path / "b.yaml"]
    for path in paths:
        path.write_text("extends: math\nseed: x\n")
    words = ["recipes", "check", str(paths[0]), "math", str(paths[1])]
    assert cli.main(words) == 2
    captured = capsys.readouterr()
    assert captured.out.startswith("ok  ")
    assert f"{paths[0]}:2: seed: got" in captured.err
    assert f"{paths[1]}:2: seed: got" in captured.err
    assert cli.main([*words, "--json"]) == 2
    assert [bool(row["problems"]) for row in json.loads(capsys.readouterr().out)] == [True, False, True]


HEAVY = """
import sys
from recipes.cli import main
code = main(sys.argv[1:])
heavy = {"torch", "transformers", "ray", "datasets", "trl", "numpy", "pandas"} & set(sys.modules)
print(f"code={code} heavy={sorted(heavy)}", file=sys.stderr)
"""


@pytest.mark.parametrize(
    "line", ["recipes check", "recipes check data.jsonl.yaml", "recipes list", "run math --dry-run", "run math seed=x"]
)
def test_checking_imports_nothing_heavy(line: str, tmp_path: Path) -> None:
    """The real command's own entry point, in a fresh interpreter: with a local data set and a user's reward too."""
    (tmp_path / "data.jsonl").write_text('{"prompt": "2+3?", "answer": "5"}\n')
    (tmp_path / "mine.py").write_text("import torch\ndef verify(completion, answer): ...\n")
    (tmp_path / "data.jsonl.yaml").write_text(
        "extends: math\ndata: {sources: [{dataset: data.jsonl, columns: {response: answer}}]}\n"
        "rewards: [{use: mine.py:verify}, {use: rewards.math:verify}]\n"
        "stages: [{kind: sft}, {kind: grpo}]\n"
    )
    command = [sys.executable, "-c", HEAVY, *line.split()]
    env = {"PYTHONPATH": str(FOLDER.parent)}
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path, env=env, timeout=300)
    expected = 2 if "seed=x" in line else 0
    assert done.stderr.endswith(f"code={expected} heavy=[]\n"), done.stdout + done.stderr


def test_python_m_recipes_is_the_same_command() -> None:
    command = [sys.executable, "-m", "recipes", "replay", "runs/x"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=FOLDER.parent, timeout=300)
    assert done.returncode == 2
    assert done.stderr.startswith("error: replay: ")
    assert "Traceback" not in done.stderr


def test_doctor_names_the_command_for_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = doctor.Finding("torch", False, "not installed", add=doctor.INSTALL)
    optional = doctor.Finding("gpu", False, "none", essential=False)
    monkeypatch.setattr(doctor, "examine", lambda: [optional])
    assert doctor.doctor(as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["ready"] is True
    monkeypatch.setattr(doctor, "examine", lambda: [missing, optional])
    assert doctor.doctor(as_json=False) == 1
    out = capsys.readouterr().out
    assert f"MISSING torch{'':<18}not installed\n{'':<31}add it: make env\n" in out


@pytest.mark.slow
def test_doctor_looks_at_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--json"]) == 0
    names = {finding["name"] for finding in json.loads(capsys.readouterr().out)["findings"]}
    assert {"python", "memory", "torch", "ray", "engine vllm", "reasoning-gym", "terminal"} <= names


def test_an_engine_that_is_not_installed_is_named_before_anything_is_trained(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name == "vllm" else find_spec(name, *rest))
    monkeypatch.setattr("importlib.metadata.version", _nothing_installed)
    assert cli.main(["run", "math", "engine=vllm", "runtime=inline"]) == 2
    assert "engine: got vllm, which is not installed; add it with `make env-vllm`" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    assert doctor._vllm() == doctor.Finding(
        "engine vllm",
        False,
        "not installed; a second rollout engine (engine=vllm), the faster one on GPUs",
        essential=False,
        add="make env-vllm",
    )


def _nothing_installed(name: str) -> str:
    raise PackageNotFoundError(name)


@pytest.mark.parametrize(
    ("override", "idle", "spin"),
    [("runtime=inline", True, None), ("runtime=inline", False, "1000"), ("runtime=ray", True, "1000")],
)
def test_threads_spin_for_an_inline_run_on_an_idle_machine_alone(
    override: str, idle: bool, spin: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "put back afterwards")
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setattr(cli, "_idle", lambda: idle)
    cli._share_cores(load(str(FOLDER / "math.yaml"), [override]))
    assert os.environ.get("GOMP_SPINCOUNT") == spin


@pytest.mark.parametrize(("percent", "idle"), [(4.0, True), (30.0, False)])
def test_what_the_cores_of_this_process_do_decides(percent: float, idle: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    cores = os.sched_getaffinity(0)
    shown = [100.0] * (max(cores) + 2)  # those of others are busy
    for core in cores:
        shown[core] = percent / len(cores)
    monkeypatch.setattr("psutil.cpu_percent", lambda *_, **__: shown)
    assert cli._idle() == idle


def test_a_machine_with_busy_cores_is_not_idle() -> None:
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in os.sched_getaffinity(0)]
    try:
        time.sleep(0.3)
        assert not cli._idle()
    finally:
        for process in busy:
            process.kill()
            process.wait()
