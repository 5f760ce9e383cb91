"""Settings of a specialist's data and of its supervised stages; no torch here (see rl/config.py)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from rl.config import FORBID_EXTRA, CountInt, OptimizerConfig, PositiveFloat, PositiveInt, Share


@dataclass(frozen=True, kw_only=True)
class ColumnsConfig:
    """Which columns of a data set hold what. Either `prompt` (text) or `messages` (a list of role and content)."""

    __pydantic_config__ = FORBID_EXTRA
    prompt: str = "prompt"
    instruction: str | None = None  # text of the recipe's own, put below every prompt ("Put the answer in \boxed{}.")
    examples: str | None = None  # a list of tests, the first of which is put below the prompt: it shows how to name a function
    messages: str | None = None
    answer: str = "answer"
    # Where the answer's cell is a worked solution: its answer is what follows the last of these ("####"). After one that
    # ends in a brace ('\boxed{') it is what stands until that brace closes.
    answer_after: str | None = None
    response: str | None = None  # a worked answer to imitate; needed by SFT
    reasoning: str | None = None  # the thinking that precedes `response`
    kind: str | None = None
    data: Mapping[str, str] = field(default_factory=dict)  # for rewards that read other names: {asserts: test_list}

    def left(self, columns: Iterable[str]) -> list[str]:
        """Of a data set's columns those that have no place above: a task's data has them under their own names."""
        placed = (self.prompt, self.messages, self.response, self.reasoning, *self.data.values())
        return [name for name in columns if name not in placed]


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """One source of tasks: a `generator` or a `dataset`."""

    __pydantic_config__ = FORBID_EXTRA
    generator: str | None = None  # "arithmetic", "programs", or "reasoning_gym/NAME" for any generator of that package
    options: Mapping[str, Any] = field(default_factory=dict)  # the generator's own settings
    dataset: str | None = None  # hub id, a local folder, a .jsonl or a .parquet file
    subset: str | None = None  # a hub data set's configuration name
    split: str = "train"
    eval_split: str | None = None  # tasks of this split are held out as they are; null: split by content hash
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    weight: PositiveFloat = 1.0  # share of this source among the sources, before normalising
    only: Literal["train", "held_out"] | None = None  # null: tasks for both sides


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Tasks to train on and tasks held out; the two never overlap (they are split by content hash)."""

    __pydantic_config__ = FORBID_EXTRA
    sources: tuple[SourceConfig, ...]
    num_train: PositiveInt | None = None  # at most; null: all tasks of data sets, 4000 in all from generators
    num_eval: PositiveInt = 300
    held_out_share: Share = 0.1  # of the space of tasks


@dataclass(frozen=True, kw_only=True)
class SftConfig:
    """One supervised stage, on the demonstrations of the training tasks."""

    __pydantic_config__ = FORBID_EXTRA
    kind: Literal["sft"]
    name: str = "sft"
    steps: PositiveInt = 100
    batch_size: PositiveInt = 32
    mixture: Mapping[str, PositiveFloat] = field(default_factory=dict)  # share of each style; empty: the data as it is
    max_length: PositiveInt = 1024  # tokens; a longer demonstration is an error, never cut
    optimizer: OptimizerConfig | None = None  # what differs from the recipe's; null: nothing does
    save_every: CountInt = 200  # steps between checkpoints to resume from; 0: only at the end
    evaluate: bool = True  # held-out accuracy after this stage
