"""`polymath chat` with a tiny random model: piped conversations, streaming, interruption, a full context."""

import asyncio
import io
import json
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import get_args

import pytest
import torch
from rich.console import Console

from recipes import chat as module
from recipes.chat import Conversation, chat
from recipes.printer import Printer
from recipes.text import safe
from rewards.errors import UserError
from rewards.task import Effort, Message, Role, Task, ToolCall
from rl.chat import ChatFormat
from rl.config import EngineName, InitConfig, ModelConfig, SamplingConfig, ThinkingConfig
from rl.engine.build import Served
from rl.policy import init_policy
from rl.tokenizer import train_tokenizer
from rl.tools.config import ToolConfig
from rl.tools.source import ToolSource
from rl.tools.tools import Tools
from rl.trajectory import FinishReason
from tests.conftest import NEEDS_VLLM
from tests.test_conversation import Scripted, says

CONTEXT = 256
SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}

Say = Callable[[str], None]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with one checkpoint."""
    torch.set_num_threads(1)
    tokenizer = train_tokenizer(["What is 345 + 278?", "5+8=13 é 日本"] * 4, 300)
    init = InitConfig(config={**SHAPE, "intermediate_size": 64, "max_position_embeddings": CONTEXT})
    run = tmp_path_factory.mktemp("run")
    init_policy(init, tokenizer, ModelConfig(init=init), seed=0).save(run / "checkpoints" / "step-7")
    return run


@pytest.fixture
def conversation(model: Path) -> Iterator[Conversation]:
    served, context = module._serve(str(model / "checkpoints" / "step-7"), "torch")
    yield Conversation(served, SamplingConfig(max_tokens=12, temperature=1.0), Effort.HIGH, context, 5)
    served.engine.close()


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Say:
    return lambda text: monkeypatch.setattr(sys, "stdin", io.StringIO(text))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[Message]]:
    """The messages that each question was put with."""
    seen: list[list[Message]] = []
    ask = Conversation.ask

    async def recorded(self: Conversation, question: str, printer: Printer) -> FinishReason:
        seen.append([*self.messages, Message(Role.USER, question)])
        return await ask(self, question, printer)

    monkeypatch.setattr(Conversation, "ask", recorded)
    return seen


def talk(
    model: Path,
    *,
    temperature: float = 0.0,
    max_tokens: int = 8,
    effort: Effort = Effort.HIGH,
    engine: EngineName = "torch",
    held_out: Callable[[], Sequence[Task]] = tuple,
) -> int:
    return chat(str(model), temperature=temperature, max_tokens=max_tokens, effort=effort, engine=engine, held_out=held_out)


def test_a_piped_conversation(model: Path, pipe: Say, asked: list[list[Message]], capsys: pytest.CaptureFixture[str]) -> None:
    pipe("What is 2+3?\n\nand 4?\n/reset\n/nothing\n/help\nWhat is 7?\n/quit\nnever asked\n")
    assert talk(model) == 0
    assert [[m.role.value for m in messages] for messages in asked] == [["user"], ["user", "assistant", "user"], ["user"]]
    assert asked[1][0].content == "What is 2+3?"
    assert asked[1][1].reasoning is not None  # the prompt opened a thought
    out = capsys.readouterr().out
    assert "checkpoints/step-7: up to 8 tokens a turn, context 256, effort high, greedy" in out
    assert out.count("\n> ") == 6 + 1  # /quit too; the empty line is no question
    assert "> and 4?\nthinking: " in out
    assert "a new conversation" in out
    assert "/nothing: unknown command" in out
    assert "never asked" not in out
    assert "\x1b" not in out


@NEEDS_VLLM
def test_either_engine_answers_alike(model: Path, pipe: Say, capsys: pytest.CaptureFixture[str]) -> None:
    answers = []
    for engine in get_args(EngineName):
        pipe("What is 2+3?\nand 4?")
        assert talk(model, engine=engine) == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1]


def test_without_thinking_the_answer_comes_at_once(
    model: Path, pipe: Say, asked: list[list[Message]], capsys: pytest.CaptureFixture[str]
) -> None:
    pipe("one\ntwo")
    assert talk(model, effort=Effort.NONE) == 0
    assert asked[1][1].reasoning is None
    assert "answer: " in capsys.readouterr().out


def test_a_seed_is_told_where_answers_are_drawn(model: Path, pipe: Say, capsys: pytest.CaptureFixture[str]) -> None:
    pipe("")
    assert talk(model, temperature=0.7) == 0
    assert "temperature 0.7, seed " in capsys.readouterr().out


def test_a_full_context_is_told_and_reset_helps(model: Path, pipe: Say, capsys: pytest.CaptureFixture[str]) -> None:
    pipe(f"{'5+' * 200}\nfits\n{'5+' * 110}\n/reset\nfits\n")
    assert talk(model, max_tokens=100) == 0
    out = capsys.readouterr().out
    assert out.count("error: the context is full: with this question the conversation has") >= 1
    assert "allowed: less than 256; /reset starts a new one" in out
    assert "(cut: the context of 256 tokens is full; /reset starts a new conversation)" in out
    assert "thinking: " in out.rpartition("a new conversation")[2]


def test_input_that_is_not_text(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\xff\n"), encoding="utf-8"))
    with pytest.raises(UserError, match="standard input: not utf-8 text"):
        talk(model)


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a model folder"):
        talk(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "no_such_type"}')
    with pytest.raises(UserError, match="cannot be loaded"):
        talk(tmp_path)


def test_the_effort_may_change(model: Path, pipe: Say, asked: list[list[Message]], capsys: pytest.CaptureFixture[str]) -> None:
    pipe("one\n/effort none\ntwo\n/effort 40\n/effort lots")
    assert talk(model) == 0
    out = capsys.readouterr().out
    assert "\neffort none\n" in out
    assert "\neffort 40\n" in out
    assert "error: effort: got 'lots'; allowed: none, high, max, or a number from 1 to 100" in out
    assert len(asked) == 2


# ---- answers


def test_streamed_text_is_the_whole_completion(conversation: Conversation) -> None:
    """What is printed token by token is what the finished completion says, multi-byte characters included."""
    for seed in range(6):
        conversation.seed, conversation.messages = seed, []
        console = Console(file=io.StringIO(), width=80)
        printer = Printer(console)
        asyncio.run(conversation.ask("What is 5?", printer))
        assert isinstance(console.file, io.StringIO)
        said = conversation.messages[-1]
        printed = "".join(console.file.getvalue().split())
        for part in (said.reasoning, said.content):
            assert "".join(safe(part or "").split()) in printed.replace("answer:", "").replace("thinking:", "")


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """Python's own handler of SIGINT, also where the tests were started in the background, which ignores the signal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
def test_an_interrupted_answer_leaves_the_conversation(conversation: Conversation) -> None:
    conversation.sampling = SamplingConfig(max_tokens=400, temperature=1.0)
    conversation.messages = before = [Message(Role.USER, "a"), Message(Role.ASSISTANT, "b", "c")]

    class Impatient(Printer):
        pressed = False

        def show(self, text: str, *, final: bool) -> None:
            super().show(text, final=final)
            if not self.pressed:  # at the first character: the engine runs ahead of the printing
                self.pressed = True
                signal.raise_signal(signal.SIGINT)

    with asyncio.Runner() as runner:
        printer = Impatient(Console(file=io.StringIO()))
        assert runner.run(conversation.ask("What?", printer)) is FinishReason.ABORTED
        assert conversation.messages == before
        conversation.sampling = SamplingConfig(max_tokens=5)
        again = runner.run(conversation.ask("What?", Printer(Console(file=io.StringIO()))))
    assert again in (FinishReason.LENGTH, FinishReason.STOP)
    assert len(conversation.messages) == 4


def test_the_same_seed_says_the_same(conversation: Conversation) -> None:
    answers = []
    for _ in range(2):
        conversation.messages, conversation.num_asked = [], 0
        asyncio.run(conversation.ask("What is 5?", Printer(Console(file=io.StringIO()))))
        answers.append(conversation.messages[-1])
    assert answers[0] == answers[1]


def printed(texts: list[str], *, terminal: bool = False) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=20, _environ={"TERM": "xterm"})
    printer = Printer(console)
    for i, text in enumerate(texts):
        printer.show(text, final=i == len(texts) - 1)
    printer.end()
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_half_characters_and_half_markers_wait() -> None:
    growing = [
        "<think>a",
        "<think>a\ufffd",
        "<think>aé",
        "<think>aé</",
        "<think>aé</think>",
        "<think>aé</think>\n\nb [x]\ufffd",
    ]
    assert printed(growing) == "thinking: aé\nanswer: b [x]\ufffd\n"
    assert printed(["x", "x <", "x < y"]) == "answer: x < y\n"
    assert printed(["<think>a</think>"]) == "thinking: a\n"
    assert printed(["do n", "don't"]) == "answer: do nn't\n"  # text that was taken back: repeated in part, never lost
    assert printed([""]) == "(an empty answer)\n"


def test_thinking_is_dim_in_a_terminal_and_escapes_are_shown() -> None:
    out = printed(["<think>a\x1b[2J</think>b"], terminal=True)
    assert out == "\x1b[2ma\\x1b[2J\x1b[0m\nb\n"


def test_the_context_is_the_models_own(model: Path, tmp_path: Path) -> None:
    folder = model / "checkpoints" / "step-7"
    assert module._serve(str(folder), "torch")[1] == CONTEXT
    shutil.copytree(folder, tmp_path / "long")
    config = json.loads((folder / "config.json").read_text()) | {"max_position_embeddings": 10**6}
    (tmp_path / "long" / "config.json").write_text(json.dumps(config))
    assert module._serve(str(tmp_path / "long"), "torch")[1] == module.MAX_CONTEXT


def test_held_out_tasks_are_asked_by_number_and_in_turn(
    model: Path, pipe: Say, asked: list[list[Message]], capsys: pytest.CaptureFixture[str]
) -> None:
    rules = Message(Role.SYSTEM, "Be brief.")
    tasks = [Task(f"{i}", "math", (rules, Message(Role.USER, f"What is {i}+1?"))) for i in range(3)]
    pipe("first\n/task 3\nand then?\n/task\n/task 4\n/task x\n/reset\nmine\n")
    assert talk(model, held_out=lambda: tasks) == 0
    said = [[m.content for m in messages if m.role is not Role.ASSISTANT] for messages in asked]
    assert said == [["first"], ["Be brief.", "What is 2+1?"], ["Be brief.", "What is 2+1?", "and then?"],
                    ["Be brief.", "What is 0+1?"], ["mine"]]  # fmt: skip
    out = capsys.readouterr().out
    assert "task 3, a new conversation: What is 2+1?" in out
    assert "error: /task: got '4'; allowed: a number from 1 to 3" in out
    assert "error: /task: got 'x'; allowed" in out


def test_a_model_alone_has_no_held_out_tasks(model: Path, pipe: Say, capsys: pytest.CaptureFixture[str]) -> None:
    pipe("/task\n")
    assert talk(model) == 0
    assert "error: /task: there are no held-out tasks; start `polymath chat` with a run's folder" in capsys.readouterr().out


# ---- tools


def test_tools_are_called_between_turns_and_shown() -> None:
    """A scripted engine writes the calls; the tools are real."""
    tools = Tools([ToolSource(ToolConfig(use="calculator")), ToolSource(ToolConfig(use="shell"))])
    console = Console(file=io.StringIO(), width=80)

    async def talked() -> list[Message]:
        await tools.open()
        format_ = ChatFormat(train_tokenizer(["12+7 is 19"] * 3, 400)).with_tools(tools.specs, ThinkingConfig())
        add = Message(Role.ASSISTANT, "Let me see.", "add", (ToolCall("calculator", {"expression": "12+7"}),))
        keep = Message(Role.ASSISTANT, "", "keep", (ToolCall("shell", {"command": "echo 19 > kept"}),))
        show = Message(Role.ASSISTANT, "", "look", (ToolCall("shell", {"command": "cat kept; nothing"}),))
        said = [add, keep, Message(Role.ASSISTANT, "19", "done"), show, Message(Role.ASSISTANT, "still there", "so")]
        of_task = Message(Role.ASSISTANT, "", "list", (ToolCall("shell", {"command": "cat note; ls"}),))
        said += [of_task, Message(Role.ASSISTANT, "it is there", "so")]
        engine = Scripted(says(format_, *said))
        talk = Conversation(
            Served(engine, format_),  # type: ignore[arg-type]
            SamplingConfig(max_tokens=200),
            Effort.HIGH,
            4000,
            1,
            tools=tools,
        )
        for question in ("12+7?", "is it there?"):
            assert await talk.ask(question, Printer(console)) is FinishReason.STOP
        assert not engine.held
        messages = talk.messages
        task = Task("1", "agent", (Message(Role.USER, "Read the note."),), data={"files": {"note": "held out\n"}})
        await talk.begin(task)
        await talk.ask(task.prompt, Printer(console))
        messages += talk.messages
        await talk.reset()
        await talk.close()
        return messages

    messages = asyncio.run(talked())
    assert [m.content for m in messages if m.role is Role.TOOL][:2] == ["19", "(no output)"]
    results = [m.content for m in messages if m.role is Role.TOOL]
    assert "19\n" in results[2]  # the box is the same as before
    assert "held out\nnote\n" in results[3]  # another one, with the task's files
    assert isinstance(console.file, io.StringIO)
    out = console.file.getvalue()
    assert "thinking: add\nanswer: Let me see.\ncall: calculator: 12+7\nresult: 19\n" in out
    assert "call: shell: cat kept; nothing\nerror: 19" in out
    assert "DSML" not in out
    assert "answer: still there" in out
    assert out.endswith("answer: it is there")
