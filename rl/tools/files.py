"""The tool `files`, an editor: shows, creates and changes text files of the trajectory's box, each time in one call."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from rewards.box_state import WORK
from rewards.task import Task, ToolSpec
from rl.tools import editor
from rl.tools.config import ToolConfig
from rl.tools.output import cut, how_it_ended
from rl.tools.tool import BoxUse, Run, Tool, ToolError
from sandbox.box import Box
from sandbox.result import Verdict

NEEDS = {"view": (), "create": ("text",), "replace": ("old", "new"), "insert": ("line", "text")}
TAKES = {**NEEDS, "view": ("first", "last")}
MAX_FILE_BYTES = 2 << 20
SOURCE = inspect.getsource(editor)

_TEXT, _NUMBER = {"type": "string"}, {"type": "integer"}
SPEC = ToolSpec(
    "files",
    "Edits text files. view: shows a file with line numbers, or a folder. create: writes a whole file. replace: puts `new` in "
    f"place of `old`, which must be there exactly once. insert: puts `text` after a line. Paths lead from {WORK}.",
    {
        "type": "object",
        "properties": {
            "command": {"type": "string", "enum": list(NEEDS)},
            "path": _TEXT,
            "text": {**_TEXT, "description": "of create and insert"},
            "old": {**_TEXT, "description": "of replace"},
            "new": {**_TEXT, "description": "of replace"},
            "line": {**_NUMBER, "description": "of insert; 0: before the first"},
            "first": {**_NUMBER, "description": "of view: the first line to show"},
            "last": {**_NUMBER, "description": "of view: the last one"},
        },
        "required": ["command", "path"],
    },
)


class Files(Tool):
    """Keeps no state: one run serves all."""

    uses_box = True

    def __init__(self, config: ToolConfig) -> None:
        super().__init__(SPEC, config)

    def box_use(self, arguments: Mapping[str, Any]) -> BoxUse:
        return BoxUse.READS if arguments["command"] == "view" else BoxUse.CHANGES

    def begin(self, task: Task) -> Run:
        return self._run

    async def _run(self, arguments: Mapping[str, Any], box: Box | None) -> str:
        assert box is not None
        command, path = arguments["command"], arguments["path"]
        given = {name: value for name, value in arguments.items() if name not in ("command", "path")}
        for name in NEEDS[command]:
            if name not in given:
                raise ToolError(f"files: {command} needs {name!r}")
        for name in given:
            if name not in TAKES[command]:
                raise ToolError(f"files: {command} takes {', '.join(TAKES[command])}; it has no {name!r}")
        if not path or "\0" in path:
            raise ToolError(f"files: path: got {path!r:.100}")
        whole = path if path.startswith("/") else f"{WORK}/{path}"
        called = await box.python("edit", command, whole, given, MAX_FILE_BYTES, source=SOURCE, wall_s=self.timeout_s)
        if not called.result.ok:
            ended = await how_it_ended(called.result, self.timeout_s, box)
            said = called.result.stderr.text.strip().rpartition("\n")[2]
            raise ToolError(f"files: {said if called.result.verdict is Verdict.NONZERO else ended}")
        kind, text = called.value if isinstance(called.value, list) and len(called.value) == 2 else ("error", "no answer")
        if kind == "error":
            raise ToolError(f"files: {text}")
        return cut(str(text), self.max_chars)
