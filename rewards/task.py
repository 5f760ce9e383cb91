"""The values that flow in text: a message, a task with its content hash, and the train / held-out split by that hash.

Token ids never appear here; `rl/chat.py` is the border. Task generators and data loaders build tasks, rewards read them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from typing import Any, TypeAlias


class Role(StrEnum):
    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class Effort(StrEnum):
    """How long a model may think before it answers."""

    NONE = "none"
    HIGH = "high"
    MAX = "max"


EffortLevel: TypeAlias = Effort | int  # a mode, or a number from 1 to 100: the more, the longer


def effort_name(effort: EffortLevel) -> str:
    """As recipes, metrics and file names have it.

    >>> effort_name(Effort.MAX), effort_name(40)
    ('max', '40')
    """
    return effort.value if isinstance(effort, Effort) else str(effort)


def effort_order(effort: EffortLevel) -> int:
    """What puts efforts in order, from the least; the modes stand among the numbers.

    >>> sorted([Effort.MAX, 40, Effort.NONE, Effort.HIGH], key=effort_order)
    [<Effort.NONE: 'none'>, 40, <Effort.HIGH: 'high'>, <Effort.MAX: 'max'>]
    """
    return effort if isinstance(effort, int) else {Effort.NONE: 0, Effort.HIGH: 101, Effort.MAX: 102}[effort]


@dataclass(frozen=True)
class ToolSpec:
    """What a model is told of a tool.

    >>> ToolSpec("add", "Adds two numbers.", {"type": "object", "properties": {"a": {"type": "number"}}}).as_dict()["type"]
    'function'
    """

    name: str
    description: str
    parameters: Mapping[str, Any]  # the JSON schema of an object

    def as_dict(self) -> dict[str, Any]:
        """OpenAI's shape, which chat templates read."""
        function = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": function}


@dataclass(frozen=True)
class ToolCall:
    """A tool and what it is called with, as an assistant's message holds it.

    >>> ToolCall("get_weather", {"location": "Paris", "days": 5}).arguments["days"]
    5
    """

    name: str
    arguments: Mapping[str, Any]  # JSON values by the parameters' names, in the order in which they were written
    id: str = ""  # by which a result names its call; "" where results come in the order of the calls
    written: Mapping[str, str] = field(default_factory=dict)  # arguments whose JSON text was another than `json.dumps` gives


@dataclass(frozen=True)
class Message:
    """One message of a conversation.

    >>> Message(Role.ASSISTANT, content="5", reasoning="2+3=5").reasoning
    '2+3=5'
    """

    role: Role
    content: str
    reasoning: str | None = None  # what an assistant thought before `content`; None where it did not think
    tool_calls: tuple[ToolCall, ...] = ()  # of an assistant, after its content
    tool_call_id: str = ""  # of a tool's result: the call that it answers

    def as_dict(self) -> dict[str, Any]:
        """The shape that chat templates read, which is OpenAI's, but that arguments are values and not their JSON text."""
        out: dict[str, Any] = {"role": self.role.value, "content": self.content}
        if self.reasoning is not None:
            out["reasoning_content"] = self.reasoning
        if self.tool_calls:
            out["tool_calls"] = [
                {"type": "function", "id": call.id, "function": {"name": call.name, "arguments": dict(call.arguments)}}
                for call in self.tool_calls
            ]
        if self.tool_call_id:
            out["tool_call_id"] = self.tool_call_id
        return out


def texts_of(message: Message) -> list[str]:
    """All that somebody wrote in it: its content, its thinking, and what its calls hold.

    >>> texts_of(Message(Role.ASSISTANT, "", "look", (ToolCall("shell", {"command": "ls", "lines": 5}),)))
    ['', 'look', 'shell', 'command', 'ls', 'lines', '5']
    """
    found = [message.content, message.reasoning or ""]
    for call in message.tool_calls:
        found.append(call.name)
        for name, value in call.arguments.items():
            found += [name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)]
    return found


@dataclass(frozen=True)
class Task:
    """One problem: what the model is shown, and what scoring needs.

    `data` holds any further columns of the data set for rewards to read; it must be plain JSON values. What lies in a tool's
    box from the beginning is there as well: `files` (text by path) and `setup` (a command).
    Two tasks that show the model the same messages, and the same box, have the same `content_hash`, whatever their ids.

    >>> task = Task("add/7", "math", (Message(Role.USER, "2+3"),), answer="5")
    >>> task.content_hash == Task("other", "math", (Message(Role.USER, "2+3"),), answer="5").content_hash
    True
    """

    id: str
    domain: str
    messages: tuple[Message, ...]
    answer: str | None = None
    kind: str = ""  # the kind of problem inside the domain ("add", "gcd"); evaluation reports each kind
    effort: EffortLevel = Effort.HIGH
    data: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""  # names what is asked apart from its wording; tasks of one problem are held out together
    has_messages: bool = False  # the data holds messages and no text; TRL's rewards then get messages

    @cached_property
    def content_hash(self) -> str:
        """Hex digest of everything the model is shown: messages, effort, and what its tools find in their box."""
        shown: dict[str, Any] = {"messages": [m.as_dict() for m in self.messages], "effort": effort_name(self.effort)}
        shown |= {key: self.data[key] for key in ("files", "setup") if key in self.data}
        canonical = json.dumps(shown, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:32]

    @property
    def is_conversation(self) -> bool:
        """Whether the prompt is more than one text."""
        return self.has_messages or [message.role for message in self.messages] != [Role.USER]

    @property
    def prompt(self) -> str:
        """The last user message, for display."""
        return next((m.content for m in reversed(self.messages) if m.role is Role.USER), "")


@dataclass(frozen=True)
class Demonstration:
    """A task with an answer worth imitating; `style` says which mixture it belongs to ("careful", "sloppy", ...).

    `before` is what came between the task's messages and the answer: an assistant's tool calls, and their results.
    """

    task: Task
    response: Message
    style: str = "careful"
    before: tuple[Message, ...] = ()

    @property
    def messages(self) -> tuple[Message, ...]:
        """All that came after the task's own messages."""
        return (*self.before, self.response)

    def saying(self, messages: Sequence[Message]) -> Demonstration:
        """The same with other messages, of which the last is the answer."""
        return replace(self, response=messages[-1], before=tuple(messages[:-1]))


def is_held_out(task: Task, share: float) -> bool:
    """Whether the task belongs to the held-out side, decided by its problem, or by its content hash where it names none.

    The same task falls on the same side in every run, on every machine, whatever the seed and the order of the data.
    """
    key = hashlib.sha256(task.problem.encode()).hexdigest() if task.problem else task.content_hash
    return int(key[:13], 16) / 16**13 < share
