"""What a tokenizer trained on conversations with tools would have learned to write in one token: the fixed parts of calls.

A small vocabulary has no room to merge them out of letters; `rl/tokenizer.py` adds them as plain tokens. They are text like
any other: nothing in a conversation changes, but the number of its tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

from rewards.task import ToolSpec

FIXED = (
    "\n\n<", "tool_calls>\n<", "parameter>\n<", "parameter>\n</", "invoke>\n<", "invoke>\n</", "tool_calls>", "</",
    "<tool_result>", "</tool_result>", "\n\n<tool_result>",
)  # fmt: skip


def phrases(tools: Sequence[ToolSpec]) -> list[str]:
    """The stretches between special tokens that every call of these tools is made of; none without tools.

    >>> phrases([ToolSpec("sh", "", {"type": "object", "properties": {"command": {"type": "string"}}})])[-2:]
    ['invoke name="sh">\\n<', 'parameter name="command" string="true">']
    """
    found = list(FIXED) if tools else []
    for tool in tools:
        found.append(f'invoke name="{tool.name}">\n<')
        for name, schema in tool.parameters.get("properties", {}).items():
            is_string = "true" if schema.get("type") == "string" else "false"
            found.append(f'parameter name="{name}" string="{is_string}">')
    return list(dict.fromkeys(found))
