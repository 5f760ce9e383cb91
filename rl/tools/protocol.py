"""What a call of a tool comes to: a result for the model, or a failure that the model never sees.

`rl/tools/tools.py` has the tools of a rollout worker, `rl/tools/session.py` those of one trajectory; `rl/rollout.py` uses both.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ToolOutcome:
    """What the model is shown of a call. Whatever the model did wrong is an outcome too.

    >>> ToolOutcome("no tool 'pyton'; did you mean 'python'?", is_error=True, wall_s=0.0).is_error
    True
    """

    text: str
    is_error: bool  # wrong arguments, a command that failed, a function that raised, what took too long
    wall_s: float  # that the tool took, without what it waited for a box or for an earlier call
    waited_s: float = 0.0  # what it waited
    num_retries: int = 0  # times that it was made again since something of ours had failed


class ToolUnavailableError(Exception):
    """A tool could not be used, through no fault of the model: a box or a server was lost, and with it what a retry would need.

    The whole rollout is to be done again, or left out; the text is for people, never for the model.
    """
