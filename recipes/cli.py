"""The command line: `polymath`, or `python -m recipes`. Parses, checks, and hands over; torch loads only where work starts.

Exit codes: 0 done, 1 failed, 2 the user's input was wrong, 130 interrupted.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, get_args

import psutil

from recipes import reward, sandbox
from recipes.check import check_files, check_source
from recipes.check_cluster import check_cluster_file, is_cluster_file
from recipes.load import FOLDER, LoadedRecipe, find, load, resolved_yaml, shipped
from recipes.plan import plan
from recipes.resume import find_stopped, sole_owner
from recipes.runs import RUNS, find_run
from recipes.runtime import check_engine
from recipes.schema import NAME_PATTERN, schema_text
from recipes.tree import RecipeError, did_you_mean
from rewards.errors import UserError
from rl.config import EngineName
from rl.imports import uncollected

WITH_ACTIONS = ("reward", "sandbox")  # commands that have commands of their own
RESERVED = ("replay", "preempt")
OVERRIDE = re.compile(r"[A-Za-z_][\w.-]*=")
IDLE_LOOK_S, IDLE_CORES = 0.1, 0.25


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}\n{self.format_usage().strip()}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(words)
    except UserError as err:
        print(f"error: {err}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except SystemExit as err:  # argparse, after printing help
        return err.code if isinstance(err.code, int) else 1


def parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser of the whole command line and of each command; a test freezes what they accept."""
    top = _Parser(
        prog="polymath",
        allow_abbrev=False,
        description="Train domain specialists with SFT and GRPO.",
        epilog="Start with `polymath recipes list`, then `polymath run math --dry-run`.",
    )
    top.add_argument("--version", action="version", version=f"polymath {version()}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", parser_class=_Parser)

    def command(name: str, text: str, handler: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        made.set_defaults(handler=handler)
        return made

    run = command("run", "run a recipe", _run)
    run.add_argument("recipe", metavar="RECIPE", help="a YAML file, or a shipped recipe's name")
    _add_overrides(run)
    run.add_argument("--dry-run", action="store_true", help="print the resolved recipe and the plan, and stop")
    run.add_argument("--name", help="the run's folder below runs/ (default: the recipe's name)")
    _add_json(run)

    resume = command("resume", "go on with a run that was interrupted, from where it was", _resume)
    resume.add_argument("run", metavar="RUN", help="a run's folder, or its name below runs/")
    _add_overrides(resume)
    _add_json(resume)

    evaluate = command("eval", "held-out accuracy of a run or a model on a recipe's tasks", _eval)
    evaluate.add_argument("source", metavar="RUN|MODEL", help="a run's folder or name, a model's folder, or a hub id")
    evaluate.add_argument("recipe", metavar="RECIPE", help="a YAML file, or a shipped recipe's name")
    _add_overrides(evaluate)
    _add_json(evaluate)

    chat = command("chat", "talk to a model", _chat)
    chat.add_argument("source", metavar="RUN|MODEL", help="a run's folder or name, a model's folder, or a hub id")
    chat.add_argument("--temperature", type=_not_negative, default=0.0, help="0 is greedy (default)")
    chat.add_argument("--max-tokens", type=_positive, default=256, help="of one answer (default: 256)")
    chat.add_argument(
        "--effort", default="high", help="how long to think: none, high (default), max, or a number from 1 to 100"
    )
    chat.add_argument("--no-tools", action="store_true", help="without the tools that the run's recipe names")
    chat.add_argument("--engine", choices=get_args(EngineName), default="torch", help="what samples (default: torch)")

    report = command("report", "one HTML page of a run: curves, transcripts, summary, origin; needs no network", _report)
    report.add_argument("run", metavar="RUN", help="a run's folder, or its name below runs/")
    report.add_argument("--output", metavar="FILE", type=Path, help="where to write (default: report.html in the run's folder)")

    recipes = command("recipes", "list, show and check recipes", _recipes)
    actions = ["list", "show", "check", "schema"]
    recipes.add_argument("action", nargs="?", choices=actions, default="list", help="what to do (default: list)")
    text = "check: no recipe means all shipped ones; a file of Ray's cluster launcher or a Slurm script will do"
    recipes.add_argument("words", nargs="*", default=(), metavar="RECIPE|key=value", help=text)
    _add_json(recipes)

    rewards = command("reward", "try a reward on completions, or audit a recipe's rewards", _reward)
    reward.add_parser(rewards)

    boxes = command("sandbox", "run commands in boxes; images, logs, what lives", sandbox.sandbox)
    sandbox.add_parser(boxes)

    doctor = command("doctor", "what this machine can run, and how to add what is missing", _doctor)
    _add_json(doctor)
    return top, dict(commands.choices)


def _add_overrides(parser: argparse.ArgumentParser) -> None:
    text = "settings over the recipe's: stages.0.steps=5"
    parser.add_argument("overrides", nargs="*", default=(), metavar="key=value", help=text)


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON document for a machine to read")


def _positive(text: str) -> int:
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"got {text}; allowed: a whole number more than 0")


def _not_negative(text: str) -> float:
    if re.fullmatch(r"[0-9]+(\.[0-9]*)?|\.[0-9]+", text):
        return float(text)
    raise argparse.ArgumentTypeError(f"got {text}; allowed: a number, 0 or more")


def _dispatch(words: list[str]) -> int:
    top, commands = parsers()
    if not words:
        top.print_help()
        return 0
    name = words[0]
    if name in RESERVED:
        raise UserError(f"{name}: this command is not part of this version; available: {', '.join(commands)}")
    if name in commands:
        parser = commands[name]  # options may stand between overrides; but not where there are actions
        arguments = parser.parse_args(words[1:]) if name in WITH_ACTIONS else parser.parse_intermixed_args(words[1:])
        handler: Callable[[argparse.Namespace], int] = arguments.handler
        return handler(arguments)
    if not name.startswith("-"):
        raise UserError(f"{name}: unknown command; allowed: {', '.join(commands)}{did_you_mean(name, commands)}")
    top.parse_args(words)  # --help and --version end here
    raise UserError(f"{name}: a command is missing; allowed: {', '.join(commands)}")


def _run(arguments: argparse.Namespace) -> int:
    if arguments.name is not None and not re.match(NAME_PATTERN, arguments.name):
        raise UserError(f"--name: got {arguments.name}; allowed: letters, digits, '.', '_' and '-'")
    loaded = _checked(arguments.recipe, arguments.overrides)
    if arguments.dry_run:
        return _dry_run(loaded, as_json=arguments.json)
    _share_cores(loaded)
    with uncollected():
        from recipes.launch import run_recipe

    return run_recipe(loaded, name=arguments.name, as_json=arguments.json)


def _resume(arguments: argparse.Namespace) -> int:
    folder = find_run(arguments.run)
    with sole_owner(folder):
        stopped = find_stopped(folder, arguments.overrides)
        if stopped is None:
            text = f"{arguments.run}: this run is done; there is nothing to resume"
            print(json.dumps({"status": "done"}) if arguments.json else text)
            return 0
        check_files(stopped.loaded, model=True)
        _share_cores(stopped.loaded)
        with uncollected():
            from recipes.launch import resume_run

        return resume_run(stopped, as_json=arguments.json)


def _dry_run(loaded: LoadedRecipe, *, as_json: bool) -> int:
    planned = plan(loaded.recipe)
    if as_json:
        print(json.dumps({"recipe": loaded.recipe.model_dump(mode="json"), "plan": planned.as_dict()}, indent=2))
    else:
        print(f"# {loaded.path}\n{resolved_yaml(loaded.recipe)}\n{planned.text()}")
    try:
        check_engine(loaded.recipe.engine.name, loaded.recipe.runtime)
    except UserError as error:  # the plan holds for a machine that has it
        print(f"here it would stop: {error}", file=sys.stderr)
    return 0


def _eval(arguments: argparse.Namespace) -> int:
    source = _source(arguments.source)
    loaded = _checked(arguments.recipe, arguments.overrides, model=False)
    _share_cores(loaded)
    with uncollected():
        from recipes.evaluate import evaluate_model

    return evaluate_model(source, loaded, as_json=arguments.json)


def _share_cores(loaded: LoadedRecipe) -> None:
    """Lets torch's threads sleep soon when they wait for each other, before torch is loaded; Ray's workers inherit it.

    By default they spin. Alone on its cores a run is a fifth faster so; beside one other busy program, such as the run's own
    Ray workers, every step takes three to twenty times longer. Programs that start later are not seen: who expects some sets
    GOMP_SPINCOUNT=1000.
    """
    if loaded.recipe.runtime.mode != "inline" or not _idle():
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    _hush(loaded.recipe.engine.name)


def _hush(engine: EngineName) -> None:
    """Keeps torch's own C++ warnings, which vLLM's start brings about, out of the view; before torch is loaded."""
    if engine == "vllm":
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def _idle() -> bool:
    """Whether nothing else uses this process's cores, seen for a tenth of a second."""
    percent: list[float] = psutil.cpu_percent(IDLE_LOOK_S, percpu=True)
    return sum(percent[core] for core in os.sched_getaffinity(0)) / 100 < IDLE_CORES


def _chat(arguments: argparse.Namespace) -> int:
    source = _source(arguments.source)
    _hush(arguments.engine)
    recipe = Path(source) / "recipe.yaml"
    loaded = load(recipe) if recipe.is_file() else None
    with uncollected():
        from recipes.chat import chat, parse_effort
        from recipes.launch import agent_of
        from recipes.reward_samples import data_of

    agent = None if loaded is None else agent_of(loaded)
    if agent is not None and arguments.no_tools:
        agent = dataclasses.replace(agent, tools=())
    return chat(
        source,
        temperature=arguments.temperature,
        max_tokens=arguments.max_tokens,
        effort=parse_effort(arguments.effort),
        engine=arguments.engine,
        agent=agent,
        chat_config=None if loaded is None else loaded.recipe.model.chat,
        held_out=lambda: () if loaded is None else data_of(loaded).held_out,
    )


def _reward(arguments: argparse.Namespace) -> int:
    return reward.reward(arguments, lambda recipe, overrides: _checked(recipe, overrides, model=False))


def _report(arguments: argparse.Namespace) -> int:
    from recipes.report import write_report

    print(write_report(find_run(arguments.run), arguments.output))
    return 0


def _source(value: str) -> str:
    """What RUN|MODEL means: a path, the name of a run below runs/, or else a hub id."""
    source = str(RUNS / value) if not Path(value).expanduser().exists() and (RUNS / value).is_dir() else value
    check_source(source)
    return source


def _checked(recipe: str, overrides: Sequence[str], *, model: bool = True) -> LoadedRecipe:
    """What `run`, `eval` and `recipes check` have in common: a recipe that is valid and whose files are there."""
    loaded = load(recipe, overrides)
    check_files(loaded, model=model)
    return loaded


def _recipes(arguments: argparse.Namespace) -> int:
    action, words = arguments.action, arguments.words
    overrides = [word for word in words if OVERRIDE.match(word)]
    names = [word for word in words if word not in overrides]
    if action in ("list", "schema") and words:
        raise UserError(f"recipes {action}: takes no {words[0]}; did you mean `recipes show {words[0]}`?")
    if action == "schema":
        sys.stdout.write(schema_text())
        return 0
    if action == "list":
        return _list(as_json=arguments.json)
    if action == "show":
        if len(names) != 1:
            raise UserError(f"recipes show: got {len(names)} recipes; allowed: one")
        loaded = load(names[0], overrides)
        values = loaded.recipe.model_dump(mode="json")
        print(json.dumps(values, indent=2) if arguments.json else resolved_yaml(loaded.recipe).rstrip())
        return 0
    return _check(names or list(shipped()), overrides, as_json=arguments.json)


def _list(*, as_json: bool) -> int:
    rows = [{"name": name, "description": load(path).recipe.description} for name, path in shipped().items()]
    if as_json:
        print(json.dumps(rows, indent=2))
        return 0
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        print(f"{row['name']:<{width}}  {row['description']}")
    return 0


def _check(names: Sequence[str], overrides: Sequence[str], *, as_json: bool) -> int:
    """Check every recipe, though an early one be wrong."""
    problems: dict[str, Sequence[str]] = {}
    for name in names:
        try:
            path = find(name, Path.cwd())
            if is_cluster_file(path):
                if overrides:
                    raise RecipeError([f"{name}: got {overrides[0]} beside a cluster's file; allowed: beside recipes alone"])
                check_cluster_file(path, os.path.relpath(path), _check_command)
            else:
                _checked(name, overrides)
            problems[name] = ()
        except RecipeError as err:
            problems[name] = err.problems
    if as_json:
        print(json.dumps([{"recipe": name, "problems": found} for name, found in problems.items()], indent=2))
        return 2 if any(problems.values()) else 0
    for name, found in problems.items():
        if not found:
            print(f"ok  {os.path.relpath(find(name, Path.cwd()))}")
    if lines := [line for found in problems.values() for line in found]:
        raise RecipeError(lines)
    return 0


def _check_command(words: Sequence[str]) -> None:
    """Raise UserError where `polymath WORDS` would refuse its words, or its recipe with them."""
    _, commands = parsers()
    if words[0] not in commands:
        raise UserError(f"{words[0]}: unknown command; allowed: {', '.join(commands)}{did_you_mean(words[0], commands)}")
    arguments = commands[words[0]].parse_intermixed_args(list(words[1:]))
    if "recipe" in arguments:
        _checked(arguments.recipe, arguments.overrides, model=words[0] != "eval")


def _doctor(arguments: argparse.Namespace) -> int:
    from recipes.doctor import doctor

    return doctor(as_json=arguments.json)


def version() -> str:
    """The version in pyproject.toml: Polymath runs from its checkout."""
    with (FOLDER.parent / "pyproject.toml").open("rb") as file:
        return str(tomllib.load(file)["project"]["version"])
