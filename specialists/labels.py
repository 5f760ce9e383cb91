"""A judge's labels as they are written: the lines of a JSONL file, or a generator's; and the styles of their judgements.

A label is a mapping (see `rewards.labels.label_from`). Among it may be written judgements for SFT to imitate:
`judgements: [{style, reasoning, verdict}]`. What becomes of them is in `specialists/judging.py`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from rewards.errors import UserError
from rewards.task import Demonstration
from rl.judge_config import JudgeTrainConfig
from specialists import writing

# Label generators by name: `generate(rng, **options)` gives a mapping like a line of a labels file.
LABELS: Mapping[str, Callable[..., Mapping[str, object]]] = {"writing": writing.label}
NUM_LOOKED_AT = 50  # labels of a generator, for the styles of their judgements


def label_styles(train: JudgeTrainConfig) -> set[str]:
    """The styles of the written judgements among the labels; of a generator, those of its first labels."""
    rows = generated_rows(train, 0) if train.labels in LABELS else file_rows(train)
    found = set[str]()
    for number, (_, row) in enumerate(rows):
        if train.labels in LABELS and number == NUM_LOOKED_AT:
            break
        judgements = row.get("judgements")
        for one in judgements if isinstance(judgements, list) else ():
            found.add(style_of(one) if isinstance(one, Mapping) else Demonstration.style)
    return found


def style_of(judgement: Mapping[str, object]) -> str:
    return str(judgement.get("style") or Demonstration.style)


def file_rows(train: JudgeTrainConfig) -> Iterator[tuple[str, Mapping[str, object]]]:
    path = Path(train.labels).expanduser()
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        known = f", or a generator of labels ({', '.join(LABELS)})" if LABELS else ""
        why = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"judge.train.labels: cannot read {train.labels!r}: {why}; allowed: a .jsonl file{known}") from None
    for number, line in enumerate(lines, start=1):
        where = f"{path}:{number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{where}: not JSON: {error}; allowed: one label a line") from None
        if not isinstance(row, Mapping):
            raise UserError(f"{where}: got {row!r:.80}; allowed: a mapping with prompt, response and label")
        yield where, row


def generated_rows(train: JudgeTrainConfig, seed: int) -> Iterator[tuple[str, Mapping[str, object]]]:
    index = 0
    while True:
        rng = random.Random(f"{seed}/labels/{train.labels}/{index}")
        try:
            yield f"label {index} of {train.labels}", LABELS[train.labels](rng, **train.options)
        except (TypeError, ValueError) as error:
            raise UserError(f"judge.train.options: {train.labels}: {error}") from error
        index += 1
