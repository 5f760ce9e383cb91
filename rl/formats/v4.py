"""DeepSeek-V4's chat format: whole conversations as text, to the letter as its makers' encoder writes them.

Nothing separates turns. Tool results are the user's text, in the order of the calls. With tools all reasoning is kept, so
that text only grows; without, what was thought before the user's last text is dropped, and the header of those turns says so.
"""

from __future__ import annotations

from collections.abc import Sequence

from rewards.errors import UserError
from rewards.task import EffortLevel, Message, Role, ToolCall, ToolSpec
from rewards.transcript import END_THINK, THINK
from rl.formats.dsml import read_turn, write_turn
from rl.formats.protocol import ReadTurn, ThinkingMode, in_call_order
from rl.formats.reading import check_reads_back
from rl.formats.thinking import check_may_think, thinks
from rl.formats.wording import Wording, load_wording

BOS, EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
USER, ASSISTANT = "<｜User｜>", "<｜Assistant｜>"
OPEN_RESULT, CLOSE_RESULT = "<tool_result>", "</tool_result>"
BETWEEN = "\n\n"  # the texts of one user turn, and the tool section and the system's text
SPEAKS_AS_USER = (Role.USER, Role.TOOL)


class V4Format:
    """See `rl.formats.protocol.Format`.

    >>> V4Format().prompt([Message(Role.SYSTEM, "S"), Message(Role.USER, "2+3")], [], Effort.HIGH)
    '<｜begin▁of▁sentence｜>S<｜User｜>2+3<｜Assistant｜><think>'
    """

    end = EOS

    def __init__(self, wording: Wording | None = None, thinking: ThinkingMode = ThinkingMode.INTERLEAVED) -> None:
        self.wording = wording or load_wording()
        self.thinking = thinking

    def prompt(self, messages: Sequence[Message], tools: Sequence[ToolSpec], effort: EffortLevel) -> str:
        if messages and messages[-1].role is Role.ASSISTANT:
            raise UserError("messages: the last is the assistant's; allowed: a prompt ends with the user, a tool or the system")
        return self.conversation(messages, tools, effort) + _header(thinks=thinks(effort, self.thinking))

    def conversation(self, messages: Sequence[Message], tools: Sequence[ToolSpec], effort: EffortLevel) -> str:
        """All messages without a header for a next one."""
        thinking, turns = thinks(effort, self.thinking), _turns(messages)
        section = self.wording.tool_section(tools) if tools else ""
        parts = [BOS, self.wording.effort_text(effort) if thinking else ""]
        if section and (not messages or messages[0].role is not Role.SYSTEM):
            parts.append(section)
        dropped = -1 if self._keeps_all(tools) else _last_question(turns, has_tools=bool(tools))
        calls: Sequence[ToolCall] = ()
        for i, turn in enumerate(turns):
            first = turn[0]
            if first.role is Role.ASSISTANT:
                keeps = thinking and i > dropped
                parts += [_header(thinks=keeps), write_turn(first, thinking=keeps), EOS]
                calls = first.tool_calls or calls
            elif first.role is Role.SYSTEM:
                parts.append(first.content + (BETWEEN + section if section and i == 0 else ""))
            else:
                parts.append(_user_turn(turn, calls))
        return "".join(parts)

    def turn(self, message: Message, effort: EffortLevel) -> str:
        check_may_think(message, effort, self.thinking)
        thinking = thinks(effort, self.thinking)
        text = write_turn(message, thinking=thinking)
        check_reads_back(message, read_turn(text, thinking=thinking))
        return text + EOS

    def results(self, answer: Message, messages: Sequence[Message], effort: EffortLevel) -> str:
        texts = [t[0].content if t[0].role is Role.SYSTEM else _user_turn(t, answer.tool_calls) for t in _turns(messages)]
        return "".join((*texts, _header(thinks=thinks(effort, self.thinking))))

    def read(self, text: str, effort: EffortLevel) -> ReadTurn:
        return read_turn(text, thinking=thinks(effort, self.thinking))

    def keeps(self, messages: Sequence[Message], effort: EffortLevel, *, has_tools: bool) -> bool:
        return (
            not thinks(effort, self.thinking)
            or self._keeps_all(has_tools)
            or _last_question(_turns(messages), has_tools=has_tools) < 0
        )

    def _keeps_all(self, tools: object) -> bool:
        """Whether no reasoning is ever dropped."""
        return self.thinking is ThinkingMode.INTERLEAVED and bool(tools)


def _header(*, thinks: bool) -> str:
    return ASSISTANT + (THINK if thinks else END_THINK)


def _turns(messages: Sequence[Message]) -> list[list[Message]]:
    """Users' texts and tools' results that follow each other are one turn; every other message is its own."""
    turns: list[list[Message]] = []
    for message in messages:
        if message.role in SPEAKS_AS_USER and turns and turns[-1][0].role in SPEAKS_AS_USER:
            turns[-1].append(message)
        else:
            turns.append([message])
    return turns


def _last_question(turns: Sequence[Sequence[Message]], *, has_tools: bool) -> int:
    """Index of the last turn before which reasoning may be dropped, -1 where there is none.

    That is the user's last text; where there are no tools, results count as such, as they do for the format's makers.
    """
    counts = (Role.USER,) if has_tools else SPEAKS_AS_USER
    return max((i for i, turn in enumerate(turns) if any(message.role in counts for message in turn)), default=-1)


def _user_turn(messages: Sequence[Message], calls: Sequence[ToolCall]) -> str:
    """The results among these in the order of the calls; texts stay where they are."""
    results = iter(in_call_order(calls, [message for message in messages if message.role is Role.TOOL]))
    texts = [
        f"{OPEN_RESULT}{next(results).content}{CLOSE_RESULT}" if message.role is Role.TOOL else message.content
        for message in messages
    ]
    return USER + BETWEEN.join(texts)
