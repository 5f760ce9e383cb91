"""The record of a rollout in token ids: who it is, its turns, and per token what training needs.

Built by `rl/rollout.py`, scored as text by rewards, turned into training samples by `rl/batch.py`. Plain numpy, so that a
trajectory crosses process borders without copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from rewards.box_state import BoxState
from rewards.judge import Judgement
from rewards.result import RewardResult, ScoreStatus
from rewards.task import Message, Task
from rewards.transcript import Transcript, parse_completion
from rl.rng import key_of


class FinishReason(StrEnum):
    STOP = "stop"  # an end-of-turn token or a stop string
    LENGTH = "length"  # max_tokens of the turn
    CONTEXT = "context"  # the engine's max_seq_len, or the effort's window
    ABORTED = "aborted"  # the caller asked
    TURNS = "turns"  # rollout.max_turns, with a tool call that was not made any more
    TOKENS = "tokens"  # rollout.max_tokens of all turns together
    TOOL_TIME = "tool_time"  # rollout.tool_time_s
    TIME = "time"  # rollout.total_time_s


@dataclass(frozen=True)
class RolloutId:
    """Names one rollout by what it is, never by when or where it ran; all its random numbers hang on this.

    >>> RolloutId(0, "ab12", 3).key == RolloutId(0, "ab12", 3, attempt=0).key
    True
    """

    epoch: int  # pass over the training tasks
    task_hash: str
    sample_index: int  # place inside the group
    attempt: int = 0  # counts up when a lost rollout is done again from the start

    @property
    def key(self) -> int:
        return key_of(self.epoch, self.task_hash, self.sample_index, self.attempt)

    def __str__(self) -> str:
        return f"{self.epoch}-{self.task_hash[:12]}-{self.sample_index}-{self.attempt}"


@dataclass(frozen=True)
class SamplingMask:
    """Which tokens top-p and top-k left to be sampled, at each sampled position: a ragged list of token ids.

    Position t kept `ids[offsets[t]:offsets[t + 1]]`. GRPO applies it again in training ("keep sampling mask").
    """

    ids: NDArray[np.int32]
    offsets: NDArray[np.int64]

    @classmethod
    def from_rows(cls, rows: Sequence[NDArray[np.int32]]) -> SamplingMask:
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([len(r) for r in rows], out=offsets[1:])
        return cls(np.concatenate(rows).astype(np.int32) if rows else np.zeros(0, np.int32), offsets)

    def row(self, t: int) -> NDArray[np.int32]:
        return self.ids[self.offsets[t] : self.offsets[t + 1]]

    def rows(self) -> list[NDArray[np.int32]]:
        return [self.row(t) for t in range(len(self.offsets) - 1)]


@dataclass(frozen=True)
class Turn:
    """One uninterrupted stretch of sampled tokens, [start, end) in the trajectory's token ids.

    >>> Turn(10, 50, FinishReason.STOP, num_reasoning=30, num_calls=1).finish_reason
    <FinishReason.STOP: 'stop'>
    """

    start: int
    end: int
    finish_reason: FinishReason
    num_reasoning: int = 0  # of its tokens those up to the end of the thinking
    num_calls: int = 0  # tools that it called
    call_error: str | None = None  # the kind of mistake where what it wrote was no well-formed call
    num_tool_errors: int = 0  # calls that came to an error that the model was shown
    num_tool_retries: int = 0  # of its calls, since something of ours had failed
    tool_s: float = 0.0  # that its calls took, all together


@dataclass(frozen=True)
class BoxRef:
    """Where a trajectory left its sandbox box: enough to find it again and to replay its commands."""

    box_id: str
    last_command_seq: int


@dataclass(frozen=True)
class Trajectory:
    """One rollout. Arrays have one entry a token, prompt included: T = len(token_ids).

    Prompt tokens and forced tokens (tool results) have loss_mask False, sampler_logprobs 0 and policy_version -1.
    `sampling_mask` has one row for each token with loss_mask True, where top-p or top-k cut; None where nothing was cut.
    """

    rollout_id: RolloutId
    task: Task
    token_ids: NDArray[np.int32]  # [T]
    loss_mask: NDArray[np.bool_]  # [T]
    sampler_logprobs: NDArray[np.float32]  # [T]
    policy_version: NDArray[np.int32]  # [T]
    turns: tuple[Turn, ...]
    completion: str  # all sampled text, turn after turn, thinking tags included
    messages: tuple[Message, ...] = ()  # after the task's own: what the model said, and between its turns the tools' results
    sampling_mask: SamplingMask | None = None
    expert_routes: NDArray[np.int16] | None = None  # [T, layers, experts a token], for mixtures of experts
    box: BoxRef | None = None
    box_state: BoxState | None = None  # the files that it left in its box
    num_compared: int = 0  # tokens that the engine handed back at the end, all of them as they stand here
    failure: str | None = None  # why it could not be brought to an end; such a rollout is neither right nor wrong

    @property
    def num_sampled(self) -> int:
        return int(self.loss_mask.sum())

    @property
    def num_reasoning(self) -> int:
        """Sampled tokens of thinking, in all turns."""
        return sum(turn.num_reasoning for turn in self.turns)

    @property
    def finish_reason(self) -> FinishReason:
        return self.turns[-1].finish_reason

    @cached_property
    def transcript(self) -> Transcript:
        """What rewards read."""
        group = f"{self.rollout_id.epoch}-{self.rollout_id.task_hash}"
        ids = tuple(self.token_ids[self.loss_mask].tolist())
        return Transcript(
            self.completion,
            self.messages or (parse_completion(self.completion),),
            self.finish_reason.value,
            len(ids),
            ids,
            group,
            num_reasoning_tokens=self.num_reasoning,
            box_state=self.box_state,
        )


@dataclass(frozen=True)
class ScoredTrajectory:
    trajectory: Trajectory
    reward: RewardResult
    judgement: Judgement | None = None  # where a judge scored it: what the judge's part of the reward is made of


@dataclass(frozen=True)
class TrajectoryGroup:
    """All rollouts of one task in one step."""

    task: Task
    members: tuple[ScoredTrajectory, ...]
    weight: float = 1.0  # of its advantages in the batch

    @cached_property
    def valid(self) -> tuple[ScoredTrajectory, ...]:
        """The members whose score is a number; the others leave the baseline and the batch."""
        return tuple(m for m in self.members if m.reward.status is ScoreStatus.OK)
