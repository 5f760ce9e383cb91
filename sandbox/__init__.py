"""Boxes in which a model's actions run. Empty until the sandbox layers are built."""
