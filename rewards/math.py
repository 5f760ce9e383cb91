"""The verifier for mathematics: whether the final answer of a completion equals the task's answer.

Here the final answer is found and plain numbers are compared; anything else is for `rewards.equality`. Where the text leaves
open which answer is meant (alternatives, a list of candidates, an unfinished box), it has none. Recipes name it
`rewards.math:verify`.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from functools import lru_cache

from rewards.equality.compare import equal
from rewards.equality.tokens import ascii_digits
from rewards.equality.units import is_unit
from rewards.task import Task

MAX_ANSWER_CHARS = 2_000
MAX_END_CHARS = 8_000  # of a text without a box that are read
MAX_BOXES = 2  # different boxed answers: an intermediate result and the final one; more is a dump
MAX_BARE_NUMBERS = 3  # in an answer of nothing but numbers; more is a dump

_NUM = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
_FRAC = r"\\[dt]?frac\s*\{\s*-?[0-9]+\s*\}\s*\{\s*-?[0-9]+\s*\}"
_PERCENT = r"(?:\s*(?P<percent>\\?%|percent\b|per cent\b))"
_LITERAL = re.compile(rf"(?P<sign>[-+]?)(?:(?P<frac>{_FRAC})|(?P<num>{_NUM})(?:/(?P<den>{_NUM}))?){_PERCENT}?")
_ATOM = rf"\(*(?:{_FRAC}|{_NUM})\)*"
_EXPRESSION = re.compile(rf"(?<![0-9])[-+]?{_ATOM}(?: ?(?:\*\*|[-+*/^×÷·]) ?-?{_ATOM})*{_PERCENT}?")
_SEGMENT = re.compile(  # bounded, so that many openings without a closing cost no quadratic time
    r"\$\$(.{1,500}?)\$\$|\$([^$\n]{1,500})\$|\\\((.{1,500}?)\\\)|\\\[(.{1,500}?)\\\]", re.DOTALL
)
_TAG = re.compile(r"</?[A-Za-z]\w{0,30}>")
_EMPHASIS = re.compile(r"(?<!\w)(\*{1,3}|_{1,2}|`{1,3})(?=\S)([^*_`\n]*)\1(?!\w)")
_LATEX_SPACE = re.compile(r"(?<!\\)\\(?:[,!;: ]|quad\b|left\b|right\b|displaystyle\b|(?=\$))|~")
_EQUALS = re.compile(r"(?<![<>!:\\])=")
# What may not stand before or after the last number of a sentence, because then it is not the answer or not all of it.
_BAD_BEFORE = re.compile(
    r"[0-9][)%]?[ \t]*(?:[,;/&|?x]|\band\b|\bor\b)?[ \t]*(?:\bor\b|\band\b)?[ \t]*\(?\Z"  # 41, 42 · 41 42 · 41 and 42
    r"|[0-9][^0-9.!\n=:]{0,20}\bor\b[^0-9.!\n=:]{0,20}\Z"  # 41 or maybe 42
    r"|(?:\bnot|!=|[<≠≤≥±{}\\]|(?<![-=])>)[ \t]*\Z"
    r"|[^\s][ \t]*[-+*/^×÷·][ \t]*\Z"  # x - 7, but not the bullet "- 7"
)
_BAD_AFTER = re.compile(
    r"[ \t]*(?:[*/^×÷·+±√π∞^_]|[-−]\s*(?:[A-Za-z]\b|\()|\\(?![\])])|"
    r"(?:pi|sqrt|times|hundred|thousand|[mb]illion|dozen)\b|[eixyzn]\b(?!\.)"
    r"|,?\s*or\b(?! (?:so|less|more)\b))"
)
_PERCENTAGE = re.compile(r"%|\bper ?cent", re.IGNORECASE)
_UNIT_POWER = re.compile(r"(?<=[0-9] )([a-z]{1,6})\^\{?[23]\}?(?![^\s.,;:)])")  # of 12 cm^2
_YES_NO = re.compile(r"\b(yes|no)\b(?![-'’])", re.IGNORECASE)
_SPACE = re.compile(r"\s+|\$|\\(?:left|right|[,;:! ])")
_OPERATION = re.compile(  # what is not worked out yet, if it is copied; a fraction of numbers is
    r"[*^!=]|[0-9a-zA-Z)}]\s*[-+]|\\(?:times|cdot|div|sqrt|sin|cos|tan|log|ln|binom|frac\{[^{}]*[a-zA-Z])"
)
_DIVISION = re.compile(r"/\s*(?!1\b)[0-9]|frac\s*\{[^}]*\}\s*\{\s*(?!1\s*\})")
_FILLER = re.compile(r"[\s,;:.|/&()\[\]{}*#•·$\\-]|\band\b|\bor\b")


def verify(task: Task, completion: str) -> float:
    r"""1.0 where the final answer of `completion` equals `task.answer`, else 0.0.

    `completion` is the text as sampled. Where the prompt ended inside the thinking (our own chat format ends in
    `<think>`), the caller restores that prefix. Then only what follows the last `</think>` is read; thinking that was
    opened and never closed has no answer; a text without either mark is read whole, as from models that do not think.

    The final answer is the last \boxed{...}, else what follows the last `####`, else the last number or expression.
    Values are compared exactly: 1/2 = 0.5, but 0.333 is not 1/3, and 6*7 is not yet 42. A unit on one side alone is no
    difference, two different measures are: 5 cm is 5, and is not 5 km; nothing is converted. A percent sign is read as a
    unit, unless the task's answer has one: then 50% = 0.5 = 1/2, and 50 only where the question asks for a percentage.
    An expression copied from the question is no answer, unless it is spelled as the task's answer is.

    Raises:
        ValueError: the task has no answer.
        ChildProcessError: see `rewards.symbolic.compare`.

    >>> verify(Task("1", "math", (), answer="42"), "<think>6*7</think>It is $\\boxed{42}$.")
    1.0
    """
    gold = (task.answer or "").strip()
    if not gold:
        raise ValueError(f"task {task.id!r} has no answer to compare with; rewards.math:verify needs one")
    visible = visible_part(completion)
    if visible is None:
        return 0.0
    percent = "%" in gold
    candidate = _boxed(visible)
    if candidate is None:
        tail = _end_of(_after_hashes(visible))
        if gold.casefold() in ("yes", "no"):
            candidate = _yes_or_no(tail)
        else:
            candidate = _last_expression(tail) if _number(gold, percent) is None else _last_number(tail, percent)
    if not candidate or len(candidate) > MAX_ANSWER_CHARS or len(gold) > MAX_ANSWER_CHARS:
        return 0.0
    if _equals(gold, candidate, percent):
        return float(not _is_copied(candidate, task.prompt, gold))
    asked = percent and "%" not in candidate and _PERCENTAGE.search(task.prompt) is not None
    return float(asked and _equals(gold, f"{candidate}\\%", percent))


def visible_part(completion: str) -> str | None:
    """The text after the thinking; None where the thinking was opened and never closed."""
    _, closed, after = completion.rpartition("</think>")
    if closed:
        return after
    return None if "<think>" in completion else completion


def _equals(gold: str, candidate: str, percent: bool) -> bool:
    wanted, value = _number(gold, percent), _number(candidate, percent)
    if wanted is not None and value is not None:  # 84/2 is not yet 42
        return value == wanted and not (value.denominator == 1 and _DIVISION.search(candidate) is not None)
    return equal(_clean(gold), _clean(candidate), percent=percent)


def _is_copied(candidate: str, prompt: str, gold: str) -> bool:
    """Whether an expression that is still to be worked out stands in the question as it is: 2^10, (x + 1)^2."""
    written = _SPACE.sub("", candidate)
    if written == _SPACE.sub("", gold) or not _OPERATION.search(written):
        return False
    places = [i for begin, end in _kept(prompt) for i in range(begin, end)]
    asked = "".join(prompt[i] for i in places)
    at = asked.find(written)
    while at >= 0:
        first, last = places[at], places[at + len(written) - 1]
        if not prompt[max(0, first - 1) : first].isalnum() and not prompt[last + 1 : last + 2].isalnum():
            return True
        at = asked.find(written, at + 1)
    return False


def _kept(text: str) -> list[tuple[int, int]]:
    """The stretches of a text between its spaces."""
    ends = [0, *(place for match in _SPACE.finditer(text) for place in match.span()), len(text)]
    return list(zip(ends[::2], ends[1::2], strict=True))


@lru_cache(maxsize=4096)
def _number(text: str, percent: bool) -> Fraction | None:
    """The value of a literal; None where `text` is anything else. `percent`: whether a percent sign divides by 100."""
    if len(text) > MAX_ANSWER_CHARS:
        return None
    match = _LITERAL.fullmatch(re.sub(r"(?<=[-+/])\s+|\s+(?=/)", "", _clean(text)))
    if match is None:
        return None
    if match["frac"]:
        top, bottom = (Fraction(part) for part in re.findall(r"-?[0-9]+", match["frac"]))
    else:
        top, bottom = (Fraction((part or "1").replace(",", "")) for part in (match["num"], match["den"]))
    if bottom == 0:
        return None
    value = top / bottom * (-1 if match["sign"] == "-" else 1)
    return value / 100 if match["percent"] and percent else value


def _boxed(text: str) -> str | None:
    r"""The content of the last \boxed{...}; "" where boxes leave open what is meant; None without any box."""
    boxes: list[tuple[int, int, str]] = []
    at = text.find("\\boxed{")
    while at >= 0:
        end = closing_brace(text, at + len("\\boxed"))
        if end is None:
            return ""  # cut off inside a box
        boxes.append((at, end, text[at + len("\\boxed{") : end].strip()))
        at = text.find("\\boxed{", end)
    if not boxes:
        return None
    if len({content for *_, content in boxes}) > MAX_BOXES:
        return ""
    if len(boxes) > 1 and boxes[-1][2] != boxes[-2][2]:
        between = re.sub(r"\\[(\[)\]]", "", text[boxes[-2][1] + 1 : boxes[-1][0]])
        if len(between) < 40 and (not _FILLER.sub("", between) or re.search(r"\bor\b", between)):
            return ""  # \boxed{41}, \boxed{42}
    content = boxes[-1][2]
    return _boxed(content) if content.startswith("\\boxed{") else content


def closing_brace(text: str, at: int) -> int | None:
    """The place of the brace that closes the one at `at`; None where none does. Escaped braces count for nothing."""
    depth = 0
    for match in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, at):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0 and match[0] == "}":
            return match.start()
    return None


def _after_hashes(text: str) -> str:
    """What follows the last `####`; of that its first line alone where it is a number (a closing remark may follow)."""
    tail = text.rpartition("####")[2].strip()
    first = tail.partition("\n")[0]
    return first if "####" in text and _number(first, True) is not None else tail


def _end_of(text: str) -> str:
    """The last lines of a text, where its answer is; so that no long text costs much."""
    return text if len(text) <= MAX_END_CHARS else text[-MAX_END_CHARS:].partition("\n")[2] or text[-MAX_END_CHARS:]


def _last_number(text: str, percent: bool) -> str:
    """The last number or numeric expression of a sentence; "" where the text does not settle on one."""
    text = _EMPHASIS.sub(r"\2", _TAG.sub(" ", text)).replace("−", "-")
    if not text.isascii():
        text = ascii_digits(text)
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


def _without_power(unit: re.Match[str]) -> str:
    return unit[1] if is_unit(unit[1]) else unit[0]


def _unwrap_number(segment: re.Match[str], percent: bool) -> str:
    """A formula that is only a number, or ends "= number", as plain text; any other unchanged."""
    inner = _after_equals(_clean(_content(segment)))
    return f" {inner} " if _number(inner, percent) is not None else segment[0]


def _content(segment: re.Match[str]) -> str:
    return next(group for group in segment.groups() if group is not None)


def _last_expression(text: str) -> str:
    """The last formula of a text, else the end of its last line after "is", a colon or an equals sign."""
    text = _EMPHASIS.sub(r"\2", _TAG.sub(" ", text)).strip()
    segments = list(_SEGMENT.finditer(text))
    if segments:
        tail = text[segments[-1].end() :]
        return "" if re.search(r"[0-9=]|\bor\b", tail) else _content(segments[-1])
    line = text.rpartition("\n")[2].strip()
    return re.split(r"\b(?:is|are|be|equals)\b:?\s|:\s", line)[-1].strip()


def _yes_or_no(text: str) -> str:
    """The word that a text begins with, where the other one does not follow; else its last expression."""
    words = {word.lower() for word in _YES_NO.findall(text)}
    return words.pop() if len(words) == 1 and _YES_NO.match(text.lstrip(" \n*#_`\"'(")) else _last_expression(text)


def _is_dump(text: str) -> bool:
    """Whether a text is a list of bare numbers and nothing else."""
    if len(re.findall(r"[0-9]+", text[: 4 * MAX_ANSWER_CHARS])) <= MAX_BARE_NUMBERS:
        return False
    return len(re.findall(_NUM, text)) > MAX_BARE_NUMBERS and not _FILLER.sub("", re.sub(_NUM, "", text))


def _clean(text: str) -> str:
    """`text` without delimiters, LaTeX spacing, currency, a final full stop and outer emphasis."""
    text = _LATEX_SPACE.sub("", text.replace("{,}", ",").replace("−", "-")).strip()
    for opening, closing in (("\\(", "\\)"), ("\\[", "\\]"), ("**", "**")):
        if text.startswith(opening) and text.endswith(closing):
            text = text[len(opening) : -len(closing)].strip()
    return re.sub(r"[$€£]", "", text.removesuffix(".")).strip()


def _plain_text(text: str) -> str:
    match = re.fullmatch(r"\\(?:text|mathrm|textbf|mathbf)\{([^{}]*)\}", text)
    return match[1].strip() if match else text


def _after_equals(text: str) -> str:
    """The right-hand side of "x = 7"; the whole text where two sides are different numbers."""
    parts = [part.strip() for part in _EQUALS.split(text)]
    values = {value for part in parts if (value := _number(part, True)) is not None}
    return text if len(values) > 1 else parts[-1]


def _is_glued(char: str) -> bool:
    """Whether a neighbour belongs to the number: a letter, a digit of another script, an invisible mark."""
    return char != "" and (char.isalnum() or char == "_" or unicodedata.category(char) in ("Cf", "Mn", "Me", "Co"))
