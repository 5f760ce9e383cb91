"""The tool `shell`: each call is a new shell in the trajectory's box; files, and the folder that it was left in, stay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rewards.box_state import WORK
from rewards.task import Task, ToolSpec
from rl.tools.config import ToolConfig
from rl.tools.output import NOTHING, cut_output, how_it_ended
from rl.tools.tool import Run, Tool, ToolError
from sandbox.box import Box
from sandbox.result import Verdict

MAX_PATH_CHARS = 4096
MAX_BYTES = 120_000  # of a command, which Linux passes on in one piece of at most 128 KiB

# The command's own errors go to its output, in order. What is on stderr in the end is the folder that it was left in.
_SCRIPT = f"""\
cd -- "$2" 2>/dev/null || {{ mkdir -p {WORK} && cd {WORK} && echo "[the folder $2 is gone; this is {WORK}]"; }}
if command -v bash > /dev/null; then shell=bash; else shell=sh; fi
exec "$shell" -c 'exec 9>&2 2>&1; trap "pwd -P >&9 2> /dev/null" EXIT; eval "$1"' "$shell" "$1"
"""

SPEC = ToolSpec(
    "shell",
    f"Runs a command with bash. It starts in {WORK}; files and `cd` last, variables do not.",
    {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]},
)


class Shell(Tool):
    uses_box = True

    def __init__(self, config: ToolConfig) -> None:
        super().__init__(SPEC, config)

    def begin(self, task: Task) -> Run:
        return _ShellRun(self)


class _ShellRun:
    def __init__(self, tool: Shell) -> None:
        self._tool, self._folder = tool, WORK

    async def __call__(self, arguments: Mapping[str, Any], box: Box | None) -> str:
        assert box is not None
        tool, command = self._tool, arguments["command"]
        if "\0" in command or len(command.encode()) > MAX_BYTES:
            raise ToolError(
                f"a command has at most {MAX_BYTES} bytes, and no zero among them; write a long one to a file first"
            )
        done = await box.exec(("/bin/sh", "-c", _SCRIPT, "sh", command, self._folder), cwd="/", wall_s=tool.timeout_s)
        text, folder = cut_output(done.stdout, tool.max_chars), _folder(done.stderr.text)
        if folder is not None:
            self._folder = folder
        elif done.verdict is Verdict.NONZERO:  # the shell itself could not be started
            text += done.stderr.text
        ended = await how_it_ended(done, tool.timeout_s, box)
        if ended is not None:
            raise ToolError(f"{text.rstrip()}\n{ended}".strip())
        return text or NOTHING


def _folder(told: str) -> str | None:
    path = told.rstrip("\n")
    return path if path.startswith("/") and len(path) <= MAX_PATH_CHARS and "\n" not in path else None
