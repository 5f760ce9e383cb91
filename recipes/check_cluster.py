"""Checks what starts Ray on several machines: files of Ray's cluster launcher, and Slurm batch scripts. Nothing is started.

Both hold `polymath` commands, in lines and in comments that are indented as examples; `recipes check` checks each as its own
command line would. There a shell's expansion counts as its default, or as 1.
"""

from __future__ import annotations

import importlib
import json
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from recipes import tree as trees
from recipes.tree import Node, RecipeError, did_you_mean, dotted, show
from rewards.errors import UserError

CheckCommand = Callable[[Sequence[str]], None]  # gets a command's words; raises UserError where it would fail
COUNT = r"\d+"
SIZE = r"\d+[KMGT]?"
NAMES = r"[\w.,:=/@+\[\]-]+"
PATH = r"\S+"
# The options of sbatch that a run is likely to need, and what their values look like; "" takes none.
OPTIONS = {
    "account": NAMES, "array": r"\d[\d,%-]*", "chdir": PATH, "constraint": r"\S+", "cpus-per-gpu": COUNT,
    "cpus-per-task": COUNT, "dependency": NAMES, "error": PATH, "exclude": NAMES, "exclusive": r"|user|mcs",
    "export": r"\S+", "gpus": r"(\w+:)?\d+", "gpus-per-node": r"(\w+:)?\d+", "gpus-per-task": r"(\w+:)?\d+", "gres": NAMES,
    "job-name": r"\S+", "mail-type": r"[A-Z_,0-9]+", "mail-user": r"\S+", "mem": SIZE, "mem-per-cpu": SIZE,
    "mem-per-gpu": SIZE, "nodelist": NAMES, "nodes": r"\d+(-\d+)?", "ntasks": COUNT, "ntasks-per-node": COUNT,
    "open-mode": "append|truncate", "output": PATH, "partition": NAMES, "qos": NAMES, "requeue": "", "no-requeue": "",
    "reservation": NAMES, "signal": r"([RB]{1,2}:)?(\d+|(SIG)?[A-Z]+\d?)(@\d+)?",
    "time": r"\d+(:\d\d){0,2}|\d+-\d+(:\d\d){0,2}", "wait-all-nodes": "[01]",
}  # fmt: skip
SHORT = {
    "A": "account", "a": "array", "D": "chdir", "C": "constraint", "c": "cpus-per-task", "d": "dependency", "e": "error",
    "x": "exclude", "G": "gpus", "J": "job-name", "w": "nodelist", "N": "nodes", "n": "ntasks", "o": "output",
    "p": "partition", "q": "qos", "t": "time",
}  # fmt: skip
EXAMPLE = re.compile(r"#(\s{2,}|\t)")  # a comment that shows a command
# Where a command may begin: at a line's start, behind an operator, a quote or a path, or behind what starts another program.
COMMAND = re.compile(r"""(?:/|(?:^|[;&|("'])\s*|^\s*(?:-\s+|(?:srun|exec|nohup|time|env)\b.*?\s))(polymath +)(?=[a-z])""")
EXPANSIONS = (
    (re.compile(r"\$\{\w+:-([^{}]*)\}"), r"\1"),
    (re.compile(r"\$\(\([^()]*\)\)|\$\([^()]*\)|\$\{[^{}]*\}|\$[\w@*#]+"), "1"),
)


def is_cluster_file(path: Path) -> bool:
    """Whether it is a shell script, or a YAML file with Ray's `cluster_name`: not a recipe."""
    try:
        return path.suffix == ".sh" or re.search(r"^cluster_name\s*:", path.read_text(encoding="utf-8"), re.M) is not None
    except (OSError, UnicodeDecodeError):
        return False  # whoever reads it as a recipe says what is wrong


def check_cluster_file(path: Path, shown: str, check_command: CheckCommand) -> None:
    """Raise RecipeError with a line `FILE:LINE: what is wrong` for each mistake; `shown` is what the file is called."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError([f"{shown}: cannot be read as UTF-8 text: {error}"]) from error
    if path.suffix == ".sh":
        problems = [*_syntax_problems(path, shown), *_option_problems(text, shown)]
    else:
        problems = list(_launcher_problems(trees.parse_file(path, shown)))
    problems += _command_problems(text, shown, check_command)
    if problems:
        raise RecipeError(problems)


# ---- polymath's own commands


def _command_problems(text: str, shown: str, check_command: CheckCommand) -> Iterator[str]:
    found = False
    for number, line in _whole_lines(text):
        for match in COMMAND.finditer(line):
            found = True
            try:
                check_command(_words(line[: match.start(1)], line[match.end() :]))
            except ValueError as error:  # of shlex
                yield f"{shown}:{number}: polymath: {error}".lower()
            except UserError as error:
                yield from (f"{shown}:{number}: polymath: {problem}" for problem in str(error).splitlines())
    if not found:
        yield f"{shown}:1: no command of polymath; allowed: a file that starts one, such as polymath run math"


def _whole_lines(text: str) -> Iterator[tuple[int, str]]:
    """Commands with their continued lines, by the number of their first; comments other than examples are left out."""
    whole, first = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        example = EXAMPLE.match(stripped := line.strip())
        if stripped.startswith("#") and example is None:
            continue
        stripped = stripped[example.end() :] if example else stripped
        first = first if whole else number
        whole += stripped.removesuffix("\\") + " "
        if not stripped.endswith("\\"):
            yield first, whole
            whole = ""
    if whole:
        yield first, whole


def _words(before: str, command: str) -> list[str]:
    """The words of a command up to where the shell ends it; `before` tells which quotes are open around it."""
    for quote in ('"', "'"):
        if before.count(quote) % 2:
            command = command.partition(quote)[0]
    for pattern, replacement in EXPANSIONS:
        command = pattern.sub(replacement, command)
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, "#"
    words = []
    for word in lexer:
        if set(word) <= set("();<>|&"):
            break
        words.append(word)
    return words


# ---- Slurm


def _syntax_problems(path: Path, shown: str) -> Iterator[str]:
    try:
        done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, timeout=10, check=False)
    except FileNotFoundError:
        yield f"{shown}:1: bash is not installed here, so the script's syntax cannot be checked"
        return
    for line in done.stderr.splitlines():
        where, _, rest = line.removeprefix(f"{path}: line ").partition(": ")
        yield f"{shown}:{where if where.isdigit() else 1}: {rest or line}"


def _option_problems(text: str, shown: str) -> Iterator[str]:
    lines = text.splitlines()
    if not lines or not lines[0].startswith("#!"):
        yield f"{shown}:1: sbatch wants an interpreter here; allowed: #!/bin/bash"
    found = started = False
    for number, line in enumerate(lines, 1):
        if not line.startswith("#SBATCH"):
            started = started or not re.match(r"\s*(#|$)", line)
            continue
        found = True
        where = f"{shown}:{number}: #SBATCH"
        if started:
            yield f"{where}: stands behind the first command, where sbatch does not read it; move it to the top"
        try:
            words = shlex.split(line.removeprefix("#SBATCH"), comments=True)
        except ValueError as error:
            yield f"{where}: {error}"
            continue
        yield from (f"{where} {problem}" for problem in _words_problems(words))
    if not found:
        yield f"{shown}:1: no #SBATCH line; allowed: a batch script for Slurm, such as recipes/cluster/slurm.sh"


def _words_problems(words: Sequence[str]) -> Iterator[str]:
    if not words:
        yield "names no option; allowed: --nodes=4 and the like"
    left = list(words)
    while left:
        word = left.pop(0)
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            if not equals and left and not left[0].startswith("-"):  # `--nodes 4`
                value = left.pop(0)
        elif re.match(r"-[A-Za-z]", word):
            name = SHORT.get(word[1], word[:2])
            value = word[2:] or (left.pop(0) if left and not left[0].startswith("-") else "")
        else:
            yield f"{word}: not an option; allowed: --name=value"
            continue
        if name not in OPTIONS:
            yield f"{word}: unknown option; allowed: {', '.join(sorted(OPTIONS))}{did_you_mean(name, OPTIONS)}"
        elif not re.fullmatch(OPTIONS[name], value):
            yield f"{word}: got {show(value)} for --{name}; allowed: {_allowed(OPTIONS[name])}"


def _allowed(pattern: str) -> str:
    known = {COUNT: "a number", SIZE: "a size such as 64G", NAMES: "a name", PATH: "a path", "": "no value"}
    return known.get(pattern, f"what matches {pattern}")


# ---- Ray's cluster launcher


def _launcher_problems(tree: Node) -> Iterator[str]:
    """What Ray's schema, and then Ray's own check, say about the file."""
    jsonschema = importlib.import_module("jsonschema")
    schema = json.loads((resources.files("ray.autoscaler") / "ray-schema.json").read_text())
    plain = tree.plain()
    wrong = False
    for error in jsonschema.Draft7Validator(schema).iter_errors(plain):
        wrong = True
        key = tuple(error.absolute_path)
        if error.validator == "additionalProperties":
            yield from _unknown_keys(tree.nearest(key), key, list(error.schema.get("properties", {})))
        else:
            lead = f"{dotted(key)}: " if key else ""
            yield f"{tree.nearest(key).origin.where}: {lead}{' '.join(error.message.split())}"
    if not wrong:
        util: Any = importlib.import_module("ray.autoscaler._private.util")
        try:
            util.validate_config(util.prepare_config(plain))
        except Exception as error:  # noqa: BLE001 - Ray raises whatever its libraries do
            yield f"{tree.origin.where}: Ray's cluster launcher refuses it: {' '.join(str(error).split()) or repr(error)}"


def _unknown_keys(node: Node, key: Sequence[Any], known: Sequence[str]) -> Iterator[str]:
    for name, child in node.value.items() if isinstance(node.value, Mapping) else ():
        if name not in known:
            near = did_you_mean(name, known)
            yield f"{child.origin.where}: {dotted([*key, name])}: unknown key; allowed: {', '.join(sorted(known))}{near}"
