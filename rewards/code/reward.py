"""The reward for programs: the completion's program, its tests in boxes, a score. Formats and options: docs/code_rewards.md."""

from __future__ import annotations

from rewards.code.judging import judge
from rewards.code.limits import CodeLimits
from rewards.code.problem import program_of, read_problem
from rewards.code.running import CallBoxes
from rewards.code.verdict import CodeResult, CodeVerdict
from rewards.result import Score
from rewards.task import Task


async def verify(
    task: Task, completion: str, boxes: CallBoxes, *, partial: bool = False, tolerance: float = 0.0,
    tuples_as_lists: bool = False, cpu_s: float = CodeLimits.cpu_s, idle_s: float = CodeLimits.idle_s,
    total_cpu_s: float = CodeLimits.total_cpu_s, wall_s: float = CodeLimits.wall_s,
    memory_bytes: int | None = CodeLimits.memory_bytes, output_bytes: int = CodeLimits.output_bytes,
) -> Score:  # fmt: skip
    """1.0 where the completion's program passes all tests of the task, else 0.0; with `partial` the share that it passes.

    Raises:
        UserError: the task's data is no problem for a program, or an option is wrong.
        SandboxError, NotJudgedError: it could not be judged, and the score fails.
    """
    limits = CodeLimits(
        cpu_s=cpu_s, idle_s=idle_s, total_cpu_s=total_cpu_s, wall_s=wall_s, memory_bytes=memory_bytes,
        output_bytes=output_bytes,
    )  # fmt: skip
    problem = read_problem(task)
    program = program_of(completion)
    if not program.strip():
        return Score(0.0, _parts(None), "no program")
    found = await judge(problem, program, boxes, limits, partial=partial, tolerance=tolerance, tuples_as_lists=tuples_as_lists)
    value = found.share if partial else float(found.verdict is CodeVerdict.PASSED)
    return Score(value, _parts(found), found.note)


def _parts(found: CodeResult | None) -> dict[str, float | None]:
    """Shares for the metrics: of tests passed, and whether it was a timeout, a compile error, ..."""
    return {
        "passed_tests": found.share if found is not None else 0.0,
        "compile_error": float(found is None or found.verdict is CodeVerdict.COMPILE_ERROR),
        "runtime_error": float(found is not None and found.verdict is CodeVerdict.RUNTIME_ERROR),
        "timeout": float(found is not None and found.verdict is CodeVerdict.TIMEOUT),
    }
