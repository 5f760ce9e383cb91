"""What is measured of rollouts with tools: how they think, what they call, what it costs. Plain numbers by name."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from rl.trajectory import FinishReason, Trajectory, Turn

BOUNDS = (FinishReason.TURNS, FinishReason.TOKENS, FinishReason.TOOL_TIME, FinishReason.TIME, FinishReason.CONTEXT)


def agent_figures(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Over these rollouts; empty where none of them called a tool or tried to.

    `reasoning_kept_share`: of the turns that called a tool and were followed by another, those that thought and whose thinking
    that next turn could still see. `compared_token_share`: of all tokens those that the engine handed back in the end,
    as they stand in the record; one that differs, as a re-tokenised one would, ends the run (rl/conversation.py).
    """
    turns = [turn for t in trajectories for turn in t.turns]
    calling = [turn for turn in turns if turn.num_calls or turn.call_error is not None]
    if not calling:
        return {}
    pairs = [(t, a, b) for t in trajectories for a, b in pairwise(t.turns)]
    followed = [(t, a, b) for t, a, b in pairs if a.num_calls]
    num_calls = sum(turn.num_calls for turn in turns)
    found = {
        "turns_mean": len(turns) / len(trajectories),
        "calls_mean": num_calls / len(trajectories),
        "reasoning_tokens_per_turn": sum(turn.num_reasoning for turn in turns) / len(turns),
        "malformed_call_share": sum(turn.call_error is not None for turn in calling) / len(calling),
        "tool_error_share": sum(turn.num_tool_errors for turn in turns) / max(1, num_calls),
        "tool_s_mean": sum(turn.tool_s for turn in turns) / len(trajectories),
        "no_call_share": sum(not any(turn.num_calls for turn in t.turns) for t in trajectories) / len(trajectories),
        "compared_token_share": sum(t.num_compared for t in trajectories) / sum(len(t.token_ids) for t in trajectories),
        "failed_share": sum(t.failure is not None for t in trajectories) / len(trajectories),
    }
    if followed:
        found["reasoning_kept_share"] = sum(_is_kept(*pair) for pair in followed) / len(followed)
    for reason in BOUNDS:
        found[f"ended_by_{reason.value}_share"] = sum(t.finish_reason is reason for t in trajectories) / len(trajectories)
    return found


def _is_kept(trajectory: Trajectory, turn: Turn, following: Turn) -> bool:
    """Whether a turn's thinking, as it was sampled, stands before the next turn."""
    if turn.num_reasoning < 2:  # the token that ends the thinking, at most
        return False
    return bool(trajectory.loss_mask[turn.start : turn.start + turn.num_reasoning].all()) and turn.end <= following.start
