"""The first held-out transcripts of a final evaluation, kept in the run's folder for people to compare: before and after.

Written by `Specialist`, read by `polymath report`; nothing is trained from them.
"""

from __future__ import annotations

import json
from pathlib import Path

from rewards.score import is_correct
from rl.checkpoint import write_text
from rl.collect import Evaluation
from rl.trajectory import ScoredTrajectory

FOLDER = "evaluations"  # in the run's folder
NUM_TRANSCRIPTS = 24  # held-out tasks come in the same order each time, so these are the same tasks


def transcript(member: ScoredTrajectory) -> dict[str, object]:
    """One completion for people to look at; `reward` is None where it could not be scored."""
    trajectory, reward = member.trajectory, member.reward
    return {
        "task_id": trajectory.task.id,
        "prompt": trajectory.task.prompt,
        "completion": trajectory.completion,
        "answer": trajectory.task.answer,
        "reward": reward.score,
        "parts": dict(reward.parts),
        "notes": dict(reward.notes),
        "error": reward.error,
        "num_tokens": trajectory.num_sampled,
        "finish_reason": trajectory.finish_reason.value,
        **({"messages": [m.as_dict() for m in trajectory.messages]} if len(trajectory.messages) > 1 else {}),
        **({"judge": member.judgement.said} if member.judgement is not None else {}),
    }


def write_transcripts(folder: Path, stage: str, global_step: int, evaluation: Evaluation, primary: str) -> Path:
    """Writes evaluations/<global_step>-<stage>.jsonl atomically: a line for each of the first tasks, its first completion.

    A line: {"task_id": ..., "prompt": ..., "completion": ..., "answer": ..., "correct": true, "reward": 1.0 or null,
    "parts": {"verify": 1.0}, "notes": {"verify": "a line for people"}, "error": null or why there is no reward,
    "num_tokens": 31, "finish_reason": "stop"}. `reward` is null where the completion could not be scored. With
    tools also "messages", in OpenAI's shape; with a judge "judge": what it wrote.
    """
    members = [group.members[0] for group in evaluation.groups[:NUM_TRANSCRIPTS]]
    rows = [{**transcript(member), "correct": is_correct(member.reward, primary)} for member in members]
    # In ASCII: a text may hold half of a surrogate pair, which UTF-8 cannot.
    lines = [json.dumps(row) + "\n" for row in rows]
    path = folder / FOLDER / f"{global_step}-{stage}.jsonl"
    path.parent.mkdir(exist_ok=True)
    write_text(path, "".join(lines))
    return path
