"""Data sets as examples: JSONL, Parquet, a local folder or a hub id, through the `datasets` library.

The recipe maps columns; a column that is not there is an error that lists those that are.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets

from rewards.errors import UserError
from rewards.final_answer import closing_brace
from rewards.task import Demonstration, Message, Role, Task, is_held_out
from rewards.transcript import parse_completion
from rl.formats.openai import read_messages
from specialists.config import ColumnsConfig, SourceConfig
from specialists.example import Example

FORMATS = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}


def load_dataset_examples(source: SourceConfig, held_out_share: float, *, domain: str) -> tuple[list[Example], list[Task]]:
    """(training examples, held-out tasks), without duplicates.

    With `eval_split` that split is held out as it is and training tasks that also stand in it are left out; else tasks are
    held out by content hash.
    """
    examples = _examples(source, source.split, domain)
    if source.eval_split is None:
        train = [e for e in examples if not is_held_out(e.task, held_out_share)]
        return train, [e.task for e in examples if is_held_out(e.task, held_out_share)]
    held_out = [e.task for e in _examples(source, source.eval_split, domain)]
    hashes = {t.content_hash for t in held_out}
    return [e for e in examples if e.task.content_hash not in hashes], held_out


def _examples(source: SourceConfig, split: str, domain: str) -> list[Example]:
    rows = _rows(source, split)
    _check_columns(source, list(rows.column_names))
    found: dict[str, Example] = {}
    for i, row in enumerate(rows, start=1):  # as an editor counts the lines
        example = _example(source, dict(row), f"{source.dataset}/{split}/{i}", domain)
        known = found.setdefault(example.task.content_hash, example)
        fresh = [d for d in example.demonstrations if d.response not in {k.response for k in known.demonstrations}]
        if fresh:  # another worked answer to the same prompt
            found[example.task.content_hash] = Example(known.task, (*known.demonstrations, *fresh))
    if not found:
        raise UserError(f"data.sources: data set {source.dataset!r}, split {split!r}, is empty")
    return list(found.values())


def _rows(source: SourceConfig, split: str) -> datasets.Dataset:
    name = str(source.dataset)
    path = Path(name).expanduser()
    try:
        if path.is_file():
            if path.suffix not in FORMATS:
                raise UserError(f"data.sources: got {name!r}; allowed files: {', '.join(FORMATS)}")
            _check_one_table(source)
            return datasets.load_dataset(FORMATS[path.suffix], data_files={split: str(path)}, split=split)
        if (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
            saved = datasets.load_from_disk(str(path))
            if isinstance(saved, datasets.DatasetDict):
                return saved[split]
            _check_one_table(source)
            return saved
        return datasets.load_dataset(str(path) if path.is_dir() else name, source.subset, split=split)
    except StopIteration as error:  # how the library reports a file without a row
        raise UserError(f"data.sources: data set {name!r} is empty") from error
    except (ValueError, KeyError, FileNotFoundError, ConnectionError, datasets.exceptions.DatasetGenerationError) as error:
        raise UserError(
            f"data.sources: cannot load split {split!r} of data set {name!r}: {error.__cause__ or error}"
        ) from error


def _check_one_table(source: SourceConfig) -> None:
    """A file or a saved table has no splits: whatever was asked for would be the same rows."""
    if source.eval_split is not None:
        raise UserError(
            f"data.sources: {source.dataset!r} is one table, it has no split {source.eval_split!r}; remove eval_split to split "
            "by content hash, or name a folder with a file for each split"
        )


def _check_columns(source: SourceConfig, present: list[str]) -> None:
    columns = source.columns
    wanted = {"messages": columns.messages} if columns.messages else {"prompt": columns.prompt}
    wanted |= {k: v for k, v in (("response", columns.response), ("reasoning", columns.reasoning), ("kind", columns.kind)) if v}
    wanted |= {"examples": columns.examples} if columns.examples else {}
    wanted |= {f"data.{name}": column for name, column in columns.data.items()}
    if columns.answer != ColumnsConfig().answer or columns.answer_after:  # the default may be absent: a judge needs no answer
        wanted["answer"] = columns.answer
    for key, name in wanted.items():
        if name not in present:
            close = difflib.get_close_matches(name, present, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise UserError(
                f"data.sources.columns.{key}: got {name!r}; data set {source.dataset!r} has the columns "
                f"{', '.join(present)}{hint}"
            )


def _example(source: SourceConfig, row: Mapping[str, Any], task_id: str, domain: str) -> Example:
    columns = source.columns
    messages, shown = _conversation(columns, row, task_id)
    task = Task(
        id=task_id,
        domain=domain,
        messages=messages,
        answer=_answer(columns, row, task_id),
        kind=_text(row, columns.kind, task_id) if columns.kind else "",
        data=_data(columns, row),
        has_messages=columns.messages is not None,
    )
    return Example(task, (Demonstration(task, shown[-1], before=shown[:-1]),) if shown else ())


def _data(columns: ColumnsConfig, row: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that have no other place, and those that the recipe names, by the names that it gives them."""
    return {k: row[k] for k in columns.left(row)} | {name: row[column] for name, column in columns.data.items()}


def _answer(columns: ColumnsConfig, row: Mapping[str, Any], task_id: str) -> str | None:
    """The cell, or the final answer of the worked solution in it."""
    if columns.answer_after is None:
        answer = row.get(columns.answer)
        return None if answer is None else str(answer)
    text = _text(row, columns.answer, task_id)
    _, marker, answer = text.rpartition(columns.answer_after)
    if not marker:
        answer = ""
    elif marker.endswith("{"):
        end = closing_brace("{" + answer, 0)
        answer = "" if end is None else answer[: end - 1]
    if not answer.strip():
        raise UserError(
            f"data.sources.columns.answer_after: {task_id}: got {columns.answer_after!r}, but column {columns.answer!r} has no "
            f"answer after it; it ends in {text[-60:]!r}"
        )
    return answer.strip()


def _conversation(
    columns: ColumnsConfig, row: Mapping[str, Any], task_id: str
) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """The prompt's messages, and what there is to imitate: a column, or what follows the conversation's last question.

    That may be several messages, with tool calls and their results, and ends with the assistant's.
    """
    if columns.messages is None:
        prompt: tuple[Message, ...] = (Message(Role.USER, _text(row, columns.prompt, task_id)),)
    else:
        cell = row[columns.messages]
        if isinstance(cell, list):  # tables have a null in the place of a field that a message lacks
            cell = [{k: v for k, v in m.items() if v is not None} if isinstance(m, Mapping) else m for m in cell]
        try:
            prompt = tuple(read_messages(cell, columns.messages))
        except UserError as error:
            raise UserError(f"data.sources: {task_id}: {error}") from error
    below = [columns.instruction] if columns.instruction is not None else []
    if columns.examples is not None:
        below.append(_first(row, columns.examples, task_id))
    prompt = _with_below(prompt, "\n".join(below))
    if columns.response is None:
        if prompt and prompt[-1].role is Role.ASSISTANT:
            asked = 1 + max((i for i, m in enumerate(prompt) if m.role is Role.USER), default=len(prompt) - 2)
            return prompt[:asked], prompt[asked:]
        return prompt, ()
    response = _text(row, columns.response, task_id)
    if columns.reasoning is not None:
        return prompt, (Message(Role.ASSISTANT, response, _text(row, columns.reasoning, task_id)),)
    written = parse_completion(response)  # many data sets keep the thinking in the answer's text
    return prompt, (Message(Role.ASSISTANT, response, "") if written.reasoning is None else written,)


def _with_below(messages: tuple[Message, ...], text: str) -> tuple[Message, ...]:
    """The text below the last user message."""
    if not text:
        return messages
    last = max((i for i, m in enumerate(messages) if m.role is Role.USER), default=-1)
    return tuple(dataclasses.replace(m, content=f"{m.content}\n\n{text}") if i == last else m for i, m in enumerate(messages))


def _first(row: Mapping[str, Any], column: str, task_id: str) -> str:
    """The first text of a cell that holds a list of them."""
    tests = row[column]
    if not isinstance(tests, list) or not tests or not isinstance(tests[0], str):
        raise UserError(f"data.sources: {task_id}: column {column!r} holds {tests!r:.80}; allowed: a list of texts")
    return tests[0]


def _text(row: Mapping[str, Any], column: str, task_id: str) -> str:
    """A cell as text; numbers are written out, anything else that is no text would be nonsense to train on."""
    value = row[column]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UserError(f"data.sources: {task_id}: column {column!r} holds {value!r:.80}; allowed: text or a number")
    return str(value)
