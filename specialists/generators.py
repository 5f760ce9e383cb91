"""Task generators by name: our own, and every generator of the reasoning-gym package (an extra).

A generator gets a random stream of its own for each index, so that task i is the same whoever asks and in whatever order.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rewards.errors import UserError
from rewards.task import Message, Role, Task
from specialists import arithmetic, errands, following, programs, totals, writing
from specialists.config import SourceConfig
from specialists.example import Example

GENERATORS: Mapping[str, Callable[..., Example]] = {
    "arithmetic": arithmetic.generate,
    "programs": programs.generate,
    "following": following.generate,
    "writing": writing.generate,
    "errands": errands.generate,
    "totals": totals.generate,
}
REASONING_GYM = "reasoning_gym/"


def stream(source: SourceConfig, seed: int) -> Iterator[Example]:
    """An endless stream of examples of one source. Bad options are the user's error, named."""
    name = source.generator
    assert name is not None, "only generators stream"
    if name.startswith(REASONING_GYM):
        yield from _reasoning_gym(name.removeprefix(REASONING_GYM), source.options, seed)
        return
    index = 0
    while True:
        rng = random.Random(f"{seed}/{name}/{index}")
        try:
            yield GENERATORS[name](rng, **source.options)
        except (TypeError, ValueError) as error:
            raise UserError(f"data.sources: options of generator {name!r}: {error}") from error
        index += 1


def _reasoning_gym(name: str, options: Mapping[str, Any], seed: int) -> Iterator[Example]:
    """Tasks of one reasoning-gym generator; `data` keeps its entry, which `specialists.gym:score` needs for scoring."""
    try:
        import reasoning_gym
    except ImportError:
        raise UserError(
            f"data.sources: generator reasoning_gym/{name} needs the reasoning-gym package, which is not installed; add it "
            "with `make env-reasoning-gym` (one of its dependencies is compiled: it needs a C compiler)"
        ) from None
    size, block = 1024, 0
    while True:
        try:  # an entry's seed is the data set's plus its index: blocks that start closer than `size` would repeat each other
            dataset = reasoning_gym.create_dataset(name, seed=seed * 1_000_000_007 + block * size, size=size, **options)
        except (ValueError, TypeError, AssertionError) as error:
            raise UserError(f"data.sources: generator reasoning_gym/{name}: {error}") from error
        for i, entry in enumerate(dataset):
            yield Example(
                Task(
                    id=f"{name}/{block * size + i}",
                    domain="math",
                    messages=(Message(Role.USER, entry["question"]),),
                    answer=None if entry["answer"] is None else str(entry["answer"]),  # None: many are right
                    kind=name,
                    data={"reasoning_gym": name, "entry": entry},
                )
            )
        block += 1
