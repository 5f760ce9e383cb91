"""For each instruction id of IFEval: keyword arguments, responses that follow it and responses that do not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Case:
    instruction: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    yes: tuple[str, ...] = ()
    no: tuple[str, ...] = ()


IFEVAL_CASES = (
    Case(
        "keywords:existence",
        {"keywords": ["river", "deep sea", "c++"]},
        yes=("A River meets the deep\nsea in C++.",),
        no=("Rivers meet the deep sea in C++.", "a river and c++", "criver deep seas c++"),
    ),
    Case(
        "keywords:frequency",
        {"keyword": "art", "frequency": 2, "relation": "at least"},
        yes=("Art is art.", "art, ART and art"),
        no=("Art starts the party.", "art"),
    ),
    Case(
        "keywords:frequency",
        {"keyword": "art", "frequency": 2, "relation": "less than"},
        yes=("Art starts the party.",),
        no=("art art",),
    ),
    Case(
        "keywords:forbidden_words",
        {"forbidden_words": ["cat", "ice cream"]},
        yes=("A category of ice.",),
        no=("The CAT.", "some Ice  Cream", "cat-like"),
    ),
    Case(
        "keywords:letter_frequency",
        {"letter": "E", "let_frequency": 3, "let_relation": "at least"},
        yes=("Eerie",),
        no=("ease",),
    ),
    Case(
        "keywords:letter_frequency",
        {"letter": "#", "let_frequency": 2, "let_relation": "at least"},
        yes=("# a #b",),
        no=("# a",),
    ),
    Case(
        "language:response_language",
        {"language": "de"},
        yes=("Der Hund läuft über die Straße, und das ist auch gut so.",),
        no=(
            "The dog runs down the street, and that is fine.",
            "Der Hund läuft über die Straße, und das ist auch sehr gut so für uns alle.\n"
            "The dog runs down the street and it is all very fine for us.",
            "12345",
        ),
    ),
    Case("language:response_language", {"language": "hi"}, yes=("यह एक कुत्ता है।",), no=("हे एक कुत्रा आहे आणि ते", "Namaste")),
    Case("language:response_language", {"language": "zh"}, yes=("今天天气很好。",), no=("今日は天気がいいですね。",)),
    Case(
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": "at least"},
        yes=("One here. Two there.", "One?\n\nTwo"),
        no=("Dr. No is one.", "... Hi. ?"),
    ),
    Case(
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": "less than"},
        yes=("Only one, e.g. this one.",),
        no=("One. Two.", "One.Two is here"),
    ),
    Case(
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 2},
        yes=("One.\n***\nTwo.", "***\nOne.\n***\nTwo ***words***.\n***", "One. *** Two."),
        no=(
            "One.\n\nTwo.",
            "One.\n***\n***\nTwo.",
            "One.\n***\nTwo.\n***\nThree.",
            "***One*** Two",
            "One\n****\nTwo",
            "***\n***",
        ),
    ),
    Case(
        "length_constraints:number_words",
        {"num_words": 3, "relation": "at least"},
        yes=("one two three", "well-known fact"),
        no=("don't won't", "a b"),
    ),
    Case("length_constraints:number_words", {"num_words": 3, "relation": "less than"}, yes=("don't won't",), no=("a-b-c",)),
    Case(
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "River"},
        yes=("One.\n\nRiver runs.", "One.\n \n\n**River**, it runs."),
        no=(
            "One.\n\nRivers run.",
            "One.\nRiver runs.",
            "One.\n\nRiver.\n\nThree.",
            "River.\n\nOne.",
            "One.\n\nRiver-like it runs.",
        ),
    ),
    Case(
        "detectable_content:number_placeholders",
        {"num_placeholders": 2},
        yes=("Dear [name], of [address].",),
        no=("Dear [name].", "[] [ ]", "- [ ] a\n- [ ] b", "[a link](x) and [another](y)"),
    ),
    Case(
        "detectable_content:postscript",
        {"postscript_marker": "P.S."},
        yes=("Dear you.\n\nP.S. Come soon.", "Dear you.\n**P. S.** Come", "Dear you.\np.s. come"),
        no=("P.S. Come soon.", "Dear you.\nP.S.", "Say P.S. in a line.", "Dear you.\n\nPsst, come."),
    ),
    Case(
        "detectable_content:postscript",
        {"postscript_marker": "P.P.S"},
        yes=("Dear you.\n\nP.P.S Come soon.", "Dear you.\n\nP.P.S. Come soon."),
        no=("Dear you.\n\nP.S. Come soon.",),
    ),
    Case(
        "detectable_format:number_bullet_lists",
        {"num_bullets": 2},
        yes=("* one\n* two", "Text\n- one\n\n- two\n---\n"),
        no=("* one", "- a\n- b\n- c", "-one\n-two", "1. one\n2. two", "*a* and\n*b*"),
    ),
    Case(
        "detectable_format:constrained_response",
        {},
        yes=("My answer is no.", "Well. My answer is maybe. It depends."),
        no=("My answer is yes. My answer is no. My answer is maybe.", "yes", "My answer is"),
    ),
    Case(
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        yes=("*one* and **two words**", "***one***\n*two*"),
        no=("*one*", "2 * 3 * 4 * 5", "* one\n* two\n* three", "** ** **", r"\*one\* \*two\*", "****"),
    ),
    Case(
        "detectable_format:multiple_sections",
        {"section_spliter": "Section", "num_sections": 2},
        yes=("Section 1\nOne.\nSection 2\nTwo.", "## Section 1: One\n\n**Section 2**: two"),
        no=(
            "Section 1 and Section 2",
            "Section 1\nSection 2\n",
            "Section 1\nOne\nSection 1\nTwo",
            "SECTION 1\na\nSECTION 2\nb",
        ),
    ),
    Case(
        "detectable_format:json_format",
        {},
        yes=('{"a": 1}', '```json\n["a"]\n```', "```\n[1]\n```"),
        no=("{}", "5", '"text"', "{'a': 1}", 'Here: {"a": 1}', "[NaN]", "[" * 100_000, "```json\n5\n```", "1" * 10_000),
    ),
    Case("detectable_format:title", {}, yes=("<<poem of joy>>\nText",), no=("<<>>", "<< >>", "<poem>", "<<poem\nof joy>>")),
    Case(
        "combination:two_responses",
        {},
        yes=("One.\n******\nTwo.",),
        no=("One.\n******\none.", "One.", "One.\n******\n", "A\n******\nB\n******\nC", "A\n*******\nB", "A\n******\n******\nB"),
    ),
    Case(
        "combination:repeat_prompt",
        {"prompt_to_repeat": "What is a river?"},
        yes=("What is a river?\n\nWater that runs.",),
        no=("What is a river?", "Water. What is a river?", "What is a river Water", "What is a river? ..."),
    ),
    Case(
        "startend:end_checker",
        {"end_phrase": "Any other questions?"},
        yes=("It is so. Any other questions?", '"It is so. any other questions?"\n'),
        no=("Any other questions? No.", "Any other questions?", "Any questions?"),
    ),
    Case("startend:quotation", {}, yes=('"A word."', "“A word.”"), no=('"', '""', '" "', 'A "word"', '"A" word', "'A word'")),
    Case(
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        yes=("NASA and ESA", "I saw NASA"),
        no=("NASA and Esa", "123 45"),
    ),
    Case(
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "less than"},
        yes=("NASA",),
        no=("A B",),
    ),
    Case(
        "change_case:english_capital",
        {},
        yes=("THE RIVER RUNS DOWN TO THE SEA.", "YES."),
        no=("THE RIVER Runs", "DER FLUSS IST AUCH NICHT DAS MEER UND DIE SEE.", "РЕКА", "123"),
    ),
    Case(
        "change_case:english_lowercase",
        {},
        yes=("the river runs down to the sea.",),
        no=("The river", "der fluss ist auch nicht das meer", "qwe rty uio pas dfg hjk zxc vbn qwe rty uio"),
    ),
    Case("punctuation:no_comma", {}, yes=("No; none.",), no=("One, two", "一，二", "一、二", "نعم، لا")),
)
