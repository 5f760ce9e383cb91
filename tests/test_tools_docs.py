"""The examples of docs/tools.md, run as they stand there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import yaml
from pydantic import TypeAdapter

from rl.tools.config import ToolConfig
from rl.tools.source import read_sources

ROOT = Path(__file__).resolve().parents[1]
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", (ROOT / "docs/tools.md").read_text(), re.MULTILINE | re.DOTALL)


def blocks(kind: str) -> list[str]:
    return [text for found, text in BLOCKS if found == kind]


def test_the_recipe_s_entries_are_read(tmp_path: Path) -> None:
    (tmp_path / "my_tools.py").write_text(blocks("python")[0])
    (tmp_path / "prices.jsonl").write_text('{"title": "tea", "text": "Tea costs 3."}\n')
    configs = TypeAdapter(list[ToolConfig]).validate_python(yaml.safe_load(blocks("yaml")[0])["tools"])
    sources = read_sources(configs, [tmp_path])
    assert len(sources) == 8
    assert sources[4].documents[0].text == "Tea costs 3."
    assert sources[6].text == blocks("python")[0]
    assert sources[7].config.mcp is not None


def test_the_program_prints_what_is_said(tmp_path: Path) -> None:
    mine, program = blocks("python")
    (tmp_path / "my_tools.py").write_text(mine)
    env = {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stdout == blocks("text")[0], done.stderr
