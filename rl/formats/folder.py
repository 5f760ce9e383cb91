"""A model folder's own encoder as a format, as DeepSeek's releases ship one: `encoding/encoding_*.py` with `encode_messages`.

Its code runs in this process. So it is used only where a recipe says so and trusts the folder's code.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from rewards.errors import UserError
from rewards.task import Effort, EffortLevel, Message, Role, ToolSpec, effort_name
from rl.formats.protocol import ThinkingMode
from rl.formats.rendered import ANSWER, QUESTION, RenderedFormat
from rl.formats.thinking import thinks

FUNCTION = "encode_messages"
NEEDED = ("thinking_mode",)  # what the function must take beside the messages


class FolderFormat(RenderedFormat):
    """Conversations as the encoder of a model's folder writes them; the words of tools and efforts are its own."""

    def __init__(self, folder: Path, *, trust_remote_code: bool, thinking: ThinkingMode = ThinkingMode.INTERLEAVED) -> None:
        """Loads the encoder.

        Raises:
            UserError: the folder is not trusted, has no encoder, or one that cannot be used.
        """
        path = find_encoder(folder)
        if not trust_remote_code:
            raise UserError(
                f"model.trust_remote_code: got false; the encoder {path} is code of the model's folder; allowed: true"
            )
        self._path = path
        self._encode = _load(path)
        self._takes_effort = "reasoning_effort" in inspect.signature(self._encode).parameters
        self.thinking = thinking
        super().__init__(f"the encoder {path}", re.compile(re.escape(self._end())), thinking)

    def render(self, messages: Sequence[Message], tools: Sequence[ToolSpec], effort: EffortLevel, *, header: bool) -> str:
        if not isinstance(effort, Effort):
            raise UserError(f"effort: got {effort} with the encoder {self._path}; allowed: none, high, max")
        settings: dict[str, Any] = {"thinking_mode": "thinking" if thinks(effort, self.thinking) else "chat"}
        if effort is Effort.MAX and thinks(effort, self.thinking):
            if not self._takes_effort:
                raise UserError(
                    f"effort: got {effort_name(effort)} with the encoder {self._path}, which has none; allowed: none, high"
                )
            settings["reasoning_effort"] = effort.value
        shown = [_as_data(message) for message in messages]
        if tools:
            if not shown or messages[0].role is not Role.SYSTEM:
                shown.insert(0, {"role": Role.SYSTEM.value, "content": ""})
            shown[0]["tools"] = [tool.as_dict() for tool in tools]
        try:
            return str(self._encode(shown, **settings))
        except Exception as error:  # the folder's code may raise anything
            roles = ", ".join(message.role.value for message in messages)
            raise UserError(f"the encoder {self._path} refuses a conversation of the roles {roles}: {error!r}") from error

    def _end(self) -> str:
        """What stands behind an answer, which is the token that ends a turn."""
        text = self.render([QUESTION, Message(Role.ASSISTANT, ANSWER)], [], Effort.NONE, header=False)
        end = text.rpartition(ANSWER)[2].strip()
        if not end:
            raise UserError(f"the encoder {self._path} writes nothing behind an answer, so the model would never learn to stop")
        return end


def find_encoder(folder: Path) -> Path:
    """The encoder in a model's folder.

    Raises:
        UserError: there is none, or there are several.
    """
    found = sorted(folder.glob("encoding/encoding_*.py"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise UserError(f"{folder}: got {names} as encoders; allowed: a folder with one encoding/encoding_NAME.py")
    return found[0]


def _load(path: Path) -> Callable[..., object]:
    spec = importlib.util.spec_from_file_location(f"polymath_encoder_{path.stem}", path)
    assert spec is not None, "a path that ends in .py has a loader"
    assert spec.loader is not None, "a path that ends in .py has a loader"
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the folder's code may raise anything
        raise UserError(f"the encoder {path} cannot be loaded: {error!r}") from error
    function = vars(module).get(FUNCTION)
    if not callable(function):
        raise UserError(f"the encoder {path} has no function {FUNCTION}")
    lacking = [name for name in NEEDED if name not in inspect.signature(function).parameters]
    if lacking:
        raise UserError(f"the encoder {path}: its {FUNCTION} takes no {', '.join(lacking)}; allowed: one that does")
    return cast(Callable[..., object], function)


def _as_data(message: Message) -> dict[str, Any]:
    """As releases read it: arguments are JSON text, and the reasoning stands under both of its names."""
    data = message.as_dict()
    if "reasoning_content" in data:
        data["reasoning"] = data["reasoning_content"]
    for call in data.get("tool_calls", ()):
        call["function"]["arguments"] = json.dumps(call["function"]["arguments"], ensure_ascii=False)
    return data
