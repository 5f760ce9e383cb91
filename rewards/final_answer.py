r"""The final answer of a solution: the last \boxed{...}, else what follows the last `####`, else the last number or expression.

Where a text leaves open which answer is meant (alternatives, a list of candidates, an unfinished box), it has none: "".
"""

from __future__ import annotations

import re
import unicodedata

from rewards.equality.tokens import ascii_digits
from rewards.equality.units import is_unit
from rewards.literals import FRACTION, MAX_CHARS, NUMBER, PERCENT, clean, last_side, literal

MAX_END_CHARS = 8_000  # of a text without a box that are read
MAX_BOXES = 2  # different boxed answers: an intermediate result and the final one; more is a dump
MAX_PARTS = 8  # of an answer of several boxes or formulas, side by side
MAX_BARE_NUMBERS = 3  # in an answer of nothing but numbers; more is a dump

_ATOM = rf"\(*(?:{FRACTION}|{NUMBER})\)*"
_EXPRESSION = re.compile(rf"(?<![0-9])[-+]?{_ATOM}(?: ?(?:\*\*|[-+*/^×÷·]) ?-?{_ATOM})*{PERCENT}?")
_SEGMENT = re.compile(  # bounded, so that many openings without a closing cost no quadratic time
    r"\$\$(.{1,500}?)\$\$|\$([^$\n]{1,500})\$|\\\((.{1,500}?)\\\)|\\\[(.{1,500}?)\\\]", re.DOTALL
)
_TAG = re.compile(r"</?[A-Za-z]\w{0,30}>")
_EMPHASIS = re.compile(r"(?<!\w)(\*{1,3}|_{1,2}|`{1,3})(?=\S)([^*_`\n]*)\1(?!\w)")
# What may not stand before or after the last number of a sentence, because then it is not the answer or not all of it.
_BAD_BEFORE = re.compile(
    r"[0-9][)%]?[ \t]*(?:[,;/&|?x]|\band\b|\bor\b)?[ \t]*(?:\bor\b|\band\b)?[ \t]*\(?\Z"  # 41, 42 · 41 42 · 41 and 42
    r"|[0-9][^0-9.!\n=:]{0,20}\bor\b[^0-9.!\n=:]{0,20}\Z"  # 41 or maybe 42
    r"|(?:\bnot|!=|[<≠≤≥±{}\\]|(?<![-=])>)[ \t]*\Z"
    r"|[^\s][ \t]*[-+*/^×÷·][ \t]*\Z"  # x - 7, but not the bullet "- 7"
    r"|[0-9](?:\.|[ \t]*–[ \t]*)\Z"  # 1.000.42 · 41–42
    r"|\b(?:out|root|half|third|quarter|multiple|power|percent|log|sine|cosine|logarithm|factorial) of[ \t]*\(?\Z"
    r"|\b(?:sqrt|log|ln|sin|cos|tan|twice|double|triple|times|minus|negative)[ \t]*\(?\Z"
)
_BAD_AFTER = re.compile(
    r"[ \t]*(?:[*/^×÷·+±√π∞^_]|[-−]\s*(?:[A-Za-z]\b|\()|\\(?![\])])|"
    r"(?:pi|sqrt|times|hundred|thousand|[mb]illion|dozen|squared|cubed|factorial|choose)\b|[eixyzn]\b(?!\.)"
    r"|,?\s*or\b(?! (?:so|less|more)\b))"
)
_UNIT_POWER = re.compile(r"(?<=[0-9] )([a-z]{1,6})\^\{?[23]\}?(?![^\s.,;:)])")  # of 12 cm^2
_SIGN_WORD = re.compile(r"\b(?:minus|negative) (?=[0-9])")
_YES_NO = re.compile(r"\b(yes|no)\b(?![-'’])", re.IGNORECASE)
_FILLER = re.compile(r"[\s,;:.|/&()\[\]{}*#•·$\\-]|\band\b|\bor\b")
_JOINT = re.compile(r"(?:[\s,;$]|\\[()\[\]]|\band\b|\bor\b){0,20}")  # between the boxes or formulas of one answer
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
_MARK = re.compile(r"\b(?:is|are|be|equals)\b:?\s|:\s")
_LEAD = re.compile(
    r"\A(?:(?:so|thus|therefore|hence|then|finally|and|we (?:get|have)|option|choice|the)\b[,:]?\s*)+", re.IGNORECASE
)


def final_answer(text: str, *, is_number: bool, percent: bool) -> str:
    """The answer that a text ends in; "" where it has none.

    Args:
        is_number: whether one number is asked for, which several boxes cannot be, and which ends a sentence.
        percent: whether percent signs divide by 100.

    >>> final_answer("We get $x = 7$, so she has 42 apples.", is_number=True, percent=False)
    '42'
    """
    boxed = _boxed(text, may_join=not is_number)
    if boxed is not None:
        return boxed
    tail = _end_of(_after_hashes(text))
    if is_number and any(char.isdigit() for char in tail):
        return _last_number(tail, percent)
    return _last_expression(tail)


def yes_or_no(text: str) -> str:
    """The word that a text begins with, where the other one does not follow; else its final answer."""
    if _boxed(text, may_join=False) is None:
        tail = _end_of(_after_hashes(text))
        words = {word.lower() for word in _YES_NO.findall(tail)}
        if len(words) == 1 and _YES_NO.match(tail.lstrip(" \n*#_`\"'(")):
            return str(words.pop())
    return final_answer(text, is_number=False, percent=False)


def closing_brace(text: str, at: int) -> int | None:
    """The place of the brace that closes the one at `at`; None where none does. Escaped braces count for nothing."""
    depth = 0
    for match in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, at):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0 and match[0] == "}":
            return match.start()
    return None


def _boxed(text: str, *, may_join: bool) -> str | None:
    r"""The content of the last \boxed{...}; "" where boxes leave open what is meant; None without any box.

    `may_join`: boxes side by side, as in \boxed{1} and \boxed{2}, are one answer of several parts.
    """
    boxes: list[tuple[int, int, str]] = []
    at = text.find("\\boxed{")
    while at >= 0:
        end = closing_brace(text, at + len("\\boxed"))
        if end is None:
            return ""  # cut off inside a box
        percent = "\\%" if re.match(r"\s*\\?%", text[end + 1 : end + 20]) else ""
        boxes.append((at, end, text[at + len("\\boxed{") : end].strip() + percent))
        at = text.find("\\boxed{", end)
    if not boxes:
        return None
    contents = [content for *_, content in boxes]
    first = len(boxes) - 1  # of the boxes side by side that end the text
    while first > 0 and _JOINT.fullmatch(text[boxes[first - 1][1] + 1 : boxes[first][0]]):
        first -= 1
    run = list(dict.fromkeys(contents[first:]))
    if may_join and 1 < len(run) <= MAX_PARTS and len(set(contents[:first])) < MAX_BOXES:
        return ", ".join(run)
    if len(set(contents)) > MAX_BOXES:
        return ""
    if len(boxes) > 1 and contents[-1] != contents[-2]:
        between = re.sub(r"\\[(\[)\]]", "", text[boxes[-2][1] + 1 : boxes[-1][0]])
        if len(between) < 40 and (not _FILLER.sub("", between) or re.search(r"\bor\b", between)):
            return ""  # \boxed{41}, \boxed{42}
    content = contents[-1]
    return _boxed(content, may_join=may_join) if content.startswith("\\boxed{") else content


def _after_hashes(text: str) -> str:
    """What follows the last `####`; of that its first line alone where it is a number (a closing remark may follow)."""
    tail = text.rpartition("####")[2].strip()
    first = tail.partition("\n")[0]
    return first if "####" in text and literal(first, True) is not None else tail


def _end_of(text: str) -> str:
    """The last lines of a text, where its answer is; so that no long text costs much."""
    return text if len(text) <= MAX_END_CHARS else text[-MAX_END_CHARS:].partition("\n")[2] or text[-MAX_END_CHARS:]


def _last_number(text: str, percent: bool) -> str:
    """The last number or numeric expression of a sentence; "" where the text does not settle on one."""
    text = _EMPHASIS.sub(r"\2", _TAG.sub(" ", text)).replace("−", "-")
    if not text.isascii():
        text = ascii_digits(text)
    text = _SIGN_WORD.sub("-", text)
    text = _UNIT_POWER.sub(_without_power, text) if "^" in text else text
    text = _SEGMENT.sub(lambda match: _unwrap_number(match, percent), text)
    if _is_dump(text):
        return ""
    last = max(text.rfind(digit) for digit in "0123456789") + 1
    *_, formula = [None, *_SEGMENT.finditer(text)]
    if formula is not None and formula.end() >= last:
        before = text[max(0, formula.start() - 60) : formula.start()]
        return "" if _BAD_BEFORE.search(before) else _content(formula)
    begin = max(0, last - 400)
    *_, match = [None, *_EXPRESSION.finditer(text, begin, last + 20)]
    if match is None or (match.start() == begin and begin > 0):
        return ""
    before, after = text[max(0, match.start() - 60) : match.start()], text[match.end() : match.end() + 20]
    if _is_glued(before[-1:]) or _is_glued(after[:1]) or _BAD_BEFORE.search(before) or _BAD_AFTER.match(after):
        return ""
    found, bare = match[0], match[0].strip("()")
    if not set(bare) & set("()"):
        return bare
    return found if found.count("(") == found.count(")") else ""


def _last_expression(text: str) -> str:
    """The last formula of a text, or several side by side; else the end of its last sentence after "is" or a colon."""
    text = _EMPHASIS.sub(r"\2", _TAG.sub(" ", text)).strip()
    segments = list(_SEGMENT.finditer(text))
    if not segments:
        *_, sentence = [part for part in _SENTENCE_END.split(text.rpartition("\n")[2]) if _MARK.search(part)] or [""]
        sentence = sentence or text.rpartition("\n")[2]
        return _LEAD.sub("", _MARK.split(sentence)[-1].strip(), count=1).strip()
    if re.search(r"[0-9=]|\bor\b", text[segments[-1].end() :]):
        return ""
    first = len(segments) - 1
    while first > 0 and _JOINT.fullmatch(text[segments[first - 1].end() : segments[first].start()]):
        first -= 1
    parts = [_content(segment) for segment in segments[first:]]
    return ", ".join(parts) if len(parts) <= MAX_PARTS else ""


def _without_power(unit: re.Match[str]) -> str:
    return unit[1] if is_unit(unit[1]) else unit[0]


def _unwrap_number(segment: re.Match[str], percent: bool) -> str:
    """A formula that is only a number, or ends "= number", as plain text; any other unchanged."""
    inner = last_side(clean(_content(segment)))
    return f" {inner} " if literal(inner, percent) is not None else segment[0]


def _content(segment: re.Match[str]) -> str:
    return next(group for group in segment.groups() if group is not None)


def _is_dump(text: str) -> bool:
    """Whether a text is a list of bare numbers and nothing else."""
    if len(re.findall(r"[0-9]+", text[: 4 * MAX_CHARS])) <= MAX_BARE_NUMBERS:
        return False
    return len(re.findall(NUMBER, text)) > MAX_BARE_NUMBERS and not _FILLER.sub("", re.sub(NUMBER, "", text))


def _is_glued(char: str) -> bool:
    """Whether a neighbour belongs to the number: a letter, a digit of another script, an invisible mark."""
    return char != "" and (char.isalnum() or char == "_" or unicodedata.category(char) in ("Cf", "Mn", "Me", "Co"))
