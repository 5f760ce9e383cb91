"""Tasks: hashes that depend on what the model sees and nothing else, and the split that hangs on them."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from rewards.task import Effort, Message, Role, Task, is_held_out


def make_task(text: str, task_id: str = "t") -> Task:
    return Task(task_id, "math", (Message(Role.USER, text),), answer="1")


def test_content_hash_depends_on_what_the_model_sees_alone() -> None:
    task = make_task("2+3")
    same = replace(task, id="other", domain="code", answer="5", kind="add", data={"a": 1})
    assert same.content_hash == task.content_hash
    system = Message(Role.SYSTEM, "Think.")
    others = [
        make_task("2+4"),
        replace(task, effort=Effort.NONE),
        replace(task, messages=(system, *task.messages)),
        replace(task, messages=(Message(Role.USER, "2+3", reasoning=""),)),
        replace(task, messages=(Message(Role.SYSTEM, "2+3"),)),
    ]
    assert len({task.content_hash, *(other.content_hash for other in others)}) == len(others) + 1


def test_content_hash_is_frozen() -> None:
    """Run folders and held-out splits on disk depend on it: a change here loses users' runs."""
    assert make_task("2+3").content_hash == "ad57f418e01ed6f7ce5d0e481b1b842f"


def test_prompt_is_the_last_user_message() -> None:
    messages = (Message(Role.USER, "a"), Message(Role.USER, "b"), Message(Role.ASSISTANT, "c"))
    assert Task("t", "math", messages).prompt == "b"
    assert Task("t", "math", ()).prompt == ""


def test_message_as_dict() -> None:
    assert Message(Role.USER, "a").as_dict() == {"role": "user", "content": "a"}
    assert Message(Role.ASSISTANT, "a", "b").as_dict()["reasoning_content"] == "b"


def test_held_out_share_is_near_what_was_asked() -> None:
    tasks = [make_task(str(i)) for i in range(4000)]
    assert 0.08 < sum(is_held_out(task, 0.1) for task in tasks) / len(tasks) < 0.12
    assert not any(is_held_out(task, 0.0) for task in tasks)
    assert all(is_held_out(task, 1.0) for task in tasks)


@given(st.text(), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_keeps_what_a_smaller_one_held_out(text: str, share: float, other: float) -> None:
    small, large = sorted((share, other))
    assert not is_held_out(make_task(text), small) or is_held_out(make_task(text, "renamed"), large)
