"""A tool's text for the model: of a long one the beginning and the end, and how much is left out between them."""

from __future__ import annotations

from sandbox.box import Box
from sandbox.result import Output, Result, Verdict

NOTHING = "(no output)"
CROWDED = "[ended: too many processes; all that ran in the box was ended]"


def cut(text: str, max_chars: int, *, left_out: int = 0, at: int | None = None) -> str:
    """The text where it is short enough. `left_out`: characters that are missing already, at the place `at`.

    >>> cut("abcdefghij", 4)
    'ab\\n[6 characters left out]\\nij'
    """
    if not left_out and len(text) <= max_chars:
        return text
    middle = len(text) // 2 if at is None else at
    head, tail = text[: min(middle, max_chars // 2)], text[max(middle, len(text) - (max_chars - max_chars // 2)) :]
    return f"{head}\n[{left_out + len(text) - len(head) - len(tail)} characters left out]\n{tail}"


def cut_output(output: Output, max_chars: int) -> str:
    """The same for what a command wrote; what the box has left out counts by its bytes."""
    head, tail = (part.decode(errors="replace") for part in (output.head, output.tail))
    if not output.cut:
        return cut(head + tail, max_chars)
    return cut(head + tail, max_chars, left_out=output.num_bytes - len(output.head) - len(output.tail), at=len(head))


async def how_it_ended(result: Result, timeout_s: float, box: Box) -> str | None:
    """What a model is told of a command that did not end well; None for one that did.

    Where there are as many processes as there may be all are ended: else nothing could be started any more.
    """
    if result.verdict is Verdict.PIDS_LIMIT:
        await box.end_commands()
    match result.verdict:
        case Verdict.OK:
            return None
        case Verdict.NONZERO:
            return f"[exit code {result.exit_code}]"
        case Verdict.SIGNAL:
            return f"[ended by signal {result.signal}]"
        case Verdict.WALL_TIMEOUT:
            return f"[ended after {timeout_s:g} s, the time limit]"
        case Verdict.CPU_TIMEOUT:
            return "[ended: it used all of its processor time]"
        case Verdict.OUT_OF_MEMORY:
            return f"[ended: out of memory, of which there are {box.limits.memory_bytes >> 20} MiB]"
        case Verdict.PIDS_LIMIT:
            return CROWDED
        case Verdict.DISK_FULL:
            return "[ended: the disk is full]"
        case Verdict.OUTPUT_LIMIT:
            return "[ended: too much output]"
