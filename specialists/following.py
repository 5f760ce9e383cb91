"""Instructions for a short text that can be checked, with planned and careless texts: the task source of the instruct recipe.

Tasks carry the instruction ids and arguments of the IFEval data set. A careful demonstration thinks first: it settles the
number of words and drafts the text with its words counted. A sloppy one writes at once and forgets half of what was asked.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rewards.task import Demonstration, Message, Role, Task
from specialists.example import Example
from specialists.short_text import (
    ADJECTIVES,
    ADVERBS,
    ENDINGS,
    MIN_WORDS,
    THINGS,
    TOPICS,
    VERBS,
    Case,
    Layout,
    Wish,
    num_words,
    numbered,
    write,
    write_fitting,
)

SLOPPY_MEMORY = 0.45  # chance that a sloppy writer keeps any one part of the wish


@dataclass(frozen=True)
class Constraint:
    """One instruction: its published id and arguments, and how a user asks for it."""

    instruction: str
    kwargs: Mapping[str, Any]
    request: str
    change: Mapping[str, Any]  # the fields of Wish that it sets


def generate(rng: random.Random, *, families: Sequence[str] = (), num_constraints: Sequence[int] = (1, 2, 3)) -> Example:
    """Draw one task with a careful and a sloppy demonstration of it.

    Every task names two words that the text must have and a range for its length, and so many constraints of `families`
    (default: all) besides; `kind` is their number. The careful text keeps all of them, the sloppy one does one time in ten.
    Raises ValueError on an unknown family or number.

    >>> example = generate(random.Random(0), families=["no_comma"], num_constraints=[1])
    >>> [d.style for d in example.demonstrations]
    ['careful', 'sloppy']
    """
    _check(families, num_constraints)
    topic, thing = rng.choice(TOPICS), rng.choice(THINGS)
    wanted = _draw(rng, families or list(FAMILIES), rng.choice(list(num_constraints)), topic)
    wish = Wish()
    for constraint in wanted:
        wish = replace(wish, **constraint.change)
    text = write_fitting(rng, wish, topic, thing)
    low = max(num_words(text) - rng.randint(0, 1), MIN_WORDS)  # one more is allowed too: some count P.S. as two
    always = _always(rng, topic, thing, low, high=low + 2)
    everything = [*always, *wanted]
    asked = sorted(json.dumps([c.instruction, c.kwargs]) for c in wanted)
    task = Task(
        id=f"{topic}-{thing}-{low}-" + "-".join(c.instruction.partition(":")[2] for c in wanted),
        domain="instruct",
        messages=(Message(Role.USER, " ".join(c.request for c in everything if c.request)),),
        kind=NUMBERS[len(wanted)],
        data={"instruction_id_list": [c.instruction for c in everything], "kwargs": [dict(c.kwargs) for c in everything]},
        problem=f"{topic} {thing} {asked}",  # whatever the length
    )
    careful = Message(Role.ASSISTANT, text, reasoning=f"{num_words(text)} words: {numbered(text)}")
    return Example(task, (Demonstration(task, careful), Demonstration(task, _sloppy(rng, wish, topic, thing), style="sloppy")))


def _sloppy(rng: random.Random, wish: Wish, topic: str, thing: str) -> Message:
    """Written at once, without a look at the length, by somebody who remembers about half of the rest."""
    nothing: Mapping[str, Any] = vars(Wish())
    forgotten = {name: nothing[name] for name in nothing if rng.random() > SLOPPY_MEMORY}
    if {"layout", "num_bullets"} & forgotten.keys():
        forgotten |= {"layout": Layout.PLAIN, "num_bullets": 0}
    thing = thing if rng.random() < 0.7 else rng.choice(THINGS)
    text = write(rng, replace(wish, **forgotten), topic, thing)
    return Message(Role.ASSISTANT, text, reasoning=rng.choice(("",) * 6 + ("easy", "I just write it", f"about the {topic}")))


def _check(families: Sequence[str], num_constraints: Sequence[int]) -> None:
    unknown = sorted(set(families) - set(FAMILIES))
    if unknown:
        raise ValueError(f"families: got {unknown[0]!r}; allowed: {', '.join(FAMILIES)}")
    if not num_constraints or not set(num_constraints) <= set(NUMBERS):
        raise ValueError(f"num_constraints: got {list(num_constraints)}; allowed: some of {', '.join(map(str, NUMBERS))}")


def _draw(rng: random.Random, names: Sequence[str], number: int, topic: str) -> list[Constraint]:
    """Up to so many constraints, no two of which speak of the same side of the text."""
    drawn, taken = list[Constraint](), set[str]()
    for name in rng.sample(list(names), len(names)):
        sides = SIDES[name]
        if len(drawn) < number and not taken & sides:
            taken |= sides
            drawn.append(FAMILIES[name](rng, topic))
    return drawn


# ---- constraints


def _always(rng: random.Random, topic: str, thing: str, low: int, high: int) -> list[Constraint]:
    """What every task asks, in one sentence: two words that the text is about, and its length."""
    opening = rng.choice(("Write about {0} and {1} in {2} to {3} words.", "Tell me of {0} and {1} in {2} to {3} words."))
    number_words = "length_constraints:number_words"
    return [
        Constraint("keywords:existence", {"keywords": [topic, thing]}, opening.format(topic, thing, low, high), {}),
        Constraint(number_words, {"num_words": low, "relation": "at least"}, "", {}),
        Constraint(number_words, {"num_words": high + 1, "relation": "less than"}, "", {}),
    ]


def _use(rng: random.Random, topic: str) -> Constraint:
    word = rng.choice(ADJECTIVES)
    request = rng.choice(("Use the word {0}.", "Include {0}.")).format(word)
    return Constraint("keywords:existence", {"keywords": [word]}, request, {"use": word})


def _avoid(rng: random.Random, topic: str) -> Constraint:
    words = [rng.choice(VERBS), rng.choice(ADVERBS)]
    request = rng.choice(("Avoid {0} and {1}.", "Do not say {0} or {1}.")).format(*words)
    return Constraint("keywords:forbidden_words", {"forbidden_words": words}, request, {"avoid": tuple(words)})


def _frequency(rng: random.Random, topic: str) -> Constraint:
    request = rng.choice(("Say {0} at least twice.", "Use {0} two times or more.")).format(topic)
    kwargs = {"keyword": topic, "frequency": 2, "relation": "at least"}
    return Constraint("keywords:frequency", kwargs, request, {"topic_times": 2})


def _sentences(rng: random.Random, topic: str) -> Constraint:
    number = rng.randint(2, 3)
    request = rng.choice(("At least {0} sentences.", "Write {0} sentences or more.")).format(number)
    kwargs = {"num_sentences": number, "relation": "at least"}
    return Constraint("length_constraints:number_sentences", kwargs, request, {"num_sentences": number})


def _placeholder(rng: random.Random, topic: str) -> Constraint:
    request = rng.choice(("Put in a [placeholder].", "Leave a name open in [brackets]."))
    return Constraint("detectable_content:number_placeholders", {"num_placeholders": 1}, request, {"placeholder": True})


def _ending(rng: random.Random, topic: str) -> Constraint:
    phrase = rng.choice(ENDINGS)
    request = rng.choice(('End with "{0}"', 'The last words are "{0}"')).format(phrase)
    return Constraint("startend:end_checker", {"end_phrase": phrase}, request, {"ending": phrase})


def _lower(rng: random.Random, topic: str) -> Constraint:
    request = rng.choice(("Small letters only.", "All in lowercase."))
    return Constraint("change_case:english_lowercase", {}, request, {"case": Case.LOWER})


def _capital(rng: random.Random, topic: str) -> Constraint:
    request = rng.choice(("Capital letters only.", "All in capitals."))
    return Constraint("change_case:english_capital", {}, request, {"case": Case.CAPITAL})


def _no_comma(rng: random.Random, topic: str) -> Constraint:
    request = rng.choice(("Use no commas.", "Without commas."))
    return Constraint("punctuation:no_comma", {}, request, {"commas": False})


def _title(rng: random.Random, topic: str) -> Constraint:
    request = rng.choice(("Give it a title in <<angles>>.", "Put a title on top in <<angles>>."))
    return Constraint("detectable_format:title", {}, request, {"layout": Layout.TITLE})


def _bullets(rng: random.Random, topic: str) -> Constraint:
    number = rng.randint(2, 3)
    request = rng.choice(("Make {0} bullets.", "As a list of {0} bullets.")).format(number)
    change = {"layout": Layout.BULLETS, "num_bullets": number}
    return Constraint("detectable_format:number_bullet_lists", {"num_bullets": number}, request, change)


def _quotation(rng: random.Random, topic: str) -> Constraint:
    request = rng.choice(("All in double quotes.", "Wrap it in double quotes."))
    return Constraint("startend:quotation", {}, request, {"layout": Layout.QUOTATION})


def _postscript(rng: random.Random, topic: str) -> Constraint:
    request = rng.choice(("Add a P.S.", "Close with a P.S."))
    kwargs = {"postscript_marker": "P.S."}
    return Constraint("detectable_content:postscript", kwargs, request, {"layout": Layout.POSTSCRIPT})


FAMILIES: Mapping[str, Callable[[random.Random, str], Constraint]] = {
    "use": _use,
    "avoid": _avoid,
    "frequency": _frequency,
    "sentences": _sentences,
    "placeholder": _placeholder,
    "ending": _ending,
    "lower": _lower,
    "capital": _capital,
    "no_comma": _no_comma,
    "title": _title,
    "bullets": _bullets,
    "quotation": _quotation,
    "postscript": _postscript,
}
# The sides of a text that a family speaks of. Where a sentence ends is clearest in plain text.
SIDES: Mapping[str, frozenset[str]] = {
    "use": frozenset({"use"}),
    "avoid": frozenset({"avoid"}),
    "frequency": frozenset({"length"}),
    "sentences": frozenset({"length", "case", "layout"}),
    "placeholder": frozenset({"length"}),
    "ending": frozenset({"ending"}),
    "lower": frozenset({"case"}),
    "capital": frozenset({"case"}),
    "no_comma": frozenset({"comma"}),
    "title": frozenset({"layout"}),
    "bullets": frozenset({"layout", "length"}),
    "quotation": frozenset({"layout"}),
    "postscript": frozenset({"layout"}),
}
NUMBERS: Mapping[int, str] = {1: "one", 2: "two", 3: "three"}
