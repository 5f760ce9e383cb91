"""The tool `python`: an interpreter in the trajectory's box whose variables last from call to call.

It is a command at a terminal of the box (`rl/tools/interpreter.py`): a call is a line that is typed, and an answer that is
read. One that does not end in time is killed with all that it has started, and the next call gets a new one.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import inspect
import json
from collections.abc import Mapping
from typing import Any

from rewards.task import Task, ToolSpec
from rl.tools import interpreter
from rl.tools.config import ToolConfig
from rl.tools.interpreter import READY
from rl.tools.output import NOTHING, cut_output, how_it_ended
from rl.tools.tool import GoneError, Run, Tool, ToolError
from sandbox.box import Box
from sandbox.process import Terminal
from sandbox.result import Output, Result, Verdict

KEEP_BYTES = 96 << 10  # of output: what the box's terminal holds for us is 256 KiB
MAX_ANSWER_BYTES = 192 << 10
START_S = 60.0  # for the interpreter to be there, on a machine that is overloaded
END_S = 10.0  # for what was killed to be gone
SO_FAR_S = 2.0  # for it to say what a call that took too long had written
SOURCE = inspect.getsource(interpreter)
LOST = "its variables are lost, files are not"
ANEW = f"the next call starts a new one: {LOST}"

SPEC = ToolSpec(
    "python",
    "Runs Python code. Variables and files last from call to call. Shows what is printed, and the last expression's value.",
    {"type": "object", "properties": {"code": {"type": "string"}}, "required": ["code"]},
)


class Python(Tool):
    uses_box = True

    def __init__(self, config: ToolConfig) -> None:
        super().__init__(SPEC, config)

    def begin(self, task: Task) -> Run:
        return _PythonRun(self)


class _PythonRun:
    def __init__(self, tool: Python) -> None:
        self._tool = tool
        self._terminal: Terminal | None = None  # once it takes orders
        self._read, self._number = b"", 0
        self._ending: asyncio.Task[Result | None] | None = None  # of one whose call was cancelled

    async def __call__(self, arguments: Mapping[str, Any], box: Box | None) -> str:
        assert box is not None
        tool, note = self._tool, ""
        if self._terminal is not None and not self._terminal.running:
            note = f"[Python had ended, and was started anew: {LOST}]\n"
            await self._end(self._terminal)
        terminal = self._terminal or await self._start(box)
        self._number += 1
        order = {"id": self._number, "keep": min(KEEP_BYTES, 4 * tool.max_chars)}
        try:
            async with asyncio.timeout(tool.timeout_s):
                answer = await self._asked(terminal, {**order, "code": arguments["code"]})
        except TimeoutError:
            text = await self._so_far(terminal, order)
            await self._end(terminal)
            raise ToolError(f"{text}\n[ended after {tool.timeout_s:g} s, the time limit; {ANEW}]".strip()) from None
        except BaseException:  # above all where the call is cancelled
            self._end_later(terminal)
            raise
        if answer is None or answer["ended"] is not None:
            result = await self._end(terminal)
            raise ToolError(f"{note}{self._text(answer)}\n[{_how(result, answer)}; {ANEW}]".strip())
        text = note + self._text(answer)
        if answer["error"]:
            raise ToolError(text.strip() or "[exit code 1]")
        return text or NOTHING

    async def _start(self, box: Box) -> Terminal:
        if self._ending is not None:
            await asyncio.wait([self._ending])
        self._read = b""
        terminal = await box.terminal(("python3", "-c", SOURCE), cwd="/")
        try:
            async with asyncio.timeout(START_S):
                while (line := await self._line(terminal)) not in (READY, None):
                    pass
        except TimeoutError:
            await self._end(terminal)
            raise GoneError(f"Python did not start in its box within {START_S:g} s") from None
        except BaseException:
            self._end_later(terminal)
            raise
        if line is None:
            said, result = self._read.decode(errors="replace").strip()[-500:], await self._end(terminal)
            ended = None if result is None else await how_it_ended(result, START_S, box)
            raise ToolError(f"Python could not be started: {said}\n{ended or ''}".strip())
        self._terminal = terminal
        return terminal

    async def _end(self, terminal: Terminal) -> Result | None:
        """Ends the interpreter and all that it has started; what it came to, where that can be said.

        Raises:
            SandboxError: its box was lost.
        """
        self._terminal = None
        await terminal.kill()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_S):
                result = await terminal.wait()
                await terminal.kill()  # what it has left behind
                return result
        return None

    def _end_later(self, terminal: Terminal) -> None:
        self._terminal = None
        self._ending = asyncio.create_task(self._end(terminal))
        self._ending.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # the next call is told

    async def _asked(self, terminal: Terminal, order: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The answer to an order; None where the interpreter, and what watches it, ends before that."""
        await terminal.write(json.dumps(order).encode() + b"\n")
        while (line := await self._line(terminal)) is not None:
            answer = _answer(line)
            if answer is not None and (answer["id"] == order["id"] or answer["ended"] is not None):
                return answer
        return None

    async def _line(self, terminal: Terminal) -> str | None:
        """The next line at the terminal. Who writes there without end has ended the interpreter."""
        while b"\n" not in self._read:
            data = await terminal.read()
            if not data or len(self._read) > MAX_ANSWER_BYTES:
                return None
            self._read += data
        line, _, self._read = self._read.partition(b"\n")
        return line.decode(errors="replace").strip()

    async def _so_far(self, terminal: Terminal, order: Mapping[str, Any]) -> str:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SO_FAR_S):
                return self._text(await self._asked(terminal, order))
        return ""

    def _text(self, answer: Mapping[str, Any] | None) -> str:
        if answer is None:
            return ""
        return cut_output(Output(answer["head"], answer["tail"], answer["num_bytes"]), self._tool.max_chars)


def _answer(line: str) -> dict[str, Any] | None:
    """What comes from the box is checked: the code may have got hold of the terminal."""
    try:
        found = json.loads(line)
        head, tail = (base64.b64decode(found[part]) for part in ("head", "tail"))
        kinds = {"id": int, "done": bool, "error": bool, "ended": int | None, "num_bytes": int}
        if not all(isinstance(found[name], kind) for name, kind in kinds.items()):
            return None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return {**found, "head": head, "tail": tail}


def _how(result: Result | None, answer: Mapping[str, Any] | None) -> str:
    """How the interpreter ended, in words."""
    status = answer["ended"] if answer is not None else None
    if status is None:
        verdict = Verdict.SIGNAL if result is None else result.verdict
        return f"Python was ended: {verdict.replace('_', ' ')}"
    if status < 0:
        memory = ", as it is when memory runs out" if status == -9 else ""
        return f"Python was ended by signal {-status}{memory}"
    return f"Python ended with exit status {status}"
