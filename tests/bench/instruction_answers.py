"""Answers for every instruction id, made by program: some follow it, some nearly, some not; and changes to them.

An answer starts from ordinary text or from the test tables, is dressed for its instruction, and is changed up to three times.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from typing import Any

from tests.instruction_cases import IFEVAL_CASES
from tests.instruction_cases_further import IFBENCH_CASES

_NOUNS = "river town market garden teacher engine letter window season harbour bridge island painter winter recipe forest"
_THINGS = "bread maps stones music questions answers tools stories apples plans rules colours numbers birds tickets names"
_VERBS = "follows carries brings keeps shows finds needs changes makes gives"
NOUNS, THINGS, VERBS = _NOUNS.split(), _THINGS.split(), _VERBS.split()
TEMPLATES = (
    "The {noun} {verb} {thing}.",
    "In the {noun}, nobody {verb} the {thing} any more.",
    "It's a well-known fact that a {noun} {verb} {thing}, and that's all.",
    "Dr. Lee says that the {noun} {verb} 3.5 times as many {thing}.",
    "Why does every {noun} need {thing}?",
    "What a {noun}!",
    "Many people (e.g. my aunt) don't like {thing} at all.",
    "On 12 May 1,200 visitors saw the {noun}; they liked the {thing}.",
    '"A {noun} {verb} {thing}," she said.',
    "The U.S. {noun} is older than the {noun} here.",
    "First, look at the {thing}: they are what a {noun} {verb}.",
    "I think that NASA and the EU should pay for the {noun}.",
    "See www.example.com for more {thing}.",
    "He asked whether the {noun} was open, but it wasn't.",
    "So the {noun} went on... and on.",
)
LANGUAGES = {
    "de": "Der Fluss fließt durch die Stadt, und die Leute gehen gern am Ufer spazieren. Das ist nicht neu, aber es ist schön.",
    "fr": "La rivière traverse la ville, et les gens aiment se promener sur la rive. Ce n'est pas neuf, mais c'est très beau.",
    "es": "El río pasa por la ciudad, y a la gente le gusta caminar por la orilla. No es nada nuevo, pero es muy bonito.",
    "pt": "O rio passa pela cidade, e as pessoas gostam de caminhar na margem. Não é nada de novo, mas é muito bonito.",
    "it": "Il fiume attraversa la città, e alla gente piace camminare sulla riva. Non è una cosa nuova, ma è molto bella.",
    "ru": "Река течёт через город, и люди любят гулять по берегу. Это не ново, но это очень красиво.",
    "hi": "नदी शहर से होकर बहती है और लोगों को किनारे पर टहलना पसंद है। यह नया नहीं है, लेकिन बहुत सुंदर है।",
    "ko": "강은 도시를 지나 흐르고 사람들은 강가를 걷는 것을 좋아한다. 새로운 일은 아니지만 매우 아름답다.",
    "fa": "رودخانه از شهر می‌گذرد و مردم دوست دارند در کنار آن قدم بزنند. این تازه نیست، اما بسیار زیبا است.",
    "en": "The river runs through the town, and people like to walk along the bank. It is nothing new, but very beautiful.",
}
Kwargs = Mapping[str, Any]
RELATIONS = ("at least", "less than")


def sentence(rng: random.Random) -> str:
    template = rng.choice(TEMPLATES)
    return template.format(noun=rng.choice(NOUNS), verb=rng.choice(VERBS), thing=rng.choice(THINGS))


def paragraph(rng: random.Random, most: int = 4) -> str:
    return " ".join(sentence(rng) for _ in range(rng.randint(1, most)))


def text(rng: random.Random) -> str:
    parts = [paragraph(rng) for _ in range(rng.randint(1, 4))]
    if rng.random() < 0.2:
        parts.insert(0, rng.choice(["# {}", "**{}**", "<<{}>>", "{}"]).format(f"The {rng.choice(NOUNS)}"))
    if rng.random() < 0.3:
        mark = rng.choice(["- ", "* ", "1. ", "  * "])
        parts.append("\n".join(mark + sentence(rng) for _ in range(rng.randint(2, 5))))
    return "\n\n".join(parts)


def near(rng: random.Random, count: int) -> int:
    """A threshold that a count of about `count` may or may not reach."""
    return max(0, count + rng.randint(-3, 3))


def answers(instruction: str, count: int, seed: int) -> list[tuple[str, Kwargs, str]]:
    """`count` answers to the instruction, with its keyword arguments: (where it started, kwargs, response)."""
    rng = random.Random(f"{seed} {instruction}")
    cases = [case for case in (*IFEVAL_CASES, *IFBENCH_CASES) if case.instruction == instruction]
    made: list[tuple[str, Kwargs, str]] = []
    while len(made) < count:
        if instruction in DRESSED and rng.random() < 0.8:
            kwargs, response = DRESSED[instruction](rng)
            origin = "text"
        else:
            case = rng.choice(cases)
            kwargs, response = case.kwargs, rng.choice(case.yes if rng.random() < 0.6 else case.no)
            origin = "table"
        for _ in range(rng.choice((0, 0, 1, 1, 2, 3))):
            response, origin = rng.choice(CHANGES)(rng, response), "changed"
        made.append((origin, kwargs, response[:5000]))
    return made


def _cut(rng: random.Random, response: str) -> str:
    words = response.split(" ")
    return " ".join(words[: rng.randint(1, max(1, len(words)))])


def _drop_word(rng: random.Random, response: str) -> str:
    words = response.split(" ")
    del words[rng.randrange(len(words))]
    return " ".join(words) or response


def _double_word(rng: random.Random, response: str) -> str:
    words = response.split(" ")
    at = rng.randrange(len(words))
    return " ".join([*words[: at + 1], *words[at:]])


def _swap_lines(rng: random.Random, response: str) -> str:
    lines = response.split("\n")
    rng.shuffle(lines)
    return "\n".join(lines)


CHANGES: tuple[Callable[[random.Random, str], str], ...] = (
    _cut,
    _drop_word,
    _double_word,
    _swap_lines,
    lambda rng, response: response.replace(",", ""),
    lambda rng, response: response.replace(". ", "! ", rng.randint(1, 2)),
    lambda rng, response: response.upper(),
    lambda rng, response: response.lower(),
    lambda rng, response: f"Sure, here it is:\n\n{response}",
    lambda rng, response: f"{response}\n\nIs there anything else?",
    lambda rng, response: f'"{response}"',
    lambda rng, response: f"**{response}**",
    lambda rng, response: response.replace("\n\n", "\n"),
    lambda rng, response: response.replace("\n", "\n\n"),
    lambda rng, response: f"{response}\n{response}",
    lambda rng, response: f"```\n{response}\n```",
    lambda rng, response: f"{response} {sentence(rng)}",
    lambda rng, response: response.replace("-", " - ", 1),
)


def _keywords(rng: random.Random) -> tuple[Kwargs, str]:
    return {"keywords": rng.sample([*NOUNS, *THINGS], rng.randint(1, 2))}, text(rng)


def _frequency(rng: random.Random) -> tuple[Kwargs, str]:
    response, keyword = text(rng), rng.choice([*NOUNS, "the", "it", "a"])
    times = response.lower().split().count(keyword)
    return {"keyword": keyword, "frequency": near(rng, times) or 1, "relation": rng.choice(RELATIONS)}, response


def _forbidden(rng: random.Random) -> tuple[Kwargs, str]:
    return {"forbidden_words": rng.sample([*NOUNS, *VERBS], rng.randint(1, 3))}, text(rng)


def _letter(rng: random.Random) -> tuple[Kwargs, str]:
    response, letter = text(rng), rng.choice("aeiostzq")
    times = near(rng, response.lower().count(letter)) or 1
    return {"letter": letter, "let_frequency": times, "let_relation": rng.choice(RELATIONS)}, response


def _language(rng: random.Random) -> tuple[Kwargs, str]:
    said, asked = rng.choice(list(LANGUAGES)), rng.choice(list(LANGUAGES))
    return {"language": said if rng.random() < 0.6 else asked}, LANGUAGES[said]


def _sentences(rng: random.Random) -> tuple[Kwargs, str]:
    response = text(rng)
    number = near(rng, response.count(". ") + response.count("? ") + response.count("\n\n") + 1) or 1
    return {"num_sentences": number, "relation": rng.choice(RELATIONS)}, response


def _words(rng: random.Random) -> tuple[Kwargs, str]:
    response = text(rng)
    return {"num_words": near(rng, len(response.split())) or 1, "relation": rng.choice(RELATIONS)}, response


def _divided(rng: random.Random) -> tuple[Kwargs, str]:
    number = rng.randint(1, 4)
    divider = rng.choice(["\n***\n", "\n\n***\n\n", "\n* * *\n", " *** ", "\n\n"])
    response = divider.join(paragraph(rng) for _ in range(number))
    return {"num_paragraphs": max(1, number + rng.choice((0, 0, 0, 1, -1)))}, response


def _nth_paragraph(rng: random.Random) -> tuple[Kwargs, str]:
    parts = [paragraph(rng) for _ in range(rng.randint(1, 4))]
    number = max(1, len(parts) + rng.choice((0, 0, 0, 1)))
    nth = rng.randint(1, number)
    first = parts[min(nth, len(parts)) - 1].split()[0].strip('".,').lower() if rng.random() < 0.7 else rng.choice(NOUNS)
    return {"num_paragraphs": number, "nth_paragraph": nth, "first_word": first}, "\n\n".join(parts)


def _placeholders(rng: random.Random) -> tuple[Kwargs, str]:
    number = rng.randint(0, 4)
    marks = rng.choices(
        ["[name]", "[full address]", "[]", "[a link](www.example.com)", "[ ]"], weights=[6, 6, 1, 1, 1], k=number
    )
    return {"num_placeholders": rng.randint(1, 4)}, " ".join([paragraph(rng), *marks])


def _postscript(rng: random.Random) -> tuple[Kwargs, str]:
    marker = rng.choice(["P.S.", "P.P.S"])
    said = rng.choice([marker, marker, marker, "P.S.", "P.P.S.", "PS:", "p. s.", "**P.S.**"])
    return {"postscript_marker": marker}, text(rng) + rng.choice(["\n\n", "\n", " "]) + f"{said} {sentence(rng)}"


def _bullets(rng: random.Random) -> tuple[Kwargs, str]:
    number, mark = rng.randint(1, 5), rng.choice(["* ", "- ", "* ", "1. ", "*", "• "])
    response = paragraph(rng) + "\n\n" + "\n".join(mark + sentence(rng) for _ in range(number))
    return {"num_bullets": max(1, number + rng.choice((0, 0, 0, 1)))}, response + rng.choice(
        ["", "", "\n---\n" + paragraph(rng)]
    )


def _constrained(rng: random.Random) -> tuple[Kwargs, str]:
    said = rng.choice(
        ["My answer is yes.", "My answer is no.", "My answer is maybe.", "My answer is yes", "Yes.", "my answer is no."]
    )
    return {}, rng.choice([said, f"{said} {sentence(rng)}", f"{said} My answer is no."])


def _highlights(rng: random.Random) -> tuple[Kwargs, str]:
    marks = [
        rng.choice(["*{}*", "**{}**", "***{}***", "_{}_", "2 * 3 * 4", "{}"]).format(sentence(rng))
        for _ in range(rng.randint(1, 5))
    ]
    return {"num_highlights": rng.randint(1, 4)}, rng.choice([" ", "\n"]).join(marks)


def _sections(rng: random.Random) -> tuple[Kwargs, str]:
    name, number = rng.choice(["Section", "SECTION", "Part"]), rng.randint(1, 4)
    form = rng.choice(["{} {}\n{}", "## {} {}\n{}", "**{} {}:** {}", "{} {}. {}", "{} {}"])
    body = "\n\n".join(form.format(name, at + 1, paragraph(rng)) for at in range(number))
    return {"section_spliter": name, "num_sections": max(1, number + rng.choice((0, 0, 1, -1)))}, body


def _json(rng: random.Random) -> tuple[Kwargs, str]:
    value: Any = rng.choice([{"a": sentence(rng)}, [sentence(rng), 3], sentence(rng), 7, {}, {"a": {"b": [None, 1.5]}}])
    body = rng.choice([json.dumps(value), json.dumps(value, indent=2), str(value)])
    return {}, rng.choice(["{}", "```json\n{}\n```", "```\n{}\n```", "Here it is: {}"]).replace("{}", body)


def _title(rng: random.Random) -> tuple[Kwargs, str]:
    return {}, rng.choice(["<<{}>>", "<< {} >>", "<{}>", "<<>>", "# {}"]).format(f"A {rng.choice(NOUNS)}") + "\n" + text(rng)


def _two(rng: random.Random) -> tuple[Kwargs, str]:
    parts = [paragraph(rng) for _ in range(rng.choice((1, 2, 2, 2, 3)))]
    if len(parts) == 2 and rng.random() < 0.2:
        parts[1] = rng.choice([parts[0], parts[0].lower()])
    return {}, rng.choice(["\n******\n", "******", "\n\n******\n\n", "\n*****\n", "\n*******\n"]).join(parts)


def _repeat(rng: random.Random) -> tuple[Kwargs, str]:
    request = sentence(rng)
    said = rng.choice([request, request, request.upper(), request.replace(" ", "  ", 1), _drop_word(rng, request)])
    return {"prompt_to_repeat": request}, said + rng.choice(["", "\n\n" + text(rng), " " + sentence(rng)])


def _end(rng: random.Random) -> tuple[Kwargs, str]:
    phrase = rng.choice(["Any other questions?", "Is there anything else I can help with?", "That is all."])
    said = rng.choice([phrase, phrase, phrase.lower(), phrase + "!", f"**{phrase}**", phrase.rstrip("?.")])
    return {"end_phrase": phrase}, rng.choice([text(rng) + "\n\n", text(rng) + " ", ""]) + said


def _quoted(rng: random.Random) -> tuple[Kwargs, str]:
    return {}, rng.choice(['"{}"', "“{}”", "'{}'", "{}", '"{}" ', '"{}".']).format(paragraph(rng))


def _capitals(rng: random.Random) -> tuple[Kwargs, str]:
    words = text(rng).split(" ")
    words = [word.upper() if rng.random() < 0.1 else word for word in words]
    number = near(rng, sum(word.strip('".,;:?!()*').isupper() for word in words)) or 1
    return {"capital_frequency": number, "capital_relation": rng.choice(RELATIONS)}, " ".join(words)


def _upper(rng: random.Random) -> tuple[Kwargs, str]:
    return {}, rng.choice([text(rng).upper(), text(rng).upper(), text(rng), LANGUAGES["de"].upper(), sentence(rng).upper()])


def _lower(rng: random.Random) -> tuple[Kwargs, str]:
    return {}, rng.choice([text(rng).lower(), text(rng).lower(), text(rng), LANGUAGES["fr"].lower(), sentence(rng).lower()])


def _commas(rng: random.Random) -> tuple[Kwargs, str]:
    response = text(rng)
    return {}, rng.choice([response, response.replace(",", ""), response.replace(",", "،")])


def _range(rng: random.Random) -> tuple[Kwargs, str]:
    response = text(rng)
    low = near(rng, len(response.split()))
    return {"min_words": low, "max_words": low + rng.randint(1, 5)}, response


def _number(key: str, measure: Callable[[str], int]) -> Callable[[random.Random], tuple[Kwargs, str]]:
    def made(rng: random.Random) -> tuple[Kwargs, str]:
        response = text(rng)
        return {key: near(rng, measure(response)) or 1}, response

    return made


def _sentence_keyword(rng: random.Random) -> tuple[Kwargs, str]:
    parts = [sentence(rng) for _ in range(rng.randint(1, 6))]
    at = rng.randrange(len(parts))
    return {"word": rng.choice([*NOUNS[:4], *parts[at].strip(".").split()]), "N": at + 1}, " ".join(parts)


def _position(rng: random.Random) -> tuple[Kwargs, str]:
    parts = [sentence(rng) for _ in range(rng.randint(1, 5))]
    n = rng.randrange(len(parts))
    words = parts[n].split()
    m = rng.randrange(len(words))
    return {"keyword": words[m].strip('.,;:?!"()'), "n": n + 1, "m": m + 1}, " ".join(parts)


def _plain(rng: random.Random) -> tuple[Kwargs, str]:
    return {}, text(rng)


DRESSED: Mapping[str, Callable[[random.Random], tuple[Kwargs, str]]] = {
    "keywords:existence": _keywords,
    "keywords:frequency": _frequency,
    "keywords:forbidden_words": _forbidden,
    "keywords:letter_frequency": _letter,
    "language:response_language": _language,
    "length_constraints:number_sentences": _sentences,
    "length_constraints:number_paragraphs": _divided,
    "length_constraints:number_words": _words,
    "length_constraints:nth_paragraph_first_word": _nth_paragraph,
    "detectable_content:number_placeholders": _placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:constrained_response": _constrained,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:json_format": _json,
    "detectable_format:title": _title,
    "combination:two_responses": _two,
    "combination:repeat_prompt": _repeat,
    "startend:end_checker": _end,
    "startend:quotation": _quoted,
    "change_case:capital_word_frequency": _capitals,
    "change_case:english_capital": _upper,
    "change_case:english_lowercase": _lower,
    "punctuation:no_comma": _commas,
    "count:word_count_range": _range,
    "count:unique_word_count": _number("N", lambda response: len(set(response.lower().split()))),
    "count:conjunctions": _number("small_n", lambda response: 3),
    "count:pronouns": _number("N", lambda response: sum(w in ("it", "i", "my", "he", "she") for w in response.lower().split())),
    "count:numbers": _number("N", lambda response: sum(w[0].isdigit() for w in response.split())),
    "ratio:stop_words": _number("percentage", lambda response: 42),
    "words:repeats": _number("small_n", lambda response: max(map(response.lower().split().count, response.lower().split()))),
    "sentence:keyword": _sentence_keyword,
    "words:keywords_specific_position": _position,
    "words:start_verb": _plain,
}
