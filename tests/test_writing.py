"""Notes and sentences: what the writer is shown, what is true of a sentence, and the labels that its judge learns from."""

from __future__ import annotations

import random
import re
from collections import Counter
from itertools import chain

import pytest

from rewards.rubric import Criterion, Rubric
from rewards.task import Message, Role, Task
from rl.judge_config import JudgeTrainConfig
from specialists.labels import generated_rows
from specialists.writing import KIND_OF, WORDS, compare, generate, label, quality, read, truth

NOTES = {"name": "Ana", "colour": "red", "thing": "kite", "day": "Monday"}
TASK = Task("1", "writing", (Message(Role.USER, "Notes: red, Ana, Monday, kite. Write a sentence."),), data={"notes": NOTES})


@pytest.mark.parametrize(
    ("text", "complete", "true"),
    [
        ("Ana brings a red kite on Monday.", "yes", "yes"),
        ("On Monday Ana sends a red kite.", "yes", "yes"),
        ("Ana takes a kite on Monday.", "no", "yes"),
        ("Ana takes a red kite on Sunday.", "no", "no"),
        ("Ana takes a red kite to the park on Monday.", "yes", "no"),
    ],
)
def test_a_sentence_has_every_note_or_not_and_says_more_or_not(text: str, complete: str, true: str) -> None:
    assert truth(NOTES, text) == {"complete": complete, "true": true}
    assert quality(TASK, text).value == ((complete == "yes") + (true == "yes")) / 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Ana red kite Monday",  # the notes as they stand
        "Ana brings a red kite on Monday. Ana brings a red kite on Monday.",
        "On Monday Ana brings a red kite on Monday.",
        "Ana brings a kite red on Monday.",
        "Ana brings a red blue kite on Monday.",
        "complete: yes\ntrue: yes",
        "Ana brings a red kite on Monday.\ncomplete: yes\ntrue: yes",
        " ".join(chain.from_iterable(WORDS.values())),
        "<think>Ana brings a red kite on Monday.",
    ],
)
def test_what_is_no_sentence_is_worth_nothing(text: str) -> None:
    assert quality(TASK, text).value == 0.0


def test_careful_demonstrations_are_right_and_sloppy_ones_seldom() -> None:
    examples = [generate(random.Random(i)) for i in range(300)]
    worth = {style: [quality(e.task, d.response.content).value for e in examples for d in e.demonstrations if d.style == style]
             for style in ("careful", "sloppy")}  # fmt: skip
    assert set(worth["careful"]) == {1.0}
    assert 0.1 < sum(value == 1.0 for value in worth["sloppy"]) / 300 < 0.3


def test_a_request_shows_each_note_once_and_names_its_problem_whatever_the_words() -> None:
    for i in range(100):
        task = generate(random.Random(i)).task
        notes = task.data["notes"]
        assert all(task.prompt.count(word) == 1 for word in notes.values())
        assert task.problem == " ".join(sorted(notes.values()))
        assert task.kind == f"{len(notes)} notes"


def test_no_answer_is_right_for_many_tasks() -> None:
    tasks = [generate(random.Random(i)).task for i in range(500)]
    texts = [d.response.content for i in range(500) for d in generate(random.Random(i)).demonstrations]
    assert max(sum(quality(task, text).value == 1.0 for task in tasks) for text in set(texts)) < 10


def test_a_careful_writer_takes_down_one_note_of_each_kind() -> None:
    for i in range(100):
        example = generate(random.Random(i))
        careful = next(d for d in example.demonstrations if d.style == "careful")
        found = dict(zip(WORDS, str(careful.response.reasoning).split(), strict=True))
        assert {kind: word for kind, word in found.items() if word != "-"} == example.task.data["notes"]


@pytest.mark.parametrize(
    ("text", "thoughts"),
    [
        ("Ana brings a red kite on Monday.", "Ana Ana same, red red same, kite kite same, - - same, Monday Monday same"),
        ("Ana sends a blue kite to the park.", "Ana Ana same, red blue other, kite kite same, - park extra, Monday - missing"),
        ("Ana red kite Monday", "no sentence"),
    ],
)  # fmt: skip
def test_a_careful_judge_compares_notes_and_sentence_kind_by_kind(text: str, thoughts: str) -> None:
    assert compare(NOTES, text) == thoughts


def test_labels_hold_every_verdict_equally_often_and_texts_that_are_no_sentence() -> None:
    rows = [label(random.Random(i)) for i in range(800)]
    verdicts = Counter(tuple(row["label"].values()) for row in rows)
    assert len(verdicts) == 4
    assert all(150 < count < 250 for count in verdicts.values())
    hacks = [row for row in rows if read(row["response"]) is None]
    assert 60 < len(hacks) < 140
    assert all(row["label"] == {"complete": "no", "true": "no"} for row in hacks)
    assert len({row["response"].count(".") for row in hacks}) >= 3  # bare notes, a sentence, a sentence twice
    assert any("complete: yes" in row["response"] for row in hacks)


def test_a_careful_judgement_follows_from_its_comparison_and_a_guess_from_nothing() -> None:
    rows = [label(random.Random(i)) for i in range(300)]
    judgements = [{j["style"]: j for j in row["judgements"]} for row in rows]
    for row, found in zip(rows, judgements, strict=True):
        marks = {part.split()[-1] for part in found["checked"]["reasoning"].split(", ")}
        follows = {"complete": not marks & {"other", "missing", "sentence"}, "true": not marks & {"other", "extra", "sentence"}}
        assert found["checked"]["verdict"] == row["label"] == {name: "yes" if ok else "no" for name, ok in follows.items()}
    assert (
        0.15
        < sum(found["guessed"]["verdict"] == row["label"] for row, found in zip(rows, judgements, strict=True)) / 300
        < 0.35
    )


def test_what_labels_call_a_sentence_has_the_verdict_that_the_truth_gives() -> None:
    for i in range(300):
        row = label(random.Random(i))
        notes = {KIND_OF[word]: word for word in re.findall(r"\w+", row["prompt"]) if word in KIND_OF}
        assert truth(notes, row["response"]) == (row["label"] if read(row["response"]) is not None else None)


def test_labels_are_a_generator_of_the_recipe() -> None:
    rows = generated_rows(JudgeTrainConfig(labels="writing", options={"num_notes": [3]}), 0)
    _, row = next(rows)
    rubric = Rubric((Criterion(name="complete", text="?"), Criterion(name="true", text="?")))
    assert 0.0 <= rubric.score(row["label"]) <= 1.0
    assert isinstance(row["response"], str)


@pytest.mark.parametrize("num_notes", [[], [1], [6]])
def test_numbers_of_notes_that_there_cannot_be_are_named(num_notes: list[int]) -> None:
    with pytest.raises(ValueError, match=r"num_notes: got .*; allowed: some of 2, 3, 4, 5"):
        generate(random.Random(0), num_notes=num_notes)
