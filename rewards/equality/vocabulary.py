"""Commands, characters and words of mathematics that mean the same, and how `tokens.py` spells them."""

from __future__ import annotations

_GREEK = """
alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau upsilon phi varphi
chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega ell hbar
"""
_FUNCTIONS = "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln log lg exp sqrt gcd lcm max min det lim deg"
_DROPPED = """
left right big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr mleft mright middle displaystyle textstyle limits quad
qquad thinspace enspace nobreak allowbreak space hfill null mathbf boldsymbol bm mathit mathcal bf it rm
"""
GREEK = frozenset(_GREEK.split())
FUNCTIONS = frozenset(_FUNCTIONS.split())
DROPPED = frozenset(_DROPPED.split())  # commands that change how things look
SAME = {
    "dfrac": "\\frac", "tfrac": "\\frac", "cfrac": "\\frac", "dbinom": "\\binom", "tbinom": "\\binom", "tg": "\\tan",
    "times": "*", "cdot": "*", "ast": "*", "star": "*", "bullet": "*", "div": "/", "slash": "/", "plus": "+", "minus": "-",
    "le": "≤", "leq": "≤", "leqslant": "≤", "ge": "≥", "geq": "≥", "geqslant": "≥", "ne": "≠", "neq": "≠", "lt": "<", "gt": ">",
    "approx": "≈", "in": "∈", "cup": "∪", "bigcup": "∪", "cap": "∩", "emptyset": "∅", "varnothing": "∅", "infty": "∞",
    "pm": "±", "mp": "∓", "degree": "°", "percent": "%", "euro": "€", "pounds": "£", "colon": ":", "prime": "'", "imath": "i",
    "lbrace": "\\{", "rbrace": "\\}", "lbrack": "[", "rbrack": "]", "langle": "⟨", "rangle": "⟩", "vert": "|", "lvert": "|",
    "rvert": "|", "mid": "|", "lor": "or", "vee": "or", "land": "and", "wedge": "and", "dots": "…", "ldots": "…", "cdots": "…",
}  # fmt: skip
ESCAPES = {"\\%": "%", "\\$": "$", "\\{": "\\{", "\\}": "\\}", "\\\\": "\\\\", "\\&": "&", "\\_": "_", "\\#": "#"}
WORDS = {
    "pi": "\\pi",
    "infinity": "∞",
    "inf": "∞",
    "infty": "∞",
    "oo": "∞",
    "union": "∪",
    "percent": "%",
    "or": "or",
    "and": "and",
}

_CHARS = {
    "−": "-", "–": "-", "‐": "-", "‑": "-", "×": "*", "·": "*", "⋅": "*", "∙": "*", "∗": "*", "÷": "/", "∕": "/", "⁄": "/",
    "⩽": "≤", "⩾": "≥", "√": "\\sqrt ", "∛": "\\sqrt[3]", "ℝ": "\\R ", "º": "°", "′": "'", "’": "'", "∣": "|", "￥": "¥",
    "∨": " or ", "∧": " and ", "٫": ".", "٬": ",", "٪": "%", "、": ",", "،": ",", "。": ".", "〈": "⟨", "〉": "⟩",
}  # fmt: skip
_LETTERS = dict(zip("αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΞΣΦΨΩ", (
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu", "nu", "xi", "pi",
    "rho", "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega", "Gamma", "Delta", "Theta", "Lambda", "Xi", "Sigma", "Phi",
    "Psi", "Omega",
), strict=True))  # fmt: skip
CHARS = str.maketrans(_CHARS | {letter: f"\\{name} " for letter, name in _LETTERS.items()})
