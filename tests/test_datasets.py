"""Data sets as examples: every form they come in, mapped columns, splits, and what is wrong with one, by name."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest

from rewards.errors import UserError
from rewards.math import verify
from rewards.task import Message, Role
from specialists.config import ColumnsConfig, SourceConfig
from specialists.datasets import load_dataset_examples
from specialists.example import Example

datasets.disable_progress_bars()

Rows = Sequence[Mapping[str, Any]]
ROWS = [{"question": f"What is {i} + {i}?", "answer": str(2 * i), "work": f"{i}+{i}={2 * i}"} for i in range(40)]
COLUMNS = ColumnsConfig(prompt="question", response="answer", reasoning="work")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def write(folder: Path, kind: str, rows: Rows) -> str:
    """Stores the rows in one of the forms that users have; returns what the recipe names."""
    table = datasets.Dataset.from_list([dict(r) for r in rows])
    if kind == "jsonl":
        table.to_json(folder / "data.jsonl")
        return str(folder / "data.jsonl")
    if kind == "json":
        (folder / "data.json").write_text(json.dumps(list(rows)))
        return str(folder / "data.json")
    if kind == "parquet":
        table.to_parquet(folder / "data.parquet")
        return str(folder / "data.parquet")
    if kind == "saved":
        table.save_to_disk(folder / "saved")
        return str(folder / "saved")
    if kind == "saved-splits":
        datasets.DatasetDict({"train": table}).save_to_disk(folder / "saved")
        return str(folder / "saved")
    hub = folder / "hub"  # as a data set's repository on the hub looks
    (hub / "data").mkdir(parents=True)
    table.to_parquet(hub / "data" / "train-00000-of-00001.parquet")
    (hub / "README.md").write_text(
        "---\nconfigs:\n- config_name: main\n  data_files:\n  - split: train\n    path: data/train-*\n---\n# A data set\n"
    )
    return str(hub)


def load(dataset: str, share: float = 0.25, **changes: Any) -> tuple[list[Example], list[str]]:
    train, held_out = load_dataset_examples(SourceConfig(dataset=dataset, **changes), share, domain="math")
    return train, [t.prompt for t in held_out]


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet", "saved", "saved-splits", "hub"])
def test_every_form_gives_the_same_examples(kind: str, tmp_path: Path) -> None:
    name = write(tmp_path, kind, [*ROWS, *ROWS[:5]])  # five duplicates
    train, held_out = load(name, columns=COLUMNS, subset="main" if kind == "hub" else None)
    prompts = [e.task.prompt for e in train]
    assert sorted(prompts + held_out) == sorted(r["question"] for r in ROWS)
    assert 2 < len(held_out) < 20
    for example in train:
        row = next(r for r in ROWS if r["question"] == example.task.prompt)
        assert (example.task.answer, example.task.domain) == (row["answer"], "math")
        [shown] = example.demonstrations
        assert shown.response == Message(Role.ASSISTANT, row["answer"], row["work"])
        assert example.task.data == {}  # every column of these has its place already
    assert len({e.task.id for e in train}) == len(train)


def test_further_columns_go_to_the_rewards_and_numbers_become_text(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{i}", "answer": 4 * i, "level": i, "topic": "sums"} for i in range(4)]
    train, _ = load(write(tmp_path, "jsonl", rows), 0.0, columns=ColumnsConfig(kind="topic"))
    assert [(e.task.answer, e.task.kind, e.task.data["level"]) for e in train] == [(str(4 * i), "sums", i) for i in range(4)]
    assert all(not e.demonstrations for e in train)


GSM = "Tom has 3 bags of 4 apples. 3*4=<<3*4=12>>12.\nHe eats 2, so 12-2=10.\n#### 10"
MATH = r"We have $\frac{a}{b}$ with $\boxed{1}$ on the way, so $x = \boxed{\left\{\frac{3}{4}, 5\right\}}$."


@pytest.mark.parametrize(
    ("cell", "marker", "wanted"),
    [
        (GSM, "####", "10"),
        ("a #### 1 and #### -1,200 \n", "####", "-1,200"),
        (MATH, "\\boxed{", r"\left\{\frac{3}{4}, 5\right\}"),
        ("so the answer is: 7", "answer is:", "7"),
    ],
)
def test_the_final_answer_of_a_worked_solution(cell: str, marker: str, wanted: str, tmp_path: Path) -> None:
    rows = [{"question": f"q{i}", "answer": cell} for i in range(3)]
    columns = ColumnsConfig(prompt="question", response="answer", answer_after=marker)
    train, _ = load(write(tmp_path, "parquet", rows), 0.0, columns=columns)
    assert [e.task.answer for e in train] == [wanted] * 3
    assert train[0].demonstrations[0].response.content == cell
    assert verify(train[0].task, cell) == 1.0  # the worked solution itself is right


@pytest.mark.parametrize(("cell", "marker"), [("42", "####"), ("x ####  ", "####"), (r"\boxed{4", r"\boxed{"), (None, "####")])
def test_a_solution_without_its_final_answer_is_named(cell: str | None, marker: str, tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text(json.dumps({"prompt": "p", "answer": cell}) + "\n")
    with pytest.raises(UserError, match=r"data\.jsonl/train/1"):
        load(str(tmp_path / "data.jsonl"), columns=ColumnsConfig(answer_after=marker))


def test_a_problem_shows_its_first_test_and_rewards_find_all_under_the_names_they_read(tmp_path: Path) -> None:
    tests = ["assert twice(2) == 4", "assert twice(0) == 0"]
    rows = [{"text": "Write a function that doubles.", "test_list": tests, "code": "def twice(x): ...", "level": 1}]
    columns = ColumnsConfig(prompt="text", instruction="Like this:", examples="test_list", data={"asserts": "test_list"})
    [example] = load(write(tmp_path, "parquet", rows), 0.0, columns=columns)[0]
    assert example.task.prompt == "Write a function that doubles.\n\nLike this:\nassert twice(2) == 4"
    assert example.task.data == {"asserts": tests, "code": "def twice(x): ...", "level": 1}
    for changes, message in (
        ({"examples": "tests"}, r"columns\.examples: got 'tests'.*did you mean 'test_list'"),
        ({"data": {"asserts": "tests"}}, r"columns\.data\.asserts: got 'tests'.*did you mean 'test_list'"),
        ({"examples": "level"}, r"data\.parquet/train/1: column 'level' holds 1; allowed: a list of texts"),
    ):
        with pytest.raises(UserError, match=message):
            load(str(tmp_path / "data.parquet"), columns=ColumnsConfig(prompt="text", **changes))


def test_an_instruction_goes_below_the_question(tmp_path: Path) -> None:
    columns = ColumnsConfig(prompt="question", instruction="Be brief.")
    train, _ = load(write(tmp_path, "jsonl", ROWS[:1]), 0.0, columns=columns)
    assert train[0].task.messages == (Message(Role.USER, "What is 0 + 0?\n\nBe brief."),)
    turns = [{"role": r, "content": c} for r, c in (("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"))]
    folder = tmp_path / "turns"
    folder.mkdir()
    columns = ColumnsConfig(messages="turns", instruction="Be brief.")
    [example], _ = load(write(folder, "jsonl", [{"turns": turns}]), 0.0, columns=columns)
    assert [m.content for m in example.task.messages] == ["s", "a", "b", "c\n\nBe brief."]


def test_a_messages_column(tmp_path: Path) -> None:
    """The last assistant message is the response; its own thinking comes with it."""
    rows = [
        {
            "messages": [
                {"role": "system", "content": "s", "reasoning_content": None},
                {"role": "user", "content": f"u{i}", "reasoning_content": None},
                {"role": "assistant", "content": f"a{i}", "reasoning_content": f"r{i}"},
            ]
        }
        for i in range(3)
    ]
    train, _ = load(write(tmp_path, "jsonl", rows), 0.0, columns=ColumnsConfig(messages="messages"))
    for i, example in enumerate(train):
        assert example.task.messages == (Message(Role.SYSTEM, "s"), Message(Role.USER, f"u{i}"))
        assert example.demonstrations[0].response == Message(Role.ASSISTANT, f"a{i}", f"r{i}")
    bare = [{"messages": [{"role": "user", "content": "u"}]}]
    [only], _ = load(write(tmp_path, "parquet", bare), 0.0, columns=ColumnsConfig(messages="messages"))
    assert not only.demonstrations


def test_thinking_inside_the_response_is_split_off(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "response": "<think>\n1+1=2\n</think>\n\n2"}, {"prompt": "q", "response": "  def f():\n"}]
    train, _ = load(write(tmp_path, "jsonl", rows), 0.0, columns=ColumnsConfig(response="response"))
    assert train[0].demonstrations[0].response == Message(Role.ASSISTANT, "2", "1+1=2")
    assert train[1].demonstrations[0].response == Message(Role.ASSISTANT, "  def f():\n", "")  # else as it is written


def test_an_eval_split_is_held_out_and_taken_out_of_training(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("folder")  # `datasets` takes "/test_" anywhere in a path for the split's name
    for split, rows in (("train", ROWS), ("test", [*ROWS[:7], *ROWS[:2], {**ROWS[0], "question": "new"}])):
        datasets.Dataset.from_list(rows).to_json(folder / f"{split}.jsonl")
    train, held_out = load(str(folder), columns=COLUMNS, eval_split="test")
    assert held_out == [*(r["question"] for r in ROWS[:7]), "new"]
    assert sorted(e.task.prompt for e in train) == sorted(r["question"] for r in ROWS[7:])


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_conversation_with_tool_calls_is_shown_from_the_last_question_on(kind: str, tmp_path: Path) -> None:
    def rows() -> list[dict[str, object]]:
        found: list[dict[str, object]] = []
        for i in range(40):
            call = {"id": "c", "type": "function", "function": {"name": "add", "arguments": f'{{"a": {i}, "b": 1}}'}}
            messages = [
                {"role": "user", "content": "hello"},
                {"role": "assistant", "content": "hi"},
                {"role": "user", "content": f"{i}+1?"},
                {"role": "assistant", "content": "", "reasoning_content": "add", "tool_calls": [call]},
                {"role": "tool", "content": str(i + 1), "tool_call_id": "c"},
                {"role": "assistant", "content": str(i + 1), "reasoning_content": "so"},
            ]
            found.append({"turns": messages, "answer": str(i + 1)})
        return found

    train, _ = load(write(tmp_path, kind, rows()), columns=ColumnsConfig(messages="turns"))
    (shown,) = train[0].demonstrations
    number = int(shown.task.prompt.removesuffix("+1?"))
    assert [m.role for m in shown.task.messages] == [Role.USER, Role.ASSISTANT, Role.USER]
    call, result = shown.before
    assert (call.reasoning, call.tool_calls[0].name, call.tool_calls[0].arguments) == ("add", "add", {"a": number, "b": 1})
    assert (result.role, result.content) == (Role.TOOL, str(number + 1))
    assert shown.response == Message(Role.ASSISTANT, str(number + 1), "so")


@pytest.mark.parametrize(
    ("columns", "wanted"),
    [
        (ColumnsConfig(), "columns.prompt: got 'prompt'"),
        (ColumnsConfig(prompt="qestion"), "did you mean 'question'"),
        (ColumnsConfig(prompt="question", response="wrok"), "columns.response: got 'wrok'.*did you mean 'work'"),
        (ColumnsConfig(prompt="question", response="answer", reasoning="x"), "columns.reasoning: got 'x'"),
        (ColumnsConfig(prompt="question", kind="level"), "columns.kind: got 'level'"),
        (ColumnsConfig(prompt="question", answer="answr"), "columns.answer: got 'answr'.*did you mean 'answer'"),
        (ColumnsConfig(messages="turns"), "columns.messages: got 'turns'"),
        (ColumnsConfig(messages="question"), "question: got .*; allowed: a list"),
    ],
)
def test_columns_that_are_not_there(columns: ColumnsConfig, wanted: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=wanted) as error:
        load(write(tmp_path, "jsonl", ROWS), columns=columns)
    assert columns.messages == "question" or "question, answer, work" in str(error.value)


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"prompt": None}, ColumnsConfig()),
        ({"prompt": ["a"]}, ColumnsConfig()),
        ({"prompt": "p", "response": None}, ColumnsConfig(response="response")),
        ({"prompt": "p", "response": "r", "why": None}, ColumnsConfig(response="response", reasoning="why")),
        ({"messages": [{"role": "user", "content": None}]}, ColumnsConfig(messages="messages")),
        ({"messages": [{"role": "robot", "content": "x"}]}, ColumnsConfig(messages="messages")),
        ({"messages": [{"from": "user", "value": "x"}]}, ColumnsConfig(messages="messages")),
        ({"messages": None}, ColumnsConfig(messages="messages")),
    ],
)
def test_a_cell_that_is_no_text_is_named(row: Mapping[str, Any], columns: ColumnsConfig, tmp_path: Path) -> None:
    """Never the text "None" to train on."""
    (tmp_path / "data.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match=r"data\.jsonl/train/1"):
        load(str(tmp_path / "data.jsonl"), columns=columns)


@pytest.mark.parametrize(
    ("name", "content"),
    [("empty.jsonl", ""), ("list.json", "[]"), ("broken.jsonl", '{"prompt": '), ("a.csv", "prompt\nx\n"), ("a.parquet", "PAR")],
)
def test_files_that_hold_nothing_usable_are_named(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=name):
        load(str(tmp_path / name))


def test_an_unknown_suffix_names_those_that_work(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt\nx\n")
    with pytest.raises(UserError, match=r"allowed files: \.jsonl, \.json, \.parquet"):
        load(str(tmp_path / "a.csv"))


@pytest.mark.parametrize("kind", ["saved-splits", "hub", "jsonl-folder", "empty-folder"])
def test_an_unknown_split_is_named(kind: str, tmp_path: Path) -> None:
    if kind == "jsonl-folder":
        datasets.Dataset.from_list(ROWS).to_json(tmp_path / "train.jsonl")
        name = str(tmp_path)
    else:
        name = str(tmp_path / "none") if kind == "empty-folder" else write(tmp_path, kind, ROWS)
        Path(name).mkdir(exist_ok=True)
    with pytest.raises(UserError, match="split 'validation'"):
        load(name, columns=COLUMNS, split="validation")


def test_a_saved_folder_without_splits_refuses_another_split(tmp_path: Path) -> None:
    """Else `eval_split: test` would hold out the training rows themselves."""
    name = write(tmp_path, "saved", ROWS)
    with pytest.raises(UserError, match="'test'"):
        load(name, columns=COLUMNS, eval_split="test")


def test_a_file_with_an_eval_split_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'test'"):
        load(write(tmp_path, "jsonl", ROWS), columns=COLUMNS, eval_split="test")


def test_an_unknown_configuration_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="hub"):
        load(write(tmp_path, "hub", ROWS), columns=COLUMNS, subset="nope")


def test_other_worked_answers_to_a_prompt_are_further_demonstrations(tmp_path: Path) -> None:
    rows = [{"question": f"{i}?", "answer": str(i), "worked": f"{i}"} for i in range(30)]
    more = [{**row, "worked": f"it is {row['worked']}"} for row in rows]
    (tmp_path / "d.jsonl").write_text("\n".join(json.dumps(r) for r in [*rows, *more, *rows]))
    source = SourceConfig(
        dataset=str(tmp_path / "d.jsonl"), columns=ColumnsConfig(prompt="question", answer="answer", response="worked")
    )
    train, _ = load_dataset_examples(source, 0.3, domain="math")
    assert train
    assert all(len(example.demonstrations) == 2 for example in train)
