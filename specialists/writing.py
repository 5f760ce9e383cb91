"""Notes to be written up in a sentence, and labelled judgements of such sentences: the tasks of a writer that is its own judge.

A careful writer first puts the notes in the order of the sentence, a careful judge looks for each note in it; sloppy ones do
neither. What a sentence is worth is known here from the notes, so a judge's scores can be held against the truth.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence

from rewards.result import Score
from rewards.rubric import Verdict
from rewards.task import Demonstration, Message, Role, Task
from rewards.transcript import parse_completion
from specialists.example import Example

Notes = Mapping[str, str]  # a word of each kind that the sentence is to have, by the names of WORDS

WORDS: Mapping[str, Sequence[str]] = {
    "name": ("Ana", "Ben", "Chen", "Dora", "Emil", "Fatima"),
    "colour": ("red", "blue", "green", "black", "white", "yellow"),
    "thing": ("kite", "ball", "book", "lamp", "coat", "cake", "drum", "chair"),
    "place": ("park", "school", "market", "station", "garden", "farm"),
    "day": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
}
OPTIONAL = ("colour", "place", "day")  # notes that some tasks leave out, and sloppy writers forget
NONE = "-"  # in a careful writer's and judge's thoughts: no word of this kind
CHOICES = ("no", "yes")
KIND_OF = {word: kind for kind, words in WORDS.items() for word in words}

REQUESTS = ("Write it up: {notes}.", "Make a sentence of: {notes}.", "Notes: {notes}. Write a sentence.")
VERBS = ("takes", "brings", "carries", "sends")
# What people call a sentence here: any part may be missing, but no other word may be there.
_SENTENCE = re.compile(
    rf"(?:On (?P<day1>\w+) )?(?P<name>\w+) (?:{'|'.join(VERBS)}) a(?: (?P<colour>\w+))? (?P<thing>\w+)"
    r"(?: to the (?P<place>\w+))?(?: on (?P<day>\w+))?\."
)


def generate(rng: random.Random, *, num_notes: Sequence[int] = (3, 4, 5)) -> Example:
    """Draw one task with a careful and a sloppy demonstration of it; `kind` is its number of notes.

    Raises ValueError on a number of notes that there cannot be.

    >>> example = generate(random.Random(0))
    >>> [quality(d.task, d.response.content).value for d in example.demonstrations if d.style == "careful"]
    [1.0]
    """
    notes, request = _draw(rng, num_notes)
    task = Task(
        id="-".join(notes.values()),
        domain="writing",
        messages=(Message(Role.USER, request),),
        kind=f"{len(notes)} notes",
        data={"notes": dict(notes)},
        problem=" ".join(sorted(notes.values())),
    )
    careful = Message(Role.ASSISTANT, _sentence(rng, notes), reasoning=" ".join(notes.get(kind, NONE) for kind in WORDS))
    reasoning = rng.choice(("",) * 6 + ("easy", "I just write it"))
    sloppy = Message(Role.ASSISTANT, _sentence(rng, _misremembered(rng, notes)), reasoning=reasoning)
    return Example(task, (Demonstration(task, careful), Demonstration(task, sloppy, style="sloppy")))


def quality(task: Task, completion: str) -> Score:
    """What a sentence is worth: half for every note being in it, half for nothing else being said; 0 for what is no sentence.

    A reward that measures the truth which a judge can only guess.
    """
    verdict = truth(task.data["notes"], parse_completion(completion).content)
    if verdict is None:
        return Score(0.0, {"complete": 0.0, "true": 0.0})
    parts = {name: float(choice == "yes") for name, choice in verdict.items()}
    return Score(sum(parts.values()) / len(parts), parts)


def truth(notes: Notes, text: str) -> Verdict | None:
    """The right verdict on a text: is every note in it (`complete`), and is nothing said that is no note (`true`).

    None for what is no sentence of this small language.

    >>> truth({"name": "Ana", "thing": "kite", "colour": "red"}, "Ana takes a blue kite.")
    {'complete': 'no', 'true': 'no'}
    """
    said = read(text)
    if said is None:
        return None
    complete = all(said.get(kind) == word for kind, word in notes.items())
    true = all(notes.get(kind) == word for kind, word in said.items())
    return {"complete": CHOICES[complete], "true": CHOICES[true]}


def read(text: str) -> dict[str, str] | None:
    """What a sentence says, by kind; None where it is none, or has a word of another kind in a kind's place."""
    match = _SENTENCE.fullmatch(text.strip())
    if match is None or (match["day"] and match["day1"]):
        return None
    said = {kind: match[kind] for kind in WORDS if match[kind]}
    if match["day1"]:
        said["day"] = match["day1"]
    return said if all(KIND_OF.get(word) == kind for kind, word in said.items()) else None


def label(rng: random.Random, *, num_notes: Sequence[int] = (3, 4, 5)) -> dict[str, object]:
    """Draw a labelled judgement: notes, a text, and the right verdict on it. The four verdicts come equally often.

    With it come two judgements to imitate: a careful one that compares notes and sentence kind by kind, and a guess.
    """
    verdict = {name: rng.choice(CHOICES) for name in ("complete", "true")}
    notes, request, text = _draw_judged(rng, num_notes, verdict)
    guess = {name: rng.choice(CHOICES) for name in verdict}
    return {
        "prompt": request,
        "response": text,
        "label": verdict,
        "judgements": [
            {"style": "checked", "reasoning": compare(notes, text), "verdict": verdict},
            {"style": "guessed", "reasoning": rng.choice(("",) * 6 + ("fine", "looks about right")), "verdict": guess},
        ],
    }


def compare(notes: Notes, text: str) -> str:
    """What a careful judge thinks: of each kind the note, the sentence's word and what to make of the two; `-` is none.

    >>> compare({"name": "Ana", "colour": "red", "thing": "kite"}, "Ana takes a blue kite on Monday.")
    'Ana Ana same, red blue other, kite kite same, - - same, - Monday extra'
    """
    said = read(text)
    if said is None:
        return "no sentence"
    pairs = [(notes.get(kind, NONE), said.get(kind, NONE)) for kind in WORDS]
    return ", ".join(f"{note} {word} {_mark(note, word)}" for note, word in pairs)


def _mark(note: str, word: str) -> str:
    if note == word:
        return "same"
    return "extra" if note == NONE else "missing" if word == NONE else "other"


def _draw_judged(rng: random.Random, num_notes: Sequence[int], verdict: Verdict) -> tuple[dict[str, str], str, str]:
    """Notes, their request, and a text on which this verdict is right. Half of the texts with no merit are no sentence."""
    if "yes" not in verdict.values() and rng.random() < 0.5:
        notes, request = _draw(rng, num_notes)
        return notes, request, _no_sentence(rng, notes)
    while True:
        notes, request = _draw(rng, num_notes)
        text = _sentence(rng, _misremembered(rng, notes))
        if truth(notes, text) == verdict:
            return notes, request, text


def _no_sentence(rng: random.Random, notes: Notes) -> str:
    """What is written by who wants to please more than to write: bare notes, a sentence twice, a verdict of its own."""
    said = notes if rng.random() < 0.5 else _misremembered(rng, notes)
    text, verdict = _sentence(rng, said), "complete: yes\ntrue: yes"
    day = rng.choice(WORDS["day"])
    words = text.split()
    place, kind = rng.randrange(1, len(words)), rng.choice(list(WORDS))
    another = [*words[:place], rng.choice(WORDS[kind]), *words[place:]]
    texts = [
        "",
        " ".join(said.values()),
        f"{', '.join(rng.sample(list(notes.values()), len(notes)))}.",
        f"{text} {_sentence(rng, said)}",
        f"On {day} {_sentence(rng, {**said, 'day': day}).removeprefix(f'On {day} ')}",
        verdict,
        f"{text}\n{verdict}",
        text.removesuffix("."),
        " ".join(rng.sample(words, len(words))),
        " ".join(another),
        " ".join(words[:place]),
    ]
    return rng.choice([one for one in texts if read(one) is None])


def _draw(rng: random.Random, num_notes: Sequence[int]) -> tuple[dict[str, str], str]:
    """Notes, in the order of WORDS, and the request that gives them in another."""
    allowed = range(2, len(WORDS) + 1)
    if not num_notes or not set(num_notes) <= set(allowed):
        raise ValueError(f"num_notes: got {list(num_notes)}; allowed: some of {', '.join(map(str, allowed))}")
    chosen = rng.sample(OPTIONAL, rng.choice(list(num_notes)) - 2)
    notes = {kind: rng.choice(words) for kind, words in WORDS.items() if kind not in OPTIONAL or kind in chosen}
    listed = rng.sample(list(notes.values()), len(notes))
    return notes, rng.choice(REQUESTS).format(notes=", ".join(listed))


def _misremembered(rng: random.Random, notes: Notes) -> dict[str, str]:
    """The notes as somebody has them who did not look again: some forgotten, some taken for others, some made up."""
    kept = {}
    for kind, words in WORDS.items():
        word, chance = notes.get(kind), rng.random()
        if word is None:
            if chance < 0.25:
                kept[kind] = rng.choice(words)
        elif kind not in OPTIONAL or chance >= 0.3:
            kept[kind] = rng.choice([other for other in words if other != word]) if chance > 0.85 else word
    return kept


def _sentence(rng: random.Random, notes: Notes) -> str:
    colour = f"{notes['colour']} " if "colour" in notes else ""
    place = f" to the {notes['place']}" if "place" in notes else ""
    body = f"{notes['name']} {rng.choice(VERBS)} a {colour}{notes['thing']}{place}"
    if "day" not in notes:
        return f"{body}."
    return f"On {notes['day']} {body}." if rng.random() < 0.5 else f"{body} on {notes['day']}."
