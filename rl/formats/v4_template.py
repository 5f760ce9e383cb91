"""DeepSeek-V4's format as a Jinja chat template, which is saved with a tokenizer: others then write what `V4Format` writes.

Results of tools are taken in the order of the calls, arguments as mappings, as transformers and vLLM hand them to templates.
"""

from __future__ import annotations

import json
import re

from rewards.transcript import END_THINK, THINK
from rl.formats.dsml import CLOSE_BLOCK, CLOSE_CALL, CLOSE_PARAMETER, MARK, OPEN_BLOCK
from rl.formats.v4 import ASSISTANT, BETWEEN, BOS, CLOSE_RESULT, EOS, OPEN_RESULT, USER
from rl.formats.wording import Wording, load_wording


def chat_template(wording: Wording | None = None) -> str:
    """The template with this wording in it.

    Beside `messages`, `tools` and `add_generation_prompt` it reads `enable_thinking` (true where not given) and
    `reasoning_effort`: "none", "max", or a number from 1 to 100; any other is high.
    """
    wording = wording or load_wording()
    placeholder = "{names}" if "{names}" in wording.tools else "{schemas}"
    before, after = wording.tools.split(placeholder)
    lower, upper = wording.scalar.split("{effort}")
    texts = {
        "BOS": BOS, "EOS": EOS, "USER": USER, "ASSISTANT": ASSISTANT, "THINK": THINK, "END_THINK": END_THINK,
        "BETWEEN": BETWEEN, "OPEN_RESULT": OPEN_RESULT, "CLOSE_RESULT": CLOSE_RESULT,
        "BLOCK": f"{BETWEEN}{OPEN_BLOCK}\n", "CLOSE_BLOCK": CLOSE_BLOCK,
        "CALL": f'<{MARK}invoke name="', "OPENED": '">\n', "CLOSE_CALL": f"\n{CLOSE_CALL}\n",
        "PARAMETER": f'<{MARK}parameter name="', "STRING": '" string="true">', "JSON": '" string="false">',
        "CLOSE_PARAMETER": CLOSE_PARAMETER, "LINE": "\n",
        "BEFORE_TOOLS": before, "AFTER_TOOLS": after, "MAX": wording.max, "BEFORE_EFFORT": lower, "AFTER_EFFORT": upper,
        "TOOL_BREAK": ", " if placeholder == "{names}" else "\n",
    }  # fmt: skip
    template = _TEMPLATE.replace("%TOOL%", "schema.name" if placeholder == "{names}" else "schema | tojson")
    return re.sub(r"@([A-Z_]+)@", lambda found: json.dumps(texts[found.group(1)], ensure_ascii=False), template)


_TEMPLATE = """
{%- set thinks = (enable_thinking is not defined or enable_thinking) and reasoning_effort | default('') != 'none' -%}
{%- set has_tools = tools is defined and tools -%}
{%- set seen = namespace(question=-1) -%}
{%- for m in messages -%}
    {%- if not has_tools and m.role in ['user', 'tool'] -%}{%- set seen.question = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- macro tool_section() -%}
    {{- @BEFORE_TOOLS@ -}}
    {%- for tool in tools -%}
        {%- set schema = tool.function if tool.function is defined else tool -%}
        {{- @TOOL_BREAK@ if not loop.first -}}{{- %TOOL% -}}
    {%- endfor -%}
    {{- @AFTER_TOOLS@ -}}
{%- endmacro -%}
{%- macro call_block(calls) -%}
    {{- @BLOCK@ -}}
    {%- for item in calls -%}
        {%- set call = item.function if item.function is defined else item -%}
        {%- if call.arguments is not mapping -%}{{- raise_exception('tool calls need arguments as a mapping') -}}{%- endif -%}
        {{- @CALL@ + call.name + @OPENED@ -}}
        {%- for name, value in call.arguments | items -%}
            {{- @LINE@ if not loop.first -}}
            {{- @PARAMETER@ + name + (@STRING@ + value if value is string else @JSON@ + value | tojson) + @CLOSE_PARAMETER@ -}}
        {%- endfor -%}
        {{- @CLOSE_CALL@ -}}
    {%- endfor -%}
    {{- @CLOSE_BLOCK@ -}}
{%- endmacro -%}
{{- @BOS@ -}}
{%- if thinks and reasoning_effort is defined -%}
    {%- if reasoning_effort == 'max' -%}{{- @MAX@ -}}
    {%- elif reasoning_effort is integer -%}{{- @BEFORE_EFFORT@ ~ reasoning_effort ~ @AFTER_EFFORT@ -}}{%- endif -%}
{%- endif -%}
{%- if has_tools and (not messages or messages[0].role in ['user', 'assistant', 'tool']) -%}{{- tool_section() -}}{%- endif -%}
{%- for m in messages -%}
    {%- set content = m.content if m.content is string else '' -%}
    {%- if m.role in ['user', 'tool'] -%}
        {{- @BETWEEN@ if loop.previtem is defined and loop.previtem.role in ['user', 'tool'] else @USER@ -}}
        {{- @OPEN_RESULT@ + content + @CLOSE_RESULT@ if m.role == 'tool' else content -}}
    {%- elif m.role == 'assistant' -%}
        {{- @ASSISTANT@ -}}
        {%- if thinks and loop.index0 > seen.question -%}
            {{- @THINK@ + (m.reasoning_content or m.reasoning or '') -}}
        {%- endif -%}
        {{- @END_THINK@ + content -}}
        {%- if m.tool_calls -%}{{- call_block(m.tool_calls) -}}{%- endif -%}
        {{- @EOS@ -}}
    {%- else -%}
        {{- content -}}
        {%- if has_tools and loop.first -%}{{- @BETWEEN@ + tool_section() -}}{%- endif -%}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- @ASSISTANT@ + (@THINK@ if thinks else @END_THINK@) -}}{%- endif -%}
""".strip()
