"""Attempts to get out of a box, each a small program with a control: outside a box the same program succeeds.

`tests/test_containment.py` runs all of them on every layer; `python -m tests.containment --write` writes
docs/results/containment.md. They show that known ways are closed on this kernel, and nothing of holes in the kernel itself.
"""
