"""The benchmark's reward: cheap, and different for nearly every completion, so that every group carries a signal."""


def score(completion: str) -> float:
    return sum(map(ord, completion)) % 101 / 100
