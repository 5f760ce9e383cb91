"""Which function checks which instruction: the published ids of IFEval, IFBench and the training set of IF-RLVR.

Sources: arXiv 2311.07911 (IFEval, 25 ids) and arXiv 2507.02833 (IFBench, 58 ids; its training set, 29 further ids).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

from rewards.instructions import content, copying, counts, custom, format, keywords, layout, length, sentences, whole, words

Check: TypeAlias = Callable[..., bool]  # the response, then keyword arguments by their published names

IFEVAL: Mapping[str, Check] = MappingProxyType(
    {
        "keywords:existence": keywords.existence,
        "keywords:frequency": keywords.frequency,
        "keywords:forbidden_words": keywords.forbidden_words,
        "keywords:letter_frequency": keywords.letter_frequency,
        "language:response_language": whole.response_language,
        "length_constraints:number_sentences": length.number_sentences,
        "length_constraints:number_paragraphs": length.number_paragraphs,
        "length_constraints:number_words": length.number_words,
        "length_constraints:nth_paragraph_first_word": length.nth_paragraph_first_word,
        "detectable_content:number_placeholders": content.number_placeholders,
        "detectable_content:postscript": content.postscript,
        "detectable_format:number_bullet_lists": format.number_bullet_lists,
        "detectable_format:constrained_response": format.constrained_response,
        "detectable_format:number_highlighted_sections": format.number_highlighted_sections,
        "detectable_format:multiple_sections": format.multiple_sections,
        "detectable_format:json_format": format.json_format,
        "detectable_format:title": format.title,
        "combination:two_responses": whole.two_responses,
        "combination:repeat_prompt": whole.repeat_prompt,
        "startend:end_checker": whole.end_checker,
        "startend:quotation": whole.quotation,
        "change_case:capital_word_frequency": whole.capital_word_frequency,
        "change_case:english_capital": whole.english_capital,
        "change_case:english_lowercase": whole.english_lowercase,
        "punctuation:no_comma": whole.no_comma,
    }
)
IFBENCH: Mapping[str, Check] = MappingProxyType(
    {
        "count:word_count_range": counts.word_count_range,
        "count:unique_word_count": counts.unique_word_count,
        "count:conjunctions": counts.conjunctions,
        "count:person_names": counts.person_names,
        "count:pronouns": counts.pronouns,
        "count:numbers": counts.numbers,
        "count:punctuation": counts.punctuation,
        "count:words_japanese": counts.words_japanese,
        "count:keywords_multiple": counts.keywords_multiple,
        "ratio:stop_words": counts.stop_words,
        "ratio:overlap": counts.overlap,
        "ratio:sentence_type": counts.sentence_type,
        "ratio:sentence_balance": counts.sentence_balance,
        "ratio:sentence_words": counts.sentence_words,
        "words:alphabet": words.alphabet,
        "words:vowel": words.vowel,
        "words:consonants": words.consonants,
        "words:palindrome": words.palindrome,
        "words:prime_lengths": words.prime_lengths,
        "words:repeats": words.repeats,
        "words:odd_even_syllables": words.odd_even_syllables,
        "words:start_verb": words.start_verb,
        "words:no_consecutive": words.no_consecutive,
        "words:words_position": words.words_position,
        "words:keywords_specific_position": words.keyword_position,
        "words:last_first": sentences.last_first,
        "words:paragraph_last_first": sentences.paragraph_last_first,
        "sentence:keyword": sentences.keyword,
        "sentence:increment": sentences.increment,
        "sentence:alliteration_increment": sentences.alliteration_increment,
        "format:parentheses": layout.parentheses,
        "format:quotes": layout.quotes,
        "format:options": layout.options,
        "format:newline": layout.newline,
        "format:emoji": layout.emoji,
        "format:line_indent": layout.line_indent,
        "format:quote_unquote": layout.quote_unquote,
        "format:list": layout.special_list,
        "format:thesis": layout.thesis,
        "format:sub-bullets": layout.sub_bullets,
        "format:no_bullets_bullets": layout.no_bullets_bullets,
        "format:title_case": layout.title_case,
        "format:output_template": layout.output_template,
        "format:no_whitespace": layout.no_whitespace,
        "repeat:repeat_simple": copying.repeat_simple,
        "repeat:repeat_change": copying.repeat_change,
        "repeat:repeat_span": copying.repeat_span,
        "custom:multiples": custom.multiples,
        "custom:mcq_count_length": custom.mcq_count_length,
        "custom:reverse_newline": custom.reverse_newline,
        "custom:word_reverse": custom.word_reverse,
        "custom:character_reverse": custom.character_reverse,
        "custom:sentence_alphabet": custom.sentence_alphabet,
        "custom:european_capitals_sort": custom.european_capitals_sort,
        "custom:csv_city": custom.csv_city,
        "custom:csv_special_character": custom.csv_special_character,
        "custom:csv_quotes": custom.csv_quotes,
        "custom:date_format_list": custom.date_format_list,
    }
)
IFTRAIN: Mapping[str, Check] = MappingProxyType(
    {
        "copy:copy": copying.copy,
        "copy:copying_simple": copying.copy,
        "copy:copying_multiple": copying.copying_multiple,
        "copy:repeat_phrase": copying.repeat_phrase,
        "new:copy_span_idx": copying.copy_span_idx,
        "keywords:no_adjacent_consecutive": words.no_adjacent_consecutive,
        "keywords:word_once": words.word_once,
        "keywords:word_count_different_numbers": words.word_count_different_numbers,
        "keywords:exclude_word_harder": words.exclude_word_harder,
        "keywords:palindrome": words.any_palindrome,
        "keywords:keyword_specific_position": words.keyword_position,
        "keywords:start_end": words.start_end,
        "first_word:first_word_answer": words.first_word_answer,
        "first_word:first_word_sent": sentences.first_word_sent,
        "last_word:last_word_answer": words.last_word_answer,
        "last_word:last_word_sent": sentences.last_word_sent,
        "paragraphs:paragraphs": sentences.two_paragraphs,
        "paragraphs:paragraphs2": sentences.two_paragraphs_by_lines,
        "detectable_format:sentence_hyphens": sentences.sentence_hyphens,
        "detectable_format:square_brackets": layout.square_brackets,
        "detectable_format:bigram_wrapping": layout.bigram_wrapping,
        "punctuation:punctuation_dot": layout.no_dots,
        "punctuation:punctuation_exclamation": layout.no_exclamation,
        "count:lowercase_counting": counts.lowercase_counting,
        "count:counting_composition": sentences.counting_composition,
        "count:count_unique": counts.count_unique,
        "count:count_increment_word": counts.count_increment_word,
        "letters:letter_counting": counts.letter_counting,
        "letters:letter_counting2": keywords.letter_frequency,
    }
)
CHECKS: Mapping[str, Check] = MappingProxyType({**IFEVAL, **IFBENCH, **IFTRAIN})
