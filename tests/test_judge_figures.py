"""What is measured of a judge: position bias and consistency by judges that are known, gaps and correlations by hand."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from rewards.judge import Ask, Judgement, Reply, Rules
from rewards.judge_prompt import read_prompt
from rewards.labels import Label, agreement, judging_task
from rewards.result import RewardResult, ScoreStatus
from rewards.rubric import Criterion, Rubric
from rewards.task import Effort, Message, Role, Task
from rl.advantage import to_samples
from rl.config import GrpoConfig, OverlongConfig, SamplingConfig
from rl.judging_figures import label_figures, score_figures, step_figures
from rl.trajectory import FinishReason, RolloutId, ScoredTrajectory, Trajectory, TrajectoryGroup, Turn

CHOICES = {"bad": 0.0, "fair": 1.0, "good": 2.0}
RUBRIC = Rubric((Criterion(name="a", text="A?", choices=CHOICES), Criterion(name="b", text="B?", choices=CHOICES)))
RULES = Rules(read_prompt("short-1", []), RUBRIC)
LABELS = [
    Label((Message(Role.USER, f"q{i}"),), f"{a} {b}", RUBRIC, {"a": a, "b": b})
    for i, (a, b) in enumerate((a, b) for a in CHOICES for b in CHOICES)
]
TASKS = [judging_task(RULES, label, Effort.NONE) for label in LABELS]

DOWN = "down"  # for a choice: there is no reply
Judge = Callable[[Sequence[str], str, random.Random], str]  # from the choices as shown and the right one


def figures(judge: Judge, tasks: Sequence[Task] = TASKS, seed: str = "0/eval") -> dict[str, float]:
    async def replies(asks: Sequence[Ask]) -> list[Reply]:
        found = []
        for ask in asks:
            text, rng = ask.messages[0].content, random.Random(ask.stream)
            right = dict(zip("ab", re.findall("> (.*)", text)[1].split(), strict=True))
            shown = [(name, choices.split(" | ")) for name, choices in re.findall(r"(\w): .* \[(.*)\]", text)]
            lines = [f"{name}: {judge(choices, right[name], rng)}" for name, choices in shown]
            found.append(Reply(None, "HTTP 503") if any(DOWN in line for line in lines) else Reply("\n".join(lines)))
        return found

    return asyncio.run(label_figures(replies, RULES, tasks, seed))


def test_a_perfect_judge_is_accurate_and_has_no_bias() -> None:
    assert figures(lambda _, right, __: right) == {
        "num_labels": 9, "accuracy": 1, "agreement": 1, "label_malformed_share": 0, "order_consistency": 1, "position_bias": 0,
    }  # fmt: skip


def test_labels_without_a_reply_are_left_out() -> None:
    found = figures(lambda _, right, __: DOWN if right == "good" else "bad")
    assert (found["num_labels"], found["accuracy"], found["agreement"]) == (4, 1 / 4, 1 / 2)
    assert found["label_malformed_share"] == 0
    assert figures(lambda *_: DOWN) == {"num_labels": 0}


@pytest.mark.parametrize(("place", "bias"), [(0, 1.0), (-1, -1.0), (1, 0.0)])
def test_a_judge_that_goes_by_position_is_found_out(place: int, bias: float) -> None:
    found = figures(lambda choices, _, __: choices[place])
    assert found["position_bias"] == bias
    assert found["order_consistency"] == float(place == 1)  # the middle one stays in the middle
    assert found["accuracy"] == pytest.approx(1 / 9)
    assert found["agreement"] == pytest.approx(1 / 3)


def test_a_judge_that_always_likes_or_guesses_has_no_position_bias() -> None:
    assert figures(lambda *_: "good")["position_bias"] == 0
    guesses = [figures(lambda choices, _, rng: rng.choice(choices), seed=str(i)) for i in range(60)]
    assert abs(np.mean([found["position_bias"] for found in guesses])) < 0.08
    assert np.mean([found["order_consistency"] for found in guesses]) == pytest.approx(1 / 3, abs=0.08)


def test_malformed_verdicts_are_wrong_and_say_nothing_about_position() -> None:
    found = figures(lambda _, right, __: "what?" if right == "good" else right)
    assert found["label_malformed_share"] == pytest.approx(5 / 9)
    assert found["accuracy"] == found["agreement"] == pytest.approx(4 / 9)
    assert (found["order_consistency"], found["position_bias"]) == (1, 0)
    nothing = figures(lambda *_: "what?")
    assert nothing == {"num_labels": 9, "accuracy": 0, "agreement": 0, "label_malformed_share": 1}
    assert figures(lambda *_: "good", []) == {}


# ---- figures of groups


def trajectory(task: Task, length: int, text: str = "x") -> Trajectory:
    total = 2 + length
    mask = np.array([False, False, *[True] * length])
    zeros = np.zeros(total, np.float32)
    turns = (Turn(2, total, FinishReason.STOP),)
    return Trajectory(
        RolloutId(0, "h", 0), task, np.arange(total, dtype=np.int32), mask, zeros, zeros.astype(np.int32), turns, text
    )


TASK = Task("t", "writing", (Message(Role.USER, "?"),))


def judged(length: int, score: float | None, truth: float | None, malformed: int = 0) -> ScoredTrajectory:
    parts = {**({} if truth is None else {"truth": truth}), **({} if score is None else {"judge": score})}
    status = ScoreStatus.OK if score is not None else ScoreStatus.FAILED
    reward = RewardResult(status, score, parts, None if score is not None else "no verdict")
    judgement = Judgement(score, num_replies=malformed + (score is not None), num_malformed=malformed)
    return ScoredTrajectory(trajectory(TASK, length), reward, judgement)


def test_gap_and_correlations_are_over_completions_that_have_both() -> None:
    members = (judged(2, 1.0, 0.0), judged(4, 0.5, 1.0, 1), judged(6, 0.0, None), judged(8, 0.5, 0.5), judged(1, None, 1.0, 2))
    found = score_figures([TrajectoryGroup(TASK, members)], "truth")
    assert found["score"] == 0.5
    assert found["truth"] == pytest.approx(0.5)
    assert found["gap"] == pytest.approx(2 / 3 - 0.5)
    assert found["malformed_share"] == pytest.approx(3 / 7)
    assert found["failed_share"] == pytest.approx(1 / 5)
    assert found["length_correlation"] == pytest.approx(np.corrcoef([1, 0.5, 0, 0.5], [2, 4, 6, 8])[0, 1])
    assert found["truth_correlation"] == pytest.approx(np.corrcoef([1, 0.5, 0.5], [0, 1, 0.5])[0, 1])
    assert "gap" not in score_figures([TrajectoryGroup(TASK, members)], None)
    same = score_figures([TrajectoryGroup(TASK, (judged(3, 1.0, 1.0),) * 4)], "truth")
    assert not {"length_correlation", "truth_correlation"} & set(same)
    assert score_figures([TrajectoryGroup(TASK, (ScoredTrajectory(trajectory(TASK, 3), members[0].reward),))], "truth") == {}


def labelled(replies: Sequence[str], weight: float = 1.0) -> TrajectoryGroup:
    members = tuple(
        ScoredTrajectory(trajectory(TASKS[0], 3 + i, r), agreement(TASKS[0], Reply(r))) for i, r in enumerate(replies)
    )
    return TrajectoryGroup(TASKS[0], members, weight)


def test_judging_tasks_are_counted_apart_from_scores() -> None:
    group = labelled(["a: bad\nb: bad", "a: bad\nb: good", "nonsense", "a: bad\nb: bad"])
    found = step_figures([group, TrajectoryGroup(TASK, (judged(2, 1.0, 0.5),))], "truth")
    assert found["judge/agreement"] == pytest.approx((1 + 0.5 + 0 + 1) / 4)
    assert found["judge/accuracy"] == 0.5
    assert found["judge/label_malformed_share"] == 0.25
    assert (found["judge/score"], found["judge/gap"]) == (1.0, 0.5)


def test_weights_scale_advantages_and_length_penalties_leave_judging_alone() -> None:
    replies = ["a: bad\nb: bad", "a: good\nb: good"]
    for weight in (1.0, 3.0):
        samples, _ = to_samples([labelled(replies, weight)], GrpoConfig())
        assert [s.advantage for s in samples] == pytest.approx([0.5 * weight, -0.5 * weight])
    stage = GrpoConfig(sampling=SamplingConfig(max_tokens=4), overlong=OverlongConfig(buffer_tokens=4, penalty=1.0))
    samples, counts = to_samples([labelled(replies)], stage)
    assert [s.advantage for s in samples] == pytest.approx([0.5, -0.5])
    assert counts.num_overlong == 0
