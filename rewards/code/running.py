"""One program in boxes: what came of each of its tests, as data that nobody trusts. Called by `rewards.code.judging`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from rewards.code import source
from rewards.code.limits import CodeLimits
from rewards.code.values import from_text
from rewards.code.verdict import CodeVerdict
from rewards.errors import UserError
from sandbox.box import Box, Called
from sandbox.result import Verdict

Outcome = dict[str, Any]  # of one test in its box: "status", and what belongs to it (`rewards.code.program`)

ITEM_BYTES = 4 << 20  # of the inputs that are sent at once, as JSON
MAX_ITEM_BYTES = 12 << 20  # of a single one
BUSY = "the machine is overloaded"
UNTOLD = "the machine is overloaded, or the program waits, which this kernel does not tell"
_VERDICTS = {
    Verdict.CPU_TIMEOUT: CodeVerdict.TIMEOUT,
    Verdict.OUT_OF_MEMORY: CodeVerdict.OUT_OF_MEMORY,
    Verdict.PIDS_LIMIT: CodeVerdict.PROCESS_LIMIT,
    Verdict.OUTPUT_LIMIT: CodeVerdict.OUTPUT_LIMIT,
}


class NotJudgedError(Exception):
    """The machine, or the tests themselves, did not let a program be judged: the score fails, and is no zero."""


class CallBoxes(Protocol):
    """Where boxes come from (`rewards.boxes`)."""

    def calls(self) -> AbstractAsyncContextManager[Box]:
        """A box of which nothing is left to the next user, for one call of a function."""


class Running:
    """One program: its tests in boxes, a call of a box for as many as go into one."""

    def __init__(self, program: str, boxes: CallBoxes, limits: CodeLimits, partial: bool) -> None:
        self.program, self.prelude, self.partial, self.limits = program, "", partial, limits
        self.boxes = boxes
        self._cpu_s = 0.0

    async def outcomes(self, kind: str, items: Sequence[Any], entry_point: str, *, may_raise: bool = False) -> list[Outcome]:
        """What came of each item, in order, up to the first that failed where not all are needed.

        An item that was run beside others and has none is run again alone: what they did to it is not its fault.
        """
        found = list[Outcome]()
        alone, good = False, ["value", "output", *["raised"][:may_raise]]
        while len(found) < len(items) and not self._is_over(found, good):
            if self._cpu_s > self.limits.total_cpu_s:
                found.append(failed(CodeVerdict.TIMEOUT, f"all of its {self.limits.total_cpu_s:g} s were used up before"))
                continue
            batch = _batch(items[len(found) :], alone)
            called = await self._call(kind, batch, entry_point, good)
            told = checked_outcomes(called.value, len(batch)) if called.result.ok else []
            if told and told[0]["status"] == CodeVerdict.COMPILE_ERROR:
                return told * len(items)
            if not told and len(batch) == 1:
                told = [self._of_box(called)]
                if called.result.verdict is Verdict.WALL_TIMEOUT:  # it has stopped what watches it, and would each time
                    told *= len(items) - len(found)
            found += told
            alone = not told
        return found

    async def session(self, operations: Sequence[str], entry_point: str) -> list[Outcome]:
        """What came of each operation, done in one process; where that ends in between, the rest in a new one, or none."""
        trees = [from_text(text) for text in operations]
        found, good = list[Outcome](), ["value", "raised"]
        while len(found) < len(trees) and not self._is_over(found, good):
            if self._cpu_s > self.limits.total_cpu_s:
                found.append(failed(CodeVerdict.TIMEOUT, f"all of its {self.limits.total_cpu_s:g} s were used up before"))
                continue
            called = await self._call("session", [trees[len(found) :]], entry_point, good)
            told = checked_outcomes(called.value, len(trees) - len(found)) if called.result.ok else []
            if told and (told[0]["status"] == CodeVerdict.COMPILE_ERROR or told[0].get("loading")):
                return [failed(CodeVerdict.RUNTIME_ERROR, told[0]["error"]) if told[0].get("loading") else told[0]]
            found += told or [self._of_box(called)]
        return found

    def _is_over(self, found: Sequence[Outcome], good: Sequence[str]) -> bool:
        return bool(found) and not self.partial and found[-1]["status"] not in good

    async def _call(self, kind: str, items: Sequence[Any], entry_point: str, good: Sequence[str]) -> Called:
        limits = self.limits
        order = {
            "kind": kind, "items": items, "entry_point": entry_point, "prelude": self.prelude, "program": self.program,
            "cpu_s": limits.cpu_s, "idle_s": limits.idle_s, "output_bytes": limits.output_bytes,
            "until_s": limits.wall_s / 4, "stop": not self.partial, "good": good,
        }  # fmt: skip
        async with self.boxes.calls() as box:
            order["memory_bytes"] = limits.of_process(box.limits.memory_bytes)
            called = await box.python("run", order, source=source.running(), wall_s=limits.wall_s)
        self._cpu_s += called.result.cpu_s
        return called

    def _of_box(self, called: Called) -> Outcome:
        """Of a test that was alone in its box and has told nothing: the program has ended what watched it, or the box did."""
        result = called.result
        if result.verdict in _VERDICTS:
            return failed(_VERDICTS[result.verdict], f"its box: {result.verdict}")
        if result.verdict is Verdict.WALL_TIMEOUT:
            idle_s = result.wall_s - result.cpu_s - result.waited_s if result.waited_s is not None else 0.0
            if idle_s > self.limits.idle_s:
                return failed(CodeVerdict.TIMEOUT, f"it waited for {idle_s:.0f} s")
            if result.cpu_s < self.limits.cpu_s:
                raise NotJudgedError(
                    f"a test was not done after {result.wall_s:.0f} s, of which it could compute for {result.cpu_s:.1f} s: "
                    f"{BUSY if result.waited_s is not None else UNTOLD}; raise options.wall_s, or lower sandbox.num_boxes"
                )
            return failed(CodeVerdict.TIMEOUT, f"it took {result.cpu_s:.1f} s of processor time")
        said = result.stderr.text[-500:]
        return failed(CodeVerdict.RUNTIME_ERROR, f"it ended what runs it: {result.verdict} {said}")


def failed(verdict: CodeVerdict, note: str) -> Outcome:
    return {"status": str(verdict), "error": note}


def _batch(items: Sequence[Any], alone: bool) -> list[Any]:
    """As many as go into one call.

    Raises:
        UserError: not even the first does.
    """
    size, batch = 0, list[Any]()
    for item in items:
        size += len(json.dumps(item))
        if batch and (alone or size > ITEM_BYTES):
            break
        batch.append(item)
    if len(batch) == 1 and size > MAX_ITEM_BYTES:
        raise UserError(f"tests: the input of one is {size} bytes of JSON; at most {MAX_ITEM_BYTES}")
    return batch


def checked_outcomes(value: Any, most: int) -> list[Outcome]:
    """What a box says that came of its items; nothing of it is trusted, and what is malformed has ended in an error."""
    if not isinstance(value, list):
        return []
    return [outcome if _is_outcome(outcome) else failed(CodeVerdict.RUNTIME_ERROR, "no outcome") for outcome in value[:most]]


def _is_outcome(outcome: Any) -> bool:
    if not isinstance(outcome, dict):
        return False
    status = outcome.get("status")
    if not all(isinstance(outcome.get(name, []), list) for name in ("types", "changed")):
        return False
    if status in ("value", "output") and not outcome.get("loading"):
        return isinstance(outcome.get(status), str)
    if not isinstance(outcome.get("error"), str):
        return False
    return status == "raised" or (status in list(CodeVerdict) and status != CodeVerdict.PASSED)
