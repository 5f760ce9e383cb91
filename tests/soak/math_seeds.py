"""Five seeds of `recipes/math.yaml`, each with its control, run as tests/soak/specialists.py does: in files of its own.

Resumable: a seed that is in docs/results/math_seeds/ already is not run again. Run by `make soak`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.soak.specialists import EXPLAINED, RESULTS, SEEDS, read, run_missing, table

FOLDER = RESULTS.with_name("math_seeds")


def main() -> None:
    """Runs the seeds named on the command line (default: all) that have no result yet, then writes the table."""
    run_missing("math", [int(word) for word in sys.argv[1:]] or SEEDS, FOLDER)
    FOLDER.with_suffix(".md").write_text(report(FOLDER))
    print(report(FOLDER))


def report(folder: Path) -> str:
    return "\n".join(["# `recipes/math.yaml`, five seeds", "", *EXPLAINED, "", *table(read(folder)), ""])


if __name__ == "__main__":
    main()
