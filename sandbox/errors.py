"""What can go wrong with a box. None of these says anything about the program that ran in it, so none may become a reward.

SandboxError
├── UnsupportedError       this layer cannot do that; said before anything runs
├── BoxUnavailableError    no box could be had or reached; nothing ran
└── BoxLostError           the box ended while a command ran; what it did by then is unknown
"""

from __future__ import annotations


class SandboxError(Exception):
    """The root of the tree above."""


class UnsupportedError(SandboxError, ValueError):
    """The layer, or this machine, cannot do what was asked; the text says what can."""


class BoxUnavailableError(SandboxError):
    """No box could be had, or it could not be reached: the command did not run and may be tried again in another."""


class BoxLostError(SandboxError):
    """The box ended, or stopped answering, while a command was running: whether it finished is unknown."""
