"""Proves before a run that a format keeps what was sampled, on a conversation with everything in it, or says what it does.

A run extends a conversation by the sampled ids and the text of the results. Where the format would write the same conversation
differently, the model is trained on prompts that it is never served with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from rewards.errors import UserError
from rewards.task import EffortLevel, Message, Role, ToolCall, effort_name
from rewards.transcript import THINK
from rl.formats.protocol import Format, ThinkingMode
from rl.formats.syntax import PROBE_TOOL
from rl.formats.thinking import thinks

SHOWN = 60  # characters around the spot where two texts part


def check_prefix(format_of: Callable[[ThinkingMode], Format], mode: ThinkingMode, efforts: Sequence[EffortLevel]) -> None:
    """Raises UserError, with the spot and the settings that would work, unless conversations with tools only grow.

    Args:
        format_of: the format under a policy; it is asked for the others as well, to find one that works.
        mode: the recipe's policy.
        efforts: those that the run asks for.
    """
    problem = _problem(format_of, mode, efforts)
    if problem:
        working = [other.value for other in ThinkingMode if other is not mode and not _problem(format_of, other, efforts)]
        allowed = "".join(f"thinking.mode {other}, or " for other in working)
        raise UserError(
            f"thinking.mode: got {mode} with a chat template that does not keep to it: {problem}\n allowed: "
            f"{allowed}another chat template"
        )


def _problem(format_of: Callable[[ThinkingMode], Format], mode: ThinkingMode, efforts: Sequence[EffortLevel]) -> str:
    """What goes wrong under this policy; "" where nothing does."""
    try:
        return next((found for effort in efforts if (found := _at_effort(format_of(mode), effort))), "")
    except UserError as error:
        return str(error)


def _at_effort(format_: Format, effort: EffortLevel) -> str:
    thinking = thinks(effort, format_.thinking)
    messages, at_effort = _conversation(thinking=thinking), f"at effort {effort_name(effort)} it"
    places = [i for i, message in enumerate(messages) if message.role is Role.ASSISTANT]
    text = format_.prompt(messages[: places[0]], [PROBE_TOOL], effort)
    if not thinking and text.rstrip().endswith(THINK):
        return f"{at_effort} opens the thinking all the same"
    for at, end in pairwise([*places, len(messages)]):
        said, after = messages[at], messages[at + 1 : end]
        text += format_.turn(said, effort)
        prompt = format_.prompt(messages[:end], [PROBE_TOOL], effort)
        if format_.keeps(after, effort, has_tools=True):
            lost = any(message.reasoning is not None and message.reasoning not in prompt for message in messages[:end])
            what = "drops the reasoning of an earlier turn" if lost else "writes an earlier turn otherwise than it was sampled"
            if not prompt.startswith(text):
                return f"{at_effort} {what}{_spot(text, prompt)}"
            text += format_.results(said, after, effort)
            if prompt != text:
                return f"{at_effort} writes what follows a turn otherwise in a longer conversation{_spot(text, prompt)}"
        text = prompt
    return ""


def _spot(grown: str, prompt: str) -> str:
    """Where the two part."""
    at = next((i for i, (a, b) in enumerate(zip(grown, prompt, strict=False)) if a != b), min(len(grown), len(prompt)))
    start = max(0, at - SHOWN // 2)
    return f".\n sampled: {grown[start : start + SHOWN]!r}\n rendered: {prompt[start : start + SHOWN]!r}"


def _conversation(*, thinking: bool) -> list[Message]:
    """Two questions, three turns of calls with text and without, one call and two, each with reasoning if there is any."""

    def said(number: int, text: str, *calls: ToolCall) -> Message:
        thought = f"Thought {number}: first this, then that."
        return Message(Role.ASSISTANT, text, thought if thinking else None, calls)

    def call(number: int) -> ToolCall:
        return ToolCall(PROBE_TOOL.name, {"text": f"word {number}", "number": number, "list": [number, "x"]}, f"call_{number}")

    def result(number: int) -> Message:
        return Message(Role.TOOL, f"found {number}", tool_call_id=f"call_{number}")

    return [
        Message(Role.SYSTEM, "Be brief."),
        Message(Role.USER, "What is found?"),
        said(1, "Looking.", call(1)),
        result(1),
        said(2, "", call(2), call(3)),
        result(2),
        result(3),
        said(3, "It is this."),
        Message(Role.USER, "And further?"),
        said(4, "", call(4)),
        result(4),
        said(5, "That is all."),
        Message(Role.USER, "Thanks."),
    ]
