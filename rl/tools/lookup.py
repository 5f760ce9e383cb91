"""The tool `lookup`: searches a local corpus by words, ranked by BM25 (Robertson and Zaragoza 2009, k1 1.2, b 0.75).

The corpus is read where the recipe is and travels with it, as users' functions do: workers on other nodes need no files.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewards.errors import UserError
from rewards.task import Task, ToolSpec
from rl.tools.config import ToolConfig
from rl.tools.tool import Run, Tool, ToolError
from sandbox.box import Box

MAX_BYTES = 64 << 20  # of a corpus
TOP_K = 3
_K1, _B = 1.2, 0.75
_WORD = re.compile(r"\w+")

SPEC = ToolSpec(
    "lookup",
    "Searches a collection of texts by words and shows the best matches.",
    {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
)


@dataclass(frozen=True)
class Document:
    title: str
    text: str


def read_corpus(folder_or_file: Path) -> tuple[Document, ...]:
    """The texts below a folder, titled by their paths; or the lines of a .jsonl, each with `text` and, if wanted, `title`.

    Raises:
        UserError: there are none, a line is something else, or they are too large.
    """
    documents, left = list[Document](), MAX_BYTES
    for document in _files(folder_or_file) if folder_or_file.is_dir() else _lines(folder_or_file):
        left -= len(document.text.encode()) + len(document.title.encode())
        if left < 0:
            raise UserError(
                f"tool 'lookup': {folder_or_file} has more than {MAX_BYTES >> 20} MiB; serve it by an MCP server instead"
            )
        documents.append(document)
    if not documents:
        raise UserError(f"tool 'lookup': {folder_or_file} has no texts")
    return tuple(documents)


class Lookup(Tool):
    """Keeps no state: one run serves all."""

    def __init__(self, config: ToolConfig, documents: Sequence[Document]) -> None:
        super().__init__(SPEC, config)
        self._index = Index(documents)
        self._top_k = config.options.get("top_k", TOP_K)

    def begin(self, task: Task) -> Run:
        return self._run

    async def _run(self, arguments: Mapping[str, Any], box: Box | None) -> str:
        found = self._index.best(arguments["query"], self._top_k)
        if not found:
            raise ToolError("nothing found; try other words")
        room = max(100, self.max_chars // len(found) - 50)
        return "\n\n".join(f"{f'[{one.title}]' if one.title else ''}\n{_shortened(one.text, room)}".strip() for one in found)


class Index:
    """Words to the documents that have them.

    >>> index = Index([Document("tea", "Tea costs 3."), Document("milk", "Milk costs 2.")])
    >>> [document.title for document in index.best("What does MILK cost?", 1)]
    ['milk']
    """

    def __init__(self, documents: Sequence[Document]) -> None:
        self._documents = documents
        self._lengths = list[int]()
        self._places: dict[str, list[tuple[int, int]]] = defaultdict(list)  # document and count, by word
        for place, document in enumerate(documents):
            counts = Counter(words(f"{document.title} {document.text}"))
            self._lengths.append(counts.total())
            for word, count in counts.items():
                self._places[word].append((place, count))
        self._mean_length = sum(self._lengths) / max(1, len(documents)) or 1.0

    def best(self, query: str, count: int) -> list[Document]:
        """The best matches, best first; of equals the first in the corpus. None without a word of the query."""
        scores: dict[int, float] = defaultdict(float)
        for word in dict.fromkeys(words(query)):
            places = self._places.get(word, ())
            weight = math.log(1 + (len(self._documents) - len(places) + 0.5) / (len(places) + 0.5))
            for place, times in places:
                long = 1 - _B + _B * self._lengths[place] / self._mean_length
                scores[place] += weight * times * (_K1 + 1) / (times + _K1 * long)
        ranked = sorted(scores, key=lambda place: (-scores[place], place))
        return [self._documents[place] for place in ranked[:count]]


def words(text: str) -> list[str]:
    """In small letters, without a plural's s, so that `prices` finds `price`.

    >>> words("Prices of the glass-blowers")
    ['price', 'of', 'the', 'glass', 'blower']
    """
    found = _WORD.findall(text.casefold())
    return [word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word for word in found]


def _shortened(text: str, room: int) -> str:
    return text if len(text) <= room else f"{text[:room]}... [{len(text) - room} characters left out]"


def _files(folder: Path) -> Iterator[Document]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            try:
                yield Document(str(path.relative_to(folder)), path.read_text(encoding="utf-8"))
            except (OSError, UnicodeDecodeError) as error:
                raise UserError(f"tool 'lookup': cannot read {path} as text: {error}") from error


def _lines(path: Path) -> Iterator[Document]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"tool 'lookup': cannot read {path}: {error}") from error
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise UserError(f"tool 'lookup': {path}, line {number}: no JSON: {error}") from None
        title, text = (entry.get("title", ""), entry.get("text")) if isinstance(entry, dict) else ("", None)
        if not isinstance(title, str) or not isinstance(text, str):
            raise UserError(f"tool 'lookup': {path}, line {number}: got {line:.100}; it needs `text`, and may have `title`")
        yield Document(title, text)
