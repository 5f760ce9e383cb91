"""What is measured of rollouts with tools: how they think, what they call, what it costs. Plain numbers by name."""

from __future__ import annotations

from collections.abc import Sequence

from rl.trajectory import FinishReason, Trajectory, Turn

BOUNDS = (FinishReason.TURNS, FinishReason.TOKENS, FinishReason.TOOL_TIME, FinishReason.TIME, FinishReason.CONTEXT)


def agent_figures(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Over these rollouts; empty where none of them called a tool or tried to.

    `reasoning_kept_share`: of the turns that called a tool and were followed by another, those that thought and whose thinking
    the engine still had when the rollout ended, as it was sampled; only rollouts that were compared with it count.
    `compared_token_share`: of all tokens those that the engine handed back in the end, as they stand in the record; one that
    differs, as a re-tokenised one would, ends the run (rl/conversation.py).
    """
    turns = [turn for t in trajectories for turn in t.turns]
    calling = [turn for turn in turns if turn.num_calls or turn.call_error is not None]
    if not calling:
        return {}
    followed = [(t, turn) for t in trajectories if t.num_compared for turn in t.turns[:-1] if turn.num_calls]
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
        "tool_retries_mean": sum(turn.num_tool_retries for turn in turns) / len(trajectories),
        "redone_share": sum(t.rollout_id.attempt > 0 for t in trajectories) / len(trajectories),
        "failed_share": sum(t.failure is not None for t in trajectories) / len(trajectories),
    }
    if followed:
        found["reasoning_kept_share"] = sum(_is_kept(*pair) for pair in followed) / len(followed)
    for reason in BOUNDS:
        found[f"ended_by_{reason.value}_share"] = sum(t.finish_reason is reason for t in trajectories) / len(trajectories)
    return found


def _is_kept(trajectory: Trajectory, turn: Turn) -> bool:
    """Whether there was thinking, beside the token that ends it, among the tokens that the engine handed back."""
    return turn.num_reasoning > 1 and turn.start + turn.num_reasoning <= trajectory.num_compared
