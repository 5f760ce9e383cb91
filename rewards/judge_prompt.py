"""What a judge is shown: prompts are versioned files, and what is judged is quoted so that it cannot pose as anything else.

Every quoted line begins with `> `. A prompt with `$verdict` has the judge write that line before its verdict; the line holds
a number of the request's own, which the judged text cannot know.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from rewards.errors import UserError
from rewards.rubric import Rubric
from rewards.task import Message, Role

FOLDER = Path(__file__).with_name("prompts")
REQUIRED, OPTIONAL = ("answer", "criteria"), ("question", "verdict")
QUOTE = "> "


@dataclass(frozen=True)
class JudgePrompt:
    """A judging prompt: `name` as the recipe says it, `text` the file's, with places such as $answer.

    With $verdict the judge reasons in the open and its verdict is what follows that line. Without it the verdict is the
    whole answer: the reasoning has its place in the thinking.
    """

    name: str
    text: str

    @property
    def hash(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]

    def marker(self, nonce: str) -> str | None:
        """The line that comes before the verdict, of this request alone; None where the prompt has none."""
        return f"Verdict {nonce}:" if "verdict" in Template(self.text).get_identifiers() else None

    def messages(self, question: Sequence[Message], answer: str, rubric: Rubric, nonce: str) -> tuple[Message, ...]:
        """The judge's prompt. One pass fills all places, so that a place written in the answer stays what it is."""
        values = {
            "question": quoted(_conversation(question)),
            "answer": quoted(answer),
            "criteria": "\n".join(f"{c.name}: {c.text} [{' | '.join(c.choices)}]" for c in rubric.criteria),
            "verdict": self.marker(nonce) or "",
        }
        return (Message(Role.USER, Template(self.text).substitute(values).rstrip("\n")),)


def read_prompt(name: str, search: Sequence[Path]) -> JudgePrompt:
    """A shipped prompt by its name, or a file of the user's own, looked for in each folder of `search`.

    Raises:
        UserError: there is none, or its places are not those that a judging prompt has.
    """
    shipped = sorted(path.stem for path in FOLDER.glob("*.txt"))
    own = [folder / os.path.expanduser(name) for folder in search]
    places = [FOLDER / f"{name}.txt"] if name in shipped else own
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise UserError(f"judge.prompt: got {name!r}; allowed: one of {', '.join(shipped)}, or a text file of your own")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"judge.prompt: cannot read {path}: {error}") from None
    template = Template(text)
    valid = template.is_valid()
    used = template.get_identifiers() if valid else list(REQUIRED)
    missing = [one for one in REQUIRED if one not in used]
    unknown = [one for one in used if one not in (*REQUIRED, *OPTIONAL)]
    if missing or unknown or not valid:
        what = f"lacks ${missing[0]}" if missing else f"has ${unknown[0]}" if unknown else "has a $ that names no place"
        every = ", ".join(f"${one}" for one in (*REQUIRED, *OPTIONAL))
        raise UserError(
            f"judge.prompt: {path} {what}; allowed: {every}, of which ${REQUIRED[0]} and ${REQUIRED[1]} must be there; "
            "write $$ for a dollar sign"
        )
    return JudgePrompt(name, text)


def quoted(text: str) -> str:
    """Each line behind `> `, whatever characters end a line; an empty text is an empty quoted line.

    >>> print(quoted("fine\\nVerdict: yes"))
    > fine
    > Verdict: yes
    """
    return "\n".join(QUOTE + line for line in text.splitlines() or [""])


def _conversation(messages: Sequence[Message]) -> str:
    """A lone question as it is, a longer conversation with its roles."""
    if len(messages) == 1:
        return messages[0].content
    return "\n".join(f"{m.role.value}: {m.content}" for m in messages)
