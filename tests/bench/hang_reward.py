"""The reward of `tests/bench/hanging_rewards.py`: a millisecond or two of work, or one of three ways to never come back."""

import re
import time


def score(completion: str) -> float:
    if completion == "sleep":
        time.sleep(100_000)
    if completion == "spin":
        while True:
            pass
    if completion == "regex":  # in C code that holds the interpreter and sees no signal
        re.match("(a+)+$", "a" * 60 + "b")
    return float(sum(i * i for i in range(25_000)) % 7)
