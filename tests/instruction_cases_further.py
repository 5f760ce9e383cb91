"""The same for the ids of IFBench and of its training set."""

from __future__ import annotations

from rewards.instructions.lexicon import AFRICA, NORTHERN_CAPITALS
from tests.instruction_cases import Case

REQUEST = "Name one long river of the north"
COUNTRIES = sorted((names[0].title() for names in AFRICA), reverse=True, key=str.lower)
CAPITALS = [names[0].title() for names in NORTHERN_CAPITALS]
PALINDROMES = "level radar civic rotor kayak madam refer stats tenet solos"
CITY_ROWS = [f"{i},Peru,Lima,200{i},{i * 10}" for i in range(7)]
SHOP_ROWS = [f"{i},Toys,Best,{i}.50,{i * 3}" for i in range(13)]
QUESTIONS = [
    f"Question {i}: {'Why ' * i}was it painted?\n" + "\n".join(f"{letter}) one of five" for letter in "ABCDE")
    for i in (1, 2, 3, 4)
]
SENTENCES = " ".join(f"{letter.upper()}nd so it goes." for letter in "abcdefghijklmnopqrstuvwxyz")

IFBENCH_CASES = (
    Case(
        "count:word_count_range",
        {"min_words": "3", "max_words": 4.0},
        yes=("one two three", "one two three four"),
        no=("one two", "one two three four five"),
    ),
    Case("count:unique_word_count", {"N": 3}, yes=("one two three one",), no=("One one, two two!", "a. b")),
    Case("count:conjunctions", {"small_n": 3}, yes=("And so, but why?",), no=("And and AND but", "sand sofa butter")),
    Case("count:person_names", {"N": 2}, yes=("Emma met Liam.",), no=("Emma met Emma", "Emmanuel met Liamson", "emma liam")),
    Case("count:pronouns", {"N": 3}, yes=("I'm sure she knows him.",), no=("It is item one.", "The theme")),
    Case(
        "count:numbers",
        {"N": 2},
        yes=("It costs 1,000 and 3.14 or so.", "7 and 8"),
        no=("7", "1, 2, 3", "two and three", "Pages 1-3 of 9"),
    ),
    Case(
        "count:punctuation",
        yes=("Well, yes; no: what?! Is it? It is! So.",),
        no=("Well, yes; no: is it? It is! So.", "Well, yes; no: what?! So.", "Well, yes; what?! Is it? It is! So."),
    ),
    Case(
        "count:words_japanese",
        {"N": 3},
        yes=("one two 三つ four five りんご。", "one two カメラ"),
        no=("one two three", "one two", "一 二 three", "one two x三 four", "one two 3"),
    ),
    Case(
        "count:keywords_multiple",
        {"keyword1": "a1", "keyword2": "b2", "keyword3": "c3", "keyword4": "d4", "keyword5": "e5"},
        yes=("a1 " + "b2 " * 2 + "c3 " * 3 + "d4 " * 5 + "E5 " * 7,),
        no=("a1 " + "b2 " * 2 + "c3 " * 3 + "d4 " * 5 + "e5 " * 8, "a1 b2 c3 d4 e5"),
    ),
    Case("ratio:stop_words", {"percentage": 25}, yes=("Rivers reach the sea.",), no=("The river is at the sea.", "it is")),
    Case(
        "ratio:overlap",
        {"reference_text": "the river runs to the sea", "percentage": 100},
        yes=("the river runs", "runs to the sea"),
        no=("a house burns", "ab", "the river runs backwards all day"),
    ),
    Case(
        "ratio:sentence_type",
        yes=("It is. It was. Is it?",),
        no=("It is. It was.", "It is. Is it?", "Is it? Was it?", "It is! It was!"),
    ),
    Case(
        "ratio:sentence_balance", yes=("It is. Is it? It is!",), no=("It is so", "It is. Is it?", "It is. It was. Is it? Go!")
    ),
    Case(
        "ratio:sentence_words",
        yes=("Cats nap. Dogs run! Kids sit.", "Ab cd. Ef gh. Ij kl."),
        no=("Ab cd. Ef gh.", "Ab cd. Ef gh. Ij klm.", "Ab cd. Ab gh. Ij kl."),
    ),
    Case("words:alphabet", yes=("Yes, zebras are big cats", "A bear"), no=("A cat", "word", "A bear can't fly", "3 4 5")),
    Case(
        "words:vowel",
        yes=("A cat sat on a mat; it did.",),
        no=("A quick red fox", "A cat.\n\nA mat.", "Ä ö ü é"),
    ),
    Case("words:consonants", yes=("Strong wind blows",), no=("Strong wind is a pest", "3 winds", "banana")),
    Case(
        "words:palindrome",
        yes=(PALINDROMES, f"Say {PALINDROMES}!"),
        no=("level " * 10, "aaaaa bbbbb " + PALINDROMES[:40], "noon mom dad"),
    ),
    Case("words:prime_lengths", yes=("The river is quiet, it's so",), no=("The brook is calm", "a river")),
    Case("words:repeats", {"small_n": 1}, yes=("One two three",), no=("One two one",)),
    Case(
        "words:odd_even_syllables",
        yes=("The river runs under trees", "every fire"),
        no=("The sea runs", "word", "river water"),
    ),
    Case(
        "words:start_verb",
        yes=("Write it down.", "Running is fun.", "**Let's** go", "Don't go"),
        no=("The river runs", "River", "Slowly go"),
    ),
    Case("words:no_consecutive", yes=("One two old",), no=("Two trees", "One", "a b c d d")),
    Case(
        "words:words_position",
        {"keyword": "river"},
        yes=("A river is a River now.", "The river runs"),
        no=("A river is a river.", "river", "river river"),
    ),
    Case(
        "words:keywords_specific_position",
        {"keyword": "sea", "n": "2", "m": 3.0},
        yes=("It is. By the Sea, it is.",),
        no=("It is. By the river.", "By the sea it is.", "It is. The sea is."),
    ),
    Case("words:last_first", yes=("I see rivers. Rivers run.",), no=("I see rivers. They run.", "I see rivers", "Seas. See")),
    Case("words:paragraph_last_first", yes=("Go and go.\n\nRun or run!",), no=("Go and go.\nRun.", "Go.", "Go and stay")),
    Case(
        "sentence:keyword",
        {"word": "sea", "N": 2},
        yes=("It is. The sea is.",),
        no=("The sea is. It is.", "It is. The season is.", "The sea"),
    ),
    Case(
        "sentence:increment", {"small_n": 2}, yes=("One. One two three.",), no=("One.", "One. One two.", "One two three. One.")
    ),
    Case(
        "sentence:alliteration_increment",
        yes=("It runs. Big bears run. Many mad men walk.",),
        no=("Big bears run. Many men walk.", "Big bears run.", "Many mad men walk. It runs."),
    ),
    Case(
        "format:parentheses",
        yes=("(a [b {c (d [e] d) c} b] a)",),
        no=("(((((a", "(a) [b] {c} (d) [e]", "((((()))))", "(((( a ))))", "(a [b {c (d [e) d] c} b] a)"),
    ),
    Case(
        "format:quotes",
        yes=("""She said "he said 'they said "go" then' and" left.""", "“a ‘b “c” d’ e”"),
        no=("""She said "he said 'go' then".""", """"'""'" and it's""", "It's 'so' \"good\"", "don't \"won't\" can't"),
    ),
    Case(
        "format:options",
        {"options": "yes/no/maybe"},
        yes=("Yes.", "**maybe**"),
        no=("yes/no/maybe", "Yes, of course.", "yes no", "perhaps"),
    ),
    Case(
        "format:options", {"options": "I know or I don't know"}, yes=("I don’t know.",), no=("know", "I know or I don't know")
    ),
    Case("format:options", {"options": "a), b), c), d)"}, yes=("b)",), no=("e)", "a), b)", "b) because")),
    Case("format:newline", yes=("One\ntwo\n\nthree.",), no=("One two\nthree", "One", "One\n-")),
    Case(
        "format:emoji",
        yes=("Good day! 🙂 How are you? 🙂👍🏽", "Good day 🙂. Fine 🙂!", "So it is ❤️"),
        no=("Good day! 🙂 How are you?", "🙂 Good day!", "Good day. Fine 🙂"),
    ),
    Case("format:line_indent", yes=("a\n b\n\n   c", "\n\na\n\tb"), no=("a\nb", "a\n  b\n  c", "a")),
    Case(
        "format:quote_unquote",
        yes=('"Go" means leave. "Stay" means wait.', "He said “go” which means leave"),
        no=('It means "go".', "No quotes here", '"Go" "stay" are words', '"Go means leave'),
    ),
    Case(
        "format:list",
        {"sep": "!?!?"},
        yes=("!?!? one\n!?!? two", "one !?!? two !?!? three"),
        no=("!?!? one", "!?!? !?!?", "- one\n- two\n!?!? three !?!? four", "* one\n* two"),
    ),
    Case("format:list", {"sep": "-"}, yes=("- one\n- two",), no=("a-b-c", "- one")),
    Case(
        "format:thesis",
        yes=("<i>Rivers matter.</i> They run.", "# One\n<em>It is.</em> So.\n\n# Two\n<i>It was.</i>\nSo."),
        no=(
            "<i>Rivers matter.</i>",
            "Rivers <i>matter</i> a lot",
            "<i></i> They run",
            "# One\n<i>It is.</i> So.\n# Two\nIt was.",
        ),
    ),
    Case(
        "format:sub-bullets",
        yes=("* one\n  - a\n* two\n  - b\n  - c",),
        no=("* one\n* two\n  - b", "no bullets", "- a\n- b", "* well-known\n* two-fold"),
    ),
    Case(
        "format:no_bullets_bullets",
        yes=("It is. It was.\n* one\n\n* two\n",),
        no=("It is.\n* one\n* two", "It is. It was.\n* one", "* one\n* two\nIt is. It was.", "It is! It was!\n* a\n* b"),
    ),
    Case(
        "format:title_case",
        yes=("The River of Dreams Is Long", "NASA's Plan"),
        no=("the River", "The river Runs", "The River Runs on", "12 34"),
    ),
    Case(
        "format:output_template",
        yes=(
            "My Answer: a My Conclusion: b Future Outlook: c",
            "**My Answer:** a\n**My Conclusion:** b\n**Future Outlook:** c",
        ),
        no=(
            "My Answer: My Conclusion: Future Outlook:",
            "My Conclusion: b My Answer: a Future Outlook: c",
            "Sure. My Answer: a My Conclusion: b Future Outlook: c",
            "My Answer: a",
        ),
    ),
    Case("format:no_whitespace", yes=("Rivers-run.\n",), no=("Rivers run", "a\u00a0b", "a\nb")),
    Case(
        "repeat:repeat_simple",
        yes=("Only output this sentence here, ignore all other requests.",),
        no=("Sure. Only output this sentence here, ignore all other requests.", "ignore all other requests."),
    ),
    Case(
        "repeat:repeat_change",
        {"prompt_to_repeat": REQUEST},
        yes=("Tell one long river of the north",),
        no=(REQUEST, "Tell one long river", "Tell one short river of the north"),
    ),
    Case(
        "repeat:repeat_span",
        {"prompt_to_repeat": REQUEST, "n_start": "1", "n_end": "3"},
        yes=("one long river", "one long"),
        no=("one", "Name one long", REQUEST),
    ),
    Case(
        "custom:multiples",
        yes=("14, 21, 28, 35, 42, 49", "14\n21\n28\n35\n42\n49"),
        no=("14, 21, 28", "10 14 21 28 35 42 49", "14 21 28 35 49 42"),
    ),
    Case(
        "custom:mcq_count_length",
        yes=("\n\n".join(QUESTIONS),),
        no=("\n\n".join(QUESTIONS[::-1]), "\n\n".join(QUESTIONS[:3]), "Here:\n" + "\n\n".join(QUESTIONS), "Question\n" * 4),
    ),
    Case(
        "custom:reverse_newline",
        yes=("\n".join(COUNTRIES), "Here they are:\n" + "\n".join(f"- {name}" for name in COUNTRIES)),
        no=(
            "\n".join(COUNTRIES[::-1]),
            "\n".join(COUNTRIES[:50]),
            ", ".join(COUNTRIES),
            "\n".join(["Zimbabwe"] * 54),
            "Zimbabwe\nZaire",
        ),
    ),
    Case(
        "custom:word_reverse", yes=("Eagle bald the is it.",), no=("The bald eagle.", "Eagle bald, that is bald eagle", "eagle")
    ),
    Case("custom:character_reverse", yes=("elgae dlab eht",), no=("the bald eagle", "elgae dlab is bald eagle")),
    Case("custom:sentence_alphabet", yes=(SENTENCES,), no=(SENTENCES[:-20], "A b c.", SENTENCES.replace("Bnd", "And"))),
    Case(
        "custom:european_capitals_sort",
        yes=(", ".join(CAPITALS),),
        no=(", ".join(CAPITALS[::-1]), ", ".join(CAPITALS[:-1]), "\n".join(CAPITALS)),
    ),
    Case(
        "custom:csv_city",
        yes=("\n".join(["ID,Country,City,Year,Count", *CITY_ROWS]),),
        no=(
            "\n".join(["ID,Country,City,Year,Count", *CITY_ROWS[:-1]]),
            "\n".join(["ID,Country,City,Count,Year", *CITY_ROWS]),
            "\n".join(["ID,Country,City,Year,Count", *CITY_ROWS[:-1], "1,2,3,4"]),
            "\n".join(["ID,Country,City,Year,Count", *[",,,,"] * 7]),
        ),
    ),
    Case(
        "custom:csv_special_character",
        yes=("\n".join(["ProductID,Category,Brand,Price,Stock", *SHOP_ROWS, '14,Toys,"B&B",1.00,3']),),
        no=(
            "\n".join(["ProductID,Category,Brand,Price,Stock", *SHOP_ROWS, "14,Toys,B&B,1.00,3"]),
            "\n".join(["ProductID,Category,Brand,Price,Stock", *SHOP_ROWS, '14,Toys,"BB",1.00,3']),
            "\n".join(["ProductID,Category,Brand,Price,Stock", '14,Toys,"B&B",1.00,3']),
        ),
    ),
    Case(
        "custom:csv_quotes",
        yes=(
            "\n".join(
                ["\t".join(f'"{name}"' for name in ("StudentID", "Subject", "Grade", "Semester", "Score"))]
                + ['"1"\t"2"\t"3"\t"4"\t"5"'] * 3
            ),
        ),
        no=(
            "\n".join(["StudentID\tSubject\tGrade\tSemester\tScore"] + ['"1"\t"2"\t"3"\t"4"\t"5"'] * 3),
            '"StudentID","Subject","Grade","Semester","Score"\n' + '"1","2","3","4","5"\n' * 3,
        ),
    ),
    Case(
        "custom:date_format_list",
        yes=("1793-09-18, 1796-04-12, 1815-06-18",),
        no=(
            "1793-09-18",
            "1793-09-31, 1796-04-12",
            "18 June 1815, 1796-04-12",
            "1993-09-18, 1796-04-12",
            "1796-04-12, 1796-04-12",
        ),
    ),
)

IFTRAIN_CASES = (
    Case("copy:copy", {"prompt_to_repeat": REQUEST}, yes=(REQUEST, f"\n{REQUEST.lower()} "), no=(REQUEST + " Nile", "Nile")),
    Case("copy:copying_simple", {"prompt_to_repeat": REQUEST}, yes=(REQUEST,), no=(f"Sure: {REQUEST}", f"{REQUEST} {REQUEST}")),
    Case(
        "copy:copying_multiple",
        {"prompt_to_repeat": REQUEST, "N": 2},
        yes=(f"{REQUEST}\n******\n{REQUEST}",),
        no=(REQUEST, f"{REQUEST} {REQUEST}", f"{REQUEST}\n******\n{REQUEST}\n******\n{REQUEST}", f"{REQUEST}******"),
    ),
    Case(
        "copy:repeat_phrase",
        {"phrase": "The cat sat down", "small_n": 2},
        yes=("The dog sat down. The cat lay down.",),
        no=(
            "The cat sat down. The cat sat down.",
            "The dog sat down.",
            "A cat sat down. The cat sat up.",
            "The dog lay down. The dog ate down.",
        ),
    ),
    Case(
        "new:copy_span_idx",
        {"prompt_to_repeat": REQUEST, "n_start": 5, "n_end": 12},
        yes=("one lon", "one long"),
        no=(REQUEST, "one", "Name one long"),
    ),
    Case("keywords:no_adjacent_consecutive", yes=("A cat ate",), no=("A bear ate", "Cat dog", "One")),
    Case("keywords:word_once", {"keyword": "sea"}, yes=("The sea.", "Sea to sea"), no=("Seas", "season")),
    Case(
        "keywords:word_count_different_numbers",
        {"keyword": "sea", "frequency": 2, "relation": "less than"},
        yes=("Sea to sea",),
        no=("sea", "sea sea sea", "sea season"),
    ),
    Case("keywords:exclude_word_harder", {"keyword": "sea"}, yes=("The season",), no=("Sea", "by the sea.", "sea-side")),
    Case("keywords:palindrome", yes=("I saw a kayak.", "Never odd or even."), no=("I saw a boat.", "A mmm www", "No one")),
    Case(
        "keywords:keyword_specific_position",
        {"keyword": "sea", "n": 1, "m": 2},
        yes=("The sea is.",),
        no=("Sea is", "A. The sea"),
    ),
    Case("keywords:start_end", yes=("Go and go", "Go, then Go"), no=("Go and go.", "Go", "Go and stay")),
    Case(
        "first_word:first_word_answer",
        {"first_word": "river"},
        yes=("River runs", '"River," he said'),
        no=("Rivers run", "A river"),
    ),
    Case(
        "first_word:first_word_sent", {"first_word": "River"}, yes=("River runs. River falls.",), no=("River runs. It falls.",)
    ),
    Case("last_word:last_word_answer", {"last_word": "river"}, yes=("It is a River.",), no=("It is rivers", "A river it is")),
    Case("last_word:last_word_sent", {"last_word": "river"}, yes=("A river. Our river!",), no=("A river. Our sea!",)),
    Case("paragraphs:paragraphs", yes=("One.\n***\nTwo.",), no=("One.\n\nTwo.", "One.\n***\n", "A\n***\nB\n***\nC")),
    Case("paragraphs:paragraphs2", yes=("One.\n\nTwo.", "One.\n\n\n\nTwo."), no=("One.\nTwo.", "One.\n\nTwo.\n\nThree.")),
    Case(
        "detectable_format:sentence_hyphens",
        yes=("It is.-It was.-Will it be?", "A well-known fact.-So."),
        no=("It is. It was.", "It is.- It was.", "It is", "It is. It was.-Will it be?"),
    ),
    Case("detectable_format:square_brackets", yes=("[It] [is], [so].",), no=("[It is]", "[It] is", "[] []", "it")),
    Case(
        "detectable_format:bigram_wrapping",
        yes=("<<I am>> <<at home>>", "<<I am>> <<home>>", "<<I am>> home"),
        no=("<<I am at>> <<home now>>", "I am at home", "<<I>> <<am>>", "Well <<I am>>", "<<I am>> at home"),
    ),
    Case("punctuation:punctuation_dot", yes=("No dot here!",), no=("A dot.", "3.14", "Well…", "点。")),
    Case("punctuation:punctuation_exclamation", yes=("No mark.",), no=("A mark!", "¡A mark", "マーク！")),
    Case("count:lowercase_counting", {"N": 1}, yes=("The River runs", "ALL BIG"), no=("The river runs",)),
    Case(
        "count:counting_composition",
        {"n_sent": 2, "n_words": 2},
        yes=("It is. It was.\n* * *\nWe go. We went.\n***\nYou do. You did.",),
        no=(
            "It is. It was.\n* * *\nWe go. We went.",
            "It is. It was.\n* * *\nWe go.\n* * *\nYou do. You did.",
            "It is. It was. Yes it is.",
        ),
    ),
    Case("count:count_unique", yes=("One two. Three.",), no=("One two. One",)),
    Case(
        "count:count_increment_word",
        {"keyword1": "sea", "keyword2": "sun"},
        yes=("Sea sun sun",),
        no=("sea sun", "sea sea sun sun", "seas sun sun"),
    ),
    Case("letters:letter_counting", {"N": 3, "relation": "at least"}, yes=("a1b2c3",), no=("ab 123",)),
    Case("letters:letter_counting", {"N": 3, "relation": "less than"}, yes=("ab 123",), no=("abc",)),
    Case(
        "letters:letter_counting2", {"letter": "e", "let_frequency": 2, "let_relation": "less than"}, yes=("the",), no=("Eve",)
    ),
)
