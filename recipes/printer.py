"""What `polymath chat` prints of an answer while it grows: thinking, text, tool calls and their results."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console

from recipes.text import END_THINK, THINK, safe
from rewards.task import ToolCall

CALLS = ("<｜DSML｜tool_calls>", "<tool_call>")  # what opens a block of calls, which are shown once they are whole
MARKERS = (THINK, END_THINK, *CALLS)
MAX_RESULT = 2000  # characters of a result that are shown; the model sees all of it


@dataclass
class Printer:
    """Prints a growing completion: thinking dimmed in a terminal and labelled in a pipe, markers left out."""

    console: Console
    shown: str = ""  # the part of the completion that has been dealt with
    thinking: bool = False
    part: str = ""  # "thinking" or "answer" once something of it is on the screen

    def show(self, text: str, *, final: bool) -> None:
        """Prints what is new in `text`, the whole completion so far, and cannot change any more."""
        text = _without_calls(text)
        stable = text if final else _stable(text)
        if len(stable) <= len(self.shown):
            return
        common = len(self.shown) if stable.startswith(self.shown) else _common(self.shown, stable)
        for piece in _pieces(stable[common:]):
            if piece in (THINK, END_THINK):
                self.thinking = piece == THINK
            else:
                self._print(piece)
        self.shown = stable

    def _print(self, piece: str) -> None:
        part = "thinking" if self.thinking else "answer"
        if part != self.part:
            piece = piece.lstrip()
            if not piece:
                return
            label = "" if self.console.is_terminal else f"{part}: "
            self.console.out(("\n" if self.part else "") + label, end="", highlight=False)
            self.part = part
        style = "dim" if self.thinking else None
        self.console.out(safe(piece, self.console.encoding), style=style, end="", highlight=False)

    def call(self, call: ToolCall) -> None:
        """Shows a call that is about to be made."""
        values = [v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for v in call.arguments.values()]
        self._note("call", f"{call.name}: {', '.join(values)}" if values else call.name, "cyan")

    def result(self, text: str, *, is_error: bool) -> None:
        """Shows what came of it, and makes ready for the next turn."""
        cut = text if len(text) <= MAX_RESULT else f"{text[:MAX_RESULT]} [...]"
        self._note("error" if is_error else "result", cut.rstrip() or "(nothing)", "red" if is_error else "green")
        self.shown, self.thinking = "", False

    def _note(self, label: str, text: str, style: str) -> None:
        if self.part:
            self.console.out()
        self.console.out(f"{label}: ", safe(text, self.console.encoding), sep="", style=style, highlight=False)
        self.part = ""

    def end(self, note: str = "") -> None:
        """Ends the answer's line and says what there is to say about it."""
        if self.part:
            self.console.out()
        if note or not self.part:
            say(self.console, f"({note or 'an empty answer'})")


def _stable(text: str) -> str:
    """Without what the next token may still change: half a character, white space, the beginning of a marker."""
    text = text.rstrip("\ufffd").rstrip()
    for marker in MARKERS:
        for length in range(len(marker) - 1, 0, -1):
            if text.endswith(marker[:length]):
                return text[:-length].rstrip()
    return text


def _pieces(text: str) -> Iterator[str]:
    """The text cut at its thinking markers, which are pieces of their own."""
    while text:
        found = [(at, marker) for marker in (THINK, END_THINK) if (at := text.find(marker)) >= 0]
        at, marker = min(found, default=(len(text), ""))
        if at:
            yield text[:at]
        if marker:
            yield marker
        text = text[at + len(marker) :]


def _common(a: str, b: str) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _without_calls(text: str) -> str:
    """The text before a block of calls; in the thinking there is none."""
    thought, end, answer = text.rpartition(END_THINK)
    if THINK in text and not end:
        return text
    at = min((found for mark in CALLS if (found := answer.find(mark)) >= 0), default=-1)
    return text if at < 0 else thought + end + answer[:at].rstrip()


def say(console: Console, text: str) -> None:
    console.out(safe(text, console.encoding), highlight=False)
