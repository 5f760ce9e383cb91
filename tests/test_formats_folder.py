"""Encoders that model folders ship: used when trusted, and written like any other format."""

from __future__ import annotations

import importlib.util
import random
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings

from rewards.errors import UserError
from rewards.task import Effort, Message, Role, ToolCall, ToolSpec
from rl.formats.check import check_prefix
from rl.formats.folder import FolderFormat
from rl.formats.protocol import ThinkingMode
from rl.formats.v4 import V4Format
from rl.formats.wording import Wording
from tests.conftest import NEEDS_VLLM
from tests.conversations import conversation, cut_at_answers, draws, tools

ENCODER = """
def encode_messages(messages, thinking_mode, **ignored):
    text = "<s>"
    for m in messages:
        if m["role"] == "system" and m.get("tools"):
            text += "|".join(t["function"]["name"] for t in m["tools"]) + "|"
        if m["role"] == "assistant":
            text += "A:" + ("" if thinking_mode == "chat" else (m.get("reasoning") or "") + "</think>") + m["content"]
            for c in m.get("tool_calls", []):
                text += "\\n<tool_call>\\n{\\"name\\": \\"%s\\", \\"arguments\\": %s}\\n</tool_call>" % (
                    c["function"]["name"], c["function"]["arguments"])
            text += "<end>"
        else:
            text += m["role"][0].upper() + ":" + m["content"] + ";"
    return text if messages[-1]["role"] == "assistant" else text + "A:" + ("<think>" if thinking_mode == "thinking" else "")
"""
ASKED = [Message(Role.SYSTEM, "S"), Message(Role.USER, "2+3")]
CALLED = Message(Role.ASSISTANT, "Adding.", "hm", (ToolCall("add", {"a": 2}, "x"),))


def folder(path: Path, code: str, name: str = "encoding_x.py") -> Path:
    (path / "encoding").mkdir(exist_ok=True)
    (path / "encoding" / name).write_text(code)
    return path


def vllms(path: Path) -> Path:
    """A folder with vLLM's encoder, which is made like the releases'."""
    spec = importlib.util.find_spec("vllm")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    (path / "encoding").mkdir(parents=True)
    source = Path(spec.submodule_search_locations[0]) / "tokenizers" / "deepseek_v4_encoding.py"
    shutil.copy(source, path / "encoding" / "encoding_dsv4.py")
    return path


def test_a_small_encoder(tmp_path: Path) -> None:
    # a thought that the prompt opens must be there in what follows, so this one writes no `<think>` into answers
    code = ENCODER.replace('"A:" + (""', '"A:" + ("" if thinking_mode == "chat" else "<think>") + (""')
    format_ = FolderFormat(folder(tmp_path, code), trust_remote_code=True)
    add = ToolSpec("add", "Adds.", {"type": "object"})
    assert format_.prompt(ASKED, [add], Effort.HIGH) == "<s>add|S:S;U:2+3;A:<think>"
    assert format_.prompt(ASKED, [], Effort.NONE) == "<s>S:S;U:2+3;A:"
    text = 'hm</think>Adding.\n<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call>'
    assert format_.turn(CALLED, Effort.HIGH) == text + "<end>"
    assert format_.end == "<end>"
    assert format_.read(text, Effort.HIGH).message.tool_calls == (ToolCall("add", {"a": 2}),)
    assert format_.results(CALLED, [Message(Role.TOOL, "5", tool_call_id="x")], Effort.HIGH) == "T:5;A:<think>"
    check_prefix(
        lambda mode: FolderFormat(tmp_path, trust_remote_code=True, thinking=mode), ThinkingMode.INTERLEAVED, [Effort.HIGH]
    )
    with pytest.raises(UserError, match=r"effort: got 40 with the encoder .*; allowed: none, high, max"):
        format_.prompt(ASKED, [], 40)
    with pytest.raises(UserError, match=r"effort: got max with the encoder .*, which has none; allowed: none, high"):
        format_.prompt(ASKED, [], Effort.MAX)


MISTAKES = {
    "none": ({}, r"got none as encoders; allowed: a folder with one encoding/encoding_NAME.py"),
    "two": ({"encoding_a.py": ENCODER, "encoding_b.py": ENCODER}, "got encoding_a.py, encoding_b.py as encoders"),
    "no Python": ({"encoding_x.py": "def"}, r"cannot be loaded: SyntaxError"),
    "raises": ({"encoding_x.py": "1/0"}, r"cannot be loaded: ZeroDivisionError"),
    "no function": ({"encoding_x.py": "encode_messages = 5"}, "has no function encode_messages"),
    "another function": ({"encoding_x.py": "def encode_messages(messages): ..."}, "its encode_messages takes no thinking_mode"),
    "refuses": (
        {"encoding_x.py": "def encode_messages(messages, thinking_mode): raise KeyError('x')"},
        r"refuses a conversation of the roles user, assistant: KeyError\('x'\)",
    ),
    "no end": (
        {"encoding_x.py": "def encode_messages(messages, thinking_mode): return messages[-1]['content']"},
        "writes nothing behind an answer",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_cannot_be_used_is_named(name: str, tmp_path: Path) -> None:
    files, problem = MISTAKES[name]
    for file, code in files.items():
        folder(tmp_path, code, file)
    with pytest.raises(UserError, match=problem):
        FolderFormat(tmp_path, trust_remote_code=True)


def test_code_of_a_folder_runs_only_where_it_is_trusted(tmp_path: Path) -> None:
    folder(tmp_path, f"open({str(tmp_path / 'ran')!r}, 'w')\n{ENCODER}")
    with pytest.raises(UserError, match=r"model.trust_remote_code: got false; the encoder .*; allowed: true"):
        FolderFormat(tmp_path, trust_remote_code=False)
    assert not (tmp_path / "ran").exists()


@NEEDS_VLLM
def test_vllms_file_as_a_folders_encoder(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = vllms(tmp_path_factory.mktemp("model"))
    format_ = FolderFormat(path, trust_remote_code=True)
    bare = V4Format(Wording("{schemas}", "", "{effort}"))
    assert (format_.end, format_.syntax and format_.syntax.name) == (bare.end, "dsml")
    for mode in (ThinkingMode.INTERLEAVED, ThinkingMode.OFF):
        check_prefix(lambda m: FolderFormat(path, trust_remote_code=True, thinking=m), mode, list(Effort))

    @settings(max_examples=60)
    @given(draws)
    def grows(draw: random.Random) -> None:
        messages, specs, effort = conversation(draw), tools(draw), draw.choice([Effort.HIGH, Effort.MAX])
        for before, said, after in cut_at_answers(messages):
            assert format_.turn(said, effort) == bare.turn(said, effort)
            assert format_.results(said, after, effort) == bare.results(said, after, effort)
            if specs:
                grown = (
                    format_.prompt(before, specs, effort) + format_.turn(said, effort) + format_.results(said, after, effort)
                )
                assert format_.prompt([*before, said, *after], specs, effort) == grown

    grows()
