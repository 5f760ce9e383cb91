"""The verifier for mathematics: whether the final answer of a completion equals the task's answer.

Numbers are compared exactly here, anything else by `rewards.symbolic`. Where the text leaves open which answer is meant
(alternatives, a list of candidates, an unfinished box), it has none. Recipes name it `rewards.math:verify`.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from functools import lru_cache

from rewards import symbolic
from rewards.task import Task

MAX_ANSWER_CHARS = 2_000
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
_LIST_IN_NUMBER = re.compile(r"[,;&=<>]|\\\\|\bor\b|\band\b|\\(?:text|boxed|pm|mp|ne|neq|l?or|vee|mid)\b|[0-9]\s+[0-9]|[≠±∨|]")
# Sums, differences, products and quotients of numbers: a question repeated, not an answer. Powers and roots may stay.
_UNEVALUATED = re.compile(r"[0-9)}]\s*(?:[-+*×·÷−]|\\(?:times|cdot|div)\b)\s*[0-9(\\]")
_DIVISION = re.compile(r"/\s*(?!1\b)[0-9]|frac\s*\{[^}]*\}\s*\{\s*(?!1\s*\})")
_FILLER = re.compile(r"[\s,;:.|/&()\[\]{}*#•·$\\-]|\band\b|\bor\b")


def verify(task: Task, completion: str) -> float:
    r"""1.0 where the final answer of `completion` equals `task.answer`, else 0.0.

    `completion` is the text as sampled. Where the prompt ended inside the thinking (our own chat format ends in
    `<think>`), the caller restores that prefix. Then only what follows the last `</think>` is read; thinking that was
    opened and never closed has no answer; a text without either mark is read whole, as from models that do not think.

    The final answer is the last \boxed{...}, else what follows the last `####`, else the last number or expression.
    Integers, decimals, fractions and thousands separators are compared exactly: 1/2 = 0.5, but 0.333 is not 1/3.
    A percent sign is read as a unit, like "cm", unless the task's answer has one: then 50% = 0.5 = 1/2, not 50.

    Raises:
        ValueError: the task has no answer.
        ChildProcessError: see `rewards.symbolic.equal`.

    >>> verify(Task("1", "math", (), answer="42"), "<think>6*7</think>It is $\\boxed{42}$.")
    1.0
    """
    gold = (task.answer or "").strip()
    if not gold:
        raise ValueError(f"task {task.id!r} has no answer to compare with; rewards.math:verify needs one")
    visible = visible_part(completion)
    if visible is None:
        return 0.0
    return float(_equals_number(gold, visible) if _number(gold, "%" in gold) is not None else _equals(gold, visible))


def visible_part(completion: str) -> str | None:
    """The text after the thinking; None where the thinking was opened and never closed."""
    _, closed, after = completion.rpartition("</think>")
    if closed:
        return after
    return None if "<think>" in completion else completion


def _equals_number(gold: str, visible: str) -> bool:
    percent = "%" in gold
    wanted = _number(gold, percent)
    candidate = _boxed(visible)
    if candidate is None:
        candidate = _last_number(_after_hashes(visible), percent)
    if not candidate or len(candidate) > MAX_ANSWER_CHARS:
        return False
    candidate = _plain_text(_after_equals(_clean(candidate)))
    value = _number(candidate, percent)
    if value is not None:
        return value == wanted and not (value.denominator == 1 and _DIVISION.search(candidate))  # 84/2 is not yet 42
    if _UNEVALUATED.search(candidate):
        return False
    if _LIST_IN_NUMBER.search(_without_units(candidate)) or any(_is_foreign_digit(c) for c in candidate):
        return False
    # math-verify reads "9%" as equal to both 9 and 0.09: percentages are left to the exact path above.
    return "%" not in candidate and symbolic.equal(str(wanted), candidate.replace("**", "^"))


def _equals(gold: str, visible: str) -> bool:
    """For answers that are not one number: expressions, tuples, sets, intervals, words."""
    candidate = _boxed(visible)
    if candidate is None:
        candidate = _last_expression(_after_hashes(visible))
    if not candidate or len(candidate) > MAX_ANSWER_CHARS:
        return False
    gold, candidate = _plain_text(_clean(gold)), _plain_text(_clean(candidate))
    if "".join(gold.split()) == "".join(candidate.split()):
        return True
    if gold.isascii() and gold.replace(" ", "").isalpha():  # words; math-verify would read "yes" as y*e*s
        candidate = candidate.strip("()")
        return gold == candidate or (len(gold) > 1 and gold.casefold() == candidate.casefold())
    return not any(_is_foreign_digit(c) for c in candidate) and symbolic.equal(gold, candidate)


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


def _last_number(text: str, percent: bool) -> str:
    """The last number or numeric expression of a sentence; "" where the text does not settle on one."""
    text = _EMPHASIS.sub(r"\2", _TAG.sub(" ", text)).replace("−", "-")
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


def _without_units(text: str) -> str:
    r"""`text` without the \text{...} of a unit at its end."""
    return re.sub(r"\\(?:text|mathrm|mbox)\{\s*[A-Za-z.°/ ]+\s*\}(?:\^\{?[0-9]\}?)?$", "", text).strip()


def _after_equals(text: str) -> str:
    """The right-hand side of "x = 7"; the whole text where two sides are different numbers."""
    parts = [part.strip() for part in _EQUALS.split(text)]
    values = {value for part in parts if (value := _number(part, True)) is not None}
    return text if len(values) > 1 else parts[-1]


def _is_glued(char: str) -> bool:
    """Whether a neighbour belongs to the number: a letter, a digit of another script, an invisible mark."""
    return char != "" and (char.isalnum() or char == "_" or unicodedata.category(char) in ("Cf", "Mn", "Me", "Co"))


def _is_foreign_digit(char: str) -> bool:
    return not char.isascii() and char.isnumeric()
